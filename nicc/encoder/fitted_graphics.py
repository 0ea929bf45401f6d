"""Which cells of a page are stored losslessly beside a fit: those that take the fit more than a lossless image."""

from __future__ import annotations

import numpy as np

from nicc import laplace
from nicc.encoder import mixed
from nicc.graphics import CELL
from nicc.pyramid.coding import IntegerNetwork
from nicc.pyramid.fit import Fit
from nicc.pyramid.layout import views
from nicc.pyramid.order import predictions
from nicc.pyramid.strip import Strip
from nicc.threads import one_blas_thread

TRIED = 0.1
"""Steps of the short fit that tells what cells cost, as a share of those of the fit to come."""
LEAST_TRIED = 100
GAIN = 0.2
"""Costs of graphics in fits fall with their steps to the power of about -0.2: the short fit's are too high."""


def steps_tried(steps: int) -> int:
    """Of the short fit before one of ``steps``."""
    return min(max(round(TRIED * steps), LEAST_TRIED), steps)


def cells_to_store(fit: Fit, page: mixed.Page, share: float) -> np.ndarray:
    """Cells ``(rows, columns)``, bool; ``fit`` is of ``share`` of the steps to come."""
    coded = share**GAIN * np.concatenate([cell_costs(fit, strip) for strip in fit.strips])
    return page.cheapest(coded)


@one_blas_thread()
def cell_costs(fit: Fit, strip: Strip) -> np.ndarray:
    """Bits of rounded latents + weight * squared error in every cell ``(rows, columns)`` of a strip."""
    arch = fit.networks.arch
    network = IntegerNetwork(arch, views(fit.networks.integers(), arch.shapes()))
    rounded = np.rint(strip.y)
    decoded = np.clip(strip.synthesise(fit.networks, rounded), -0.5, 0.5)
    costs = fit.weight * mixed.cell_sums(np.square(255 * (decoded - strip.target)).mean(0)).astype(np.float64)
    grids = [grid.astype(np.int16) for grid in strip.grids(rounded)]
    for k, grid in enumerate(grids):
        rows, columns = ((np.arange(n) << k) // CELL for n in grid.shape)
        bits = laplace.bits_of(grid.reshape(-1), predictions(network, arch, grids, k)).reshape(grid.shape)
        np.add.at(costs, (rows[:, None], columns), bits)
    return costs
