"""A pyramid's networks: their parameters in training, as integers, and as bytes in a file.

In a file, a parameter is an integer in units of 2**-12: that of the model's trained start, which both sides have,
plus a coded difference in steps of a power of two. Most differences are zero.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from nicc.entropy import stream_of
from nicc.errors import FormatError
from nicc.pyramid.coding import (
    OFFSETS,
    REACHES,
    SCALES,
    SYMBOL_LIMIT,
    WEIGHT_BITS,
    WEIGHT_LIMIT,
    Decoder,
    Encoder,
    Prediction,
    by_class,
    model,
    tables,
)
from nicc.pyramid.layout import PyramidArchitecture, views

STEPS = 12
"""Steps of differences: 2**0 to 2**11 units of 2**-12."""
_STEP, _SCALE = model.Uniform(STEPS + 1), model.Uniform(SCALES)
UNCHANGED = STEPS
"""In the place of a step: the array is the start's."""


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


def _of_zero(count: int, scale: int) -> Prediction:
    """Predictions for differences around zero."""
    return Prediction(*(np.full(count, v) for v in (0, OFFSETS // 2, scale)))


@lru_cache(maxsize=1)
def _bits_by_size() -> tuple[np.ndarray, np.ndarray]:
    """The scales that differences may have, and the bits of an integer by scale and size; the last are an escape's."""
    scales = np.arange(0, SCALES, 2)
    bits = np.empty((len(scales), REACHES[-1] + 2))
    for row, scale in zip(bits, scales.tolist(), strict=True):
        [(kind, p, _)] = by_class(_of_zero(1, scale))
        table, reach = tables().of(p, kind)
        mass = np.append(table[0, reach : 2 * reach + 1], table[0, -1] / (2 * SYMBOL_LIMIT))
        row[:] = -np.log2(np.maximum(mass[np.minimum(np.arange(len(row)), reach + 1)], 2.0**-24))
    return scales, bits


def difference_bits(differences: np.ndarray) -> tuple[float, int]:
    """Bits that integers take, and the scale whose distribution takes the fewest."""
    scales, bits = _bits_by_size()
    counts = np.bincount(np.minimum(np.abs(differences), bits.shape[1] - 1), minlength=bits.shape[1])
    taken = bits @ counts
    best = int(np.argmin(taken))
    return float(taken[best]), int(scales[best])


def encode_networks(arch: PyramidArchitecture, start: np.ndarray, integers: np.ndarray, steps: dict[str, int]) -> bytes:
    """The bytes of parameters ``integers``, which differ from ``start`` by whole steps of 2**``steps`` units."""
    encoder = Encoder()
    coder = encoder.coder
    shapes = arch.shapes()
    of, base = views(integers, shapes), views(start, shapes)
    for name in shapes:
        units = (of[name] - base[name]).reshape(-1)
        if not units.any():
            coder.encode(np.array([UNCHANGED], np.int32), _STEP)
            continue
        differences = units >> steps[name]
        if (differences << steps[name] != units).any() or np.abs(differences).max() > SYMBOL_LIMIT:
            raise ValueError(f"parameters of {name} are no whole steps from the start")
        scale = difference_bits(differences)[1]
        coder.encode(np.array([steps[name]], np.int32), _STEP)
        coder.encode(np.array([scale], np.int32), _SCALE)
        encoder.write(differences, _of_zero(len(differences), scale))
    return stream_of(coder)


def decode_networks(arch: PyramidArchitecture, start: np.ndarray, stream: bytes) -> np.ndarray:
    """Parameters, int64, in units of 2**-12. Raises `FormatError` for bytes that mean none within bounds."""
    decoder = Decoder(stream)
    coder = decoder.coder
    out = start.copy()
    try:
        parameters = views(out, arch.shapes())
        for name in parameters:
            array = parameters[name]
            if (step := int(coder.decode(_STEP, 1)[0])) == UNCHANGED:
                continue
            scale = int(coder.decode(_SCALE, 1)[0])
            differences = decoder.read(_of_zero(array.size, scale))
            array[:] = array + (differences << step).reshape(array.shape)
    except AssertionError:
        raise FormatError("damaged: the coded networks are not valid") from None
    if np.abs(out).max() > WEIGHT_LIMIT:
        raise FormatError("damaged: a parameter of the networks is out of bounds")
    return out
