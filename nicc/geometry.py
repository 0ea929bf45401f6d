"""Sizes that follow from an image's: its latents, hyper-latents and groups of rows; the order of hyper-latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from nicc.architecture import LATENTS_PER_HYPER, PIXELS_PER_LATENT
from nicc.container import Header

GROUP_ROWS = 64
"""Latent rows that are coded together, independently of the others (1024 rows of pixels)."""


class Grid(NamedTuple):
    """Sizes of the latents and hyper-latents of an image."""

    h: int
    w: int
    zh: int
    zw: int

    @classmethod
    def of(cls, header: Header) -> Grid:
        h, w = -(-header.height // PIXELS_PER_LATENT), -(-header.width // PIXELS_PER_LATENT)
        return cls(h, w, -(-h // LATENTS_PER_HYPER), -(-w // LATENTS_PER_HYPER))

    def row_groups(self) -> Iterator[tuple[int, int]]:
        """First and last + 1 latent row of every independently coded group."""
        for first in range(0, self.h, GROUP_ROWS):
            yield first, min(first + GROUP_ROWS, self.h)


class HyperStep(NamedTuple):
    """One step of decoding hyper-latents: every ``stride``-th row and column from ``row`` and ``column`` on."""

    row: int
    column: int
    stride: int
    kind: int
    """0 for the first step; then, of either spacing of neighbours, first diagonal ones and then direct ones."""
    neighbours: tuple[tuple[int, int], ...]
    """Rows and columns to the neighbours, which are decoded before where they lie in the image."""

    @property
    def at(self) -> tuple[slice, slice]:
        """Where its positions are."""
        return slice(self.row, None, self.stride), slice(self.column, None, self.stride)


def _hyper_steps() -> Iterator[HyperStep]:
    yield HyperStep(0, 0, 4, 0, ())
    for spacing, kind in ((2, 1), (1, 3)):
        diagonal = tuple((i, j) for i in (-spacing, spacing) for j in (-spacing, spacing))
        direct = (-spacing, 0), (spacing, 0), (0, -spacing), (0, spacing)
        yield HyperStep(spacing, spacing, 2 * spacing, kind, diagonal)
        yield HyperStep(0, spacing, 2 * spacing, kind + 1, direct)
        yield HyperStep(spacing, 0, 2 * spacing, kind + 1, direct)


HYPER_STEPS = tuple(_hyper_steps())
HYPER_KINDS = 5
"""Kinds of steps, each with weights of its neighbours and scales of its own."""
HYPER_REACH = 2
