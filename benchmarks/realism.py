"""Distortion against realism as beta rises, and what it costs: figures of docs/realism.md.

    python benchmarks/realism.py FOLDER --lpips-backbone FILE [--json FILE]

One file per image and rate point is encoded once and decoded at five betas. PSNR and LPIPS-AlexNet
are means over images; fd-alexnet-64 is over all patches of all images.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

import nicc
from nicc.bench.metrics import Meter, frechet_distance
from nicc.bench.report import environment
from nicc.bench.sources import read_pixels
from nicc.container import pack
from nicc.encoder.encode import encode_plainly
from nicc.encoder.texture import with_texture
from nicc.images import Picture
from nicc.model import Model, load_transform

BETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
METRICS = ("psnr-rgb", "ssimulacra2", "lpips", "fd-alexnet-64")
CUT = 2
"""Pixels cut off at the top and at the left for a second LPIPS: the head must not please one phase alone."""
Row = dict[str, float]


def patches_of(meter: Meter, pixels: np.ndarray) -> np.ndarray:
    found = meter.patches(pixels)
    if found is None:
        raise SystemExit("give --lpips-backbone: without AlexNet there are no distances of patches")
    return found


def encoded(model: Model, pixels: np.ndarray, point: int) -> bytes:
    return pack(with_texture(model, encode_plainly(model, Picture(pixels), point), pixels).container)


def measure(images: list[np.ndarray], model: Model, point: int, meter: Meter) -> list[Row]:
    """One row per beta."""
    values: list[dict[str, list[float]]] = [{m: [] for m in (*METRICS[:3], "lpips cut")} for _ in BETAS]
    patches: list[list[np.ndarray]] = [[] for _ in BETAS]
    originals, bits, pixels = [], 0, 0
    for image in images:
        data = encoded(model, image, point)
        bits, pixels = bits + len(data) * 8, pixels + image.shape[0] * image.shape[1]
        originals.append(patches_of(meter, image))
        for n, decoded in enumerate(nicc.decode_all(data, BETAS)):
            x = np.asarray(decoded)
            for name, value in meter.measure(image, x).items():
                values[n][name].append(value if value is not None else np.nan)
            cut = meter.functions["lpips"](image[CUT:, CUT:], x[CUT:, CUT:])
            values[n]["lpips cut"].append(cut if cut is not None else np.nan)
            patches[n].append(patches_of(meter, x))
    rows = []
    for n, beta in enumerate(BETAS):
        row = {"rate point": point, "bpp": bits / pixels, "beta": beta}
        row |= {name: float(np.mean(v)) for name, v in values[n].items()}
        row["fd-alexnet-64"] = frechet_distance(np.concatenate(originals), np.concatenate(patches[n]))
        rows.append(row)
    return rows


def slowdown(data: bytes, rounds: int = 15) -> float:
    """Median ratio of decoding times at beta 1 and 0, taken in turns."""
    times: dict[float, list[float]] = {0.0: [], 1.0: []}
    for _ in range(rounds + 1):
        for beta, taken in times.items():
            begun = time.perf_counter()
            nicc.decode(data, beta=beta)
            taken.append(time.perf_counter() - begun)
    return float(np.median(np.array(times[1.0][1:]) / times[0.0][1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="two-layer-visual")
    parser.add_argument("--points", type=int, nargs="+", default=[6, 20, 34, 48])
    parser.add_argument("--lpips-backbone", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    images = [read_pixels(path) for path in sorted(arguments.folder.glob("*.png"))]
    model = load_transform(arguments.model)
    meter = Meter(METRICS, arguments.lpips_backbone)
    rows = [row for point in arguments.points for row in measure(images, model, point, meter)]
    for row in rows:
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    data = encoded(model, images[0], arguments.points[-1])
    ratio = slowdown(data)
    print(f"decoding at beta 1 takes {ratio:.2f} times as long as at beta 0")
    if arguments.json:
        found = {"model": f"{model.name} v{model.version}", "rows": rows, "slowdown": ratio, "images": len(images)}
        arguments.json.write_text(json.dumps(found | {"environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
