"""Encoding by NumPy and by PyTorch, file by file: how many are equal to the byte, and how far the others are apart.

    python benchmarks/paths.py FOLDER [--json FILE]

A last bit of a floating-point sum may tip a symbol; the limits are 0.1 % of the size and 0.01 dB.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from nicc.bench.sources import read_pixels
from nicc.container import pack
from nicc.decoder.decode import decode_pixels
from nicc.encoder.encode import header_of
from nicc.encoder.quantise import encode_latents
from nicc.encoder.settings import Annealing, Settings
from nicc.encoder.torch_transform import TorchTransform
from nicc.encoder.transform import transform_of
from nicc.images import Picture, decibels
from nicc.model import load_transform, shipped_transforms

QUALITIES = (10, 40, 80)


def compare(name: str, images: list[np.ndarray]) -> dict[str, Any]:
    model = load_transform(name)
    transforms = transform_of(model), TorchTransform(model)
    equal, sizes, psnrs = 0, [0.0], [0.0]
    for pixels in images:
        latents = [transform(pixels) for transform in transforms]
        for quality in QUALITIES:
            point = round(quality / 100 * (model.architecture.rate_points - 1))
            header = header_of(model, Picture(pixels), Settings(point, Annealing(0)))
            containers = [encode_latents(model, header, y, z).container for y, z in latents]
            a, b = (pack(container) for container in containers)
            if a == b:
                equal += 1
                continue
            sizes.append(abs(len(a) / len(b) - 1))
            errors = [float(np.mean((decode_pixels(c, model, beta=0) - pixels.astype(float)) ** 2)) for c in containers]
            psnrs.append(abs(decibels(errors[0]) - decibels(errors[1])))
    return {
        "files": len(images) * len(QUALITIES),
        "equal": equal,
        "largest difference of sizes": max(sizes),
        "largest difference of PSNR (dB)": max(psnrs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    images = [read_pixels(path) for path in sorted(arguments.folder.glob("*.png"))]
    found = {}
    for name in shipped_transforms():
        found[name] = compare(name, images)
        print(name, found[name], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
