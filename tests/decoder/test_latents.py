from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nicc.architecture import HYPER_UNIT
from nicc.container import Header
from nicc.decoder import networks, ops
from nicc.decoder.hyper import upsample
from nicc.decoder.latents import walk
from nicc.encoder.latent_code import latent_code
from nicc.encoder.receiver import receiver_of
from nicc.geometry import Grid
from nicc.model import Model
from nicc.training.codec import CodecModule
from nicc.training.export import decoder_arrays
from tests.conftest import TINY
from tests.test_arrays import LARGER


@pytest.mark.parametrize(("first", "last", "w"), [(0, 9, 14), (0, 12, 16), (4, 11, 13), (8, 9, 1)])
def test_upsampling_is_bilinear_in_integers(first, last, w):
    z = np.random.default_rng(0).integers(-1023, 1024, (3, 4, 5)).astype(np.int32)
    x = torch.tensor(z).permute(2, 0, 1)[None].double()
    smooth = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
    fine = upsample(z, first, last, w)
    assert fine.dtype == np.int32
    assert np.abs(fine - smooth[first:last, :w]).max() <= 0.5


def test_grids_cover_the_image():
    grid = Grid.of(Header(1, b"1234", 1025, 2100, 0))
    assert grid == (132, 65, 33, 17)
    assert list(grid.row_groups()) == [(0, 64), (64, 128), (128, 132)]


def test_every_symbol_is_visited_once_and_context_matters(model):
    rng = np.random.default_rng(0)
    arch = model.architecture
    active = arch.groups[model.active_groups(40)]
    z = rng.integers(-60, 60, (2, 3, arch.hyper_channels)).astype(np.int32)

    def run(value: int):
        seen = np.zeros((7, 10, arch.latent_channels), int)
        rows_seen = np.zeros_like(seen)

        def visit(here):
            rows, means, channels, at = here.rows, here.means, here.channels, here.at
            assert rows.shape == means.shape == (len(at), channels.stop - channels.start)
            assert rows.dtype == np.uint8
            assert rows.max() <= 63
            seen.reshape(70, -1)[at, channels] += 1
            rows_seen.reshape(70, -1)[at, channels] = rows
            return np.full(rows.shape, value, np.int32)

        symbols, y_hat = walk(model, 40, z, (0, 7), 10, visit)
        assert (seen[..., :active] == 1).all()
        assert not seen[..., active:].any()  # groups that this rate point does without
        assert (symbols[..., :active] == value).all()
        assert np.isfinite(y_hat).all()
        return rows_seen

    quiet, loud = run(0), run(9)
    first = arch.groups[1]
    assert loud[..., first:active].mean() > quiet[..., first:active].mean() + 3


@pytest.fixture(scope="module", params=["fixed", "adaptive"])
def random_model(request):
    """A small model of random weights, with groups of four, two and one phases, with steps by place or without."""
    torch.manual_seed(0)
    arch = replace(LARGER if request.param == "adaptive" else TINY)
    arch = replace(arch, phases=(4, 2, 2, 1, 1)[: arch.group_count])
    codec = CodecModule(arch).eval()
    with torch.no_grad():
        for name, value in codec.named_parameters():
            if name.startswith(("p.mean", "p.row", "p.gain")):
                value.normal_(std=0.05)
            elif name.startswith(("log_gain", "log_inverse")):
                value.uniform_(-0.5, 0.5)
        codec.recon_offset.copy_(torch.tensor([0.1, 0.05]))  # of all rows alike: real rows may round otherwise
        codec.row_bias.uniform_(10, 30)
        codec.row_phase.uniform_(-4, 4)
        codec.hidden_bias.uniform_(0, 4)
        codec.hidden_phase.uniform_(-1, 1)
    arrays = decoder_arrays(codec)
    return Model({"name": "random", "version": 1, "architecture": arch.to_dict()}, arrays)


@pytest.mark.parametrize(("h", "w"), [(7, 10), (1, 5), (6, 1), (40, 3)])
def test_the_walk_sees_what_training_sees(random_model, h, w):
    """Rows and means of NumPy, step by step, against PyTorch's on whole arrays with masks."""
    rng = np.random.default_rng(h)
    model, c = random_model, random_model.architecture.latent_channels
    z = rng.integers(-100, 100, (-(-h // 4), -(-w // 4), model.architecture.hyper_channels)).astype(np.int32)
    symbols = rng.integers(-4, 5, (h, w, c)).astype(np.int32)
    rows, means, factors = np.zeros((h * w, c)), np.zeros((h * w, c)), np.zeros((h * w, c))

    def visit(here):
        rows[here.at, here.channels], means[here.at, here.channels] = here.rows, here.means
        factors[here.at, here.channels] = here.factor
        return symbols.reshape(h * w, c)[here.at, here.channels]

    found, y_hat = walk(model, 20, z, (0, h), w, visit)
    np.testing.assert_array_equal(found, symbols)
    middles = walk(model, 20, z, (0, h), w, visit, middle=True)[1]
    expected = (symbols.reshape(h * w, c) + means) * model.params["inverse"][20] / factors
    np.testing.assert_allclose(middles.reshape(h * w, c), expected, atol=1e-4)
    np.testing.assert_array_equal(middles[symbols == 0], y_hat[symbols == 0])
    receiver = receiver_of(model)
    fine = torch.tensor(upsample(z, 0, h, w)).float()[None] / HYPER_UNIT
    given = torch.tensor(symbols)[None].float()
    code = latent_code(
        receiver.arch,
        receiver.p,
        receiver.rate(20),
        fine,
        torch.zeros_like(given),
        lambda _, channels: given[..., channels],
    )
    np.testing.assert_allclose(-code.residual[0].numpy().reshape(h * w, c), means, atol=1e-4)
    np.testing.assert_allclose(code.y_hat[0].numpy(), y_hat, atol=1e-4)
    assert (factors.std() > 0.01) == model.architecture.adaptive
    real = code.rows[0].numpy().reshape(h * w, c)
    assert rows.std() > 2
    assert np.abs(means).max() > 0.1
    assert np.abs(rows - real).max() <= 0.75  # half a row, and what integers cost the hidden units


def test_channels_beyond_a_rate_points_are_neither_coded_nor_computed(random_model):
    arch = random_model.architecture
    active = np.full(arch.rate_points, arch.group_count, np.uint8)
    active[:30] = arch.context_groups
    limited = Model(random_model.description, random_model.arrays | {"active_groups": active})
    z = np.zeros((2, 2, arch.hyper_channels), np.int32)
    visited = []

    def visit(here):
        visited.append(here.channels.stop)
        return np.ones(here.rows.shape, np.int32)

    all_symbols, all_latents = walk(random_model, 20, z, (0, 7), 6, visit)
    visited.clear()
    symbols, latents = walk(limited, 20, z, (0, 7), 6, visit)
    assert max(visited) == symbols.shape[-1] == arch.context_channels < arch.latent_channels
    np.testing.assert_array_equal(symbols, all_symbols[..., : arch.context_channels])
    np.testing.assert_array_equal(latents, all_latents[..., : arch.context_channels])
    # what is left out is zero: the same pixels
    padded = np.zeros((9, 8, arch.latent_channels), np.float32)
    padded[1:-1, 1:-1, : arch.context_channels] = latents
    short = networks.synthesis(
        ops, arch, limited.params, np.ascontiguousarray(padded[..., : arch.context_channels])
    ).copy()
    np.testing.assert_allclose(short, networks.synthesis(ops, arch, limited.params, padded), atol=1e-5)
