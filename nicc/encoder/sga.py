"""Iterative encoding: the latents of one image optimised through the receiver.

Stochastic Gumbel annealing (Yang, Bamler & Mandt 2020): every latent is rounded up or down at
random, softly, the more decidedly the lower the temperature; Adam moves latents and hyper-latents
to lower bits + lambda * squared error. The start is what the analysis finds, close to its symbols. What counts
in the end is the file, see `nicc.encoder.encode`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nicc.architecture import LATENTS_PER_HYPER, Z_SYMBOL_LIMIT, Architecture
from nicc.encoder.latent_code import RateTables, upsample
from nicc.encoder.receiver import Receiver
from nicc.encoder.settings import Annealing, State
from nicc.encoder.visual import decibels, difference_from, middle_error
from nicc.errors import NiccError
from nicc.ssimulacra2 import encoding_distortion

SIGMOID_SCALE = 2.3
"""SGA+ (Perugachi-Diaz et al. 2024): the factor of the sigmoid-scaled logit."""
THREE_CLASS_REACH, THREE_CLASS_POWER = 0.65, 3.0
EDGE = 1e-4
"""Fractions are kept this far from 0 and 1, where logits have no end."""


ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8


class Diverged(NiccError):
    """The optimisation produced numbers that are not finite."""


class Interrupted(KeyboardInterrupt):
    """An interrupt during optimisation, with the latents and hyper-latents reached."""

    def __init__(self, v: Tensor, z: Tensor) -> None:
        super().__init__()
        self.v, self.z = v, z


class _RoundUpOrDown(torch.autograd.Function):
    """floor(x) + p, p a sample of the relaxed choice between floor and ceiling.

    Backwards, the derivative of p by the fraction of x, through the logits.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, noise: Tensor, temperature: float, sigmoid: bool) -> Tensor:
        low = x.floor()
        f = (x - low).clamp_(EDGE, 1 - EDGE)
        if sigmoid:
            odds = torch.logit(f).mul_(SIGMOID_SCALE)
            slope = SIGMOID_SCALE / (f * (1 - f))
        else:  # atanh(f) - atanh(1 - f)
            odds = torch.log(f * (1 + f) / ((1 - f) * (2 - f))).mul_(0.5)
            slope = (1 / (f * (1 - f)) + 3 / ((1 + f) * (2 - f))).mul_(0.5)
        p = torch.sigmoid((odds.div_(temperature) + noise).div_(temperature))
        ctx.save_for_backward(slope.mul_(p * (1 - p)).div_(temperature**2))
        return low + p

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None, None


def _three_classes(x: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """The relaxed choice between the nearest integer and both of its neighbours (SGA+, section 3.2)."""
    near = x.detach().round()
    w = x - near
    options = torch.tensor([-1.0, 0.0, 1.0], device=x.device)
    closeness = (1 - THREE_CLASS_REACH * (w[..., None] - options).abs()).clamp_min(EDGE)
    logits = THREE_CLASS_POWER * torch.log(closeness) / temperature
    p = torch.softmax((logits + noise) / temperature, -1)
    return near + p @ options


def round_softly(x: Tensor, temperature: float, rounding: str, generator: torch.Generator) -> Tensor:
    """A relaxed random rounding of ``x`` by one of `ROUNDINGS`."""
    if rounding == "three-class":
        u = torch.rand(*x.shape, 3, generator=generator, device=x.device).clamp_(1e-6, 1 - 1e-6)
        return _three_classes(x, -torch.log(-torch.log(u)), temperature)
    u = torch.rand(x.shape, generator=generator, device=x.device).clamp_(1e-6, 1 - 1e-6)
    return _RoundUpOrDown.apply(x, torch.logit(u), temperature, rounding == "sigmoid")


class Measured(NamedTuple):
    """What relaxed symbols cost, per image, ``(N,)``."""

    bits: Tensor
    distortion: Tensor
    """The distortion of the model's objective, on the scale of the squared error, summed over pixels."""
    error: Tensor
    """Squared error on the 0..255 scale, mean over colours, summed over pixels."""


class Surroundings(NamedTuple):
    """What touches a group of latent rows and stays as it is; no rows at a border of the image."""

    y_above: Tensor
    """Decoded latents ``(N, reach, w, C)``; fewer where the image ends."""
    y_below: Tensor
    z_above: Tensor
    """Hyper-latents in nats ``(N, 0 or 1, zw, Cz)``."""
    z_below: Tensor


def reach(arch: Architecture) -> int:
    """Latent rows around a group that take part in its synthesis: one is rendered, with its own neighbours."""
    return 1 + arch.margin


@dataclass(frozen=True)
class Problem:
    """One group of latent rows of images of one size, at one rate point, as the optimisation sees it."""

    receiver: Receiver
    pixels: Tensor
    """``(N, 3, H, W)``, 0..1: those of the group and of one latent row above and below, if there is one."""
    rate_point: int
    lagrangian: float
    """Weight of the distortion against bits per pixel."""
    around: Surroundings
    coded: Tensor | None = None
    """``(N, h, w, 1)``, 0 where latents are hidden behind graphics, else 1; None without graphics."""
    seen: Tensor | None = None
    """``(N, 1, H, W)``, whether pixels are not stored exactly; None without graphics."""

    @cached_property
    def rate(self) -> RateTables:
        return self.receiver.rate(self.rate_point)

    @cached_property
    def z_steps(self) -> Tensor:
        return self.receiver.z_steps(self.rate_point)

    @cached_property
    def difference(self) -> Callable[[Tensor], Tensor]:
        """SSIMULACRA 2's weighted sum between the pixels and decoded ones, ``(N,)``."""
        return difference_from(self.pixels)

    def measure(self, v: Tensor, z: Tensor, quantise: Callable[[Tensor], Tensor]) -> Measured:
        """Bits, distortion and squared error of relaxed symbols.

        ``v`` are latents times gain, ``z`` hyper-latents in steps.
        """
        around, above = self.around, self.around.z_above.shape[1]
        sides = (side / self.z_steps for side in (around.z_above, around.z_below))
        own = quantise(z.clamp(-Z_SYMBOL_LIMIT, Z_SYMBOL_LIMIT))
        z_symbols = torch.cat([next(sides), own, *sides], 1)
        bits_z = self.receiver.z_bits(self.rate_point, z_symbols, above)[:, above : above + z.shape[1]]
        skipped = above * LATENTS_PER_HYPER
        upsampled = upsample(z_symbols * self.z_steps, skipped + v.shape[1], v.shape[2])[:, skipped:]
        coded = 1.0 if self.coded is None else self.coded
        code = self.receiver.code(upsampled, v, self.rate, lambda x, _: quantise(x) * coded)
        active = self.receiver.active_channels(self.rate_point)
        bits_y = self.receiver.symbol_bits(code)[..., :active] * coded
        bits = bits_y.sum((1, 2, 3)) + bits_z.sum((1, 2, 3))
        y = torch.cat([around.y_above, code.y_hat[..., :active], around.y_below], 1)
        ends = (side.shape[1] < reach(self.receiver.arch) for side in (around.y_above, around.y_below))
        decoded = self.receiver.synthesise(y, self.rate, *ends).clamp(0, 1)
        h, w = self.pixels.shape[2:]
        decoded = decoded[..., :h, :w]
        if self.seen is not None:
            decoded = torch.where(self.seen, decoded, self.pixels)
        mse = (decoded - self.pixels).square().mean((1, 2, 3)) * 255**2
        distortion = mse
        if self.receiver.arch.objective == "visual":
            distortion = encoding_distortion(mse, middle_error(self.pixels, decoded), self.difference(decoded))
        return Measured(bits, distortion * (h * w), mse * (h * w))


class Adam:
    """Adam (Kingma & Ba 2015) on tensors that require gradients.

    PyTorch's own takes three seconds to construct, in which it imports its compiler: as long as 20 steps of a
    photograph.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors, self.steps = tensors, 0
        self.means, self.squares = ([torch.zeros_like(t) for t in tensors] for _ in range(2))

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Moves the tensors down their gradients, which it takes away."""
        self.steps += 1
        (b1, b2), corrected = ADAM_BETAS, [1 - beta**self.steps for beta in ADAM_BETAS]
        for t, mean, square in zip(self.tensors, self.means, self.squares, strict=True):
            assert t.grad is not None
            mean.lerp_(t.grad, 1 - b1)
            square.mul_(b2).addcmul_(t.grad, t.grad, value=1 - b2)
            deviation = (square.sqrt() / math.sqrt(corrected[1])).add_(ADAM_EPSILON)
            t.addcdiv_(mean, deviation, value=-rate / corrected[0])
            t.grad = None


def optimise(
    problem: Problem,
    v: Tensor,
    z: Tensor,
    annealing: Annealing,
    report: Callable[[State], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Anneals latents times gain ``(N, h, w, C)`` and hyper-latents in steps ``(N, zh, zw, Cz)``.

    Returns both, still real numbers: round them to the nearest. Raises `Diverged` if the cost is
    no longer finite, and `Interrupted`, with what is reached so far, on an interrupt.
    """
    generator = torch.Generator(v.device).manual_seed(annealing.seed)
    v, z = (t.clone().requires_grad_() for t in (v, z))
    optimizer = Adam([v, z])
    pixels = problem.pixels.shape[2] * problem.pixels.shape[3]
    try:
        for step in range(annealing.steps):
            temperature, rate = annealing.at(step)
            quantise = partial(round_softly, temperature=temperature, rounding=annealing.rounding, generator=generator)
            bits, distortion, error = problem.measure(v, z, quantise)
            cost = (bits + problem.lagrangian * distortion).sum()
            if not math.isfinite(float(cost.detach())):
                raise Diverged(f"iterative encoding diverged at step {step}")
            cost.backward()
            optimizer.step(rate)
            if report:
                reached = float(decibels(error.detach() / pixels).mean())
                report(State(step + 1, float(bits.detach().mean()) / pixels, reached, temperature))
    except KeyboardInterrupt:
        raise Interrupted(v.detach(), z.detach()) from None
    return v.detach(), z.detach()
