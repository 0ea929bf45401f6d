from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nicc.container import Header
from nicc.decoder.latents import Grid, upsample, walk


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
    z = rng.integers(-60, 60, (2, 3, arch.hyper_channels)).astype(np.int32)

    def run(value: int):
        seen = np.zeros((7, 10, arch.latent_channels), int)
        rows_seen = np.zeros_like(seen)

        def visit(rows, means, channels, at):
            assert rows.shape == means.shape == (len(at), channels.stop - channels.start)
            assert rows.dtype == np.uint8
            assert rows.max() <= 63
            seen.reshape(70, -1)[at, channels] += 1
            rows_seen.reshape(70, -1)[at, channels] = rows
            return np.full(rows.shape, value, np.int32)

        symbols, y_hat = walk(model, 40, z, 0, 7, 10, visit)
        assert (seen == 1).all()
        assert (symbols == value).all()
        assert np.isfinite(y_hat).all()
        return rows_seen

    quiet, loud = run(0), run(9)
    first = arch.groups[1]
    assert loud[..., first:].mean() > quiet[..., first:].mean() + 3
