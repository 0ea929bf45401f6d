"""Coding of a pyramid's symbols: an integer network chooses the distribution of each (see docs/pyramid.md).

All sums are of integers below 2**53 in magnitude, so float64 computes them exactly on every machine, in any order.
The order of symbols is that of `nicc.pyramid.order`.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Any, NamedTuple

import constriction
import numpy as np

from nicc.entropy import decoder_of
from nicc.errors import FormatError
from nicc.pyramid.layout import PyramidArchitecture

WEIGHT_BITS = 12
"""Fractional bits of the networks' parameters."""
WEIGHT_LIMIT = (1 << 16) - 1
"""Parameters, as integers, lie within this: with hidden units at most `HIDDEN_LIMIT`, sums stay below 2**53."""
HIDDEN_LIMIT = float(1 << 21)
SYMBOL_LIMIT = 511
ONE = float(1 << WEIGHT_BITS)
OFFSET_BITS = 5
OFFSETS = 1 << OFFSET_BITS
"""Means are known to 1/32 of a symbol."""
SCALES = 121
SCALES_PER_NAT = 12
SCALE_RANGE = 5
"""Scales of the Laplace distributions: exp(-5) to exp(5) symbols, 12 to a factor of e."""
MASS_BITS = 32
REACHES = (8, 32, 128)
"""Symbols to either side of the rounded mean that have probabilities of their own, by class of scales."""
CLASS_ENDS = (56, 73, SCALES)
"""Scales below these belong to a class."""
UNITS = np.array([OFFSETS / ONE, SCALES_PER_NAT / ONE])
"""Offsets of the mean, and numbers of scales, in the network's two outputs: mean, logarithm of the scale."""
ZEROS = np.array([OFFSETS // 2 + 0.5, SCALE_RANGE * SCALES_PER_NAT + 0.5])
"""Added to them before the floor: offsets begin at -1/2, scales at exp(-5)."""
LEAST = np.array([OFFSETS // 2 - OFFSETS * SYMBOL_LIMIT, 0.0])
MOST = np.array([OFFSETS // 2 + OFFSETS * SYMBOL_LIMIT, SCALES - 1.0])

model, queue = constriction.stream.model, constriction.stream.queue
FAMILY = model.Categorical(perfect=False)
RAW = model.Uniform(2 * SYMBOL_LIMIT + 2)


class Prediction(NamedTuple):
    """How symbols are distributed: whole part of the mean, offset 0..31 in 1/32 from -1/2, scale 0..120."""

    mean: np.ndarray
    offset: np.ndarray
    scale: np.ndarray


class Tables:
    """Probabilities of the symbols around a mean, by scale and offset, from integers alone.

    The Laplace distribution of scale b has the mass exp(-n / (32 b)) / 2 beyond n/32; its powers are multiplied up in
    fixed point, 32 bits after the point, from 121 correctly rounded numbers, so every machine has the same tables.
    """

    def __init__(self) -> None:
        ratios = np.array([_ratio(s) for s in range(SCALES)], np.uint64)
        count = OFFSETS * (REACHES[-1] + 1) + 1
        beyond = np.empty((count, SCALES), np.uint64)  # mass beyond n/32, by n
        beyond[0] = 1 << (MASS_BITS - 1)
        for n in range(1, count):
            beyond[n] = (beyond[n - 1] * ratios) >> np.uint64(MASS_BITS)
        self.by_class = []
        begin = 0
        for reach, end in zip(REACHES, CLASS_ENDS, strict=True):
            edges = OFFSETS * np.arange(-reach, reach + 2)[None] - OFFSETS // 2  # in 1/32 of a symbol, from the mean
            edges = edges - (np.arange(OFFSETS) - OFFSETS // 2)[:, None]
            tail = beyond[np.abs(edges), begin:end].astype(np.int64)
            below = np.where(edges[..., None] < 0, tail, (1 << MASS_BITS) - tail)
            mass = np.diff(below, axis=1)
            mass = np.concatenate([mass, (1 << MASS_BITS) - mass.sum(1, keepdims=True)], 1)
            table = mass.transpose(2, 0, 1).reshape(-1, 2 * reach + 2)
            self.by_class.append(table / float(1 << MASS_BITS))
            begin = end

    def of(self, p: Prediction, kind: int) -> tuple[np.ndarray, int]:
        """Probabilities ``(n, symbols)``, the last of an escape, and their reach; all scales are of one class."""
        begin = CLASS_ENDS[kind - 1] if kind else 0
        return self.by_class[kind][(p.scale - begin) * OFFSETS + p.offset], REACHES[kind]


def by_class(p: Prediction) -> Iterator[tuple[int, Prediction, Any]]:
    """Classes of scales, the predictions of each, and where among ``p`` they are."""
    if p.scale.max() < CLASS_ENDS[0]:
        yield 0, p, slice(None)
        return
    kinds = (p.scale >= CLASS_ENDS[0]) + (p.scale >= CLASS_ENDS[1]).astype(np.int8)
    for kind in range(len(REACHES)):
        at = np.flatnonzero(kinds == kind)
        if len(at):
            yield kind, Prediction(p.mean[at], p.offset[at], p.scale[at]), at


def _ratio(scale: int) -> int:
    """exp(-1 / (32 b)) in units of 2**-32, for b = exp(scale / 12 - 5); correctly rounded by `decimal`."""
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
        first = np.concatenate([np.concatenate([f8["near"], f8["skip"]]), f8["coarse"]], 1)
        self.first, self.bias = np.ascontiguousarray(first.T), f8["bias"]
        # scaled by a power of two, sums stay exact; the identity is the connection past the middle layer
        self.middle = np.ascontiguousarray(f8["middle"].T) / ONE + np.eye(self.hidden)
        self.middle_bias = f8["middle_bias"]
        self.out = np.ascontiguousarray(f8["out"].T) / ONE

    def __call__(self, around: np.ndarray, bias: np.ndarray) -> Prediction:
        """``around`` ``(n, neighbours + 9)``: decoded symbols of the grid, then the coarser grid's 3x3; float64.

        ``bias`` ``(n or 1, hidden + 2)`` is that of the positions' grids.
        """
        first = around @ self.first
        first += bias
        one = np.maximum(first[:, : self.hidden], 0.0)
        np.minimum(one, HIDDEN_LIMIT, out=one)
        two = one @ self.middle
        two += self.middle_bias
        np.floor(two, out=two)
        np.maximum(two, 0.0, out=two)
        np.minimum(two, HIDDEN_LIMIT, out=two)
        out = two @ self.out
        out += first[:, self.hidden :]
        out *= UNITS
        out += ZEROS
        np.floor(out, out=out)
        np.maximum(out, LEAST, out=out)
        np.minimum(out, MOST, out=out)
        mean, scale = out.astype(np.int64).T
        return Prediction(mean >> OFFSET_BITS, mean & (OFFSETS - 1), scale)


class Encoder:
    """Writes symbols by their predictions."""

    def __init__(self) -> None:
        self.coder, self.tables = queue.RangeEncoder(), tables()

    def write(self, symbols: np.ndarray, p: Prediction) -> None:
        """Appends symbols (within +-511), one for each prediction, class by class of scales.

        After each class come those of its symbols without a probability of their own.
        """
        for kind, part, at in by_class(p):
            table, reach = self.tables.of(part, kind)
            index = symbols[at] - part.mean + reach
            outside = (index < 0) | (index > 2 * reach)
            self.coder.encode(np.where(outside, 2 * reach + 1, index).astype(np.int32), FAMILY, table)
            if outside.any():
                self.coder.encode((symbols[at][outside] + SYMBOL_LIMIT + 1).astype(np.int32), RAW)


class Decoder:
    """Reads back what an `Encoder` wrote, by the same predictions."""

    def __init__(self, stream: bytes) -> None:
        self.coder, self.tables = decoder_of(stream), tables()

    def read(self, p: Prediction) -> np.ndarray:
        """The next symbols, one for each prediction. Raises `FormatError` if the stream cannot hold them."""
        symbols = np.empty(len(p.scale), np.int64)
        try:
            for kind, part, at in by_class(p):
                symbols[at] = self._read(part, kind)
        except AssertionError:
            raise FormatError("damaged: the coded symbols are not valid") from None
        if max(symbols.max(), -symbols.min()) > SYMBOL_LIMIT:
            raise FormatError("damaged: a symbol is out of bounds")
        return symbols

    def _read(self, p: Prediction, kind: int) -> np.ndarray:
        table, reach = self.tables.of(p, kind)
        index = self.coder.decode(FAMILY, table)
        symbols = index + (p.mean - reach)
        if index.max() > 2 * reach:
            outside = np.flatnonzero(index > 2 * reach)
            symbols[outside] = self.coder.decode(RAW, len(outside)) - (SYMBOL_LIMIT + 1)
        return symbols
