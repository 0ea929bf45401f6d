"""A short run of the fuzz target, and the inputs that once crashed it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import GOLDEN
from tests.hostile.fuzz import examine, fuzz, seeds

CRASHES = sorted((Path(__file__).parent / "crashes").glob("*.nic"))
SEED = (GOLDEN / "two-layer-astronaut-1x1-q32.nic").read_bytes()


def test_mutated_files():
    outcomes = fuzz(800, None, seed=0)
    assert outcomes.total() == 800
    assert min(outcomes[k] for k in ("refused by the container", "refused by the decoder", "decoded")) > 20


def test_the_seeds_decode():
    assert {examine(data) for data in seeds()} == {"decoded"}


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
def test_hypothesis_finds_nothing(data):
    """Splices: a piece of a small file exchanged for any bytes."""
    begin = data.draw(st.integers(0, len(SEED)))
    end = data.draw(st.integers(begin, len(SEED)))
    examine(SEED[:begin] + data.draw(st.binary(max_size=40)) + SEED[end:])


@pytest.mark.parametrize("path", CRASHES, ids=lambda p: p.name)
def test_what_once_crashed(path):
    assert examine(path.read_bytes())
