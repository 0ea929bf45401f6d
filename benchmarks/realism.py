"""Distortion against realism as beta rises, and what it costs: figures of docs/realism.md.

    OPENBLAS_NUM_THREADS=1 python benchmarks/realism.py FOLDER --lpips-backbone FILE [--plot FILE.svg]

One file per image and rate point is encoded once and decoded at five betas. PSNR and LPIPS-AlexNet
are means over images; fd-alexnet-64 is over all patches of all images.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import nicc
from nicc.bench.metrics import Meter, frechet_distance

BETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
METRICS = ("psnr-rgb", "lpips", "fd-alexnet-64")
CUT = 2
"""Pixels cut off at the top and at the left for a second LPIPS: the head must not please one phase alone."""
Row = dict[str, float]


def measure(images: list[np.ndarray], model: str, point: int, meter: Meter) -> list[Row]:
    """One row per beta."""
    values: list[dict[str, list[float]]] = [{m: [] for m in (*METRICS[:2], "lpips cut")} for _ in BETAS]
    patches: list[list[np.ndarray]] = [[] for _ in BETAS]
    originals, bits, pixels = [], 0, 0
    for image in images:
        data = nicc.encode(Image.fromarray(image), model=model, quality=point)
        bits, pixels = bits + len(data) * 8, pixels + image.shape[0] * image.shape[1]
        originals.append(meter.patches(image))
        for n, decoded in enumerate(nicc.decode_all(data, BETAS)):
            x = np.asarray(decoded)
            for name, value in meter.measure(image, x).items():
                values[n][name].append(value if value is not None else np.nan)
            cut = meter.functions["lpips"](image[CUT:, CUT:], x[CUT:, CUT:])
            values[n]["lpips cut"].append(cut if cut is not None else np.nan)
            patches[n].append(meter.patches(x))
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


def table(rows: list[Row]) -> str:
    lines = [
        "| rate point | bpp | beta | PSNR (dB) | LPIPS | LPIPS, cut by 2 pixels | fd-alexnet-64 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        base = next(r for r in rows if r["rate point"] == row["rate point"] and r["beta"] == 0)
        psnr = f"{row['psnr-rgb']:.2f}" + (f" ({row['psnr-rgb'] - base['psnr-rgb']:+.2f})" if row["beta"] else "")
        cells = [f"{row['rate point']:.0f}", f"{row['bpp']:.3f}", f"{row['beta']:g}", psnr]
        for name, digits in (("lpips", 4), ("lpips cut", 4), ("fd-alexnet-64", 3)):
            share = f" ({100 * (row[name] / base[name] - 1):+.0f} %)" if row["beta"] else ""
            cells.append(f"{row[name]:.{digits}f}{share}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """PSNR against LPIPS, a line per rate point, beside the published CRDR."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for point in sorted({row["rate point"] for row in rows}):
        line = [row for row in rows if row["rate point"] == point]
        label = f"nicc, {line[0]['bpp']:.2f} bpp, beta 0 to 1"
        axes.plot([r["lpips"] for r in line], [r["psnr-rgb"] for r in line], "o-", ms=4, label=label)
    published = json.loads((Path(nicc.__file__).parent / "bench" / "kodak.json").read_text())["codecs"]
    ends = [published[f"crdr-beta-{end}"]["results"] for end in ("0", "3.84")]
    for n in (2, 6, 9):
        x, y = [e["lpips"][n] for e in ends], [e["psnr-rgb"][n] for e in ends]
        axes.plot(
            x, y, "x:", color="0.45", lw=1, label=f"CRDR (published), {ends[0]['bpp'][n]:.2f} bpp, beta 0 and 3.84"
        )
    axes.invert_xaxis()
    axes.set(xlabel="LPIPS-AlexNet (better to the right)", ylabel="PSNR, RGB (dB)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="two-layer")
    parser.add_argument("--points", type=int, nargs="+", default=[4, 13, 22, 31])
    parser.add_argument("--lpips-backbone", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    images = []
    for path in sorted(arguments.folder.glob("*.png")):
        with Image.open(path) as image:
            images.append(np.asarray(image.convert("RGB")))
    meter = Meter(METRICS, arguments.lpips_backbone)
    rows = [row for point in arguments.points for row in measure(images, arguments.model, point, meter)]
    print(table(rows))
    if arguments.plot:
        plot(rows, arguments.plot)
    data = nicc.encode(Image.fromarray(images[0]), model=arguments.model, quality=arguments.points[-1])
    print(f"\ndecoding at beta 1 takes {slowdown(data):.2f} times as long as at beta 0")


if __name__ == "__main__":
    main()
