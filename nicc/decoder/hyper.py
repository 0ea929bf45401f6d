"""Hyper-latents: read from their stream, dequantised and upsampled, all in integers.

Every fourth position of every fourth row is decoded first, then those between, in steps (`HYPER_STEPS`): each symbol
has a Laplace distribution about a mean that the average of its decoded neighbours in its own channel moves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nicc.architecture import HYPER_LIMIT, LATENTS_PER_HYPER, Z_WEIGHT_UNIT
from nicc.container import Header
from nicc.geometry import HYPER_REACH, HYPER_STEPS, Grid, HyperStep
from nicc.laplace import OFFSET_BITS, OFFSETS, Decoder, Prediction
from nicc.model import Model

Array = np.ndarray
Visit = Callable[[Prediction, HyperStep, Array], Array]
"""Symbols of a step, integers ``(positions * channels,)``, by their distributions.

Of the step's positions, those are coded that the last argument, bool, says.
"""


def walk_z(model: Model, rate_point: int, zh: int, zw: int, visit: Visit, hidden: Array | None = None) -> Array:
    """Visits every hyper-latent symbol of an image; returns them, int16 ``(zh, zw, Cz)``.

    The receiver decodes them in ``visit``, the sender writes them: both find the same distributions. Symbols of
    ``hidden`` positions ``(zh, zw)`` are not coded but the whole part of their mean.
    """
    arrays = {name: model.arrays[f"z_{name}"].astype(np.int64) for name in ("means", "weights", "steps", "scales")}
    means, weights, steps, scales = arrays["means"], arrays["weights"], arrays["steps"][rate_point], arrays["scales"]
    symbols = np.zeros((zh, zw, len(means)), np.int16)
    known = with_borders(np.zeros((zh, zw, len(means)), np.int64))  # dequantised, less their means
    inside = with_borders(np.ones((zh, zw, 1), np.int64))
    for step in HYPER_STEPS:
        shape = symbols[step.at].shape
        if 0 in shape:
            continue
        total, count = neighbours(known, step), np.maximum(neighbours(inside, step), 1)
        moved = (weights[step.kind] * total * (12 // count) + 6 * Z_WEIGHT_UNIT) // (12 * Z_WEIGHT_UNIT)
        place = (2 * OFFSETS * (means + moved) + (OFFSETS + 1) * steps) // (2 * steps)
        place, scale = (np.broadcast_to(a, shape) for a in (place, scales[rate_point, step.kind]))
        coded = np.ones(shape[:2], bool) if hidden is None else ~hidden[step.at]
        here = place >> OFFSET_BITS
        if coded.any():
            ours, scale = place[coded].reshape(-1), scale[coded].reshape(-1)
            found = visit(Prediction(ours >> OFFSET_BITS, ours & (OFFSETS - 1), scale), step, coded)
            here[coded] = found.reshape(-1, shape[2])
        symbols[step.at] = here
        own = known[HYPER_REACH:-HYPER_REACH, HYPER_REACH:-HYPER_REACH]
        own[step.at] = dequantise_z(model, rate_point, symbols[step.at]) - means
    return symbols


def with_borders(values: Array) -> Array:
    """``(zh, zw, C)`` with `HYPER_REACH` zeros on every side."""
    return np.pad(values, ((HYPER_REACH, HYPER_REACH), (HYPER_REACH, HYPER_REACH), (0, 0)))


def neighbours(values: Array, step: HyperStep) -> Array:
    """The sum of ``values``, `with_borders`, over the neighbours of a step's positions."""
    zh, zw, _ = (n - 2 * HYPER_REACH for n in values.shape)
    moved = (values[HYPER_REACH + i :][:zh, HYPER_REACH + j :][:, :zw] for i, j in step.neighbours)
    return sum((part[step.at] for part in moved), np.zeros(1, values.dtype))


def read_z(model: Model, header: Header, stream: bytes, grid: Grid, hidden: Array | None = None) -> Array:
    """Hyper-latent symbols, int16 ``(zh, zw, Cz)``; ``hidden`` as in `walk_z`.

    Raises `FormatError` if the stream cannot hold them.
    """
    decoder = Decoder(stream)
    return walk_z(model, header.rate_point, grid.zh, grid.zw, lambda p, *_: decoder.read(p), hidden)


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
