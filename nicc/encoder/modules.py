"""Analysis transforms as PyTorch modules: `nicc.encoder.analysis` in training, and larger networks.

Every analysis is a linear lapped transform plus a network whose output starts at zero, so that a
model is a working codec before its first training step. Images are ``(N, 3, H, W)`` in 0..1 with
H and W multiples of 16; latents are ``(N, h, w, C)``, channels last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nicc.architecture import LATENTS_PER_HYPER, PIXELS_PER_LATENT, Architecture
from nicc.encoder import analysis, ops
from nicc.encoder.analysis import HYPER_BANDS, HYPER_MEANS, LINEAR_KERNEL, LINEAR_MARGIN


def mirror_pad(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Pads ``(N, C, H, W)`` by its mirror image, border samples repeated, by up to any width."""
    x = _mirror_axis(x, left, right, -1)
    return _mirror_axis(x, top, bottom, -2)


def _mirror_axis(x: Tensor, before: int, after: int, axis: int) -> Tensor:
    n = x.shape[axis]
    index = torch.arange(-before, n + after, device=x.device) % (2 * n)
    return x.index_select(axis, torch.minimum(index, 2 * n - 1 - index))


class ResidualBlock(nn.Module):
    """x + conv3(gelu(conv3(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.second.weight.data *= 0.3

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.gelu(self.first(x), approximate="tanh"))


class Bottleneck(nn.Module):
    """ELIC's residual bottleneck: 1x1 to half the width, 3x3, 1x1 back (He et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(
            nn.Conv2d(width, half, 1),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(half, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Attention(nn.Module):
    """Simplified attention: features gated by a mask (Cheng et al. 2020, section 3.3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*(Bottleneck(width) for _ in range(3)))
        self.mask = nn.Sequential(*(Bottleneck(width) for _ in range(3)), nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.features(x) * torch.sigmoid(self.mask(x))


def _patch(arch: Architecture) -> nn.Sequential:
    """Patches of 8x8 pixels, residual blocks at 1/8 resolution, then a reduction by two."""
    width = arch.analysis_width
    return nn.Sequential(
        nn.Conv2d(3, width, 8, 8),
        *(ResidualBlock(width) for _ in range(arch.analysis_depth)),
        nn.Conv2d(width, arch.latent_channels, 4, 2, 1),
    )


def _cnn(arch: Architecture) -> nn.Sequential:
    """The mean-scale hyperprior's analysis: four convolutions 5x5, stride 2 (Minnen et al. 2018)."""
    width = 256
    layers: list[nn.Module] = []
    for i in range(3):
        layers += [nn.Conv2d(width if i else 3, width, 5, 2, 2), nn.GELU(approximate="tanh")]
    return nn.Sequential(*layers, nn.Conv2d(width, arch.latent_channels, 5, 2, 2))


def _elic(arch: Architecture) -> nn.Sequential:
    """ELIC's analysis, as in Yang & Mandt 2023, section 4.1."""
    width = 192
    layers: list[nn.Module] = []
    for i in range(3):
        layers += [nn.Conv2d(width if i else 3, width, 5, 2, 2), *(Bottleneck(width) for _ in range(3))]
        if i == 1:
            layers.append(Attention(width))
    return nn.Sequential(*layers, nn.Conv2d(width, arch.latent_channels, 5, 2, 2), Attention(arch.latent_channels))


class Analysis(nn.Module):
    """``(N, 3, H, W)`` in 0..1 to latents ``(N, H / 16, W / 16, C)``."""

    colour: Tensor

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch, c = arch, arch.latent_channels
        self.linear = nn.Conv2d(3, c, LINEAR_KERNEL, PIXELS_PER_LATENT, bias=False)
        self.body = {"patch": _patch, "cnn": _cnn, "elic": _elic}[arch.analysis](arch)
        self.out = nn.Parameter(torch.zeros(c))
        """Per-channel weight of the network beside the linear transform, zero at the start."""
        self.register_buffer("colour", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        padded = mirror_pad(x, *[LINEAR_MARGIN] * 4).permute(0, 2, 3, 1)
        state = self.state_dict(keep_vars=True)
        if self.arch.analysis == "patch":
            p = analysis.analysis_matrices(ops, state, self.arch.analysis_depth)
            network = analysis.network_latents(ops, p, x.permute(0, 2, 3, 1), self.arch.analysis_depth)
        else:
            p = {"linear": analysis.linear_matrix(ops, state), "colour": self.colour}
            network = (self.body(x - self.colour[:, None, None]) * self.out[:, None, None]).permute(0, 2, 3, 1)
        with torch.autocast(x.device.type, enabled=False):  # eight bits of mantissa would cost rate
            return analysis.linear_latents(ops, p, padded.float()) + network


def hyper_latents(network: HyperAnalysis, y: Tensor, deviation: Tensor, offset: Tensor) -> Tensor:
    """Hyper-latents of latents ``(N, h, w, C)`` in nats, around zero.

    Latents are repeated at the border up to whole hyper-latents; the result is
    ``(N, ceil(h / 4), ceil(w / 4), Cz)``.
    """
    x = (y / deviation).permute(0, 3, 1, 2)
    k = LATENTS_PER_HYPER
    x = F.pad(x, (0, -x.shape[3] % k, 0, -x.shape[2] % k), mode="replicate")
    return network(x.permute(0, 2, 3, 1)) - offset


class HyperAnalysis(nn.Module):
    """Latents in units of their deviations, ``(N, h, w, C)``, to ``(N, h / 4, w / 4, Cz)``.

    h and w are multiples of 4. The first channels are interpretable: mean log magnitudes of bands
    of channels, then the means of the strongest channels. A network adds to them from zero.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        c, width = arch.latent_channels, 96
        fixed = torch.zeros(2 * c, arch.hyper_channels)
        edges = torch.linspace(0, c**0.5, HYPER_BANDS + 1).square().round().long()
        for band in range(HYPER_BANDS):
            first, last = int(edges[band]), max(int(edges[band]) + 1, int(edges[band + 1]))
            fixed[c + first : c + last, band] = 1 / (last - first)
        for i in range(min(HYPER_MEANS, arch.hyper_channels - HYPER_BANDS)):
            fixed[i, HYPER_BANDS + i] = 1.0
        self.pooled = nn.Parameter(fixed)
        self.first = nn.Linear(2 * c, width)
        self.second = nn.Conv2d(width, width, LATENTS_PER_HYPER, LATENTS_PER_HYPER)
        self.third = nn.Linear(width, arch.hyper_channels)
        nn.init.zeros_(self.third.weight)
        nn.init.zeros_(self.third.bias)

    def forward(self, y: Tensor) -> Tensor:
        return analysis.hyper_latents(ops, analysis.hyper_matrices(ops, self.state_dict(keep_vars=True)), y)
