"""First latents of a pyramid, from pixels, by a network that is the encoder's alone: fitting goes on from there.

A U-Net from 1/2 to 1/128 of the resolution, its weights shared by all levels from 1/8 on: linear from pixels to
latents, but for residual blocks. It knows the start whose
networks the latents are for by scales and biases of its hidden units. Described once for NumPy and PyTorch:
functions take ``ops``, `nicc.decoder.ops` or `nicc.encoder.ops`, and arrays laid out channels last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicc.pyramid.layout import GRIDS

Array = Any
Params = Mapping[str, Array]

FINE, DEEP = 24, 48
"""Channels at 1/2, and at every coarser level."""
ALIGN = 1 << (GRIDS - 1)
"""Sides of images are multiples of this."""
BLOCKS = {"down1": FINE, "down2": DEEP, "down": DEEP, "up1": FINE, "up2": DEEP, "up": DEEP}
"""Residual blocks and their channels; the last of either way serves all levels from 1/8 on."""


def shapes(starts: int) -> dict[str, tuple[int, ...]]:
    """The network's arrays by name; matrices are ``(inputs, outputs)``."""
    out: dict[str, tuple[int, ...]] = {"in": (9 * 12, FINE), "in_bias": (FINE,)}
    out |= {"fall2": (4 * FINE, DEEP), "fall2_bias": (DEEP,), "fall": (4 * DEEP, DEEP), "fall_bias": (DEEP,)}
    out |= {"rise1": (DEEP, FINE), "rise": (DEEP, DEEP)}
    for name, width in BLOCKS.items():
        out |= {f"{name}_first": (9 * width, width), f"{name}_second": (9 * width, width)}
        out |= {f"{name}_scale": (starts, width), f"{name}_bias": (starts, width)}
    out |= {f"out{k}": (DEEP if k > 1 else FINE, 1 if k else 4) for k in range(GRIDS)}
    return out | {"out_scale": (starts, GRIDS), "out_bias": (starts, GRIDS)}


def level(name: str, k: int) -> str:
    """The name of what serves level ``k``, 1/2**k."""
    return f"{name}{k}" if k < 3 else name


def _block(ops: Any, p: Params, name: str, x: Array, start: int) -> Array:
    hidden = ops.conv3(ops.zero_pad(x, 1), p[f"{name}_first"])
    hidden = ops.relu(hidden * p[f"{name}_scale"][start] + p[f"{name}_bias"][start])
    return x + ops.conv3(ops.zero_pad(hidden, 1), p[f"{name}_second"])


def _doubled(ops: Any, x: Array) -> Array:
    """Every position four times."""
    return ops.depth_to_space(ops.concat([x] * 4, -1), 2)


def first_latents(ops: Any, p: Params, x: Array, start: int) -> list[Array]:
    """Grids ``(..., h, w, 1)``, finest first, for pixels ``(..., 128 n, 128 m, 3)`` in -0.5..0.5 and a start."""
    a = ops.conv3(ops.zero_pad(ops.space_to_depth(x, 2), 1), p["in"]) + p["in_bias"]
    levels = [_block(ops, p, "down1", a, start)]
    for k in range(2, GRIDS):
        fall = level("fall", k)
        a = ops.space_to_depth(levels[-1], 2) @ p[fall] + p[f"{fall}_bias"]
        levels.append(_block(ops, p, level("down", k), a, start))
    b = levels.pop()
    grids = [b @ p[f"out{GRIDS - 1}"]]
    for k in range(GRIDS - 2, 0, -1):
        b = levels.pop() + _doubled(ops, b @ p["rise1" if k == 1 else "rise"])
        b = _block(ops, p, level("up", k), b, start)
        grids.append(b @ p[f"out{k}"])
    grids.append(ops.depth_to_space(b @ p["out0"], 2))
    scale, bias = p["out_scale"][start], p["out_bias"][start]
    return [g * scale[k] + bias[k] for k, g in enumerate(reversed(grids))]
