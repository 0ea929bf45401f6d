"""The order of a pyramid's symbols: the grids of a strip side by side, in steps (docs/pyramid.md).

Positions of equal x + 2 y of a grid form a wavefront: what they see of their grid has smaller x + 2 y. Every grid
advances by a wavefront a step, `DELAY` steps behind the next coarser one, whose 3x3 around them is then decoded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nicc.entropy import stream_of
from nicc.laplace import Decoder, Encoder, Prediction
from nicc.pyramid.coding import IntegerNetwork
from nicc.pyramid.layout import GRIDS, REACH, PyramidArchitecture, grid_shapes, neighbour_offsets

DELAY = 4
"""x / 2 + 1 + 2 (y / 2 + 1), the latest of the coarser grid's 3x3, is less than x + 2 y + 4."""
ABOVE = 3 * REACH
"""Rows of zeros before the first step."""
CHUNK = 1 << 12
"""Positions that are predicted together where all symbols are known."""


class Order:
    """When the positions of a strip's grids are coded, and where they lie meanwhile.

    All grids share one array, a row for every step and a column for every row of every grid, coarsest first, with
    `REACH` columns of zeros between them: position (x, y) of a grid lies in the row of its step. So the symbols of a
    step are a row, and what they see lies at the same offsets for all of them.
    """

    def __init__(self, arch: PyramidArchitecture, size: tuple[int, int], present: int) -> None:
        """``present``: a bit for every grid that is coded."""
        self.shapes = grid_shapes(*size)
        self.starts = np.cumsum([REACH, *(h + REACH for h, _ in self.shapes[:0:-1])])[::-1]
        """The column of every grid's first row, finest first."""
        self.width = int(self.starts[0]) + self.shapes[0][0] + REACH
        columns, begins, ends, coarse, grids = [], [], [], [], []
        for k in range(GRIDS - 1, -1, -1):
            if not present >> k & 1:
                continue
            y = np.arange(self.shapes[k][0])
            begin = self.first_step(k) + 2 * y
            columns.append(self.starts[k] + y)
            begins.append(begin)
            ends.append(begin + self.shapes[k][1])
            grids.append(np.full(len(y), k))
            if k + 1 < GRIDS:
                row = self.first_step(k + 1) + 2 * (y >> 1)
                coarse.append((ABOVE + row) * self.width + self.starts[k + 1] + (y >> 1))
            else:
                coarse.append(np.full(len(y), ABOVE * self.width + REACH // 2))  # among zeros
        if not columns:
            columns = begins = ends = coarse = grids = [np.zeros(0, np.int64)]
        self.columns, self.begins, self.ends = (np.concatenate(v) for v in (columns, begins, ends))
        self.grids = np.concatenate(grids)
        self.steps = int(self.ends.max(initial=0))
        offsets = np.array(neighbour_offsets(arch.neighbours))
        near = (offsets[:, 1] + 2 * offsets[:, 0]) * self.width + offsets[:, 0]
        around = np.array([(j + 2 * i) * self.width + i for i in (-1, 0, 1) for j in (-1, 0, 1)])
        self.near_count = len(near)
        self.seen = np.concatenate(
            [self.columns[:, None] + ABOVE * self.width + near, np.concatenate(coarse)[:, None] + around], 1
        )
        """Where every column sees symbols: of its grid at step 0, of the coarser one at x = 0."""

    @staticmethod
    def first_step(k: int) -> int:
        """Of a grid."""
        return DELAY * (GRIDS - 1 - k)

    def at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The columns of a step, as indices into those that are coded, and what they see, ``(n, neighbours + 9)``."""
        here = np.flatnonzero((self.begins <= step) & (step < self.ends))
        seen = self.seen.take(here, axis=0)
        seen[:, : self.near_count] += step * self.width
        seen[:, self.near_count :] += (((step - self.begins[here]) >> 1) * self.width)[:, None]
        return here, seen


def decode_grids(
    network: IntegerNetwork, arch: PyramidArchitecture, size: tuple[int, int], present: int, stream: bytes
) -> list[np.ndarray]:
    """Symbols of all grids, finest first, int16; grids whose bit of ``present`` is not set are zero."""
    order, decoder = Order(arch, size, present), Decoder(stream)
    # the coarsest grid sees three rows of zeros ahead
    table = np.zeros((ABOVE + order.steps + 3, order.width), np.int16)
    flat, bias = table.reshape(-1), network.bias[order.grids]
    for step in range(order.steps):
        here, seen = order.at(step)
        if len(here):
            symbols = decoder.read(network(flat.take(seen).astype(np.float64), bias.take(here, axis=0)))
            table[ABOVE + step, order.columns[here]] = symbols
    grids = [np.zeros(s, np.int16) for s in order.shapes]
    for k, (grid, (h, w)) in enumerate(zip(grids, order.shapes, strict=True)):
        if present >> k & 1:
            for y in range(h):
                begin = ABOVE + order.first_step(k) + 2 * y
                grid[y] = table[begin : begin + w, order.starts[k] + y]
    return grids


def predictions(network: IntegerNetwork, arch: PyramidArchitecture, grids: Sequence[np.ndarray], k: int) -> Prediction:
    """Predictions of all symbols of a grid that is known, in raster order."""
    h, w = grids[k].shape
    padded = np.pad(grids[k], ((REACH, 0), (REACH, REACH)))
    coarser = np.pad(grids[k + 1] if k + 1 < GRIDS else np.zeros(((h + 1) // 2, (w + 1) // 2), np.int16), 1)
    columns = np.arange(w) >> 1
    parts = []
    rows = max(1, CHUNK // w)
    for top in range(0, h, rows):
        n = min(rows, h - top)
        seen = [
            padded[REACH + top + dy : REACH + top + dy + n, REACH + dx : REACH + dx + w]
            for dy, dx in neighbour_offsets(arch.neighbours)
        ]
        below = (np.arange(top, top + n) >> 1)[:, None]
        seen += [coarser[below + i, columns + j] for i in range(3) for j in range(3)]
        parts.append(network(np.stack(seen, -1).reshape(n * w, -1).astype(np.float64), network.bias[k]))
    return Prediction(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def encode_grids(network: IntegerNetwork, arch: PyramidArchitecture, grids: Sequence[np.ndarray]) -> tuple[int, bytes]:
    """The bits that say which grids are present, and the stream of their symbols (within +-511)."""
    present = sum(1 << k for k in range(GRIDS) if grids[k].any())
    order = Order(arch, grids[0].shape, present)  # type: ignore[arg-type]
    symbols, steps, columns, parts = [], [], [], []
    for k in range(GRIDS):
        if present >> k & 1:
            h, w = grids[k].shape
            y, x = np.divmod(np.arange(h * w), w)
            symbols.append(grids[k].reshape(-1).astype(np.int64))
            steps.append(order.first_step(k) + x + 2 * y)
            columns.append(order.starts[k] + y)
            parts.append(predictions(network, arch, grids, k))
    encoder = Encoder()
    if parts:
        step = np.concatenate(steps)
        at = np.lexsort((np.concatenate(columns), step))
        ends = np.cumsum(np.bincount(step))
        flat, p = np.concatenate(symbols), Prediction(*(np.concatenate(v) for v in zip(*parts, strict=True)))
        for begin, end in zip([0, *ends], ends, strict=False):
            if begin < end:
                here = at[begin:end]
                encoder.write(flat[here], Prediction(p.mean[here], p.offset[here], p.scale[here]))
    return present, stream_of(encoder.coder)
