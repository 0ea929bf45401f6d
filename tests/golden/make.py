"""Writes the golden files of models anew, after new weights: python -m tests.golden.make MODEL..."""

from __future__ import annotations

import json
import sys

from PIL import Image
from skimage import data as photos

import nicc
from tests.conftest import GOLDEN, MODELS

CASES = [
    ("two-layer", "astronaut", (97, 61), 0, 0),
    ("two-layer", "coffee", (160, 120), 20, 0),
    ("two-layer", "chelsea", (33, 130), 63, 0),
    ("two-layer", "astronaut", (1, 1), 32, 0),
    ("two-layer-visual", "astronaut", (97, 61), 0, 0),
    ("two-layer-visual", "coffee", (160, 120), 42, 0),
    ("two-layer-visual", "chelsea", (33, 130), 100, 0),
    ("two-layer-visual", "astronaut", (20, 1100), 30, 0),
    ("two-layer-visual", "coffee", (160, 120), 36, 0.5),
    ("jpeg-like", "astronaut", (97, 61), 8, 0),
    ("jpeg-like", "coffee", (160, 120), 40, 0),
    ("jpeg-like", "chelsea", (31, 17), 56, 0),
]
"""Model, photograph, size, rate point, default beta."""


def main(models: list[str]) -> None:
    from tests.decoder.test_exact import facts

    path = GOLDEN / "facts.json"
    found = json.loads(path.read_text())
    for model, photo, size, rate_point, beta in CASES:
        if model not in models:
            continue
        name = f"{model}-{photo}-{size[0]}x{size[1]}-q{rate_point}{f'-beta{beta}' if beta else ''}.nic"
        image = Image.fromarray(getattr(photos, photo)()).resize(size, Image.Resampling.LANCZOS)
        points = nicc.load_model(model).architecture.rate_points
        data = nicc.encode(image, model=model, quality=100 * rate_point / (points - 1), beta=beta, lossless=False)
        (GOLDEN / name).write_bytes(data)
        nicc.decode(data).save((GOLDEN / name).with_suffix(".png"), optimize=True)
        found[name] = facts(data)
    path.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")


if __name__ == "__main__":
    if not set(sys.argv[1:]) <= set(MODELS) or not sys.argv[1:]:
        sys.exit(f"models to write the golden files of: {', '.join(MODELS)}")
    main(sys.argv[1:])
