"""CompressAI's factorized codec (bmshj2018-factorized) as a codec that rectifiers can be trained for."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from compressai.models import FactorizedPrior
from torch import Tensor, nn

from nicc.architecture import Architecture
from nicc.decoder.networks import inside


class Quantised(NamedTuple):
    """Latents ``(N, h, w, C)``; they are rounded to whole numbers."""

    latents: Tensor
    y_hat: Tensor
    step: Tensor


class FactorizedCodec:
    """A trained ``FactorizedPrior`` as `nicc.training.frozen.FrozenCodec`.

    It has one rate: rate points are ignored.
    """

    def __init__(self, model: FactorizedPrior) -> None:
        self.model = model.eval().requires_grad_(False)
        self.arch, self.channels = Architecture(), model.M
        self.deviation = torch.ones(model.M)

    @torch.no_grad()
    def quantise(self, x: Tensor, rate_point: Tensor) -> Quantised:
        y = self.model.g_a(x)
        y_hat, _ = self.model.entropy_bottleneck(y, training=False)
        return Quantised(y.permute(0, 2, 3, 1), y_hat.permute(0, 2, 3, 1), torch.ones(self.channels))

    def measure_deviation(self, x: Tensor) -> None:
        """Takes each channel's size from the latents of images ``(N, 3, H, W)``."""
        y = self.quantise(x, torch.zeros(len(x))).latents
        self.deviation = y.square().mean((0, 1, 2)).sqrt().clamp_min(1e-2)

    def start(self) -> dict[str, Tensor]:
        return {k.replace(".", "/"): v.clone() for k, v in self.model.g_s.named_parameters()}

    def pad(self, y: Tensor, margin: int) -> Tensor:
        return F.pad(y.permute(0, 3, 1, 2), (margin,) * 4, mode="replicate").permute(0, 2, 3, 1)

    def synthesise(self, p: dict[str, Tensor], y: Tensor) -> Tensor:
        """Its synthesis pads with zeros by itself and needs no margin."""
        parameters = {k.replace("/", "."): v for k, v in p.items()}
        synthesis: nn.Module = self.model.g_s
        return torch.func.functional_call(synthesis, parameters, inside(y, 1).permute(0, 3, 1, 2))
