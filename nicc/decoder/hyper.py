"""Hyper-latents: read from their stream, dequantised and upsampled, all in integers."""

from __future__ import annotations

import numpy as np

from nicc.architecture import HYPER_LIMIT, LATENTS_PER_HYPER
from nicc.container import Header
from nicc.entropy import SymbolReader
from nicc.geometry import Grid
from nicc.model import Model

Array = np.ndarray


def read_z(model: Model, header: Header, stream: bytes, grid: Grid) -> Array:
    """Hyper-latent symbols, int16 ``(zh, zw, Cz)``."""
    reader = SymbolReader(stream)
    runs = [reader.read(grid.zh * grid.zw, t) for t in model.z_tables(header.rate_point)]
    return np.stack(runs, -1).astype(np.int16).reshape(grid.zh, grid.zw, -1)


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
