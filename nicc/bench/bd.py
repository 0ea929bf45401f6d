"""BD-rate: the mean difference in rate between two codecs at equal quality.

Bjontegaard 2001, with piecewise cubic Hermite interpolation of log rate over quality, by the
``bjontegaard`` package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nicc.bench.metrics import DISTANCES

NARROW = 0.5
"""An overlap below this share of the narrower curve's range is not much of a comparison."""

Curve = Mapping[str, Sequence[float]]


class BdRate(NamedTuple):
    """``percent`` is negative where the test codec needs fewer bits. Bounds are on `scale`'s scale."""

    percent: float
    low: float
    high: float
    share: float
    """Overlap of the two ranges of quality, as a share of the narrower one."""

    @property
    def narrow(self) -> bool:
        return self.share < NARROW


def scale(metric: str, values: Sequence[float]) -> np.ndarray:
    """A metric on a scale on which curves are smooth and more is better.

    Decibels for MS-SSIM, -10 log10(1 - x), and for distances, -10 log10(x).
    """
    x = np.asarray(values, np.float64)
    if metric == "ms-ssim-rgb":
        return -10 * np.log10(np.maximum(1 - x, 1e-9))
    if metric in DISTANCES:
        return -10 * np.log10(np.maximum(x, 1e-9))
    return x


def _monotone(curve: Curve, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Rates and qualities, both rising; a point that costs more and is no better is dropped."""
    rate, quality = np.asarray(curve["bpp"], np.float64), scale(metric, curve[metric])
    order = np.argsort(rate)
    rate, quality = rate[order], quality[order]
    best = np.concatenate([[-np.inf], np.maximum.accumulate(quality)[:-1]])
    keep = quality > best
    return rate[keep], quality[keep]


def bd_rate(anchor: Curve, test: Curve, metric: str = "psnr-rgb") -> BdRate | None:
    """BD-rate of ``test`` against ``anchor``, or None where their qualities do not overlap.

    Curves map ``bpp`` and the metric's name to equally long lists, in any order.
    """
    if metric not in anchor or metric not in test:
        return None
    (rate_a, quality_a), (rate_t, quality_t) = _monotone(anchor, metric), _monotone(test, metric)
    if min(len(rate_a), len(rate_t)) < 2:
        return None
    low, high = max(quality_a[0], quality_t[0]), min(quality_a[-1], quality_t[-1])
    if high <= low:
        return None
    from bjontegaard import bd_rate as library

    percent = library(
        rate_a, quality_a, rate_t, quality_t, method="pchip", require_matching_points=False, min_overlap=0
    )
    span = min(quality_a[-1] - quality_a[0], quality_t[-1] - quality_t[0])
    return BdRate(float(percent), float(low), float(high), float((high - low) / span))
