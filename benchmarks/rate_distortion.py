"""Rate-distortion of nicc and Pillow's codecs over a folder, with BD-rates.

    python benchmarks/rate_distortion.py FOLDER [--json OUT] [--hm POINTS.json]

bpp counts whole files in bytes. PSNR is the mean over images of each image's RGB PSNR. JPEG is
written as Pillow does with optimize, 4:2:0, qualities 10 to 95. --hm takes a file of published
points and adds the BD-rate against its "hevc-hm-444" entry.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.interpolate import PchipInterpolator

import nicc

Coder = Callable[[Image.Image, int], tuple[bytes, Image.Image]]


def pillow(kind: str, **options: object) -> Coder:
    def code(image: Image.Image, quality: int) -> tuple[bytes, Image.Image]:
        buffer = io.BytesIO()
        image.save(buffer, kind, quality=quality, **options)
        return buffer.getvalue(), Image.open(io.BytesIO(buffer.getvalue()))

    return code


def ours(model: str) -> Coder:
    def code(image: Image.Image, quality: int) -> tuple[bytes, Image.Image]:
        data = nicc.encode(image, model=model, quality=quality)
        return data, nicc.decode(data)

    return code


CODECS: dict[str, tuple[Coder, list[int]]] = {
    "jpeg": (pillow("JPEG", optimize=True, subsampling="4:2:0"), [10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95]),
    "webp": (pillow("WEBP", method=6), [5, 15, 30, 45, 60, 75, 85, 92]),
    "avif": (pillow("AVIF", subsampling="4:4:4", speed=6), [25, 35, 45, 55, 65, 75, 85]),
    "nicc two-layer": (ours("two-layer"), list(range(0, 64, 9))),
    "nicc jpeg-like": (ours("jpeg-like"), list(range(0, 64, 9))),
}


def curve(code: Coder, qualities: list[int], images: list[Image.Image]) -> dict[str, list[float]]:
    bpp, fidelity = [], []
    for quality in qualities:
        rates, values = [], []
        for image in images:
            data, decoded = code(image, quality)
            error = np.asarray(image, float) - np.asarray(decoded.convert("RGB"), float)
            rates.append(len(data) * 8 / (image.width * image.height))
            values.append(10 * np.log10(255**2 / np.mean(error**2)))
        bpp.append(float(np.mean(rates)))
        fidelity.append(float(np.mean(values)))
    return {"quality": [float(q) for q in qualities], "bpp": bpp, "psnr": fidelity}


def bd_rate(anchor: dict[str, list[float]], test: dict[str, list[float]]) -> tuple[float, float, float]:
    """Mean difference in rate in percent at equal PSNR (PCHIP), and the range of PSNR compared."""
    low = max(min(anchor["psnr"]), min(test["psnr"]))
    high = min(max(anchor["psnr"]), max(test["psnr"]))
    integrals = []
    for c in (anchor, test):
        order = np.argsort(c["psnr"])
        spline = PchipInterpolator(np.array(c["psnr"])[order], np.log(np.array(c["bpp"])[order]))
        integrals.append(spline.integrate(low, high))
    return float(np.exp((integrals[1] - integrals[0]) / (high - low)) - 1) * 100, low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--hm", type=Path)
    arguments = parser.parse_args()
    images = []
    for path in sorted(arguments.folder.glob("*.png")):
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    curves = {}
    for name, (code, qualities) in CODECS.items():
        curves[name] = curve(code, qualities, images)
        points = "  ".join(f"{b:.3f}/{p:.2f}" for b, p in zip(curves[name]["bpp"], curves[name]["psnr"], strict=True))
        print(f"{name:15} {points}", flush=True)
    anchors = {"jpeg": curves["jpeg"]}
    if arguments.hm:
        hm = json.loads(arguments.hm.read_text())["codecs"]["hevc-hm-444"]
        anchors["hm"] = {"bpp": hm["bpp"], "psnr": hm["psnr_rgb"]}
    for anchor, reference in anchors.items():
        for name, points in curves.items():
            if name != anchor:
                rate, low, high = bd_rate(reference, points)
                print(f"BD-rate of {name:15} against {anchor}: {rate:+.1f} %  (PSNR {low:.1f} to {high:.1f} dB)")
    if arguments.json:
        arguments.json.write_text(json.dumps(curves, indent=1) + "\n")


if __name__ == "__main__":
    main()
