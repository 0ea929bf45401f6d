"""Parts of images and thumbnails are those of the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import nicc
from nicc.container import Header, unpack
from nicc.decoder import decode as decoder
from nicc.decoder.decode import Window, decode_pixels
from nicc.decoder.limits import memory_needed


@pytest.fixture(scope="module")
def tall(coffee):
    return nicc.encode(coffee.resize((150, 2300)), quality=20)


@pytest.mark.parametrize(
    "window",
    [
        (0, 0, 150, 2300),
        (0, 0, 1, 1),
        (149, 2299, 1, 1),
        (37, 51, 60, 70),
        (16, 992, 64, 64),  # both sides of the first joint between groups
        (130, 1024, 20, 300),
        (0, 2040, 150, 260),
    ],
)
def test_a_window_is_that_part_of_the_image(tall, window):
    whole = np.asarray(nicc.decode(tall)).astype(int)
    left, top, width, height = window
    part = np.asarray(nicc.decode(tall, crop=window)).astype(int)
    assert part.shape == (height, width, 3)
    difference = np.abs(part - whole[top : top + height, left : left + width])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_a_window_decodes_only_the_groups_it_needs(tall, monkeypatch):
    read, groups = [], decoder.read_group

    def counting(model, header, z, stream, rows, *others):
        read.append(rows[0])
        return groups(model, header, z, stream, rows, *others)

    monkeypatch.setattr(decoder, "read_group", counting)
    decode_pixels(unpack(tall), window=Window(10, 1300, 40, 40))
    assert read == [64]
    decode_pixels(unpack(tall), window=Window(10, 1000, 40, 40))
    assert read == [64, 0, 64]


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_thumbnails_are_means_of_squares(tall, reduction):
    whole = nicc.decode(tall)
    small = nicc.decode(tall, reduction=reduction)
    assert small.size == (-(-150 // reduction), -(-2300 // reduction))
    expected = np.asarray(whole.reduce(reduction)).astype(int)
    inner = np.abs(np.asarray(small).astype(int) - expected)[: 2300 // reduction, : 150 // reduction]
    assert inner.max() <= 2
    assert inner.mean() < 0.4
    part = nicc.decode(tall, crop=(16, 32, 64, 80), reduction=reduction)
    assert part.size == (64 // reduction, 80 // reduction)


def test_alpha_follows(coffee):
    image = coffee.resize((100, 90)).convert("RGBA")
    ramp = np.tile(np.arange(100, dtype=np.uint8), (90, 1))
    image.putalpha(Image.fromarray(ramp))
    data = nicc.encode(image, quality=20)
    part = nicc.decode(data, crop=(30, 20, 40, 50))
    assert np.array_equal(np.asarray(part.getchannel("A")), ramp[20:70, 30:70])
    small = nicc.decode(data, reduction=2)
    assert (small.mode, small.size) == ("RGBA", (50, 45))


@pytest.mark.parametrize("crop", [(0, 0, 0, 5), (-1, 0, 5, 5), (140, 0, 11, 5), (0, 2290, 5, 11), (0, 0, 5, -5)])
def test_windows_outside_are_refused(tall, crop):
    with pytest.raises(ValueError, match="is not inside 150x2300"):
        nicc.decode(tall, crop=crop)


def test_other_reductions_are_refused(tall):
    with pytest.raises(ValueError, match="reduction 3"):
        nicc.decode(tall, reduction=3)


def test_what_memory_a_file_needs(model):
    """The measured peaks are in docs/benchmarks.md; here what makes them larger or smaller."""
    header = Header(1, bytes(4), 12248, 8165, 32)
    whole = memory_needed(model, header)
    assert 1 << 30 < whole < 1700 << 20
    assert whole <= memory_needed(model, replace(header, rate_point=40)) < 2 << 30  # with all channels
    assert memory_needed(model, header, window=Window(0, 0, 512, 512)) < whole - 4 * 12248 * 8165 + (160 << 20)
    assert memory_needed(model, header, reduction=8) < whole - 3.9 * 12248 * 8165
    assert memory_needed(model, header, [0.5]) > whole
    assert memory_needed(model, header, [0.0, None]) > whole + 4 * 12248 * 8165
    small = Header(1, bytes(4), 768, 512, 3)
    assert memory_needed(model, small) < 500 << 20
