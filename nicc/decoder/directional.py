"""A filter along edges, behind the synthesis: it takes off the ripples beside them and sharpens what remains.

Each 8x8 pixels have a direction, the one of eight along which their luma changes least, as in AV1's constrained
directional enhancement filter (Midtskogen & Valin 2018, "The AV1 Constrained Directional Enhancement Filter (CDEF)").
Every pixel is moved by its differences d from two neighbours on either side along the direction and one on either side
across it, by the sum of

    a clip(d, -limit, limit) + b clip(d, -4 limit, 4 limit)

Small differences are mostly errors, and smoothed; large ones are edges, and left or sharpened. The weights a and b
depend on the rate point, on how strong the direction is, and on how much there is beside it: next to nothing, or
texture, which is not to be smoothed away. They were fitted to what files of the model decode to
(`nicc.training.directional`). Described once, run by NumPy and by PyTorch, like `nicc.decoder.networks`. Chroma has a
filter of its own beside it (`nicc.decoder.chroma`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nicc.architecture import FILTER_STRENGTHS, FILTER_TEXTURES, FILTER_WEIGHTS, Architecture
from nicc.decoder import chroma
from nicc.decoder.networks import inside, synthesis

Array = Any
SIDE = 8
"""Pixels a side of the blocks that have one direction."""
REACH = 2
"""Pixels on every side that the directional filter sees around a part."""
MARGIN = max(REACH, chroma.REACH)
"""Pixels on every side that this filter and that of chroma see together."""
DIRECTIONS = ((-1, 1), (-0.5, 1), (0, 1), (0.5, 1), (1, 1), (1, 0.5), (1, 0), (1, -0.5))
"""Rows and columns from one pixel to the next along each direction; the one across is four further on."""
FAR = 4
"""Limits of the second clip over that of the first."""
STRENGTH_STEP = 2.0
"""Strengths, log2(1 + variance along the direction less across it), between entries of the table of weights."""
TEXTURE_STEP, LEAST_TEXTURE = 3.0, -5.5
"""Textures, log2 of the variance that is left along the direction by squared limits, between entries, and the first."""


Pair = tuple[tuple[int, int], tuple[int, int]]
"""Row and column of two opposite neighbours."""


class Filter(NamedTuple):
    """What `filtered` needs at a rate point."""

    weights: Array
    """``(FILTER_STRENGTHS, FILTER_TEXTURES, FILTER_WEIGHTS)``: a of the three pairs of neighbours, then b."""
    limit: float
    """In levels of luma."""
    chroma: chroma.ChromaFilter


def filter_of(p: Mapping[str, Array], rate_point: int) -> Filter | None:
    """The filter among a model's arrays, if it has one."""
    if "filter_weights" not in p:
        return None
    names = ("filter_weights", "filter_limit", "filter_chroma", "filter_chroma_limit")
    weights, limit, by_chroma, chroma_limit = (p[name][rate_point] for name in names)
    return Filter(weights, float(limit), chroma.ChromaFilter(by_chroma.tolist(), float(chroma_limit)))


def rendered(ops: Any, arch: Architecture, p: Mapping[str, Array], y: Array, there: Filter | None) -> Array:
    """`nicc.decoder.networks.synthesis` of latents, filtered where there is a filter."""
    margin = margin_of(there)
    return finished(ops, there, synthesis(ops, arch, p, y, margin), margin)


def margin_of(there: Filter | None) -> int:
    """Pixels on every side that a filter, or none, sees around a part."""
    return MARGIN if there else 0


def finished(ops: Any, there: Filter | None, x: Array, margin: int) -> Array:
    """Pixels without their ``margin``, which is at least `margin_of` the filter; filtered where there is one."""
    x = inside(x, margin - margin_of(there))
    return filtered(ops, there, x) if there else x


def _pixel(direction: int, distance: int) -> tuple[int, int]:
    """Row and column of the pixel at a distance along a direction, rounded away from zero."""
    row, column = (int(np.copysign(np.floor(abs(v) * distance + 0.5), v)) for v in DIRECTIONS[direction % 8])
    return row, column


@lru_cache(maxsize=1)
def neighbours() -> tuple[tuple[Pair, ...], ...]:
    """For each direction three pairs of neighbours: 1 and 2 pixels along it, 1 across."""
    found = []
    for direction in range(len(DIRECTIONS)):
        ahead = [_pixel(direction, 1), _pixel(direction, 2), _pixel(direction + 4, 1)]
        found.append(tuple(((row, column), (-row, -column)) for row, column in ahead))
    return tuple(found)


@lru_cache(maxsize=1)
def lines() -> tuple[np.ndarray, np.ndarray]:
    """Matrices to the sums along all lines of a block, ``(90, 64)``, and from their squares to powers, ``(8, 90)``.

    Sums are less the block's mean and divided by the root of the line's length, so that their squares are the energy
    that smoothing along the line leaves.
    """
    row, column = np.mgrid[:SIDE, :SIDE]
    half_row, half_column = row // 2, column // 2
    numbers = [row + column, row + half_column, row, 3 + row - half_column]
    numbers += [7 + row - column, 3 - half_row + column, column, half_row + column]
    sums, powers = [], []
    for direction, number in enumerate(numbers):
        for n in range(number.max() + 1):
            line = (number == n).ravel() / np.sqrt(np.count_nonzero(number == n))
            sums.append(line - line.mean())
            powers.append(np.arange(len(numbers)) == direction)
    return np.array(sums, np.float32), np.array(powers, np.float32).T.copy()


def directions(ops: Any, centre: Array, limit: float) -> tuple[Array, Array]:
    """Of blocks of luma ``(8, 8, n)``, 0..255, the direction ``(n,)`` and the shares of the table's entries ``(n, k)``.

    Entries are strengths of the direction times textures: the variance that averages along the direction lack.
    """
    to_sums, to_powers = (ops.like(matrix, centre) for matrix in lines())
    flat = centre.reshape(SIDE * SIDE, -1)
    sums = to_sums @ flat
    powers = to_powers @ (sums * sums)
    direction = powers.argmax(0)
    across = (direction + len(DIRECTIONS) // 2) % len(DIRECTIONS)
    power, other = (ops.chosen(powers, index) for index in (direction, across))
    strength = ops.log(1 + ops.relu(power - other) / SIDE**2) / (STRENGTH_STEP * np.log(2))
    apart = flat - flat.mean(0)
    left = ops.relu((apart * apart).sum(0) - power) / (SIDE * limit) ** 2
    texture = (ops.log(left + 2.0**LEAST_TEXTURE / 4) / np.log(2) - LEAST_TEXTURE) / TEXTURE_STEP
    by_strength, by_texture = (
        ops.hats(ops.unit(value / (count - 1))[:, None] * (count - 1), count)
        for value, count in ((strength, FILTER_STRENGTHS), (texture, FILTER_TEXTURES))
    )
    return direction, (by_strength[:, :, None] * by_texture[:, None]).reshape(-1, FILTER_STRENGTHS * FILTER_TEXTURES)


def filtered(ops: Any, there: Filter, x: Array) -> Array:
    """Pixels around 0..1, ``(..., h, w, 3)``, of ``x`` with `MARGIN` on every side; h and w are multiples of 8."""
    luma, colours = chroma.parts(ops, x)
    changes = chroma.changes(ops, there.chroma, luma, colours)
    sharper = sharpened(ops, there, inside(luma[..., None], MARGIN - REACH)[..., 0])
    return ops.add_to_colours(inside(x, MARGIN), [(change + sharper) / 255 for change in changes])


def sharpened(ops: Any, there: Filter, luma: Array) -> Array:
    """What the directional filter adds to luma, ``(..., h + 2 REACH, w + 2 REACH)`` in levels: ``(..., h, w)``."""
    blocks = ops.blocks(luma, SIDE, REACH)
    direction, shares = directions(ops, ops.constant(inner(blocks)), there.limit)
    order, bounds = ops.grouped(direction, len(DIRECTIONS))
    by_block = (shares[order] @ there.weights.reshape(-1, FILTER_WEIGHTS)).T
    changes = [
        ops.weighed_differences(
            *around(blocks[..., order[begin:end]], pairs), limits(there.limit), by_block[:, begin:end]
        )
        for pairs, begin, end in zip(neighbours(), bounds[:-1], bounds[1:], strict=True)
        if end > begin
    ]
    return ops.unblocked(ops.concat(changes, -1), order, luma.shape, REACH)


def inner(blocks: Array) -> Array:
    """Blocks ``(8, 8, n)``, or a plane ``(h, w)``, without what is around them."""
    return blocks[REACH:-REACH, REACH:-REACH]


def around(blocks: Array, pairs: tuple[Pair, ...]) -> tuple[Array, list[tuple[Array, Array]]]:
    """Pixels of blocks of one direction, ``(8, 8, n)``, and both neighbours of every pair."""

    def moved(row: int, column: int) -> Array:
        return blocks[REACH + row : REACH + row + SIDE, REACH + column : REACH + column + SIDE]

    return inner(blocks), [(moved(*one), moved(*other)) for one, other in pairs]


def limits(limit: float) -> tuple[float, float]:
    """Of the near clip and of the far one."""
    return limit, FAR * limit


def differences(ops: Any, blocks: Array, pairs: tuple[Pair, ...], limit: float) -> list[Array]:
    """What the weights multiply in blocks of one direction: of every pair, clipped near, then far, ``(8, 8, n)``."""
    centre, both = around(blocks, pairs)
    return [
        ops.clipped(one - centre, most) + ops.clipped(other - centre, most)
        for most in limits(limit)
        for one, other in both
    ]
