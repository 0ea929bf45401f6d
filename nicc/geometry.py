"""Sizes that follow from an image's: its latents, hyper-latents, and groups of latent rows."""

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
