"""From hyper-latent symbols to latents, step by step, for the receiver and the sender alike.

A group of latent rows is decoded in steps: groups of channels, each in one to four phases of positions.
Before every step the CDF rows (integers) and means (floats) of its symbols are
computed from what is known; ``visit`` then returns the symbols: the receiver decodes them, the
sender quantises and writes them. Both run this same code, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from nicc.architecture import (
    CDF_ROWS,
    HYPER_LIMIT,
    HYPER_UNIT,
    LATENTS_PER_HYPER,
    MAGNITUDE_UNIT,
    PHASES,
    QUADS,
    RECON_CLASSES,
    ROW_BITS,
    ROW_HIDDEN,
)
from nicc.container import Header
from nicc.decoder import networks, ops
from nicc.entropy import SymbolReader, SymbolWriter
from nicc.errors import FormatError
from nicc.model import Model
from nicc.threads import one_blas_thread

Array = np.ndarray
GROUP_ROWS = 64
"""Latent rows that are coded together, independently of the others (1024 rows of pixels)."""

ROWS_AT_ONCE = 16

Visit = Callable[[Array, Array, slice, Array], Array]
"""(rows uint8, means float32, channels, positions) to symbols; both arrays ``(positions, channels)``."""

_MAGNITUDES = np.round(np.log2(1 + np.arange(16)) * MAGNITUDE_UNIT).astype(np.uint8)
"""Of symbols 0 to 15 and above, at most 16, so that the sum over four neighbours fits as well."""


class Grid(NamedTuple):
    """Sizes of the latents and hyper-latents of an image."""

    h: int
    w: int
    zh: int
    zw: int

    @classmethod
    def of(cls, header: Header) -> Grid:
        h, w = -(-header.height // 16), -(-header.width // 16)
        return cls(h, w, -(-h // LATENTS_PER_HYPER), -(-w // LATENTS_PER_HYPER))

    def row_groups(self) -> Iterator[tuple[int, int]]:
        """First and last + 1 latent row of every independently coded group."""
        for first in range(0, self.h, GROUP_ROWS):
            yield first, min(first + GROUP_ROWS, self.h)


def read_z(model: Model, header: Header, stream: bytes, grid: Grid) -> Array:
    """Hyper-latent symbols, int16 ``(zh, zw, Cz)``."""
    reader = SymbolReader(stream)
    runs = [reader.read(grid.zh * grid.zw, t) for t in model.z_tables(header.rate_point)]
    return np.stack(runs, -1).astype(np.int16).reshape(grid.zh, grid.zw, -1)


def write_z(model: Model, rate_point: int, z: Array) -> bytes:
    """Codes hyper-latent symbols; they must lie within `Model.z_tables`."""
    writer = SymbolWriter()
    for channel, table in enumerate(model.z_tables(rate_point)):
        writer.write(z[..., channel].reshape(-1).astype(np.int32), table)
    return writer.finish()


def dequantise_z(model: Model, rate_point: int, z: Array) -> Array:
    """Hyper-latents as integers in units of 1/64 nat."""
    steps = model.arrays["z_steps"][rate_point].astype(np.int32)
    return np.clip(z.astype(np.int32) * steps, -HYPER_LIMIT, HYPER_LIMIT)


def upsample(z: Array, first: int, last: int, w: int) -> Array:
    """Bilinear interpolation in integers of ``(zh, zw, C)`` to latent rows first..last, ``w`` columns."""
    h0, h1 = first // LATENTS_PER_HYPER, -(-last // LATENTS_PER_HYPER)
    rows = z[np.clip(np.arange(h0 - 1, h1 + 1), 0, len(z) - 1)]
    rows = _double_twice(rows)[first - h0 * LATENTS_PER_HYPER :][: last - first]
    columns = np.pad(rows, ((0, 0), (1, 1), (0, 0)), "edge").swapaxes(0, 1)
    fine = _double_twice(columns).swapaxes(0, 1)[:, :w]
    return (fine + 32) >> 6


def _double_twice(z: Array) -> Array:
    """``(n + 2, ...)`` to ``(4 n, ...)``: linear interpolation by four along the first axis, times 8."""
    a, b, c = z[:-2], z[1:-1], z[2:]
    fine = np.stack([3 * a + 5 * b, a + 7 * b, 7 * b + c, 5 * b + 3 * c], 1)
    return fine.reshape(-1, *z.shape[1:])


@lru_cache(maxsize=8)
def _lattices(h: int, w: int) -> list[Array]:
    """Positions of every quad, in row-major order."""
    position = np.arange(h * w).reshape(h, w)
    return [position[i::2, j::2].reshape(-1) for i, j in QUADS]


@one_blas_thread()
def walk(model: Model, rate_point: int, z: Array, first: int, last: int, w: int, visit: Visit) -> tuple[Array, Array]:
    """Visits every symbol of latent rows ``first``..``last``; returns symbols and latents.

    ``z`` are the dequantised hyper-latents of the whole image. Symbols are int16 and latents
    float32, both ``(last - first, w, C)``.
    """
    arch, p = model.architecture, model.params
    exact = model.exact_dtype
    h, c = last - first, arch.latent_channels
    n = h * w
    lattices = _lattices(h, w)
    order = np.concatenate(lattices)  # what follows is kept in this order, so that a phase is a slice
    ends = np.cumsum([0, *map(len, lattices)])
    fine = upsample(z, first, last, w)
    z_float = fine.reshape(n, -1)[order].astype(np.float32) / HYPER_UNIT
    gain, inverse, deviation = p["gain"][rate_point], p["inverse"][rate_point], p["deviation"]
    scale = gain * deviation
    offsets = p["recon_offset"]
    symbols = np.empty((n, c), np.int16)
    y_hat = np.empty((n, c), np.float32)
    magnitudes = np.zeros((h, w, arch.groups[-2]), np.uint8)
    margin = max(map(arch.mean_reach, range(arch.context_groups)))
    known = np.zeros((h + 2 * margin, w + 2 * margin, arch.context_channels), np.float32)
    inner = known[margin : margin + h, margin : margin + w]
    later = np.empty((n, 0), np.float32)

    for group in range(arch.group_count):
        low, high = arch.groups[group], arch.groups[group + 1]
        channels = slice(low, high)
        hidden_units = slice(group * ROW_HIDDEN, (group + 1) * ROW_HIDDEN)
        row_features = partial(networks.row_features, ops, arch, p, group)
        features = _by_rows(row_features, exact, fine, magnitudes[..., :low])[order]
        base = networks.mean_from_hyper(p, z_float, channels)
        own = np.zeros((n, high - low), np.uint8)
        context = group < arch.context_groups
        if group == arch.context_groups:
            later = _by_rows(partial(networks.later_means, ops, p), np.float32, inner)
        # one phase is coded in two halves, since what its symbols take is large
        for phase, quads in enumerate(PHASES[max(2, arch.phases[group])]):
            here = slice(ends[quads[0]], ends[quads[-1] + 1])
            at = order[here]
            if not len(at):
                continue
            neighbours = None
            step = phase if arch.phases[group] > 1 else 0
            if step:
                grid = own.reshape(h, w, -1)
                sums = ops.cross_sum(grid) if quads[0] >= 2 else ops.diagonal_sum(grid)
                neighbours = sums.reshape(n, -1)[at].astype(exact)
            lead = quads[0] if step else 0
            bias, hidden_bias = (
                p[f"{name}_bias"][rate_point, where] + p[f"{name}_phase"][lead, where]
                for name, where in (("row", channels), ("row_hidden", hidden_units))
            )
            acc = networks.rows(ops, p, group, features[here], neighbours, bias, hidden_bias)
            acc += 2.0 ** (ROW_BITS - 1)
            acc *= 2.0**-ROW_BITS
            np.floor(acc, out=acc)
            np.clip(acc, 0, CDF_ROWS - 1, out=acc)
            rows = acc.astype(np.uint8)

            mean = base[here]
            if context:
                around = known[..., : high if step else low]
                network = partial(networks.mean_context, ops, p, (group, step))
                parts = [
                    _on_lattice(network, z_float[ends[q] : ends[q + 1]], around, margin, arch.mean_reach(group), q)
                    for q in quads
                    if len(lattices[q])
                ]
                mean = mean + np.concatenate(parts)
            else:
                mean = mean + later[at, low - arch.context_channels : high - arch.context_channels]
            mean_scaled = mean * scale[channels]

            s = visit(rows, mean_scaled, channels, at)
            symbols[here, channels] = s
            size = np.abs(s)
            own[at] = _MAGNITUDES[np.minimum(size, 15)]
            decoded = mean_scaled + s
            if context:
                inner[at // w, at % w, channels] = decoded / scale[channels] - base[here]
            hit = np.flatnonzero(size.reshape(-1) > 0)
            kind = np.minimum(size.reshape(-1)[hit], RECON_CLASSES) - 1
            decoded.reshape(-1)[hit] -= np.sign(s.reshape(-1)[hit]) * offsets[rows.reshape(-1)[hit], kind]
            y_hat[here, channels] = decoded * inverse[channels]
        if high <= arch.groups[-2]:
            magnitudes[..., channels] = own.reshape(h, w, -1)
    del fine, z_float, magnitudes, known, inner, later, features, base, own  # room for two copies
    in_place = np.empty_like(order)
    in_place[order] = np.arange(n)
    return symbols[in_place].reshape(h, w, c), y_hat[in_place].reshape(h, w, c)


def _on_lattice(network: Callable[[Array], Array], z: Array, known: Array, margin: int, reach: int, quad: int) -> Array:
    """``network`` of z and the surroundings in ``known``, which has a margin, at every position of a quad.

    A few rows at a time, since the surroundings are wide.
    """
    i, j = QUADS[quad]
    rows = (len(known) - 2 * margin - i + 1) // 2
    columns = len(z) // rows
    parts = []
    for first in range(0, rows, ROWS_AT_ONCE):
        last = min(first + ROWS_AT_ONCE, rows)
        features = z[first * columns : last * columns]
        if known.shape[-1]:
            some = known[2 * first : 2 * last + i + 2 * margin]
            around = ops.lattice_window(some, margin, reach, (i, j), 2)[: last - first]
            features = np.concatenate([features, around.reshape(len(features), -1)], 1)
        parts.append(network(features))
    return np.concatenate(parts)


def _by_rows(network: Callable[..., Array], dtype: type, *grids: Array) -> Array:
    """``network`` in ``dtype`` over ``(h, w, C)`` grids a few rows at a time, ``(h w, D)``: its inside is wide.

    The network may look one row up and down.
    """
    h, w, _ = grids[0].shape
    parts = []
    for first in range(0, h, ROWS_AT_ONCE):
        last = min(first + ROWS_AT_ONCE, h)
        above, below = min(first, 1), min(h - last, 1)
        part = network(*(g[first - above : last + below].astype(dtype, copy=False) for g in grids))
        parts.append(part[above : len(part) - below])
    return np.concatenate(parts).reshape(h * w, -1)


def read_group(
    model: Model, header: Header, z: Array, stream: bytes, first: int, last: int, w: int
) -> tuple[Array, Array]:
    """Decodes one group of latent rows: its symbols and latents, as `walk` returns them."""
    reader = SymbolReader(stream)

    def visit(rows: Array, means: Array, channels: slice, at: Array) -> Array:
        s = model.row_coder.read(reader, rows)
        if s.size and (s.min() < -32767 or s.max() > 32767):
            raise FormatError("damaged: a symbol is out of range")
        return s

    return walk(model, header.rate_point, z, first, last, w, visit)
