"""Laplace distributions of symbols, of tabulated scales and offsets, from integers alone; and coders of such symbols.

Every machine has the same probabilities, so a stream means the same on each.
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

SYMBOL_LIMIT = 511
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

model, queue = constriction.stream.model, constriction.stream.queue
FAMILY = model.Categorical(perfect=False)
RAW = model.Uniform(2 * SYMBOL_LIMIT + 2)


class Prediction(NamedTuple):
    """How symbols are distributed: whole part of the mean, offset 0..31 in 1/32 from -1/2, scale 0..120."""

    mean: np.ndarray
    offset: np.ndarray
    scale: np.ndarray


@lru_cache(maxsize=len(REACHES))
def table(kind: int) -> np.ndarray:
    """Probabilities of the symbols around a mean, by scale and offset of a class, from integers alone.

    ``(scales * OFFSETS, symbols)``, the last of an escape. The Laplace distribution of scale b has the mass
    exp(-n / (32 b)) / 2 beyond n/32; its powers are multiplied up in fixed point, 32 bits after the point, from
    correctly rounded numbers, so every machine has the same tables.
    """
    reach, begin, end = REACHES[kind], first_scale(kind), CLASS_ENDS[kind]
    ratios = np.array([_ratio(s) for s in range(begin, end)], np.uint64)
    beyond = np.empty((OFFSETS * (reach + 1) + 1, end - begin), np.uint64)  # mass beyond n/32, by n
    beyond[0] = 1 << (MASS_BITS - 1)
    for n in range(1, len(beyond)):
        beyond[n] = (beyond[n - 1] * ratios) >> np.uint64(MASS_BITS)
    edges = OFFSETS * np.arange(-reach, reach + 2)[None] - OFFSETS // 2  # in 1/32 of a symbol, from the mean
    edges = edges - (np.arange(OFFSETS) - OFFSETS // 2)[:, None]
    tail = beyond[np.abs(edges)].astype(np.int64)
    below = np.where(edges[..., None] < 0, tail, (1 << MASS_BITS) - tail)
    mass = np.diff(below, axis=1)
    mass = np.concatenate([mass, (1 << MASS_BITS) - mass.sum(1, keepdims=True)], 1)
    return mass.transpose(2, 0, 1).reshape(-1, 2 * reach + 2) / float(1 << MASS_BITS)


def first_scale(kind: int) -> int:
    """The lowest scale of a class."""
    return CLASS_ENDS[kind - 1] if kind else 0


def probabilities(p: Prediction, kind: int) -> tuple[np.ndarray, int]:
    """Probabilities ``(n, symbols)``, the last of an escape, and their reach; all scales are of one class."""
    return table(kind)[(p.scale - first_scale(kind)) * OFFSETS + p.offset], REACHES[kind]


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


class Encoder:
    """Writes symbols by their predictions."""

    def __init__(self) -> None:
        self.coder = queue.RangeEncoder()

    def write(self, symbols: np.ndarray, p: Prediction) -> None:
        """Appends symbols (within +-511), one for each prediction, class by class of scales.

        After each class come those of its symbols without a probability of their own.
        """
        for kind, part, at in by_class(p):
            rows, reach = probabilities(part, kind)
            index = symbols[at] - part.mean + reach
            outside = (index < 0) | (index > 2 * reach)
            self.coder.encode(np.where(outside, 2 * reach + 1, index).astype(np.int32), FAMILY, rows)
            if outside.any():
                self.coder.encode((symbols[at][outside] + SYMBOL_LIMIT + 1).astype(np.int32), RAW)


class Decoder:
    """Reads back what an `Encoder` wrote, by the same predictions."""

    def __init__(self, stream: bytes) -> None:
        self.coder = decoder_of(stream)

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
        rows, reach = probabilities(p, kind)
        index = self.coder.decode(FAMILY, rows)
        symbols = index + (p.mean - reach)
        if index.max() > 2 * reach:
            outside = np.flatnonzero(index > 2 * reach)
            symbols[outside] = self.coder.decode(RAW, len(outside)) - (SYMBOL_LIMIT + 1)
        return symbols


def bits_of(symbols: np.ndarray, p: Prediction) -> np.ndarray:
    """Bits of symbols in closed form: tables have a row for each."""
    away = np.abs(symbols - (p.mean + p.offset / OFFSETS - 0.5))
    scale = np.exp(p.scale / SCALES_PER_NAT - SCALE_RANGE)
    far = 0.5 * np.exp(-np.maximum(away - 0.5, 0) / scale) * -np.expm1(-1 / scale)
    near = 1 - 0.5 * (np.exp(-(0.5 + away) / scale) + np.exp(-np.maximum(0.5 - away, 0) / scale))
    bits: np.ndarray = -np.log2(np.maximum(np.where(away > 0.5, far, near), 2.0**-32))
    return bits
