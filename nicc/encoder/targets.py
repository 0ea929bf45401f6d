"""Encoding to a target: a size in bytes that is not exceeded, or a quality that is reached.

One knob is searched: a real rate point t. Its integer part above is coded, with the weight of the
distortion that belongs to t, so that sizes between two rate points can be had too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from nicc.architecture import Architecture
from nicc.encoder.quantise import DISTORTION_WEIGHT
from nicc.encoder.settings import Annealing, Report, Settings
from nicc.errors import NiccError
from nicc.images import Picture
from nicc.model import Model

if TYPE_CHECKING:
    from nicc.encoder.encode import Result

LOWEST = -12.0
"""Below rate point 0 only the weight falls."""
SIZE_TOLERANCE = 0.03
TOLERANCES, SLOPES = {"psnr": 0.1, "ssimulacra2": 0.5}, {"psnr": 0.08, "ssimulacra2": 0.3}
UNITS = {"psnr": "{} dB", "ssimulacra2": "SSIMULACRA 2 of {}"}
RATE_POINT_SLOPE = 2.5
"""By how much more the next rate point changes than its weight of the distortion alone."""
FINE_STEPS, CORRECTIONS, RATE_POINT_CORRECTIONS = 5, 3, 6
TRIM_WEIGHTS, TRIM_STEPS = (DISTORTION_WEIGHT / 3, DISTORTION_WEIGHT * 12), 6
FURTHER = (0.5, 1.5, 3.0)
"""By how many rate points the weight of the distortion moves on where neighbours lie on either side of a target."""
WARM_SHARE = 0.25
"""Steps of a correction, which starts from the last result, against those of the first iteration."""


class Unreachable(NiccError):
    """No rate point meets a target."""

    nearest: Result
    """What comes closest."""


def _unreachable(problem: str, nearest: Result) -> Unreachable:
    error = Unreachable(problem)
    error.nearest = nearest
    return error


@dataclass(frozen=True)
class Target:
    """At most ``size`` bytes, or at least ``least`` of a measure of quality; one of both.

    ``measure`` is ``psnr`` in dB or ``ssimulacra2`` in points: names of properties of a result.
    """

    size: int | None = None
    least: float = 0.0
    measure: str = "psnr"
    room: int = 0
    """Bytes of the size that are left for what is added behind an encoding."""

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.measure]

    def quality(self, result: Result) -> float:
        return float(getattr(result, self.measure))

    @property
    def most(self) -> int:
        """Bytes that an encoding may take."""
        assert self.size is not None
        return self.size - self.room

    def met(self, result: Result) -> bool:
        return len(result.data) <= self.most if self.size is not None else self.quality(result) >= self.least

    def close(self, result: Result) -> bool:
        """Met, and within the tolerance."""
        if not self.met(result):
            return False
        if self.size is not None:
            return len(result.data) >= self.most * (1 - SIZE_TOLERANCE)
        return self.quality(result) <= self.least + self.tolerance

    def better(self, a: Result, b: Result) -> bool:
        """Whether of two results that meet the target ``a`` is the better: less distortion, or fewer bytes."""
        return a.distortion < b.distortion if self.size is not None else len(a.data) < len(b.data)

    def miss(self, result: Result) -> float:
        """What the result lacks of a little inside the target: nats of size, dB or points."""
        if self.size is not None:
            return math.log(self.most * (1 - SIZE_TOLERANCE / 3) / len(result.data))
        return self.least + self.tolerance / 3 - self.quality(result)

    @property
    def slope(self) -> float:
        """Bits against those of the next rate point when only the weight of the distortion changes; a first guess."""
        return 0.02 if self.size is not None else SLOPES[self.measure]


def encode_to_target(
    model: Model, picture: Picture, target: Target, settings: Settings, report: Report | None = None
) -> Result:
    """The best encoding found that meets the target. Raises `NiccError` if none does.

    The rate point is searched with encodings that lack the gradient steps, and corrected with them; with
    iterations, the first run is corrected by shorter ones that go on from it. ``settings.rate_point`` is ignored.
    """
    from nicc.encoder.encode import INTERRUPTED, analyse, encode

    arch = model.architecture
    analysed = analyse(model, picture, settings)
    plain = replace(settings, annealing=replace(settings.annealing, steps=0))

    def code(t: float, refinements: int = settings.refinements, rate_point: int | None = None) -> Result:
        at = _at(arch, replace(plain, refinements=refinements), t)
        if rate_point is not None:
            at = replace(at, rate_point=rate_point)
        return encode(model, picture, at, report, analysed=analysed)

    try:
        knob, found = _search(arch, target, partial(code, refinements=0))
    except Unreachable:
        knob, found = _search(arch, target, code)  # it may be just within reach
    knob, found = _corrected(arch, target, knob, found, code)
    if not settings.annealing.steps:
        return found
    best = found
    slope, last, moved = target.slope, 0.0, 0.0
    at = _at(arch, settings, knob)
    result = encode(model, picture, at, report, analysed=analysed)
    for correction in range(CORRECTIONS + 1):
        options = [result]
        if result.latents is not None and not target.close(result):
            options += _trimmed(target, result)
        for option in options:
            if target.met(option) and target.better(option, best):
                best = option
        stop = best is not found and target.close(best)
        if stop or result.latents is None or INTERRUPTED in result.notes or correction == CORRECTIONS:
            break
        miss = target.miss(result)
        if moved:
            slope = _learned(target.slope, (last - miss) / moved)
        moved, last = miss / slope, miss
        knob += moved
        # the same rate point, so that the latents still lie on its grid; only the weight moves
        at = replace(at, lagrangian=arch.rate_lambda(knob), annealing=_shorter(settings.annealing))
        result = encode(model, picture, at, report, result.latents, analysed)
    return best


def _corrected(
    arch: Architecture, target: Target, knob: float, found: Result, code: Callable[..., Result]
) -> tuple[float, Result]:
    """The best of some results near a knob, and its knob; what was ``found`` there if none is better.

    Where neighbouring rate points lie on either side of the target, the one that misses it is tried with other weights.
    """
    best, at = found, knob
    slope, last, moved = RATE_POINT_SLOPE * target.slope, 0.0, 0.0
    for _ in range(RATE_POINT_CORRECTIONS + 1):
        result = code(at)
        if target.met(result) and target.better(result, best):
            knob, best = at, result
        if target.close(result):
            break
        miss = target.miss(result)
        if moved:
            slope = _learned(slope, (last - miss) / moved)
        moved = min(max(at + miss / slope, LOWEST), arch.rate_points - 1) - at
        if not moved:
            break
        at, last = at + moved, miss
    side = 1 if target.size is not None else -1
    other = _point(knob) + side
    for further in FURTHER:
        if target.close(best) or not 0 <= other < arch.rate_points:
            break
        result = code(knob - side * further, rate_point=other)
        if target.met(result) and target.better(result, best):
            best = result
    return knob, best


def _learned(guess: float, found: float) -> float:
    """By how much a move helped, within reason of a guess."""
    return min(max(found, guess / 3), 3 * guess)


def _trimmed(target: Target, result: Result) -> list[Result]:
    """Results that round the same latents by other weights, by bisection towards the target."""
    low, high = (math.log(w) for w in TRIM_WEIGHTS)
    tried = []
    for _ in range(TRIM_STEPS):
        middle = (low + high) / 2
        tried.append(result.rounded_by(math.exp(middle)))
        if target.close(tried[-1]):
            break
        if target.met(tried[-1]) == (target.size is not None):
            low = middle
        else:
            high = middle
    return tried


def _shorter(annealing: Annealing) -> Annealing:
    return replace(annealing, steps=max(1, round(annealing.steps * WARM_SHARE)))


def _at(arch: Architecture, settings: Settings, t: float) -> Settings:
    """Settings of a real rate point."""
    return replace(settings, rate_point=_point(t), lagrangian=arch.rate_lambda(t))


def _point(t: float) -> int:
    """The rate point that is coded for a real one."""
    return max(0, math.ceil(t))


def _search(arch: Architecture, target: Target, code: Callable[[float], Result]) -> tuple[float, Result]:
    """Bisection over whole rate points, then between two of them. Sizes and PSNR rise with t, nearly."""
    last = arch.rate_points - 1
    by_size = target.size is not None
    lowest, highest = code(LOWEST), code(last)
    if by_size and not target.met(lowest):
        nearest = len(lowest.data) + target.room
        problem = f"no rate point reaches {target.size} bytes; the nearest are {nearest} bytes"
        raise _unreachable(problem, lowest)
    if not by_size and not target.met(highest):
        wanted, found = (
            UNITS[target.measure].format(q) for q in (f"{target.least:g}", f"{target.quality(highest):.2f}")
        )
        problem = f"no rate point reaches {wanted}; the nearest are {found}"
        raise _unreachable(problem, highest)
    if by_size and target.met(highest):
        return last, highest
    if not by_size and target.met(lowest):
        return LOWEST, lowest
    # met at one end and not at the other: keep that, and bring the ends together
    low, high = LOWEST, float(last)
    good = lowest if by_size else highest
    fine = 0
    while fine < FINE_STEPS and not target.close(good):
        whole = high - low > 1
        middle = float(round((low + high) / 2)) if whole else (low + high) / 2
        fine += not whole
        result = code(middle)
        if target.met(result):
            good = result
        if target.met(result) == by_size:
            low = middle
        else:
            high = middle
    return (low if by_size else high), good
