"""A shipped model as a frozen part of training: what its files decode to, batch by batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nicc.decoder import networks
from nicc.encoder import ops
from nicc.encoder.latent_code import LatentCode, RateTables, round_above, thresholds, upsample
from nicc.encoder.quantise import DISTORTION_WEIGHT
from nicc.encoder.receiver import receiver_of
from nicc.encoder.torch_transform import torch_transform_of
from nicc.model import Model


class Decoded(NamedTuple):
    """Latents ``(N, h, w, C)`` of a batch at rate points ``(N,)``, and the table rows that belong to them."""

    latents: Tensor
    """What the encoder meant: unquantised."""
    y_hat: Tensor
    """Dequantised, without margin."""
    rectifier_bias: Tensor | None
    step: Tensor


class Coded(NamedTuple):
    """A batch on its way through the coder."""

    y: Tensor
    """Latents before quantisation, ``(N, h, w, C)``."""
    z: Tensor
    """Upsampled hyper-latents in nats, as the receiver has them."""
    rate: RateTables
    code: LatentCode


class Frozen:
    """A model's encoder and receiver, without gradients."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        self.model, self.arch = model, model.architecture
        self.transform, self.receiver = torch_transform_of(model, device), receiver_of(model, device)

    @torch.no_grad()
    def code(self, x: Tensor, rate_point: Tensor) -> Coded:
        """Codes ``x`` ``(N, 3, H, W)`` in 0..1 at integer rate points ``(N,)``.

        Symbols are rounded as the encoder does; CDF rows stay real numbers.
        """
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            y = self.transform.analysis(x)
        y = y.float()
        z = self.transform.hyper_latents(y)
        rate = self.receiver.rate(rate_point)
        steps = self.receiver.z_steps(rate_point)
        nats = upsample((z / steps).round() * steps, *y.shape[1:3])
        v = y * rate.gain
        first = self.receiver.code(nats, v, rate, lambda x, _: x.round())
        raised = thresholds(first, DISTORTION_WEIGHT)
        code = self.receiver.code(nats, v, rate, lambda x, channels: round_above(x, raised[..., channels]))
        return Coded(y, nats, rate, code)

    def decode(self, x: Tensor, rate_point: Tensor) -> Decoded:
        """What a file of ``x`` holds, coded as by `code`."""
        y, _, rate, code = self.code(x, rate_point)
        return Decoded(y, code.y_hat, rate.rectifier_bias, rate.inverse / rate.gain)

    def padded(self, decoded: Decoded, margin: int) -> Tensor:
        """Rectified latents with ``margin`` positions around them."""
        reach = self.arch.margin - 1
        y = networks.mirror(ops, self.receiver.p, decoded.y_hat, margin + reach)
        return networks.rectify(ops, self.arch, self.receiver.p, y, decoded.rectifier_bias, decoded.step)

    def synthesise(self, padded: Tensor) -> Tensor:
        """Pixels ``(N, H, W, 3)`` of latents with a margin of one."""
        return networks.synthesis(ops, self.arch, self.receiver.p, padded)
