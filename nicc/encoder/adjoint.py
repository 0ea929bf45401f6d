"""The synthesis with its gradient, in NumPy: what a change of pixels owes to latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.lib.stride_tricks import as_strided

from nicc.architecture import COLOUR_PHASES, PIXELS_PER_LATENT, Architecture
from nicc.decoder import directional, networks, ops
from nicc.decoder.directional import Filter

Array = np.ndarray
Params = Mapping[str, Array]
Adjoint = Callable[[Array], Array]
"""Gradients of pixels ``(16 h, 16 w, 3)`` to gradients of latents ``(h + 2, w + 2, C)``."""
GATHERED = 128
"""About as many positions' patches are gathered at a time."""


def synthesis(arch: Architecture, p: Params, y: Array, there: Filter | None = None) -> tuple[Array, Adjoint]:
    """Pixels as `nicc.decoder.directional.rendered` has them, and the adjoint there.

    The directional filter counts as the identity in the adjoint: it moves pixels by little. The adjoint must be called
    before anything else is rendered in this thread, and once.
    """
    kernels = networks.first_kernels(arch, p, y.shape[-1])
    margin = directional.margin_of(there)
    if arch.synthesis == "jpeg-like":
        pixels = directional.rendered(ops, arch, p, y, there)
        return pixels, lambda g: transposed_conv_adjoint(ops.zero_pad(g, margin), kernels, PIXELS_PER_LATENT, margin)
    hidden = networks.hidden_layer(ops, arch, p, y, margin)
    n = arch.hidden_channels

    def adjoint(g: Array) -> Array:
        inner = _subpixel_conv_adjoint(ops.zero_pad(g, margin), p["synthesis_out"])
        outer = np.empty(hidden.shape, np.float32)
        outer[..., :n] = _igdn_adjoint(hidden[..., :n], inner, p["igdn_beta"], p["igdn_gamma"])
        if arch.residual:
            outer[..., n:] = inner[..., :COLOUR_PHASES]
        return transposed_conv_adjoint(outer, kernels, PIXELS_PER_LATENT // 2, 1 + margin // 2)

    return directional.finished(ops, there, networks.from_hidden(ops, arch, p, hidden), margin), adjoint


def mirror_adjoint(p: Params, g: Array, top: bool, bottom: bool) -> Array:
    """Gradients ``(h + 2, w + 2, C)`` of latents with a margin to those of the latents ``(h, w, C)``.

    The adjoint of `nicc.decoder.networks.mirror` with a margin of 1; ``top`` and ``bottom`` say whether these rows
    of the margin are mirrored ones. Where not, they are left out.
    """
    across, down = p["parity"][:, : g.shape[-1]]
    inner = g[:, 1:-1].copy()
    inner[:, 0] += g[:, 0] * across
    inner[:, -1] += g[:, -1] * across
    out = inner[1:-1]
    if top:
        out[0] += inner[0] * down
    if bottom:
        out[-1] += inner[-1] * down
    return out


def transposed_conv_adjoint(g: Array, weights: list[Array], stride: int, margin: int) -> Array:
    """The adjoint of `nicc.decoder.ops.transposed_conv`: ``(stride h + 2 margin, ..., D)`` to ``(h + 2, w + 2, C)``."""
    kernel = weights[0].shape[1]
    around = stride + (kernel - stride) // 2 - margin
    padded = np.pad(g, ((around, around), (around, around), (0, 0)))
    h, w = ((n - kernel) // stride + 1 for n in padded.shape[:2])
    rows, columns, _ = padded.strides
    shape = h, w, kernel, kernel * g.shape[-1]
    patches = as_strided(padded, shape, (stride * rows, stride * columns, rows, padded.itemsize), writeable=False)
    matrices = [weight.reshape(len(weight), -1).T for weight in weights]
    out = np.empty((h, w, sum(map(len, weights))), np.float32)
    at_once = max(1, GATHERED // w)
    for top in range(0, h, at_once):
        some = np.ascontiguousarray(patches[top : top + at_once])
        here, done = out[top : top + at_once], 0
        for weight, matrix in zip(weights, matrices, strict=True):
            d = weight.shape[-1]
            part = some.reshape(len(some) * w, kernel * kernel, -1)[..., g.shape[-1] - d :]
            found = part.reshape(len(some) * w, -1) @ matrix
            here[..., done : done + len(weight)] = found.reshape(len(some), w, -1)
            done += len(weight)
    return out


def _igdn_adjoint(x: Array, g: Array, beta: Array, gamma: Array) -> Array:
    """The gradient of ``x (beta + abs(x) gamma)``, given that of its value."""
    found: Array = g * (np.abs(x) @ gamma + beta) + np.sign(x) * ((g * x) @ gamma.T)
    return found


def _subpixel_conv_adjoint(g: Array, weight: Array) -> Array:
    """The adjoint of `nicc.decoder.ops.subpixel_conv`: ``(2 h, 2 w, D)`` to ``(h + 2, w + 2, C)``."""
    flipped = weight[::-1, ::-1].swapaxes(-1, -2)
    phases = ops.zero_pad(ops.space_to_depth(g, 2), 2)
    return ops.conv3(phases, flipped.reshape(-1, flipped.shape[-1]))
