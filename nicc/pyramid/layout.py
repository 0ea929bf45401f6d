"""What a pyramid model is made of: grids, the neighbours that their coding sees, and the arrays of its networks."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

import numpy as np

from nicc.container import LARGEST_RATE_POINT
from nicc.errors import ModelError

KIND = "pyramid"
"""The value of ``kind`` in a description's architecture."""

GRIDS = 8
"""Latent grids, each of half the size of the one before: 1/1 to 1/128 of the image a side."""
REACH = 3
"""Decoded rows above, and columns to either side, that coding a symbol sees."""
COARSE = 9
"""Positions of the coarser grid, 3x3, that coding a symbol sees."""
STRIP_ROWS = 1024
"""Rows of pixels that are coded and rendered independently of those above and below; they share the networks."""


MOST_NEIGHBOURS = 20
MOST_FAMILIES = 16


def neighbour_offsets(count: int) -> list[tuple[int, int]]:
    """The nearest decoded positions (dy, dx), all before x + 2 y: the rows of a wavefront advance side by side."""
    before = [(dy, dx) for dy in range(-REACH, 1) for dx in range(-REACH, REACH + 1) if dx + 2 * dy < 0]
    return sorted(before, key=lambda o: (o[0] ** 2 + o[1] ** 2, o))[:count]


@dataclass(frozen=True)
class PyramidArchitecture:
    """Sizes of the networks: positions and units of the context network, units of the pointwise synthesis.

    All three are multiples of 4. ``rate_points`` are those of the weights ``lambda_min`` to ``lambda_max`` of the
    distortion, spaced evenly in their logarithm; ``starts`` of them, as evenly, have trained networks. There are
    ``families`` of such starts, for different kinds of pictures.
    """

    neighbours: int = 16
    context_hidden: int = 16
    colour_hidden: int = 32
    rate_points: int = 101
    starts: int = 9
    families: int = 1
    lambda_min: float = 0.0007
    lambda_max: float = 0.3

    def __post_init__(self) -> None:
        sizes = (self.neighbours, self.context_hidden, self.colour_hidden)
        if any(n < 4 or n % 4 for n in sizes) or self.neighbours > MOST_NEIGHBOURS or max(sizes) > 256:
            raise ModelError(f"architecture: sizes must be multiples of 4, at most {MOST_NEIGHBOURS} neighbours")
        if not (
            2 <= self.starts <= self.rate_points <= LARGEST_RATE_POINT + 1 and 0 < self.lambda_min < self.lambda_max
        ):
            raise ModelError("architecture: at least two starts, no more than rate points, and rising lambda")
        if not 1 <= self.families <= MOST_FAMILIES:
            raise ModelError(f"architecture: 1 to {MOST_FAMILIES} families of starts")

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> PyramidArchitecture:
        """Raises `ModelError` for unknown names or impossible numbers."""
        if unknown := set(facts) - {f.name for f in fields(cls)} - {"kind"}:
            raise ModelError(f"architecture: unknown {', '.join(sorted(unknown))}")
        try:
            return cls(**{k: v for k, v in facts.items() if k != "kind"})
        except TypeError as e:
            raise ModelError(f"architecture: {e}") from None

    def to_dict(self) -> dict[str, Any]:
        return {"kind": KIND, **asdict(self)}

    def rate_lambda(self, rate_point: float) -> float:
        """Weight of the distortion against bits per pixel at a real rate point."""
        span = math.log(self.lambda_max / self.lambda_min)
        return self.lambda_min * math.exp(span * rate_point / (self.rate_points - 1))

    def start_of(self, rate_point: int) -> int:
        """The start that networks at a rate point differ from.

        In the upper half of the rates it is the nearest; in the lower half that of the next lower rate, or the lowest
        itself: there, fits from networks of a lower rate end better than from those of a higher one (docs/pyramid.md).
        """
        place = Fraction(rate_point * (self.starts - 1), self.rate_points - 1)
        return round(place) if 2 * place > self.starts - 1 else max(math.ceil(place) - 1, 0)

    def points_of(self, start: int) -> list[int]:
        """The rate points whose networks differ from a start."""
        return [point for point in range(self.rate_points) if self.start_of(point) == start]

    def start_point(self, start: int) -> float:
        """The real rate point whose networks a start is."""
        return start / (self.starts - 1) * (self.rate_points - 1)

    def start_lambda(self, start: int) -> float:
        """Weight of the distortion against bits per pixel at a start."""
        return self.rate_lambda(self.start_point(start))

    def macs_per_pixel(self) -> dict[str, float]:
        """Multiply-accumulates per pixel at the receiver, by part."""
        n, h, s = self.neighbours, self.context_hidden, self.colour_hidden
        symbols = sum(4.0**-k for k in range(GRIDS))
        upsampled = sum((GRIDS - 1 - k) * 4.0**-k for k in range(GRIDS))
        return {
            "context": symbols * (n * (h + 2) + h * h + 2 * h) + (symbols - 1) * COARSE * (h + 2),
            "upsampling": upsampled * 4 * 1.5,
            "synthesis": GRIDS * s + 3 * s + 3 * GRIDS + 2 * 81,
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The networks' arrays by name, in the order in which a file has them."""
        n, h, s = self.neighbours, self.context_hidden, self.colour_hidden
        return {
            "near": (h, n),
            "skip": (2, n),
            "coarse": (h + 2, COARSE),
            "bias": (GRIDS, h + 2),
            "middle": (h, h),
            "middle_bias": (h,),
            "out": (2, h),
            "taps": (GRIDS - 1, 4),
            "colour_in": (s, GRIDS),
            "colour_bias": (s,),
            "colour_out": (3, s),
            "colour_linear": (3, GRIDS),
            "base": (3,),
            "filter1": (3, 3, 3, 3),
            "filter1_bias": (3,),
            "filter2": (3, 3, 3, 3),
            "filter2_bias": (3,),
        }

    def parameters(self) -> int:
        return sum(int(np.prod(s)) for s in self.shapes().values())


def grid_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Heights and widths of the grids, finest first."""
    return [(-(-height // 2**k), -(-width // 2**k)) for k in range(GRIDS)]


def views(flat: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Arrays by name that share the memory of a flat one."""
    out, at = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        out[name] = flat[at : at + size].reshape(shape)
        at += size
    return out
