"""A filter of chroma behind the synthesis: chroma takes on the edges of luma.

Chroma is coded coarsely, and smeared over the edges that luma has in the same places. So the chroma of a pixel moves
towards that of its neighbours 1, 2 and 4 pixels to either side, above and below, the more the nearer their luma is to
its own: a joint bilateral filter (Petschnigg et al. 2004, "Digital photography with flash and no-flash image pairs",
section 4.1) without its normalisation, so that it is linear in its weights. With c the chroma and l the luma, c' and l'
those of a neighbour, a pixel's chroma moves by the sum of

    weight clip(c' - c, -limit, limit) max(0, 1 - abs(l' - l) / EDGE)

over the neighbours. Weights depend on their distance and, as the limit does, on the rate point. Blue less luma and red
less luma are filtered alike, and luma stays what it is. Weights were fitted to what files of the model decode to
(`nicc.training.directional`). Described once, run by NumPy and by PyTorch, like `nicc.decoder.networks`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nicc.architecture import CHROMA_DISTANCES
from nicc.images import LUMA

Array = Any
REACH = max(CHROMA_DISTANCES)
"""Pixels on every side that the filter sees around a part."""
EDGE = 20.0
"""A difference of luma, in levels, from which on a neighbour does not count."""


class ChromaFilter(NamedTuple):
    """What `changes` needs at a rate point."""

    weights: Array
    """One for each of `CHROMA_DISTANCES`."""
    limit: float
    """By how much a neighbour's chroma counts as different at most, in levels."""


def parts(ops: Any, x: Array) -> tuple[Array, list[Array]]:
    """Luma of pixels ``(..., h, w, 3)`` around 0..1, and blue and red less luma, all ``(..., h, w)`` in levels."""
    x = ops.unit(x)
    luma = x @ ops.like(np.array(LUMA, np.float32) * 255, x)
    return luma, [x[..., colour] * 255 - luma for colour in (2, 0)]


def changes(ops: Any, there: ChromaFilter, luma: Array, chroma: list[Array]) -> list[Array]:
    """What is added to red, green and blue, in levels, ``(..., h, w)``; luma does not change.

    ``luma`` and ``chroma`` are `parts` with a margin of `REACH`.
    """
    neighbours = zip(CHROMA_DISTANCES, there.weights, strict=True)
    blue, red = ops.joint_bilateral(chroma, luma, list(neighbours), REACH, there.limit, EDGE)
    return [red, (red * LUMA[0] + blue * LUMA[2]) * (-1 / LUMA[1]), blue]
