"""What people see, as a distortion with gradients: SSIMULACRA 2 beside the squared error.

SSIMULACRA 2 (Sneyers 2022; weights and formulas of libjxl and of the ``ssimulacra2`` package)
compares six scales in the XYB colour space by three maps: structural similarity without the
luminance's denominator, edges that the decoded image has too many, and detail that it has lost.
The weighted sum of their means and 4-norms, before the polynomial that makes a score of it, grows
smoothly with distortion. Scaled to the squared errors of nicc's own reconstructions, it takes most of
the squared error's place, so that lambda keeps its meaning; like that, it adds up over an image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SCALES, SMALLEST = 6, 8
C2 = 0.0009
BLUR_SIGMA, BLUR_REACH = 1.5, 5
OPSIN = (
    (0.30, 0.622, 0.078),
    (0.23, 0.692, 0.078),
    (0.24342268924547819, 0.20476744424496821, 0.5518098665095536),
)
OPSIN_BIAS = 0.0037930732552754493
SUM_SCALE = 0.9562382616834844
SCORE = (2.326765642916932, -0.020884521182843837, 6.248496625763138e-05)
SCORE_POWER = 0.6276336467831387
TINY = 1e-24
"""Added under roots, whose slope at zero is infinite."""

WEIGHTS = (  # by colour (X, Y, B), scale, norm (mean, 4-norm), map (similarity, artefacts, lost detail)
    0.0,
    0.0007376606707406586,
    0.0,
    0.0,
    0.0007793481682867309,
    0.0,
    0.0,
    0.0004371155730107379,
    0.0,
    1.1041726426657346,
    0.00066284834129271,
    0.00015231632783718752,
    0.0,
    0.0016406437456599754,
    0.0,
    1.8422455520539298,
    11.441172603757666,
    0.0,
    0.0007989109436015163,
    0.000176816438078653,
    0.0,
    1.8787594979546387,
    10.94906990605142,
    0.0,
    0.0007289346991508072,
    0.9677937080626833,
    0.0,
    0.00014003424285435884,
    0.9981766977854967,
    0.00031949755934435053,
    0.0004550992113792063,
    0.0,
    0.0,
    0.0013648766163243398,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0,
    7.466890328078848,
    0.0,
    17.445833984131262,
    0.0006235601634041466,
    0.0,
    0.0,
    6.683678146179332,
    0.00037724407979611296,
    1.027889937768264,
    225.20515300849274,
    0.0,
    0.0,
    19.213238186143016,
    0.0011401524586618361,
    0.001237755635509985,
    176.39317598450694,
    0.0,
    0.0,
    24.43300999870476,
    0.28520802612117757,
    0.0004485436923833408,
    0.0,
    0.0,
    0.0,
    34.77906344483772,
    44.835625328877896,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0008680556573291698,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0005313191874358747,
    0.0,
    0.00016533814161379112,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0004179171803251336,
    0.0017290828234722833,
    0.0,
    0.0020827005846636437,
    0.0,
    0.0,
    8.826982764996862,
    23.19243343998926,
    0.0,
    95.1080498811086,
    0.9863978034400682,
    0.9834382792465353,
    0.0012286405048278493,
    171.2667255897307,
    0.9807858872435379,
    0.0,
    0.0,
    0.0,
    0.0005130064588990679,
    0.0,
    0.00010854057858411537,
)
VISUAL_SHARE = 0.8
"""Share of the visual part in the distortion; the rest is the squared error."""
MSE_PER_RAW = 10.0
"""Squared error (0..255 scale) that a `raw_difference` of 1 stands for: their ratio in the middle of the rates on
nicc's own reconstructions, docs/visual.md."""


@lru_cache(maxsize=4)
def _kernel(device: torch.device, channels: int) -> Tensor:
    g = torch.exp(-(torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=device).float() ** 2) / (2 * BLUR_SIGMA**2))
    return (g / g.sum()).expand(channels, 1, 1, -1)


def _blur(x: Tensor) -> Tensor:
    """Gaussian of 11 taps, mirrored above and below, zero at the sides, as the package has it.

    One group a channel, channels last: 25 times as fast on a CPU as planes of one channel.
    """
    kernel = _kernel(x.device, x.shape[1])
    x = F.conv2d(x, kernel, padding=(0, BLUR_REACH), groups=x.shape[1])
    top, bottom = x[..., :BLUR_REACH, :].flip(-2), x[..., -BLUR_REACH:, :].flip(-2)
    x = torch.cat([top, x, bottom], -2)
    return F.conv2d(x, kernel.transpose(-1, -2), groups=x.shape[1])


def _linear(x: Tensor) -> Tensor:
    """sRGB 0..1 to linear light."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp_min(0.04) + 0.055) / 1.055) ** 2.4)


def _xyb(x: Tensor) -> Tensor:
    """Linear RGB ``(N, 3, H, W)`` to XYB, scaled and moved to positive values."""
    matrix = torch.tensor(OPSIN, device=x.device)
    mixed = F.conv2d(x, matrix[:, :, None, None], torch.full((3,), OPSIN_BIAS, device=x.device))
    m = mixed.clamp_min(1e-6).pow(1 / 3) - OPSIN_BIAS ** (1 / 3)
    red, green, blue = m.unbind(1)
    luma = (red + green) / 2
    return torch.stack([(red - green) * 7 + 0.42, luma + 0.01, blue - luma + 0.55], 1)


def _means(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and 4-norm of every channel, ``(N, C)``."""
    square = x * x
    return x.mean((2, 3)), ((square * square).mean((2, 3)) + TINY) ** 0.25


def raw_difference(original: Tensor, decoded: Tensor) -> Tensor:
    """The weighted sum of SSIMULACRA 2 before its polynomial, ``(N,)``: 0 for equal images.

    Both images are ``(N, 3, H, W)`` sRGB around 0..1, 8 pixels a side or more; what is outside 0..1 is clipped.
    Gradients reach ``decoded``.
    """
    scales = sum(math.ceil(min(original.shape[2:]) / 2**scale) >= SMALLEST for scale in range(SCALES))
    # small images have fewer scales, and the metric then takes its list of weights without gaps
    weights = torch.tensor(WEIGHTS, device=original.device).reshape(-1, 2, 3)[: 3 * scales].reshape(3, scales, 2, 3)
    a, b = (_linear(x.clamp(0, 1)).contiguous(memory_format=torch.channels_last) for x in (original, decoded))
    total = torch.zeros(len(a), device=a.device)
    for scale in range(scales):
        x, y = _xyb(a), _xyb(b)
        stacked = torch.cat([x, y, x * x, y * y, x * y], 1).contiguous(memory_format=torch.channels_last)
        mean_x, mean_y, xx, yy, xy = _blur(stacked).split(3, 1)
        similar = 1 - (mean_x - mean_y) ** 2
        structure = (2 * (xy - mean_x * mean_y) + C2) / ((xx - mean_x**2) + (yy - mean_y**2) + C2)
        edges = (1 + (y - mean_y).abs()) / (1 + (x - mean_x).abs()) - 1
        for i, part in enumerate(((1 - similar * structure).clamp_min(0), edges.clamp_min(0), (-edges).clamp_min(0))):
            for norm, value in enumerate(_means(part)):
                total = total + value @ weights[:, scale, norm, i]
        if scale + 1 < scales:
            a, b = (F.avg_pool2d(t, 2, ceil_mode=True, count_include_pad=False) for t in (a, b))
    return total * SUM_SCALE


def decibels(mse: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors on the 0..255 scale."""
    return 10 * torch.log10(255**2 / mse)


def score(raw: Tensor) -> Tensor:
    """SSIMULACRA 2 of a `raw_difference`: 100 for equal images, 70 high quality, below 0 very low."""
    p = raw * (SCORE[0] + raw * (SCORE[1] + raw * SCORE[2]))
    return 100 - 10 * p.clamp_min(TINY) ** SCORE_POWER


def visual_distortion(mse: Tensor, raw: Tensor) -> Tensor:
    """What the objective ``visual`` puts in the place of the squared error ``mse``, on its scale.

    ``raw`` is the `raw_difference` of the same images, ``(N,)``.
    """
    return (1 - VISUAL_SHARE) * mse + VISUAL_SHARE * MSE_PER_RAW * raw


def _tensors(*images: np.ndarray) -> Iterator[Tensor]:
    """uint8 images ``(height, width, 3)`` as ``(1, 3, H, W)`` in 0..1."""
    return (torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255 for pixels in images)


@torch.no_grad()
def distortion_of(original: np.ndarray, decoded: np.ndarray) -> float:
    """`visual_distortion` of two uint8 images ``(height, width, 3)``."""
    x, y = _tensors(original, decoded)
    return float(visual_distortion((x - y).square().mean((1, 2, 3)) * 255**2, raw_difference(x, y)))


@torch.no_grad()
def ssimulacra2(original: np.ndarray, decoded: np.ndarray) -> float:
    """SSIMULACRA 2 of two uint8 images ``(height, width, 3)``."""
    return float(score(raw_difference(*_tensors(original, decoded))))
