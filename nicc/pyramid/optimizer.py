"""The optimizer of a pyramid's networks: steps of Adam's length in the directions of full-matrix AdaGrad.

Adam divides every parameter's gradient by its own size, as if parameters had nothing to do with each other. These
networks are so small that the whole second moment of an array's gradient can be kept (Duchi et al. 2011, "Adaptive
subgradient methods", section 1.1; decaying, as in Shampoo and SOAP): its inverse root turns the mean gradient.
"""

from __future__ import annotations

import itertools

import numpy as np

from nicc.pyramid.layout import views
from nicc.pyramid.networks import Networks

BETA1, BETA2, MOMENT = 0.9, 0.99, 0.98
"""Decays of the mean gradient, of squares, and of the second moments of arrays."""
REFRESH = 10
"""Steps between inverse roots; the first few are computed at every step."""
DAMPING = 1e-4
"""Share of the largest eigenvalue that is added to all."""


class Momentum:
    """Moves networks' parameters, pulled to their start by about what differences cost in a file."""

    def __init__(self, networks: Networks, start: np.ndarray) -> None:
        self.networks, self.start = networks, start
        self.m, self.v = np.zeros_like(networks.flat), np.zeros_like(networks.flat)
        self.steps = 0
        shapes = networks.arch.shapes()
        ends = np.cumsum([0, *(v.size for v in views(self.m, shapes).values())])
        self.arrays = [slice(a, b) for a, b in itertools.pairwise(ends.tolist())]
        self.moments = [np.zeros((a.stop - a.start,) * 2) for a in self.arrays]
        self.roots = [m.astype(np.float32) for m in self.moments]

    def step(self, gradient: np.ndarray, rate: float, pull: float = 0.0) -> None:
        """``gradient`` of all bits of the image; ``pull`` in bits per unit of a parameter."""
        self.steps += 1
        self.m += (1 - BETA1) * (gradient - self.m)
        self.v += (1 - BETA2) * (gradient * gradient - self.v)
        root = np.sqrt(self.v / (1 - BETA2**self.steps)) + 1e-8
        change = np.empty_like(self.m)
        for n, here in enumerate(self.arrays):
            g, mean = gradient[here], self.m[here]
            self.moments[n] += (1 - MOMENT) * (np.outer(g, g) - self.moments[n])
            if self.steps % REFRESH == 1 or self.steps < 5:
                self.roots[n] = _inverse_root(self.moments[n])
            turned = self.roots[n] @ mean
            length = np.linalg.norm(mean / root[here])
            change[here] = turned * (length / max(float(np.linalg.norm(turned)), 1e-30))
        moved = self.networks.flat - rate * change / (1 - BETA1**self.steps) - self.start
        if pull:
            moved = np.sign(moved) * np.maximum(np.abs(moved) - rate * pull / root, 0)
        self.networks.flat[:] = self.start + moved


def _inverse_root(moment: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(moment)
    damped = np.maximum(values, 0) + max(DAMPING * float(values[-1]), 1e-30)
    root: np.ndarray = (vectors / np.sqrt(damped)) @ vectors.T
    return root.astype(np.float32)
