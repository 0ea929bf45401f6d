"""The realism head: detail that the receiver adds to the base reconstruction, as much as beta says.

A conditional branch (Agustsson et al. 2023, section 3) beside the shallow synthesis: features of the
latents at 1/16 resolution meet the reconstructed pixels on a 1/4 grid. Its output is multiplied by
beta, the gate. Described once, run by NumPy and by PyTorch, like `nicc.decoder.networks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nicc.architecture import PIXELS_PER_LATENT
from nicc.decoder.networks import inside
from nicc.head import (
    GRID,
    LARGEST_BETA,
    OCTAVES,
    PIXEL_REACH,
    RATE_STEPS,
    TABLE_STEPS,
    HeadArchitecture,
)

Array = Any
Params = Mapping[str, Array]


def paper_beta(beta: Array) -> Array:
    """The paper's beta: 2.56 at 1. By squares, since most of the effect is there at small values."""
    return 2.56 * beta * beta


def strength(head: HeadArchitecture, rate: float) -> float:
    """What the detail is multiplied by beside beta; ``rate`` is the rate point as a share of the highest."""
    values = head.strength or (1.0,)
    return float(np.interp(rate, np.linspace(0, 1, len(values)), values))


def grain(beta: float) -> float:
    """Share of the grain that a file describes: all of it from the middle of the range on, as of the head's detail."""
    return min(2 * beta, 1.0)


def conditions(ops: Any, head: HeadArchitecture, p: Params, beta: Array, rate: Array) -> Array:
    """What is added to the conditioned layers, ``(N, total)``.

    ``beta``, 0..`LARGEST_BETA`, and ``rate``, the rate point as a share of the highest, are ``(N, 1)``.
    """
    if head.condition == "table":
        beta_weights = ops.hats(beta * ((TABLE_STEPS - 1) / LARGEST_BETA), TABLE_STEPS)
        return beta_weights @ p["beta_table"] + ops.hats(rate * (RATE_STEPS - 1), RATE_STEPS) @ p["rate_table"]
    x = ops.concat([ops.waves(beta / LARGEST_BETA, OCTAVES), ops.waves(rate, OCTAVES)], -1)
    x = ops.relu(x @ p["condition_in"] + p["condition_in_bias"])
    x = ops.relu(x @ p["condition_hidden"] + p["condition_hidden_bias"])
    return x @ p["condition_out"] + p["condition_out_bias"]


def detail(ops: Any, head: HeadArchitecture, p: Params, y: Array, x: Array, condition: Array) -> Array:
    """What to add to the pixels, times beta: ``(..., 16 h, 16 w, 3)``.

    ``y`` are latents ``(..., h + 2 LATENT_REACH, w + 2 LATENT_REACH, C)``, ``x`` reconstructed pixels
    around 0..1 with `PIXEL_REACH` latent positions of margin, ``condition`` ``(..., total)`` that of
    `conditions`.
    """
    begin, bias = 0, []
    for width in head.conditioned:
        bias.append(condition[..., begin : begin + width])
        begin += width
    a = ops.dense(y, p["latent_in"][: y.shape[-1]]) + bias[0]
    a = inside(a, 1) + ops.conv3(ops.relu(a), p["latent_first"]) + bias[1]
    a = inside(a, 1) + ops.conv3(ops.relu(a), p["latent_second"])
    per_latent = PIXELS_PER_LATENT // GRID
    surplus = PIXEL_REACH * per_latent - (2 + head.depth)
    handed = inside(ops.depth_to_space(ops.dense(ops.relu(a), p["latent_out"]), per_latent), surplus)
    cells = inside(ops.space_to_depth(x - 0.5, GRID), surplus)
    a = ops.conv3(ops.concat([cells, handed], -1), p["pixel_in"]) + bias[2]
    for i in range(head.depth):
        a = inside(a, 1) + ops.conv3(ops.relu(a), p[f"pixel{i}"]) + bias[3 + i]
    return ops.depth_to_space(ops.conv3(ops.relu(a), p["pixel_out"]), GRID)
