"""The array operations of `nicc.decoder.networks` for NumPy, channels last, no batch axis."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from nicc.architecture import HIDDEN_BITS, ROW_BITS
from nicc.decoder import bilateral, transposed
from nicc.decoder.workspace import workspace

Array = np.ndarray
transposed_conv = transposed.transposed_conv
joint_bilateral = bilateral.joint_bilateral


def concat(arrays: list[Array], axis: int) -> Array:
    return np.concatenate(arrays, axis)


def dense(x: Array, weight: Array) -> Array:
    """``x @ weight``, a matrix, as one product: NumPy's own makes one of every row of positions."""
    return (x.reshape(-1, x.shape[-1]) @ weight).reshape(*x.shape[:-1], weight.shape[-1])


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def gelu(x: Array) -> Array:
    """The Gaussian error linear unit in its tanh form; ``x`` is overwritten by intermediate values."""
    inner = x * x
    inner *= 0.044715
    inner += 1
    inner *= x
    inner *= math.sqrt(2 / math.pi)
    np.tanh(inner, out=inner)
    inner += 1
    x *= 0.5
    inner *= x
    return inner


def log(x: Array) -> Array:
    return np.log(x)


def absolute(x: Array) -> Array:
    return np.abs(x)


def permute(x: Array, axes: tuple[int, ...]) -> Array:
    return np.ascontiguousarray(x.transpose(axes))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def exp_within(x: Array, limit: float) -> Array:
    """exp(x), x clipped to -limit..limit."""
    return np.exp(np.clip(x, -limit, limit))


def like(constant: Array, _: Array) -> Array:
    """A constant beside arrays of the library."""
    return constant


def constant(x: Array) -> Array:
    """``x``, through which no gradient passes."""
    return x


def unit(x: Array) -> Array:
    """``x``, clipped to 0..1."""
    return np.clip(x, 0, 1)


def clipped(x: Array, limit: float) -> Array:
    """``x``, clipped to -limit..limit."""
    return np.minimum(np.maximum(x, -limit), limit)


def weighed_differences(
    centre: Array, pairs: list[tuple[Array, Array]], limits: tuple[float, ...], weights: Array
) -> Array:
    """Clipped differences of pairs of neighbours from the centre, ``(..., n)``, weighed and summed.

    ``weights`` ``(limits pairs, n)`` are of all pairs for the first limit of the clip, then for the next.
    """
    shape, dtype = centre.shape, centre.dtype
    apart, within = workspace("differences", (2, 2 * len(pairs), *shape), dtype)
    for out, neighbour in zip(apart, itertools.chain(*pairs), strict=True):
        np.subtract(neighbour, centre, out=out)
    total = np.zeros(shape, dtype)
    rows = iter(weights)
    for limit in limits:
        np.clip(apart, -limit, limit, out=within)
        for one, other in within.reshape(-1, 2, *shape):
            np.add(one, other, out=one)
            np.multiply(one, next(rows), out=one)
            total += one
    return total


def chosen(x: Array, index: Array) -> Array:
    """The entries of ``x`` ``(k, n)`` at ``index`` ``(n,)`` along its first axis."""
    found: Array = np.take_along_axis(x, index[None], 0)[0]
    return found


def grouped(index: Array, count: int) -> tuple[Array, list[int]]:
    """An order ``(n,)`` in which entries 0..count - 1 of ``index`` ``(n,)`` stand together, and their bounds in it."""
    order = np.argsort(index, kind="stable")
    return order, np.searchsorted(index[order], np.arange(count + 1)).tolist()


def hats(x: Array, count: int) -> Array:
    """Weights ``(..., count)`` that interpolate linearly between 0, 1, ... count - 1 at ``x`` ``(..., 1)``."""
    return np.maximum(1 - np.abs(x - np.arange(count, dtype=x.dtype)), 0)


def waves(x: Array, octaves: int) -> Array:
    """Sines and cosines of ``x`` ``(..., 1)`` in octaves from half a period on."""
    angles = x * (np.pi * 2.0 ** np.arange(octaves)).astype(x.dtype)
    return np.concatenate([np.sin(angles), np.cos(angles)], -1)


def depth_to_space(x: Array, factor: int) -> Array:
    """``(h, w, factor factor D)``, channels (row, column, channel), to ``(factor h, factor w, D)``."""
    h, w, c = x.shape
    d = c // factor**2
    return x.reshape(h, w, factor, factor, d).transpose(0, 2, 1, 3, 4).reshape(factor * h, factor * w, d)


def space_to_depth(x: Array, factor: int) -> Array:
    """The inverse of `depth_to_space`."""
    h, w, d = x.shape[0] // factor, x.shape[1] // factor, x.shape[2]
    return x.reshape(h, factor, w, factor, d).transpose(0, 2, 1, 3, 4).reshape(h, w, factor**2 * d)


def blocks(x: Array, side: int, reach: int) -> Array:
    """``(h + 2 reach, w + 2 reach)`` in squares beside each other, each with what is around it.

    ``(side + 2 reach, side + 2 reach, n)``, row by row: the same pixel of all squares lies side by side. The result is
    overwritten by the next call.
    """
    h, w = (n - 2 * reach for n in x.shape)
    rows, columns = x.strides
    whole, shape = side + 2 * reach, (h // side, w // side)
    out = workspace("blocks", (whole, whole, *shape), x.dtype)
    out[...] = as_strided(x, out.shape, (rows, columns, side * rows, side * columns), writeable=False)
    return out.reshape(whole, whole, -1)


def unblocked(x: Array, order: Array, shape: tuple[int, ...], reach: int) -> Array:
    """Squares ``(side, side, n)`` in an order of those that `blocks` made of ``(h + 2 reach, w + 2 reach, ...)``.

    The result is ``(h, w)`` and is overwritten by the next call.
    """
    side, (h, w) = len(x), (n - 2 * reach for n in shape[:2])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    out = workspace("unblocked", (h // side, side, w // side, side), x.dtype)
    out[...] = x.take(back, 2).reshape(side, side, h // side, w // side).transpose(2, 0, 3, 1)
    return out.reshape(h, w)


def add_to_colours(x: Array, changes: list[Array]) -> Array:
    """``x`` ``(h, w, 3)`` with changes ``(h, w)``, one for each colour, added."""
    out = np.empty(x.shape, x.dtype)
    for colour, change in enumerate(changes):
        np.add(x[..., colour], change, out=out[..., colour])
    return out


def row_hidden(x: Array) -> Array:
    """Integers in units of 2**-ROW_BITS to hidden units 0..255, floor division by a power of two."""
    x = x * x.dtype.type(2.0 ** (HIDDEN_BITS - ROW_BITS))
    np.floor(x, out=x)
    return np.clip(x, 0, 255, out=x)


def igdn(x: Array, beta: Array, gamma: Array) -> Array:
    """Inverse GDN-1, x (beta + abs(x) gamma). The result is overwritten by the next call."""
    size = np.abs(x, out=workspace("magnitudes", x.shape, x.dtype))
    n = x.shape[-1]
    y = workspace("igdn", x.shape, x.dtype)
    np.matmul(size.reshape(-1, n), gamma, out=y.reshape(-1, n))
    y += beta
    y *= x
    return y


def zero_pad(x: Array, margin: int) -> Array:
    """``(h, w, C)`` with a margin of zeros on every side."""
    h, w, c = x.shape
    out = np.zeros((h + 2 * margin, w + 2 * margin, c), x.dtype)
    out[margin : margin + h, margin : margin + w] = x
    return out


def window(x: Array, reach: int = 1) -> Array:
    """``(h, w, k k C)``, k = 2 reach + 1: the surroundings of every position, zero outside."""
    return lattice_window(zero_pad(x, reach), reach, reach)


def lattice_window(padded: Array, margin: int, reach: int, begin: tuple[int, int] = (0, 0), stride: int = 1) -> Array:
    """`window` of an array with a margin, at every ``stride``-th position from ``begin`` on."""
    h, w, c = (padded.shape[0] - 2 * margin, padded.shape[1] - 2 * margin, padded.shape[2])
    rows, columns = (len(range(b, n, stride)) for b, n in zip(begin, (h, w), strict=True))
    side, offset = 2 * reach + 1, margin - reach
    down, right, along = padded.strides
    around = as_strided(
        padded[offset + begin[0] :, offset + begin[1] :],
        (rows, columns, side, side, c),
        (stride * down, stride * right, down, right, along),
        writeable=False,
    )
    return around.reshape(rows, columns, side * side * c)


def cross_sum(x: Array) -> Array:
    """``(h, w, C)``: the sum over the neighbours above, left, right and below."""
    p = zero_pad(x, 1)
    return p[:-2, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] + p[2:, 1:-1]


def diagonal_sum(x: Array) -> Array:
    """``(h, w, C)``: the sum over the four diagonal neighbours."""
    p = zero_pad(x, 1)
    return p[:-2, :-2] + p[:-2, 2:] + p[2:, :-2] + p[2:, 2:]


def conv3(x: Array, weight: Array) -> Array:
    """3x3 convolution of ``(h + 2, w + 2, C)`` with ``(9 C, D)``, rows (row, column, channel).

    The result is overwritten by the next call.
    """
    h, w, c = x.shape[0] - 2, x.shape[1] - 2, x.shape[2]
    weight = weight.reshape(3, 3 * c, -1)
    x = np.ascontiguousarray(x)
    windows = as_strided(x, (h + 2, w, 3 * c), x.strides)  # three neighbours in a row lie side by side
    rows = workspace("windows", (h + 2, w, 3 * c), x.dtype)
    rows[...] = windows
    rows = rows.reshape(-1, 3 * c)
    out, part = workspace("convolved", (2, h * w, weight.shape[-1]), x.dtype)
    np.matmul(rows[: h * w], weight[0], out=out)
    for i in (1, 2):
        out += np.matmul(rows[i * w : (i + h) * w], weight[i], out=part)
    return out.reshape(h, w, -1)


def subpixel_conv(x: Array, weight: Array, bias: Array) -> Array:
    """Transposed convolution, kernel 6, stride 2, as a 3x3 convolution to four phases, plus ``bias`` ``(D,)``.

    ``x`` is ``(h + 2, w + 2, C)``, ``weight`` ``(3, 3, C, 4 D)`` with outputs ordered (row phase,
    column phase, channel); the result is ``(2 h, 2 w, D)``.
    """
    phases = conv3(x, weight.reshape(-1, weight.shape[-1]))
    phases += np.tile(bias, 4)
    return depth_to_space(phases, 2)
