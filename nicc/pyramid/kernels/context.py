"""The context network: bits of a grid and all gradients in one pass over it, block by block."""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from nicc.pyramid.kernels.blocks import (
    BANDS,
    LANES,
    OPTIONS,
    add,
    copy,
    exp_minus,
    gate,
    multiply,
    multiply_transposed,
    outer,
    rectify,
    subtract,
)

SMALLEST_MASS = np.float32(2.0**-16)
"""Added to every probability, so that gradients stay bounded; escapes cost about as much."""
BLOCK = 16
"""Blocks are computed up to a multiple of so many positions."""


@nb.njit(**OPTIONS, inline="always")
def _coarse_row(padded, y, x0, n, c):  # type: ignore[no-untyped-def]
    """The 3x3 values around ``n`` positions of a row, one after another in ``c``; ``padded`` by 1."""
    for k in range(9):
        start = x0 + k % 3
        copy(padded[y + k // 3, start : start + n], c[k], n)


@nb.njit(**OPTIONS, parallel=True, cache=True)
def coarse_forward(padded, weight, bias, out):  # type: ignore[no-untyped-def]
    """What the coarser grid adds to the first layer: ``out[i] = bias[i] + weight[i] . 3x3`` at each of its positions.

    ``padded`` is ``(h + 2, w + 2 + LANES)``, ``weight`` ``(units, 9)``, ``out`` ``(units, h, w)``.
    """
    units, h, w = out.shape
    bands = min(BANDS, h)
    for band in nb.prange(bands):
        c = np.zeros((9, LANES), np.float32)
        for y in range(band * h // bands, (band + 1) * h // bands):
            for x0 in range(0, w, LANES):
                n = min(LANES, w - x0)
                _coarse_row(padded, y, x0, n, c)
                for i in range(units):
                    to = out[i, y, x0 : x0 + n]
                    p0, p1, p2, p3, p4, p5, p6, p7, p8 = weight[i]
                    for j in range(n):
                        to[j] = (
                            (bias[i] + p0 * c[0, j] + p1 * c[1, j] + p2 * c[2, j])
                            + (p3 * c[3, j] + p4 * c[4, j] + p5 * c[5, j])
                            + (p6 * c[6, j] + p7 * c[7, j] + p8 * c[8, j])
                        )


@nb.njit(**OPTIONS, parallel=True, cache=True)
def coarse_backward(padded, weight, grad, gweight, gbias, gpadded):  # type: ignore[no-untyped-def]
    """The gradients of `coarse_forward` for ``grad`` ``(units, h, w)``, by band: add them up over the first axis.

    ``gpadded`` is ``(bands, rows + 2, w + 2 + LANES)``.
    """
    units, h, w = grad.shape
    bands = gweight.shape[0]
    rows = -(-units // 4) * 4  # what the blocks' functions ask for
    wide = np.zeros((rows, 12), np.float32)
    wide[:units, :9] = weight
    for band in nb.prange(bands):
        c = np.zeros((12, LANES), np.float32)
        g = np.zeros((rows, LANES), np.float32)
        d = np.zeros((12, LANES), np.float32)
        own = np.zeros((rows, 12), np.float32)
        r0 = band * h // bands
        for y in range(r0, (band + 1) * h // bands):
            for x0 in range(0, w, LANES):
                n = min(LANES, w - x0)
                _coarse_row(padded, y, x0, n, c)
                for i in range(units):
                    copy(grad[i, y, x0 : x0 + n], g[i], n)
                    s = np.float32(0)
                    for j in range(n):
                        s += g[i, j]
                    gbias[band, i] += s
                outer(g, c, own, n)
                d[:] = 0
                multiply_transposed(wide, g, d, n)
                for k in range(9):
                    start = x0 + k % 3
                    add(d[k], gpadded[band, y - r0 + k // 3, start : start + n], n)
        gweight[band] += own[:units, :9]


@nb.njit(**OPTIONS)
def _laplace(y, o, e, masses, n):  # type: ignore[no-untyped-def]
    """Nats of symbols ``y`` under means ``o[0]`` and log-scales ``o[1]``; their gradients for those in ``e``."""
    half, one = np.float32(0.5), np.float32(1)
    for j in range(n):
        t = y[j] - o[0, j]
        sign = one if t >= 0 else -one
        t = abs(t)
        raw = o[1, j]
        log_scale = min(max(raw, np.float32(-5)), np.float32(5))
        inverse = exp_minus(abs(log_scale))
        inverse = inverse if log_scale > 0 else one / inverse
        far, near = (t + half) * inverse, (t - half) * inverse
        f, g = half * exp_minus(far), half * exp_minus(abs(near))
        mass = (g - f if near > 0 else one - f - g) + SMALLEST_MASS
        masses[j] = mass
        e[0, j] = (f - g) * inverse * sign / mass
        e[1, j] = np.float32(0) if raw != log_scale else (f * far - g * near) / mass
    for j in range(n, LANES):
        e[0, j] = 0
        e[1, j] = 0
        masses[j] = one
    total = 0.0
    for j in range(0, n, 16):  # a product of 16 masses is at least 2**-256
        product = 1.0
        for i in range(16):
            product *= masses[j + i]
        total -= math.log(product)
    return total


@nb.njit(**OPTIONS)
def _load_base(base, y, x0, n, m, h1, o):  # type: ignore[no-untyped-def]
    """What the coarser grid gives, each of its positions for two of this row; zero from ``n`` to ``m``."""
    hidden = h1.shape[0]
    for i in range(hidden + 2):
        to = h1[i] if i < hidden else o[i - hidden]
        for j in range((n + 1) // 2):
            s = base[i, y // 2, x0 // 2 + j]
            to[2 * j] = s
            to[2 * j + 1] = s
        for j in range(2 * ((n + 1) // 2), m):
            to[j] = 0


@nb.njit(**OPTIONS)
def _add_base(gbase, y, x0, n, d1, e):  # type: ignore[no-untyped-def]
    """The gradient of `_load_base`; a pair's first row overwrites."""
    hidden = d1.shape[0]
    for i in range(hidden + 2):
        of = d1[i] if i < hidden else e[i - hidden]
        for j in range((n + 1) // 2):
            s = of[2 * j] + of[2 * j + 1]
            gbase[i, y // 2, x0 // 2 + j] = s if y % 2 == 0 else gbase[i, y // 2, x0 // 2 + j] + s


@nb.njit(**OPTIONS)
def _row(padded, base, y, first, geometry, weights, work, gradients, gbase, gpadded):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917 - arrays of a kernel
    """Nats and gradients of one row of a grid; ``first`` is the band's first row."""
    reach, dy, dx = geometry
    w1, w2, b2, w3, skip = weights
    c, h1, h2, d1, d2, dc, o, e, masses = work
    gw1, gw2, gb2, gw3, gskip, unused = gradients
    hidden, inputs = w1.shape
    w = padded.shape[1] - 2 * reach - LANES
    total = 0.0
    for x0 in range(0, w, LANES):
        n = min(LANES, w - x0)
        m = min(LANES, -(-n // BLOCK) * BLOCK)
        for k in range(inputs):
            line, start = padded[reach + y + dy[k]], reach + x0 + dx[k]
            copy(line[start : start + m], c[k], m)
        _load_base(base, y, x0, n, m, h1, o)
        multiply(w1, c, h1, m)
        rectify(h1, m)
        for i in range(hidden):
            for j in range(m):
                h2[i, j] = h1[i, j] + b2[i]
        multiply(w2, h1, h2, m)
        rectify(h2, m)
        multiply(w3, h2, o, m)
        multiply(skip, c, o, m)
        total += _laplace(padded[reach + y, reach + x0 :], o, e, masses, n)
        d2[:] = 0
        multiply_transposed(w3, e, d2, m)
        gate(d2, h2, gb2, m)
        d1[:, :m] = d2[:, :m]
        multiply_transposed(w2, d2, d1, m)
        gate(d1, h1, unused, m)
        _add_base(gbase, y, x0, n, d1, e)
        outer(e, h2, gw3, m)
        outer(d2, h1, gw2, m)
        outer(d1, c, gw1, m)
        outer(e, c, gskip, m)
        dc[:] = 0
        multiply_transposed(skip, e, dc, m)
        multiply_transposed(w1, d1, dc, m)
        line = gpadded[reach + y - first]
        subtract(e[0], line[reach + x0 : reach + x0 + n], n)
        for k in range(inputs):
            line, start = gpadded[reach + y - first + dy[k]], reach + x0 + dx[k]
            add(dc[k], line[start : start + n], n)
    return total


@nb.njit(**OPTIONS, parallel=True, cache=True)
def context(padded, base, geometry, weights, gradients, gbase, gpadded, nats):  # type: ignore[no-untyped-def]
    """Nats of a grid, and their gradients, by band.

    ``padded`` is ``(reach + h, w + 2 reach + LANES)``; ``base`` ``(hidden + 2, >= h / 2, >= w / 2)`` what
    `coarse_forward` gives; ``geometry`` reach, and dy, dx of the neighbours. ``weights`` are those of the first layer
    ``(hidden, neighbours)``, of the second, its bias, of the last ``(4, hidden)`` and of the connection past them
    ``(4, neighbours)``, whose last two rows are zero; ``gradients`` theirs and one that means nothing, each with a
    first axis for the bands, added to. ``gbase`` is overwritten; ``gpadded`` ``(bands, rows + reach, ...)`` added to.
    """
    hidden, inputs = weights[0].shape
    bands = gpadded.shape[0]
    h = padded.shape[0] - geometry[0]
    pairs = (h + 1) // 2
    for band in nb.prange(bands):
        work = (
            np.zeros((inputs, LANES), np.float32),
            np.zeros((hidden, LANES), np.float32),
            np.zeros((hidden, LANES), np.float32),
            np.zeros((hidden, LANES), np.float32),
            np.zeros((hidden, LANES), np.float32),
            np.zeros((inputs, LANES), np.float32),
            np.zeros((4, LANES), np.float32),
            np.zeros((4, LANES), np.float32),
            np.zeros(LANES, np.float32),
        )
        own = (
            gradients[0][band],
            gradients[1][band],
            gradients[2][band],
            gradients[3][band],
            gradients[4][band],
            gradients[5][band],
        )
        first = 2 * (band * pairs // bands)
        total = 0.0
        for y in range(first, min(h, 2 * ((band + 1) * pairs // bands))):
            total += _row(padded, base, y, first, geometry, weights, work, own, gbase, gpadded[band])
        nats[band] = total
