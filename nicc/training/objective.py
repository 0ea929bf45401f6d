"""The rate-distortion objective of a batch, and the prior of the hyper-latents.

Mixed quantisation (Yang & Mandt 2023, section 4): uniform noise stands for rounding in the rate,
straight-through rounding in the distortion.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nicc.encoder.latent_code import LIKELIHOOD_FLOOR, row_likelihood, ste_round, thresholds
from nicc.encoder.quantise import DISTORTION_WEIGHT
from nicc.encoder.visual import raw_difference
from nicc.ssimulacra2 import score, visual_distortion
from nicc.training.codec import CodecModule, at_rate

COST_EXPONENT = 0.43
"""The cost bpp + lambda MSE grows about as this power of lambda; losses are divided by it."""
COST_SCALE = 1.3
"""About the cost at lambda 0.01."""


class Phase(Enum):
    """What a step trains, and how it quantises."""

    ENTROPY = "entropy"
    """The entropy model alone, on noisy latents of frozen transforms; no synthesis, MSE is zero."""
    SOFT = "soft"
    """Everything: noise for the rate, straight-through rounding for the distortion."""
    JOINT = "joint"
    """Everything, on the symbols that the encoder writes; noise only shapes gradients of the residuals."""
    PREDICTIVE = "predictive"
    """Entropy model and synthesis on the symbols that the encoder writes; analysis frozen.

    The second phase of soft-to-predictive training (Luo & Chen 2024), here for the rate as well.
    """


class HyperPrior(nn.Module):
    """Density of each hyper-latent channel: CompressAI's EntropyBottleneck over nats.

    Bins have width 1 / gain, so that one density serves every rate point.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        from compressai.entropy_models import EntropyBottleneck

        self.bottleneck = EntropyBottleneck(channels, init_scale=4)

    def forward(self, z: Tensor, gain: Tensor) -> Tensor:
        """Probability of the bin of width 1 / ``gain`` around ``z``, both ``(..., Cz)``."""
        shape = z.shape
        z = z.reshape(-1, 1, shape[-1]).permute(2, 1, 0)
        half = (0.5 / gain.expand(shape)).reshape(-1, 1, shape[-1]).permute(2, 1, 0)
        lower = self.bottleneck._logits_cumulative(z - half, stop_gradient=False)
        upper = self.bottleneck._logits_cumulative(z + half, stop_gradient=False)
        sign = -torch.sign(lower + upper).detach()
        p = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        return p.clamp_min(LIKELIHOOD_FLOOR).permute(2, 1, 0).reshape(shape)


class Outcome(NamedTuple):
    """Per sample, ``(N,)``: bits per pixel of y and z, mean squared error on the 0..255 scale, distortion."""

    bpp_y: Tensor
    bpp_z: Tensor
    mse: Tensor
    distortion: Tensor
    """What the model's objective weighs: the squared error, or the visual distortion on its scale."""
    score: Tensor
    """SSIMULACRA 2 of a visual objective, else zero."""


class RateDistortion(nn.Module):
    """A codec with its training-only prior; ``forward`` measures a batch of images.

    ``perceptual`` maps images and their decoded forms, ``(N, 3, H, W)`` in 0..1, to what is added to the distortion
    in training, ``(N,)``; validation leaves it out, so that its figures compare.
    """

    def __init__(self, codec: CodecModule, perceptual: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.codec = codec
        self.perceptual = perceptual
        self.prior = HyperPrior(codec.arch.hyper_channels)

    def forward(self, x: Tensor, rate_point: Tensor, phase: Phase = Phase.SOFT) -> Outcome:
        """``x`` is ``(N, 3, H, W)`` in 0..1, H and W multiples of 16."""
        codec = self.codec
        noise = phase in (Phase.ENTROPY, Phase.SOFT)
        pixels = x.shape[2] * x.shape[3]
        with torch.set_grad_enabled(torch.is_grad_enabled() and phase in (Phase.SOFT, Phase.JOINT)):
            y = codec.analysis(x)
        with torch.autocast(x.device.type, enabled=False):
            y = y.float()
            z = codec.hyper(y)
            hyper_gain = at_rate(codec.arch, codec.log_hyper_gain, rate_point).exp()
            z_rounded = ste_round(z * hyper_gain) / hyper_gain
            z_rate = z + (torch.rand_like(z) - 0.5) / hyper_gain if noise else z_rounded
            bits_z = -torch.log2(self.prior(z_rate, hyper_gain)).sum((1, 2, 3))
            raised = None
            if not noise:
                with torch.no_grad():
                    first = codec.entropy(y, z_rounded, rate_point)
                raised = thresholds(first, DISTORTION_WEIGHT * at_rate(codec.arch, codec.rounding, rate_point))
            code = codec.entropy(y, z_rounded, rate_point, raised)
            if noise:
                at = code.residual + torch.rand_like(code.residual) - 0.5
                bits_y = -torch.log2(row_likelihood(at, code.rows)).sum((1, 2, 3))
            else:
                bits_y = codec.symbol_bits(code.symbols, code.rows).sum((1, 2, 3))
                # counted bits have no gradient in residuals, hence none in latents (if these are
                # trained) and means: take that of the noisy rate
                at = code.residual + torch.rand_like(code.residual) - 0.5
                soft = -torch.log2(row_likelihood(at, code.rows.detach())).sum((1, 2, 3))
                bits_y = bits_y + soft - soft.detach()
                if self.training:
                    codec.count_symbols(code.symbols, code.rows)
            mse = distortion = points = torch.zeros_like(bits_y)
            if phase is not Phase.ENTROPY:
                decoded = codec.synthesise(code.y_hat, rate_point)
                mse = distortion = (decoded - x).square().mean((1, 2, 3)) * 255**2
                if codec.arch.objective == "visual":
                    raw = raw_difference(x, decoded)
                    distortion, points = visual_distortion(mse, raw), score(raw.detach())
                if self.perceptual and self.training:
                    distortion = distortion + self.perceptual(x, decoded)
        return Outcome(bits_y / pixels, bits_z / pixels, mse, distortion, points)


def cost_weights(lambdas: Tensor) -> Tensor:
    """Factors by which the costs of all rates count alike."""
    return 1 / (COST_SCALE * (lambdas / 0.01) ** COST_EXPONENT)


def loss(outcome: Outcome, lambdas: Tensor) -> Tensor:
    """Mean of bpp + lambda distortion, every rate point weighted to count alike."""
    cost = outcome.bpp_y + outcome.bpp_z + lambdas * outcome.distortion
    return (cost * cost_weights(lambdas)).mean()


def log_cost(bpp: Tensor, distortion: Tensor, lambdas: Tensor) -> float:
    """The number to steer by: mean over rate points of log(bpp + lambda distortion)."""
    return float(torch.log(bpp + lambdas * distortion).mean())
