"""Training configurations: TOML files with an ``[architecture]`` and a ``[training]`` table."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nicc.architecture import MAX_RECTIFIERS, Architecture
from nicc.errors import ModelError
from nicc.head import HeadArchitecture
from nicc.training.config_filter import DirectionalConfig
from nicc.training.config_pyramid import DirectionsConfig, FamilyConfig, PyramidConfig
from nicc.training.config_texture import TextureConfig
from nicc.training.schedule import StageSchedule, refuse_unknown, schedule_of, tables_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DISTANCES = ("l2", "l1", "smooth-l1", "cosine")
COLOURS = ("luma", "chroma")
WEIGHTED_RATES = (0.05, 0.3, 0.6)
"""Rate points, as shares of the highest, at which gains are given; linear between these, constant beyond."""
SHIPPED = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class CodecSchedule(StageSchedule):
    """How to train. Learning rates are Adam's or Muon's and fall by a cosine to ``final_rate`` of themselves."""

    steps: int = 20000
    """Steps in all; a time budget may end training, and its cosine, earlier."""
    entropy_steps: int = 600
    """Steps at the start that train the entropy model alone, on the frozen lapped transform."""
    joint_share: float = 0.7
    """Share of the schedule, before the predictive one, on the symbols that the encoder writes."""
    predictive_share: float = 0.05
    """Share of the schedule, at its end, on the symbols that the encoder writes, analysis frozen."""
    overlap: int = 16
    """Pixels by which the windows of the lapped transform at the start exceed a block."""
    matrix_rate: float = 4e-3
    """Muon's learning rate, of the matrices of hidden layers."""
    rate: float = 6e-4
    """Learning rate of biases, and, with factors (`nicc.training.rate_distortion.RULES`), of what has no other."""
    linear_rate: float = 2e-5
    """Learning rate of the convolutions that start as the lapped transform."""
    table_rate: float = 1.5e-3
    """Learning rate of gains, priors and biases, of which each rate point has its own."""
    sender_only: bool = False
    """Whether the analysis alone is trained, for the networks of the receiver that training started with."""
    lpips_weight: float = 0.0
    """Weight of LPIPS (SqueezeNet) beside the distortion, on the scale of the squared error; 0 leaves it out."""
    active_from: tuple[int, ...] = ()
    """Rate points from which the last groups of channels are coded, one for each of them; others always are."""

    def __post_init__(self) -> None:
        if self.lpips_weight < 0:
            raise ModelError("lpips_weight must be 0 or more")
        if self.sender_only and (self.entropy_steps or self.predictive_share):
            raise ModelError("sender_only: entropy_steps and predictive_share, which train the receiver, must be 0")


@dataclass(frozen=True)
class RealismSchedule(StageSchedule):
    """How to train a head. Rates are Adam's or Muon's and fall by a cosine to ``final_rate`` of themselves."""

    steps: int = 6000
    rate: float = 1e-3
    matrix_rate: float = 4e-3
    """Muon's, of the matrices of hidden layers."""
    discriminator_rate: float = 2e-4
    mse_weight: float = 0.01
    """Weight of the distortion that the base model's objective has."""
    lpips_weight: float = 4.26
    adversarial_weight: float = 0.3
    adversarial_share: float = 0.5
    """Share of the schedule, at its end, with a discriminator."""
    discriminator_width: int = 32
    files: bool = False
    """Teaches by files as encoding makes them, and by what their texture boxes would tell."""
    highest_rate: float = 0.73
    """Share of the rate points, from the lowest on, at which these are coded."""
    shown: float = 4.0
    """How often one is shown, on average, after it was coded."""


@dataclass(frozen=True)
class RectifySchedule(StageSchedule):
    """How to train rectifiers. Rates are Adam's and fall by a cosine to ``final_rate`` of themselves."""

    steps: int = 4000
    """Steps in all, those of exploring alpha among them."""
    rate: float = 1e-3
    """Learning rate of the rectifiers."""
    synthesis_rate: float = 2e-5
    distance: str = "l2"
    """l2, l1, smooth-l1 or cosine."""
    alphas: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1)
    """Weights of the distance to try."""
    explore_steps: int = 200
    """Steps of each candidate in a round of exploring."""
    ema: float = 0.995

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise ModelError(f"distance must be one of {', '.join(DISTANCES)}")
        if not self.alphas or min(self.alphas) < 0:
            raise ModelError("alphas must be numbers of 0 or more, at least one")


@dataclass(frozen=True)
class Weighting:
    """What changes for the channels of one band of frequency."""

    colour: str
    """``luma`` or ``chroma``: where most of the energy of a channel's basis function is."""
    above: float
    """Frequency in cycles per pixel at which the band begins; it ends where the colour's next one begins."""
    gain: tuple[float, ...] = (1.0,) * len(WEIGHTED_RATES)
    """Factors of the gain at `WEIGHTED_RATES`."""
    rounding: tuple[float, ...] = (1.0,) * len(WEIGHTED_RATES)
    """Weights of squared rounding errors against bits at `WEIGHTED_RATES`, in that of other channels."""

    def __post_init__(self) -> None:
        values = (self.gain, self.rounding)
        if self.colour not in COLOURS or any(len(v) != len(WEIGHTED_RATES) or min(v) <= 0 for v in values):
            raise ModelError(
                f"weighting: luma or chroma, {len(WEIGHTED_RATES)} gains and as many roundings above 0 are needed"
            )


@dataclass(frozen=True)
class RealismGains:
    """How files that ask for realism are coded: natural logarithms of what multiplies gains, by group of channels."""

    colour: str
    """``luma`` or ``chroma``: of the channels that change, as in `Weighting`."""
    low: tuple[float, ...]
    """Up to `nicc.training.realism_gains.HIGH`."""
    highest: tuple[float, ...]
    """At the highest rate point."""

    def __post_init__(self) -> None:
        if self.colour not in COLOURS:
            raise ModelError("realism_gains: luma or chroma is needed")


@dataclass(frozen=True)
class TrainingConfig:
    """A model's name and version, its architecture, and its training schedule."""

    name: str
    version: int = 1
    architecture: Architecture = field(default_factory=Architecture)
    training: CodecSchedule = field(default_factory=CodecSchedule)
    weighting: tuple[Weighting, ...] = ()
    """Applied once to what training starts from."""
    realism_gains: tuple[RealismGains, ...] = ()
    """None codes all files alike."""

    def __post_init__(self) -> None:
        given, arch = self.training.active_from, self.architecture
        if len(given) > arch.group_count - arch.context_groups or min(given, default=0) < 0:
            raise ModelError("active_from must name rate points, no more than there are groups that are no context")
        if any(len(row) != arch.group_count for gains in self.realism_gains for row in (gains.low, gains.highest)):
            raise ModelError(
                "realism_gains: a number for each group of channels is needed, at low rates and the highest"
            )

    @classmethod
    def of(cls, raw: dict[str, Any]) -> TrainingConfig:
        """The configuration in a TOML file's tables."""
        refuse_unknown(raw, cls)
        return cls(
            raw["name"],
            int(raw.get("version", 1)),
            Architecture.from_dict(raw.get("architecture", {})),
            schedule_of(CodecSchedule, raw),
            tables_of(Weighting, "weighting", raw),
            tables_of(RealismGains, "realism_gains", raw),
        )


@dataclass(frozen=True)
class RealismConfig:
    """A head for the model of this name or folder, and its training schedule."""

    name: str
    model: str
    head: HeadArchitecture = field(default_factory=HeadArchitecture)
    training: RealismSchedule = field(default_factory=RealismSchedule)

    @classmethod
    def of(cls, raw: dict[str, Any]) -> RealismConfig:
        """The configuration in a TOML file's tables."""
        refuse_unknown(raw, cls)
        head = HeadArchitecture.from_dict(raw.get("head", {}))
        return cls(raw["name"], str(raw.get("model", "two-layer")), head, schedule_of(RealismSchedule, raw))


@dataclass(frozen=True)
class RectifyConfig:
    """Rectifiers for the model of this name or folder (0 to 3 of them), and their training schedule."""

    name: str
    model: str
    rectifiers: int = 1
    width: int = 96
    training: RectifySchedule = field(default_factory=RectifySchedule)

    @classmethod
    def of(cls, raw: dict[str, Any]) -> RectifyConfig:
        """The configuration in a TOML file's tables."""
        refuse_unknown(raw, cls)
        given = {k: int(raw[k]) for k in ("rectifiers", "width") if k in raw}
        return cls(raw["name"], str(raw.get("model", "two-layer")), **given, training=schedule_of(RectifySchedule, raw))

    def __post_init__(self) -> None:
        if not 0 <= self.rectifiers <= MAX_RECTIFIERS or self.width < 1:
            raise ModelError(f"rectifiers must be 0 to {MAX_RECTIFIERS}, their width positive")

    @property
    def shape(self) -> dict[str, int]:
        return {"rectifiers": self.rectifiers, "width": self.width}


AnyConfig = (
    TrainingConfig
    | RealismConfig
    | TextureConfig
    | RectifyConfig
    | DirectionalConfig
    | PyramidConfig
    | FamilyConfig
    | DirectionsConfig
)
STAGES: dict[str, type[AnyConfig]] = {
    "rate-distortion": TrainingConfig,
    "realism": RealismConfig,
    "texture": TextureConfig,
    "rectify": RectifyConfig,
    "directional": DirectionalConfig,
    "pyramid": PyramidConfig,
    "pyramid-family": FamilyConfig,
    "pyramid-directions": DirectionsConfig,
}


def load_config(source: str) -> AnyConfig:
    """Reads a TOML file, or a shipped configuration by its name; ``stage`` in it says of what kind.

    Raises `ModelError`.
    """
    path = Path(source)
    if not path.exists() and (SHIPPED / f"{source}.toml").exists():
        path = SHIPPED / f"{source}.toml"
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text())
        stage = raw.pop("stage", "rate-distortion")
        if stage not in STAGES:
            raise ModelError(f"stage {stage!r} is not one of {', '.join(STAGES)}")
        return STAGES[stage].of(raw)
    except FileNotFoundError:
        names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.toml")))
        raise ModelError(f"{source}: no such configuration; shipped ones are {names}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ModelError(f"{source}: not a TOML file: {e}") from None
    except ModelError as e:
        raise ModelError(f"{source}: {e}") from None
