from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nicc.architecture import ANALYSES, Architecture
from nicc.encoder import torch_transform, transform
from nicc.encoder.latent_code import bound, row_likelihood, ste_round
from nicc.encoder.modules import Analysis, HyperAnalysis, mirror_pad
from nicc.encoder.torch_transform import TorchTransform
from nicc.training.codec import CodecModule
from nicc.training.export import encoder_arrays
from tests.conftest import TINY


@pytest.mark.parametrize("kind", ["patch", "cnn", "elic"])
def test_every_analysis_starts_as_its_linear_part_and_learns(kind):
    torch.manual_seed(0)
    arch = Architecture(analysis=kind)
    analysis = Analysis(arch)
    x = torch.rand(2, 3, 64, 48)
    y = analysis(x)
    assert y.shape == (2, 4, 3, 256)
    linear = analysis.linear(mirror_pad(x, 8, 8, 8, 8)).permute(0, 2, 3, 1)
    torch.testing.assert_close(y, linear)
    y.square().sum().backward()
    assert analysis.out.grad.abs().max() > 0


def test_mirroring_repeats_the_border():
    x = torch.arange(3.0).reshape(1, 1, 1, 3)
    assert mirror_pad(x, 2, 5, 0, 0).flatten().tolist() == [1, 0, 0, 1, 2, 2, 1, 0, 0, 1]


def test_hyper_latents_are_a_quarter_of_the_grid():
    z = HyperAnalysis(Architecture())(torch.randn(1, 8, 12, 256))
    assert z.shape == (1, 2, 3, 32)


def test_bounds_let_gradients_through_inwards_only():
    x = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    y = bound(x, 0, 1)
    assert y.tolist() == [0, 0.5, 1]
    y.backward(torch.tensor([1.0, 1.0, -1.0]))
    assert x.grad.tolist() == [0, 1, 0]
    x.grad = None
    bound(x, 0, 1).backward(torch.tensor([-1.0, 1.0, 1.0]))
    assert x.grad.tolist() == [-1, 1, 1]


def test_rounding_passes_the_gradient_straight_through():
    x = torch.tensor([0.6, -1.7, 0.55], requires_grad=True)
    assert ste_round(x).tolist() == [1, -2, 1]
    s = ste_round(x, torch.tensor([0.2, 0.1, 0.0]))
    assert s.tolist() == [0, -2, 1]
    s.sum().backward()
    assert x.grad.tolist() == [1, 1, 1]


def test_likelihoods_of_every_row_sum_to_one():
    s = torch.arange(-4000, 4001).float()
    for row in (0, 1, 20, 40, 63):
        total = row_likelihood(s, torch.full_like(s, row)).sum()
        assert total == pytest.approx(1, abs=2e-3)


def test_counted_bits_follow_the_counts():
    codec = CodecModule(Architecture())
    rows = torch.full((1000,), 10.0)
    symbols = torch.zeros(1000)
    symbols[:100] = 1
    symbols[100:200] = -1
    for _ in range(400):
        codec.count_symbols(symbols, rows)
    bits = codec.symbol_bits(torch.tensor([0.0, 1.0, -1.0]), torch.full((3,), 10.0))
    assert bits[0] < 0.5
    assert bits[1] == pytest.approx(float(bits[2]))
    assert 3 < bits[1] < 4


@pytest.fixture(params=ANALYSES)
def transforms(request, monkeypatch):
    """A random model's transform, and what sets the size of its bands."""
    torch.manual_seed(0)
    arch = replace(TINY, analysis=request.param)
    codec = CodecModule(arch)
    with torch.no_grad():
        codec.analysis.out.fill_(1)
        codec.analysis.linear.weight.normal_(std=0.02)
        codec.hyper_analysis.third.weight.normal_(std=0.1)
    arrays = encoder_arrays(codec)
    monkeypatch.setattr(transform, "read_part", lambda *_: arrays)
    model = SimpleNamespace(folder="", description={}, architecture=arch, arrays={"deviation": np.ones(32, np.float32)})
    if request.param == "patch":
        return transform.PatchTransform(model), TorchTransform(model), transform, "BAND_POSITIONS", 84
    return TorchTransform(model), TorchTransform(model), torch_transform, "BAND_ROWS", 12


def test_bands_are_the_whole(transforms, coffee, monkeypatch):
    """Latents of an image do not depend on the bands in which they are computed."""
    whole, _, module, name, size = transforms
    pixels = np.asarray(coffee.resize((100, 700)))
    y, z = whole(pixels)
    assert y.shape == (44, 7, 32)
    assert z.shape == (11, 2, 32)
    monkeypatch.setattr(module, name, size)
    banded_y, banded_z = whole(pixels)
    np.testing.assert_allclose(banded_y, y, atol=1e-3 * np.abs(y).max())
    np.testing.assert_allclose(banded_z, z, atol=1e-3 * np.abs(z).max())
    whole.halo = 0
    assert np.abs(whole(pixels)[0] - y).max() > 0.05 * np.abs(y).max()


@pytest.mark.parametrize("size", [(100, 700), (1, 1), (17, 5), (64, 64)])
def test_numpy_and_pytorch_analyse_alike(transforms, coffee, size):
    mine, other, *_ = transforms
    pixels = np.asarray(coffee.resize(size))
    for a, b in zip(mine(pixels), other(pixels), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


def test_bands_do_not_follow_the_processors():
    for rows, columns in ((1, 1), (32, 48), (64, 64), (500, 765)):
        found = transform.bands(rows, columns)
        assert [first for first, _ in found] == [0, *(last for _, last in found[:-1])]
        assert found[-1][1] == rows
        assert all(first % 4 == 0 for first, _ in found)
