"""Images of few colours in columns: round trips, what they are worth on text, and streams that lie."""

from __future__ import annotations

import lzma

import numpy as np
import pytest

from nicc import columns
from nicc.columns import HEAD, MAGIC, MOST_COLOURS, Layout, columns_stream, layout_of, pixels_of_columns, size_of
from nicc.errors import NiccError
from nicc.lossless import lossless_stream
from tests.test_lossless import drawing


def few(height: int, width: int, colours: int, seed: int = 0) -> np.ndarray:
    """An image of exactly so many colours."""
    rng = np.random.default_rng(seed)
    palette = rng.choice(1 << 24, colours, replace=False)
    index = rng.permutation(np.concatenate([np.arange(colours), rng.integers(0, colours, height * width - colours)]))
    codes = palette[index].reshape(height, width)
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "colours"),
    [(1, 1, 1), (1, 300, 7), (300, 1, 7), (47, 31, 2), (32, 32, 256), (33, 40, 257), (100, 99, MOST_COLOURS)],
)
@pytest.mark.parametrize("layout", [None, Layout(1), Layout(13, as_they_come=True), Layout(500)])
@pytest.mark.parametrize("quick", [False, True])
def test_every_pixel_comes_back(height, width, colours, layout, quick):
    pixels = few(height, width, colours)
    stream = columns_stream(pixels, quick, layout)
    assert size_of(stream) == (width, height)
    np.testing.assert_array_equal(pixels_of_columns(stream), pixels)


def test_there_are_limits():
    assert columns_stream(few(100, 99, MOST_COLOURS + 1)) is None
    assert layout_of(few(100, 99, MOST_COLOURS + 1)) is None
    assert columns_stream(np.zeros((1, 65536, 3), np.uint8)) is None


def test_lines_of_text_find_their_height(monkeypatch):
    page = np.asarray(drawing(300, 400))  # lines are 12 pixels apart, which is none of the fixed heights
    assert layout_of(page).rows in (12, 13)
    found = lossless_stream(page)
    assert found.startswith(MAGIC)
    monkeypatch.setattr(columns, "MOST_COLOURS", 0)
    assert len(found) < 0.75 * len(lossless_stream(page))  # WebP


def test_gradients_number_their_colours_as_they_come():
    ramp = np.linspace(0, 4 * np.pi, 240)
    colours = 128 + np.stack([120 * np.sin(ramp), 120 * np.cos(1.3 * ramp), 110 * np.sin(0.7 * ramp)], -1)
    bars = np.repeat(colours.astype(np.uint8)[:, None], 20, 1)  # colours that no component puts in order
    found = layout_of(bars)
    assert found.as_they_come
    assert len(columns_stream(bars)) < 0.9 * len(columns_stream(bars, layout=Layout(found.rows)))
    assert not layout_of(np.asarray(drawing(300, 400))).as_they_come


def test_without_lzma(monkeypatch):
    page = np.asarray(drawing(300, 400))
    stream = lossless_stream(page)
    monkeypatch.setattr(columns, "lzma", None)
    assert not lossless_stream(page).startswith(MAGIC)
    with pytest.raises(NiccError, match="built without"):
        pixels_of_columns(stream)


def test_streams_that_lie():
    rng = np.random.default_rng(0)
    pixels = few(40, 50, 300)
    stream = columns_stream(pixels)
    body = stream[len(MAGIC) + HEAD.size :]
    heads = [(0, 40, 8, 299), (50, 0, 8, 299), (50, 40, 0, 299), (50, 40, 41, 299), (50, 40, 8, 65535)]
    heads += [
        (50, 41, 8, 299),
        (50, 39, 8, 299),
        (50, 40, 8, 298),
        (50, 40, 8, 300),
        (50, 40, 8, 99),
        (65535, 65535, 8, 299),
    ]
    for head in heads:
        with pytest.raises(ValueError, match=r"head|long|palette"):
            pixels_of_columns(MAGIC + HEAD.pack(*head) + body)
    for bad in (b"", MAGIC, stream[:8], stream[:-3], stream + b"\0", b"X" + stream[1:]):
        with pytest.raises(ValueError, match=r"head|long|damaged"):
            pixels_of_columns(bad)
    beyond = bytes(3 * 300) + bytes([255]) * 4000  # indices of 65535
    coded = lzma.compress(beyond, lzma.FORMAT_RAW, filters=columns._filters(columns.QUICK))
    with pytest.raises(ValueError, match="palette"):
        pixels_of_columns(MAGIC + HEAD.pack(50, 40, 8, 299) + coded)
    for _ in range(100):
        broken = bytearray(stream)
        broken[rng.integers(len(broken))] ^= int(rng.integers(1, 256))
        try:
            found = pixels_of_columns(bytes(broken))
        except ValueError:
            continue
        assert found.dtype == np.uint8
