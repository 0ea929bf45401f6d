"""Writes the golden files anew. Run after shipping new weights: python -m tests.golden.make"""

from __future__ import annotations

import json

from PIL import Image
from skimage import data as photos

import nicc
from tests.conftest import GOLDEN

CASES = [
    ("two-layer", "astronaut", (97, 61), 0),
    ("two-layer", "coffee", (160, 120), 20),
    ("two-layer", "chelsea", (33, 130), 63),
    ("two-layer", "astronaut", (1, 1), 32),
    ("two-layer-visual", "astronaut", (97, 61), 0),
    ("two-layer-visual", "coffee", (160, 120), 42),
    ("two-layer-visual", "chelsea", (33, 130), 100),
    ("jpeg-like", "astronaut", (97, 61), 8),
    ("jpeg-like", "coffee", (160, 120), 40),
    ("jpeg-like", "chelsea", (31, 17), 56),
]


def main() -> None:
    from tests.decoder.test_exact import facts

    for old in [*GOLDEN.glob("*.nic"), *GOLDEN.glob("*.png")]:
        old.unlink()
    found = {}
    for model, photo, size, rate_point in CASES:
        image = Image.fromarray(getattr(photos, photo)()).resize(size, Image.Resampling.LANCZOS)
        points = nicc.load_model(model).architecture.rate_points
        data = nicc.encode(image, model=model, quality=100 * rate_point / (points - 1), lossless=False)
        path = GOLDEN / f"{model}-{photo}-{size[0]}x{size[1]}-q{rate_point}.nic"
        path.write_bytes(data)
        nicc.decode(data).save(path.with_suffix(".png"), optimize=True)
        found[path.name] = facts(data)
    (GOLDEN / "facts.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    (GOLDEN / "facts.json").write_text("{}")
    main()
