"""A container's symbols to pixels, in bands, so that memory stays bounded."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

from nicc.container import Container, symbol_checksum
from nicc.decoder import networks, ops
from nicc.decoder.latents import Grid, dequantise_z, read_group, read_z
from nicc.errors import FormatError, ModelError
from nicc.model import Model, model_of_code

MAX_THREADS = 8
BAND_POSITIONS = 640
"""Latent positions that are synthesised at a time: about as much as stays in a cache."""


def processors() -> int:
    """How many bands are decoded at once."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, MAX_THREADS)


@lru_cache
def _pool() -> ThreadPoolExecutor:
    """Threads are kept, and with them the memory that they work in."""
    return ThreadPoolExecutor(processors(), "nicc")


def in_threads(work: Callable[[int], None], items: range) -> None:
    """Runs ``work`` on every item, on as many threads as this process may use processors.

    Best with one thread per matrix product, as the command line sets it.
    """
    if len(items) == 1:  # not worth a thread, whose memory is fresh
        return work(items[0])
    for _ in _pool().map(work, items):
        pass


def model_for(container: Container) -> Model:
    """The model that a file names, refused unless its fingerprint is the file's."""
    header = container.header
    model = model_of_code(header.model)
    if model.fingerprint != header.fingerprint:
        raise ModelError(
            f"the file needs model {model.name} with fingerprint {header.fingerprint.hex()}, "
            f"the installed version {model.version} has {model.fingerprint.hex()}"
        )
    return model


def decode_latents(model: Model, container: Container) -> np.ndarray:
    """All latents, float32 ``(h, w, C)``. Raises `FormatError` if any checksum does not match."""
    header = container.header
    grid = Grid.of(header)
    bounds = list(grid.row_groups())
    if len(bounds) != len(container.groups):
        raise FormatError(f"truncated or damaged: {len(bounds)} y boxes expected, {len(container.groups)} found")
    z_symbols = read_z(model, header, container.z, grid)
    checksum = symbol_checksum(header, container.extras, zlib.crc32(z_symbols.data), container.groups)
    if checksum != container.symbol_checksum:
        raise FormatError("damaged: the symbol checksum does not match")
    z = dequantise_z(model, header.rate_point, z_symbols)
    y_hat = np.empty((grid.h, grid.w, model.architecture.latent_channels), np.float32)

    def decode_group(n: int) -> None:
        first, last = bounds[n]
        symbols, y_hat[first:last] = read_group(model, header, z, container.groups[n].stream, first, last, grid.w)
        if zlib.crc32(symbols.data) != container.groups[n].checksum:
            raise FormatError(f"damaged: the checksum of y group {n} does not match")

    in_threads(decode_group, range(len(bounds)))
    return y_hat


def synthesise(model: Model, y_hat: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pixels, uint8 ``(height, width, 3)``, of latents ``(h, w, C)``."""
    p, arch = model.params, model.architecture
    h, w, _ = y_hat.shape
    out = np.empty((height, width, 3), np.uint8)
    padded = networks.mirror(ops, p, y_hat)
    bands = -(-h * w // BAND_POSITIONS)
    bands = min(h, -(-bands // processors()) * processors())  # as many for every thread

    def render(band: int) -> None:
        first, last = band * h // bands, (band + 1) * h // bands
        x = networks.synthesis(ops, arch, p, padded[first : last + 2])
        rows = out[16 * first : 16 * last]
        x = x[: len(rows), :width]
        np.multiply(x, 255, out=x)
        np.rint(x, out=x)
        np.clip(x, 0, 255, out=x)
        rows[...] = x

    in_threads(render, range(bands))
    return out


def decode_pixels(container: Container, model: Model | None = None) -> np.ndarray:
    """RGB pixels, uint8 ``(height, width, 3)``."""
    model = model or model_for(container)
    header = container.header
    return synthesise(model, decode_latents(model, container), header.width, header.height)
