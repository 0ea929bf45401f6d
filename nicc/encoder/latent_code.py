"""From hyper-latents and latents to decoded latents, differentiable: training and iterative encoding run this.

The same steps as `nicc.decoder.latents`, over whole arrays instead of one after another, with
quantisation that lets gradients through, and likelihoods (PyTorch).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nicc.architecture import (
    CDF_ROWS,
    HYPER_LIMIT,
    HYPER_UNIT,
    LATENTS_PER_HYPER,
    LOG_ROW_STEP,
    MAGNITUDE_UNIT,
    RECON_CLASSES,
    ROW_HIDDEN,
    SIGMA_MIN,
    Architecture,
)
from nicc.decoder import networks
from nicc.decoder.directional import Filter
from nicc.encoder import ops

TAIL_WEIGHT, TAIL_WIDTH = 0.04, 3.0
"""Share and relative width of the logistic tail beside each row's Gaussian."""
LIKELIHOOD_FLOOR = 1e-9


class _Bound(torch.autograd.Function):
    """Clamp whose gradient vanishes only where a step would lead further out of bounds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        low, high = ctx.bounds
        outwards = ((x <= low) & (grad > 0)) | ((x >= high) & (grad < 0))
        return grad.masked_fill(outwards, 0), None, None


def bound(x: Tensor, low: float, high: float) -> Tensor:
    return _Bound.apply(x, low, high)


def ste_round(x: Tensor, raised: Tensor | None = None) -> Tensor:
    """Rounding with the gradient of the identity; ``raised`` adds to the threshold of one half."""
    rounded = x.round() if raised is None else round_above(x, raised)
    return x + (rounded - x).detach()


def round_above(x: Tensor, raised: Tensor) -> Tensor:
    """Rounding whose threshold is ``raised`` above one half."""
    return torch.sign(x) * (x.abs() + 0.5 - raised).floor()


def row_likelihood(x: Tensor, row: Tensor) -> Tensor:
    """Probability of the unit interval around ``x`` under the distribution of a CDF row.

    ``row`` is a real number in 0..63. A row is a zero-mean Gaussian of deviation
    0.11 * exp(row * LOG_ROW_STEP) with a share of a wider logistic, which keeps the gradient of
    outliers alive.
    """
    sigma = SIGMA_MIN * torch.exp(row * LOG_ROW_STEP)
    x = x.abs()
    upper, lower = (0.5 - x) / sigma, (-0.5 - x) / sigma
    gauss = torch.special.ndtr(upper) - torch.special.ndtr(lower)
    tail = torch.sigmoid(upper / TAIL_WIDTH) - torch.sigmoid(lower / TAIL_WIDTH)
    return (gauss * (1 - TAIL_WEIGHT) + tail * TAIL_WEIGHT).clamp_min(LIKELIHOOD_FLOOR)


def quads(h: int, w: int, device: torch.device) -> Tensor:
    """``(h, w, 1)``, the quad of every position: index into `nicc.architecture.QUADS`."""
    i, j = torch.arange(h, device=device) % 2, torch.arange(w, device=device) % 2
    return torch.tensor([[0, 2], [3, 1]], device=device)[i[:, None], j][..., None]


class LatentCode(NamedTuple):
    """What `Codec.entropy` finds. All but ``z`` are ``(N, h, w, C)``."""

    y_hat: Tensor
    """Decoded latents."""
    symbols: Tensor
    residual: Tensor
    """Scaled latents less their mean: what is rounded."""
    rows: Tensor
    """Real-valued CDF rows."""


class RateTables(NamedTuple):
    """What depends on the rate point: ``(N or 1, 1, 1, columns)``, row biases ``(N or 1, quads, columns)``."""

    gain: Tensor
    inverse: Tensor
    """Dequantisation step times gain."""
    row_bias: Tensor
    hidden_bias: Tensor
    rectifier_bias: Tensor | None
    """None where a model has no rectifier."""
    filter: Filter | None = None
    """None where a model has no directional filter, and where several rate points stand side by side."""


def upsample(z: Tensor, h: int, w: int) -> Tensor:
    """Bilinear interpolation of dequantised hyper-latents to the grid of the latents."""
    limit = HYPER_LIMIT / HYPER_UNIT
    z = bound(z, -limit, limit).permute(0, 3, 1, 2)
    z = F.interpolate(z, scale_factor=LATENTS_PER_HYPER, mode="bilinear", align_corners=False)
    return z[..., :h, :w].permute(0, 2, 3, 1)


def latent_code(
    arch: Architecture,
    p: dict[str, Tensor],
    rate: RateTables,
    z: Tensor,
    v: Tensor,
    quantise: Callable[[Tensor, slice], Tensor],
    relaxed: bool = False,
) -> LatentCode:
    """The receiver's way from hyper-latents and symbols to latents, differentiable.

    ``z`` are upsampled hyper-latents in nats, ``v`` latents times the rate point's gain, ``(N, h, w, C)``;
    ``quantise`` turns residuals of some channels into symbols. With ``relaxed``, symbols may lie
    between integers, and their magnitudes as context carry gradients.
    """
    s, mean, v, factor = _symbols(arch, p, rate, z, v, quantise)
    size = s.abs().clamp_max(15)
    exact = (torch.log2(1 + size.detach()) * MAGNITUDE_UNIT).round() / MAGNITUDE_UNIT
    m = torch.log2(1 + size) if relaxed else exact
    row = _rows(arch, p, rate, z, m)
    y_hat = (s - _moved(p, s.detach(), row, relaxed) + mean) / (rate.gain * factor) * rate.inverse
    return LatentCode(y_hat, s, v - mean, row)


def _symbols(
    arch: Architecture,
    p: dict[str, Tensor],
    rate: RateTables,
    z: Tensor,
    v: Tensor,
    quantise: Callable[[Tensor, slice], Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor | float]:
    """Symbols, means, scaled latents and the gains' factors, step by step."""
    quad = quads(v.shape[1], v.shape[2], v.device)
    base = networks.mean_from_hyper(p, z) * p["deviation"]
    known: list[Tensor] = []
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def scaled(channels: slice, hidden: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Factors, deviations in steps, and latents in steps."""
        factor = torch.ones_like(v[..., channels])
        if arch.adaptive:
            factor = networks.adaptation(ops, p, z, hidden, channels)
        scale = rate.gain[..., channels] * factor
        return factor, scale * p["deviation"][channels], v[..., channels] * factor

    steps = [step for step in arch.steps if step.network]
    for _, members in itertools.groupby(steps, lambda step: step.group):
        d: Tensor | None = None  # the decoded deviation from the hyper-prior's mean
        for step in members:
            sl = step.channels
            if d is None:
                factor, scale, target = scaled(sl, None)
                start = base[..., sl] / p["deviation"][sl] * scale
                s = d = mean = torch.zeros_like(start)
            here = (quad >= step.quads[0]) & (quad <= step.quads[-1])
            assert step.network is not None
            around = [*known, d] if step.network[1] else known
            features = [z, ops.window(torch.cat(around, -1), arch.mean_reach(step.group))] if around else [z]
            extra = networks.mean_context(ops, p, step.network, torch.cat(features, -1))
            mean = torch.where(here, start + extra * scale, mean)
            s = torch.where(here, quantise(target - mean, sl), s)
            d = torch.where(here, (s + mean - start) / scale, d)
        assert d is not None
        known.append(d)
        parts.append((s, mean, target, factor))
    sl = slice(arch.context_channels, arch.latent_channels)
    hidden = networks.later_hidden(ops, p, torch.cat(known, -1))
    factor, scale, target = scaled(sl, hidden)
    mean = base[..., sl] / p["deviation"][sl] * scale + (hidden @ p["mean_later_out"]) * scale
    parts.append((quantise(target - mean, sl), mean, target, factor))
    s, mean, target, factor = (torch.cat(part, -1) for part in zip(*parts, strict=True))
    return s, mean, target, factor if arch.adaptive else 1.0


def _rows(arch: Architecture, p: dict[str, Tensor], rate: RateTables, z: Tensor, m: Tensor) -> Tensor:
    """Real-valued CDF rows of all symbols from hyper-latents and magnitudes."""
    quad = quads(m.shape[1], m.shape[2], m.device)
    rows = []
    for group, members in itertools.groupby(arch.steps, lambda step: step.group):
        steps = list(members)
        sl = steps[0].channels
        hs = slice(group * ROW_HIDDEN, (group + 1) * ROW_HIDDEN)
        f = networks.row_features(ops, arch, p, group, z, m)
        own = None
        if any(step.neighbours for step in steps):
            sums = {"cross": ops.cross_sum, "diagonal": ops.diagonal_sum}
            own = sum(
                sums[step.neighbours](m[..., sl]) * ((quad >= step.quads[0]) & (quad <= step.quads[-1]))
                for step in steps
                if step.neighbours
            )
        lead = torch.tensor([step.lead for step in steps for _ in step.quads], device=m.device)
        at = lead[quad[..., 0]]
        bias, hidden = rate.row_bias[..., sl][:, at], rate.hidden_bias[..., hs][:, at]
        rows.append(networks.rows(ops, p, group, f, own, bias, hidden))
    return bound(torch.cat(rows, -1), 0, CDF_ROWS - 1)


def _moved(p: dict[str, Tensor], s: Tensor, row: Tensor, relaxed: bool) -> Tensor:
    """How far each symbol's point of reconstruction lies from it towards zero."""
    index = row.detach().round().long() * RECON_CLASSES
    offsets = p["recon_offset"].reshape(-1, 1)

    def offset(k: Tensor) -> Tensor:
        return torch.sign(k) * F.embedding(index + (k.abs() >= 2), offsets)[..., 0]

    if not relaxed:
        return offset(s)
    low = s.floor()
    return torch.lerp(offset(low), offset(low + 1), s - low)


@torch.no_grad()
def thresholds(code: LatentCode, distortion_weight: Tensor) -> Tensor:
    """How much above one half a residual's fraction must be to be rounded away from zero.

    The encoder takes the cheaper of the two nearest symbols (`nicc.encoder.encode.Quantiser`);
    that is rounding with a threshold raised by the difference in bits over twice the weight.
    """
    near = code.residual.abs().round().clamp_min(1)
    p, lower = row_likelihood(near, code.rows), row_likelihood(near - 1, code.rows)
    return (torch.log2(lower / p) / (2 * distortion_weight)).clamp(0, 0.5)
