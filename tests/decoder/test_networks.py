"""Both backends compute the same; the NumPy operations against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nicc.architecture import Architecture
from nicc.decoder import networks, ops
from nicc.encoder import ops as torch_ops
from nicc.encoder.codec import Codec

ARCHITECTURES = [
    Architecture(),
    Architecture(residual=False, hidden_channels=24),
    Architecture(kernel=16),
    Architecture(kernel=8),
    *(Architecture(synthesis="jpeg-like", kernel=k, residual=False) for k in (16, 18, 26, 32)),
]


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=lambda a: f"{a.synthesis}-{a.kernel}-{a.hidden_channels}")
def test_numpy_and_torch_render_the_same_pixels(arch):
    torch.manual_seed(0)
    codec = Codec(arch)
    with torch.no_grad():
        for name, value in codec.p.items():
            if name.startswith(("synthesis", "igdn")):
                value.normal_(std=0.05)
    params = {k: v.detach() for k, v in codec.params().items()}
    params["parity"] = torch.sign(torch.randn(2, arch.latent_channels))
    y = torch.randn(1, 5, 7, arch.latent_channels) * 0.3
    a = networks.synthesis(torch_ops, arch, params, networks.mirror(torch_ops, params, y))[0]
    arrays = {k: v.numpy() for k, v in params.items()}
    b = networks.synthesis(ops, arch, arrays, networks.mirror(ops, arrays, y[0].numpy()))
    assert a.shape == b.shape == (80, 112, 3)
    assert a.std() > 0.01
    assert np.abs(a.numpy() - b).max() * 255 <= 1e-3


@pytest.mark.parametrize(
    ("stride", "kernel", "margin"), [(8, 14, 1), (8, 8, 1), (8, 16, 1), (16, 32, 0), (16, 16, 0), (16, 18, 0)]
)
@pytest.mark.parametrize("size", [(3, 3), (4, 9), (9, 4)])
def test_transposed_convolution_is_pytorchs(stride, kernel, margin, size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(*size, 6)).astype(np.float32)
    w = rng.normal(size=(6, kernel, kernel, 5)).astype(np.float32)
    full = F.conv_transpose2d(
        torch.tensor(x).permute(2, 0, 1)[None], torch.tensor(w).permute(0, 3, 1, 2), stride=stride
    )[0].permute(1, 2, 0)
    cut = stride + (kernel - stride) // 2 - margin
    expected = full[cut : full.shape[0] - cut, cut : full.shape[1] - cut].numpy()
    got = ops.transposed_conv(x, w, stride, margin)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_subpixel_convolution_is_a_transposed_one_of_kernel_six():
    rng = np.random.default_rng(1)
    w = rng.normal(size=(3, 3, 4, 12)).astype(np.float32)
    x = rng.normal(size=(6, 8, 4)).astype(np.float32)
    kernel = np.zeros((4, 3, 6, 6), np.float32)
    for i in range(3):
        for j in range(3):
            phases = w[i, j].reshape(4, 2, 2, 3).transpose(0, 3, 1, 2)
            kernel[:, :, 4 - 2 * i : 6 - 2 * i, 4 - 2 * j : 6 - 2 * j] = phases
    full = F.conv_transpose2d(torch.tensor(x).permute(2, 0, 1)[None], torch.tensor(kernel), stride=2)[0]
    expected = full.permute(1, 2, 0)[4:-4, 4:-4].numpy()
    np.testing.assert_allclose(ops.subpixel_conv(x, w), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["window", "cross", "cross_sum"])
def test_neighbourhoods_agree(name):
    x = np.random.default_rng(2).normal(size=(4, 5, 3)).astype(np.float32)
    expected = getattr(torch_ops, name)(torch.tensor(x)[None])[0].numpy()
    np.testing.assert_allclose(getattr(ops, name)(x), expected, atol=1e-6)


def test_means_agree():
    torch.manual_seed(1)
    arch = Architecture()
    codec = Codec(arch)
    with torch.no_grad():
        for name, value in codec.p.items():
            if name.startswith("mean"):
                value.normal_(std=0.05)
    arrays = {k: v.detach().numpy() for k, v in codec.params().items()}
    d = torch.randn(1, 4, 6, arch.groups[2])
    for step in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0)):
        a = networks.mean_context(torch_ops, arch, codec.params(), step, d)
        b = networks.mean_context(ops, arch, arrays, step, d[0].numpy())
        assert (a is None) == (b is None) == (step == (0, 0))
        if a is not None:
            np.testing.assert_allclose(b, a[0].detach().numpy(), atol=1e-4)
