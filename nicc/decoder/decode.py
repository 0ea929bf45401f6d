"""A container's symbols to pixels, in bands, so that memory stays bounded."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from nicc.architecture import PIXELS_PER_LATENT
from nicc.container import Container, Header, symbol_checksum
from nicc.decoder import networks, ops, realism
from nicc.decoder.latents import GROUP_ROWS, Grid, dequantise_z, read_group, read_z
from nicc.errors import FormatError, ModelError
from nicc.lossless import restore
from nicc.model import Head, Model, model_of_code
from nicc.threads import one_blas_thread, pool, processors

MEBI = 1 << 20
PROGRAM_MEMORY = 80 * MEBI
"""Interpreter, libraries and model. These four are measured: docs/benchmarks.md, "Large images"."""
THREAD_MEMORY, REALISM_THREAD_MEMORY = 24 * MEBI, 165 * MEBI
"""What a thread works in while it renders."""
LATENT_MEMORY = 64
"""For every latent of a group of rows that is decoded while the one before is rendered."""
PIXEL_MEMORY = 4
"""Of an image in Pillow."""
REDUCTIONS = (1, 2, 4, 8)
TILE_POSITIONS = 640
"""Latent positions that are synthesised at a time: about as much as stays in a cache."""
REALISM_TILE_POSITIONS = 2048
"""The same with a realism head, whose tiles overlap."""
TILE_WIDTH = 64
"""Latent positions a tile is wide at most."""
TILES_TOGETHER = 2
"""Small images have a multiple of so many tiles; not the number of processors, which pixels must not depend on."""


def model_for(container: Container) -> Model:
    """The model that a file names, refused unless its fingerprint is the file's."""
    header = container.header
    if container.lossless is not None:
        raise ModelError("the image is stored losslessly: no model, no rate and no realism to choose")
    model = model_of_code(header.model)
    if model.fingerprint != header.fingerprint:
        raise ModelError(
            f"the file needs model {model.name} with fingerprint {header.fingerprint.hex()}, "
            f"the installed version {model.version} has {model.fingerprint.hex()}"
        )
    if header.rate_point >= model.architecture.rate_points:
        raise FormatError(f"damaged: rate point {header.rate_point} is above {model.architecture.rate_points - 1}")
    return model


class Window(NamedTuple):
    """A part of an image in pixels."""

    left: int
    top: int
    width: int
    height: int


def group_latents(
    model: Model, container: Container, chosen: range | None = None, ahead: int = 1
) -> Iterator[np.ndarray]:
    """Latents of one group of rows after another, float32 ``(rows, w, C)``; all groups or ``chosen`` ones.

    ``ahead`` of them are decoded while the caller works on the last one. Raises `FormatError` if a
    checksum does not match.
    """
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

    def decode_group(n: int) -> np.ndarray:
        first, last = bounds[n]
        symbols, y_hat = read_group(model, header, z, container.groups[n].stream, first, last, grid.w)
        if zlib.crc32(symbols.data) != container.groups[n].checksum:
            raise FormatError(f"damaged: the checksum of y group {n} does not match")
        return y_hat

    wanted = chosen or range(len(bounds))
    if len(wanted) == 1:
        yield decode_group(wanted[0])
        return
    with ThreadPoolExecutor(ahead) as pool:
        following = deque(pool.submit(decode_group, n) for n in wanted[:ahead])
        for n in wanted:
            y_hat = following.popleft().result()
            if n + ahead in wanted:
                following.append(pool.submit(decode_group, n + ahead))
            yield y_hat


class Renderer:
    """Latents of one rate point to pixels, by the heads of a model that are asked for."""

    def __init__(self, model: Model, rate_point: int, beta: float = 0.0, rectifier: bool = True) -> None:
        self.architecture, self.params = model.architecture, model.params
        self.rectifier = rectifier and self.architecture.rectifiers > 0
        self.margin = self.architecture.margin if self.rectifier else 1
        self.rectifier_bias = self.params["rectifier_bias"][rate_point] if self.rectifier else None
        self.step = self.params["inverse"][rate_point]
        self.head: Head | None = None
        self.tile_positions = TILE_POSITIONS
        if beta:
            self.head = model.realism
            self.margin += realism.LATENT_REACH - 1
            self.tile_positions = REALISM_TILE_POSITIONS
            rate = rate_point / (self.architecture.rate_points - 1)
            share, b = (np.full((1, 1), v, np.float32) for v in (rate, beta))
            self.condition = realism.conditions(ops, self.head.architecture, self.head.params, b, share)[0]
            self.beta = np.float32(beta)

    def __call__(self, y: np.ndarray) -> np.ndarray:
        """Pixels around 0..1 of latents ``(h + 2 margin, w + 2 margin, C)``: ``(16 h, 16 w, 3)``."""
        if self.rectifier:
            y = networks.rectify(ops, self.architecture, self.params, y, self.rectifier_bias, self.step)
        if not self.head:
            return networks.synthesis(ops, self.architecture, self.params, y)
        around = networks.inside(y, realism.LATENT_REACH - realism.PIXEL_REACH - 1)
        x = networks.synthesis(ops, self.architecture, self.params, around)
        detail = realism.detail(ops, self.head.architecture, self.head.params, y, x, self.condition)
        return networks.inside(x, realism.PIXEL_REACH * PIXELS_PER_LATENT) + self.beta * detail


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
            _render(renderer, padded, strip, reduction)
            yield strip


def synthesise(
    renderer: Renderer, groups: Iterable[np.ndarray], width: int, height: int, reduction: int = 1
) -> np.ndarray:
    """The pixels of `strips` as one array ``(height, width, 3)``, reduced."""
    parts = list(strips(renderer, groups, width, height, reduction))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


@one_blas_thread()
def _render(renderer: Renderer, padded: np.ndarray, out: np.ndarray, reduction: int = 1) -> None:
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


def _render_window(
    renderer: Renderer, container: Container, model: Model, window: Window, reduction: int
) -> np.ndarray:
    """Pixels of a window, from the groups of rows that it and its margin touch."""
    margin, grid = renderer.margin, Grid.of(container.header)
    top, left = window.top // PIXELS_PER_LATENT, window.left // PIXELS_PER_LATENT
    bottom = -(-(window.top + window.height) // PIXELS_PER_LATENT)
    right = -(-(window.left + window.width) // PIXELS_PER_LATENT)
    first, last = max(top - margin, 0), min(bottom + margin, grid.h)
    chosen = range(first // GROUP_ROWS, -(-last // GROUP_ROWS))
    begin = chosen[0] * GROUP_ROWS
    groups = group_latents(model, container, chosen, processors())
    strip = np.concatenate(list(groups))[first - begin : last - begin]
    padded = networks.mirror(ops, renderer.params, strip, margin, top=first == 0, bottom=last == grid.h)
    above = top - margin - (first - margin if first == 0 else first)
    padded = padded[above : above + bottom - top + 2 * margin, left : right + 2 * margin]
    out = np.empty((PIXELS_PER_LATENT * (bottom - top), PIXELS_PER_LATENT * (right - left), 3), np.uint8)
    _render(renderer, np.ascontiguousarray(padded), out)
    inside = out[window.top - PIXELS_PER_LATENT * top :, window.left - PIXELS_PER_LATENT * left :]
    inside = inside[: window.height, : window.width]
    return np.asarray(Image.fromarray(inside).reduce(reduction)) if reduction > 1 else np.ascontiguousarray(inside)


def decode_pixels(
    container: Container,
    model: Model | None = None,
    beta: float | None = None,
    rectifier: bool = True,
    window: Window | None = None,
    reduction: int = 1,
) -> np.ndarray:
    """RGB pixels, uint8 ``(height, width, 3)``.

    ``beta``, 0..1, is the realism, by default the file's; 0 is the reconstruction of least squared
    error. ``window`` is the part to decode, ``reduction`` by 1, 2, 4 or 8 the number of pixels a
    side that become one. Raises `ModelError` for a beta above 0 where the model has no realism
    head, and `ValueError` for a beta, window or reduction out of range.
    """
    header = container.header
    _check_choices(header, beta, reduction, window)
    if container.lossless is not None:
        return _stored(container, window, reduction)
    model = model or model_for(container)
    renderer = _renderer(model, header, beta, rectifier)
    if window is None:
        return synthesise(renderer, group_latents(model, container), header.width, header.height, reduction)
    return _render_window(renderer, container, model, window, reduction)


def decode_strips(
    container: Container,
    model: Model | None = None,
    beta: float | None = None,
    rectifier: bool = True,
    reduction: int = 1,
) -> Iterator[np.ndarray]:
    """`decode_pixels` of the whole image in strips ``(any, width, 3)`` from top to bottom."""
    header = container.header
    _check_choices(header, beta, reduction)
    if container.lossless is not None:
        return iter([_stored(container, None, reduction)])
    model = model or model_for(container)
    renderer = _renderer(model, header, beta, rectifier)
    return strips(renderer, group_latents(model, container), header.width, header.height, reduction)


def decode_versions(
    container: Container, betas: Sequence[float | None], model: Model | None = None, rectifier: bool = True
) -> Iterator[np.ndarray]:
    """`decode_pixels` for each of several betas; symbols are decoded once, and all latents held."""
    if len(betas) == 1 or container.lossless is not None:
        for beta in betas:
            yield decode_pixels(container, model, beta, rectifier)
        return
    model, header = model or model_for(container), container.header
    for beta in betas:
        _check_choices(header, beta, 1)
    renderers = [_renderer(model, header, beta, rectifier) for beta in betas]
    groups = list(group_latents(model, container))
    for renderer in renderers:
        yield synthesise(renderer, groups, header.width, header.height)


def memory_needed(
    model: Model,
    header: Header,
    betas: Sequence[float | None] = (None,),
    window: Window | None = None,
    reduction: int = 1,
) -> int:
    """Bytes that a process takes, rather fewer than more, to decode a file to Pillow's images, one for each beta."""
    grid, channels = Grid.of(header), model.architecture.groups[model.active_groups(header.rate_point)]
    realistic = any(header.beta if beta is None else beta for beta in betas)
    held = 0  # groups of rows that are held as latents, beside the one in work
    if window:
        held = min(-(-window.height // (GROUP_ROWS * PIXELS_PER_LATENT)) + 1, -(-grid.h // GROUP_ROWS))
    elif len(betas) > 1:
        held = -(-grid.h // GROUP_ROWS)
    group = min(grid.h, GROUP_ROWS) * grid.w
    pixels = window.width * window.height if window else header.width * header.height
    return (
        PROGRAM_MEMORY
        + processors() * (REALISM_THREAD_MEMORY if realistic else THREAD_MEMORY)
        + group * channels * (LATENT_MEMORY + 4 * held)
        + len(betas) * PIXEL_MEMORY * (pixels if window else pixels // reduction**2)
    )


def check_memory(
    limit: int | None,
    container: Container,
    betas: Sequence[float | None],
    window: Window | None = None,
    reduction: int = 1,
) -> None:
    """Raises `FormatError` if a file needs more than ``limit`` bytes (`memory_needed`), None for no limit."""
    if limit is None:
        return
    header = container.header
    if container.lossless is not None:  # the whole image as an array, then as an image for every beta
        needed = PROGRAM_MEMORY + (2 * PIXEL_MEMORY + len(betas) * PIXEL_MEMORY) * header.width * header.height
    else:
        needed = memory_needed(model_for(container), header, betas, window, reduction)
    if needed > limit:
        raise FormatError(f"needs about {needed / MEBI:.0f} MiB, more than the limit of {limit / MEBI:.0f} MiB")


def _check_choices(header: Header, beta: float | None, reduction: int, window: Window | None = None) -> None:
    """Raises `ValueError` for what is out of range."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction {reduction} is not one of {', '.join(map(str, REDUCTIONS))}")
    if beta is not None and not 0 <= beta <= 1:
        raise ValueError(f"beta {beta} is not within 0..1")
    if window is None:
        return
    left, top, width, height = window
    inside = left + width <= header.width and top + height <= header.height
    if not (min(left, top) >= 0 < min(width, height) and inside):
        raise ValueError(f"window {left},{top},{width},{height} is not inside {header.width}x{header.height} pixels")


@one_blas_thread()
def _renderer(model: Model, header: Header, beta: float | None, rectifier: bool) -> Renderer:
    return Renderer(model, header.rate_point, header.beta if beta is None else beta, rectifier)


def _stored(container: Container, window: Window | None, reduction: int) -> np.ndarray:
    """Pixels of an image that is stored losslessly; realism has nothing to add to them."""
    pixels = restore(container)
    if window:
        pixels = pixels[window.top : window.top + window.height, window.left : window.left + window.width]
    if reduction > 1:
        pixels = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).reduce(reduction))
    return np.ascontiguousarray(pixels)
