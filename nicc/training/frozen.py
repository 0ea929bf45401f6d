"""Frozen codecs that something is trained on: what their files decode to, batch by batch."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nicc.architecture import Architecture
from nicc.decoder import directional, networks
from nicc.encoder import ops
from nicc.encoder.latent_code import LatentCode, RateTables, round_above, thresholds, upsample
from nicc.encoder.quantise import DISTORTION_WEIGHT, rounding_of
from nicc.encoder.receiver import receiver_of
from nicc.encoder.torch_transform import torch_transform_of
from nicc.model import Model

SYNTHESIS = ("synthesis", "igdn")
"""Beginnings of the names of the synthesis' arrays."""


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
        self.rounding = torch.from_numpy(DISTORTION_WEIGHT * rounding_of(model)).float().to(device)

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
        raised = thresholds(first, self.rounding[rate_point][:, None, None])
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

    def synthesise(self, padded: Tensor, margin: int = 0) -> Tensor:
        """Pixels ``(N, H, W, 3)`` of latents with a margin of one, unfiltered, and ``margin`` more on every side."""
        return networks.synthesis(ops, self.arch, self.receiver.p, padded, margin)

    def filtered(self, x: Tensor, rate_point: Tensor, margin: int) -> Tensor:
        """Pixels ``(N, H, W, 3)`` with a margin as decoding ends, without it.

        Every one by its rate point's filter.
        """
        done = []
        for one, r in zip(x.split(1), rate_point.tolist(), strict=True):
            there = directional.filter_of(self.receiver.p, r)
            done.append(directional.finished(ops, there, one, margin))
        return torch.cat(done)


class QuantisedLatents(Protocol):
    """What a codec has decoded of a batch."""

    @property
    def latents(self) -> Tensor: ...
    @property
    def y_hat(self) -> Tensor: ...
    @property
    def step(self) -> Tensor: ...


class FrozenCodec(Protocol):
    """A frozen codec whose synthesis is trained on; latents are ``(N, h, w, C)``."""

    arch: Architecture
    """The codec's architecture, of which only the rates matter here."""
    channels: int
    deviation: Tensor
    """Typical size of each channel, ``(C,)``."""

    def quantise(self, x: Tensor, rate_point: Tensor) -> QuantisedLatents:
        """Latents before and after quantisation of images ``(N, 3, H, W)`` in 0..1, without gradients."""

    def start(self) -> dict[str, Tensor]:
        """The synthesis' parameters."""

    def pad(self, y: Tensor, margin: int) -> Tensor:
        """Latents with ``margin`` positions around them."""

    def synthesise(self, p: dict[str, Tensor], y: Tensor) -> Tensor:
        """Pixels ``(N, 3, H, W)`` around 0..1 of latents with a margin of one."""


class FrozenModel:
    """A shipped model as a `FrozenCodec`; a rectifier that it has already is left out."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        self.frozen = Frozen(model, device)
        self.arch, self.p = model.architecture, self.frozen.receiver.p
        self.channels, self.deviation = self.arch.latent_channels, self.p["deviation"]

    def quantise(self, x: Tensor, rate_point: Tensor) -> QuantisedLatents:
        return self.frozen.decode(x, rate_point)

    def start(self) -> dict[str, Tensor]:
        return {k: v.clone() for k, v in self.p.items() if k.startswith(SYNTHESIS)}

    def pad(self, y: Tensor, margin: int) -> Tensor:
        return networks.mirror(ops, self.p, y, margin)

    def synthesise(self, p: dict[str, Tensor], y: Tensor) -> Tensor:
        return networks.synthesis(ops, self.arch, p, y).permute(0, 3, 1, 2)
