"""The optimizer of a pyramid's networks."""

from __future__ import annotations

import numpy as np

from nicc.pyramid.layout import PyramidArchitecture
from nicc.pyramid.networks import Networks
from nicc.pyramid.optimizer import Momentum

ARCH = PyramidArchitecture(neighbours=4, context_hidden=4, colour_hidden=4)


def bowl(rng) -> np.ndarray:
    """The matrix of a quadratic whose directions, not along the parameters, are curved 1 to 1000."""
    basis = np.linalg.qr(rng.normal(size=(ARCH.parameters(),) * 2))[0]
    return (basis * np.geomspace(1, 1000, len(basis))) @ basis.T


def test_it_goes_down_where_parameters_hang_together():
    rng = np.random.default_rng(0)
    matrix, goal = bowl(rng), rng.normal(size=ARCH.parameters())
    networks = Networks(ARCH)
    momentum = Momentum(networks, networks.flat.copy())

    def cost() -> float:
        return float((networks.flat - goal) @ matrix @ (networks.flat - goal))

    before = cost()
    for n in range(300):
        momentum.step((matrix @ (networks.flat - goal)).astype(np.float32), 0.02 * (1 - n / 300))
    assert cost() < 0.05 * before


def test_parameters_are_pulled_to_their_start():
    rng = np.random.default_rng(1)
    start = rng.normal(size=ARCH.parameters()).astype(np.float32)
    networks = Networks(ARCH, start + np.float32(0.1))
    momentum = Momentum(networks, start)
    for _ in range(50):
        momentum.step(rng.normal(size=len(start)).astype(np.float32), 1e-3, pull=100.0)
    assert np.mean(networks.flat == start) > 0.5
