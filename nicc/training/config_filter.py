"""Configurations of the stage that fits the filters behind a synthesis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nicc.architecture import FILTER_TEXTURES
from nicc.errors import ModelError
from nicc.training.schedule import StageSchedule, refuse_unknown, schedule_of, tables_of


@dataclass(frozen=True)
class DirectionalSchedule(StageSchedule):
    """How to fit a directional filter: ``steps`` is the number of rate points."""

    steps: int = 13
    crops: int = 160
    """Crops at every rate point; a multiple of ``batch``."""
    iterations: int = 25
    """Steps of L-BFGS at most."""
    directional: bool = True
    """Whether the directional filter is fitted anew, or stays the model's and only the filter of chroma is fitted."""
    log_every: int = 1
    validate_every: int = 1

    def __post_init__(self) -> None:
        if self.steps < 2 or self.crops < self.batch or self.crops % self.batch:
            raise ModelError("steps must be 2 or more, crops a multiple of batch")


@dataclass(frozen=True)
class FilterPoint:
    """How a directional filter is fitted at one rate point."""

    rate_point: int
    lpips_weight: float = 0.0
    """Weight of LPIPS (SqueezeNet) beside the distortion, on the scale of the squared error; 0 leaves it out."""
    limit: float = 1.0
    """The filter's limit, by the root of luma's mean squared error."""
    kept: tuple[float, ...] = (1.0,) * FILTER_TEXTURES
    """What the fitted weights are multiplied by, from no texture to most."""

    def __post_init__(self) -> None:
        if len(self.kept) != FILTER_TEXTURES or min(*self.kept, self.lpips_weight) < 0 or self.limit <= 0:
            raise ModelError(f"point: {FILTER_TEXTURES} of kept and lpips_weight must be 0 or more, limit above 0")


@dataclass(frozen=True)
class DirectionalConfig:
    """A directional filter for the model of this name or folder, and the schedule that it is fitted by."""

    name: str
    model: str
    training: DirectionalSchedule = field(default_factory=DirectionalSchedule)
    point: tuple[FilterPoint, ...] = ()
    """Rate points that are fitted, rising, as many as there are steps; if there are none, they are spread evenly."""

    def __post_init__(self) -> None:
        named = [p.rate_point for p in self.point]
        if named and (len(named) != self.training.steps or sorted(set(named)) != named):
            raise ModelError("point must name rising rate points, one for every step")

    @classmethod
    def of(cls, raw: dict[str, Any]) -> DirectionalConfig:
        """The configuration in a TOML file's tables."""
        refuse_unknown(raw, cls)
        model, points = str(raw.get("model", "two-layer")), tables_of(FilterPoint, "point", raw)
        return cls(raw["name"], model, schedule_of(DirectionalSchedule, raw), points)

    def points(self, rate_points: int) -> tuple[FilterPoint, ...]:
        """Those that are fitted, of a model with so many."""
        evenly = np.linspace(0, rate_points - 1, self.training.steps).round().astype(int)
        return self.point or tuple(map(FilterPoint, evenly.tolist()))
