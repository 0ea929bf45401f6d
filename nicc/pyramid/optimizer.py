"""The optimizer of a pyramid's networks: Adam on the coefficients of the model's directions.

In units of their standard deviations, coefficients are what fits to many photographs had in common: Adam's steps of
equal length go as far along each as that usually takes, and neither bits nor distortion tie one to another.
"""

from __future__ import annotations

import numpy as np

from nicc.pyramid.directions import Directions

BETA1, BETA2 = 0.9, 0.93
"""Decays of the mean gradient and of squares."""
PULL = np.float32(np.sqrt(2) / np.log(2))
"""Bits that a coefficient costs per standard deviation: the Laplace distribution's."""


class Momentum:
    """Moves coefficients, pulled to zero by what they cost in a file."""

    def __init__(self, directions: Directions, coefficients: np.ndarray, parts: int = 1) -> None:
        """``coefficients`` float32, of the first directions, in standard deviations.

        They are changed by every step, one for each part of an image.
        """
        self.matrix, self.coefficients, self.pull = directions.matrix[: len(coefficients)], coefficients, PULL / parts
        self.m, self.v = np.zeros_like(coefficients), np.zeros_like(coefficients)
        self.steps = 0

    def step(self, gradient: np.ndarray, rate: float) -> None:
        """``gradient`` of all bits of a part for the parameters; ``rate`` in standard deviations."""
        self.steps += 1
        g = self.matrix @ gradient
        self.m += (1 - BETA1) * (g - self.m)
        self.v += (1 - BETA2) * (g * g - self.v)
        root = np.sqrt(self.v / (1 - BETA2**self.steps)) + 1e-8
        moved = self.coefficients - (rate / (1 - BETA1**self.steps)) * self.m / root
        self.coefficients[:] = np.sign(moved) * np.maximum(np.abs(moved) - rate * self.pull / root, 0)
