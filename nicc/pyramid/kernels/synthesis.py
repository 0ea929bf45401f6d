"""The pointwise synthesis and the 3x3 filters after it, and their gradients."""

from __future__ import annotations

import numba as nb
import numpy as np

from nicc.pyramid.kernels.blocks import (
    BANDS,
    LANES,
    OPTIONS,
    gate,
    multiply,
    multiply_transposed,
    outer,
    rectify,
    spread,
)


@nb.njit(**OPTIONS)
def _load(planes, start, n, c):  # type: ignore[no-untyped-def]
    for k in range(planes.shape[0]):
        for j in range(n):
            c[k, j] = planes[k, start + j]
        for j in range(n, LANES):
            c[k, j] = 0


@nb.njit(**OPTIONS)
def _hidden(w1, b1, c, hidden):  # type: ignore[no-untyped-def]
    spread(b1, hidden, LANES)
    multiply(w1, c, hidden, LANES)
    rectify(hidden, LANES)


@nb.njit(**OPTIONS, parallel=True, cache=True)
def colour(planes, w1, b1, w2, b2, linear, out):  # type: ignore[no-untyped-def]
    """The pointwise synthesis: ``out = w2 relu(w1 x + b1) + b2 + linear x`` at every pixel.

    ``planes`` ``(grids, pixels)``, ``out`` ``(4, pixels)``, of which the last plane means nothing; ``w2`` and
    ``linear`` have four rows.
    """
    inputs, pixels = planes.shape
    blocks = -(-pixels // LANES)
    for band in nb.prange(BANDS):
        c = np.zeros((inputs, LANES), np.float32)
        hidden = np.zeros((w1.shape[0], LANES), np.float32)
        o = np.zeros((4, LANES), np.float32)
        for block in range(band * blocks // BANDS, (band + 1) * blocks // BANDS):
            n = min(LANES, pixels - block * LANES)
            _load(planes, block * LANES, n, c)
            _hidden(w1, b1, c, hidden)
            spread(b2, o, LANES)
            multiply(w2, hidden, o, LANES)
            multiply(linear, c, o, LANES)
            for i in range(3):
                for j in range(n):
                    out[i, block * LANES + j] = o[i, j]


@nb.njit(**OPTIONS, parallel=True, cache=True)
def colour_back(planes, w1, b1, w2, linear, grad, gplanes, gradients):  # type: ignore[no-untyped-def]
    """Gradients of `colour` for ``grad`` ``(3, pixels)``: ``gplanes`` is overwritten.

    ``gradients`` are of w1, b1, w2, b2 and linear, each with a first axis for the bands, and added to.
    """
    gw1, gb1, gw2, gb2, glinear = gradients
    inputs, pixels = planes.shape
    units = w1.shape[0]
    blocks = -(-pixels // LANES)
    for band in nb.prange(BANDS):
        c = np.zeros((inputs, LANES), np.float32)
        hidden = np.zeros((units, LANES), np.float32)
        back = np.zeros((units, LANES), np.float32)
        g = np.zeros((4, LANES), np.float32)
        gc = np.zeros((inputs, LANES), np.float32)
        for block in range(band * blocks // BANDS, (band + 1) * blocks // BANDS):
            n = min(LANES, pixels - block * LANES)
            _load(planes, block * LANES, n, c)
            _load(grad, block * LANES, n, g)
            _hidden(w1, b1, c, hidden)
            back[:] = 0
            multiply_transposed(w2, g, back, LANES)
            gate(back, hidden, gb1[band], LANES)
            for i in range(3):
                s = np.float32(0)
                for j in range(LANES):
                    s += g[i, j]
                gb2[band, i] += s
            gc[:] = 0
            multiply_transposed(w1, back, gc, LANES)
            multiply_transposed(linear, g, gc, LANES)
            outer(back, c, gw1[band], LANES)
            outer(g, hidden, gw2[band], LANES)
            outer(g, c, glinear[band], LANES)
            for k in range(inputs):
                for j in range(n):
                    gplanes[k, block * LANES + j] = gc[k, j]


@nb.njit(**OPTIONS)
def _add_taps(taps, above, here, below, to, n):  # type: ignore[no-untyped-def]
    """``to`` plus a 3x3 filter of three lines."""
    p0, p1, p2, p3, p4, p5, p6, p7, p8 = taps
    for j in range(n):
        to[j] += (
            (p0 * above[j] + p1 * above[j + 1] + p2 * above[j + 2])
            + (p3 * here[j] + p4 * here[j + 1] + p5 * here[j + 2])
            + (p6 * below[j] + p7 * below[j + 1] + p8 * below[j + 2])
        )


@nb.njit(**OPTIONS, parallel=True, cache=True)
def filter3(padded, weight, bias, out, margin, positive):  # type: ignore[no-untyped-def]
    """3x3 filters from three planes to three, with a ReLU if ``positive``.

    ``padded`` is ``(3, h + 2, w + 2)``, ``weight`` ``(3, 3, 9)``; of ``out``, all but a ``margin`` is written.
    """
    h, w = padded.shape[1] - 2, padded.shape[2] - 2
    for y in nb.prange(h):
        for o in range(3):
            to = out[o, y + margin, margin : margin + w]
            for j in range(w):
                to[j] = bias[o]
            for i in range(3):
                p = weight[o, i]
                taps = p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8]
                _add_taps(taps, padded[i, y], padded[i, y + 1], padded[i, y + 2], to, w)
            if positive:
                for j in range(w):
                    to[j] *= np.float32(to[j] > 0)


@nb.njit(**OPTIONS, parallel=True, cache=True)
def filter3_back(padded, grad, gweight, gbias):  # type: ignore[no-untyped-def]
    """Gradients of `filter3` for its weights and bias, by band: ``gweight`` ``(bands, 3, 3, 3, 3)``.

    ``grad`` is ``(3, h + 4, w + 4)``, of which a margin of 2 is not read.
    """
    h, w = padded.shape[1] - 2, padded.shape[2] - 2
    bands = gweight.shape[0]
    for band in nb.prange(bands):
        for y in range(band * h // bands, (band + 1) * h // bands):
            for o in range(3):
                g = grad[o, y + 2, 2 : 2 + w]
                s = np.float32(0)
                for j in range(w):
                    s += g[j]
                gbias[band, o] += s
                for i in range(3):
                    for ky in range(3):
                        line = padded[i, y + ky]
                        s0 = s1 = s2 = np.float32(0)
                        for j in range(w):
                            s0 += g[j] * line[j]
                            s1 += g[j] * line[j + 1]
                            s2 += g[j] * line[j + 2]
                        gweight[band, o, i, ky, 0] += s0
                        gweight[band, o, i, ky, 1] += s1
                        gweight[band, o, i, ky, 2] += s2
