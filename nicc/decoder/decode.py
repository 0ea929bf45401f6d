"""A container's symbols to pixels, in bands, so that memory stays bounded."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from nicc.architecture import PIXELS_PER_LATENT
from nicc.container import Container, Header, symbol_checksum
from nicc.decoder import networks, ops
from nicc.decoder.hyper import dequantise_z, read_z
from nicc.decoder.latents import read_group
from nicc.decoder.render import Renderer, render_tiles, strips, synthesise
from nicc.decoder.texture import texture_of
from nicc.errors import FormatError, ModelError
from nicc.geometry import GROUP_ROWS, Grid
from nicc.graphics import Layer, Stored, layer_of
from nicc.lossless import restore
from nicc.model import AnyModel, Model, model_of_code
from nicc.pyramid import decode as pyramid
from nicc.pyramid.layout import STRIP_ROWS
from nicc.pyramid.model import PyramidModel
from nicc.threads import bands_at_once, one_blas_thread

REDUCTIONS = (1, 2, 4, 8)


def model_for(container: Container) -> AnyModel:
    """The model that a file names, refused unless its fingerprint is the file's."""
    header = container.header
    if container.lossless is not None:
        raise ModelError("the image is stored losslessly: no model, no rate and no realism to choose")
    model = model_of_code(header.model)
    if model.fingerprint != header.fingerprint:
        if version := model.earlier.get(header.fingerprint.hex()):
            raise ModelError(
                f"the file was written with {model.name} version {version}; decode it with the nicc that has "
                f"that version, since this one has version {model.version}"
            )
        raise ModelError(
            f"the file needs model {model.name} with fingerprint {header.fingerprint.hex()}, "
            f"the installed version {model.version} has {model.fingerprint.hex()}"
        )
    if header.rate_point >= model.architecture.rate_points:
        raise FormatError(f"damaged: rate point {header.rate_point} is above {model.architecture.rate_points - 1}")
    if isinstance(model, PyramidModel) == (container.networks is None):
        raise FormatError(f"damaged: the file does not have the parts that model {model.name} needs")
    return model


class Window(NamedTuple):
    """A part of an image in pixels."""

    left: int
    top: int
    width: int
    height: int


def group_latents(
    model: Model, container: Container, chosen: range | None = None, ahead: int = 1, middle: bool = False
) -> Iterator[np.ndarray]:
    """Latents of one group of rows after another, float32 ``(rows, w, C)``; all groups or ``chosen`` ones.

    ``ahead`` of them are decoded while the caller works on the last one, ``middle`` is as in
    `nicc.decoder.latents.walk`. Raises `FormatError` if a checksum does not match.
    """
    header = container.header
    grid = Grid.of(header)
    bounds = list(grid.row_groups())
    if len(bounds) != len(container.groups):
        raise FormatError(f"truncated or damaged: {len(bounds)} y boxes expected, {len(container.groups)} found")
    stored = Stored.of(header, container.extras)
    hidden, hidden_z = (stored.latents, stored.hyper_latents) if stored else (None, None)
    z_symbols = read_z(model, header, container.z, grid, hidden_z)
    checksum = symbol_checksum(header, container.extras, zlib.crc32(z_symbols.data), container.groups)
    if checksum != container.symbol_checksum:
        raise FormatError("damaged: the symbol checksum does not match")
    z = dequantise_z(model, header.rate_point, z_symbols)

    def decode_group(n: int) -> np.ndarray:
        symbols, y_hat = read_group(model, header, z, container.groups[n].stream, bounds[n], grid.w, hidden, middle)
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


def _render_window(
    renderer: Renderer,
    container: Container,
    model: Model,
    window: Window,
    reduction: int,
    layer: Layer | None,
) -> np.ndarray:
    """Pixels of a window, from the groups of rows that it and its margin touch."""
    margin, grid = renderer.margin, Grid.of(container.header)
    top, left = window.top // PIXELS_PER_LATENT, window.left // PIXELS_PER_LATENT
    bottom = -(-(window.top + window.height) // PIXELS_PER_LATENT)
    right = -(-(window.left + window.width) // PIXELS_PER_LATENT)
    first, last = max(top - margin, 0), min(bottom + margin, grid.h)
    chosen = range(first // GROUP_ROWS, -(-last // GROUP_ROWS))
    begin = chosen[0] * GROUP_ROWS
    groups = group_latents(model, container, chosen, bands_at_once(), renderer.middle)
    strip = np.concatenate(list(groups))[first - begin : last - begin]
    padded = networks.mirror(ops, renderer.params, strip, margin, top=first == 0, bottom=last == grid.h)
    above = top - margin - (first - margin if first == 0 else first)
    padded = padded[above : above + bottom - top + 2 * margin, left : right + 2 * margin]
    out = np.empty((PIXELS_PER_LATENT * (bottom - top), PIXELS_PER_LATENT * (right - left), 3), np.uint8)
    render_tiles(renderer, np.ascontiguousarray(padded), out, row=top, column=left)
    inside = out[window.top - PIXELS_PER_LATENT * top :, window.left - PIXELS_PER_LATENT * left :]
    inside = inside[: window.height, : window.width]
    if layer:
        layer.paste(inside, window.left, window.top)
    return np.asarray(Image.fromarray(inside).reduce(reduction)) if reduction > 1 else np.ascontiguousarray(inside)


def decode_pixels(
    container: Container,
    model: AnyModel | None = None,
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
    if isinstance(model, PyramidModel):
        return _fitted(container, model, beta, window, reduction)
    renderer, layer = renderer_of(model, container, beta, rectifier), layer_of(container)
    if window is not None:
        return _render_window(renderer, container, model, window, reduction, layer)
    groups = group_latents(model, container, middle=renderer.middle)
    pixels = synthesise(renderer, groups, header.width, header.height, reduction)
    return layer.reduced(reduction).paste(pixels) if layer else pixels


def decode_strips(
    container: Container,
    model: AnyModel | None = None,
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
    if isinstance(model, PyramidModel):
        return (_reduced(strip, reduction) for strip in _fitted_strips(container, model, beta))
    renderer, layer = renderer_of(model, container, beta, rectifier), layer_of(container)
    groups = group_latents(model, container, middle=renderer.middle)
    parts = strips(renderer, groups, header.width, header.height, reduction)
    return _pasted(parts, layer.reduced(reduction)) if layer else parts


def _pasted(parts: Iterator[np.ndarray], layer: Layer, top: int = 0) -> Iterator[np.ndarray]:
    for strip in parts:
        yield layer.paste(strip, 0, top)
        top += len(strip)


def decode_versions(
    container: Container, betas: Sequence[float | None], model: AnyModel | None = None, rectifier: bool = True
) -> Iterator[np.ndarray]:
    """`decode_pixels` for each of several betas; symbols are decoded once for all above 0, and all latents held."""
    if len(betas) == 1 or container.lossless is not None or container.networks is not None:
        for beta in betas:
            yield decode_pixels(container, model, beta, rectifier)
        return
    model, header = model or model_for(container), container.header
    assert isinstance(model, Model)
    for beta in betas:
        _check_choices(header, beta, 1)
    renderers = [renderer_of(model, container, beta, rectifier) for beta in betas]
    kinds = {renderer.middle for renderer in renderers}
    groups = {middle: list(group_latents(model, container, middle=middle)) for middle in kinds}
    layer = layer_of(container)
    for renderer in renderers:
        pixels = synthesise(renderer, groups[renderer.middle], header.width, header.height)
        yield layer.paste(pixels) if layer else pixels


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
def renderer_of(model: Model, container: Container, beta: float | None = None, rectifier: bool = True) -> Renderer:
    """What renders a file's latents, at the file's beta unless another is given.

    Raises `FormatError` if the texture box is damaged that a beta above 0 needs.
    """
    header = container.header
    beta = header.beta if beta is None else beta
    return Renderer(model, header.rate_point, beta, rectifier, texture_of(container) if beta else None)


def _stored(container: Container, window: Window | None, reduction: int) -> np.ndarray:
    """Pixels of an image that is stored losslessly; realism has nothing to add to them."""
    pixels = restore(container)
    if window:
        pixels = pixels[window.top : window.top + window.height, window.left : window.left + window.width]
    return _reduced(pixels, reduction)


def _fitted(
    container: Container, model: PyramidModel, beta: float | None, window: Window | None, reduction: int
) -> np.ndarray:
    """Pixels of an image whose networks are in the file."""
    if window is None:
        return _reduced(np.concatenate(list(_fitted_strips(container, model, beta))), reduction)
    rows = range(window.top, window.top + window.height)
    pixels = np.concatenate(list(_fitted_strips(container, model, beta, rows)))
    top = window.top % STRIP_ROWS
    return _reduced(pixels[top : top + window.height, window.left : window.left + window.width], reduction)


def _fitted_strips(
    container: Container, model: PyramidModel, beta: float | None, rows: range | None = None
) -> Iterator[np.ndarray]:
    """`pyramid.strips` with what is stored exactly."""
    parts, layer = pyramid.strips(container, model, beta, rows), layer_of(container)
    return _pasted(parts, layer, rows.start // STRIP_ROWS * STRIP_ROWS if rows else 0) if layer else parts


def _reduced(pixels: np.ndarray, reduction: int) -> np.ndarray:
    if reduction > 1:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).reduce(reduction))
    return np.ascontiguousarray(pixels)
