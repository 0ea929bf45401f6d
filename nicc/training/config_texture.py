"""Configuration of the stage that teaches the encoder what detail and grain a beta above 0 should add."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nicc.errors import ModelError
from nicc.training.schedule import StageSchedule, refuse_unknown, schedule_of


@dataclass(frozen=True)
class TextureSchedule(StageSchedule):
    """A step measures a batch of crops; then the network is fitted to all."""

    steps: int = 150
    updates: int = 4000
    """Steps of Adam."""
    width: int = 48
    highest_rate: float = 0.87
    """Share of the rate points, from the lowest on, at which crops are coded: above, detail hardly matters."""
    log_every: int = 5
    validate_every: int = 150

    def __post_init__(self) -> None:
        if min(self.steps, self.updates, self.width) < 1 or not 0 < self.highest_rate <= 1:
            raise ModelError("steps, updates and width must be positive, highest_rate within 0..1")


@dataclass(frozen=True)
class TextureConfig:
    """For the realism head of the model of this name or folder."""

    name: str
    model: str
    training: TextureSchedule = field(default_factory=TextureSchedule)

    @classmethod
    def of(cls, raw: dict[str, Any]) -> TextureConfig:
        """The configuration in a TOML file's tables."""
        refuse_unknown(raw, cls)
        return cls(raw["name"], str(raw.get("model", "two-layer-visual")), schedule_of(TextureSchedule, raw))
