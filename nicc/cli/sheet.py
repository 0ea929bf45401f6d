"""A contact sheet: the same crops of an image side by side, as beta rises, beside the original."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CROP, COUNT, GAP, LABEL = 160, 3, 6, 22


def busy_places(pixels: np.ndarray, size: int, count: int) -> list[tuple[int, int]]:
    """Top left corners of the ``count`` squares, apart from each other, whose neighbouring pixels differ most."""
    grey = pixels.astype(np.float32).mean(-1)
    h, w = grey.shape
    change = np.zeros_like(grey)
    change[:, 1:] += np.abs(np.diff(grey, axis=1))
    change[1:] += np.abs(np.diff(grey, axis=0))
    sums = np.pad(change.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    places: list[tuple[int, int]] = []
    tops, lefts = np.arange(0, h - size + 1, 8), np.arange(0, w - size + 1, 8)
    a, b = tops[:, None], lefts[None]
    total = sums[a + size, b + size] - sums[a, b + size] - sums[a + size, b] + sums[a, b]
    while len(places) < count and np.isfinite(total).any():
        i, j = np.unravel_index(int(total.argmax()), total.shape)
        places.append((int(tops[i]), int(lefts[j])))
        near = (np.abs(tops - tops[i]) < size)[:, None] & (np.abs(lefts - lefts[j]) < size)[None]
        total[near] = -np.inf
    return places


def contact_sheet(versions: Sequence[tuple[str, np.ndarray]], size: int = CROP, count: int = COUNT) -> Image.Image:
    """Labelled columns of crops of uint8 images ``(height, width, 3)`` of one size, RGB.

    The places are the busiest ones of the first version. Images smaller than ``size`` are shown whole.
    """
    first = versions[0][1]
    height, width = (min(size, n) for n in first.shape[:2])
    square = min(height, width)
    places = busy_places(first, square, count) if square == size else [(0, 0)]
    if square == size:
        height = width = size
    sheet = Image.new(
        "RGB", (GAP + len(versions) * (width + GAP), LABEL + len(places) * (height + GAP)), (255, 255, 255)
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, (label, pixels) in enumerate(versions):
        x = GAP + column * (width + GAP)
        draw.text((x, 3), label, (0, 0, 0), font)
        for row, (top, left) in enumerate(places):
            crop = Image.fromarray(np.ascontiguousarray(pixels[top : top + height, left : left + width]))
            sheet.paste(crop, (x, LABEL + row * (height + GAP)))
    return sheet
