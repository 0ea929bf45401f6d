"""From hyper-latent symbols to latents, step by step, for the receiver and the sender alike.

A group of latent rows is decoded in steps: groups of channels, each in one to four phases of positions.
Before every step (`Architecture.steps`) the CDF rows (integers), means and gains (floats) of its
symbols are computed from what is known; ``visit`` then returns the symbols: the receiver decodes
them, the sender quantises and writes them. Both run this same code, so they cannot disagree.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from nicc.architecture import (
    CDF_ROWS,
    HYPER_UNIT,
    MAGNITUDE_UNIT,
    QUADS,
    RECON_CLASSES,
    ROW_BITS,
    ROW_HIDDEN,
    Step,
)
from nicc.container import Header
from nicc.decoder import networks, ops
from nicc.decoder.hyper import upsample
from nicc.entropy import SymbolReader
from nicc.errors import FormatError
from nicc.model import Model
from nicc.threads import one_blas_thread

Array = np.ndarray
ROWS_AT_ONCE = 16


class Visited(NamedTuple):
    """One step of a walk, before its symbols are known. Arrays are ``(positions, channels)``."""

    rows: Array
    """CDF rows, uint8."""
    means: Array
    """float32, in quantisation steps."""
    factor: Array
    """What multiplies the rate point's gain at every position, float32 ``(positions or 1, channels)``."""
    channels: slice
    at: Array
    """Positions, as indices into the rows' positions in row-major order."""


Visit = Callable[[Visited], Array]
"""Symbols of a step, integers ``(positions, channels)``."""

_MAGNITUDES = np.round(np.log2(1 + np.arange(16)) * MAGNITUDE_UNIT).astype(np.uint8)
"""Magnitudes of symbols 0 to 15 and above, at most 16, so that the sum over four neighbours fits as well."""


@lru_cache(maxsize=8)
def _lattices(h: int, w: int) -> list[Array]:
    """Positions of every quad, in row-major order."""
    position = np.arange(h * w).reshape(h, w)
    return [position[i::2, j::2].reshape(-1) for i, j in QUADS]


class _Walk:
    """A walk over one group of latent rows. Positions are kept quad by quad, so that a phase is a slice."""

    def __init__(self, model: Model, rate_point: int, z: Array, rows: tuple[int, int], w: int, middle: bool) -> None:
        self.arch, self.p, self.exact = model.architecture, model.params, model.exact_dtype
        arch, p = self.arch, self.p
        self.h, self.w, self.rate_point, self.middle = rows[1] - rows[0], w, rate_point, middle
        self.groups = model.active_groups(rate_point)
        n, channels = self.h * w, arch.groups[self.groups]
        self.lattices = _lattices(self.h, w)
        self.order = np.concatenate(self.lattices)
        self.ends = np.cumsum([0, *map(len, self.lattices)])
        self.fine = upsample(z, *rows, w)
        self.z = self.fine.reshape(n, -1)[self.order].astype(np.float32) / HYPER_UNIT
        self.gain, self.inverse = p["gain"][rate_point], p["inverse"][rate_point]
        self.scale = self.gain * p["deviation"]
        self.symbols = np.empty((n, channels), np.int16)
        self.y_hat = np.empty((n, channels), np.float32)
        self.magnitudes = np.zeros((self.h, w, arch.groups[self.groups - 1]), np.uint8)
        self.margin = max(map(arch.mean_reach, range(arch.context_groups)))
        sides = 2 * self.margin
        self.known = np.zeros((self.h + sides, w + sides, arch.context_channels), np.float32)
        """Decoded latents of the context groups less the hyper-prior's mean, with a margin of zeros."""
        self.inner = networks.inside(self.known, self.margin)
        self.later: Array | None = None
        """Hidden units that the context groups give all others, once these are decoded."""

    def enter(self, group: int, channels: slice) -> None:
        """What all steps of a group have in common."""
        row_features = partial(networks.row_features, ops, self.arch, self.p, group)
        known = self.magnitudes[..., : channels.start]
        self.features = _by_rows(row_features, self.exact, self.fine, known)[self.order]
        self.base = networks.mean_from_hyper(self.p, self.z, channels)
        self.own = np.zeros((self.h * self.w, channels.stop - channels.start), np.uint8)
        if group == self.arch.context_groups:
            hidden = partial(networks.later_hidden, ops, self.p)
            self.later = _by_rows(hidden, np.float32, self.inner)[self.order]

    def rows(self, step: Step, here: slice) -> Array:
        """CDF rows, uint8 ``(positions, channels)``."""
        neighbours = None
        if step.neighbours:
            grid = self.own.reshape(self.h, self.w, -1)
            sums = ops.cross_sum(grid) if step.neighbours == "cross" else ops.diagonal_sum(grid)
            neighbours = sums.reshape(len(self.own), -1)[self.order[here]].astype(self.exact)
        units = slice(step.group * ROW_HIDDEN, (step.group + 1) * ROW_HIDDEN)
        bias, hidden_bias = (
            self.p[f"{name}_bias"][self.rate_point, where] + self.p[f"{name}_phase"][step.lead, where]
            for name, where in (("row", step.channels), ("row_hidden", units))
        )
        acc = networks.rows(ops, self.p, step.group, self.features[here], neighbours, bias, hidden_bias)
        acc += 2.0 ** (ROW_BITS - 1)
        acc *= 2.0**-ROW_BITS
        np.floor(acc, out=acc)
        np.clip(acc, 0, CDF_ROWS - 1, out=acc)
        return acc.astype(np.uint8)

    def means(self, step: Step, here: slice) -> Array:
        """Means in units of each channel's deviation."""
        channels = step.channels
        if step.network is None:
            assert self.later is not None
            begin = channels.start - self.arch.context_channels
            weights = self.p["mean_later_out"][:, begin : begin + channels.stop - channels.start]
            return self.base[here] + self.later[here] @ weights
        around = self.known[..., : channels.stop if step.network[1] else channels.start]
        network = partial(networks.mean_context, ops, self.p, step.network)
        reach = self.arch.mean_reach(step.group)
        parts = [
            _on_lattice(network, self.z[self.ends[q] : self.ends[q + 1]], around, self.margin, reach, q)
            for q in step.quads
            if len(self.lattices[q])
        ]
        return self.base[here] + np.concatenate(parts)

    def gains(self, step: Step, here: slice) -> Array:
        """Factors that adapt the rate point's gain to the place, ``(positions or 1, channels)``."""
        if not self.arch.adaptive:
            return np.ones((1, step.channels.stop - step.channels.start), np.float32)
        hidden = None if self.later is None else self.later[here]
        return networks.adaptation(ops, self.p, self.z[here], hidden, step.channels)

    def store(self, step: Step, here: slice, s: Array, rows: Array, mean: Array, factor: Array) -> None:
        """Takes in the symbols of a step; ``mean`` is overwritten."""
        channels, at = step.channels, self.order[here]
        self.symbols[here, channels] = s
        size = np.abs(s)
        self.own[at] = _MAGNITUDES.take(size, mode="clip")
        decoded = mean
        decoded += s.astype(np.float32)  # integers of 32 bits would be added in double precision
        if step.network is not None:
            d = decoded / (self.scale[channels] * factor) - self.base[here]
            self.inner[at // self.w, at % self.w, channels] = d
        if not self.middle:
            flat, sizes = decoded.reshape(-1), size.reshape(-1)
            hit = np.flatnonzero(sizes > 0)
            kind = np.minimum(sizes[hit], RECON_CLASSES) - 1
            flat[hit] -= np.sign(s.reshape(-1)[hit]) * self.p["recon_offset"][rows.reshape(-1)[hit], kind]
        self.y_hat[here, channels] = decoded * (self.inverse[channels] / factor)

    def leave(self, group: int, channels: slice) -> None:
        if group < self.groups - 1:
            self.magnitudes[..., channels] = self.own.reshape(self.h, self.w, -1)

    def result(self) -> tuple[Array, Array]:
        """Symbols and latents in the order of the image."""
        for name in ("fine", "z", "magnitudes", "known", "inner", "later", "features", "base", "own"):
            delattr(self, name)  # room for two copies
        in_place = np.empty_like(self.order)
        in_place[self.order] = np.arange(len(self.order))
        shape = self.h, self.w, -1
        return self.symbols[in_place].reshape(shape), self.y_hat[in_place].reshape(shape)


@one_blas_thread()
def walk(
    model: Model,
    rate_point: int,
    z: Array,
    rows: tuple[int, int],
    w: int,
    visit: Visit,
    hidden: Array | None = None,
    middle: bool = False,
) -> tuple[Array, Array]:
    """Visits every symbol of a group of latent rows, from the first to before the last; returns symbols and latents.

    ``z`` are the dequantised hyper-latents of the whole image. Symbols are int16 and latents
    float32, both ``(h, w, C)``, C the channels that are active at the rate point: those
    beyond are zero by definition. So are the symbols of ``hidden`` positions of the image ``(h, w)``, bool: their CDF
    row is 0. Latents are where the squared error is least in their intervals, or in the ``middle``.
    """
    state = _Walk(model, rate_point, z, rows, w, middle)
    steps = [s for s in state.arch.steps if s.group < state.groups]
    for group, members in itertools.groupby(steps, lambda step: step.group):
        channels = slice(state.arch.groups[group], state.arch.groups[group + 1])
        state.enter(group, channels)
        for step in members:
            here = slice(state.ends[step.quads[0]], state.ends[step.quads[-1] + 1])
            if here.start == here.stop:
                continue
            cdf_rows, factor = state.rows(step, here), state.gains(step, here)
            if hidden is not None:
                cdf_rows[hidden[slice(*rows)].reshape(-1)[state.order[here]]] = 0
            mean = state.means(step, here) * (state.scale[channels] * factor)
            s = visit(Visited(cdf_rows, mean, factor, channels, state.order[here]))
            state.store(step, here, s, cdf_rows, mean, factor)
        state.leave(group, channels)
    return state.result()


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
    model: Model,
    header: Header,
    z: Array,
    stream: bytes,
    rows: tuple[int, int],
    w: int,
    hidden: Array | None = None,
    middle: bool = False,
) -> tuple[Array, Array]:
    """Decodes one group of latent rows: its symbols and latents, as `walk` takes arguments and returns them."""
    reader = SymbolReader(stream)

    def visit(here: Visited) -> Array:
        s = model.row_coders[model.architecture.group_of(here.channels)].read(reader, here.rows)
        if s.size and (s.min() < -32767 or s.max() > 32767):
            raise FormatError("damaged: a symbol is out of range")
        return s

    return walk(model.for_file(header), header.rate_point, z, rows, w, visit, hidden, middle)
