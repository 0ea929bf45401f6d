"""Hyper-latents: order, distributions, and their stream."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from nicc import FormatError
from nicc.container import Header
from nicc.decoder.hyper import dequantise_z, neighbours, read_z, walk_z, with_borders
from nicc.encoder.quantise import quantise_z, write_z
from nicc.encoder.transform import transform_of
from nicc.geometry import HYPER_KINDS, HYPER_REACH, HYPER_STEPS, Grid
from nicc.model import load_model


@pytest.fixture
def rng():
    return np.random.default_rng(3)


SIZES = [(1, 1), (1, 7), (6, 1), (5, 3), (8, 12), (17, 13)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_position_is_visited_once_and_after_its_neighbours(size):
    visited = np.zeros((*size, 1), int)
    for step in HYPER_STEPS:
        inside = neighbours(with_borders(np.ones_like(visited)), step)
        np.testing.assert_array_equal(neighbours(with_borders(visited), step), inside)
        visited[step.at] += 1
    assert (visited == 1).all()
    assert {step.kind for step in HYPER_STEPS} == set(range(HYPER_KINDS))
    assert max(abs(n) for step in HYPER_STEPS for pair in step.neighbours for n in pair) == HYPER_REACH


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_distributions_are_those_of_whole_numbers(model, size, rng):
    """One position after another, by fractions."""
    point = model.architecture.rate_points // 3
    z = rng.integers(-30, 31, (*size, model.architecture.hyper_channels))
    a = {name: model.arrays[f"z_{name}"].astype(int) for name in ("means", "weights", "steps", "scales")}
    nats = dequantise_z(model, point, z)
    seen = 0

    def visit(p, step, coded):
        assert coded.all()
        nonlocal seen
        found = iter(zip(p.mean.tolist(), p.offset.tolist(), p.scale.tolist(), strict=True))
        for i in range(step.row, size[0], step.stride):
            for j in range(step.column, size[1], step.stride):
                around = [(i + di, j + dj) for di, dj in step.neighbours]
                around = [(r, c) for r, c in around if 0 <= r < size[0] and 0 <= c < size[1]]
                for channel in range(nats.shape[2]):
                    mean, weight = int(a["means"][channel]), int(a["weights"][step.kind, channel])
                    if around:
                        total = sum(int(nats[r, c, channel]) - mean for r, c in around)
                        mean += floor(Fraction(weight * total, 256 * len(around)) + Fraction(1, 2))
                    place = floor(Fraction(32 * mean, int(a["steps"][point, channel])) + Fraction(1, 2)) + 16
                    expected = place // 32, place % 32, a["scales"][point, step.kind, channel]
                    assert next(found) == expected
                    seen += 1
        return z[step.at].reshape(-1)

    np.testing.assert_array_equal(walk_z(model, point, *size, visit), z)
    assert seen == z.size


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("deviation", [0.3, 3, 90])
def test_round_trip(model, size, deviation, rng):
    point = model.architecture.rate_points - 1
    z = rng.normal(0, deviation, (*size, model.architecture.hyper_channels)).round().clip(-127, 127).astype(np.int16)
    stream, symbols, _ = write_z(model, point, z)
    np.testing.assert_array_equal(symbols, z)
    header = Header(model.code, model.fingerprint, 64 * size[1], 64 * size[0], point)
    np.testing.assert_array_equal(read_z(model, header, stream, Grid.of(header)), z)


def test_garbage_gives_symbols_or_a_format_error(model, rng):
    header = Header(model.code, model.fingerprint, 640, 640, 3)
    outcomes = set()
    for _ in range(50):
        try:
            outcomes.add(read_z(model, header, rng.bytes(60), Grid.of(header)).shape)
        except FormatError:
            outcomes.add("refused")
    assert outcomes <= {(10, 10, 32), "refused"}


@pytest.mark.parametrize("share", [0.1, 0.5, 1])
def test_bits_are_those_of_the_stream(model, astronaut, share):
    point = round(share * (model.architecture.rate_points - 1))
    z = quantise_z(model, point, transform_of(model)(np.asarray(astronaut)).z)
    coded = write_z(model, point, z)
    assert 8 * len(coded.stream) == pytest.approx(coded.bits, rel=0.01, abs=40)


def test_what_is_alike_costs_less(rng):
    model = load_model("two-layer-visual")
    smooth = np.repeat(np.repeat(rng.integers(-4, 5, (2, 3, 32)), 4, 0), 4, 1)
    mixed = rng.permutation(smooth.reshape(-1, 32)).reshape(smooth.shape)
    assert write_z(model, 40, smooth).bits < 0.8 * write_z(model, 40, mixed).bits
