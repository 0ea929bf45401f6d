"""Directions in which a pyramid's networks move away from their start, and how far they usually go.

Networks fitted to photographs differ from their start in few ways, and what bits and distortion are sensitive to is
not single parameters. So a model has directions (`nicc.training.directions` finds them): in their coordinates, called
coefficients here, the cost is curved alike along all of them, what images want is not correlated, and the spread
falls from the first to the last. A file has integer coefficients of the first directions, an encoder moves along them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from nicc.errors import ModelError
from nicc.laplace import SCALE_RANGE, SCALES_PER_NAT
from nicc.pyramid.coding import WEIGHT_BITS

QUARTER = 2
"""A coefficient of 1 in a file, at step 0, is one of 2**-2."""
STEPS = 16
"""Steps of coefficients: 2**-2 to 2**-17."""
LARGEST_EXPONENT = 16
COMMON = 768
"""The first so many directions are for all images, the rest for those whose bits pay for them."""
ARRAYS = ("directions", "exponents", "spreads")


class Directions:
    """``rows`` int16 ``(count, parameters)``, by 2**-``exponents`` in units of 2**-12 for a quarter of a coefficient.

    ``spreads`` are numbers of scales (`nicc.laplace`, not limited to those that exist) of the Laplace
    distributions of coefficients in quarters.
    """

    def __init__(self, rows: np.ndarray, exponents: np.ndarray, spreads: np.ndarray) -> None:
        self.rows, self.exponents, self.spreads = rows, exponents.astype(np.int64), spreads.astype(np.int64)

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], parameters: int) -> Directions:
        """Those of a model's arrays. Raises `ModelError`."""
        rows, exponents, spreads = (arrays.get(name) for name in ARRAYS)
        if rows is None or exponents is None or spreads is None:
            raise ModelError("the directions of its networks are missing")
        count = len(rows)
        shaped = rows.shape == (count, parameters) and exponents.shape == spreads.shape == (count,) and count > 0
        typed = (rows.dtype, exponents.dtype, spreads.dtype) == (np.int16, np.uint8, np.int16)
        if not shaped or not typed or exponents.max() > LARGEST_EXPONENT:
            raise ModelError("the directions of its networks are of the wrong shape, type or size")
        return cls(rows, exponents, spreads)

    @classmethod
    def nearest(cls, matrix: np.ndarray, deviations: np.ndarray) -> Directions:
        """The directions nearest to ``matrix`` ``(count, parameters)``, parameters for a coefficient of one.

        ``deviations`` ``(count,)`` are the coefficients' standard deviations.
        """
        units = matrix * (2.0**WEIGHT_BITS / 2**QUARTER)
        room = np.log2(np.iinfo(np.int16).max / np.maximum(np.abs(units).max(1), 2.0**-LARGEST_EXPONENT))
        exponents = np.clip(np.floor(room), 0, LARGEST_EXPONENT)
        rows = np.clip(np.rint(units * 2.0 ** exponents[:, None]), -(1 << 15) + 1, (1 << 15) - 1)
        laplace = deviations * (2**QUARTER / np.sqrt(2))
        spreads = np.rint((np.log(np.maximum(laplace, 1e-9)) + SCALE_RANGE) * SCALES_PER_NAT)
        return cls(rows.astype(np.int16), exponents.astype(np.uint8), spreads.astype(np.int16))

    @classmethod
    def plain(cls, parameters: int) -> Directions:
        """Every parameter by itself, for models whose directions have not been found yet."""
        return cls.nearest(0.01 * np.eye(parameters), np.full(parameters, 5.0))

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of a model, by name."""
        return {
            "directions": self.rows,
            "exponents": self.exponents.astype(np.uint8),
            "spreads": self.spreads.astype(np.int16),
        }

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def common(self) -> int:
        """How many directions are for all images."""
        return min(COMMON, len(self))

    @cached_property
    def deviations(self) -> np.ndarray:
        """Standard deviations of the coefficients, float32."""
        laplace = np.exp(self.spreads / SCALES_PER_NAT - SCALE_RANGE)
        return (laplace * (np.sqrt(2) / 2**QUARTER)).astype(np.float32)

    @cached_property
    def matrix(self) -> np.ndarray:
        """``(count, parameters)``, float32: how parameters change when a coefficient does by its standard deviation."""
        units = self.rows * 2.0 ** (QUARTER - WEIGHT_BITS - self.exponents[:, None].astype(np.float64))
        matrix: np.ndarray = (units * self.deviations[:, None]).astype(np.float32)
        return matrix

    def differences(self, coefficients: np.ndarray, step: int) -> np.ndarray:
        """What integer coefficients of the first directions add to parameters, int64 in units of 2**-12.

        Only integers: at most 2**15 x 2**15 x 2**16 each, so that sums of 2**17 of them fit.
        """
        n = len(coefficients)
        if not n:
            return np.zeros(self.rows.shape[1], np.int64)
        exponents = self.exponents[:n]
        most = int(exponents.max())
        total = (coefficients.astype(np.int64) << (most - exponents)) @ self.rows[:n].astype(np.int64)
        shift = most + step
        return (total + ((1 << shift) >> 1)) >> shift
