"""The codec in training: all parameters of sender and receiver as one PyTorch module."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nicc.architecture import CDF_ROWS, QUADS, RECON_CLASSES, ROW_HIDDEN, Architecture
from nicc.decoder import networks
from nicc.encoder import ops
from nicc.encoder.latent_code import LatentCode, RateTables, latent_code, row_likelihood, ste_round, upsample
from nicc.encoder.modules import Analysis, HyperAnalysis, hyper_latents

COUNTED = 17
"""Magnitudes whose probabilities are counted per row in the predictive phase."""
COUNT_DECAY, COUNT_PRIOR = 0.99, 40.0
"""Memory of the counts, in steps, and weight of the parametric distribution in each step."""


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


def receiver_parameters(arch: Architecture) -> dict[str, Tensor]:
    """The networks of the receiver before training: hidden layers drawn at random, whatever adds to pixels zero."""
    c, cz, g, mh = arch.latent_channels, arch.hyper_channels, arch.groups, arch.mean_hidden
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
    return p


class CodecModule(nn.Module):
    """A variable-rate model. Rate points are real numbers from 0 on, one per sample."""

    deviation: Tensor
    hyper_offset: Tensor
    row_counts: Tensor
    rounding: Tensor
    parity: Tensor
    bands: Tensor

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        c, cz = arch.latent_channels, arch.hyper_channels
        self.analysis = Analysis(arch)
        self.hyper_analysis = HyperAnalysis(arch)
        self.p = nn.ParameterDict({k: nn.Parameter(v) for k, v in receiver_parameters(arch).items()})
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
        self.register_buffer("rounding", torch.ones(arch.anchors, c))
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
