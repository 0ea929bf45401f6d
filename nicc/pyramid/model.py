"""The pyramid model on disk: sizes of its networks, and trained starts of them.

Other models are weights; this one is what an encoder begins with. A file has networks of its own, as differences
from the start that belongs to its rate point.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nicc.arrays import digest
from nicc.container import FINGERPRINT_BYTES
from nicc.errors import ModelError
from nicc.pyramid.coding import WEIGHT_LIMIT
from nicc.pyramid.directions import ARRAYS, Directions
from nicc.pyramid.layout import PyramidArchitecture
from nicc.pyramid.networks import Begin


class Family(NamedTuple):
    """Starts for one kind of pictures, int64 ``(starts, parameters)`` in units of 2**-12, and their directions."""

    starts: np.ndarray
    directions: Directions

    def arrays(self, n: int) -> dict[str, np.ndarray]:
        """The arrays of a model that has this family as number ``n``."""
        arrays = {"starts": self.starts.astype(np.int32)} | self.directions.arrays()
        return {f"{n}.{name}": value for name, value in arrays.items()}


class PyramidModel:
    """What decoding needs: ``arrays`` are those of its families, see `Family.arrays`."""

    has_realism = False
    realism_macs_per_pixel: float | None = None

    def __init__(
        self,
        description: dict[str, Any],
        arrays: dict[str, np.ndarray],
        folder: Path | None = None,
        code: int | None = None,
    ) -> None:
        """``code`` is that of a shipped model; headers name every other."""
        self.description, self.folder, self.arrays = description, folder, arrays
        self.name: str = description["name"]
        self.code: int | str = self.name if code is None else code
        """How a header names this model."""
        self.version: int = description["version"]
        self.earlier: dict[str, int] = description.get("earlier", {})
        """Versions by their fingerprints, in hex, whose files this one cannot read."""
        self.architecture = PyramidArchitecture.from_dict(description["architecture"])
        shape = (self.architecture.starts, self.architecture.parameters())
        names = {f"{n}.{name}" for n in range(self.architecture.families) for name in ("starts", *ARRAYS)}
        if set(arrays) != names:
            raise ModelError(f"model {self.name}: damaged: it must have the arrays {', '.join(sorted(names))}")
        self.families = [self._family(n, shape) for n in range(self.architecture.families)]

    def _family(self, n: int, shape: tuple[int, int]) -> Family:
        """Raises `ModelError` for damaged arrays."""
        arrays = {name: self.arrays[f"{n}.{name}"] for name in ("starts", *ARRAYS)}
        starts = arrays["starts"]
        if starts.dtype != np.int32 or starts.shape != shape:
            raise ModelError(f"model {self.name}: damaged: starts must be int32 of shape {shape}")
        if np.abs(starts.astype(np.int64)).max() > WEIGHT_LIMIT:
            raise ModelError(f"model {self.name}: damaged: a parameter is out of bounds")
        try:
            return Family(starts.astype(np.int64), Directions.of(arrays, shape[1]))
        except ModelError as e:
            raise ModelError(f"model {self.name}: damaged: {e}") from None

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of all arrays and the architecture: files with equal digests are read alike."""
        return digest(self.arrays, self.description["architecture"])

    @property
    def fingerprint(self) -> bytes:
        return bytes.fromhex(self.sha256)[:FINGERPRINT_BYTES]

    def family(self, number: int) -> Family:
        """Raises `ModelError` for a number that no family has."""
        if number >= len(self.families):
            raise ModelError(f"model {self.name} has no family {number}")
        return self.families[number]

    def begins(self, rate_point: int) -> list[Begin]:
        """What networks at a rate point may differ from, by family."""
        start = self.architecture.start_of(rate_point)
        return [Begin(family.starts[start], family.directions) for family in self.families]

    def macs_per_pixel(self) -> dict[str, float]:
        """Multiply-accumulates per pixel at the receiver, by part, all grids present."""
        return self.architecture.macs_per_pixel()
