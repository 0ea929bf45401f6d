"""Symbols and networks to bytes and back, exactly."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nicc import laplace
from nicc.errors import FormatError, ModelError
from nicc.laplace import Prediction, by_class, probabilities
from nicc.pyramid import coding
from nicc.pyramid.coding import IntegerNetwork
from nicc.pyramid.directions import Directions
from nicc.pyramid.layout import GRIDS, REACH, grid_shapes, neighbour_offsets, views
from nicc.pyramid.networks import (
    UNCHANGED,
    Begin,
    Change,
    Coding,
    best_offset,
    change_bits,
    changed,
    decode_networks,
    encode_networks,
)
from nicc.pyramid.order import ABOVE, Order, decode_grids, encode_grids, predictions
from nicc.pyramid.rounding import nearest_change
from tests.pyramid.conftest import ARCH


def network(rng, scale=600):
    flat = rng.normal(0, scale, ARCH.parameters()).astype(np.int64)
    return IntegerNetwork(ARCH, views(flat, ARCH.shapes()))


def grids_of(rng, size, deviation):
    return [np.clip(rng.normal(0, deviation, s), -511, 511).astype(np.int16) for s in grid_shapes(*size)]


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (33, 47), (130, 66)], ids=str)
@pytest.mark.parametrize("deviation", [0.3, 3, 400])
def test_round_trip(size, deviation, rng):
    net, grids = network(rng), grids_of(rng, size, deviation)
    present, stream = encode_grids(net, ARCH, grids)
    for a, b in zip(decode_grids(net, ARCH, size, present, stream), grids, strict=True):
        np.testing.assert_array_equal(a, b)


def test_grids_of_zeros_cost_nothing(rng):
    grids = [np.zeros(s, np.int16) for s in grid_shapes(40, 50)]
    assert encode_grids(network(rng), ARCH, grids) == (0, b"")
    grids[3][1, 2] = 5
    present, stream = encode_grids(network(rng), ARCH, grids)
    assert present == 8
    assert len(stream) < 100


def test_neighbours_are_decoded_before():
    for count in (4, 12, 20):
        offsets = neighbour_offsets(count)
        assert len(set(offsets)) == count
        assert all(dx + 2 * dy < 0 and dy <= 0 and max(-dy, abs(dx)) <= REACH for dy, dx in offsets)


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (33, 47)], ids=str)
def test_what_a_step_sees_is_decoded_before(size):
    order = Order(ARCH, size, 255)
    steps = [order.at(step) for step in range(order.steps)]
    coded_at = np.full((ABOVE + order.steps + 3, order.width), -1)
    for step, (here, _) in enumerate(steps):
        coded_at[ABOVE + step, order.columns[here]] = step
    assert all((coded_at.reshape(-1)[seen] < step).all() for step, (_, seen) in enumerate(steps))
    assert sum(len(here) for here, _ in steps) == sum(h * w for h, w in grid_shapes(*size)) == (coded_at >= 0).sum()


def test_predictions_are_those_of_whole_numbers(rng):
    """Python's integers, one position after another, in place of matrix products of doubles."""
    flat = rng.integers(-(1 << 15), 1 << 15, ARCH.parameters())
    p = views(flat, ARCH.shapes())
    grids = grids_of(rng, (9, 11), 300)
    found = predictions(IntegerNetwork(ARCH, p), ARCH, grids, 1)
    h, w = grids[1].shape
    one = 1 << coding.WEIGHT_BITS
    limit = int(coding.HIDDEN_LIMIT)

    def at(k, y, x):
        gh, gw = grids[k].shape
        return int(grids[k][y, x]) if 0 <= y < gh and 0 <= x < gw else 0

    for y in range(h):
        for x in range(w):
            near = [at(1, y + dy, x + dx) for dy, dx in neighbour_offsets(ARCH.neighbours)]
            around = [at(2, y // 2 + i, x // 2 + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            n = ARCH.context_hidden
            base = [
                int(p["bias"][1][u]) + sum(int(c) * v for c, v in zip(p["coarse"][u], around, strict=True))
                for u in range(n + 2)
            ]
            dot = lambda weights, values: sum(int(c) * v for c, v in zip(weights, values, strict=True))  # noqa: E731
            first = [min(max(base[u] + dot(p["near"][u], near), 0), limit) for u in range(n)]
            second = [
                min(max((dot(p["middle"][u], first) + (first[u] + int(p["middle_bias"][u])) * one) // one, 0), limit)
                for u in range(n)
            ]
            out = [dot(p["out"][o], second) + (base[n + o] + dot(p["skip"][o], near)) * one for o in range(2)]
            mean = (Fraction(out[0] * laplace.OFFSETS, one * one) + Fraction(1, 2)).__floor__()
            mean = min(max(mean, -32 * laplace.SYMBOL_LIMIT), 32 * laplace.SYMBOL_LIMIT) + 16
            scale = (Fraction(out[1] * 12, one * one) + 60 + Fraction(1, 2)).__floor__()
            i = y * w + x
            expected = (mean >> 5, mean & 31, min(max(scale, 0), laplace.SCALES - 1))
            assert (found.mean[i], found.offset[i], found.scale[i]) == expected


def test_probabilities_are_laplace():
    for scale in (10, 60, 70, 100):
        for offset in (0, 16, 31):
            [(kind, p, _)] = by_class(Prediction(*(np.array([v]) for v in (0, offset, scale))))
            table, reach = probabilities(p, kind)
            b, mean = np.exp(scale / 12 - 5), (offset - 16) / 32
            edges = np.arange(-reach, reach + 2) - 0.5 - mean
            tail = 0.5 * np.exp(-np.abs(edges) / b)
            expected = np.diff(np.where(edges < 0, tail, 1 - tail))
            np.testing.assert_allclose(table[0, :-1], expected, atol=1e-6)
            assert table[0].sum() == 1
            assert table.min() >= 0


@given(data=st.binary(max_size=60), present=st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_damaged_symbols_are_refused_or_decoded(data, present):
    net = network(np.random.default_rng(1))
    try:
        grids = decode_grids(net, ARCH, (20, 30), present, data)
    except FormatError:
        return
    assert [g.shape for g in grids] == grid_shapes(20, 30)
    assert max(np.abs(g.astype(int)).max() for g in grids) <= laplace.SYMBOL_LIMIT


@pytest.mark.parametrize("step", [0, 5, 15])
def test_networks_round_trip(step, rng, directions):
    start = rng.integers(-3000, 3000, ARCH.parameters())
    coefficients = np.rint(rng.laplace(0, directions.deviations)).astype(np.int64)
    coefficients[3], coefficients[-4:] = 300, 0  # beyond what has a probability of its own; left out
    change = Change(coefficients, step, 140)
    begins = [Begin(start, directions)]
    stream = encode_networks(begins, 0, change)
    found = decode_networks(begins, stream)
    np.testing.assert_array_equal(found, changed(begins[0], change))
    assert 8 * len(stream) == pytest.approx(change_bits(directions, change) + 20, abs=40)
    assert (found != start).any() or step == 15
    assert len(encode_networks(begins, 0, UNCHANGED)) <= 4
    np.testing.assert_array_equal(decode_networks(begins, encode_networks(begins, 0, UNCHANGED)), start)


@pytest.mark.parametrize("offset", [128, 170, 190, 255])
def test_large_coefficients_are_divided(offset, rng):
    """What the finest steps of large images make of the first directions, to the limit of what can be coded."""
    directions = Directions.nearest(0.01 * np.eye(ARCH.parameters()), np.full(ARCH.parameters(), 5.0))
    coding_of = Coding.of(directions, len(directions), offset)
    limit = int(coding_of.limit[0])
    assert (limit == laplace.SYMBOL_LIMIT) == (offset == 128)
    coefficients = np.rint(rng.laplace(0, limit / 20, len(directions))).astype(np.int64)
    coefficients[:2] = limit, -limit
    change = Change(coefficients, 15, offset)
    begin = Begin(np.zeros(len(directions), np.int64), directions)
    stream = encode_networks([begin], 0, change)
    np.testing.assert_array_equal(decode_networks([begin], stream), changed(begin, change))
    assert 8 * len(stream) == pytest.approx(change_bits(directions, change) + 20, rel=0.01)


def test_no_coefficient_is_cut_short():
    """The step of a photograph of four megapixels, and a first coefficient of six deviations."""
    deviations = np.full(ARCH.parameters(), 0.05)
    deviations[0] = 5.0
    directions = Directions.nearest(0.01 * np.eye(ARCH.parameters()), deviations)
    wanted = 0.9 * deviations
    wanted[0] = 30.0
    found = nearest_change(directions, wanted, 7, 1 << 22)
    np.testing.assert_allclose(found.coefficients / 2**9, wanted, atol=2**-9)


def test_networks_say_which_family_they_are_of(rng, directions):
    others = Directions.plain(ARCH.parameters())  # of another number
    begins = [Begin(rng.integers(-9, 9, ARCH.parameters()), d) for d in (directions, others, directions)]
    for family, begin in enumerate(begins):
        change = Change(rng.integers(-9, 10, len(begin.directions)), 2, 128)
        found = decode_networks(begins, encode_networks(begins, family, change))
        np.testing.assert_array_equal(found, changed(begin, change))


def test_directions_add_up_in_whole_numbers(rng, directions):
    """Python's fractions in place of shifts, and the floating-point matrix of fits beside both."""
    coefficients, step = rng.integers(-511, 512, len(directions)), 3
    found = directions.differences(coefficients, step)
    for j in range(0, ARCH.parameters(), 17):
        exact = sum(
            Fraction(int(c) * int(r), 1 << int(e))
            for c, r, e in zip(coefficients, directions.rows[:, j], directions.exponents, strict=True)
        )
        assert found[j] == (exact / (1 << step) + Fraction(1, 2)).__floor__()
    spread = coefficients / 4 / 2**step / directions.deviations
    np.testing.assert_allclose(found / 4096, spread @ directions.matrix, atol=1e-3)


def test_the_best_offset_is_the_one_of_fewest_bits(rng, directions):
    change = Change(rng.integers(-9, 10, len(directions)), 2, 0)
    sizes = [len(encode_networks([Begin(np.zeros(0), directions)], 0, change._replace(offset=o))) for o in range(256)]
    assert sizes[best_offset(directions, change)] <= min(sizes) + 1


def test_damaged_directions_are_refused(directions):
    arrays = directions.arrays()
    for name, value in (("directions", arrays["directions"][:, 1:]), ("exponents", arrays["exponents"] + 30)):
        with pytest.raises(ModelError, match="directions"):
            Directions.of({**arrays, name: value}, ARCH.parameters())
    with pytest.raises(ModelError, match="missing"):
        Directions.of({}, ARCH.parameters())


@given(data=st.binary(max_size=80))
@settings(max_examples=80, deadline=None)
def test_damaged_networks_are_refused_or_bounded(data):
    start = np.zeros(ARCH.parameters(), np.int64)
    try:
        begin = Begin(start, Directions.plain(ARCH.parameters()))
        found = decode_networks([begin, begin, begin], data)
    except FormatError:
        return
    assert np.abs(found).max() <= coding.WEIGHT_LIMIT


def test_sums_stay_exact(rng):
    """The largest numbers that a file may have leave every sum below 2**53."""
    n, h = 20, 256
    first = laplace.SYMBOL_LIMIT * coding.WEIGHT_LIMIT * (n + 9) + coding.WEIGHT_LIMIT
    hidden = int(coding.HIDDEN_LIMIT)
    second = hidden * coding.WEIGHT_LIMIT * h + (hidden + coding.WEIGHT_LIMIT) * (1 << coding.WEIGHT_BITS)
    out = hidden * coding.WEIGHT_LIMIT * h + first * (1 << coding.WEIGHT_BITS)
    assert max(first, second, out * laplace.OFFSETS, out * laplace.SCALES_PER_NAT) < 1 << 53
    assert GRIDS == 8
