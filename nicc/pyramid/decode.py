"""A pyramid's file to pixels: networks, then one strip of rows after another."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from nicc.container import Container, symbol_checksum
from nicc.errors import FormatError, ModelError
from nicc.pyramid.coding import IntegerNetwork
from nicc.pyramid.layout import STRIP_ROWS, views
from nicc.pyramid.model import PyramidModel
from nicc.pyramid.networks import Networks, decode_networks
from nicc.pyramid.order import decode_grids
from nicc.pyramid.render import render
from nicc.threads import one_blas_thread


def strip_bounds(height: int) -> list[tuple[int, int]]:
    """First and last + 1 row of pixels of every strip."""
    return [(top, min(top + STRIP_ROWS, height)) for top in range(0, height, STRIP_ROWS)]


def strips(
    container: Container, model: PyramidModel, beta: float | None = None, rows: range | None = None
) -> Iterator[np.ndarray]:
    """Pixels, uint8 ``(any, width, 3)``, of all strips from top to bottom, or of those that have some of ``rows``.

    Raises `FormatError` for damaged files, `ModelError` for a beta above 0: there is no realism head.
    """
    header = container.header
    if header.beta if beta is None else beta:
        raise ModelError(f"model {model.name} has no realism head; decode with beta 0")
    if container.networks is None:
        raise FormatError("damaged: the file has no networks, which its model needs")
    bounds = strip_bounds(header.height)
    if len(bounds) != len(container.groups):
        raise FormatError(f"truncated or damaged: {len(bounds)} y boxes expected, {len(container.groups)} found")
    checksum = symbol_checksum(header, container.extras, zlib.crc32(container.networks), container.groups)
    if checksum != container.symbol_checksum:
        raise FormatError("damaged: the symbol checksum does not match")
    arch = model.architecture
    integers = decode_networks(model.begins(header.rate_point), container.networks)
    network, net = IntegerNetwork(arch, views(integers, arch.shapes())), Networks.of_integers(arch, integers)
    for n, (top, bottom) in enumerate(bounds):
        if rows is None or (rows.start < bottom and rows.stop > top):
            grids = strip_grids(network, model, container, n, bottom - top)
            yield render(net.of, grids)


@one_blas_thread()
def strip_grids(
    network: IntegerNetwork, model: PyramidModel, container: Container, n: int, height: int
) -> list[np.ndarray]:
    """The symbols of a strip, checked. Raises `FormatError`."""
    group = container.groups[n]
    if not group.stream:
        raise FormatError(f"damaged: y group {n} is empty")
    size = (height, container.header.width)
    grids = decode_grids(network, model.architecture, size, group.stream[0], group.stream[1:])
    if symbols_checksum(grids) != group.checksum:
        raise FormatError(f"damaged: the checksum of y group {n} does not match")
    return grids


def symbols_checksum(grids: list[np.ndarray]) -> int:
    """CRC-32 of all symbols as little-endian int16, the coarsest grid first."""
    checksum = 0
    for grid in reversed(grids):
        checksum = zlib.crc32(np.ascontiguousarray(grid, "<i2").data, checksum)
    return checksum
