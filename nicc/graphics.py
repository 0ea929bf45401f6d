"""Pages of photographs and graphics: cells of 32x32 pixels that are stored losslessly, over what a model codes.

The graphics box holds which cells these are, and one lossless image of the whole size in which all other cells are
of one colour. A reader pastes the cells over what a model makes of the file. Latents on which nothing else depends
are not coded.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from nicc.architecture import PIXELS_PER_LATENT
from nicc.columns import Layout, colours_of
from nicc.container import BOX_GRAPHICS, Container, Header
from nicc.errors import FormatError
from nicc.lossless import lossless_stream, pixels_of

CELL = 32
"""Pixels a side: two latents."""
LATENTS_PER_CELL = CELL // PIXELS_PER_LATENT
MAP_LENGTH = struct.Struct("<I")
"""What a graphics box begins with: the bytes of its map."""


@dataclass(frozen=True)
class Layer:
    """Pixels uint8 ``(height, width, 3)``, of which only those in ``cells`` ``(rows, columns)``, bool, count."""

    cells: np.ndarray
    pixels: np.ndarray
    cell: int = CELL

    def paste(self, pixels: np.ndarray, left: int = 0, top: int = 0) -> np.ndarray:
        """Overwrites a part ``(h, w, 3)`` of the image, which lies at ``left`` and ``top``, where cells are."""
        height, width, _ = pixels.shape
        rows = (top + np.arange(height)) // self.cell
        for row in np.unique(rows):
            columns = self.cells[row]
            if not columns.any():
                continue
            inside = np.repeat(columns, self.cell)[left : left + width]
            begin, end = np.searchsorted(rows, [row, row + 1])
            exact = self.pixels[top + begin : top + end, left : left + width]
            pixels[begin:end][:, inside] = exact[:, inside]
        return pixels

    def reduced(self, reduction: int) -> Layer:
        """With squares of 2, 4 or 8 pixels a side become their mean."""
        if reduction == 1:
            return self
        pixels = np.asarray(Image.fromarray(self.pixels).reduce(reduction))
        return replace(self, pixels=pixels, cell=self.cell // reduction)


def grid_of(width: int, height: int) -> tuple[int, int]:
    """Rows and columns of cells."""
    return -(-height // CELL), -(-width // CELL)


def spread(cells: np.ndarray, width: int, height: int) -> np.ndarray:
    """A value per cell as one per pixel, ``(height, width)``."""
    return np.repeat(np.repeat(cells, CELL, 0)[:height], CELL, 1)[:, :width]


def box_of(pixels: np.ndarray, cells: np.ndarray, quick: bool = False, layout: Layout | None = None) -> bytes:
    """The payload of a graphics box: uint8 ``(height, width, 3)``, of which ``cells`` are stored.

    ``quick`` and ``layout`` are as in `lossless_stream`.
    """
    shown = shown_of(pixels, cells)
    map_bytes = zlib.compress(np.packbits(cells).tobytes(), 9)
    return MAP_LENGTH.pack(len(map_bytes)) + map_bytes + lossless_stream(shown, quick, layout)


def shown_of(pixels: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """The image of which ``cells`` are stored, with one colour everywhere else."""
    height, width, _ = pixels.shape
    stored = spread(cells.repeat(3, 1), 3 * width, height)  # rows of bytes: a broadcast would be a loop over three
    flat = np.where(stored, pixels.reshape(height, -1), np.tile(_ground(pixels, cells), width))
    return flat.reshape(pixels.shape)


def _ground(pixels: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """What fills the other cells: the commonest colour of those that are stored, which joins on to them."""
    height, width, _ = pixels.shape
    colours, _, counts = colours_of(pixels[spread(cells, width, height)][::7])
    return colours[counts.argmax()] if len(colours) else np.zeros(3, np.uint8)


@dataclass(frozen=True)
class Stored:
    """Which cells of an image are stored exactly, and what nothing else that is seen depends on. All bool."""

    cells: np.ndarray
    """``(rows, columns)``."""
    latents: np.ndarray
    """Those in cells all of whose neighbours are stored, ``(h, w)``: a pixel depends on two latents on every side."""
    hyper_latents: np.ndarray
    """Those that are interpolated to such latents alone, ``(zh, zw)``."""

    @classmethod
    def of(cls, header: Header, extras: dict[int, bytes]) -> Stored | None:
        """By the boxes of a file; None without graphics. Raises `FormatError` for what cannot be."""
        if (payload := extras.get(BOX_GRAPHICS)) is None:
            return None
        cells, _ = _map_of(payload, header)
        rows, columns = cells.shape
        inner = sliding_window_view(np.pad(cells, 1, constant_values=True), (3, 3)).all((2, 3))
        h, w = -(-header.height // PIXELS_PER_LATENT), -(-header.width // PIXELS_PER_LATENT)
        latents = inner.repeat(LATENTS_PER_CELL, 0)[:h].repeat(LATENTS_PER_CELL, 1)[:, :w]
        # a hyper-latent, of 2x2 cells, reaches one cell further
        wide = np.pad(inner, ((1, 1 + rows % 2), (1, 1 + columns % 2)), constant_values=True)
        return cls(cells, latents, sliding_window_view(wide, (4, 4))[::2, ::2].all((2, 3)))

    def pixels(self, first: int, last: int) -> np.ndarray:
        """Those of latent rows that are stored, bool; at the right and the bottom they may reach beyond the image."""
        rows = self.cells.repeat(LATENTS_PER_CELL, 0)[first:last]
        return rows.repeat(PIXELS_PER_LATENT, 0).repeat(CELL, 1)


def layer_of(container: Container) -> Layer | None:
    """The cells of a file that are stored exactly, if there are any. Raises `FormatError` for what cannot be."""
    payload = container.extras.get(BOX_GRAPHICS)
    if payload is None:
        return None
    cells, end = _map_of(payload, container.header)
    return Layer(cells, pixels_of(payload[end:], container.header, "the graphics", "are not of the image's size"))


def _map_of(payload: bytes, header: Header) -> tuple[np.ndarray, int]:
    """The cells that a graphics box stores, and where its image begins."""
    rows, columns = grid_of(header.width, header.height)
    if len(payload) < MAP_LENGTH.size:
        raise FormatError("truncated: the graphics box has no map")
    end = MAP_LENGTH.size + MAP_LENGTH.unpack_from(payload)[0]
    expected = -(-rows * columns // 8)
    reader = zlib.decompressobj()
    try:
        bits = reader.decompress(payload[MAP_LENGTH.size : end], expected + 1)
    except zlib.error:
        raise FormatError("damaged: the map of the graphics box cannot be read") from None
    cells = np.unpackbits(np.frombuffer(bits, np.uint8))
    if len(bits) != expected or not reader.eof or reader.unused_data or cells[rows * columns :].any():
        raise FormatError("damaged: the map of the graphics box is not one of this image")
    return cells[: rows * columns].reshape(rows, columns).astype(bool), end
