"""SSIMULACRA 2, with gradients and without, against the package that implements the metric."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

import nicc
from nicc.bench.metrics import ssimulacra2
from nicc.encoder import distortion
from nicc.encoder.visual import middle_error, raw_difference
from nicc.ssimulacra2 import score, visual_distortion


def tensor(image) -> torch.Tensor:
    return torch.tensor(np.asarray(image)).permute(2, 0, 1)[None].float() / 255


def recoded(image: Image.Image, kind: str, quality: int) -> Image.Image:
    if kind == "nicc":
        return nicc.decode(nicc.encode(image, quality=quality))
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality)
    return Image.open(buffer).convert("RGB")


@pytest.mark.parametrize(
    ("kind", "quality"), [("JPEG", 15), ("JPEG", 75), ("JPEG", 95), ("AVIF", 30), ("AVIF", 80), ("nicc", 50)]
)
@pytest.mark.parametrize("size", [(256, 256), (301, 217), (8, 77)])
def test_the_score_is_that_of_the_package(coffee, kind, quality, size):
    image = coffee.crop((40, 30, 40 + size[0], 30 + size[1]))
    decoded = recoded(image, kind, quality)
    expected = ssimulacra2(np.asarray(image), np.asarray(decoded))
    assert float(score(raw_difference(tensor(image), tensor(decoded)))) == pytest.approx(expected, abs=0.05)
    assert float(score(distortion.raw_difference(np.asarray(image), np.asarray(decoded)))) == pytest.approx(
        expected, abs=0.05
    )


def test_equal_images_differ_by_nothing_and_have_a_gradient(coffee):
    x = tensor(coffee.crop((0, 0, 128, 96)))
    y = x.clone().requires_grad_()
    raw = raw_difference(x, y)
    assert float(raw.detach()) == pytest.approx(0, abs=1e-3)
    pixels = np.asarray(coffee)
    assert distortion.raw_difference(pixels, pixels) == pytest.approx(0, abs=1e-3)
    raw.sum().backward()
    assert torch.isfinite(y.grad).all()


def test_following_the_gradient_raises_the_score(astronaut):
    x = tensor(astronaut.crop((100, 50, 228, 178)))
    torch.manual_seed(0)
    y = (x + 0.04 * torch.randn_like(x)).clamp(0, 1)
    before = raw_difference(x, y)
    y.requires_grad_()
    raw_difference(x, y).sum().backward()
    after = raw_difference(x, (y - 0.02 * y.grad / y.grad.abs().max()).detach())
    assert after < 0.98 * before


@pytest.mark.parametrize(("period", "share"), [(2, 0.0), (4, 0.06), (8, 0.25), (16, 0.13), (64, 0.01)])
def test_errors_of_luma_count_by_their_frequency(period, share):
    wave = np.round(40 * np.cos(2 * np.pi * np.arange(1280) / period))
    original = np.full((24, 1280, 3), 128, np.uint8)
    decoded = (original + wave[None, :, None]).astype(np.uint8)
    found = distortion.middle_error(original, decoded)
    assert found / np.square(wave).mean() == pytest.approx(share, abs=0.01)
    assert float(middle_error(tensor(original), tensor(decoded))) == pytest.approx(found, rel=1e-4, abs=1e-3)


def test_the_distortion_is_on_the_scale_of_the_squared_error(coffee):
    image = coffee.crop((0, 0, 384, 384))
    x, y = tensor(image), tensor(recoded(image, "nicc", 36))
    mse = (x - y).square().mean((1, 2, 3)) * 255**2
    assert 0.4 < float(visual_distortion(mse, raw_difference(x, y)) / mse) < 2.5
