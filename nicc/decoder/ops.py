"""The array operations of `nicc.decoder.networks` for NumPy, channels last, no batch axis."""

from __future__ import annotations

import numpy as np

from nicc.architecture import HIDDEN_BITS, ROW_BITS

Array = np.ndarray


def concat(arrays: list[Array], axis: int) -> Array:
    return np.concatenate(arrays, axis)


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def row_hidden(x: Array) -> Array:
    """Integers in units of 2**-ROW_BITS to hidden units 0..255, floor division by a power of two."""
    return np.clip(np.floor(x * 2.0 ** (HIDDEN_BITS - ROW_BITS)), 0, 255).astype(x.dtype)


def _padded(x: Array) -> Array:
    out = np.zeros((x.shape[0] + 2, x.shape[1] + 2, x.shape[2]), x.dtype)
    out[1:-1, 1:-1] = x
    return out


def _shifted(x: Array, offsets: list[tuple[int, int]]) -> Array:
    h, w, c = x.shape
    p = _padded(x)
    out = np.empty((h, w, len(offsets) * c), x.dtype)
    for n, (i, j) in enumerate(offsets):
        out[..., n * c : (n + 1) * c] = p[1 + i : 1 + i + h, 1 + j : 1 + j + w]
    return out


def window(x: Array) -> Array:
    """``(h, w, 9 C)``: the 3x3 surroundings of every position, zero outside."""
    return _shifted(x, [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])


def cross(x: Array) -> Array:
    """``(h, w, 4 C)``: the neighbours above, left, right and below, zero outside."""
    return _shifted(x, [(-1, 0), (0, -1), (0, 1), (1, 0)])


def cross_sum(x: Array) -> Array:
    """``(h, w, C)``: the sum over the neighbours above, left, right and below."""
    p = _padded(x)
    return p[:-2, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] + p[2:, 1:-1]


def transposed_conv(x: Array, weight: Array, stride: int) -> Array:
    """Transposed convolution of ``(h, w, C)`` with ``(C, k, k, D)``, uncropped.

    One matrix product, then an overlap-add of at most four shifted views, since the stride is at
    least half the kernel.
    """
    h, w, c = x.shape
    _, k, _, d = weight.shape
    tiles = (x.reshape(-1, c) @ weight.reshape(c, -1)).reshape(h, w, k, k, d)
    out = np.zeros((h + 1, stride, w + 1, stride, d), x.dtype)
    rest = k - stride
    out[:h, :, :w] += tiles[:, :, :stride, :stride].transpose(0, 2, 1, 3, 4)
    out[1:, :rest, :w] += tiles[:, :, stride:, :stride].transpose(0, 2, 1, 3, 4)
    out[:h, :, 1:, :rest] += tiles[:, :, :stride, stride:].transpose(0, 2, 1, 3, 4)
    out[1:, :rest, 1:, :rest] += tiles[:, :, stride:, stride:].transpose(0, 2, 1, 3, 4)
    return out.reshape((h + 1) * stride, (w + 1) * stride, d)[: h * stride + rest, : w * stride + rest]


def subpixel_conv(x: Array, weight: Array) -> Array:
    """Transposed convolution, kernel 6, stride 2, as a 3x3 convolution to four phases.

    ``x`` is ``(h + 2, w + 2, C)``, ``weight`` ``(3, 3, C, 4 D)`` with outputs ordered (row phase,
    column phase, channel); the result is ``(2 h, 2 w, D)``.
    """
    h, w, c = x.shape[0] - 2, x.shape[1] - 2, x.shape[2]
    d = weight.shape[-1] // 4
    rows = np.empty((h + 2, w, 3 * c), x.dtype)
    for j in range(3):
        rows[..., j * c : (j + 1) * c] = x[:, j : j + w]
    flat, out = rows.reshape(-1, 3 * c), None
    for i in range(3):
        part = flat[i * w : (i + h) * w] @ weight[i].reshape(3 * c, 4 * d)
        out = part if out is None else np.add(out, part, out=out)
    assert out is not None
    return out.reshape(h, w, 2, 2, d).transpose(0, 2, 1, 3, 4).reshape(2 * h, 2 * w, d)
