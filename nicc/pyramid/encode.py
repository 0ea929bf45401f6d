"""A picture to a pyramid's file: fit, make the networks integers, code."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from nicc.container import Container, Group, Header, with_checksum
from nicc.pyramid.coding import IntegerNetwork
from nicc.pyramid.decode import strip_bounds, symbols_checksum
from nicc.pyramid.fit import Cooling, Distortion, Fit, squared_error
from nicc.pyramid.layout import views
from nicc.pyramid.model import PyramidModel
from nicc.pyramid.networks import STEPS, UNCHANGED, Networks, difference_bits, encode_networks
from nicc.pyramid.order import encode_grids
from nicc.pyramid.strip import Strip
from nicc.threads import one_blas_thread

FIRST_STEP = 1
"""Steps of the networks' differences are first 2**1 units of 2**-12, then coarser ones are tried."""
PULL = 30.0
"""Bits that a parameter's distance from the start costs per unit while it is fitted."""
SMALL = 1 << 18
"""Images of at most so many pixels are also fitted with the start's networks as they are."""
ONLY_LATENTS = Cooling(network_rate=0.0)
GOING_ON = 0.7
"""Where the cooling of a fit begins that goes on from another: from 0, 60 steps of one would spoil 150 of the other."""
DEAD_ZONE = 0.62
"""Differences of less than this many steps become zero."""


class Fitter:
    """A picture's strips and networks, which may be fitted at one rate point after another."""

    def __init__(
        self,
        model: PyramidModel,
        pixels: np.ndarray,
        seed: int = 0,
        distortion: Distortion = squared_error,
        analyse: Callable[[Strip, int], None] | None = None,
    ) -> None:
        """``pixels`` uint8 ``(h, w, 3)``; ``analyse`` sets a strip's first latents for a start, zero without it."""
        self.model, self.analyse = model, analyse
        strips = [Strip(pixels[a:b]) for a, b in strip_bounds(len(pixels))]
        self.fit = Fit(strips, Networks(model.architecture), distortion, seed)
        self.begun: int | None = None
        """The start, by its number, that networks and latents come from."""
        self.unchanged = False
        """Whether the networks stay the start's, as the first fit of a small image found better."""

    def begins(self, rate_point: int) -> bool:
        """Whether a run begins with networks and latents of a start, and does not go on from what was reached.

        Each start has its own scale of latents, and differences of networks are coded against it.
        """
        return self.begun != self.model.architecture.start_of(rate_point)

    def run(
        self,
        rate_point: int,
        weight: float,
        steps: int,
        report: Callable[[int, float, float], None] | None = None,
        keep: bool = False,
    ) -> bool:
        """Fits for some steps; ``weight`` is that of the distortion against bits per pixel.

        An interrupt ends the steps if ``keep``, and False is returned.
        """
        self.start = self.model.start(rate_point)
        start = Networks.of_integers(self.model.architecture, self.start).flat
        try:
            if self.begins(rate_point):
                self._begin(rate_point, start)
                self.fit.run(weight, steps, Cooling(), start, PULL, report)
                if self.fit.pixels <= SMALL:
                    self._try_unchanged(rate_point, weight, steps, start)
            else:
                cooling = replace(ONLY_LATENTS if self.unchanged else Cooling(), begin=GOING_ON)
                self.fit.run(weight, steps, cooling, start, PULL, report)
        except KeyboardInterrupt:
            if not keep:
                raise
            return False
        return True

    def _begin(self, rate_point: int, start: np.ndarray) -> None:
        """The start's networks and first latents."""
        self.begun, self.unchanged = self.model.architecture.start_of(rate_point), False
        self.fit.networks.flat[:] = start
        for strip in self.fit.strips:
            strip.y[:] = 0
            if self.analyse:
                self.analyse(strip, self.begun)

    def _try_unchanged(self, rate_point: int, weight: float, steps: int, start: np.ndarray) -> None:
        """Fits latents alone to the start's networks, which take no bytes, and keeps what costs less."""
        cost, fitted = self._cost(), self.fit.best
        self._begin(rate_point, start)
        try:
            self.fit.run(weight, steps, ONLY_LATENTS, start)
        finally:
            self.unchanged = self._cost() < cost
            if not self.unchanged:
                self.fit.best = fitted
                self.fit.restore()

    def _cost(self) -> float:
        """Bits of networks and symbols and the weighed distortion, of networks as a file has them."""
        integers, steps = rounded(self.fit, self.start)
        arch = self.model.architecture
        bits, distortion = self.fit.measure(Networks.of_integers(arch, integers))
        coded = 8 * len(encode_networks(arch, self.start, integers, steps))
        return coded + (bits + self.fit.weight * distortion) * self.fit.pixels

    def container(self, header: Header, extras: dict[int, bytes]) -> tuple[Container, float]:
        """The file of what is reached, and an estimate of the bits of its symbols."""
        integers, steps = rounded(self.fit, self.start)
        bits, _ = self.fit.measure(Networks.of_integers(self.model.architecture, integers))
        return container_of(self.model, header, integers, steps, self.fit.symbols(), extras), bits * self.fit.pixels


def rounded(fit: Fit, start: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """The fit's networks as integers, for each array in steps of what costs least in bits + weight * distortion."""
    arch, shapes = fit.networks.arch, fit.networks.arch.shapes()
    wanted = fit.networks.integers()
    chosen = wanted.copy()
    of, base, out = views(wanted, shapes), views(start, shapes), views(chosen, shapes)
    steps: dict[str, int] = {}
    middle = [fit.strips[len(fit.strips) // 2]]  # of a large image, one strip has to do

    def take(name: str, step: int) -> np.ndarray:
        """Leaves the array in ``out`` as it is with a step; returns its differences in steps."""
        differences = _differences(of[name] - base[name], step)
        out[name][:] = base[name] + (differences << step)
        return differences

    def cost(name: str, step: int) -> float:
        """Bits, or weighed distortion, that depend on an array with a step, and the array's own bits."""
        differences = take(name, step)
        network_bits = difference_bits(differences.reshape(-1))[0] if differences.any() else 0.0
        networks = Networks.of_integers(arch, chosen)
        if arch.is_context(name):
            return network_bits + fit.measure_bits(networks, middle) * fit.pixels
        return network_bits + fit.weight * fit.measure_distortion(networks, middle) * fit.pixels

    for name in shapes:
        if np.array_equal(of[name], base[name]):
            steps[name] = UNCHANGED
            continue
        # from fine to coarse: a coarse step may be the better of two bad ones
        best, at = math.inf, FIRST_STEP
        for step in range(FIRST_STEP, STEPS):
            if (c := cost(name, step)) < best:
                best, at = c, step
            elif step > at + 1:
                break
        if cost(name, UNCHANGED) <= best:
            at = UNCHANGED
        take(name, at)
        steps[name] = at
    return chosen, steps


def _differences(units: np.ndarray, step: int) -> np.ndarray:
    """Whole steps, those of less than `DEAD_ZONE` zero; all zero if the array shall be the start's."""
    if step == UNCHANGED:
        return np.zeros_like(units)
    d = units / float(1 << step)
    return np.clip(np.where(np.abs(d) < DEAD_ZONE, 0, np.rint(d)), -511, 511).astype(np.int64)


@one_blas_thread()
def container_of(
    model: PyramidModel,
    header: Header,
    integers: np.ndarray,
    steps: dict[str, int],
    symbols: list[list[np.ndarray]],
    extras: dict[int, bytes],
) -> Container:
    """The file of networks in whole ``steps``, and of the symbols of every strip."""
    arch = model.architecture
    networks = encode_networks(arch, model.start(header.rate_point), integers, steps)
    network = IntegerNetwork(arch, views(integers, arch.shapes()))
    groups = []
    for grids in symbols:
        present, stream = encode_grids(network, arch, grids)
        groups.append(Group(symbols_checksum(grids), bytes([present]) + stream))
    container = Container(header, 0, b"", tuple(groups), dict(extras), networks=networks)
    return with_checksum(container, zlib.crc32(networks))
