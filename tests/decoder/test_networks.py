"""Both backends compute the same; the NumPy operations against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nicc.architecture import Architecture
from nicc.decoder import networks, ops, realism
from nicc.encoder import ops as torch_ops
from nicc.head import CONDITIONS, LARGEST_BETA, HeadArchitecture
from nicc.training.codec import CodecModule

ARCHITECTURES = [
    Architecture(),
    Architecture(residual=False, hidden_channels=24),
    Architecture(kernel=16),
    Architecture(kernel=8),
    *(Architecture(synthesis="jpeg-like", kernel=k, residual=False) for k in (16, 18, 26, 32)),
    Architecture(rectifiers=1),
    Architecture(synthesis="jpeg-like", kernel=32, residual=False, rectifiers=3, rectifier_width=24),
]


def name_of(arch):
    return f"{arch.synthesis}-{arch.kernel}-{arch.hidden_channels}-{arch.rectifiers}"


@pytest.mark.parametrize("arch", ARCHITECTURES, ids=name_of)
@pytest.mark.parametrize(("h", "w"), [(5, 7), (1, 2)])
def test_numpy_and_torch_render_the_same_pixels(arch, h, w):
    torch.manual_seed(0)
    codec = CodecModule(arch)
    with torch.no_grad():
        for name, value in codec.p.items():
            if name.startswith(("synthesis", "igdn", "rectifier")):
                value.normal_(std=0.05)
        codec.deviation.uniform_(0.5, 2)
    params = {k: v.detach() for k, v in codec.params().items()}
    params["parity"] = torch.sign(torch.randn(2, arch.latent_channels))
    y = torch.randn(1, h, w, arch.latent_channels) * 0.3
    bias, step = torch.randn(3 * arch.rectifiers * arch.rectifier_width), torch.rand(arch.latent_channels)

    def render(backend, p, y, bias, step):
        y = networks.mirror(backend, p, y, arch.margin)
        return networks.synthesis(backend, arch, p, networks.rectify(backend, arch, p, y, bias, step))

    a = render(torch_ops, params, y, bias, step)[0]
    b = render(ops, {k: v.numpy() for k, v in params.items()}, y[0].numpy(), bias.numpy(), step.numpy())
    assert a.shape == b.shape == (16 * h, 16 * w, 3)
    assert a.std() > 0.01
    assert np.abs(a.numpy() - b).max() * 255 <= 1e-3 * max(1, float(a.abs().max()))


@pytest.mark.parametrize("arch", [a for a in ARCHITECTURES if not a.rectifiers], ids=name_of)
def test_pixels_around_a_part_are_those_of_the_whole(arch):
    torch.manual_seed(0)
    codec = CodecModule(arch)
    with torch.no_grad():
        for name, value in codec.p.items():
            if name.startswith(("synthesis", "igdn")):
                value.normal_(std=0.05)
    p = {k: v.detach().numpy() for k, v in codec.params().items()}
    y = np.random.default_rng(0).normal(size=(7, 8, arch.latent_channels)).astype(np.float32)
    whole = networks.synthesis(ops, arch, p, y).copy()
    part = networks.synthesis(ops, arch, p, y[1:-1, 1:-1], 4)
    np.testing.assert_allclose(part, whole[12:-12, 12:-12], atol=1e-4 * np.abs(whole).max())


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("depth", [0, 3])
def test_numpy_and_torch_add_the_same_detail(condition, depth):
    torch.manual_seed(0)
    head = HeadArchitecture(condition, 16, 24, 8, 16, depth)
    params = {k: torch.randn(v) * v[0] ** -0.5 for k, v in head.shapes(40).items()}
    arrays = {k: v.numpy() for k, v in params.items()}
    beta, point = torch.tensor([[0.7]]), torch.tensor([[21.0]])
    a = realism.conditions(torch_ops, head, params, beta, point)
    b = realism.conditions(ops, head, arrays, beta.numpy(), point.numpy())
    np.testing.assert_allclose(b, a.numpy(), atol=1e-4)
    assert a.std() > 0.1
    y, x = torch.randn(1, 11, 13, 40), torch.rand(1, 7 * 16, 9 * 16, 3)
    a = realism.detail(torch_ops, head, params, y, x, a[:, None, None])[0].numpy()
    b = realism.detail(ops, head, arrays, y[0].numpy(), x[0].numpy(), b[0])
    assert a.shape == b.shape == (48, 80, 3)
    np.testing.assert_allclose(b, a, atol=1e-3)
    # a position's detail does not depend on what lies beyond its reach
    again = torch.tensor(condition_of(head, arrays))
    moved = realism.detail(torch_ops, head, params, y[:, 1:], x[:, 16:], again)[0]
    np.testing.assert_allclose(moved.numpy(), a[16:], atol=1e-3)


def condition_of(head, arrays):
    beta, point = np.array([[0.7]], np.float32), np.array([[21.0]], np.float32)
    return realism.conditions(ops, head, arrays, beta, point)


def test_table_conditions_interpolate():
    head = HeadArchitecture("table")
    p = {"beta_table": np.arange(9.0)[:, None] * np.ones(3), "rate_table": np.zeros((8, 3))}
    found = realism.conditions(ops, head, p, np.array([[0.0], [0.15], [1.0]]) * LARGEST_BETA, np.zeros((3, 1)))
    np.testing.assert_allclose(found[:, 0], [0, 1.2, 8])


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_mirrored_latents_go_to_and_fro(n):
    """Two mirrors face each other: every reflection flips, the second one flips back."""
    y = np.arange(1.0, n + 1)[:, None, None] * np.ones((1, 2, 3), np.float32)
    parity = np.array([[1, 1, 1], [1, -1, 1]], np.float32)
    tall = networks.mirror(ops, {"parity": parity}, y, 7)[:, 7]
    there = [*range(n), *range(n)[::-1]]
    expected = np.array([there[i % (2 * n)] + 1 for i in range(-7, n + 7)])
    assert tall[:, 0].tolist() == expected.tolist()
    flipped = np.array([i % (2 * n) >= n for i in range(-7, n + 7)])
    assert tall[:, 1].tolist() == np.where(flipped, -expected, expected).tolist()
    half = networks.mirror(ops, {"parity": parity}, y, 2, top=False, bottom=False)
    assert half.shape == (n, 6, 3)


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
    got = ops.transposed_conv(x, [w], stride, margin)
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
    bias = rng.normal(size=3).astype(np.float32)
    expected = full.permute(1, 2, 0)[4:-4, 4:-4].numpy() + bias
    np.testing.assert_allclose(ops.subpixel_conv(x, w, bias), expected, atol=1e-5)


def test_three_by_three_convolutions_agree():
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(6, 5, 4)).astype(np.float32), rng.normal(size=(36, 7)).astype(np.float32)
    expected = torch_ops.conv3(torch.tensor(x)[None], torch.tensor(w))[0].numpy()
    assert expected.shape == (4, 3, 7)
    np.testing.assert_allclose(ops.conv3(x, w), expected, atol=1e-5)
    corner = sum(x[i, j] @ w[4 * (3 * i + j) : 4 * (3 * i + j + 1)] for i in range(3) for j in range(3))
    np.testing.assert_allclose(expected[0, 0], corner, atol=1e-5)


@pytest.mark.parametrize("name", ["window", "cross_sum", "diagonal_sum"])
def test_neighbourhoods_agree(name):
    x = np.random.default_rng(2).normal(size=(4, 5, 3)).astype(np.float32)
    expected = getattr(torch_ops, name)(torch.tensor(x)[None])[0].numpy()
    np.testing.assert_allclose(getattr(ops, name)(x), expected, atol=1e-6)


def test_a_wide_window_and_one_of_a_lattice():
    x = np.random.default_rng(2).normal(size=(5, 6, 3)).astype(np.float32)
    wide = torch_ops.window(torch.tensor(x)[None], 2)[0].numpy()
    assert wide.shape == (5, 6, 75)
    np.testing.assert_array_equal(ops.window(x, 2), wide)
    padded = np.pad(x, ((2, 2), (2, 2), (0, 0)))
    np.testing.assert_array_equal(ops.lattice_window(padded, 2, 2, (1, 0), 2), wide[1::2, ::2])
    np.testing.assert_array_equal(ops.lattice_window(padded, 2, 1, (0, 1), 2), ops.window(x)[::2, 1::2])


def test_means_agree():
    torch.manual_seed(1)
    arch = Architecture()
    codec = CodecModule(arch)
    with torch.no_grad():
        for name, value in codec.p.items():
            if name.startswith("mean"):
                value.normal_(std=0.05)
    arrays = {k: v.detach().numpy() for k, v in codec.params().items()}
    for step in ((0, 0), (0, 3), (1, 0), (4, 1)):
        features = torch.randn(1, 4, 6, arch.mean_inputs(*step))
        a = networks.mean_context(torch_ops, codec.params(), step, features)
        b = networks.mean_context(ops, arrays, step, features[0].numpy())
        assert a.std() > 0.1
        np.testing.assert_allclose(b, a[0].detach().numpy(), atol=1e-4)
    d = torch.randn(1, 4, 6, arch.context_channels)
    a = networks.later_hidden(torch_ops, codec.params(), d)
    np.testing.assert_allclose(networks.later_hidden(ops, arrays, d[0].numpy()), a[0].detach().numpy(), atol=1e-4)
