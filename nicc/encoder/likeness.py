"""How alike an original, its reconstruction and the realism head's detail are, in bands of frequency and direction.

Gabor filters in pairs, even and odd: their energies and products do not depend on where in a cell of 8x8 pixels a
stroke lies (Adelson and Bergen 1985, "Spatiotemporal energy models for the perception of motion").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nicc.decoder import ops
from nicc.decoder.texture import SMALLEST_TILE
from nicc.images import LUMA

CELL, TILE = 8, 1 << SMALLEST_TILE
"""Pixels a side."""
STRIDE = 4
"""Pixels between places at which filters, of three times as many a side, look."""


class Bands(NamedTuple):
    """Pairs of filters: frequencies in cycles per pixel, deviations of their windows in pixels, directions of each."""

    scales: tuple[tuple[float, float], ...]
    directions: int

    @property
    def pairs(self) -> int:
        return len(self.scales) * self.directions


LUMA_BANDS = Bands(((0.09, 3.2), (0.16, 2.4), (0.27, 1.6), (0.40, 1.2)), 6)
COLOUR_BANDS = Bands(((0.10, 3.0), (0.25, 1.7)), 2)
"""Of each of two planes."""
COUNT = LUMA_BANDS.pairs + 2 * COLOUR_BANDS.pairs
FEATURES = 11 * COUNT + 1
NOISE, FAINT = 0.3, 0.03
"""Added to energies, in squared levels: of pictures, and of the head's detail."""


def _filters(bands: Bands) -> np.ndarray:
    """``(9 STRIDE**2, 2 pairs)`` for `ops.conv3`, of sum 0 and norm 1: the even ones, then the odd ones."""
    side = 3 * STRIDE
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    found = []
    for wave in (np.cos, np.sin):
        for frequency, deviation in bands.scales:
            window = np.exp(-(x**2 + y**2) / (2 * deviation**2))
            for angle in np.arange(bands.directions) * np.pi / bands.directions:
                values = wave(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)))
                values = window * (values - (window * values).sum() / window.sum())
                cells = ops.space_to_depth(values[..., None], STRIDE)
                found.append(cells.ravel() / np.linalg.norm(values))
    return np.stack(found, -1).astype(np.float32)


OF_LUMA, OF_COLOURS = _filters(LUMA_BANDS), _filters(COLOUR_BANDS)


def cell_features(original: np.ndarray, base: np.ndarray, detail: np.ndarray, rate: float) -> np.ndarray:
    """What can be said of every cell, float32 ``(rows, columns, FEATURES)``, in whole tiles.

    The layers are ``(height, width, 3)`` in levels, detail at beta 0.5; ``rate`` is the rate point as a share of the
    highest.
    """
    height, width = original.shape[:2]
    around = [(STRIDE, STRIDE + -n % TILE) for n in (height, width)]
    x, y, d = (
        np.concatenate([_answers(np.pad(plane, around, "edge"), filters) for plane, filters in _colours(layer)], -1)
        for layer in (original, base, detail)
    )
    energies = [_product(a, a) for a in (x, y, d)]
    xx, yy, dd, xy, xd, yd = (_mean(a) for a in (*energies, _product(x, y), _product(x, d), _product(y, d)))
    lost: np.ndarray = np.maximum(xx - 2 * xy + yy, 0) + np.float32(NOISE)
    wanted, of_base, of_detail = xx + np.float32(NOISE), yy + np.float32(NOISE), dd + np.float32(FAINT)
    logarithms = [np.log(energy) for energy in (wanted, of_base, of_detail, lost)]
    compared = (xy, wanted * of_base), (xd, wanted * of_detail), (yd, of_base * of_detail), (xd - yd, lost * of_detail)
    likeness = [product / np.sqrt(of_both) for product, of_both in compared]
    evenness = [
        _mean(np.log(energy + np.float32(faint))) - whole
        for energy, faint, whole in zip(energies, (NOISE, NOISE, FAINT), logarithms, strict=False)
    ]
    beside = np.full((*xx.shape[:2], 1), rate, np.float32)
    found: np.ndarray = np.concatenate([*logarithms, *likeness, *evenness, beside], -1)
    return found


def _colours(layer: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Luma, and half of blue and red less it, with their filters."""
    luma: np.ndarray = layer @ np.array(LUMA, np.float32)
    return [(luma, OF_LUMA), *(((layer[..., colour] - luma) / 2, OF_COLOURS) for colour in (2, 0))]


def _answers(plane: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Every `STRIDE` pixels of a plane with as many around it, ``(rows, columns, 2, pairs)``: even, then odd."""
    found: np.ndarray = ops.conv3(ops.space_to_depth(plane[..., None], STRIDE), filters)
    return found.reshape(*found.shape[:2], 2, -1).copy()  # the next call overwrites it


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of answers, ``(rows, columns, COUNT)``."""
    found: np.ndarray = a[..., 0, :] * b[..., 0, :] + a[..., 1, :] * b[..., 1, :]
    return found


def _mean(x: np.ndarray) -> np.ndarray:
    """Means over cells, of 2x2 positions."""
    return squares(x) / 4


def squares(x: np.ndarray) -> np.ndarray:
    """Sums over squares of 2x2 positions of ``(h, w, C)``, both even."""
    found: np.ndarray = x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]
    return found
