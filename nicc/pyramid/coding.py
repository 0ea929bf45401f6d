"""The integer network that chooses the distribution of each of a pyramid's symbols (see docs/pyramid.md).

All sums are of integers below 2**53 in magnitude, so float64 computes them exactly on every machine, in any order.
The order of symbols is that of `nicc.pyramid.order`.
"""

from __future__ import annotations

import numpy as np

from nicc.laplace import OFFSET_BITS, OFFSETS, SCALE_RANGE, SCALES, SCALES_PER_NAT, SYMBOL_LIMIT, Prediction
from nicc.pyramid.layout import PyramidArchitecture

WEIGHT_BITS = 12
"""Fractional bits of the networks' parameters."""
WEIGHT_LIMIT = (1 << 16) - 1
"""Parameters, as integers, lie within this: with hidden units at most `HIDDEN_LIMIT`, sums stay below 2**53."""
HIDDEN_LIMIT = float(1 << 21)
ONE = float(1 << WEIGHT_BITS)
UNITS = np.array([OFFSETS / ONE, SCALES_PER_NAT / ONE])
"""Offsets of the mean, and numbers of scales, in the network's two outputs: mean, logarithm of the scale."""
ZEROS = np.array([OFFSETS // 2 + 0.5, SCALE_RANGE * SCALES_PER_NAT + 0.5])
"""Added to them before the floor: offsets begin at -1/2, scales at exp(-5)."""
LEAST = np.array([OFFSETS // 2 - OFFSETS * SYMBOL_LIMIT, 0.0])
MOST = np.array([OFFSETS // 2 + OFFSETS * SYMBOL_LIMIT, SCALES - 1.0])


class IntegerNetwork:
    """The context network in integers; ``params`` are the networks' arrays, in units of 2**-12."""

    def __init__(self, arch: PyramidArchitecture, params: dict[str, np.ndarray]) -> None:
        self.hidden = arch.context_hidden
        f8 = {k: v.astype(np.float64) for k, v in params.items()}
        first = np.concatenate([np.concatenate([f8["near"], f8["skip"]]), f8["coarse"]], 1)
        self.first, self.bias = np.ascontiguousarray(first.T), f8["bias"]
        # scaled by a power of two, sums stay exact; the identity is the connection past the middle layer
        self.middle = np.ascontiguousarray(f8["middle"].T) / ONE + np.eye(self.hidden)
        self.middle_bias = f8["middle_bias"]
        self.out = np.ascontiguousarray(f8["out"].T) / ONE

    def __call__(self, around: np.ndarray, bias: np.ndarray) -> Prediction:
        """``around`` ``(n, neighbours + 9)``: decoded symbols of the grid, then the coarser grid's 3x3; float64.

        ``bias`` ``(n or 1, hidden + 2)`` is that of the positions' grids.
        """
        first = around @ self.first
        first += bias
        one = np.maximum(first[:, : self.hidden], 0.0)
        np.minimum(one, HIDDEN_LIMIT, out=one)
        two = one @ self.middle
        two += self.middle_bias
        np.floor(two, out=two)
        np.maximum(two, 0.0, out=two)
        np.minimum(two, HIDDEN_LIMIT, out=two)
        out = two @ self.out
        out += first[:, self.hidden :]
        out *= UNITS
        out += ZEROS
        np.floor(out, out=out)
        np.maximum(out, LEAST, out=out)
        np.minimum(out, MOST, out=out)
        mean, scale = out.astype(np.int64).T
        return Prediction(mean >> OFFSET_BITS, mean & (OFFSETS - 1), scale)
