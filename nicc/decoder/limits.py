"""What decoding takes of memory, and files that need more than a limit refused before work is done."""

from __future__ import annotations

from collections.abc import Sequence

from nicc.architecture import PIXELS_PER_LATENT
from nicc.container import BOX_GRAPHICS, Container, Header
from nicc.decoder.decode import Window, model_for
from nicc.errors import FormatError
from nicc.geometry import GROUP_ROWS, Grid
from nicc.model import AnyModel
from nicc.pyramid.layout import STRIP_ROWS
from nicc.pyramid.model import PyramidModel
from nicc.threads import bands_at_once

MEBI = 1 << 20
PROGRAM_MEMORY = 80 * MEBI
"""Interpreter, libraries and model. These are measured: docs/benchmarks.md, "Large images"."""
THREAD_MEMORY, REALISM_THREAD_MEMORY = 40 * MEBI, 165 * MEBI
"""What a thread works in while it renders; one more decodes the next group of rows meanwhile."""
POSITION_MEMORY, LATENT_MEMORY = 9000, 26
"""Bytes for every position, and every latent, of a group of rows that is decoded."""
AHEAD_MEMORY, HELD_MEMORY = 22, 4
"""Bytes for every latent of a group that is rendered while the next is decoded, or that is held besides."""
LAYER_MEMORY = 8
"""Bytes for a pixel of the lossless image of a page's graphics: as an array, and while it is decoded."""
SKEWED_MEMORY, STRIP_PIXEL_MEMORY = 5, 90
"""Bytes for a position of a pyramid's finest grid in the steps of decoding, and for a pixel of a strip."""
PIXEL_MEMORY = 4
"""Bytes for a pixel of an image in Pillow."""


def memory_needed(
    model: AnyModel,
    header: Header,
    betas: Sequence[float | None] = (None,),
    window: Window | None = None,
    reduction: int = 1,
    graphics: bool = False,
) -> int:
    """Bytes that suffice for a process to decode a file to Pillow's images, one for each beta.

    ``graphics`` says that parts of it are stored exactly.
    """
    if isinstance(model, PyramidModel):
        return _memory_of_fitted(header, len(betas), window) + _memory_of_layer(header, graphics)
    grid, channels = Grid.of(header), model.architecture.groups[model.active_groups(header.rate_point)]
    realistic = any(header.beta if beta is None else beta for beta in betas)
    held = 0  # groups of rows that are held as latents, beside the one in work
    if window:
        held = min(-(-window.height // (GROUP_ROWS * PIXELS_PER_LATENT)) + 1, -(-grid.h // GROUP_ROWS))
    elif len(betas) > 1:
        kinds = len({bool(header.beta if beta is None else beta) for beta in betas})  # latents differ, with a texture
        held = kinds * -(-grid.h // GROUP_ROWS)
    group = min(grid.h, GROUP_ROWS) * grid.w
    ahead = grid.h > GROUP_ROWS
    latent = LATENT_MEMORY + HELD_MEMORY * held + AHEAD_MEMORY * ahead
    pixels = window.width * window.height if window else header.width * header.height
    return (
        PROGRAM_MEMORY
        + bands_at_once() * (REALISM_THREAD_MEMORY if realistic else THREAD_MEMORY)
        + ahead * THREAD_MEMORY
        + group * (POSITION_MEMORY + channels * latent)
        + len(betas) * PIXEL_MEMORY * (pixels if window else pixels // reduction**2)
        + _memory_of_layer(header, graphics)
    )


def _memory_of_layer(header: Header, graphics: bool) -> int:
    return LAYER_MEMORY * header.width * header.height if graphics else 0


def _memory_of_fitted(header: Header, versions: int, window: Window | None) -> int:
    """`memory_needed` of an image whose networks are in the file: strips are decoded one after another."""
    rows = min(header.height, STRIP_ROWS)
    held = window.height // STRIP_ROWS + 2 if window else -(-header.height // STRIP_ROWS)
    skewed = (header.width + 2 * rows) * rows * SKEWED_MEMORY
    pixels = header.width * rows * STRIP_PIXEL_MEMORY
    return (
        PROGRAM_MEMORY
        + bands_at_once() * THREAD_MEMORY
        + skewed
        + pixels
        + held * rows * header.width * (PIXEL_MEMORY + versions * PIXEL_MEMORY)
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
        graphics = BOX_GRAPHICS in container.extras
        needed = memory_needed(model_for(container), header, betas, window, reduction, graphics)
    if needed > limit:
        raise FormatError(f"needs about {needed / MEBI:.0f} MiB, more than the limit of {limit / MEBI:.0f} MiB")
