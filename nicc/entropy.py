"""Coding of integer symbols with tables of integer frequencies.

Symbols are coded in runs that share a table, by constriction's range coder. Only integers decide
what is coded and how, so a stream means the same on every machine. A table gives each symbol of
-m to m its frequency; its last entry stands for all others, whose values follow as 16 plain bits.
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np

from nicc.errors import FormatError

models, queue = constriction.stream.model, constriction.stream.queue

FREQUENCY_BITS = 16
SYMBOL_LIMIT = 32767


class Table:
    """Frequencies of the symbols -m to m, m the ``limit``, and of the escape, which sum to 2**16."""

    def __init__(self, frequencies: np.ndarray) -> None:
        self.limit = len(frequencies) // 2 - 1
        self.model = models.Categorical(frequencies.astype(np.float64) / (1 << FREQUENCY_BITS), perfect=False)


_RAW = models.Uniform(2 * SYMBOL_LIMIT + 2)


def stream_of(coder: Any) -> bytes:
    """What a range coder wrote, in little-endian 32-bit words, zero bytes at its end left out."""
    stream: bytes = coder.get_compressed().astype("<u4").tobytes()
    return stream.rstrip(b"\0")


def decoder_of(stream: bytes) -> Any:
    """A range coder that reads a `stream_of`."""
    return queue.RangeDecoder(np.frombuffer(stream + bytes(-len(stream) % 4), "<u4").astype(np.uint32))


class SymbolWriter:
    """Writes runs of symbols; `finish` returns the stream."""

    def __init__(self) -> None:
        self._coder = queue.RangeEncoder()

    def write(self, symbols: np.ndarray, table: Table) -> None:
        """Appends symbols, any integers within +-32767."""
        outside = np.abs(symbols) > table.limit
        index = np.where(outside, table.limit + 1, symbols) + table.limit
        self._coder.encode(index.astype(np.int32), table.model)
        if outside.any():
            self._coder.encode((symbols[outside] + SYMBOL_LIMIT).astype(np.int32), _RAW)

    def finish(self) -> bytes:
        """The stream in little-endian 32-bit words, zero bytes at its end left out."""
        return stream_of(self._coder)


class SymbolReader:
    """Reads back what a `SymbolWriter` wrote, asked for the same runs in the same order."""

    def __init__(self, stream: bytes) -> None:
        self._coder = decoder_of(stream)

    def read_entries(self, count: int, table: Table) -> np.ndarray:
        """The next ``count`` symbols, one at least, plus the table's limit, int32.

        Raises `FormatError` if the stream cannot hold them.
        """
        entries: np.ndarray
        try:
            entries = self._coder.decode(table.model, count)
            last = 2 * table.limit
            if np.maximum.reduce(entries) > last:
                outside = np.flatnonzero(entries > last)
                entries[outside] = self._coder.decode(_RAW, len(outside)) - (SYMBOL_LIMIT - table.limit)
        except AssertionError:
            raise FormatError("damaged: the coded symbols are not valid") from None
        return entries


class RowCoder:
    """The tables of the 64 CDF rows. Row 0 says that a symbol is zero and costs nothing."""

    def __init__(self, tables: list[Table | None]) -> None:
        self.tables = tables

    def write(self, writer: SymbolWriter, symbols: np.ndarray, rows: np.ndarray) -> None:
        """Codes ``symbols`` under ``rows`` (uint8), equal shapes; symbols of row 0 must be zero."""
        order, runs = _runs(rows)
        ordered = symbols.reshape(-1)[order]
        for row, begin, end in runs:
            writer.write(ordered[begin:end], self.tables[row])  # type: ignore[arg-type]

    def read(self, reader: SymbolReader, rows: np.ndarray) -> np.ndarray:
        """The symbols, int32, of the shape of ``rows``."""
        order, runs = _runs(rows)
        out = np.zeros(rows.size, np.int32)
        if runs:
            counts = [end - begin for _, begin, end in runs]
            tables: list[Table] = [self.tables[row] for row, _, _ in runs]  # type: ignore[misc]
            entries = [reader.read_entries(n, table) for n, table in zip(counts, tables, strict=True)]
            out[order] = np.concatenate(entries) - np.repeat([table.limit for table in tables], counts)
        return out.reshape(rows.shape)


def tables_of(frequencies: np.ndarray, sizes: np.ndarray) -> list[Table | None]:
    """The tables of CDF rows.

    ``frequencies`` are uint16, one row after another, ``sizes`` the entries of each row, row 0 none.
    Row r covers -(sizes[r] - 2) / 2 .. +(sizes[r] - 2) / 2 and the escape.
    """
    ends = np.cumsum(sizes)
    return [
        Table(frequencies[end - size : end]) if size else None
        for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)
    ]


def _runs(rows: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Positions of the coded symbols ordered by row, and (row, begin, end) of each run of them."""
    flat = rows.reshape(-1)
    coded = np.flatnonzero(flat > 0)
    values = flat[coded]
    order = coded[np.argsort(values, kind="stable")]
    counts = np.bincount(values, minlength=1)
    ends = np.cumsum(counts)
    return order, [(row, ends[row] - n, ends[row]) for row, n in enumerate(counts.tolist()) if n]
