"""Turns a fresh codec into a working linear one: the lapped KLT, its gains and CDF rows."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nicc.architecture import LOG_ROW_STEP, SIGMA_MIN, Architecture
from nicc.encoder import ops
from nicc.encoder.analysis import HYPER_BANDS, HYPER_MEANS, LINEAR_KERNEL
from nicc.encoder.latent_code import upsample
from nicc.training.codec import CodecModule
from nicc.training.data import Photos
from nicc.training.klt import lapped_klt
from nicc.training.objective import HyperPrior, RateDistortion

START_CROPS = 96
"""Crops of 256x256 pixels whose latents a start is fitted to."""
PRIOR_STEPS = 400
MAIN_SCALE = 2.0
"""Size of the non-linear branch's start relative to the linear one."""


def centred(kernel: np.ndarray, size: int) -> Tensor:
    """``(C, 3, k, k)`` cut or padded to ``size`` about its centre."""
    edge = (size - kernel.shape[-1]) // 2
    if edge < 0:
        kernel = kernel[..., -edge:edge, -edge:edge]
    return torch.nn.functional.pad(torch.tensor(kernel, dtype=torch.float32), (max(edge, 0),) * 4)


def klt_gains(arch: Architecture, norms: Tensor) -> Tensor:
    """Logarithms of the gains ``(anchors, C)`` that suit the squared error, for basis functions of these norms."""
    steps = [math.sqrt(18 / (math.log(2) * arch.rate_lambda(point))) / 255 for point in arch.anchor_points]
    return torch.log(norms / torch.tensor(steps)[:, None])


@torch.no_grad()
def start(codec: CodecModule, prior: HyperPrior, photos: Photos, overlap: int, seed: int) -> None:
    """Sets transforms from principal components, then rates from statistics of ``photos``."""
    arch, p = codec.arch, codec.p
    klt = lapped_klt(photos, arch.latent_channels, overlap, seed=seed)
    codec.analysis.linear.weight.copy_(centred(klt.analysis, LINEAR_KERNEL))
    codec.analysis.colour.copy_(torch.tensor(klt.colour))
    codec.parity.copy_(torch.tensor(klt.parity))
    codec.deviation.copy_(torch.tensor(klt.deviation))
    p["synthesis_bias"].copy_(torch.tensor(klt.colour))
    if arch.synthesis == "jpeg-like":
        p["synthesis_linear"].copy_(centred(klt.synthesis, arch.kernel).permute(0, 2, 3, 1))
    else:
        _start_two_layer(codec, centred(klt.synthesis, 2 * arch.kernel))
    norms = torch.tensor((klt.synthesis**2).sum((1, 2, 3)) ** 0.5, dtype=torch.float32)
    codec.log_gain.copy_(klt_gains(arch, norms))
    _start_entropy(codec, prior, photos, seed)


def linear_part(codec: CodecModule) -> Tensor:
    """Impulse responses of a two-layer synthesis without its non-linearity, ``(C, k, k, 3)``.

    k is twice the first kernel plus four.
    """
    hidden = codec.p["synthesis_linear"]
    if codec.arch.residual:
        hidden = hidden + codec.p["synthesis_main"] * codec.p["igdn_beta"]
    else:
        hidden = hidden * codec.p["igdn_beta"]
    padded = torch.nn.functional.pad(hidden, (0, 0, 2, 2, 2, 2))
    return ops.subpixel_conv(padded, codec.p["synthesis_out"], torch.zeros_like(codec.p["synthesis_bias"]))


def pixel_phases(basis: Tensor) -> Tensor:
    """Basis functions ``(C, 3, 2 k, 2 k)`` as ``(C, k, k, 12)``: their 2x2 phases by row, column and colour."""
    c, _, size, _ = basis.shape
    half = size // 2
    return basis.reshape(c, 3, half, 2, half, 2).permute(0, 2, 4, 3, 5, 1).reshape(c, half, half, 12)


def _start_two_layer(codec: CodecModule, basis: Tensor) -> None:
    """Hidden channels are the 2x2 phases of the three colours; the second layer shuffles pixels."""
    p = codec.p
    phases = pixel_phases(basis)
    p["synthesis_linear"][..., :12] = phases[: codec.arch.main]
    if "synthesis_more" in p:
        p["synthesis_more"].copy_(phases[codec.arch.main :])
    if codec.arch.residual:
        # beta and gamma are zero: the branch is silent, but gamma already sees a useful signal
        p["synthesis_main"][..., :12] = MAIN_SCALE * p["synthesis_linear"]
        p["synthesis_main"].add_(torch.randn_like(p["synthesis_main"]) * p["synthesis_main"].std())
    else:
        p["igdn_beta"].fill_(1)  # the second layer is silent for further channels, which already see a useful signal
        p["synthesis_linear"][..., 12:].normal_(std=float(phases.std()))
    p["synthesis_out"][1, 1, :12] = torch.eye(12)


def _start_entropy(codec: CodecModule, prior: HyperPrior, photos: Photos, seed: int) -> None:
    rng = np.random.default_rng(seed + 1)
    x = torch.tensor(photos.crops(rng, START_CROPS, 256)).permute(0, 3, 1, 2) / 255
    y = torch.cat([codec.analysis(part) for part in x.split(16)])
    z = codec.hyper(y)
    codec.hyper_offset.copy_(z.mean((0, 1, 2)))
    z -= codec.hyper_offset
    # every channel's deviation follows the log magnitude of its band; bias from the mean magnitude
    pooled = codec.hyper_analysis.pooled[codec.arch.latent_channels :, :HYPER_BANDS]
    codec.p["mean_z"][HYPER_BANDS : HYPER_BANDS + HYPER_MEANS, :HYPER_MEANS] = torch.eye(HYPER_MEANS)
    zf = upsample(z, *y.shape[1:3])
    band = (pooled > 0).float().T
    row_of_z = 0.8 * band / LOG_ROW_STEP
    log_sigma = 0.5 * torch.log(((y / torch.exp(0.8 * zf[..., :HYPER_BANDS] @ band)) ** 2).mean((0, 1, 2)))
    for group in range(codec.arch.group_count):
        first, last = codec.arch.groups[group], codec.arch.groups[group + 1]
        codec.p[f"row{group}_in"][:HYPER_BANDS, : last - first] = row_of_z[:, first:last]
    codec.row_bias.copy_((log_sigma + codec.log_gain - math.log(SIGMA_MIN)) / LOG_ROW_STEP)
    _fit_prior(prior, z.reshape(-1, z.shape[-1]), float(codec.log_hyper_gain.exp().mean()))


@torch.no_grad()
def fit_prior_to(model: RateDistortion, photos: Photos, seed: int = 0) -> None:
    """Fits the prior of a codec in training to the hyper-latents of crops of ``photos``."""
    rng = np.random.default_rng(seed + 1)
    x = torch.tensor(photos.crops(rng, START_CROPS, 256)).permute(0, 3, 1, 2) / 255
    z = torch.cat([model.codec.hyper(model.codec.analysis(part)) for part in x.split(16)])
    _fit_prior(model.prior, z.reshape(-1, z.shape[-1]), float(model.codec.log_hyper_gain.exp().mean()))


@torch.enable_grad()
def _fit_prior(prior: HyperPrior, z: Tensor, gain: float) -> None:
    """Fits the hyper-latents' prior to samples ``(n, Cz)``: a random start costs 0.05 bpp."""
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    z, width = z.detach(), torch.full((), gain)
    for _ in range(PRIOR_STEPS):
        optimizer.zero_grad()
        noisy = z + (torch.rand_like(z) - 0.5) / gain
        (-torch.log(prior(noisy, width)).mean()).backward()
        optimizer.step()
