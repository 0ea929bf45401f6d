from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import nicc
from nicc.decoder.latents import Visited
from nicc.encoder import encode
from nicc.encoder.places import FLAT, MOST, POWER, weights_by_place
from nicc.encoder.quantise import Quantiser
from nicc.images import LUMA
from nicc.model import load_transform


def by_loops(pixels: np.ndarray) -> np.ndarray:
    """What `weights_by_place` describes, pixel by pixel, at a high rate."""
    luma = pixels.astype(np.float64) @ np.array(LUMA)
    height, width = luma.shape
    energy = np.zeros((-(-height // 16), -(-width // 16)))
    count = np.zeros_like(energy)
    for i in range(height):
        for j in range(width):
            down = luma[i, j] - luma[i - 1, j] if i else 0
            across = luma[i, j] - luma[i, j - 1] if j else 0
            energy[i // 16, j // 16] += (down**2 + across**2) / 2
            count[i // 16, j // 16] += 1
    around = np.pad(energy / count, 1, "edge")
    taps = np.outer([1, 2, 1], [1, 2, 1]) / 16
    weights = np.empty_like(energy)
    for i, j in np.ndindex(*energy.shape):
        difference = np.sqrt((taps * around[i : i + 3, j : j + 3]).sum())
        weights[i, j] = min(max((FLAT / difference) ** POWER, 1), MOST[-1])
    return weights


def test_weights_are_those_of_their_description():
    rng = np.random.default_rng(4)
    strength = np.linspace(0.3, 5, 75)[None, :, None] ** 2  # from flat to textured
    pixels = (128 + strength * rng.standard_normal((37, 75, 3))).clip(0, 255).astype(np.uint8)
    weights = weights_by_place(pixels, 0.5)
    np.testing.assert_allclose(weights, by_loops(pixels), rtol=1e-4)
    assert weights.dtype == np.float32
    assert weights.max() > 2
    assert weights.min() == 1


@pytest.mark.parametrize("size", [(1, 1), (17, 35)])
def test_a_plain_picture_has_the_largest_weights_and_low_rates_have_none(size):
    plain = np.full((*size, 3), 90, np.uint8)
    np.testing.assert_allclose(weights_by_place(plain, 0.9), MOST[-1])
    assert (weights_by_place(plain, 0.1) == 1).all()
    assert (weights_by_place(plain, 0.2) > 1).all()


def test_errors_weigh_more_in_files_that_ask_for_realism():
    plain = np.full((16, 48, 3), 90, np.uint8)
    for rate, more in ((0.1, 2.5), (0.5, 2.5**0.5), (0.57, 1), (0.9, 1)):
        weights = weights_by_place(plain, rate, True)
        np.testing.assert_allclose(weights, more * weights_by_place(plain, rate), rtol=1e-5)
        assert weights.dtype == np.float32


def test_every_position_is_rounded_by_its_own_weight():
    model, rng = load_transform("two-layer"), np.random.default_rng(3)
    rows = rng.integers(1, 64, (6, 8)).astype(np.uint8)
    v = (rng.laplace(size=(12, 8)) * 3).astype(np.float32)
    at = np.array([0, 2, 3, 5, 8, 11])
    here = Visited(rows, np.zeros((6, 8), np.float32), np.ones((1, 8), np.float32), slice(0, 8), at)
    places = np.full((5, 4), 2.0)
    places[2:, 3] = 200.0  # in the rows from 2 on: positions 3 and 11
    found = Quantiser(model, 30, places).symbols(v, here, 2)
    low, high = (Quantiser(model, 30, weight).symbols(v, here) for weight in (2.0, 200.0))
    assert (low != high).any()
    heavy = at % 4 == 3
    np.testing.assert_array_equal(found, np.where(heavy[:, None], high, low))
    assert (low[heavy] != high[heavy]).any()


def test_flat_places_keep_their_noise_and_squared_error_knows_no_places(monkeypatch):
    rng = np.random.default_rng(5)
    pixels = np.full((128, 192, 3), 60.0)
    pixels[:, :96] += rng.standard_normal((128, 96, 1))
    pixels[:, 96:] += 40 * rng.standard_normal((128, 96, 1))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))

    def left_of_noise(**options) -> float:
        return float(np.asarray(nicc.decode(nicc.encode(image, lossless=False, **options)))[16:-16, 16:80].std())

    kept = left_of_noise(quality=70)
    visual, psnr = (nicc.encode(image, lossless=False, tune=tune, quality=70) for tune in ("visual", "psnr"))
    monkeypatch.setattr(encode, "weights_by_place", lambda *_: np.ones((8, 12), np.float32))
    assert left_of_noise(quality=70) < 0.95 * kept
    assert nicc.encode(image, lossless=False, tune="visual", quality=70) != visual
    assert nicc.encode(image, lossless=False, tune="psnr", quality=70) == psnr
