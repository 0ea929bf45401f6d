"""What docs/pyramid.md says of small and of large images.

    python -m benchmarks.pyramid small FOLDER [--sides 64,128,256] [--steps 500]     # cost against two-layer's
    python -m benchmarks.pyramid large IMAGE [--megapixels 24] [--steps 2]           # time and memory

Costs are those of whole files, bpp + lambda MSE, at the pyramid's lambda; two-layer's is the least of eleven
qualities'. They are of crops from the middle of every fourth photograph of the folder.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import nicc
from benchmarks.large import expected, run, tiled
from nicc.model import load_model
from nicc.pyramid.model import PyramidModel

QUALITIES = (20, 45, 70)


def cost(data: bytes, original: Image.Image, weight: float) -> float:
    error = np.asarray(nicc.decode(data), np.float64) - np.asarray(original, np.float64)
    return 8 * len(data) / (original.width * original.height) + weight * float(np.square(error).mean())


def middle(path: Path, side: int) -> Image.Image:
    with Image.open(path) as image:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        part = image.convert("RGB").crop((left, top, left + side, top + side))
    return Image.fromarray(np.asarray(part))  # without the photograph's metadata


def small(photos: list[Path], sides: list[int], steps: int) -> None:
    model = load_model("pyramid")
    assert isinstance(model, PyramidModel)
    print(
        "| side | quality | bpp | cost against two-layer's, geometric mean | worst | best |\n|---|---|---|---|---|---|"
    )
    for side in sides:
        crops = [middle(path, side) for path in photos]
        others = [
            [nicc.encode(c, model="two-layer", quality=q, lossless=False) for q in range(0, 101, 10)] for c in crops
        ]
        for quality in QUALITIES:
            weight = model.architecture.rate_lambda(quality)
            ratios, rates = [], []
            for crop, files in zip(crops, others, strict=True):
                data = nicc.encode(crop, model="pyramid", tune="psnr", quality=quality, sga_steps=steps, lossless=False)
                rates.append(8 * len(data) / side**2)
                ratios.append(cost(data, crop, weight) / min(cost(f, crop, weight) for f in files))
            mean = float(np.exp(np.log(ratios).mean()))
            print(
                f"| {side} | {quality} | {np.mean(rates):.3f} | {mean:.3f} | {max(ratios):.3f} | {min(ratios):.3f} |",
                flush=True,
            )


def large(image: Path, megapixels: float, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder, Image.open(image) as source:
        picture, coded, out = (Path(folder) / name for name in ("x.ppm", "x.nic", "x.png"))
        whole = tiled(source.convert("RGB"), megapixels)
        whole.save(picture)
        options = ("--model", "pyramid", "--tune", "psnr", "--no-lossless", "--sga-steps", steps)
        seconds, memory = run("encode", picture, "-o", coded, "--quiet", *options)
        print(f"{whole.width}x{whole.height}: encode, {steps} steps {seconds:.1f} s, {memory:.0f} MiB", flush=True)
        seconds, memory = run("decode", coded, "-o", out, "--quiet")
        bpp = 8 * coded.stat().st_size / (whole.width * whole.height)
        print(f"  decode {bpp:.3f} bpp: {seconds:.1f} s, {memory:.0f} MiB, {expected(coded)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("small", "large"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--sides", default="64,128,256")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--megapixels", type=float, default=24)
    arguments = parser.parse_args()
    if arguments.what == "small":
        small(
            sorted(arguments.path.glob("*.png"))[::4],
            [int(s) for s in arguments.sides.split(",")],
            arguments.steps or 500,
        )
    else:
        large(arguments.path, arguments.megapixels, arguments.steps or 2)


if __name__ == "__main__":
    main()
