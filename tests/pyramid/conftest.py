"""A pyramid of networks at random, small enough to code in milliseconds."""

from __future__ import annotations

import numpy as np
import pytest

from nicc.arrays import digest
from nicc.pyramid.layout import PyramidArchitecture
from nicc.pyramid.model import PyramidModel

ARCH = PyramidArchitecture(8, 8, 8, rate_points=11, starts=2)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def small(rng) -> PyramidModel:
    starts = rng.normal(0, 600, (ARCH.starts, ARCH.parameters())).astype(np.int32)
    arrays = {"starts": starts}
    description = {"name": "small", "version": 1, "architecture": ARCH.to_dict()}
    return PyramidModel({**description, "decoder_sha256": digest(arrays, ARCH.to_dict())}, arrays)
