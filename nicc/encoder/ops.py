"""The array operations of `nicc.decoder.networks` for PyTorch, differentiable, channels last."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nicc.architecture import HIDDEN_MAX


def concat(arrays: list[Tensor], axis: int) -> Tensor:
    return torch.cat(arrays, axis)


def dense(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight``, a matrix."""
    return x @ weight


def relu(x: Tensor) -> Tensor:
    return F.relu(x)


def gelu(x: Tensor) -> Tensor:
    """The Gaussian error linear unit in its tanh form."""
    return F.gelu(x, approximate="tanh")


def log(x: Tensor) -> Tensor:
    return torch.log(x)


def absolute(x: Tensor) -> Tensor:
    return x.abs()


def permute(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x.permute(axes)


def zero_pad(x: Tensor, margin: int) -> Tensor:
    """``(..., h, w, C)`` with a margin of zeros on every side."""
    return F.pad(x, (0, 0, margin, margin, margin, margin))


def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def exp_within(x: Tensor, limit: float) -> Tensor:
    """exp(x), x clipped to -limit..limit."""
    return x.clamp(-limit, limit).exp()


def like(constant: np.ndarray, x: Tensor) -> Tensor:
    """A constant beside arrays of the library."""
    return torch.as_tensor(constant, dtype=x.dtype, device=x.device)


def constant(x: Tensor) -> Tensor:
    """``x``, through which no gradient passes."""
    return x.detach()


def unit(x: Tensor) -> Tensor:
    """``x``, clipped to 0..1."""
    return x.clamp(0, 1)


def clipped(x: Tensor, limit: float) -> Tensor:
    """``x``, clipped to -limit..limit."""
    return x.clamp(-limit, limit)


def weighed_differences(
    centre: Tensor, pairs: list[tuple[Tensor, Tensor]], limits: tuple[float, ...], weights: Tensor
) -> Tensor:
    """Clipped differences of pairs of neighbours from the centre, ``(..., n)``, weighed and summed.

    ``weights`` ``(limits pairs, n)`` are of all pairs for the first limit of the clip, then for the next.
    """
    parts = [clipped(one - centre, m) + clipped(other - centre, m) for m in limits for one, other in pairs]
    return sum(part * weight for part, weight in zip(parts, weights, strict=True))


def joint_bilateral(
    planes: list[Tensor],
    guide: Tensor,
    neighbours: list[tuple[int, float]],
    margin: int,
    limit: float,
    edge: float,
) -> list[Tensor]:
    """What moves ``planes`` towards their neighbours where the ``guide`` is alike: `nicc.decoder.chroma`.

    Planes and guide are ``(..., h + 2 margin, w + 2 margin)``, results ``(..., h, w)``; ``neighbours`` are distances,
    up to the margin, and their weights.
    """
    h, w = (n - 2 * margin for n in guide.shape[-2:])

    def moved(plane: Tensor, down: int = 0, right: int = 0) -> Tensor:
        return plane[..., margin + down : margin + down + h, margin + right : margin + right + w]

    totals = [torch.zeros_like(moved(plane)) for plane in planes]
    for distance, weight in neighbours:
        for at in ((distance, 0), (-distance, 0), (0, distance), (0, -distance)):
            near = weight * F.relu(1 - (moved(guide, *at) - moved(guide)).abs() / edge)
            for i, plane in enumerate(planes):
                totals[i] = totals[i] + near * clipped(moved(plane, *at) - moved(plane), limit)
    return totals


def chosen(x: Tensor, index: Tensor) -> Tensor:
    """The entries of ``x`` ``(k, n)`` at ``index`` ``(n,)`` along its first axis."""
    return x.gather(0, index[None])[0]


def grouped(index: Tensor, count: int) -> tuple[Tensor, list[int]]:
    """An order ``(n,)`` in which entries 0..count - 1 of ``index`` ``(n,)`` stand together, and their bounds in it."""
    bounds = torch.bincount(index, minlength=count).cumsum(0).tolist()
    return index.argsort(stable=True), [0, *bounds]


def hats(x: Tensor, count: int) -> Tensor:
    """Weights ``(..., count)`` that interpolate linearly between 0, 1, ... count - 1 at ``x`` ``(..., 1)``."""
    return F.relu(1 - (x - torch.arange(count, device=x.device, dtype=x.dtype)).abs())


def waves(x: Tensor, octaves: int) -> Tensor:
    """Sines and cosines of ``x`` ``(..., 1)`` in octaves from half a period on."""
    angles = x * torch.pi * 2.0 ** torch.arange(octaves, device=x.device)
    return torch.cat([angles.sin(), angles.cos()], -1)


def depth_to_space(x: Tensor, factor: int) -> Tensor:
    """``(N, h, w, factor factor D)``, channels (row, column, channel), to ``(N, factor h, factor w, D)``."""
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, factor, factor, c // factor**2)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(n, factor * h, factor * w, -1)


def space_to_depth(x: Tensor, factor: int) -> Tensor:
    """The inverse of `depth_to_space`."""
    n, h, w, d = x.shape
    x = x.reshape(n, h // factor, factor, w // factor, factor, d)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(n, h // factor, w // factor, -1)


def blocks(x: Tensor, side: int, reach: int) -> Tensor:
    """``(N, h + 2 reach, w + 2 reach)`` in squares beside each other, each with what is around it.

    ``(side + 2 reach, side + 2 reach, n)``, image by image and row by row.
    """
    whole = side + 2 * reach
    return x.unfold(1, whole, side).unfold(2, whole, side).reshape(-1, whole, whole).permute(1, 2, 0)


def unblocked(x: Tensor, order: Tensor, shape: tuple[int, ...], reach: int) -> Tensor:
    """Squares ``(side, side, n)`` in an order of those that `blocks` made of ``(N, h + 2 reach, w + 2 reach, ...)``.

    The result is ``(N, h, w)``.
    """
    side, (h, w) = len(x), (n - 2 * reach for n in shape[1:3])
    x = x[..., order.argsort()].reshape(side, side, -1, h // side, w // side)
    return x.permute(2, 3, 0, 4, 1).reshape(-1, h, w)


def add_to_colours(x: Tensor, changes: list[Tensor]) -> Tensor:
    """``x`` ``(N, h, w, 3)`` with changes ``(N, h, w)``, one for each colour, added."""
    return x + torch.stack(changes, -1)


def row_hidden(x: Tensor) -> Tensor:
    """Activation of the row predictor's hidden layer, in the range that its integers can hold."""
    return x.clamp(0, HIDDEN_MAX)


def igdn(x: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    """Inverse GDN-1, x (beta + abs(x) gamma); beta and gamma may have any sign."""
    return x * (beta + x.abs() @ gamma)


def window(x: Tensor, reach: int = 1) -> Tensor:
    """``(..., h, w, k k C)``, k = 2 reach + 1: the surroundings of every position, zero outside."""
    h, w = x.shape[-3:-1]
    padded = F.pad(x, (0, 0, reach, reach, reach, reach))
    side = range(2 * reach + 1)
    return torch.cat([padded[..., i : i + h, j : j + w, :] for i in side for j in side], -1)


def cross_sum(x: Tensor) -> Tensor:
    """``(..., h, w, C)``: the sum over the neighbours above, left, right and below."""
    p = F.pad(x, (0, 0, 1, 1, 1, 1))
    return p[..., :-2, 1:-1, :] + p[..., 1:-1, :-2, :] + p[..., 1:-1, 2:, :] + p[..., 2:, 1:-1, :]


def diagonal_sum(x: Tensor) -> Tensor:
    """``(..., h, w, C)``: the sum over the four diagonal neighbours."""
    p = F.pad(x, (0, 0, 1, 1, 1, 1))
    return p[..., :-2, :-2, :] + p[..., :-2, 2:, :] + p[..., 2:, :-2, :] + p[..., 2:, 2:, :]


def transposed_conv(x: Tensor, weights: list[Tensor], stride: int, margin: int) -> Tensor:
    """Transposed convolution of ``(N, h + 2, w + 2, C)`` with ``(C, k, k, D)`` over the inner positions.

    ``weights`` are one array, or two: a second ``(C', k, k, D')`` for the last C' channels adds to the
    last D' outputs. Returns ``(N, stride h + 2 margin, stride w + 2 margin, D)``: what the inner positions cover,
    less their overhang, and ``margin`` samples around it.
    """
    weight, x = weights[0], x.permute(0, 3, 1, 2)
    y = F.conv_transpose2d(x[:, : len(weight)], weight.permute(0, 3, 1, 2), stride=stride)
    for more in weights[1:]:
        added = F.conv_transpose2d(x[:, -len(more) :], more.permute(0, 3, 1, 2), stride=stride)
        others = y.shape[1] - added.shape[1]
        y = torch.cat([y[:, :others], y[:, others:] + added], 1)
    cut = stride + (weight.shape[1] - stride) // 2 - margin
    return y[..., cut : y.shape[-2] - cut, cut : y.shape[-1] - cut].permute(0, 2, 3, 1)


def conv3(x: Tensor, weight: Tensor) -> Tensor:
    """3x3 convolution of ``(N, h + 2, w + 2, C)`` with ``(9 C, D)``, rows (row, column, channel)."""
    kernel = weight.reshape(3, 3, -1, weight.shape[-1]).permute(3, 2, 0, 1)
    return F.conv2d(x.permute(0, 3, 1, 2), kernel).permute(0, 2, 3, 1)


def subpixel_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Transposed convolution, kernel 6, stride 2, as a 3x3 convolution to four phases, plus ``bias`` ``(D,)``.

    ``x`` is ``(N, h + 2, w + 2, C)``, ``weight`` ``(3, 3, C, 4 D)`` with outputs ordered (row
    phase, column phase, channel); the result is ``(N, 2 h, 2 w, D)``.
    """
    return depth_to_space(conv3(x, weight.reshape(-1, weight.shape[-1])), 2) + bias
