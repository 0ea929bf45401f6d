"""Images stored exactly, in place of coded latents: WebP, columns of few colours, or PNG where neither can hold them.

Graphics, text and screenshots come out smaller like this than a transform of 16x16 blocks can make
them. `worth_trying` tells at a glance whether an image may be one of these.
"""

from __future__ import annotations

import io
import zlib
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from nicc import columns
from nicc.container import LOSSLESS_MODEL, Container, Header, with_checksum
from nicc.errors import FormatError, ImageError
from nicc.images import Picture, any_size

WEBP_MAX_SIDE = 16383
WEBP_METHODS = 6, 4
"""The slowest, and one that takes a tenth of its time; of pages of text and pictures, it makes some smaller."""
GLANCE_ROWS = 64
"""A glance at an image looks at no more rows than this."""
FLAT_SHARE = 0.3
"""Share of pixels equal to their left neighbour from which an image may be a graphic; photographs have 0 to 0.15."""
OPTIMISM, OPTIMISM_FLAT = 0.75, 0.02
"""The lossless form takes at least so much of the entropy of differences between neighbours, with few runs or many."""


def lossless_stream(pixels: np.ndarray, quick: bool = False, layout: columns.Layout | None = None) -> bytes:
    """uint8 ``(height, width, 3)`` as a lossless WebP or PNG file, or as `nicc.columns` has it: the smallest.

    ``quick`` leaves out the slower methods; the ``layout`` of columns may be known.
    """
    image = Image.fromarray(pixels)
    in_columns = columns.columns_stream(pixels, quick, layout)
    if max(image.size) > WEBP_MAX_SIDE:
        found = [_saved(image, "PNG", optimize=True)]
    else:
        webp = partial(_saved, image, "WEBP", lossless=True, quality=100, exact=True)
        found = [webp(method=method) for method in (WEBP_METHODS[-1:] if quick else WEBP_METHODS)]
    return min([*found, in_columns] if in_columns else found, key=len)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def store(picture: Picture, stream: bytes | None = None) -> Container:
    """The container of a picture that is stored exactly. Raises `ImageError` if it cannot be."""
    height, width, _ = picture.pixels.shape
    try:
        stream = lossless_stream(picture.pixels) if stream is None else stream
    except (OSError, ValueError) as e:
        raise ImageError(f"cannot be stored losslessly: {e}") from None
    header = Header(LOSSLESS_MODEL, bytes(4), width, height, 0, 0.0, picture.grey)
    container = Container(header, 0, b"", (), dict(picture.extras), lossless=stream)
    return with_checksum(container, zlib.crc32(stream))


def restore(container: Container) -> np.ndarray:
    """The pixels of a stored image, uint8 ``(height, width, 3)``.

    Raises `FormatError` for a stream that is not an image of the header's size; its claimed size is
    compared before any pixel is read.
    """
    header, stream = container.header, container.lossless
    assert stream is not None
    checked = with_checksum(container, zlib.crc32(stream))
    if checked.symbol_checksum != container.symbol_checksum:
        raise FormatError("damaged: the checksum does not match")
    return pixels_of(stream, header, "the lossless image", "is not one of the header's size")


def pixels_of(stream: bytes, header: Header, what: str, mismatch: str) -> np.ndarray:
    """The pixels of a `lossless_stream`, uint8 ``(height, width, 3)``; its claimed size is compared before any is read.

    Raises `FormatError` with ``what`` it is, and with the ``mismatch`` if it is not an image of the header's size.
    """
    try:
        if stream.startswith(columns.MAGIC):
            if columns.size_of(stream) != (header.width, header.height):
                raise FormatError(f"damaged: {what} {mismatch}")
            return columns.pixels_of_columns(stream)
        with any_size(), Image.open(io.BytesIO(stream), formats=["WEBP", "PNG"]) as image:
            if image.size != (header.width, header.height) or image.mode != "RGB" or getattr(image, "n_frames", 1) > 1:
                raise FormatError(f"damaged: {what} {mismatch}")
            return np.asarray(image)
    except (OSError, ValueError, SyntaxError, EOFError):
        raise FormatError(f"damaged: {what} cannot be read") from None


def worth_trying(pixels: np.ndarray, coded_bytes: int) -> bool:
    """Whether the lossless form of an image may be as small as ``coded_bytes``, by a look at some of its rows."""
    rows = pixels[:: max(1, len(pixels) // GLANCE_ROWS)]
    if rows.shape[1] < 2:
        return True
    step = rows[:, 1:].astype(np.int16) - rows[:, :-1]
    flat = np.mean((step[..., 0] | step[..., 1] | step[..., 2]) == 0) >= FLAT_SHARE
    step -= step[..., 1:2] * np.array([1, 0, 1], np.int16)  # colours by their difference from green
    bits = 0.0
    for channel in range(3):
        p = np.bincount(step[..., channel].reshape(-1) + 512) / step[..., 0].size
        p = p[p > 0]
        bits -= float((p * np.log2(p)).sum())
    return bits * (OPTIMISM_FLAT if flat else OPTIMISM) * pixels[..., 0].size / 8 <= coded_bytes
