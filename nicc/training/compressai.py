"""CompressAI's codecs, from bmshj2018-factorized to cheng2020-anchor, with rectifiers to be trained for them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from compressai.models import CompressionModel
from torch import Tensor, nn

from nicc.architecture import Architecture
from nicc.decoder.networks import inside


class Quantised(NamedTuple):
    """Latents ``(N, h, w, C)``; they are rounded to whole numbers, of which some codecs first subtract means."""

    latents: Tensor
    y_hat: Tensor
    step: Tensor


class CompressaiCodec:
    """A trained model with an analysis ``g_a`` and a synthesis ``g_s`` as a `nicc.training.frozen.FrozenCodec`.

    It has one rate: rate points are ignored.
    """

    def __init__(self, model: CompressionModel) -> None:
        self.model = model.eval().requires_grad_(False)
        self.arch, self.channels = Architecture(), int(model.M)
        self.deviation = torch.ones(self.channels)

    @torch.no_grad()
    def quantise(self, x: Tensor, rate_point: Tensor) -> Quantised:
        seen: dict[str, Tensor] = {}
        hooks = (
            self.model.g_a.register_forward_hook(lambda _, inputs, output: seen.update(y=output)),
            self.model.g_s.register_forward_pre_hook(lambda _, inputs: seen.update(y_hat=inputs[0])),
        )
        try:
            self.model(x)
        finally:
            for hook in hooks:
                hook.remove()
        y, y_hat = (seen[name].permute(0, 2, 3, 1) for name in ("y", "y_hat"))
        return Quantised(y, y_hat, torch.ones(self.channels))

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
