"""A pyramid's networks: their parameters in training, as integers, and as bytes in a file.

In a file, a parameter is an integer in units of 2**-12: that of the model's trained start, which both sides have,
plus what coded coefficients of the model's directions add to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nicc.entropy import stream_of
from nicc.errors import FormatError
from nicc.laplace import (
    OFFSETS,
    REACHES,
    SCALES,
    SYMBOL_LIMIT,
    Decoder,
    Encoder,
    Prediction,
    by_class,
    model,
    probabilities,
)
from nicc.pyramid.coding import WEIGHT_BITS, WEIGHT_LIMIT
from nicc.pyramid.directions import STEPS, Directions
from nicc.pyramid.layout import PyramidArchitecture, views

OFFSET_RANGE = 256
"""Numbers of scales by which those of a file may lie above or below the model's, plus 128."""
SPLIT = 96
"""Coefficients of scales above this are divided by a power of two, and the remainders coded as they are."""
MOST_DIVIDED = 6
SCALES_PER_BIT = 8
"""Division by two lowers the number of a scale by so much: 12 log 2, rounded down."""
COARSE = 8
"""The best offset is sought among every eighth, then around the best of these."""
_STEP, _OFFSET = model.Uniform(STEPS), model.Uniform(OFFSET_RANGE)


class Networks:
    """Parameters as one float32 vector, with views by name."""

    def __init__(self, arch: PyramidArchitecture, flat: np.ndarray | None = None) -> None:
        self.arch = arch
        self.flat = np.zeros(arch.parameters(), np.float32) if flat is None else flat.astype(np.float32)
        self.of = views(self.flat, arch.shapes())

    def __getitem__(self, name: str) -> np.ndarray:
        return self.of[name]

    @classmethod
    def of_integers(cls, arch: PyramidArchitecture, integers: np.ndarray) -> Networks:
        return cls(arch, integers / float(1 << WEIGHT_BITS))

    def integers(self) -> np.ndarray:
        """The nearest parameters that a file or a start can have, int64 in units of 2**-12."""
        nearest = np.rint(self.flat.astype(np.float64) * (1 << WEIGHT_BITS)).astype(np.int64)
        return np.clip(nearest, -WEIGHT_LIMIT, WEIGHT_LIMIT)


class Begin(NamedTuple):
    """What networks in a file may differ from: a start's parameters, int64 in units of 2**-12, and the directions."""

    start: np.ndarray
    directions: Directions


class Change(NamedTuple):
    """How networks differ from their start: integer coefficients of the first directions, and how they are coded.

    ``step`` is the coefficients' unit, 2**-(2 + step); ``offset`` is added to the numbers of their scales.
    """

    coefficients: np.ndarray
    step: int
    offset: int

    @property
    def used(self) -> int:
        """Coefficients up to the last that is not zero."""
        nonzero = np.flatnonzero(self.coefficients)
        return int(nonzero[-1]) + 1 if len(nonzero) else 0


UNCHANGED = Change(np.zeros(0, np.int64), 0, 0)


class Coding(NamedTuple):
    """How coefficients are coded: divided by 2**``divided``, then by Laplace distributions of numbers of scales."""

    divided: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, directions: Directions, count: int, offset: int) -> Coding:
        """That of the first ``count`` coefficients in a file."""
        most = SPLIT + SCALES_PER_BIT * MOST_DIVIDED
        scales = np.clip(directions.spreads[:count] + (offset - OFFSET_RANGE // 2), 0, most)
        divided = -(-np.maximum(scales - SPLIT, 0) // SCALES_PER_BIT)
        return cls(divided, scales - SCALES_PER_BIT * divided)

    @property
    def limit(self) -> np.ndarray:
        """The largest coefficients that can be coded."""
        return SYMBOL_LIMIT << self.divided

    @property
    def prediction(self) -> Prediction:
        """That of quotients: around zero."""
        n = len(self.scales)
        return Prediction(np.zeros(n, np.int64), np.full(n, OFFSETS // 2), self.scales)

    @property
    def half(self) -> np.ndarray:
        """Added before a division, so that quotients are nearest integers."""
        return (1 << self.divided) >> 1

    def bits(self, coefficients: np.ndarray) -> np.ndarray:
        """About the bits that ``(..., n)`` coefficients take; escapes at their least."""
        sizes = np.abs((coefficients + self.half) >> self.divided)
        taken: np.ndarray = bits_by_size()[self.scales, np.minimum(sizes, REACHES[-1] + 1)] + self.divided
        return taken

    def write(self, encoder: Encoder, coefficients: np.ndarray) -> None:
        """Appends quotients, then the remainders."""
        shifted = coefficients + self.half
        encoder.write(shifted >> self.divided, self.prediction)
        parts = np.flatnonzero(self.divided)
        if len(parts):
            sizes = 1 << self.divided[parts]
            encoder.coder.encode((shifted[parts] % sizes).astype(np.int32), model.Uniform(), sizes.astype(np.int32))

    def read(self, decoder: Decoder) -> np.ndarray:
        """What `write` wrote. Raises `FormatError` if the stream cannot hold it."""
        coefficients = (decoder.read(self.prediction) << self.divided) - self.half
        parts = np.flatnonzero(self.divided)
        if len(parts):
            sizes = (1 << self.divided[parts]).astype(np.int32)
            coefficients[parts] += decoder.coder.decode(model.Uniform(), sizes)
        return coefficients


@lru_cache(maxsize=1)
def bits_by_size() -> np.ndarray:
    """Bits of a symbol by the number of its scale and its size; the last size stands for all that escape."""
    bits = np.empty((SCALES, REACHES[-1] + 2))
    for scale, row in enumerate(bits):
        [(kind, p, _)] = by_class(Coding(np.zeros(1, np.int64), np.array([scale])).prediction)
        [near], reach = probabilities(p, kind)
        mass = np.append(near[reach : 2 * reach + 1], near[-1] / (2 * SYMBOL_LIMIT))
        row[:] = -np.log2(np.maximum(mass[np.minimum(np.arange(len(row)), reach + 1)], 2.0**-24))
    return bits


def change_bits(directions: Directions, change: Change) -> float:
    """About the bits that `encode_networks` takes; escapes at their least."""
    return float(Coding.of(directions, change.used, change.offset).bits(change.coefficients[: change.used]).sum())


def best_offset(directions: Directions, change: Change) -> int:
    """The offset with which a change's coefficients take the fewest bits, which rise to either side of it."""
    coefficients = change.coefficients[: change.used]

    def taken(offset: int) -> float:
        return float(Coding.of(directions, len(coefficients), offset).bits(coefficients).sum())

    near = min(range(0, OFFSET_RANGE, COARSE), key=taken)
    return min(range(max(near - COARSE, 0), min(near + COARSE, OFFSET_RANGE)), key=taken)


def encode_networks(begins: Sequence[Begin], family: int, change: Change) -> bytes:
    """The bytes of a change from one of ``begins``, those of the model's families; zeros at its end are left out."""
    encoder = Encoder()
    coder = encoder.coder
    directions, count = begins[family].directions, change.used
    if len(begins) > 1:
        coder.encode(np.array([family], np.int32), model.Uniform(len(begins)))
    coder.encode(np.array([count], np.int32), model.Uniform(len(directions) + 1))
    if count:
        coder.encode(np.array([change.step], np.int32), _STEP)
        coder.encode(np.array([change.offset], np.int32), _OFFSET)
        Coding.of(directions, count, change.offset).write(encoder, change.coefficients[:count])
    return stream_of(coder)


def decode_networks(begins: Sequence[Begin], stream: bytes) -> np.ndarray:
    """Parameters, int64, in units of 2**-12. Raises `FormatError` for bytes that mean none within bounds."""
    decoder = Decoder(stream)
    coder = decoder.coder
    try:
        begin = begins[int(coder.decode(model.Uniform(len(begins)), 1)[0]) if len(begins) > 1 else 0]
        directions = begin.directions
        count = int(coder.decode(model.Uniform(len(directions) + 1), 1)[0])
        change = UNCHANGED
        if count:
            step, offset = int(coder.decode(_STEP, 1)[0]), int(coder.decode(_OFFSET, 1)[0])
            change = Change(Coding.of(directions, count, offset).read(decoder), step, offset)
    except AssertionError:
        raise FormatError("damaged: the coded networks are not valid") from None
    return changed(begin, change)


def changed(begin: Begin, change: Change) -> np.ndarray:
    """A start's parameters with a change. Raises `FormatError` if one is out of bounds."""
    out: np.ndarray = begin.start + begin.directions.differences(change.coefficients, change.step)
    if np.abs(out).max() > WEIGHT_LIMIT:
        raise FormatError("damaged: a parameter of the networks is out of bounds")
    return out
