"""What people see, as a pyramid's distortion: SSIMULACRA 2 beside weighed squared errors, without PyTorch.

`nicc.encoder.visual` is the same for the other models. The original is converted and blurred once.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from nicc.images import LUMA
from nicc.pyramid.kernels import halving
from nicc.pyramid.kernels import visual as kernels
from nicc.pyramid.strip import SquaredError
from nicc.ssimulacra2 import (
    ENCODING_SHARE,
    MIDDLE_WEIGHT,
    MSE_PER_RAW,
    SUM_SCALE,
    TINY,
    encoding_distortion,
    scales_of,
    weights_of,
)

F = np.float32


class Memory:
    """What a decoded image of one size is compared in."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """``shape`` ``(3, h, w)``."""
        self.linear, self.y, self.grad = (np.empty(shape, F) for _ in range(3))
        self.means, self.across = np.empty((3, *shape), F), np.empty((3, *shape), F)


class Scale:
    """An image at one scale: the original's colours and blurs."""

    def __init__(self, linear: np.ndarray, memory: Memory) -> None:
        self.linear, self.y, self.grad = memory.linear, memory.y, memory.grad
        self.means, self.across = memory.means, memory.across
        self.x = np.empty_like(linear)
        kernels.opponent(linear, self.x)
        self._blur(self.x)
        self.mean_x = self.means[0].copy()
        self.variance_x = self.means[1] - self.mean_x**2

    def _blur(self, y: np.ndarray) -> None:
        kernels.products_across(self.x, y, self.across)
        kernels.down(self.across, self.means)

    def difference(self, weights: np.ndarray) -> float:
        """The part of the weighted sum that ``linear``, a decoded image, has; its gradient for the XYB to ``grad``.

        ``weights`` ``(3 colours, 2 norms, 3 maps)``.
        """
        pixels = self.x[0].size
        kernels.opponent(self.linear, self.y)
        self._blur(self.y)
        rows = np.empty((3, 2, 3, self.x.shape[1]), F)
        known = (self.x, self.y, self.mean_x, self.variance_x, self.means)
        kernels.sums(*known, rows)
        means, fourth = np.moveaxis(rows.sum(3, dtype=np.float64) / pixels, 1, 0)
        fourth += TINY
        factors = np.stack([weights[:, 0], weights[:, 1] * fourth**-0.75], 1) / pixels
        kernels.maps_back(*known, factors.astype(F), self.grad)
        kernels.down(self.means, self.across)
        kernels.products_back(self.x, self.y, self.across, self.grad)
        return float((weights[:, 0] * means + weights[:, 1] * fourth**0.25).sum())


def _blurred(plane: np.ndarray) -> np.ndarray:
    across, down = np.empty_like(plane), np.empty_like(plane)
    kernels.across(plane, across)
    kernels.down(across[None, None], down[None, None])
    return down


class VisualDistortion:
    """Of an original ``(3, h, w)`` around -0.5..0.5: see `nicc.pyramid.strip.Distortion`."""

    def __init__(self, original: np.ndarray, memory: dict[tuple[int, ...], Memory]) -> None:
        """``memory`` by size: strips of an image share it."""
        self.original, self.squared_error = original, SquaredError(original)
        _, height, width = original.shape
        scales = scales_of(height, width)
        self.weights = weights_of(scales) * SUM_SCALE
        self.slope = np.empty_like(original)
        linear = np.empty_like(original)
        kernels.linear_light(original, linear, self.slope)
        self.scales = []
        for _ in range(scales):
            if linear.shape not in memory:
                memory[linear.shape] = Memory(linear.shape)
            self.scales.append(Scale(linear, memory[linear.shape]))
            finer, linear = linear, np.empty((3, *(-(-n // 2) for n in linear.shape[1:])), F)
            halving.halve(finer, linear)

    def raw_difference(self, decoded: np.ndarray) -> tuple[float, np.ndarray]:
        """SSIMULACRA 2's weighted sum before its polynomial, 0 for equal images, and its gradient."""
        if not self.scales:
            return 0.0, np.zeros_like(decoded)
        kernels.linear_light(decoded, self.scales[0].linear, self.slope)
        pairs = list(pairwise(self.scales))
        for fine, coarse in pairs:
            halving.halve(fine.linear, coarse.linear)
        total = 0.0
        for i, scale in enumerate(self.scales):
            total += scale.difference(self.weights[:, i])
            kernels.opponent_back(scale.y, scale.grad, scale.linear)  # from here on the gradient for linear light
        for fine, coarse in reversed(pairs):
            halving.halve_back(coarse.linear, fine.linear)
        return total, self.scales[0].linear * self.slope

    def middle_error(self, decoded: np.ndarray) -> tuple[float, np.ndarray]:
        """The squared error of luma of middle frequencies, summed over pixels, and its gradient."""
        by_colour = np.array(LUMA, F) * F(255)
        error = np.einsum("c,chw->hw", by_colour, decoded - self.original)
        blurred = _blurred(error)
        error -= blurred
        return float(np.vdot(blurred, error)), np.multiply.outer(2 * by_colour, _blurred(error))

    def __call__(self, decoded: np.ndarray) -> tuple[float, np.ndarray]:
        pixels = decoded[0].size
        raw, gradient = self.raw_difference(decoded)
        squares, into_squares = self.squared_error(decoded)
        middle, into_middle = self.middle_error(decoded)
        gradient *= F(ENCODING_SHARE * MSE_PER_RAW * pixels)
        gradient += F(1 - ENCODING_SHARE) * (into_squares + F(MIDDLE_WEIGHT) * into_middle)
        return encoding_distortion(squares, middle, raw * pixels), gradient
