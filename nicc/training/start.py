"""Turns a fresh codec into a working linear one: the lapped KLT, its gains and CDF rows."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nicc.architecture import ANCHORS, LOG_ROW_STEP, RATE_POINTS, SIGMA_MIN, Architecture, rate_lambda
from nicc.encoder import ops
from nicc.encoder.analysis import HYPER_BANDS, HYPER_MEANS, LINEAR_KERNEL
from nicc.encoder.codec import Codec, upsample
from nicc.errors import ModelError
from nicc.training.data import Photos
from nicc.training.klt import lapped_klt
from nicc.training.objective import HyperPrior, RateDistortion

PRIOR_STEPS = 400
MAIN_SCALE = 2.0
"""Size of the non-linear branch's start relative to the linear one."""


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
        p["synthesis_linear"].copy_(_centred(klt.synthesis, arch.kernel).permute(0, 2, 3, 1))
    else:
        _start_two_layer(codec, _centred(klt.synthesis, 2 * arch.kernel))
    norms = torch.tensor((klt.synthesis**2).sum((1, 2, 3)) ** 0.5, dtype=torch.float32)
    for a in range(ANCHORS):
        step = math.sqrt(18 / (math.log(2) * rate_lambda(a * (RATE_POINTS - 1) / (ANCHORS - 1)))) / 255
        codec.log_gain[a] = torch.log(norms / step)
    _start_entropy(codec, prior, photos, seed)


@torch.no_grad()
def start_from(model: RateDistortion, state: dict[str, Tensor], architecture: Architecture) -> None:
    """Takes over the weights of another model whose latents have the same shape.

    A jpeg-like synthesis may start from a two-layer one: its kernel becomes the linear part of the
    two layers. Rectifiers that the other model lacks start silent, and so does what a deeper or wider
    ``patch`` analysis has more. Raises `ModelError` if the architectures cannot be matched.
    """
    mine = model.codec.arch
    synthesis = {"synthesis", "kernel", "hidden_channels", "residual"}
    differing = {k for k, v in mine.to_dict().items() if architecture.to_dict()[k] != v}
    rectifier = {"rectifiers", "rectifier_width"}
    if differing & rectifier:
        if architecture.rectifiers:
            raise ModelError("cannot start from a model with other rectifiers")
        differing -= rectifier
    known = model.state_dict()
    growth = {"analysis_depth", "analysis_width"} & differing
    if growth and mine.analysis == architecture.analysis == "patch":
        if any(getattr(mine, name) < getattr(architecture, name) for name in growth):
            raise ModelError("cannot start from a model with a larger analysis")
        state = state | _grown(known, state, architecture.analysis_depth, mine.analysis_depth)
        differing -= growth
    own = {k: v for k, v in state.items() if k in known and v.shape == known[k].shape}
    if not differing:
        model.load_state_dict(own, strict=False)
        return
    if not (differing <= synthesis and mine.synthesis == "jpeg-like" and architecture.synthesis == "two-layer"):
        raise ModelError(f"cannot start from a model that differs in {', '.join(sorted(differing))}")
    other = Codec(architecture)
    other.load_state_dict({k.removeprefix("codec."): v for k, v in state.items() if k.startswith("codec.")})
    kernel = linear_part(other)
    keep = (2 * architecture.kernel + 4 - mine.kernel) // 2
    model.load_state_dict({k: v for k, v in own.items() if "synthesis" not in k}, strict=False)
    p = model.codec.p
    p["synthesis_linear"].copy_(kernel[:, keep : keep + mine.kernel, keep : keep + mine.kernel])
    p["synthesis_bias"].copy_(other.p["synthesis_bias"])


BODY = "codec.analysis.body."


def _grown(known: dict[str, Tensor], state: dict[str, Tensor], depth: int, new_depth: int) -> dict[str, Tensor]:
    """Arrays of a larger ``patch`` analysis, shaped like those ``known``, that computes what ``state``'s does.

    New channels have random weights and reach none of the old ones; new blocks add nothing.
    """
    grown = {}
    for name in (k for k in known if k.startswith(BODY)):
        layer, rest = name.removeprefix(BODY).split(".", 1)
        value = known[name].clone()
        if depth < int(layer) <= new_depth:
            if rest.startswith("second"):
                value.zero_()
        else:
            old = state[f"{BODY}{int(layer) if int(layer) <= depth else depth + 1}.{rest}"]
            if old.dim() > 1:
                value[: len(old), old.shape[1] :] = 0
                value[: len(old), : old.shape[1]] = old
            else:
                value[: len(old)] = old
        grown[name] = value
    return grown


def linear_part(codec: Codec) -> Tensor:
    """Impulse responses of a two-layer synthesis without its non-linearity, ``(C, k, k, 3)``.

    k is twice the first kernel plus four.
    """
    hidden = codec.p["synthesis_linear"]
    if codec.arch.residual:
        hidden = hidden + codec.p["synthesis_main"] * codec.p["igdn_beta"]
    else:
        hidden = hidden * codec.p["igdn_beta"]
    return ops.subpixel_conv(torch.nn.functional.pad(hidden, (0, 0, 2, 2, 2, 2)), codec.p["synthesis_out"])


def _start_two_layer(codec: Codec, basis: Tensor) -> None:
    """Hidden channels are the 2x2 phases of the three colours; the second layer shuffles pixels."""
    p = codec.p
    c, _, size, _ = basis.shape
    half = size // 2
    phases = basis.reshape(c, 3, half, 2, half, 2).permute(0, 2, 4, 3, 5, 1).reshape(c, half, half, 12)
    p["synthesis_linear"][..., :12] = phases
    if codec.arch.residual:
        # beta and gamma are zero: the branch is silent, but gamma already sees a useful signal
        p["synthesis_main"].copy_(MAIN_SCALE * p["synthesis_linear"])
        p["synthesis_main"].add_(torch.randn_like(p["synthesis_main"]) * p["synthesis_main"].std())
    else:
        p["igdn_beta"].fill_(1)
        p["synthesis_out"][:, :, 12:].normal_(std=0.02)
        p["synthesis_linear"][..., 12:].normal_(std=float(phases.std()))
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
    zf = upsample(z, *y.shape[1:3])
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
