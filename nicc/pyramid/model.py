"""The pyramid model on disk: sizes of its networks, and trained starts of them.

Other models are weights; this one is what an encoder begins with. A file has networks of its own, as differences
from the start that belongs to its rate point.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nicc.arrays import digest
from nicc.container import FINGERPRINT_BYTES
from nicc.errors import ModelError
from nicc.pyramid.coding import WEIGHT_LIMIT
from nicc.pyramid.directions import ARRAYS, Directions
from nicc.pyramid.layout import PyramidArchitecture


class PyramidModel:
    """What decoding needs: ``arrays`` has ``starts``, int32 ``(starts, parameters)`` in units of 2**-12, and those of
    `nicc.pyramid.directions.Directions`.
    """

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
        starts = arrays.get("starts")
        shape = (self.architecture.starts, self.architecture.parameters())
        if set(arrays) != {"starts", *ARRAYS} or starts is None or starts.dtype != np.int32 or starts.shape != shape:
            raise ModelError(
                f"model {self.name}: damaged: it must have the arrays {', '.join(('starts', *ARRAYS))}, "
                f"starts int32 of shape {shape}"
            )
        if np.abs(starts.astype(np.int64)).max() > WEIGHT_LIMIT:
            raise ModelError(f"model {self.name}: damaged: a parameter is out of bounds")
        try:
            self.directions = Directions.of(arrays, shape[1])
        except ModelError as e:
            raise ModelError(f"model {self.name}: damaged: {e}") from None

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of all arrays and the architecture: files with equal digests are read alike."""
        return digest(self.arrays, self.description["architecture"])

    @property
    def fingerprint(self) -> bytes:
        return bytes.fromhex(self.sha256)[:FINGERPRINT_BYTES]

    @property
    def starts(self) -> np.ndarray:
        """The networks' starts, int64 ``(starts, parameters)`` in units of 2**-12."""
        return self.arrays["starts"].astype(np.int64)

    def start(self, rate_point: int) -> np.ndarray:
        """The networks' start at a rate point."""
        start: np.ndarray = self.starts[self.architecture.start_of(rate_point)]
        return start

    def macs_per_pixel(self) -> dict[str, float]:
        """Multiply-accumulates per pixel at the receiver, by part, all grids present."""
        return self.architecture.macs_per_pixel()
