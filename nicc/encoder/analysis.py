"""Analysis transforms: pixels to latents y, and latents to hyper-latents z, described once for NumPy and PyTorch.

The ``patch`` analysis is a linear lapped transform beside a residual network at 1/8 resolution; the
hyper-analysis pools magnitudes over 64x64 pixels and adds what a small network finds. Functions take
``ops``, `nicc.decoder.ops` or `nicc.encoder.ops`, and arrays laid out channels last, as in
`nicc.decoder.networks`. Weights are stored as PyTorch's convolutions have them; `analysis_matrices`
and `hyper_matrices` turn them into matrices ``(inputs, outputs)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicc.architecture import LATENTS_PER_HYPER, PIXELS_PER_LATENT, Architecture

Array = Any
Params = Mapping[str, Array]

LINEAR_KERNEL = 32
LINEAR_MARGIN = (LINEAR_KERNEL - PIXELS_PER_LATENT) // 2
"""Pixels around a block that the linear transform sees on every side."""
PATCH = 8
LOG_FLOOR = 0.03
HYPER_BANDS = 20
HYPER_MEANS = 8


def reach(arch: Architecture) -> int:
    """Latent positions around a latent whose pixels it depends on, rounded up."""
    if arch.analysis == "patch":
        return arch.analysis_depth + 1
    return {"cnn": 2, "elic": 10}[arch.analysis]


def _cells(ops: Any, weight: Array, size: int) -> Array:
    """A kernel ``(O, C, 2 size, 2 size)`` as a matrix for `_overlapping` patches."""
    outputs, channels = weight.shape[:2]
    parts = weight.reshape(outputs, channels, 2, size, 2, size)
    return ops.permute(parts, (2, 4, 3, 5, 1, 0)).reshape(-1, outputs)


def _matrix(ops: Any, weight: Array) -> Array:
    """A kernel ``(O, C, k, k)`` as a matrix, inputs in the order (row, column, channel)."""
    return ops.permute(weight, (2, 3, 1, 0)).reshape(-1, weight.shape[0])


def linear_matrix(ops: Any, state: Params) -> Array:
    """The lapped transform as a matrix, from the stored arrays of any analysis."""
    return _cells(ops, state["linear.weight"], PIXELS_PER_LATENT)


def analysis_matrices(ops: Any, state: Params, depth: int) -> dict[str, Array]:
    """The ``patch`` analysis of ``depth`` residual blocks as matrices, from its stored arrays by name."""
    p = {
        "linear": linear_matrix(ops, state),
        "colour": state["colour"],
        "in": _matrix(ops, state["body.0.weight"]),
        "in_bias": state["body.0.bias"],
        "out": _cells(ops, state[f"body.{depth + 1}.weight"], 2),
        "out_bias": state[f"body.{depth + 1}.bias"],
        "scale": state["out"],
    }
    for i in range(depth):
        for part in ("first", "second"):
            p[f"{part}{i}"] = _matrix(ops, state[f"body.{i + 1}.{part}.weight"])
            p[f"{part}{i}_bias"] = state[f"body.{i + 1}.{part}.bias"]
    return p


def _overlapping(ops: Any, x: Array, size: int) -> Array:
    """Patches of 2 ``size`` samples a side, ``size`` apart: one less than there are cells of ``size``."""
    c = ops.space_to_depth(x, size)
    parts = [c[..., :-1, :-1, :], c[..., :-1, 1:, :], c[..., 1:, :-1, :], c[..., 1:, 1:, :]]
    return ops.concat(parts, -1)


def linear_latents(ops: Any, p: Params, x: Array) -> Array:
    """The lapped transform of pixels ``(..., 16 h + 16, 16 w + 16, 3)``, `LINEAR_MARGIN` around: ``(..., h, w, C)``."""
    return ops.dense(_overlapping(ops, x - p["colour"], PIXELS_PER_LATENT), p["linear"])


def network_latents(ops: Any, p: Params, x: Array, depth: int) -> Array:
    """What a residual network at 1/8 resolution adds to the latents of pixels ``(..., 16 h, 16 w, 3)``."""
    a = ops.dense(ops.space_to_depth(x - p["colour"], PATCH), p["in"]) + p["in_bias"]
    for i in range(depth):
        b = ops.gelu(ops.conv3(ops.zero_pad(a, 1), p[f"first{i}"]) + p[f"first{i}_bias"])
        a = a + (ops.conv3(ops.zero_pad(b, 1), p[f"second{i}"]) + p[f"second{i}_bias"])
    return (ops.dense(_overlapping(ops, ops.zero_pad(a, 1), 2), p["out"]) + p["out_bias"]) * p["scale"]


def hyper_matrices(ops: Any, state: Params) -> dict[str, Array]:
    """The hyper-analysis as matrices, from its stored arrays by name."""
    return {
        "pooled": state["pooled"],
        "first": ops.permute(state["first.weight"], (1, 0)),
        "first_bias": state["first.bias"],
        "second": _matrix(ops, state["second.weight"]),
        "second_bias": state["second.bias"],
        "third": ops.permute(state["third.weight"], (1, 0)),
        "third_bias": state["third.bias"],
    }


def hyper_latents(ops: Any, p: Params, y: Array) -> Array:
    """Hyper-latents ``(..., h / 4, w / 4, Cz)`` of latents in units of their deviations; h and w multiples of 4.

    The first channels are interpretable: mean log magnitudes of bands of channels, then the means
    of the strongest channels. A network adds to them.
    """
    x = ops.concat([y, ops.log(ops.absolute(y) + LOG_FLOOR)], -1)
    h, w, c = x.shape[-3:]
    k = LATENTS_PER_HYPER
    cells = x.reshape(*x.shape[:-3], h // k, k, w // k, k, c)
    pooled = ops.dense(cells.mean((-4, -2)), p["pooled"])
    a = ops.relu(ops.dense(x, p["first"]) + p["first_bias"])
    a = ops.relu(ops.dense(ops.space_to_depth(a, k), p["second"]) + p["second_bias"])
    return pooled + (ops.dense(a, p["third"]) + p["third_bias"])
