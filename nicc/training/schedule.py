"""What the schedules of all training stages have, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

from nicc.architecture import with_tuples
from nicc.errors import ModelError

T = TypeVar("T")


@dataclass(frozen=True)
class StageSchedule:
    """What the schedules of all stages have. Learning rates fall by a cosine to ``final_rate`` of themselves."""

    steps: int = 1000
    batch: int = 8
    crop: int = 256
    """Side of the square training crops in pixels, a multiple of 64."""
    drawn_share: float = 0.0
    """Share of the crops that graphics are drawn over (`nicc.training.drawn`)."""
    seed: int = 0
    final_rate: float = 0.02
    clip: float = 1.0
    """Largest norm of a gradient."""
    ema: float = 0.998
    log_every: int = 20
    validate_every: int = 500


def refuse_unknown(raw: dict[str, Any], kind: type[Any]) -> None:
    """Raises `ModelError` for entries that a configuration does not have, and for one without a name."""
    if unknown := set(raw) - {f.name for f in fields(kind)}:
        raise ModelError(f"unknown entries {', '.join(sorted(unknown))}")
    if "name" not in raw:
        raise ModelError("no name")


def schedule_of(kind: type[T], raw: dict[str, Any]) -> T:
    """The schedule in a TOML file's ``[training]`` table. Raises `ModelError`."""
    values = raw.get("training", {})
    if unknown := set(values) - {f.name for f in fields(kind)}:  # type: ignore[arg-type]
        raise ModelError(f"unknown entries {', '.join(sorted(unknown))}")
    if values.get("crop", 64) % 64:
        raise ModelError("crop must be a multiple of 64")
    return kind(**with_tuples(values))


def tables_of(kind: type[T], name: str, raw: dict[str, Any]) -> tuple[T, ...]:
    """What the ``[[name]]`` tables of a TOML file say, in their order. Raises `ModelError`."""
    try:
        return tuple(kind(**with_tuples(table)) for table in raw.get(name, []))
    except TypeError as e:
        raise ModelError(f"{name}: {e}") from None
