"""The optimizer of a pyramid's networks."""

from __future__ import annotations

import numpy as np

from nicc.pyramid.directions import COMMON, Directions
from nicc.pyramid.optimizer import Momentum


def test_it_goes_down_where_parameters_hang_together():
    """A quadratic whose axes, not along the parameters, are curved 1 to 1000: its directions make it round."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(200, 200)))[0]
    curved = np.geomspace(1, 1000, 200)
    matrix = (axes * curved) @ axes.T
    directions = Directions.nearest((axes / np.sqrt(curved)).T, np.ones(200))
    goal = rng.normal(size=200) @ (axes / np.sqrt(curved)).T
    coefficients = np.zeros(200, np.float32)
    momentum = Momentum(directions, coefficients)
    costs = []
    for n in range(60):
        parameters = coefficients @ directions.matrix
        costs.append(float((parameters - goal) @ matrix @ (parameters - goal)))
        momentum.step(1000 * (matrix @ (parameters - goal)).astype(np.float32), 0.3 * (1 - n / 60))
    assert costs[-1] < 0.01 * costs[0]


def test_coefficients_are_pulled_to_zero():
    rng = np.random.default_rng(1)
    coefficients = np.full(30, 0.1, np.float32)
    momentum = Momentum(Directions.plain(30), coefficients)
    for _ in range(50):
        momentum.step(rng.normal(size=30).astype(np.float32), 0.01)
    assert np.mean(coefficients == 0) > 0.5


def test_directions_that_are_not_for_all_images_rest():
    directions = Directions.plain(COMMON + 10)
    moved = []
    for used in (directions.common, COMMON + 4):
        coefficients = np.zeros(len(directions), np.float32)
        Momentum(directions, coefficients[:used]).step(np.full(COMMON + 10, 1e6, np.float32), 0.01)
        assert coefficients[:COMMON].all()
        moved.append(int(np.count_nonzero(coefficients)))
    assert moved == [COMMON, COMMON + 4]
