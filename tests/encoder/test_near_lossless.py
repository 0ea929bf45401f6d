"""Fewer colours for graphics: how far colours move, what stays as it is, and what it saves."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from nicc.encoder.near_lossless import LARGEST_PALETTE, LARGEST_REACH, reach_of, with_fewer_colours
from nicc.lossless import lossless_stream


@pytest.fixture(scope="module")
def text() -> np.ndarray:
    image = Image.new("RGB", (320, 200), (250, 250, 245))
    draw = ImageDraw.Draw(image)
    for i in range(9):
        draw.text((7.3 * i, 20 * i), "neural codecs draw glyphs 0123", (20 * i, 30, 90), ImageFont.load_default(15 + i))
    return np.asarray(image)


def everywhere(pixels) -> np.ndarray:
    return np.ones(pixels.shape[:2], bool)


@pytest.mark.parametrize("reach", [4, 8, 16])
def test_no_colour_moves_further_than_it_may(text, reach):
    out = with_fewer_colours(text, everywhere(text), reach)
    away = np.abs(out.astype(int) - text).max(-1)
    assert 0 < away.max() <= reach
    assert 0.01 < (away > 0).mean() < 0.3
    assert len(np.unique(out.reshape(-1, 3), axis=0)) < 0.7 * len(np.unique(text.reshape(-1, 3), axis=0))
    assert len(lossless_stream(out)) < 0.9 * len(lossless_stream(text))


def test_only_what_is_stored_moves(text):
    stored = everywhere(text)
    stored[:, 100:] = False
    out = with_fewer_colours(text, stored, 16)
    np.testing.assert_array_equal(out[:, 100:], text[:, 100:])
    assert (out[:, :100] != text[:, :100]).any()
    for nothing in (with_fewer_colours(text, ~everywhere(text), 16), with_fewer_colours(text, stored, 0)):
        np.testing.assert_array_equal(nothing, text)


def test_gradients_and_lines_stay():
    gradient = np.repeat(np.add.outer(np.arange(64), np.arange(96))[..., None], 3, -1).astype(np.uint8)
    lines = np.full((64, 96, 3), 200, np.uint8)
    for i in range(0, 64, 4):
        lines[i] = 190 + i // 8  # one pixel wide, near to the ground and to each other
    for image in (gradient, lines):
        np.testing.assert_array_equal(with_fewer_colours(image, everywhere(image), 16), image)


def test_colours_beyond_the_palette_stay():
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    out = with_fewer_colours(image, everywhere(image), 3)
    away = np.abs(out.astype(int) - image).max(-1)
    assert away.max() <= 3
    kept = len(np.unique(image[away == 0], axis=0))
    assert kept > 2 * LARGEST_PALETTE


def test_reach_falls_as_quality_rises():
    reaches = [reach_of(weight) for weight in (0.0007, 0.01, 0.04, 0.15, 0.32, 0.86)]
    assert reaches == sorted(reaches, reverse=True)
    assert reaches[0] == LARGEST_REACH
    assert reaches[-1] == 0
    assert reach_of(0.32) == 4
