"""Images of few colours, exactly: indices of colours in columns of strips of rows, under LZMA.

A glyph that comes again is, in a strip of rows as high as a line of text, the same run of bytes wherever it stands.
Raster order cuts it into its rows, between which there is the rest of the line; a coder of runs finds little there.
docs/format.md has the format to the byte.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from nicc.errors import NiccError

try:
    import lzma
except ImportError:  # Python may be built without it
    lzma = None  # type: ignore[assignment]

MAGIC = b"L"
HEAD = struct.Struct("<HHHH")
"""Width, height, rows of a strip, colours less one."""
LARGEST_SIDE = 65535
MOST_COLOURS = 4096
PLANE = 256
"""Colours that one plane of indices tells apart."""
DICTIONARY = 1 << 24
GLANCE_ROWS = 64
"""A glance at an image looks at about so many rows."""
TRIED_LAGS = range(8, 65)
"""Periods of lines of text, in pixels, that are looked for."""
PERIODS = 2
"""So many of these, rounded up and down, are tried as heights of strips."""
FIXED_ROWS = 10, 14, 16, 20, 24, 28, 32
"""Heights of strips that are tried besides."""
LZMA2 = 0x21
QUICKEST, QUICK, SLOWEST = 1, 6, 9 | 1 << 31
"""Presets of LZMA; the last is its extreme one."""


class Layout(NamedTuple):
    """How an image is laid out; a reader need not know how it was chosen."""

    rows: int
    """Of a strip."""
    as_they_come: bool = False
    """Colours are numbered as they first come, so that those of a gradient follow each other, not by their values."""


def columns_stream(pixels: np.ndarray, quick: bool = False, layout: Layout | None = None) -> bytes | None:
    """uint8 ``(height, width, 3)`` in a layout, by default the best that is found.

    None where there are too many colours, or where Python lacks LZMA. ``quick`` is a little larger.
    """
    if (found := _indexed(pixels)) is None:
        return None
    height, width = found[1].shape
    layout = layout or _best_layout(*found)
    layout = layout._replace(rows=min(layout.rows, height))
    coded = _compressed(_payload(*found, layout), QUICK if quick else SLOWEST)
    return MAGIC + HEAD.pack(width, height, layout.rows, found[0].shape[1] - 1) + coded


def layout_of(pixels: np.ndarray) -> Layout | None:
    """The layout that `columns_stream` finds best for an image; None as there."""
    found = _indexed(pixels)
    return _best_layout(*found) if found else None


def _best_layout(palette: np.ndarray, indices: np.ndarray) -> Layout:
    low = indices.astype(np.uint8)
    rows = min(_heights(low), key=lambda rows: len(_compressed(_to_columns(low, rows), QUICKEST)))
    layouts = Layout(rows), Layout(rows, as_they_come=True)
    return min(layouts, key=lambda layout: len(_compressed(_payload(palette, indices, layout), QUICKEST)))


def _payload(palette: np.ndarray, indices: np.ndarray, layout: Layout) -> bytes:
    """What LZMA is given: the palette's differences, then the indices of all pixels."""
    columns = np.frombuffer(_to_columns(indices.astype(np.uint16), layout.rows), np.uint16)
    if layout.as_they_come:
        _, first = np.unique(columns, return_index=True)
        order = np.concatenate([np.argsort(first[:PLANE]), PLANE + np.argsort(first[PLANE:])])
        palette, columns = palette[:, order], np.argsort(order).astype(np.uint16)[columns]
    planes = [columns >> shift for shift in ((0, 8) if palette.shape[1] > PLANE else (0,))]
    differences = np.diff(palette, axis=1, prepend=np.uint8(0))
    return b"".join(part.astype(np.uint8).tobytes() for part in (differences, *planes))


def _indexed(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The palette ``(3, n)`` of an image and its indices ``(height, width)``: the commonest 256 come first."""
    height, width, _ = pixels.shape
    if lzma is None or max(height, width) > LARGEST_SIDE:
        return None
    for rows in (pixels[:: max(1, height // GLANCE_ROWS)], pixels):  # a glance first: photographs have too many
        colours, index, counts = colours_of(rows.reshape(-1, 3))
        if len(colours) > MOST_COLOURS:
            return None
    order = np.argsort(-counts, kind="stable")
    order = np.concatenate([np.sort(order[:PLANE]), np.sort(order[PLANE:])])
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return colours[order].T, rank[index].reshape(height, width)


def colours_of(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different colours of uint8 ``(N, 3)``, which of them each pixel has, and how many have each."""
    codes = pixels.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    begins = np.flatnonzero(np.diff(codes, prepend=-1))  # graphics are long runs: what is sorted is one of each
    lengths = np.diff(begins, append=len(codes))
    found, index = np.unique(codes[begins], return_inverse=True)
    counts = np.bincount(index, lengths, len(found)).astype(np.int64)
    colours = np.stack([found >> 16, found >> 8 & 255, found & 255], -1).astype(np.uint8)
    return colours, index.repeat(lengths), counts


def _filters(preset: int) -> list[dict[str, int]]:
    """For LZMA. Literals are coded without contexts: numbers of colours have no high bits of their own."""
    return [{"id": LZMA2, "preset": preset, "lc": 0, "lp": 0, "pb": 0, "dict_size": DICTIONARY}]


def _compressed(data: bytes, preset: int) -> bytes:
    return lzma.compress(data, lzma.FORMAT_RAW, filters=_filters(preset))


def _heights(index: np.ndarray) -> list[int]:
    """Heights of strips to try: whole columns, rows, and the periods with which rows are busy and empty again."""
    height = len(index)
    busy = np.count_nonzero(np.diff(index.astype(np.int16), axis=1), axis=1).astype(np.float64)
    busy -= busy.mean()
    lags = [lag for lag in TRIED_LAGS if 2 * lag <= height]
    alike = [float(np.dot(busy[lag:], busy[:-lag])) / (height - lag) for lag in lags]
    periods = [lags[i] + up for i in np.argsort(alike)[::-1][:PERIODS] for up in (0, 1)]
    return sorted({rows for rows in (1, *FIXED_ROWS, *periods, height) if rows <= height})


def _to_columns(plane: np.ndarray, rows: int) -> bytes:
    """A plane ``(height, width)``, strip by strip of so many rows, each column by column; the last may be lower."""
    cut = len(plane) // rows * rows
    whole = plane[:cut].reshape(-1, rows, plane.shape[1]).transpose(0, 2, 1)
    return whole.tobytes() + plane[cut:].T.tobytes()


def _from_columns(data: np.ndarray, height: int, width: int, rows: int) -> np.ndarray:
    """The plane of `_to_columns`."""
    cut = height // rows * rows
    whole = data[: cut * width].reshape(-1, width, rows).transpose(0, 2, 1).reshape(cut, width)
    return np.concatenate([whole, data[cut * width :].reshape(width, height - cut).T])


def size_of(stream: bytes) -> tuple[int, int]:
    """Width and height that a `columns_stream` claims. Raises `ValueError` for one that has no head."""
    return _head(stream)[:2]


def _head(stream: bytes) -> tuple[int, int, int, int]:
    """Width, height, rows of a strip and colours."""
    if not stream.startswith(MAGIC) or len(stream) < len(MAGIC) + HEAD.size:
        raise ValueError("no head")
    width, height, rows, last = HEAD.unpack_from(stream, len(MAGIC))
    return width, height, rows, last + 1


def pixels_of_columns(stream: bytes) -> np.ndarray:
    """The pixels of a `columns_stream`, uint8 ``(height, width, 3)``. Raises `ValueError` for what is not one.

    Raises `NiccError` where Python was built without LZMA.
    """
    if lzma is None:
        raise NiccError("the file needs LZMA, which this Python was built without")
    width, height, rows, count = _head(stream)
    pixels, planes = width * height, 2 if count > PLANE else 1
    if not pixels or not 1 <= rows <= height or count > MOST_COLOURS:
        raise ValueError("a head that cannot be")
    expected = 3 * count + planes * pixels
    reader = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(SLOWEST))
    try:
        data = reader.decompress(stream[len(MAGIC) + HEAD.size :], expected + 1)
    except lzma.LZMAError as e:
        raise ValueError("damaged") from e
    if len(data) != expected or not reader.eof or reader.unused_data:
        raise ValueError("not as long as its size says")
    values = np.frombuffer(data, np.uint8)
    palette = np.cumsum(values[: 3 * count].reshape(3, count), axis=1, dtype=np.uint8).T.copy()
    index = _from_columns(values[3 * count :][:pixels], height, width, rows)
    if planes == 2:
        high = _from_columns(values[3 * count + pixels :], height, width, rows).astype(np.uint16)
        high *= PLANE
        high += index
        index = high
    del data, values
    if index.max() >= count:
        raise ValueError("a colour that is not in the palette")
    return palette[index]
