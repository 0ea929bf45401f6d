"""Writes the golden files of the pyramid anew, after new starts: python -m tests.pyramid.make_golden."""

from __future__ import annotations

import json

from PIL import Image
from skimage import data as photos

import nicc
from tests.pyramid.test_golden import FACTS, GOLDEN, facts

CASES = [
    ("astronaut", (97, 61), 20, 150),
    ("coffee", (160, 120), 45, 150),
    ("chelsea", (33, 70), 90, 150),
    ("astronaut", (20, 1100), 35, 150),
    ("chelsea", (160, 110), 10, 300),
]
"""Photograph, size, quality, steps. The last is fitted from a start of each family; the second is better."""


def main() -> None:
    found = {}
    for photo, size, quality, steps in CASES:
        image = Image.fromarray(getattr(photos, photo)()).resize(size, Image.Resampling.LANCZOS)
        data = nicc.encode(image, model="pyramid", tune="psnr", quality=quality, sga_steps=steps, lossless=False)
        path = GOLDEN / f"{photo}-{size[0]}x{size[1]}-q{quality}.nic"
        path.write_bytes(data)
        nicc.decode(data).save(path.with_suffix(".png"), optimize=True)
        found[path.name] = facts(data)
    FACTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
