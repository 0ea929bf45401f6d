"""A fit's networks as a file has them: integer coefficients that cost least, bits and distortion together."""

from __future__ import annotations

import itertools
import math
from contextlib import suppress

import numpy as np

from nicc.errors import FormatError
from nicc.pyramid.directions import QUARTER, STEPS, Directions
from nicc.pyramid.fit import Fit
from nicc.pyramid.networks import UNCHANGED, Begin, Change, Coding, Networks, best_offset, change_bits, changed

FINENESS = 4.2
"""Steps of coefficients are near this by the square root of the pixels: there, one more bit is worth what it costs."""
CURVATURES = (1.0, 4.0)
"""Of the cost per pixel along the directions, that rounding is tried for."""


def rounded(fit: Fit, begin: Begin) -> tuple[Change, Networks]:
    """The fit's networks as a file has them: the change of least bits + weight * distortion, and what it gives.

    ``begin`` is that of the fit. Along the directions the cost is curved alike, about 1 per pixel and
    more at high rates: single coefficients are chosen by arithmetic, their step and the curvature by measurement.
    """
    arch, strips = fit.networks.arch, [fit.strips[len(fit.strips) // 2]]  # of a large image, one strip has to do
    wanted = fit.coefficients * fit.directions.deviations

    def measured(change: Change) -> tuple[float, Change, Networks]:
        networks = Networks.of_integers(arch, changed(begin, change))
        bits, distortion = fit.measure(networks, strips)
        coded = change_bits(fit.directions, change)
        return coded + (bits + fit.weight * distortion) * fit.pixels, change, networks

    best = measured(UNCHANGED)
    if wanted.any():
        middle = max(round(math.log2(math.sqrt(fit.pixels) / FINENESS)) - QUARTER, 0)
        steps = range(max(middle - 2, 0), min(middle + 3, STEPS))
        for step, curvature in itertools.product(steps, CURVATURES):
            with suppress(FormatError):  # parameters that a file cannot have
                change = nearest_change(fit.directions, wanted, step, curvature * fit.pixels)
                best = min(best, measured(change), key=lambda m: m[0])
    return best[1], best[2]


def nearest_change(directions: Directions, wanted: np.ndarray, step: int, curvature: float) -> Change:
    """Coefficients near ``wanted`` ones, each of least bits + what its rounding costs by ``curvature``, in bits."""
    unit = 2.0 ** -(QUARTER + step)
    exact = wanted / unit
    nearest = np.rint(exact).astype(np.int64)
    change = Change(nearest, step, 0)
    n = change.used
    candidates = np.stack([nearest, nearest - np.sign(nearest), np.zeros_like(nearest)])[:, :n]
    for _ in range(3):
        change = change._replace(offset=best_offset(directions, change))
        coding = Coding.of(directions, n, change.offset)
        possible = np.clip(candidates, -coding.limit, coding.limit)
        lost = curvature / 2 * np.square((possible - exact[:n]) * unit)
        chosen = np.take_along_axis(possible, (coding.bits(possible) + lost).argmin(0)[None], 0)[0]
        change = change._replace(coefficients=chosen)
    return change
