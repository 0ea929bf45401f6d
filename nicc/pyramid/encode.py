"""A picture to a pyramid's file: fit, make the networks integers, code."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from nicc.container import Container, Group, Header, with_checksum
from nicc.pyramid.coding import IntegerNetwork
from nicc.pyramid.decode import strip_bounds, symbols_checksum
from nicc.pyramid.fit import Cooling, Fit, StepReport
from nicc.pyramid.layout import views
from nicc.pyramid.model import PyramidModel
from nicc.pyramid.networks import Change, Networks, changed, encode_networks
from nicc.pyramid.order import encode_grids
from nicc.pyramid.rounding import rounded
from nicc.pyramid.strip import Distortion, Memory, Pasted, SquaredError, Strip
from nicc.threads import one_blas_thread

SMALL = 1 << 13
"""Images of at most so many pixels are also fitted with the start's networks as they are."""
SMALL_TWICE = 1 << 16
"""Images of at most so many pixels are fitted from a start of every family, at the lowest ``SMALL_STARTS`` starts."""
SMALL_STARTS = 4
TRIED = 0.03
"""Share of a fit's work that goes into trying a start of each family."""
SQUARES = (64, 256)
"""Least and largest side of the squares that starts are tried on; in between, all four are 1/24 of the image."""
LEAST_TRIED, MOST_TRIED = 120, 300
"""Steps of such a trial: fewer say little of where a fit ends, more cost more than they bring."""
RICH = 8 * 60_000
"""Bits + weight * distortion of first latents and a start's networks, from which on all directions pay.

Fits end at a quarter to a half of these. Otherwise networks differ along the common directions alone.
"""
LATER = 9.0
"""By this over a trial's steps are other families than the first taken to be better than it says: they gain later."""
TRIED_STARTS = 2
"""Of the lowest so many starts, every family is tried, or all of a page is fitted from it. Above, others than the first
do not pay: docs/pyramid.md."""
LONG = 3000
"""From so many steps on, fits begin with latents of zero: what an analysis finds saves steps, and costs some later."""
GOING_ON = 0.8
"""Where the cooling of a fit begins that goes on from another: from 0, 60 steps of one would spoil 150 of the other."""


class State(NamedTuple):
    """What a fit has reached: its cost with the networks' bytes, and where it is to be found."""

    cost: float
    family: int
    unchanged: bool
    used: int
    best: tuple[float, np.ndarray, list[np.ndarray]]


class Fitter:
    """A picture's strips and networks, which may be fitted at one rate point after another."""

    def __init__(
        self,
        model: PyramidModel,
        pixels: np.ndarray,
        seed: int = 0,
        distortion: Callable[[np.ndarray], Distortion] = SquaredError,
        analyse: Callable[[Strip, int], None] | None = None,
        pasted: np.ndarray | None = None,
        page: bool = False,
    ) -> None:
        """``pixels`` uint8 ``(h, w, 3)``; ``distortion`` as a `Strip` takes it; ``pasted`` as `Pasted` takes it.

        ``analyse`` sets a strip's first latents for a start of the first family; they are zero without it, and for
        every other family. A ``page`` of text or drawings is fitted from all families at low rates, however large it
        is: trials on a sample mislead there.
        """
        self.model, self.pixels, self.seed, self.distortion, self.analyse = model, pixels, seed, distortion, analyse
        self.page = page
        memory: dict[tuple[int, int], Memory] = {}
        bounds = strip_bounds(len(pixels))
        strips = [Strip(pixels[a:b], distortion, memory) for a, b in bounds]
        if pasted is not None:
            for strip, (a, b) in zip(strips, bounds, strict=True):
                strip.distortion = Pasted(strip.distortion, strip.target, pasted[a:b])
        self.fit = Fit(strips, Networks(model.architecture), seed)
        self.begun: int | None = None
        """The start, by its number, that networks and latents come from."""
        self.family = 0
        """The family of this start."""
        self.unchanged = False
        """Whether the networks stay the start's, as the first fit of a small image found better."""

    def begins(self, rate_point: int) -> bool:
        """Whether a run begins with networks and latents of a start, and does not go on from what was reached.

        Each start has its own scale of latents, and differences of networks are coded against it.
        """
        return self.begun != self.model.architecture.start_of(rate_point)

    def fits(self, rate_point: int) -> int:
        """How often a run makes all of its steps."""
        return 1 + len(self._others(rate_point)) if self.begins(rate_point) else 1

    def run(
        self,
        rate_point: int,
        weight: float,
        steps: int,
        report: StepReport | None = None,
        keep: bool = False,
    ) -> bool:
        """Fits for some steps; ``weight`` is that of the distortion against bits per pixel.

        An interrupt ends the steps if ``keep``, and False is returned.
        """
        try:
            if self.begins(rate_point):
                self._begin(rate_point)  # an interrupted trial leaves this
                tried = self._choose_family(rate_point, weight, steps)
                self._choose_directions(weight)
                if steps >= LONG:
                    self._forget_latents()
                self.fit.run(weight, steps - tried, self._cooling(steps - tried), later(report, tried))
                self._try_others(rate_point, weight, steps, report)
            else:
                self.fit.run(weight, steps, replace(self._cooling(steps), begin=GOING_ON), report)
        except KeyboardInterrupt:
            if not keep:
                raise
            return False
        return True

    def _choose_family(self, rate_point: int, weight: float, steps: int) -> int:
        """Fits a sample of the image from a start of every family, and begins anew from the one of least cost.

        Returns how many steps of the whole image these took, of ``steps`` that are to be taken in all.
        """
        families = range(len(self.model.families))
        if self.begun is None or self.begun >= TRIED_STARTS or len(families) == 1 or self.page:
            return 0
        sample = sample_of(self.pixels)
        share = len(families) * sample[..., 0].size / self.fit.pixels
        each = min(math.floor(TRIED * steps / share), MOST_TRIED)
        if each < LEAST_TRIED:
            return 0
        costs = [self._trial(sample, n, rate_point, weight, each) * (1 - LATER / each if n else 1.0) for n in families]
        if best := int(np.argmin(costs)):
            self._begin(rate_point, best)
        return math.ceil(share * each)

    def _choose_directions(self, weight: float) -> None:
        """Lets the networks move along all directions where first latents tell that the image is rich enough."""
        if self.analyse and not self.family:
            bits, distortion = self.fit.measure()
            if (bits + weight * distortion) * self.fit.pixels >= RICH:
                self.fit.used = len(self.fit.directions)

    def _trial(self, sample: np.ndarray, family: int, rate_point: int, weight: float, steps: int) -> float:
        """Bits, without networks', + weight * distortion per pixel of the sample, fitted from a family's start.

        First latents are zero for all families: so few steps would tell more of the analysis than of the starts.
        """
        fitter = Fitter(self.model, sample, self.seed, self.distortion)
        fitter._begin(rate_point, family)
        fitter.fit.run(weight, steps, self._cooling(steps))
        return fitter.fit.best[0]

    def _cooling(self, steps: int) -> Cooling:
        """Of a fit of so many steps, of latents alone where the networks stay the start's."""
        cooling = Cooling.over(steps)
        return replace(cooling, network_rate=0.0) if self.unchanged else cooling

    def _begin(self, rate_point: int, family: int = 0) -> None:
        """The networks and first latents of a family's start."""
        self.family = family
        self.begun, self.unchanged = self.model.architecture.start_of(rate_point), False
        self.choices = self.model.begins(rate_point)
        begin = self.choices[self.family]
        self.fit.begin(begin.directions, Networks.of_integers(self.model.architecture, begin.start).flat)
        self._forget_latents()
        if self.analyse and not self.family:
            for strip in self.fit.strips:
                self.analyse(strip, self.begun)

    def _forget_latents(self) -> None:
        """First latents are zero."""
        for strip in self.fit.strips:
            strip.y[:] = 0

    def _others(self, rate_point: int) -> list[tuple[int, bool]]:
        """Families to fit from as well, and whether their start's networks stay, which then take no bytes."""
        ways = [(self.family, True)] if self.fit.pixels <= SMALL else []
        starts = SMALL_STARTS if self.fit.pixels <= SMALL_TWICE else TRIED_STARTS if self.page else 0
        if self.model.architecture.start_of(rate_point) < starts:
            ways += [(n, False) for n in range(len(self.model.families)) if n != self.family]
        return ways

    def _try_others(self, rate_point: int, weight: float, steps: int, report: StepReport | None) -> None:
        """Fits in other ways too, and keeps what costs least."""
        ways = self._others(rate_point)
        if not ways:
            return
        kept = self._state()
        for number, (family, unchanged) in enumerate(ways, start=1):
            self._begin(rate_point, family)
            self.unchanged = unchanged
            try:
                self.fit.run(weight, steps, self._cooling(steps), later(report, number * steps))
            finally:
                reached = self._state()
                if reached.cost < kept.cost:
                    kept = reached
                else:
                    self._return_to(kept, rate_point)

    def _state(self) -> State:
        return State(self.cost(), self.family, self.unchanged, self.fit.used, self.fit.best)

    def _return_to(self, state: State, rate_point: int) -> None:
        """Networks and latents of the same rate point as they were."""
        self._begin(rate_point, state.family)
        self.unchanged, self.fit.used, self.fit.best = state.unchanged, state.used, state.best
        self.fit.restore()

    def cost(self) -> float:
        """Bits of networks and symbols and the weighed distortion, of networks as a file has them."""
        change, networks = rounded(self.fit, self.choices[self.family])
        bits, distortion = self.fit.measure(networks)
        coded = 8 * len(encode_networks(self.choices, self.family, change))
        return coded + (bits + self.fit.weight * distortion) * self.fit.pixels

    def container(self, header: Header, extras: dict[int, bytes]) -> tuple[Container, float]:
        """The file of what is reached, and an estimate of the bits of its symbols."""
        change, networks = rounded(self.fit, self.choices[self.family])
        bits, _ = self.fit.measure(networks)
        container = container_of(self.model, header, self.family, change, self.fit.symbols(), extras)
        return container, bits * self.fit.pixels


def later(report: StepReport | None, steps: int) -> StepReport | None:
    """A report whose steps come after others."""
    return report and (lambda step, bits, distortion: report(steps + step, bits, distortion))


def sample_of(pixels: np.ndarray) -> np.ndarray:
    """The middle squares of an image's quarters beside each other; the whole of a small image."""
    height, width, _ = pixels.shape
    least, most = SQUARES
    side = min(max(round(math.sqrt(height * width / 96) / 16) * 16, least), most)
    if min(height, width) < 2 * side:
        return pixels
    tops, lefts = ([n // 4 - side // 2, n - n // 4 - side // 2] for n in (height, width))
    return np.concatenate([np.concatenate([pixels[y : y + side, x : x + side] for x in lefts], 1) for y in tops])


@one_blas_thread()
def container_of(
    model: PyramidModel,
    header: Header,
    family: int,
    change: Change,
    symbols: list[list[np.ndarray]],
    extras: dict[int, bytes],
) -> Container:
    """The file of networks with a change from a family's start, and of the symbols of every strip."""
    arch, begins = model.architecture, model.begins(header.rate_point)
    networks = encode_networks(begins, family, change)
    integers = changed(begins[family], change)
    network = IntegerNetwork(arch, views(integers, arch.shapes()))
    groups = []
    for grids in symbols:
        present, stream = encode_grids(network, arch, grids)
        groups.append(Group(symbols_checksum(grids), bytes([present]) + stream))
    container = Container(header, 0, b"", tuple(groups), dict(extras), networks=networks)
    return with_checksum(container, zlib.crc32(networks))
