"""Pins what the shipped models make of three small photographs: python -m tests.pinned.make MODEL...

Crops of scikit-image's astronaut (NASA), coffee and chelsea (CC0). Run after shipping new weights, and look at
the difference: it is a decision.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from nicc.container import pack
from nicc.decoder.decode import decode_pixels, decode_versions
from nicc.encoder.encode import encode_plainly
from nicc.images import Picture, decibels
from nicc.model import load_model
from tests.conftest import MODELS

FOLDER = Path(__file__).parent
FIGURES = FOLDER / "figures.json"
SHARES = (0.1, 0.4, 0.7)
"""Rate points, as shares of the highest."""
BETA = 0.75


def photos() -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(FOLDER.glob("*.png")):
        with Image.open(path) as image:
            found[path.stem] = np.asarray(image)
    return found


def figures(name: str) -> dict[str, list[float]]:
    """By photograph and rate point: bits per pixel of the file and PSNR in dB at beta 0."""
    model, found = load_model(name), {}
    for photo, pixels in photos().items():
        for share in SHARES:
            point = round(share * (model.architecture.rate_points - 1))
            container = encode_plainly(model, Picture(pixels), point).container
            bpp = 8 * len(pack(container)) / (pixels.shape[0] * pixels.shape[1])
            mse = np.mean((decode_pixels(container, model, beta=0).astype(float) - pixels) ** 2)
            found[f"{photo} {point}"] = [round(bpp, 5), round(decibels(float(mse)), 4)]
    return found


def gain(name: str, backbone: Path) -> float:
    """By what share realism lowers LPIPS (AlexNet), mean over the photographs at the lowest of the rate points."""
    from nicc.bench.metrics import Meter

    meter, model, ratios = Meter(("lpips",), backbone), load_model(name), []
    for pixels in photos().values():
        point = round(SHARES[0] * (model.architecture.rate_points - 1))
        container = encode_plainly(model, Picture(pixels), point).container
        plain, real = decode_versions(container, [0.0, BETA], model)
        ratios.append(meter.measure(pixels, real)["lpips"] / meter.measure(pixels, plain)["lpips"])
    return round(1 - float(np.mean(ratios)), 4)


def main(models: list[str]) -> None:
    from tests.conftest import BACKBONE

    pinned = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for name in models:
        pinned[name] = {"figures": figures(name)}
        if load_model(name).has_realism:
            pinned[name]["gain"] = gain(name, BACKBONE)
    FIGURES.write_text(json.dumps(pinned, indent=1) + "\n")


if __name__ == "__main__":
    if not set(sys.argv[1:]) <= set(MODELS) or not sys.argv[1:]:
        sys.exit(f"models to pin: {', '.join(MODELS)}")
    main(sys.argv[1:])
