"""Turns a fresh codec into a working linear one: the lapped KLT, its gains and CDF rows."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nicc.architecture import ANCHORS, LOG_ROW_STEP, RATE_POINTS, SIGMA_MIN, rate_lambda
from nicc.encoder.analysis import HYPER_BANDS, HYPER_MEANS, LINEAR_KERNEL
from nicc.encoder.codec import Codec
from nicc.training.data import Photos
from nicc.training.klt import lapped_klt
from nicc.training.objective import HyperPrior

PRIOR_STEPS = 400


def _centred(kernel: np.ndarray, size: int) -> Tensor:
    """``(C, 3, k, k)`` cut or padded to ``size`` about its centre."""
    edge = (size - kernel.shape[-1]) // 2
    if edge < 0:
        kernel = kernel[..., -edge:edge, -edge:edge]
    return torch.nn.functional.pad(torch.tensor(kernel, dtype=torch.float32), (max(edge, 0),) * 4)


@torch.no_grad()
def start(codec: Codec, prior: HyperPrior, photos: Photos, overlap: int, seed: int) -> None:
    """Sets transforms from principal components, then rates from statistics of ``photos``."""
    arch, p = codec.arch, codec.p
    klt = lapped_klt(photos, arch.latent_channels, overlap, seed=seed)
    codec.analysis.linear.weight.copy_(_centred(klt.analysis, LINEAR_KERNEL))
    codec.analysis.colour.copy_(torch.tensor(klt.colour))
    codec.parity.copy_(torch.tensor(klt.parity))
    codec.deviation.copy_(torch.tensor(klt.deviation))
    p["synthesis_bias"].copy_(torch.tensor(klt.colour))
    if arch.synthesis == "jpeg-like":
        p["synthesis_in"].copy_(_centred(klt.synthesis, arch.kernel).permute(0, 2, 3, 1))
    else:
        _start_two_layer(codec, _centred(klt.synthesis, 2 * arch.kernel))
    norms = torch.tensor((klt.synthesis**2).sum((1, 2, 3)) ** 0.5, dtype=torch.float32)
    for a in range(ANCHORS):
        step = math.sqrt(18 / (math.log(2) * rate_lambda(a * (RATE_POINTS - 1) / (ANCHORS - 1)))) / 255
        codec.log_gain[a] = torch.log(norms / step)
    _start_entropy(codec, prior, photos, seed)


def _start_two_layer(codec: Codec, basis: Tensor) -> None:
    """Hidden channels are the 2x2 phases of the three colours; the second layer shuffles pixels."""
    p, n = codec.p, codec.arch.hidden_channels
    c, _, size, _ = basis.shape
    phases = basis.reshape(c, 3, size // 2, 2, size // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(c, size // 2, size // 2, 12)
    linear = 12 if codec.arch.residual else 0
    if codec.arch.residual:
        p["synthesis_in"][..., n : n + 12] = phases
    else:
        p["synthesis_in"][..., :12] = phases
    torch.nn.init.normal_(p["synthesis_in"][..., linear and 0 : n if linear else 0], std=0)
    if not codec.arch.residual:
        p["igdn_gamma"].mul_(0.1)
        p["synthesis_out"][:, :, 12:].normal_(std=0.02)
    p["synthesis_out"][1, 1, :12] = torch.eye(12)


def _start_entropy(codec: Codec, prior: HyperPrior, photos: Photos, seed: int) -> None:
    rng = np.random.default_rng(seed + 1)
    x = torch.tensor(photos.crops(rng, 96, 256)).permute(0, 3, 1, 2) / 255
    y = torch.cat([codec.analysis(part) for part in x.split(16)])
    z = codec.hyper(y)
    codec.hyper_offset.copy_(z.mean((0, 1, 2)))
    z -= codec.hyper_offset
    # every channel's deviation follows the log magnitude of its band; bias from the mean magnitude
    pooled = codec.hyper_analysis.pooled[codec.arch.latent_channels :, :HYPER_BANDS]
    codec.p["mean_z"][HYPER_BANDS : HYPER_BANDS + HYPER_MEANS, :HYPER_MEANS] = torch.eye(HYPER_MEANS)
    zf = codec.upsample(z, *y.shape[1:3])
    band = (pooled > 0).float().T
    row_of_z = 0.8 * band / LOG_ROW_STEP
    log_sigma = 0.5 * torch.log(((y / torch.exp(0.8 * zf[..., :HYPER_BANDS] @ band)) ** 2).mean((0, 1, 2)))
    for group in range(codec.arch.group_count):
        first, last = codec.arch.groups[group], codec.arch.groups[group + 1]
        codec.p[f"row{group}_in"][:HYPER_BANDS, : last - first] = row_of_z[:, first:last]
    codec.row_bias.copy_((log_sigma + codec.log_gain - math.log(SIGMA_MIN)) / LOG_ROW_STEP)
    _fit_prior(prior, z.reshape(-1, z.shape[-1]), float(codec.log_hyper_gain.exp().mean()))


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
