"""Graphics with fewer colours: what is antialiased takes common colours, so that a lossless image is smaller.

A glyph's edge has dozens of greys, of which nobody tells neighbours apart. What is flat, and what changes by a level or
two from pixel to pixel, stays exactly as it is: there, a level would show. (`cwebp -near_lossless` has the same aim.)
"""

from __future__ import annotations

import math

import numpy as np

from nicc.columns import colours_of

REACH = 2.3
"""By how many levels colours move at most, times the root of the distortion's weight."""
LEAST_REACH, LARGEST_REACH = 3, 16
"""Below the first, nothing moves; at the second SSIMULACRA 2 is at 90 on pages of text."""
SMOOTH = 2
"""Pixels that differ from a neighbour by at most so many levels, but differ, belong to a gradient."""
DIFFERENT = 2
"""A pixel that differs from no more of its four neighbours is part of something flat, or of a line."""
LARGEST_PALETTE = 1024
AT_ONCE = 256
"""Colours whose nearest ones are looked for at a time."""


def reach_of(weight: float) -> int:
    """By how many levels colours may move where squared errors have this ``weight`` against bits per pixel; 0: not."""
    reach = min(round(REACH / math.sqrt(weight)), LARGEST_REACH)
    return reach if reach >= LEAST_REACH else 0


def with_fewer_colours(pixels: np.ndarray, stored: np.ndarray, reach: int) -> np.ndarray:
    """An image uint8 ``(height, width, 3)`` whose ``stored`` pixels, bool ``(height, width)``, may have moved.

    No colour moves by more than ``reach`` levels in red, green or blue.
    """
    if not reach or not stored.any():
        return pixels
    found, index, counts = colours_of(pixels[stored])
    colours = found.astype(np.int16)  # whose differences may be negative
    moved = _nearest(colours, _palette(colours[np.argsort(-counts, kind="stable")], reach), reach)
    out = pixels.copy()
    out[stored] = np.where(_plain(pixels)[stored][:, None], pixels[stored], moved.astype(np.uint8)[index])
    return out


def _palette(colours: np.ndarray, reach: int) -> np.ndarray:
    """Of ``colours`` ``(N, 3)``, commonest first, those that are further than ``reach`` from all before them."""
    palette: list[np.ndarray] = []
    while len(colours) and len(palette) < LARGEST_PALETTE:
        palette.append(colours[0])
        colours = colours[np.abs(colours - colours[0]).max(-1) > reach]
    return np.array(palette)


def _nearest(colours: np.ndarray, palette: np.ndarray, reach: int) -> np.ndarray:
    """The nearest of the palette to every colour, or the colour itself where none is within ``reach``."""
    moved = colours.copy()
    for begin in range(0, len(colours), AT_ONCE):
        part = colours[begin : begin + AT_ONCE]
        away = np.abs(part[:, None] - palette).max(-1)
        near = away.argmin(1)
        within = away[np.arange(len(part)), near] <= reach
        moved[begin : begin + AT_ONCE][within] = palette[near[within]]
    return moved


def _plain(pixels: np.ndarray) -> np.ndarray:
    """Pixels, bool ``(height, width)``, of flat parts, lines and gradients."""
    values = pixels.astype(np.int16)
    different = np.zeros(pixels.shape[:2], np.int8)
    gradient = np.zeros(pixels.shape[:2], bool)
    for axis in range(2):
        step = np.abs(np.diff(values, axis=axis)).max(-1)
        differs, small = step > 0, (step > 0) & (step <= SMOOTH)
        for side in (slice(1, None), slice(None, -1)):
            here = (side, slice(None)) if axis == 0 else (slice(None), side)
            different[here] += differs
            gradient[here] |= small
    return gradient | (different <= DIFFERENT)
