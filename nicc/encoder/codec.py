"""The codec as one differentiable PyTorch module: training and iterative encoding run this.

The receiver's networks are those of `nicc.decoder.networks`; what stands here is what only the
sender has: the analysis, quantisation that lets gradients through, and likelihoods.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nicc.architecture import (
    CDF_ROWS,
    HYPER_LIMIT,
    HYPER_UNIT,
    LATENTS_PER_HYPER,
    LOG_ROW_STEP,
    MAGNITUDE_UNIT,
    QUADS,
    RECON_CLASSES,
    ROW_HIDDEN,
    SIGMA_MIN,
    Architecture,
)
from nicc.decoder import networks
from nicc.encoder import ops
from nicc.encoder.analysis import Analysis, HyperAnalysis, hyper_latents

TAIL_WEIGHT, TAIL_WIDTH = 0.04, 3.0
"""Share and relative width of the logistic tail beside each row's Gaussian."""
LIKELIHOOD_FLOOR = 1e-9
COUNTED = 17
"""Magnitudes whose probabilities are counted per row in the predictive phase."""
COUNT_DECAY, COUNT_PRIOR = 0.99, 40.0
"""Memory of the counts, in steps, and weight of the parametric distribution in each step."""


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
    if relaxed:
        m = torch.log2(1 + size)
    else:
        m = (torch.log2(1 + size.detach()) * MAGNITUDE_UNIT).round() / MAGNITUDE_UNIT
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


def lambdas(arch: Architecture, rate_point: Tensor) -> Tensor:
    """Weights of the distortion at real rate points."""
    slope = math.log(arch.lambda_max / arch.lambda_min) / (arch.rate_points - 1)
    return arch.lambda_min * torch.exp(rate_point * slope)


def at_rate(arch: Architecture, table: Tensor, rate_point: Tensor) -> Tensor:
    """Rows of an anchor table, interpolated at rate points ``(N,)``: ``(N, 1, 1, columns)``."""
    t = rate_point * (arch.anchors - 1) / (arch.rate_points - 1)
    low = t.floor().clamp(0, arch.anchors - 2).long()
    share = (t - low)[:, None]
    return (table[low] * (1 - share) + table[low + 1] * share)[:, None, None]


def rectifier_parameters(channels: int, count: int, width: int) -> dict[str, Tensor]:
    """Arrays of ``count`` rectifiers before training; their outputs are silent."""
    p: dict[str, Tensor] = {}
    for i in range(count):
        p[f"rectifier{i}_in"] = torch.randn(channels, width) * channels**-0.5
        p[f"rectifier{i}_first"] = torch.randn(9 * width, width) * (9 * width) ** -0.5
        p[f"rectifier{i}_second"] = torch.randn(9 * width, width) * (9 * width) ** -0.5
        p[f"rectifier{i}_gate"] = torch.zeros(width, width)
        p[f"rectifier{i}_out"] = torch.zeros(width, channels)
    return p


@torch.no_grad()
def thresholds(code: LatentCode, distortion_weight: float) -> Tensor:
    """How much above one half a residual's fraction must be to be rounded away from zero.

    The encoder takes the cheaper of the two nearest symbols (`nicc.encoder.encode.Quantiser`);
    that is rounding with a threshold raised by the difference in bits over twice the weight.
    """
    near = code.residual.abs().round().clamp_min(1)
    p, lower = row_likelihood(near, code.rows), row_likelihood(near - 1, code.rows)
    return (torch.log2(lower / p) / (2 * distortion_weight)).clamp(0, 0.5)


class Codec(nn.Module):
    """A variable-rate model. Rate points are real numbers from 0 on, one per sample."""

    deviation: Tensor
    hyper_offset: Tensor
    row_counts: Tensor
    parity: Tensor
    bands: Tensor

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        c, cz, g, mh = arch.latent_channels, arch.hyper_channels, arch.groups, arch.mean_hidden
        self.analysis = Analysis(arch)
        self.hyper_analysis = HyperAnalysis(arch)
        p: dict[str, Tensor] = {
            "synthesis_linear": torch.zeros(arch.main, arch.kernel, arch.kernel, arch.linear_outputs),
            "synthesis_bias": torch.zeros(3),
            "mean_z": torch.zeros(cz, c),
            "mean_later_in": torch.randn(9 * arch.context_channels, mh) * (9 * arch.context_channels) ** -0.5,
            "mean_later_bias": torch.zeros(mh),
            "mean_later_out": torch.zeros(mh, c - arch.context_channels),
        }
        for i in range(arch.context_groups):
            size = g[i + 1] - g[i]
            for phase in range(arch.phases[i]):
                name, inputs = f"mean{i}_{phase}", arch.mean_inputs(i, phase)
                hidden = torch.randn(inputs, mh) * inputs**-0.5
                p[f"{name}_in"] = torch.cat([torch.zeros(inputs, size), hidden], 1)
                p[f"{name}_bias"] = torch.zeros(mh)
                p[f"{name}_out"] = torch.zeros(mh, size)
        if arch.synthesis == "two-layer":
            n = arch.hidden_channels
            p |= {
                "igdn_beta": torch.zeros(n),
                "igdn_gamma": torch.zeros(n, n),
                "synthesis_out": torch.zeros(3, 3, n, 12),
            }
            if arch.residual:
                p["synthesis_main"] = torch.zeros(arch.main, arch.kernel, arch.kernel, n)
        if arch.main < c:
            p["synthesis_more"] = torch.zeros(c - arch.main, arch.kernel, arch.kernel, arch.linear_outputs)
        if arch.adaptive:
            p |= {"gain_z": torch.zeros(cz, c), "gain_later": torch.zeros(mh, c - arch.context_channels)}
        p |= rectifier_parameters(c, arch.rectifiers, arch.rectifier_width)
        for i in range(arch.group_count):
            size = g[i + 1] - g[i]
            p[f"row{i}_in"] = torch.zeros(arch.feature_count(i), size + ROW_HIDDEN)
            p[f"row{i}_in"][:, size:] = torch.randn(arch.feature_count(i), ROW_HIDDEN) * 0.03
            if arch.phases[i] > 1:
                p[f"row{i}_own"] = torch.zeros(size, size + ROW_HIDDEN)
            p[f"row{i}_out"] = torch.zeros(ROW_HIDDEN, size)
        self.p = nn.ParameterDict({k: nn.Parameter(v) for k, v in p.items()})
        row_hidden = arch.group_count * ROW_HIDDEN
        self.log_gain = nn.Parameter(torch.zeros(arch.anchors, c))
        self.log_inverse = nn.Parameter(torch.zeros(arch.anchors, c))
        """Logarithm of (dequantisation step times quantisation gain)."""
        self.log_hyper_gain = nn.Parameter(torch.full((arch.anchors, cz), math.log(3.0)))
        self.row_bias = nn.Parameter(torch.zeros(arch.anchors, c))
        self.row_phase = nn.Parameter(torch.zeros(len(QUADS), c))
        self.hidden_bias = nn.Parameter(torch.zeros(arch.anchors, row_hidden))
        self.hidden_phase = nn.Parameter(torch.zeros(len(QUADS), row_hidden))
        if arch.rectifiers:
            self.rectifier_bias = nn.Parameter(torch.zeros(arch.anchors, arch.rectifiers * 3 * arch.rectifier_width))
        self.recon_offset = nn.Parameter(torch.zeros(CDF_ROWS, RECON_CLASSES))
        """How far inside its interval a symbol of magnitude 1, or 2 and more, is reconstructed."""
        self.register_buffer("deviation", torch.ones(c))
        self.register_buffer("hyper_offset", torch.zeros(cz))
        self.register_buffer("parity", torch.ones(2, c))
        self.register_buffer("row_counts", self.row_pmf())
        self.register_buffer("bands", torch.tensor(arch.band_matrix(), dtype=torch.float32))

    def params(self) -> dict[str, Tensor]:
        """Arrays by the names that `nicc.decoder.networks` uses."""
        p = {**dict(self.p.items()), "parity": self.parity, "bands": self.bands}
        linear = p.pop("synthesis_linear")
        for i in range(self.arch.rectifiers):  # trained on latents in units of their deviations
            p[f"rectifier{i}_in"] = p[f"rectifier{i}_in"] / self.deviation[:, None]
        p["synthesis_in"] = torch.cat([p.pop("synthesis_main"), linear], -1) if "synthesis_main" in p else linear
        return p

    def rate(self, rate_point: Tensor) -> RateTables:
        """What depends on rate points ``(N,)``."""

        def at(table: Tensor) -> Tensor:
            return at_rate(self.arch, table, rate_point)

        return RateTables(
            at(self.log_gain).exp(),
            at(self.log_inverse).exp(),
            at(self.row_bias)[:, 0] + self.row_phase,
            at(self.hidden_bias)[:, 0] + self.hidden_phase,
            at(self.rectifier_bias) if self.arch.rectifiers else None,
        )

    def hyper(self, y: Tensor) -> Tensor:
        """Hyper-latents in nats, around zero, ``(N, ceil(h / 4), ceil(w / 4), Cz)``."""
        return hyper_latents(self.hyper_analysis, y, self.deviation, self.hyper_offset)

    def symbol_bits(self, symbols: Tensor, row: Tensor) -> Tensor:
        """Bits of rounded symbols under the counted tables, interpolated between rows.

        Differentiable in ``row``. Symbols beyond the counted ones cost what the row's parametric
        distribution says.
        """
        size = symbols.detach().abs().round()
        table = torch.log2(self.row_counts.sum(1, keepdim=True) / self.row_counts)
        table = torch.cat([table[:, :1], table[:, 1:] + 1], 1).reshape(-1, 1)
        low = row.detach().floor().clamp_max(CDF_ROWS - 2)
        index = low.long() * COUNTED + size.clamp_max(COUNTED - 1).long()
        at_low, at_high = F.embedding(index, table)[..., 0], F.embedding(index + COUNTED, table)[..., 0]
        bits = at_low + (at_high - at_low) * (row - low)
        return torch.where(size < COUNTED, bits, -torch.log2(row_likelihood(symbols, row)))

    @torch.no_grad()
    def count_symbols(self, symbols: Tensor, row: Tensor) -> None:
        """Moves the counted tables towards the symbols that rows have just coded."""
        index = row.round().long() * COUNTED + symbols.abs().round().clamp_max(COUNTED - 1).long()
        counts = torch.bincount(index.reshape(-1), minlength=CDF_ROWS * COUNTED).reshape(CDF_ROWS, COUNTED)
        self.row_counts.mul_(COUNT_DECAY).add_(counts + COUNT_PRIOR * self.row_pmf(row.device))

    @staticmethod
    def row_pmf(device: torch.device | None = None) -> Tensor:
        """Parametric probabilities of the magnitudes 0..COUNTED - 1 under every row, ``(64, COUNTED)``."""
        size = torch.arange(COUNTED, device=device).float()
        p = row_likelihood(size.expand(CDF_ROWS, -1), torch.arange(CDF_ROWS, device=device).float()[:, None])
        return p * torch.where(size > 0, 2.0, 1.0)

    def entropy(self, y: Tensor, z: Tensor, rate_point: Tensor, thresholds: Tensor | None = None) -> LatentCode:
        """Quantises latents ``y`` given dequantised hyper-latents ``z``, step by step.

        Rounding, to the nearest integer or by ``thresholds``, passes gradients straight through;
        magnitudes as context carry none.
        """

        def quantise(residual: Tensor, channels: slice) -> Tensor:
            return ste_round(residual, thresholds[..., channels] if thresholds is not None else None)

        rate = self.rate(rate_point)
        p = self.params() | {"deviation": self.deviation, "recon_offset": self.recon_offset}
        zf = upsample(z, *y.shape[1:3])
        return latent_code(self.arch, p, rate, zf, y * rate.gain, quantise)

    def synthesise(self, y_hat: Tensor, rate_point: Tensor) -> Tensor:
        """Pixels ``(N, 3, H, W)`` around 0..1 of latents ``(N, h, w, C)``."""
        p, rate = self.params(), self.rate(rate_point)
        y = networks.mirror(ops, p, y_hat, self.arch.margin)
        y = networks.rectify(ops, self.arch, p, y, rate.rectifier_bias, rate.inverse / rate.gain)
        return networks.synthesis(ops, self.arch, p, y).permute(0, 3, 1, 2)
