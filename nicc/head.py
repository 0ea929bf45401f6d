"""What a realism head is made of: the widths of its layers, and its arrays by name."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from nicc.architecture import PIXELS_PER_LATENT, with_tuples
from nicc.errors import ModelError

LARGEST_BETA = 2**0.5
"""Training draws beta up to here, the paper's 5.12, so that 1 lies inside."""
GRID = 4
"""Pixels per position of the fine grid."""
LATENT_REACH, PIXEL_REACH = 4, 2
"""Latent positions around a part that its features, and its reconstructed pixels, must cover."""
OCTAVES = 3
"""Octaves of the sines and cosines that beta and rate point become. Ten, as in the paper, left neighbouring betas
with unrelated detail after a thousand steps: LPIPS rose and fell along beta."""
TABLE_STEPS, RATE_STEPS = 9, 8
"""Entries of the conditioning tables, from beta 0 to `LARGEST_BETA` and from the lowest rate point to the highest."""
CONDITIONS = ("fourier", "table")
T = TypeVar("T")


@dataclass(frozen=True)
class HeadArchitecture:
    """Widths of a head's layers; ``condition`` is ``fourier`` (FourierCond) or ``table`` (TableCond)."""

    condition: str = "fourier"
    condition_width: int = 128
    latent_width: int = 96
    handover: int = 32
    """Channels per position of the fine grid that come from the latents."""
    pixel_width: int = 48
    depth: int = 3
    strength: tuple[float, ...] = ()
    """What the detail is multiplied by, from the lowest rate point to the highest, linear between; 1 if empty.

    A head that was trained on one encoder's files adds too much to those of one that leaves less to be added.
    """
    parts: tuple[float, ...] = ()
    """Rate points, as shares of the highest, from which the second, the third ... part serves; one part if empty.

    Every part has arrays of its own. What is missing at low rates and at high ones has little in common, and decoding
    costs as much with several as with one.
    """

    def __post_init__(self) -> None:
        if self.condition not in CONDITIONS:
            raise ModelError(f"realism: condition must be one of {', '.join(CONDITIONS)}")
        widths = (self.condition_width, self.latent_width, self.handover, self.pixel_width)
        if min(widths) < 1 or not 0 <= self.depth <= 3:
            raise ModelError("realism: widths must be positive, depth 0 to 3")
        if min(self.strength, default=0) < 0:
            raise ModelError("realism: strength must be 0 or more")
        if list(self.parts) != sorted(set(self.parts)) or not all(0 < begin < 1 for begin in self.parts):
            raise ModelError("realism: parts must rise within 0..1")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> HeadArchitecture:
        """The head that a configuration describes; unknown names raise `ModelError`."""
        if unknown := set(values) - {f.name for f in fields(cls)}:
            raise ModelError(f"realism: unknown entries {', '.join(sorted(unknown))}")
        return cls(**with_tuples(values))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def widths(self) -> HeadArchitecture:
        """What decides the arrays' shapes."""
        return replace(self, strength=(), parts=())

    @property
    def conditioned(self) -> tuple[int, ...]:
        """Widths of the layers that beta and the rate point add to."""
        return (self.latent_width, self.latent_width, *[self.pixel_width] * (1 + self.depth))

    def part(self, rate: float) -> int:
        """Which part serves at a rate point, a share of the highest."""
        return bisect_right(self.parts, rate)

    def arrays_of(self, part: int, params: Mapping[str, T]) -> dict[str, T]:
        """Those of one part, by their names within it."""
        return {name: params[_name(part, name)] for name in self._shapes(1)}

    def shapes(self, latent_channels: int) -> dict[str, tuple[int, ...]]:
        """Shapes of all arrays, by name."""
        one = self._shapes(latent_channels)
        return {_name(part, name): shape for part in range(1 + len(self.parts)) for name, shape in one.items()}

    def _shapes(self, latent_channels: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays of a part."""
        latent, pixel, total = self.latent_width, self.pixel_width, sum(self.conditioned)
        cells = 3 * GRID**2
        shapes: dict[str, tuple[int, ...]] = {
            "latent_in": (latent_channels, latent),
            "latent_first": (9 * latent, latent),
            "latent_second": (9 * latent, latent),
            "latent_out": (latent, (PIXELS_PER_LATENT // GRID) ** 2 * self.handover),
            "pixel_in": (9 * (cells + self.handover), pixel),
            **{f"pixel{i}": (9 * pixel, pixel) for i in range(self.depth)},
            "pixel_out": (9 * pixel, cells),
        }
        if self.condition == "table":
            return shapes | {"beta_table": (TABLE_STEPS, total), "rate_table": (RATE_STEPS, total)}
        width = self.condition_width
        return shapes | {
            "condition_in": (4 * OCTAVES, width),
            "condition_in_bias": (width,),
            "condition_hidden": (width, width),
            "condition_hidden_bias": (width,),
            "condition_out": (width, total),
            "condition_out_bias": (total,),
        }

    def macs_per_pixel(self, latent_channels: int) -> float:
        """Multiply-accumulates per pixel, of one part; the conditioning is computed once an image."""
        total = 0.0
        for name, shape in self._shapes(latent_channels).items():
            if name.startswith(("latent", "pixel")):
                total += shape[0] * shape[1] / (PIXELS_PER_LATENT if name.startswith("latent") else GRID) ** 2
        return total


def _name(part: int, name: str) -> str:
    return f"part{part}_{name}" if part else name
