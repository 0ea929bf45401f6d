"""How alike an original, its reconstruction and the realism head's detail are, in bands of frequency and direction.

Gabor filters in pairs, even and odd: their energies and products do not depend on where in a cell of 8x8 pixels a
stroke lies (Adelson and Bergen 1985, "Spatiotemporal energy models for the perception of motion").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from nicc.images import LUMA

CELL = 8
"""Pixels a side."""
SIDE, STRIDE = 12, 4
"""Of filters, in pixels."""


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
    """``(SIDE * SIDE, 2 * pairs)``, of sum 0 and norm 1: the even ones, then the odd ones."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    found = []
    for wave in (np.cos, np.sin):
        for frequency, deviation in bands.scales:
            window = np.exp(-(x**2 + y**2) / (2 * deviation**2))
            for angle in np.arange(bands.directions) * np.pi / bands.directions:
                values = wave(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)))
                values = window * (values - (window * values).sum() / window.sum())
                found.append(values.ravel() / np.linalg.norm(values))
    return np.stack(found, -1).astype(np.float32)


FILTERS = (_filters(LUMA_BANDS), _filters(COLOUR_BANDS), _filters(COLOUR_BANDS))


def cell_features(
    original: np.ndarray, base: np.ndarray, detail: np.ndarray, rate: float, tile: int = CELL
) -> np.ndarray:
    """What can be said of every cell, float32 ``(rows, columns, FEATURES)``, in whole tiles of so many pixels a side.

    The layers are ``(height, width, 3)`` in levels, detail at beta 0.5; ``rate`` is the rate point as a share of the
    highest.
    """
    height, width = original.shape[:2]
    room = (0, -height % tile), (0, -width % tile)
    x, y, d = (
        np.concatenate([_answers(plane, room, n) for n, plane in enumerate(_colours(layer))], -1)
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


def _colours(layer: np.ndarray) -> list[np.ndarray]:
    """Luma, and half of blue and red less it."""
    luma: np.ndarray = layer @ np.array(LUMA, np.float32)
    blue: np.ndarray = layer[..., 2] - luma
    red: np.ndarray = layer[..., 0] - luma
    return [luma, blue / 2, red / 2]


def _answers(plane: np.ndarray, room: tuple[tuple[int, int], ...], colour: int) -> np.ndarray:
    """Answers of the filters of a plane, every `STRIDE` pixels, ``(rows, columns, 2, pairs)``: even, then odd."""
    reach = (SIDE - STRIDE) // 2
    padded = np.pad(plane, [(reach, after + reach) for _, after in room], "edge")
    h, w = ((n - 2 * reach) // STRIDE for n in padded.shape)
    down, right = padded.strides
    windows = as_strided(padded, (h, w, SIDE, SIDE), (STRIDE * down, STRIDE * right, down, right))
    found: np.ndarray = windows.reshape(h * w, SIDE * SIDE) @ FILTERS[colour]
    return found.reshape(h, w, 2, -1)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of answers, ``(rows, columns, COUNT)``."""
    found: np.ndarray = a[..., 0, :] * b[..., 0, :] + a[..., 1, :] * b[..., 1, :]
    return found


def _mean(x: np.ndarray) -> np.ndarray:
    """Means over cells, of 2x2 positions."""
    found: np.ndarray = (x[::2, ::2] + x[::2, 1::2] + x[1::2, ::2] + x[1::2, 1::2]) / 4
    return found
