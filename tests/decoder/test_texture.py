"""Texture boxes: maps come back as they were written, damage is refused, and grain depends on nothing but the place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nicc import FormatError
from nicc.container import BOX_TEXTURE, Container, Header
from nicc.decoder import grain, texture
from nicc.decoder.texture import HIGHEST, SMALLEST_TILE, UNITS, Texture, texture_grid, texture_of

HEADER = Header(3, b"\0\0\0\0", 768, 512, 40, 0.5)


def container_of(content: bytes, **changes) -> Container:
    return Container(replace(HEADER, **changes), 0, b"", (), {BOX_TEXTURE: content})


@pytest.mark.parametrize(("width", "height", "side"), [(768, 512, 5), (1, 1, 5), (1, 1, 16), (33, 700, 6), (65, 64, 6)])
def test_maps_come_back_as_written(width, height, side):
    rng = np.random.default_rng(width)
    shape = (*texture_grid(width, height, side), 2)
    for values in (rng.integers(0, HIGHEST + 1, shape), np.full(shape, HIGHEST), np.zeros(shape, int)):
        read = texture_of(container_of(Texture(side, values).to_bytes(), width=width, height=height))
        assert read is not None
        assert read.side == side
        np.testing.assert_array_equal(read.values, values)


def test_smooth_maps_take_few_bytes():
    rows, columns = np.mgrid[:16, :24]
    smooth = np.stack([4 + (rows + columns) // 6, columns // 8], -1)
    rough = np.random.default_rng(1).permuted(smooth.reshape(-1, 2), axis=0).reshape(smooth.shape)
    plain = Texture(5, np.full((16, 24, 2), 6)).to_bytes()
    assert len(plain) <= 12
    assert len(Texture(5, smooth).to_bytes()) < 0.7 * len(Texture(5, rough).to_bytes())


def test_values_are_interpolated_between_the_middles_of_tiles():
    values = np.array([[[0, 3], [8, 3]], [[8, 12], [16 - 1, 0]]])
    strength, deviation = Texture(5, values).at(0, 0, 64, 64)
    assert strength.dtype == deviation.dtype == np.float32
    assert strength[0, 0] == 0
    assert deviation[10, 40] == pytest.approx(3 * UNITS[1])
    for (i, j), pair in zip(np.ndindex(2, 2), values.reshape(-1, 2), strict=True):
        middle = slice(32 * i + 15, 32 * i + 17), slice(32 * j + 15, 32 * j + 17)
        assert strength[middle].mean() == pytest.approx(pair[0] * UNITS[0], abs=0.06)
        assert deviation[middle].mean() == pytest.approx(pair[1] * UNITS[1], abs=0.06)
    assert strength[15:17, 31:33].mean() == pytest.approx(4 * UNITS[0], abs=0.03)
    part = Texture(5, values).at(20, 10, 30, 40)
    np.testing.assert_array_equal(part[0], strength[20:50, 10:50])
    np.testing.assert_array_equal(part[1], deviation[20:50, 10:50])


def test_damaged_boxes_are_refused(monkeypatch):
    values = np.random.default_rng(2).integers(0, HIGHEST + 1, (16, 24, 2))
    content = Texture(5, values).to_bytes()
    for n in range(3):
        with pytest.raises(FormatError, match="size of tiles"):
            texture_of(container_of(content[:n]))
    for side in (0, SMALLEST_TILE - 1, 17, 255):
        with pytest.raises(FormatError, match="size of tiles"):
            texture_of(container_of(bytes([side]) + content[1:]))
    with pytest.raises(FormatError, match="too many tiles"):
        texture_of(container_of(content, width=65535, height=16000))
    refused = 0
    for n in range(1, len(content)):
        damaged = bytearray(content)
        damaged[n] ^= 0x5A
        try:
            read = texture_of(container_of(bytes(damaged)))
        except FormatError:
            refused += 1
        else:
            assert read is not None
            assert 0 <= read.values.min() <= read.values.max() <= HIGHEST
    assert refused > len(content) // 4  # others are other maps, which the box's checksum tells
    monkeypatch.setattr(texture, "HIGHEST", HIGHEST - 1)
    with pytest.raises(FormatError, match="out of range"):
        texture_of(container_of(content))


def test_noise_is_that_of_the_place_and_nearly_white():
    whole = grain.noise(0, 0, 256, 384)
    np.testing.assert_array_equal(grain.noise(37, 101, 50, 60), whole[37:87, 101:161])
    assert not np.array_equal(grain.noise(1, 0, 256, 384), whole)
    assert whole.dtype == np.float32
    assert abs(whole.mean()) < 0.02
    assert whole.std() == pytest.approx(1, abs=0.02)
    assert (np.abs(whole) > 2).mean() == pytest.approx(0.046, abs=0.01)  # as of a normal distribution
    taps = np.array(grain.KERNEL)
    beside = (taps[:-1] * taps[1:]).sum() / (taps**2).sum()
    for a, b, expected in (
        (whole[1:], whole[:-1], beside),
        (whole[:, 1:], whole[:, :-1], beside),
        (whole[2:], whole[:-2], 1 / (taps**2).sum()),
        (whole[:, 3:], whole[:, :-3], 0),
        (whole[16:], whole[:-16], 0),
        (whole[:, 256:], whole[:, :-256], 0),
    ):
        assert float((a * b).mean()) == pytest.approx(expected, abs=0.03)


def test_noise_does_not_repeat_far_from_the_corner():
    far = grain.noise(40000, 50000, 128, 128)
    near = grain.noise(0, 0, 128, 128)
    assert abs(float((far * near).mean())) < 0.03
    assert far.std() == pytest.approx(1, abs=0.03)
