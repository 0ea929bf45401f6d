from __future__ import annotations

import itertools

import numpy as np
import pytest

from nicc import FormatError
from nicc.entropy import RowCoder, SymbolReader, SymbolWriter, Table


@pytest.fixture(scope="module")
def coder() -> RowCoder:
    from nicc.model import load_model

    return load_model("two-layer").row_coders[3]


def test_frequencies_of_shipped_models_are_complete(model):
    sizes = model.arrays["y_sizes"].astype(int)
    assert sizes[0] == 0
    ends = np.cumsum(sizes)
    for begin, end in itertools.pairwise(ends):
        row = model.arrays["y_frequencies"][begin:end].astype(int)
        assert row.sum() == 1 << 16
        assert row.min() >= 1
        for group in model.arrays["y_group_frequencies"].astype(int):
            if end <= len(group):
                assert group[begin:end].sum() == 1 << 16
                assert group[begin:end].min() >= 1


@pytest.mark.parametrize("seed", range(10))
def test_rows_round_trip(coder, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 64, (int(rng.integers(1, 60)), int(rng.integers(1, 60)))).astype(np.uint8)
    sigma = 0.11 * np.exp(rows / 63 * np.log(256 / 0.11))
    symbols = np.rint(rng.standard_t(1.5, rows.shape) * sigma).clip(-32767, 32767).astype(np.int32)
    symbols[rows == 0] = 0
    writer = SymbolWriter()
    coder.write(writer, symbols, rows)
    coder.write(writer, symbols[:1], rows[:1])
    reader = SymbolReader(writer.finish())
    assert (coder.read(reader, rows) == symbols).all()
    assert (coder.read(reader, rows[:1]) == symbols[:1]).all()


def test_row_zero_costs_nothing(coder):
    writer = SymbolWriter()
    rows = np.zeros((50, 50), np.uint8)
    coder.write(writer, np.zeros((50, 50), np.int32), rows)
    assert writer.finish() == b""
    assert not coder.read(SymbolReader(b""), rows).any()


def test_extreme_symbols_escape(coder):
    symbols = np.array([[-32767, 32767, 0, 1]], np.int32)
    rows = np.array([[1, 63, 5, 1]], np.uint8)
    writer = SymbolWriter()
    coder.write(writer, symbols, rows)
    assert (coder.read(SymbolReader(writer.finish()), rows) == symbols).all()


def test_the_code_length_is_the_entropy():
    rng = np.random.default_rng(0)
    frequencies = np.array([500, 60000, 5000, 36])  # of -1, 0 and 1, and of the escape
    table = Table(frequencies)
    symbols = rng.choice(3, 20000, p=frequencies[:3] / frequencies[:3].sum()).astype(np.int32) - 1
    writer = SymbolWriter()
    writer.write(symbols, table)
    ideal = -np.log2(frequencies[symbols + 1] / 65536).sum() / 8
    assert ideal - 1 <= len(writer.finish()) <= ideal * 1.001 + 8


def test_garbage_gives_symbols_or_a_format_error(coder):
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 64, (30, 30)).astype(np.uint8)
    outcomes = set()
    for _ in range(50):
        try:
            outcomes.add(coder.read(SymbolReader(rng.bytes(60)), rows).shape)
        except FormatError:
            outcomes.add("refused")
    with pytest.raises(FormatError):
        coder.read(SymbolReader(b"\xff" * 400), rows)
    assert outcomes <= {(30, 30), "refused"}
