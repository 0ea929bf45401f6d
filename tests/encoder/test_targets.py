"""Targets of size and PSNR: met, closely, or refused with what can be had."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import nicc
from nicc.bench.metrics import ssimulacra2
from nicc.cli.files import bytes_of
from nicc.encoder.entry import encode_picture
from nicc.encoder.settings import Options
from nicc.images import from_image
from tests.conftest import psnr


@pytest.fixture
def photo(coffee):
    return coffee.crop((60, 60, 380, 300))


@pytest.mark.parametrize("size", [2500, 6000, 9999])
def test_sizes_are_not_exceeded_and_nearly_used(photo, size):
    data = nicc.encode(photo, target_size=size)
    assert 0.97 * size <= len(data) <= size


def test_bits_per_pixel(photo):
    data = nicc.encode(photo, target_bpp=0.6)
    assert 0.97 * 0.6 <= len(data) * 8 / (320 * 240) <= 0.6


@pytest.mark.parametrize("target", [29.0, 32.5])
def test_psnr_is_reached_and_hardly_more(photo, target):
    found = psnr(photo, nicc.decode(nicc.encode(photo, target_psnr=target)))
    assert target <= found <= target + 0.1


@pytest.mark.parametrize("target", [{"target_size": 2500}, {"target_psnr": 30.0}])
def test_iterating_gets_more_out_of_a_target(photo, target):
    photo = photo.crop((40, 40, 216, 200))
    plain, iterated = (nicc.encode(photo, tune="psnr", **target, sga_steps=n) for n in (0, 50))
    better = psnr(photo, nicc.decode(iterated)) - psnr(photo, nicc.decode(plain))
    if "target_size" in target:
        assert 0.97 * 2500 <= len(iterated) <= 2500
        assert better > 0
    else:
        assert len(iterated) < len(plain)
        assert 30 <= psnr(photo, nicc.decode(iterated)) <= 30.1


def test_ssimulacra2_is_reached_and_hardly_more(photo, monkeypatch):
    """Without PyTorch."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "nicc.encoder.visual", None)
    found = ssimulacra2(np.asarray(photo), np.asarray(nicc.decode(nicc.encode(photo, target_ssimulacra2=65))))
    assert 65 <= found <= 65.5
    with pytest.raises(nicc.NiccError, match=r"no rate point reaches SSIMULACRA 2 of 99; the nearest are"):
        nicc.encode(photo, target_ssimulacra2=99, lossless=False)


@pytest.mark.parametrize(("tune", "model"), [("visual", 3), ("psnr", 1), (None, 3)])
def test_tuning_chooses_the_model(photo, tune, model):
    assert nicc.inspect(nicc.encode(photo, tune=tune)).model == model


def test_tuning_that_contradicts_the_model(photo):
    with pytest.raises(nicc.NiccError, match="model two-layer is tuned for psnr, not for visual"):
        nicc.encode(photo, tune="visual", model="two-layer")
    assert nicc.inspect(nicc.encode(photo, tune="psnr", model="jpeg-like")).model == 2
    with pytest.raises(ValueError, match="tune 'speed' is not one of visual, psnr"):
        nicc.encode(photo, tune="speed")


def test_iterating_lowers_what_the_visual_model_weighs(photo):
    small = from_image(photo.crop((0, 0, 176, 144)))[0]
    plain, iterated = (encode_picture(small, Options(quality=40, steps=n)) for n in (0, 40))
    assert iterated.plain_cost
    assert iterated.cost < plain.cost * 0.99
    assert iterated.ssimulacra2 > plain.ssimulacra2 - 1


def test_the_ends_of_what_can_be_reached(photo):
    largest = nicc.encode(photo, quality=100)
    assert nicc.encode(photo, target_size=10**7, lossless=False) == largest
    assert np.array_equal(np.asarray(nicc.decode(nicc.encode(photo, target_size=10**7))), np.asarray(photo))
    assert nicc.inspect(nicc.encode(photo, target_psnr=5.0)).rate_point == 0
    with pytest.raises(nicc.NiccError, match=r"no rate point reaches 50 bytes; the nearest are \d+ bytes"):
        nicc.encode(photo, target_size=50)
    best = psnr(photo, nicc.decode(largest))
    with pytest.raises(nicc.NiccError, match=rf"no rate point reaches 60 dB; the nearest are {best:.2f} dB"):
        nicc.encode(photo, target_psnr=60)


@pytest.mark.parametrize(
    "arguments",
    [
        {"quality": 3, "target_size": 1000},
        {"target_bpp": 1, "target_psnr": 30},
        {"target_psnr": float("nan")},
        {"target_bpp": -1.0},
        {"effort": 4},
        {"sga_steps": -5},
    ],
)
def test_arguments_that_make_no_sense(photo, arguments):
    with pytest.raises(ValueError, match=r"one of|positive|effort|steps"):
        nicc.encode(photo, **arguments)


def test_sizes_as_people_write_them():
    assert [bytes_of(t) for t in ("20000", "20kB", "20 KiB", "1.5mb", "7B")] == [20000, 20000, 20480, 1500000, 7]
    for bad in ("", "kB", "-3", "12 parsecs", "nan", "1e99"):
        with pytest.raises(ValueError):  # noqa: PT011  any will do
            bytes_of(bad)


def test_small_images_have_targets_too(photo):
    tiny = photo.resize((9, 7))
    data = nicc.encode(tiny, target_size=120)
    assert len(data) <= 120
    assert np.asarray(nicc.decode(data)).shape == (7, 9, 3)
