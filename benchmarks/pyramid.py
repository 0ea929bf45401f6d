"""What docs/pyramid.md says of small and of large images, and of cost against time.

    python -m benchmarks.pyramid small FOLDER [--sides 64,128,256] [--steps 500]     # cost against two-layer's
    python -m benchmarks.pyramid large IMAGE [--megapixels 24] [--steps 2]           # time and memory
    python -m benchmarks.pyramid curve FOLDER FIGURE.svg                             # cost against seconds

Costs are those of whole files, bpp + lambda MSE, at the pyramid's lambda; two-layer's is the least of eleven
qualities' for small images, that at the nearest lambda in the curve. They are of crops from the middle of every
fourth photograph of the folder, of every 15th in the curve.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import nicc
from benchmarks.large import expected, run, tiled
from nicc.model import Model, load_model
from nicc.pyramid.model import PyramidModel

QUALITIES = (20, 45, 70)
CURVE_SIDE, CURVE_QUALITY = 320, 45
CURVE_STEPS = {"two-layer": (0, 30, 100, 300), "pyramid": (60, 200, 500, 2000, 10000)}


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


def curve(photos: list[Path], figure: Path) -> None:
    """Fits and iterative encoding at one lambda, on all cores, against two-layer without steps."""
    pyramid, two_layer = load_model("pyramid"), load_model("two-layer")
    assert isinstance(pyramid, PyramidModel)
    assert isinstance(two_layer, Model)
    weight = pyramid.architecture.rate_lambda(CURVE_QUALITY)
    arch = two_layer.architecture
    same = arch.rate_point_of(weight)
    qualities = {"two-layer": 100 * same / (arch.rate_points - 1), "pyramid": CURVE_QUALITY}
    crops = [middle(path, CURVE_SIDE) for path in photos]
    megapixels = CURVE_SIDE**2 / 1e6
    print(f"{len(crops)} crops of {CURVE_SIDE}x{CURVE_SIDE}, lambda {weight:.4f}\n")
    print("| model | steps | seconds per megapixel | cost | bpp |\n|---|---|---|---|---|")
    plain: np.ndarray | None = None
    drawn = Figure(figsize=(7, 4.5), layout="constrained")
    axes = drawn.subplots()
    for name, all_steps in CURVE_STEPS.items():
        nicc.encode(crops[0], model=name, tune="psnr", sga_steps=min(all_steps[1], 2), lossless=False)  # warm-up
        points = []
        for steps in all_steps:
            files, seconds = [], []
            for crop in crops:
                begun = time.perf_counter()
                files.append(
                    nicc.encode(crop, model=name, tune="psnr", quality=qualities[name], sga_steps=steps, lossless=False)
                )
                seconds.append(time.perf_counter() - begun)
            costs = np.array([cost(f, c, weight) for f, c in zip(files, crops, strict=True)])
            plain = costs if plain is None else plain
            against = float(np.exp(np.log(costs / plain).mean()))
            points.append((float(np.mean(seconds)) / megapixels, against))
            bpp = np.mean([8 * len(f) for f in files]) / CURVE_SIDE**2
            print(f"| {name} | {steps} | {points[-1][0]:.2f} | {against:.3f} | {bpp:.3f} |", flush=True)
            axes.annotate(f"{steps}", points[-1], xytext=(6, 5), textcoords="offset points", fontsize=8)
        axes.plot(*zip(*points, strict=True), "o-", ms=4, label=name)
    axes.set(xscale="log", xlabel="seconds per megapixel", ylabel="cost against two-layer without steps")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    drawn.savefig(figure, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("small", "large", "curve"))
    parser.add_argument("path", type=Path)
    parser.add_argument("figure", type=Path, nargs="?")
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
    elif arguments.what == "curve":
        if not arguments.figure:
            parser.error("curve needs a FIGURE.svg to write")
        curve(sorted(arguments.path.glob("*.png"))[::15], arguments.figure)
    else:
        large(arguments.path, arguments.megapixels, arguments.steps or 2)


if __name__ == "__main__":
    main()
