"""What people see, as a distortion with gradients: SSIMULACRA 2 beside the squared error.

The weighted sum of SSIMULACRA 2 (`nicc.ssimulacra2`), before the polynomial that makes a score of it, grows
smoothly with distortion. Scaled to the squared errors of nicc's own reconstructions, it takes most of
the squared error's place, so that lambda keeps its meaning; like that, it adds up over an image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nicc.images import LUMA
from nicc.ssimulacra2 import (
    BLUR_REACH,
    KNEE,
    OPSIN,
    OPSIN_BIAS,
    SLOPE,
    SUM_SCALE,
    TINY,
    above_knee,
    blur_taps,
    differences,
    opponent,
    scales_of,
    weights_of,
)


@lru_cache(maxsize=4)
def _kernel(device: torch.device, dtype: torch.dtype, channels: int) -> Tensor:
    return torch.from_numpy(blur_taps()).to(device, dtype).expand(channels, 1, 1, -1)


def _blur(x: Tensor) -> Tensor:
    """Gaussian of 11 taps, mirrored above and below, zero at the sides, as the package has it.

    One group a channel, channels last: 25 times as fast on a CPU as planes of one channel.
    """
    kernel = _kernel(x.device, x.dtype, x.shape[1])
    x = F.conv2d(x, kernel, padding=(0, BLUR_REACH), groups=x.shape[1])
    top, bottom = x[..., :BLUR_REACH, :].flip(-2), x[..., -BLUR_REACH:, :].flip(-2)
    x = torch.cat([top, x, bottom], -2)
    return F.conv2d(x, kernel.transpose(-1, -2), groups=x.shape[1])


def _linear(x: Tensor) -> Tensor:
    """sRGB 0..1 to linear light."""
    return torch.where(x <= KNEE, x / SLOPE, above_knee(x.clamp_min(0.04)))


def _xyb(x: Tensor) -> Tensor:
    """Linear RGB ``(N, 3, H, W)`` to XYB, scaled and moved to positive values."""
    mixed = F.conv2d(x, x.new_tensor(OPSIN)[:, :, None, None], x.new_full((3,), OPSIN_BIAS))
    m = mixed.clamp_min(1e-6).pow(1 / 3) - OPSIN_BIAS ** (1 / 3)
    return torch.stack(opponent(*m.unbind(1)), 1)


def _means(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and 4-norm of every channel, ``(N, C)``."""
    square = x * x
    return x.mean((2, 3)), ((square * square).mean((2, 3)) + TINY) ** 0.25


def raw_difference(original: Tensor, decoded: Tensor) -> Tensor:
    """The weighted sum of SSIMULACRA 2 before its polynomial, ``(N,)``: 0 for equal images.

    Both images are ``(N, 3, H, W)`` sRGB around 0..1, 8 pixels a side or more; what is outside 0..1 is clipped.
    Gradients reach ``decoded``.
    """
    scales = scales_of(*original.shape[2:])
    weights = torch.from_numpy(weights_of(scales)).to(original)
    a, b = (_linear(x.clamp(0, 1)).contiguous(memory_format=torch.channels_last) for x in (original, decoded))
    total = a.new_zeros(len(a))
    for scale in range(scales):
        x, y = _xyb(a), _xyb(b)
        stacked = torch.cat([x, y, x * x, y * y, x * y], 1).contiguous(memory_format=torch.channels_last)
        lost, edges = differences(x, y, _blur(stacked).split(3, 1))
        for i, part in enumerate((lost.clamp_min(0), edges.clamp_min(0), (-edges).clamp_min(0))):
            for norm, value in enumerate(_means(part)):
                total = total + value @ weights[:, scale, norm, i]
        if scale + 1 < scales:
            a, b = (F.avg_pool2d(t, 2, ceil_mode=True, count_include_pad=False) for t in (a, b))
    return total * SUM_SCALE


def middle_error(original: Tensor, decoded: Tensor) -> Tensor:
    """The squared error of luma of middle frequencies, ``(N,)``: see `nicc.ssimulacra2.encoding_distortion`.

    Both images are ``(N, 3, H, W)`` in 0..1.
    """
    error = (decoded - original).movedim(1, -1) @ original.new_tensor(LUMA) * 255
    blurred = _blur(error[:, None])[:, 0]
    return (blurred * (error - blurred)).mean((1, 2))


class _Precomputed(torch.autograd.Function):
    """Values of images, ``(N,)``, whose gradients for these are known already."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, values: Tensor, gradients: Tensor) -> Tensor:
        ctx.save_for_backward(gradients)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradients,) = ctx.saved_tensors
        return grad[:, None, None, None] * gradients, None, None


def difference_from(original: Tensor) -> Callable[[Tensor], Tensor]:
    """`raw_difference` from one original ``(N, 3, H, W)``, of decoded images in 0..1.

    On a CPU with Numba, the kernels that pyramid is fitted with compute it, in an eighth of the time.
    """
    if original.device.type != "cpu":
        return partial(raw_difference, original)
    try:
        from nicc.pyramid.visual import Memory, VisualDistortion
    except ImportError:
        return partial(raw_difference, original)
    memory: dict[tuple[int, ...], Memory] = {}
    references = [VisualDistortion(np.ascontiguousarray(image - 0.5), memory) for image in original.numpy()]

    def difference(decoded: Tensor) -> Tensor:
        images = decoded.detach().contiguous().numpy() - 0.5
        found = [reference.raw_difference(image) for reference, image in zip(references, images, strict=True)]
        values, gradients = (np.asarray(part, np.float32) for part in zip(*found, strict=True))
        return _Precomputed.apply(decoded, torch.from_numpy(values), torch.from_numpy(gradients))

    return difference


def decibels(mse: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors on the 0..255 scale."""
    return 10 * torch.log10(255**2 / mse)
