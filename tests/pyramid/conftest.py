"""A pyramid of networks at random, small enough to code in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from nicc.arrays import digest
from nicc.pyramid.directions import Directions
from nicc.pyramid.layout import PyramidArchitecture
from nicc.pyramid.model import Family, PyramidModel

ARCH = PyramidArchitecture(8, 8, 8, rate_points=11, starts=2)


@pytest.fixture(scope="module", autouse=True)
def fits_alone() -> Iterator[None]:
    """Small images are always fitted files, however few the steps: no trained model competes with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nicc.encoder.fitting.SMALL", 0)
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def directions(rng) -> Directions:
    """Directions at random, the later ones shorter."""
    matrix = 0.01 * rng.normal(size=(40, ARCH.parameters()))
    return Directions.nearest(matrix, np.geomspace(10, 0.1, len(matrix)))


@pytest.fixture
def small(rng, directions) -> PyramidModel:
    starts = rng.normal(0, 600, (ARCH.starts, ARCH.parameters())).astype(np.int32)
    arrays = Family(starts, directions).arrays(0)
    description = {"name": "small", "version": 1, "architecture": ARCH.to_dict()}
    return PyramidModel({**description, "decoder_sha256": digest(arrays, ARCH.to_dict())}, arrays)
