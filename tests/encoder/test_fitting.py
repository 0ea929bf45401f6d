"""The search for a target by fits, whose results are noisy."""

from __future__ import annotations

import numpy as np
import pytest

from nicc.encoder.fitting import Search


def tries(lacking, first=40.0, slope=0.1, count=8):
    search, point = Search(-25.0, 100.0, slope), first
    for _ in range(count):
        yield point
        point = search.next(point, lacking(point))


@pytest.mark.parametrize("zero", [-20.0, 3.0, 41.0, 99.0])
def test_a_straight_line_is_found_at_once(zero):
    assert list(tries(lambda p: 0.2 * (zero - p)))[3] == pytest.approx(zero, abs=1)


def test_what_cannot_be_reached_ends_at_the_end():
    assert list(tries(lambda p: 50 - p / 10))[-1] == 100
    assert list(tries(lambda p: -50 - p / 10))[-1] == -25


def test_noise_does_not_lead_away():
    """Once one point lacks and another exceeds, all others lie between them."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        low, high = -np.inf, np.inf

        def lacking(point):
            return 0.2 * (30 - point) + rng.normal(0, 1.5)

        search, point = Search(-25.0, 100.0, 0.1), 40.0
        for _ in range(8):
            assert low >= high or low <= point <= high
            miss = lacking(point)
            low, high = (max(low, point), high) if miss > 0 else (low, min(high, point))
            point = search.next(point, miss)
        assert abs(point - 30) < 25
