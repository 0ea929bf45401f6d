"""make demo: encodes and decodes a real photograph with the commands, prints bpp, PSNR and times."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from nicc.images import decibels

QUALITY = 32


def timed(*arguments: str | Path) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "nicc", *map(str, arguments), "--quiet"], check=True)
    return time.perf_counter() - begun


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        photo, coded, decoded = (Path(name) / f for f in ("coffee.png", "coffee.nic", "decoded.png"))
        pixels = data.coffee()
        Image.fromarray(pixels).save(photo)
        height, width, _ = pixels.shape
        print(f"photo: {width}x{height}, {photo.stat().st_size} bytes as PNG, quality {QUALITY}")
        for model in ("two-layer-visual", "two-layer", "jpeg-like"):
            encode = timed("encode", photo, "-o", coded, "-q", str(QUALITY), "--model", model, "--force")
            decode = timed("decode", coded, "-o", decoded, "--force")
            with Image.open(decoded) as image:
                mse = np.mean((np.asarray(image, float) - pixels) ** 2)
            size = coded.stat().st_size
            print(
                f"{model:16} {size:6} bytes, {size * 8 / (width * height):.3f} bpp, "
                f"PSNR {decibels(mse):.2f} dB, encoded in {encode:.2f} s, decoded in {decode:.2f} s "
                "(whole processes)"
            )


if __name__ == "__main__":
    main()
