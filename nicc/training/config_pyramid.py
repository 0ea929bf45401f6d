"""Configurations of the stages that make a pyramid: starts with an analysis, further families of starts, directions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nicc.errors import ModelError
from nicc.pyramid.analysis import ALIGN
from nicc.pyramid.layout import PyramidArchitecture
from nicc.training.schedule import StageSchedule, refuse_unknown, schedule_of


@dataclass(frozen=True)
class PyramidSchedule(StageSchedule):
    """How to train what a pyramid's encoder begins with. Rates fall by a cosine to ``final_rate`` of themselves."""

    steps: int = 20000
    batch: int = 4
    clip: float = 10.0
    network_rate: float = 2e-3
    """Learning rate of the starts' networks."""
    rate: float = 1e-3
    """Learning rate of the analysis' biases and outputs."""
    matrix_rate: float = 4e-3
    """Muon's, of the matrices of hidden layers."""

    def __post_init__(self) -> None:
        if self.crop % ALIGN:
            raise ModelError(f"crop must be a multiple of {ALIGN}")


@dataclass(frozen=True)
class PyramidConfig:
    """A model whose networks are fitted to every image, and how its starts are trained."""

    name: str
    version: int = 1
    architecture: PyramidArchitecture = field(default_factory=PyramidArchitecture)
    training: PyramidSchedule = field(default_factory=PyramidSchedule)

    @classmethod
    def of(cls, raw: dict[str, Any]) -> PyramidConfig:
        """The configuration in a TOML file's tables."""
        refuse_unknown(raw, cls)
        architecture = PyramidArchitecture.from_dict(raw.get("architecture", {}))
        return cls(raw["name"], int(raw.get("version", 1)), architecture, schedule_of(PyramidSchedule, raw))


@dataclass(frozen=True)
class FamilySchedule(StageSchedule):
    """How to train a family of starts. ``batch`` are the crops that its networks are fitted to, all in every step."""

    steps: int = 3300
    """Steps in all: three parts for the first start of a new family, one for each of the others."""
    starts: int | None = None
    """The lowest so many starts are trained, all of them without it; those of a new family are all."""
    batch: int = 12
    validate_every: int = 300
    candidates: int = 2
    """So many times ``batch`` crops are drawn, of which the smoothest are taken."""
    network_rate: float = 5e-3
    """Adam's first learning rate of the networks."""
    begin: float = 0.25
    """Share of the way of a fit that starts leave out, at its hot end, that go on from their neighbour's latents."""


@dataclass(frozen=True)
class FamilyConfig:
    """A family of starts for the pyramid of this name or folder."""

    name: str
    model: str = "pyramid"
    version: int = 1
    family: int | None = None
    """The family that is trained on; without it, another one."""
    training: FamilySchedule = field(default_factory=FamilySchedule)

    @classmethod
    def of(cls, raw: dict[str, Any]) -> FamilyConfig:
        """The configuration in a TOML file's tables."""
        refuse_unknown(raw, cls)
        version, family = int(raw.get("version", 1)), raw.get("family")
        if family is not None and (not isinstance(family, int) or family < 0):
            raise ModelError("family must be a number from 0")
        return cls(raw["name"], str(raw.get("model", "pyramid")), version, family, schedule_of(FamilySchedule, raw))


@dataclass(frozen=True)
class DirectionsSchedule(StageSchedule):
    """How many fits of ``fit_steps`` steps to make for directions, one a step, of every start in turn."""

    steps: int = 360
    starts: int | None = None
    """Fits are of the lowest so many starts, of all of them without it."""
    batch: int = 1
    validate_every: int = 90
    fit_steps: int = 300
    network_rate: float = 0.6
    """Of the fits, see `nicc.pyramid.fit.Cooling`; 0.1 for a family that has no directions yet."""
    curvatures: int = 2
    """Fits of every start whose curvature is measured too, in about the time of five fits."""


@dataclass(frozen=True)
class DirectionsConfig:
    """New directions for the pyramid of this name or folder."""

    name: str
    model: str = "pyramid"
    version: int = 1
    count: int = 2048
    """Directions, and no more than parameters."""
    family: int = 0
    """The family of starts that they are for."""
    training: DirectionsSchedule = field(default_factory=DirectionsSchedule)

    @classmethod
    def of(cls, raw: dict[str, Any]) -> DirectionsConfig:
        """The configuration in a TOML file's tables."""
        refuse_unknown(raw, cls)
        given = {k: int(raw[k]) for k in ("version", "count", "family") if k in raw}
        if given.get("count", 1) < 1 or given.get("family", 0) < 0:
            raise ModelError("count must be positive, family not negative")
        return cls(
            raw["name"], str(raw.get("model", "pyramid")), **given, training=schedule_of(DirectionsSchedule, raw)
        )
