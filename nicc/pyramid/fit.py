"""Fitting latents and networks to an image: gradient steps on noisy, softly rounded latents that cool down."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nicc.laplace import SYMBOL_LIMIT
from nicc.pyramid import kernels
from nicc.pyramid.directions import Directions
from nicc.pyramid.networks import Networks
from nicc.pyramid.optimizer import Momentum
from nicc.pyramid.strip import Strip
from nicc.threads import one_blas_thread

StepReport = Callable[[int, float, float], None]
"""Called after every step with its number from 1, bits and distortion per pixel."""
NOISE_POOL = 1 << 20
"""Normal numbers are drawn once; every step takes them from another of so many places on."""


@dataclass(frozen=True)
class Cooling:
    """How a fit goes from its first step to its last; all that changes does so over the share of steps done."""

    begin: float = 0.0
    """Share of the way that is left out, at its hot end, where a fit goes on from what another has reached."""
    latent_rate: float = 0.3
    """Adam's first learning rate, in symbols."""
    network_rate: float = 0.6
    """That of the networks' coefficients, in standard deviations."""
    rise: float = 0.15
    """Share of the way in which the networks' rate rises from zero: first the latents come to fit the start."""
    last_rate: float = 0.005
    """The last learning rates against the first; between them half a cosine."""
    temperature: tuple[float, float] = (0.5, 0.08)
    noise: tuple[float, float] = (0.16, 0.15)
    """Standard deviation of the noise between two soft roundings, in symbols."""
    rounded: float = 0.04
    """Share of the steps, the last, in which only the networks move, beside rounded latents."""
    settling: float = 0.03
    """The networks' rate at the beginning of these, against the first; it falls to zero."""
    looks: int = 6
    """How often, in the last third, the state is rounded and measured."""

    @classmethod
    def over(cls, steps: int) -> Cooling:
        """That of so many steps: in 2000, latents do better by larger ones and colder at the end than in 500."""
        more = min(max(math.log(steps / 500) / math.log(4), 0.0), 1.0)
        hot, cold = cls.temperature
        return cls(latent_rate=cls.latent_rate + 0.1 * more, temperature=(hot, cold - 0.02 * more))

    def at(self, share: float) -> tuple[float, float, float, float]:
        """Temperature, noise and the factors of the learning rates of latents and of networks."""
        share = self.begin + (1 - self.begin) * share
        (t0, t1), (s0, s1) = self.temperature, self.noise
        rate = max(0.5 + 0.5 * math.cos(math.pi * share), self.last_rate)
        risen = min(share / self.rise, 1.0) if self.rise else 1.0
        return t0 + (t1 - t0) * share, s0 + (s1 - s0) * share, rate, rate * risen


class Fit:
    """Strips of one image that share networks; `run` may go on at another rate."""

    def __init__(self, strips: list[Strip], networks: Networks, seed: int = 0) -> None:
        self.strips, self.networks = strips, networks
        self.rng = np.random.default_rng(seed)
        self.noise = self.rng.standard_normal(max(s.count for s in strips) + NOISE_POOL, np.float32)
        self.weight = 0.0
        self.pixels = sum(s.height * s.width for s in strips)
        self.best: tuple[float, np.ndarray, list[np.ndarray]]
        """The least cost per pixel that the last run measured, with its coefficients and latents."""

    def begin(self, directions: Directions, start: np.ndarray) -> None:
        """The networks are a start, parameters ``start``, from which a run moves them along ``directions``.

        A float32 ``start`` is not copied: fits may share one that changes, see `set_networks`.
        """
        self.directions, self.start = directions, start.astype(np.float32, copy=False)
        self.coefficients = np.zeros(len(directions), np.float32)
        """Of the directions, in their standard deviations."""
        self.used = directions.common
        """Coefficients after the first ``used`` stay zero."""
        self.set_networks()

    def set_networks(self) -> None:
        """Makes the networks what start and coefficients say."""
        self.networks.flat[:] = self.start + self.coefficients[: self.used] @ self.directions.matrix[: self.used]

    @one_blas_thread()
    def run(
        self,
        weight: float,
        steps: int,
        cooling: Cooling,
        report: StepReport | None = None,
    ) -> None:
        """Fits; networks and latents are then those of the least cost that was measured, also after an interrupt.

        ``weight`` is that of the distortion against bits per pixel. `begin` comes before the first run.
        """
        self.weight, self.best = weight, (math.inf, self.coefficients, [])
        try:
            self._steps(steps, cooling, report)
        finally:
            if not math.isfinite(self.best[0]):
                self._look()
            self.restore()

    def _steps(
        self,
        steps: int,
        cooling: Cooling,
        report: StepReport | None,
    ) -> None:
        momentum = Momentum(self.directions, self.coefficients[: self.used], len(self.strips))
        last = steps - round(cooling.rounded * steps)
        looks = {last - round(i * steps / 3 / cooling.looks) for i in range(cooling.looks)} | {steps}
        for s in self.strips:
            s.restart()
        for step in range(steps):
            temperature, noise, latent_factor, network_factor = cooling.at(min(step / max(last, 1), 1.0))
            if step >= last:
                network_factor = cooling.settling * (steps - step) / (steps - last)
            if step == last:
                self.restore()
                for s in self.strips:
                    np.rint(s.y, out=s.y)
            bits = distortion = 0.0
            for s in self.strips:
                gradient = Networks(self.networks.arch)
                b, d = self.gradients(s, gradient, temperature, noise, step >= last)
                bits, distortion = bits + b, distortion + d
                if step < last:
                    s.move(cooling.latent_rate * latent_factor)
                momentum.step(gradient.flat, cooling.network_rate * network_factor)
                self.set_networks()
            if step + 1 in looks:
                self._look()
            if report:
                report(step + 1, bits / self.pixels, distortion / self.pixels)

    def gradients(
        self, s: Strip, gradient: Networks, temperature: float, noise: float, rounded: bool = False
    ) -> tuple[float, float]:
        """Bits and distortion of a strip's softly rounded latents, or of rounded ones.

        Adds the gradients for the networks to ``gradient``; those for the latents are `Memory.gq` * `Memory.slope`.
        """
        q = s.memory.q
        if rounded:
            np.copyto(q, s.y)
        else:
            begin = int(self.rng.integers(NOISE_POOL))
            kernels.soften(s.y, self.noise[begin : begin + s.count], noise, temperature, q, s.memory.slope)
        d, g = s.distortion(s.synthesise(self.networks, q))
        s.synthesise_back(self.networks, g * np.float32(self.weight), gradient)
        return s.bits(self.networks, q, gradient), d

    def measure(self, networks: Networks | None = None, strips: list[Strip] | None = None) -> tuple[float, float]:
        """Bits and distortion per pixel of rounded latents, of all strips or some."""
        networks, strips = networks or self.networks, strips or self.strips
        pixels = sum(s.height * s.width for s in strips)
        bits = distortion = 0.0
        for s in strips:
            q = np.rint(s.y)
            bits += s.bits(networks, q)
            distortion += s.distortion(np.clip(s.synthesise(networks, q), -0.5, 0.5))[0]
        return bits / pixels, distortion / pixels

    def _look(self) -> None:
        bits, distortion = self.measure()
        if (cost := bits + self.weight * distortion) < self.best[0]:
            self.best = (cost, self.coefficients.copy(), [s.y.copy() for s in self.strips])

    def restore(self) -> None:
        """Networks and latents are those of `best`."""
        if math.isfinite(self.best[0]):
            self.coefficients[:] = self.best[1]
            self.set_networks()
            for s, y in zip(self.strips, self.best[2], strict=True):
                s.y[:] = y

    def symbols(self) -> list[list[np.ndarray]]:
        """Rounded latents of every strip, finest grid first, int16."""
        return [
            [np.clip(np.rint(g), -SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int16) for g in s.grids(s.y)]
            for s in self.strips
        ]
