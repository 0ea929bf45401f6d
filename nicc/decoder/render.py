"""Latents to pixels, in tiles on all threads and strips from top to bottom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from nicc.architecture import PIXELS_PER_LATENT
from nicc.decoder import directional, networks, ops, realism
from nicc.head import LATENT_REACH, PIXEL_REACH
from nicc.model import Head, Model
from nicc.threads import one_blas_thread, pool

TILE_POSITIONS = 640
"""Latent positions that are synthesised at a time: about as much as stays in a cache."""
REALISM_TILE_POSITIONS = 2048
"""Latent positions that are synthesised at a time with a realism head, whose tiles overlap."""
TILE_WIDTH = 64
"""Latent positions a tile is wide at most."""
TILES_TOGETHER = 2
"""Small images have a multiple of so many tiles; not the number of processors, which pixels must not depend on."""


class Renderer:
    """Latents of one rate point to pixels, by the heads of a model that are asked for."""

    def __init__(self, model: Model, rate_point: int, beta: float = 0.0, rectifier: bool = True) -> None:
        self.architecture, self.params = model.architecture, model.params
        self.rectifier = rectifier and self.architecture.rectifiers > 0
        self.margin = self.architecture.margin if self.rectifier else 1
        self.rectifier_bias = self.params["rectifier_bias"][rate_point] if self.rectifier else None
        self.step = self.params["inverse"][rate_point]
        self.filter = directional.filter_of(self.params, rate_point)
        self.head: Head | None = None
        self.tile_positions = TILE_POSITIONS
        if beta:
            self.head = model.realism
            self.margin += LATENT_REACH - 1
            self.tile_positions = REALISM_TILE_POSITIONS
            rate = rate_point / (self.architecture.rate_points - 1)
            share, b = (np.full((1, 1), v, np.float32) for v in (rate, beta))
            self.condition = realism.conditions(ops, self.head.architecture, self.head.params, b, share)[0]
            self.beta = np.float32(beta * realism.strength(self.head.architecture, rate))

    def __call__(self, y: np.ndarray) -> np.ndarray:
        """Pixels around 0..1 of latents ``(h + 2 margin, w + 2 margin, C)``: ``(16 h, 16 w, 3)``."""
        if self.rectifier:
            y = networks.rectify(ops, self.architecture, self.params, y, self.rectifier_bias, self.step)
        if not self.head:
            return directional.rendered(ops, self.architecture, self.params, y, self.filter)
        around = networks.inside(y, LATENT_REACH - PIXEL_REACH - 1)
        x = networks.synthesis(ops, self.architecture, self.params, around)
        detail = realism.detail(ops, self.head.architecture, self.head.params, y, x, self.condition)
        return directional.finished(ops, self.filter, x, PIXEL_REACH * PIXELS_PER_LATENT) + self.beta * detail


def strips(
    renderer: Renderer, groups: Iterable[np.ndarray], width: int, height: int, reduction: int = 1
) -> Iterator[np.ndarray]:
    """Pixels, uint8 ``(any, width, 3)`` from top to bottom, of groups of latent rows ``(rows, w, C)``.

    The first of several groups has at least `Renderer.margin` rows (a file's have 64).
    With a ``reduction`` by 2, 4 or 8, squares of so many pixels a side become their mean.
    """
    margin, block = renderer.margin, PIXELS_PER_LATENT // reduction
    left, width = -(-height // reduction), -(-width // reduction)
    rows = -(-height // PIXELS_PER_LATENT)
    read = 0
    above: np.ndarray | None = None
    for y in groups:
        read += len(y)
        first, last = above is None, read == rows
        padded = networks.mirror(ops, renderer.params, y, margin, top=first, bottom=first and last)
        if above is not None:
            padded = np.concatenate([above, padded])
            if last:  # as `networks.mirror` does; what is above may be needed for it
                padded = np.concatenate(
                    [padded, padded[: -margin - 1 : -1] * renderer.params["parity"][1, : y.shape[-1]]]
                )
        above = padded[-2 * margin :].copy()  # the last rows wait for those below them
        ready = len(padded) - 2 * margin
        if ready > 0:
            strip = np.empty((min(block * ready, left), width, 3), np.uint8)
            left -= len(strip)
            render_tiles(renderer, padded, strip, reduction)
            yield strip


def synthesise(
    renderer: Renderer, groups: Iterable[np.ndarray], width: int, height: int, reduction: int = 1
) -> np.ndarray:
    """The pixels of `strips` as one array ``(height, width, 3)``, reduced."""
    parts = list(strips(renderer, groups, width, height, reduction))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


@one_blas_thread()
def render_tiles(renderer: Renderer, padded: np.ndarray, out: np.ndarray, reduction: int = 1) -> None:
    """Renders the inner part of ``padded`` latents to ``out``, in tiles on all threads."""
    margin, block = renderer.margin, PIXELS_PER_LATENT // reduction
    h, w = padded.shape[0] - 2 * margin, padded.shape[1] - 2 * margin

    def render(tile: tuple[int, int, int, int]) -> None:
        top, bottom, left, right = tile
        x = renderer(padded[top : bottom + 2 * margin, left : right + 2 * margin])
        if reduction > 1:
            shape = block * (bottom - top), reduction, block * (right - left), reduction, 3
            x = x.clip(0, 1).reshape(shape).mean((1, 3))
        part = out[block * top : block * bottom, block * left : block * right]
        x = x[: part.shape[0], : part.shape[1]]
        np.multiply(x, 255, out=x)
        np.rint(x, out=x)
        np.clip(x, 0, 255, out=x)
        part[...] = x

    tiles = _tiles(h, w, renderer.tile_positions)
    if len(tiles) == 1:
        return render(tiles[0])
    for _ in pool().map(render, tiles):
        pass


def _tiles(h: int, w: int, positions: int) -> list[tuple[int, int, int, int]]:
    """Top, bottom, left and right of tiles of about so many latent positions that cover ``(h, w)``."""
    columns = -(-w // TILE_WIDTH)
    rows = -(-h * w // (columns * positions))
    if columns == 1:
        rows = -(-rows // TILES_TOGETHER) * TILES_TOGETHER  # as many for every thread
    rows = min(h, rows)
    return [
        (i * h // rows, (i + 1) * h // rows, j * w // columns, (j + 1) * w // columns)
        for i in range(rows)
        for j in range(columns)
    ]
