"""What graphics cost in time: decoding a page of cells and photograph, and the glance at a photograph.

    python -m benchmarks.graphics PHOTOS [--json FILE]

A page of 1600x1200 pixels is decoded beside a photograph of that size, in turns; every photograph of a folder is
encoded plainly, and looked at.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import nicc
from benchmarks.pages import article, photo
from nicc.bench.report import environment
from nicc.encoder import mixed
from nicc.lossless import worth_trying

WIDTH, HEIGHT = 1600, 1200
ROUNDS = 15


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def decoding() -> dict[str, float]:
    """Median seconds for the page and for the photograph, and the median of the ratios of neighbouring runs."""
    page = Image.new("RGB", (WIDTH, HEIGHT), (255, 255, 255))
    drawn = article(np.random.default_rng([2026, 0]))
    for left in range(0, WIDTH, drawn.width):
        for top in range(0, HEIGHT, drawn.height):
            page.paste(drawn, (left, top))
    files = [nicc.encode(image) for image in (page, photo("coffee", (WIDTH, HEIGHT)))]
    for data in files:
        nicc.decode(data)
    times = np.array([[seconds(partial(nicc.decode, data)) for data in files] for _ in range(ROUNDS)])
    return {
        "page, bytes": len(files[0]),
        "photograph, bytes": len(files[1]),
        "page, seconds": float(np.median(times[:, 0])),
        "photograph, seconds": float(np.median(times[:, 1])),
        "ratio": float(np.median(times[:, 0] / times[:, 1])),
    }


def glance(folder: Path) -> dict[str, float]:
    """What looking for graphics takes of the time of encoding photographs."""
    shares = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            picture = image.convert("RGB")
        pixels = np.asarray(picture)
        size = len(nicc.encode(picture, lossless=False))
        whole = np.median([seconds(lambda: nicc.encode(picture, lossless=False)) for _ in range(3)])  # noqa: B023

        def look() -> None:
            mixed.candidates(pixels)  # noqa: B023
            worth_trying(pixels, size)  # noqa: B023

        shares.append(np.median([seconds(look) for _ in range(3)]) / whole)
    return {"photographs": len(shares), "mean share": float(np.mean(shares)), "largest share": float(np.max(shares))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = {"decoding": decoding(), "glance": glance(arguments.folder), "environment": environment()}
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
