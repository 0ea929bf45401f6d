"""Latents to pixels, in tiles on all threads and strips from top to bottom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from nicc.architecture import PIXELS_PER_LATENT
from nicc.decoder import directional, networks, ops, realism
from nicc.decoder.grain import noise
from nicc.decoder.texture import Texture
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
    """Latents of one rate point to pixels, by the heads of a model that are asked for.

    With a ``texture``, a beta above 0 adds what it says, to latents in the middle of their intervals: what is least in
    squared error is smoother than what was there.
    """

    def __init__(
        self,
        model: Model,
        rate_point: int,
        beta: float = 0.0,
        rectifier: bool = True,
        texture: Texture | None = None,
    ) -> None:
        self.architecture, self.params = model.architecture, model.params
        self.rectifier = rectifier and self.architecture.rectifiers > 0
        self.margin = self.architecture.margin if self.rectifier else 1
        self.rectifier_bias = self.params["rectifier_bias"][rate_point] if self.rectifier else None
        self.step = self.params["inverse"][rate_point]
        self.filter = directional.filter_of(self.params, rate_point)
        self.head: Head | None = None
        self.middle = bool(beta) and texture is not None
        """Whether latents in the middle of their intervals are wanted."""
        self.tile_positions = TILE_POSITIONS
        if beta:
            self.head = model.realism
            self.margin += LATENT_REACH - 1
            self.tile_positions = REALISM_TILE_POSITIONS
            rate = rate_point / (self.architecture.rate_points - 1)
            share, b = (np.full((1, 1), v, np.float32) for v in (rate, beta))
            shape = self.head.architecture
            self.arrays = shape.arrays_of(shape.part(rate), self.head.params)
            self.condition = realism.conditions(ops, shape, self.arrays, b, share)[0]
            self.beta = np.float32(beta * realism.strength(shape, rate))
            self.texture = texture
            self.grain = np.float32(realism.grain(beta) / 255)

    def __call__(self, y: np.ndarray, row: int = 0, column: int = 0) -> np.ndarray:
        """Pixels around 0..1 of latents ``(h + 2 margin, w + 2 margin, C)``: ``(16 h, 16 w, 3)``.

        ``row`` and ``column`` say where in the image the first latent lies that is not margin.
        """
        if not self.head:
            return directional.rendered(ops, self.architecture, self.params, self._rectified(y), self.filter)
        base, detail = self.layers(y)
        if self.texture is None:
            return base + detail
        where = row * PIXELS_PER_LATENT, column * PIXELS_PER_LATENT, *base.shape[:2]
        strength, grain = self.texture.at(*where)
        base += strength[..., None] * detail
        base += (self.grain * grain * noise(*where))[..., None]
        return base

    def layers(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The reconstruction without detail, and what the realism head adds where no texture says otherwise."""
        assert self.head
        y = self._rectified(y)
        around = networks.inside(y, LATENT_REACH - PIXEL_REACH - 1)
        x = networks.synthesis(ops, self.architecture, self.params, around)
        detail = realism.detail(ops, self.head.architecture, self.arrays, y, x, self.condition)
        return directional.finished(ops, self.filter, x, PIXEL_REACH * PIXELS_PER_LATENT), self.beta * detail

    def _rectified(self, y: np.ndarray) -> np.ndarray:
        if not self.rectifier:
            return y
        return networks.rectify(ops, self.architecture, self.params, y, self.rectifier_bias, self.step)


def bands(
    renderer: Renderer, groups: Iterable[np.ndarray], height: int, multiple: int = 1
) -> Iterator[tuple[int, np.ndarray]]:
    """Latents to render together, from top to bottom: the first row, and with margins ``(rows, columns, C)``.

    ``groups`` are those of latent rows ``(rows, w, C)`` of an image so high, the first of several with at least
    `Renderer.margin` rows (a file's have 64). All bands but the last have a ``multiple`` of rows.
    """
    margin, rows = renderer.margin, -(-height // PIXELS_PER_LATENT)
    first = read = 0
    above: np.ndarray | None = None
    for y in groups:
        read += len(y)
        begins, last = above is None, read == rows
        padded = networks.mirror(ops, renderer.params, y, margin, top=begins, bottom=begins and last)
        if above is not None:
            padded = np.concatenate([above, padded])
            if last:  # as `networks.mirror` does; what is above may be needed for it
                padded = np.concatenate(
                    [padded, padded[: -margin - 1 : -1] * renderer.params["parity"][1, : y.shape[-1]]]
                )
        ready = len(padded) - 2 * margin
        if not last:
            ready = max(ready, 0) // multiple * multiple
        above = padded[ready:].copy()  # waits for the rows below
        if ready > 0:
            yield first, padded[: ready + 2 * margin]
            first += ready


def strips(
    renderer: Renderer, groups: Iterable[np.ndarray], width: int, height: int, reduction: int = 1
) -> Iterator[np.ndarray]:
    """Pixels, uint8 ``(any, width, 3)`` from top to bottom, of groups of latents as `bands` takes them.

    With a ``reduction`` by 2, 4 or 8, squares of so many pixels a side become their mean.
    """
    block = PIXELS_PER_LATENT // reduction
    left, width = -(-height // reduction), -(-width // reduction)
    for first, padded in bands(renderer, groups, height):
        strip = np.empty((min(block * (len(padded) - 2 * renderer.margin), left), width, 3), np.uint8)
        left -= len(strip)
        render_tiles(renderer, padded, strip, reduction, first)
        del padded  # before there is the next
        yield strip


def synthesise(
    renderer: Renderer, groups: Iterable[np.ndarray], width: int, height: int, reduction: int = 1
) -> np.ndarray:
    """The pixels of `strips` as one array ``(height, width, 3)``, reduced."""
    parts = list(strips(renderer, groups, width, height, reduction))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


@one_blas_thread()
def render_tiles(
    renderer: Renderer, padded: np.ndarray, out: np.ndarray, reduction: int = 1, row: int = 0, column: int = 0
) -> None:
    """Renders the inner part of ``padded`` latents to ``out``, in tiles on all threads.

    ``row`` and ``column`` say where in the image it begins.
    """
    margin, block = renderer.margin, PIXELS_PER_LATENT // reduction
    h, w = padded.shape[0] - 2 * margin, padded.shape[1] - 2 * margin

    def render(tile: tuple[int, int, int, int]) -> None:
        top, bottom, left, right = tile
        x = renderer(padded[top : bottom + 2 * margin, left : right + 2 * margin], row + top, column + left)
        if reduction > 1:
            shape = block * (bottom - top), reduction, block * (right - left), reduction, 3
            x = x.clip(0, 1).reshape(shape).mean((1, 3))
        part = out[block * top : block * bottom, block * left : block * right]
        x = x[: part.shape[0], : part.shape[1]]
        np.multiply(x, 255, out=x)
        np.rint(x, out=x)
        np.clip(x, 0, 255, out=x)
        part[...] = x

    tiles = tiles_of(h, w, renderer.tile_positions)
    if len(tiles) == 1:
        return render(tiles[0])
    for _ in pool().map(render, tiles):
        pass


def tiles_of(h: int, w: int, positions: int, widest: int = TILE_WIDTH) -> list[tuple[int, int, int, int]]:
    """Top, bottom, left and right of tiles of about so many latent positions that cover ``(h, w)``."""
    columns = -(-w // widest)
    rows = -(-h * w // (columns * positions))
    if columns == 1:
        rows = -(-rows // TILES_TOGETHER) * TILES_TOGETHER  # as many for every thread
    rows = min(h, rows)
    return [
        (i * h // rows, (i + 1) * h // rows, j * w // columns, (j + 1) * w // columns)
        for i in range(rows)
        for j in range(columns)
    ]
