"""What a beta above 0 adds by place, as a file says it: the strength of the head's detail, and grain.

No receiver can know how much of an original's texture is missing: a smooth wall and a grainy one are coded alike. The
sender can. It describes both in a few bytes, by tiles, and the receiver interpolates between the tiles' middles. As in
AV1's film grain synthesis (Norkin and Birkbeck 2018), what is added is described, not coded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nicc.container import BOX_TEXTURE, Container
from nicc.decoder.hyper import neighbours, with_borders
from nicc.entropy import stream_of
from nicc.errors import FormatError
from nicc.geometry import HYPER_REACH, HYPER_STEPS
from nicc.laplace import OFFSET_BITS, OFFSETS, Decoder, Encoder, Prediction, bits_of

SMALLEST_TILE, LARGEST_TILE = 5, 16
"""Logarithms to base 2 of the pixels of a tile's side; the largest covers any image."""
UNITS = (1 / 8, 1 / 3)
"""Of the strength, 1 where the head adds what it would without a box, and of the grain's deviation in levels."""
HIGHEST = 15
"""Units, of both."""
HEADER_BYTES = 3
SCALES = 12 + 4 * np.arange(16)
"""Those of `nicc.laplace` that there are to choose from."""
MOST_TILES = 1 << 16

Array = np.ndarray


@dataclass(frozen=True)
class Texture:
    """Strength and grain by tiles of ``1 << side`` pixels a side, integers 0 to `HIGHEST`, ``(rows, columns, 2)``."""

    side: int
    values: Array

    def at(self, top: int, left: int, height: int, width: int) -> tuple[Array, Array]:
        """Strength, and deviation of the grain in levels, float32 ``(height, width)``, of pixels of the image."""
        values = self.values.astype(np.float32) * np.array(UNITS, np.float32)
        rows = _between(values, top, height, self.side)
        both = _between(rows.transpose(1, 0, 2), left, width, self.side)  # (width, height, 2)
        return both[..., 0].T, both[..., 1].T

    def to_bytes(self) -> bytes:
        """The content of a texture box."""
        flat = self.values.reshape(-1, 2)
        middle = np.rint(flat.mean(0)).astype(np.int64)
        costs: list[Array] = [np.zeros((len(SCALES), 2))]

        def weigh(p: Prediction, symbols: Array) -> Array:
            place = Prediction(p.mean[:, None], p.offset[:, None], SCALES)
            costs.append(bits_of(symbols.reshape(-1)[:, None], place).reshape(-1, 2, len(SCALES)).sum(0).T)
            return symbols

        _walk(self.values, middle, np.zeros(2, np.int64), weigh)
        scale = np.argmin(sum(costs), 0)
        encoder = Encoder()

        def write(p: Prediction, symbols: Array) -> Array:
            encoder.write(symbols.reshape(-1), p)
            return symbols

        _walk(self.values, middle, scale, write)
        header = bytes([self.side, *(16 * a + b for a, b in (middle.tolist(), scale.tolist()))])
        return header + stream_of(encoder.coder)


def texture_of(container: Container) -> Texture | None:
    """That of a file, if it has a texture box. Raises `FormatError` if the box is damaged."""
    if (content := container.extras.get(BOX_TEXTURE)) is None:
        return None
    if len(content) < HEADER_BYTES or not SMALLEST_TILE <= content[0] <= LARGEST_TILE:
        raise FormatError("damaged: the texture box does not begin with the size of tiles")
    middle, scale = (np.array(divmod(number, 16)) for number in content[1:HEADER_BYTES])
    side, decoder = content[0], Decoder(content[HEADER_BYTES:])
    rows, columns = texture_grid(container.header.width, container.header.height, side)
    if rows * columns > MOST_TILES:
        raise FormatError("damaged: the texture box has too many tiles")

    def read(p: Prediction, here: Array) -> Array:
        return decoder.read(p).reshape(here.shape)

    values = _walk(np.zeros((rows, columns, 2), np.int64), middle, scale, read)
    if values.min() < 0 or values.max() > HIGHEST:
        raise FormatError("damaged: the texture box has values out of range")
    return Texture(side, values)


def texture_grid(width: int, height: int, side: int) -> tuple[int, int]:
    """Rows and columns of the tiles of an image."""
    return -(-height >> side), -(-width >> side)


def _walk(values: Array, middle: Array, scale: Array, visit: Callable[[Prediction, Array], Array]) -> Array:
    """Visits the values of all tiles, ``(rows, columns, 2)``, in the order of hyper-latents.

    The mean of its decoded neighbours is expected of each, ``middle`` where there are none yet. ``visit`` gets the
    distributions of a step and ``values`` there, and returns what they are.
    """
    found = np.zeros(values.shape, np.int64)
    known, inside = with_borders(found), with_borders(np.ones_like(found))
    for step in HYPER_STEPS:
        here = values[step.at]
        if not here.size:
            continue
        count = np.broadcast_to(neighbours(inside, step), here.shape)
        expected = np.where(count, OFFSETS * neighbours(known, step) // np.maximum(count, 1), OFFSETS * middle)
        place = (expected + OFFSETS // 2).reshape(-1)
        scales = np.broadcast_to(SCALES[scale], here.shape).reshape(-1)
        found[step.at] = visit(Prediction(place >> OFFSET_BITS, place & (OFFSETS - 1), scales), here)
        known[HYPER_REACH:-HYPER_REACH, HYPER_REACH:-HYPER_REACH][step.at] = found[step.at]
    return found


def _between(values: Array, first: int, count: int, side: int) -> Array:
    """Values of tiles along the first axis, interpolated to so many pixels from the first on."""
    at = (np.arange(first, first + count) + 0.5) / (1 << side) - 0.5
    at = at.clip(0, len(values) - 1)
    tile = at.astype(np.int64)
    share = (at - tile).astype(np.float32)[:, None, None]
    here: Array = values[tile]
    return here + share * (values[np.minimum(tile + 1, len(values) - 1)] - here)
