"""Coding of a pyramid's symbols: an integer network chooses the distribution of each (see docs/pyramid.md).

Grids are coded coarse to fine. Within a grid, positions x + 2 y = t form a wavefront and are coded together, from the
top row down; they see decoded positions of smaller t and the 3x3 around them of the coarser grid. All sums are of
integers below 2**53 in magnitude, so float64 computes them exactly on every machine, in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import NamedTuple

import constriction
import numpy as np

from nicc.entropy import decoder_of, stream_of
from nicc.errors import FormatError
from nicc.pyramid.layout import GRIDS, REACH, PyramidArchitecture, grid_shapes, neighbour_offsets

WEIGHT_BITS = 12
"""Fractional bits of the networks' parameters."""
WEIGHT_LIMIT = (1 << 16) - 1
"""Parameters, as integers, lie within this: with hidden units at most `HIDDEN_LIMIT`, sums stay below 2**53."""
HIDDEN_LIMIT = float(1 << 21)
SYMBOL_LIMIT = 511
ONE = float(1 << WEIGHT_BITS)
OFFSETS = 16
"""Means are known to 1/16 of a symbol."""
SCALES = 121
SCALES_PER_NAT = 12
SCALE_RANGE = 5
"""Scales of the Laplace distributions: exp(-5) to exp(5) symbols, 12 to a factor of e."""
MASS_BITS = 32
REACHES = (8, 32, 128)
"""Symbols to either side of the rounded mean that have probabilities of their own, by class of scales."""
CLASS_ENDS = (56, 73, SCALES)
"""Scales below these belong to a class."""
CHUNK = 1 << 12

model, queue = constriction.stream.model, constriction.stream.queue
FAMILY = model.Categorical(perfect=False)
RAW = model.Uniform(2 * SYMBOL_LIMIT + 2)


class Prediction(NamedTuple):
    """How symbols are distributed: whole part of the mean, offset 0..15 in 1/16 from -1/2, scale 0..120."""

    mean: np.ndarray
    offset: np.ndarray
    scale: np.ndarray


class Tables:
    """Probabilities of the symbols around a mean, by scale and offset, from integers alone.

    The Laplace distribution of scale b has the mass exp(-n / (16 b)) / 2 beyond n/16; its powers are multiplied up in
    fixed point, 32 bits after the point, from 121 correctly rounded numbers, so every machine has the same tables.
    """

    def __init__(self) -> None:
        ratios = np.array([_ratio(s) for s in range(SCALES)], np.uint64)
        count = OFFSETS * (REACHES[-1] + 1) + 1
        beyond = np.empty((count, SCALES), np.uint64)  # mass beyond n/16, by n
        beyond[0] = 1 << (MASS_BITS - 1)
        for n in range(1, count):
            beyond[n] = (beyond[n - 1] * ratios) >> np.uint64(MASS_BITS)
        self.by_class = []
        begin = 0
        for reach, end in zip(REACHES, CLASS_ENDS, strict=True):
            edges = OFFSETS * np.arange(-reach, reach + 2)[None] - OFFSETS // 2  # in 1/16 of a symbol, from the mean
            edges = edges - (np.arange(OFFSETS) - OFFSETS // 2)[:, None]
            tail = beyond[np.abs(edges), begin:end].astype(np.int64)
            below = np.where(edges[..., None] < 0, tail, (1 << MASS_BITS) - tail)
            mass = np.diff(below, axis=1)
            mass = np.concatenate([mass, (1 << MASS_BITS) - mass.sum(1, keepdims=True)], 1)
            table = mass.transpose(2, 0, 1).reshape(-1, 2 * reach + 2)
            self.by_class.append(table / float(1 << MASS_BITS))
            begin = end

    def of(self, p: Prediction) -> tuple[np.ndarray, int]:
        """Probabilities ``(n, symbols)``, the last of an escape, and their reach: that of the widest among ``p``."""
        widest = int(p.scale.max())
        if widest < CLASS_ENDS[0]:
            return self.by_class[0][p.scale * OFFSETS + p.offset], REACHES[0]
        last = next(i for i, end in enumerate(CLASS_ENDS) if widest < end)
        reach = REACHES[last]
        out = np.zeros((len(p.scale), 2 * reach + 2))
        begin = 0
        for table, r, end in zip(self.by_class[: last + 1], REACHES, CLASS_ENDS, strict=False):
            at = np.flatnonzero((p.scale >= begin) & (p.scale < end))
            rows = table[(p.scale[at] - begin) * OFFSETS + p.offset[at]]
            out[at, reach - r : reach + r + 1] = rows[:, :-1]
            out[at, -1] = rows[:, -1]
            begin = end
        return out, reach


def _ratio(scale: int) -> int:
    """exp(-1 / (16 b)) in units of 2**-32, for b = exp(scale / 12 - 5); correctly rounded by `decimal`."""
    with localcontext() as context:
        context.prec = 40
        b = (Decimal(scale) / SCALES_PER_NAT - SCALE_RANGE).exp()
        return int((-1 / (OFFSETS * b)).exp() * (1 << MASS_BITS))


@lru_cache(maxsize=1)
def tables() -> Tables:
    return Tables()


class IntegerNetwork:
    """The context network in integers; ``params`` are the networks' arrays, in units of 2**-12."""

    def __init__(self, arch: PyramidArchitecture, params: dict[str, np.ndarray]) -> None:
        self.hidden = arch.context_hidden
        f8 = {k: v.astype(np.float64) for k, v in params.items()}
        self.near = np.ascontiguousarray(np.concatenate([f8["near"], f8["skip"]]).T)
        self.coarse = np.ascontiguousarray(f8["coarse"].T)
        self.bias = f8["bias"]
        self.middle = np.ascontiguousarray(f8["middle"].T)
        self.middle_bias = f8["middle_bias"] * ONE
        self.out = np.ascontiguousarray(f8["out"].T)

    def base(self, k: int, coarser: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
        """What a grid's first layer gets from the coarser grid, at its positions: ``(positions, hidden + 2)``."""
        if coarser is None:
            return np.broadcast_to(self.bias[k], (((shape[0] + 1) // 2) * ((shape[1] + 1) // 2), self.hidden + 2))
        h, w = coarser.shape
        p = np.pad(coarser.astype(np.float64), 1, mode="edge")
        around = np.stack([p[i : i + h, j : j + w] for i in range(3) for j in range(3)], -1)
        return around.reshape(h * w, -1) @ self.coarse + self.bias[k]

    def __call__(self, near: np.ndarray, base: np.ndarray) -> Prediction:
        """``near`` ``(n, neighbours)`` symbols, ``base`` the rows of `base` for their positions; both float64."""
        first = near @ self.near
        first += base
        one = np.minimum(np.maximum(first[:, : self.hidden], 0.0), HIDDEN_LIMIT)
        two = one @ self.middle
        two += one * ONE
        two += self.middle_bias
        two *= 1 / ONE
        np.floor(two, out=two)
        np.maximum(two, 0.0, out=two)
        np.minimum(two, HIDDEN_LIMIT, out=two)
        out = two @ self.out
        out += first[:, self.hidden :] * ONE
        mean = np.floor(out[:, 0] * (OFFSETS / ONE**2) + 0.5)
        limit = float(OFFSETS * SYMBOL_LIMIT)
        sixteenths = np.minimum(np.maximum(mean, -limit), limit).astype(np.int64) + OFFSETS // 2
        scale = np.floor(out[:, 1] * (SCALES_PER_NAT / ONE**2) + (SCALE_RANGE * SCALES_PER_NAT + 0.5))
        scale = np.minimum(np.maximum(scale, 0.0), SCALES - 1.0).astype(np.int64)
        return Prediction(sixteenths >> 4, sixteenths & 15, scale)


def wavefronts(h: int, w: int) -> Iterator[tuple[int, int, int]]:
    """(t, first row, last row + 1) of every wavefront of a grid."""
    for t in range(w + 2 * (h - 1)):
        first, last = max(0, -((w - 1 - t) // 2)), min(h, t // 2 + 1)
        if first < last:
            yield t, first, last


def decode_grids(
    network: IntegerNetwork, arch: PyramidArchitecture, size: tuple[int, int], present: int, stream: bytes
) -> list[np.ndarray]:
    """Symbols of all grids, finest first, int16; grids whose bit of ``present`` is not set are zero."""
    decoder = Decoder(stream)
    shapes = grid_shapes(*size)
    grids: list[np.ndarray] = [np.zeros(s, np.int16) for s in shapes]
    for k in range(GRIDS - 1, -1, -1):
        if present >> k & 1:
            base = network.base(k, grids[k + 1] if k + 1 < GRIDS else None, shapes[k])
            grids[k] = _decode_grid(network, decoder, arch, shapes[k], base)
    return grids


class Encoder:
    """Writes symbols by their predictions."""

    def __init__(self) -> None:
        self.coder, self.tables = queue.RangeEncoder(), tables()

    def write(self, symbols: np.ndarray, p: Prediction) -> None:
        """Appends symbols (within +-511), one for each prediction; then those without a probability of their own."""
        table, reach = self.tables.of(p)
        index = symbols - p.mean + reach
        outside = (index < 0) | (index > 2 * reach)
        self.coder.encode(np.where(outside, 2 * reach + 1, index).astype(np.int32), FAMILY, table)
        if outside.any():
            self.coder.encode((symbols[outside] + SYMBOL_LIMIT + 1).astype(np.int32), RAW)


class Decoder:
    """Reads back what an `Encoder` wrote, by the same predictions."""

    def __init__(self, stream: bytes) -> None:
        self.coder, self.tables = decoder_of(stream), tables()

    def read(self, p: Prediction) -> np.ndarray:
        """The next symbols, one for each prediction. Raises `FormatError` if the stream cannot hold them."""
        table, reach = self.tables.of(p)
        try:
            index = self.coder.decode(FAMILY, table)
            symbols = index + (p.mean - reach)
            if index.max() > 2 * reach:
                outside = np.flatnonzero(index > 2 * reach)
                symbols[outside] = self.coder.decode(RAW, len(outside)) - (SYMBOL_LIMIT + 1)
        except AssertionError:
            raise FormatError("damaged: the coded symbols are not valid") from None
        if max(symbols.max(), -symbols.min()) > SYMBOL_LIMIT:
            raise FormatError("damaged: a symbol is out of bounds")
        return symbols


def _decode_grid(
    network: IntegerNetwork, decoder: Decoder, arch: PyramidArchitecture, shape: tuple[int, int], base: np.ndarray
) -> np.ndarray:
    h, w = shape
    wc = (w + 1) // 2
    offsets = np.array(neighbour_offsets(arch.neighbours))
    # skewed: (t, y), so that the positions of a wavefront lie side by side, and so do their neighbours
    before, across = 3 * REACH, h + REACH
    skewed = np.zeros((w + 2 * (h - 1) + before, across))
    flat = skewed.reshape(-1)
    steps = (offsets[:, 1] + 2 * offsets[:, 0]) * across + offsets[:, 0]
    rows = np.arange(h)
    pattern = rows[:, None] + steps[None]
    below = (rows >> 1) * wc - rows
    for t, first, last in wavefronts(h, w):
        start = (t + before) * across + REACH
        near = flat.take(pattern[first:last] + start)
        symbols = decoder.read(network(near, base.take(below[first:last] + (t >> 1), axis=0)))
        flat[start + first : start + last] = symbols
    out = np.empty((h, w), np.int16)
    for y in range(h):
        out[y] = skewed[before + 2 * y : before + 2 * y + w, REACH + y]
    return out


def predictions(network: IntegerNetwork, arch: PyramidArchitecture, grids: Sequence[np.ndarray], k: int) -> Prediction:
    """Predictions of all symbols of a grid that is known, in raster order."""
    grid = grids[k]
    h, w = grid.shape
    base = network.base(k, grids[k + 1] if k + 1 < GRIDS else None, (h, w))
    padded = np.pad(grid.astype(np.float64), ((REACH, 0), (REACH, REACH)))
    wc = (w + 1) // 2
    parts = []
    rows = max(1, CHUNK // w)
    for top in range(0, h, rows):
        n = min(rows, h - top)
        near = np.stack(
            [
                padded[REACH + top + dy : REACH + top + dy + n, REACH + dx : REACH + dx + w].reshape(-1)
                for dy, dx in neighbour_offsets(arch.neighbours)
            ],
            -1,
        )
        at = ((np.arange(top, top + n) >> 1) * wc)[:, None] + (np.arange(w) >> 1)
        parts.append(network(near, base[at.reshape(-1)]))
    return Prediction(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def encode_grids(network: IntegerNetwork, arch: PyramidArchitecture, grids: Sequence[np.ndarray]) -> tuple[int, bytes]:
    """The bits that say which grids are present, and the stream of their symbols (within +-511)."""
    encoder = Encoder()
    present = 0
    for k in range(GRIDS - 1, -1, -1):
        if not grids[k].any():
            continue
        present |= 1 << k
        h, w = grids[k].shape
        p = predictions(network, arch, grids, k)
        symbols = grids[k].reshape(-1).astype(np.int64)
        for t, first, last in wavefronts(h, w):
            y = np.arange(first, last)
            at = y * w + t - 2 * y
            encoder.write(symbols[at], Prediction(p.mean[at], p.offset[at], p.scale[at]))
    return present, stream_of(encoder.coder)
