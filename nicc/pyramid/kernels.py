"""A step of fitting, fused: values and gradients computed band by band in the cache (Numba).

Every kernel works on bands of rows whose number does not depend on the processors, and sums over bands are
taken in their order, so that results are the same for any number of threads. `nicc.pyramid.reference` is the same
arithmetic in plain PyTorch, against which the tests hold it.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

LANES = 256
"""Positions of a row that are worked on together."""
BANDS = 16
SMALLEST_MASS = np.float32(2.0**-16)
LOG2_E = np.float32(1 / math.log(2))
FAST = {"nnan", "ninf", "nsz", "arcp", "contract", "afn", "reassoc"}


def bands_of(height: int) -> int:
    return min(BANDS, height)


@nb.njit(fastmath=FAST, inline="always")
def _exp_minus(a):  # type: ignore[no-untyped-def]
    """exp(-a) for a >= 0, to 1e-5, of operations that a compiler can vectorise."""
    t = min(a, np.float32(60.0)) * np.float32(1 / 64)
    p = np.float32(1) - t * (
        np.float32(1)
        - t
        * (
            np.float32(0.5)
            - t * (np.float32(1 / 6) - t * (np.float32(1 / 24) - t * (np.float32(1 / 120) - t * np.float32(1 / 720))))
        )
    )
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    return p


@nb.njit(fastmath=FAST, inline="always")
def _soft(x, temperature, scale):  # type: ignore[no-untyped-def]
    """Soft rounding and its slope; ``scale`` is 1 / (2 tanh(1 / (2 temperature)))."""
    f = math.floor(x)
    r = (x - f - np.float32(0.5)) / temperature
    e = _exp_minus(np.float32(2) * abs(r))
    th = (np.float32(1) - e) / (np.float32(1) + e)
    slope = (np.float32(1) - th * th) * scale / temperature
    if r < 0:
        th = -th
    return f + np.float32(0.5) + th * scale, slope


@nb.njit(fastmath=FAST, parallel=True, cache=True)
def soften(y, noise, temperature, q, slope):  # type: ignore[no-untyped-def]
    """Noisy soft rounding of flat latents ``y`` into ``q``, and dq/dy into ``slope``."""
    scale = np.float32(0.5 / math.tanh(0.5 / temperature))
    t = np.float32(temperature)
    n = y.shape[0]
    chunk = -(-n // BANDS)
    for band in nb.prange(BANDS):
        for i in range(band * chunk, min(n, (band + 1) * chunk)):
            a, da = _soft(y[i], t, scale)
            b, db = _soft(a + noise[i], t, scale)
            q[i] = b
            slope[i] = da * db


@nb.njit(fastmath=FAST, parallel=True, cache=True)
def adam(y, grad, slope, m, v, rate, correction1, correction2):  # type: ignore[no-untyped-def]
    """A step of Adam (betas 0.9, 0.999) on flat latents, whose gradient is ``grad * slope``."""
    n = y.shape[0]
    chunk = -(-n // BANDS)
    b1, b2, eps = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
    step = np.float32(rate / correction1)
    root = np.float32(1 / math.sqrt(correction2))
    for band in nb.prange(BANDS):
        for i in range(band * chunk, min(n, (band + 1) * chunk)):
            g = grad[i] * slope[i]
            m[i] = b1 * m[i] + (np.float32(1) - b1) * g
            v[i] = b2 * v[i] + (np.float32(1) - b2) * g * g
            y[i] -= step * m[i] / (math.sqrt(v[i]) * root + eps)


@nb.njit(fastmath=FAST)
def _multiply(weight, x, out):  # type: ignore[no-untyped-def]
    """``out += weight @ x`` for blocks of `LANES`; both sides of ``weight`` are multiples of 4."""
    for i in range(0, weight.shape[0], 2):
        for k in range(0, weight.shape[1], 4):
            p0, p1, p2, p3 = weight[i, k], weight[i, k + 1], weight[i, k + 2], weight[i, k + 3]
            q0, q1, q2, q3 = weight[i + 1, k], weight[i + 1, k + 1], weight[i + 1, k + 2], weight[i + 1, k + 3]
            for j in range(LANES):
                x0, x1, x2, x3 = x[k, j], x[k + 1, j], x[k + 2, j], x[k + 3, j]
                out[i, j] += p0 * x0 + p1 * x1 + p2 * x2 + p3 * x3
                out[i + 1, j] += q0 * x0 + q1 * x1 + q2 * x2 + q3 * x3


@nb.njit(fastmath=FAST)
def _multiply_transposed(weight, x, out):  # type: ignore[no-untyped-def]
    """``out += weight.T @ x``."""
    for i in range(0, weight.shape[1], 2):
        for k in range(0, weight.shape[0], 4):
            p0, p1, p2, p3 = weight[k, i], weight[k + 1, i], weight[k + 2, i], weight[k + 3, i]
            q0, q1, q2, q3 = weight[k, i + 1], weight[k + 1, i + 1], weight[k + 2, i + 1], weight[k + 3, i + 1]
            for j in range(LANES):
                x0, x1, x2, x3 = x[k, j], x[k + 1, j], x[k + 2, j], x[k + 3, j]
                out[i, j] += p0 * x0 + p1 * x1 + p2 * x2 + p3 * x3
                out[i + 1, j] += q0 * x0 + q1 * x1 + q2 * x2 + q3 * x3


@nb.njit(fastmath=FAST)
def _outer(d, x, out):  # type: ignore[no-untyped-def]
    """``out += d @ x.T``."""
    for i in range(0, d.shape[0], 2):
        for k in range(0, x.shape[0], 4):
            s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = np.float32(0)
            for j in range(LANES):
                a, b = d[i, j], d[i + 1, j]
                s0 += a * x[k, j]
                s1 += a * x[k + 1, j]
                s2 += a * x[k + 2, j]
                s3 += a * x[k + 3, j]
                t0 += b * x[k, j]
                t1 += b * x[k + 1, j]
                t2 += b * x[k + 2, j]
                t3 += b * x[k + 3, j]
            out[i, k] += s0
            out[i, k + 1] += s1
            out[i, k + 2] += s2
            out[i, k + 3] += s3
            out[i + 1, k] += t0
            out[i + 1, k + 1] += t1
            out[i + 1, k + 2] += t2
            out[i + 1, k + 3] += t3


@nb.njit(fastmath=FAST, inline="always")
def _coarse_row(padded, y, x0, n, c):  # type: ignore[no-untyped-def]
    """The 3x3 values around ``n`` positions of a row, one after another in ``c``; ``padded`` by 1."""
    for k in range(9):
        yy, xx = y + k // 3, x0 + k % 3
        for j in range(n):
            c[k, j] = padded[yy, xx + j]


@nb.njit(fastmath=FAST, parallel=True, cache=True)
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
                    for j in range(n):
                        a = bias[i]
                        for k in range(9):
                            a += weight[i, k] * c[k, j]
                        out[i, y, x0 + j] = a


@nb.njit(fastmath=FAST, parallel=True, cache=True)
def coarse_backward(padded, weight, grad, gweight, gbias, gpadded):  # type: ignore[no-untyped-def]
    """The gradients of `coarse_forward` for ``grad`` ``(units, h, w)``, by band: add them up over the first axis.

    ``gpadded`` is ``(bands, rows + 2, w + 2 + LANES)``.
    """
    units, h, w = grad.shape
    bands = gweight.shape[0]
    for band in nb.prange(bands):
        c = np.zeros((9, LANES), np.float32)
        d = np.zeros(LANES, np.float32)
        r0 = band * h // bands
        for y in range(r0, (band + 1) * h // bands):
            for x0 in range(0, w, LANES):
                n = min(LANES, w - x0)
                _coarse_row(padded, y, x0, n, c)
                for i in range(units):
                    s = np.float32(0)
                    for j in range(n):
                        s += grad[i, y, x0 + j]
                    gbias[band, i] += s
                    for k in range(9):
                        s = np.float32(0)
                        for j in range(n):
                            s += grad[i, y, x0 + j] * c[k, j]
                        gweight[band, i, k] += s
                for k in range(9):
                    for j in range(n):
                        d[j] = 0
                    for i in range(units):
                        a = weight[i, k]
                        for j in range(n):
                            d[j] += a * grad[i, y, x0 + j]
                    yy, xx = y - r0 + k // 3, x0 + k % 3
                    for j in range(n):
                        gpadded[band, yy, xx + j] += d[j]


@nb.njit(fastmath=FAST, parallel=True, cache=True)
def context(padded, base, reach, dy, dx, w1, w2, b2, w3, skip, gradients, gbase, gpadded, bits):  # type: ignore[no-untyped-def]
    """Bits of a grid, in nats, and their gradients, by band.

    ``padded`` is ``(reach + h, w + 2 reach + LANES)``; ``base`` ``(H + 2, >= h / 2, >= w / 2)`` what `coarse_forward`
    gives; ``w1`` ``(H, K)`` reads the positions at ``dy``, ``dx``; ``skip`` ``(2, K)``. ``gradients`` are of w1, w2, b2,
    w3 and skip, each with a first axis for the bands; ``gbase`` is shaped like ``base`` and overwritten.
    """
    hidden, inputs = w1.shape
    gw1, gw2, gb2, gw3, gskip = gradients
    bands = gw1.shape[0]
    h, w = padded.shape[0] - reach, padded.shape[1] - 2 * reach - LANES
    pairs = (h + 1) // 2
    for band in nb.prange(bands):
        c = np.zeros((inputs, LANES), np.float32)
        h1 = np.zeros((hidden, LANES), np.float32)
        h2 = np.zeros((hidden, LANES), np.float32)
        d1 = np.zeros((hidden, LANES), np.float32)
        d2 = np.zeros((hidden, LANES), np.float32)
        o0 = np.zeros(LANES, np.float32)
        o1 = np.zeros(LANES, np.float32)
        e0 = np.zeros(LANES, np.float32)
        e1 = np.zeros(LANES, np.float32)
        masses = np.ones(LANES, np.float32)
        dc = np.zeros((inputs, LANES), np.float32)
        total = 0.0
        first = 2 * (band * pairs // bands)
        last = min(h, 2 * ((band + 1) * pairs // bands))
        for y in range(first, last):
            fresh = y % 2 == 0
            for x0 in range(0, w, LANES):
                n = min(LANES, w - x0)
                half = (n + 1) // 2
                for k in range(inputs):
                    yy = reach + y + dy[k]
                    xx = reach + x0 + dx[k]
                    for j in range(LANES):
                        c[k, j] = padded[yy, xx + j]
                for i in range(hidden):
                    for j in range(half):
                        s = base[i, y // 2, x0 // 2 + j]
                        h1[i, 2 * j] = s
                        h1[i, 2 * j + 1] = s
                _multiply(w1, c, h1)
                for i in range(hidden):
                    for j in range(LANES):
                        h1[i, j] = max(h1[i, j], np.float32(0))
                        h2[i, j] = h1[i, j] + b2[i]
                _multiply(w2, h1, h2)
                for i in range(hidden):
                    for j in range(LANES):
                        h2[i, j] = max(h2[i, j], np.float32(0))
                for j in range(half):
                    s, t = base[hidden, y // 2, x0 // 2 + j], base[hidden + 1, y // 2, x0 // 2 + j]
                    o0[2 * j] = s
                    o0[2 * j + 1] = s
                    o1[2 * j] = t
                    o1[2 * j + 1] = t
                for k in range(hidden):
                    p0, p1 = w3[0, k], w3[1, k]
                    for j in range(LANES):
                        o0[j] += p0 * h2[k, j]
                        o1[j] += p1 * h2[k, j]
                for k in range(inputs):
                    p0, p1 = skip[0, k], skip[1, k]
                    for j in range(LANES):
                        o0[j] += p0 * c[k, j]
                        o1[j] += p1 * c[k, j]
                for j in range(n):
                    t = padded[reach + y, reach + x0 + j] - o0[j]
                    s = np.float32(1) if t >= 0 else np.float32(-1)
                    t = abs(t)
                    raw = o1[j]
                    ls = min(max(raw, np.float32(-5)), np.float32(5))
                    big = _exp_minus(abs(ls))
                    isc = big if ls > 0 else np.float32(1) / big
                    up = (t + np.float32(0.5)) * isc
                    lo = (t - np.float32(0.5)) * isc
                    eu = _exp_minus(up)
                    el = _exp_minus(abs(lo))
                    mass = np.float32(0.5) * (el - eu) if lo > 0 else np.float32(1) - np.float32(0.5) * (el + eu)
                    mass += SMALLEST_MASS
                    masses[j] = mass
                    g = np.float32(-1) / mass
                    fu, fl = np.float32(0.5) * eu, np.float32(0.5) * el
                    dt = g * (fu - fl) * isc * s
                    e0[j] = -dt
                    e1[j] = np.float32(0) if raw != ls else -g * (fu * up - fl * lo)
                    gpadded[band, reach + y - first, reach + x0 + j] += dt
                for j in range(n):
                    total -= math.log(masses[j])
                for j in range(n, LANES):
                    e0[j] = 0
                    e1[j] = 0
                for k in range(hidden):
                    p0, p1 = w3[0, k], w3[1, k]
                    s0 = np.float32(0)
                    s1 = np.float32(0)
                    sb = np.float32(0)
                    for j in range(LANES):
                        a0 = h2[k, j]
                        s0 += e0[j] * a0
                        s1 += e1[j] * a0
                        r = (p0 * e0[j] + p1 * e1[j]) if a0 > 0 else np.float32(0)
                        d2[k, j] = r
                        sb += r
                    gw3[band, 0, k] += s0
                    gw3[band, 1, k] += s1
                    gb2[band, k] += sb
                for k in range(hidden):
                    for j in range(LANES):
                        d1[k, j] = d2[k, j]
                _multiply_transposed(w2, d2, d1)
                for k in range(hidden):
                    a = d1[k]
                    for j in range(LANES):
                        a[j] = a[j] if h1[k, j] > 0 else np.float32(0)
                    for j in range(half):
                        s = a[2 * j] + a[2 * j + 1]
                        if fresh:
                            gbase[k, y // 2, x0 // 2 + j] = s
                        else:
                            gbase[k, y // 2, x0 // 2 + j] += s
                for j in range(half):
                    s = e0[2 * j] + e0[2 * j + 1]
                    t = e1[2 * j] + e1[2 * j + 1]
                    if fresh:
                        gbase[hidden, y // 2, x0 // 2 + j] = s
                        gbase[hidden + 1, y // 2, x0 // 2 + j] = t
                    else:
                        gbase[hidden, y // 2, x0 // 2 + j] += s
                        gbase[hidden + 1, y // 2, x0 // 2 + j] += t
                _outer(d2, h1, gw2[band])
                _outer(d1, c, gw1[band])
                for k in range(inputs):
                    p0, p1 = skip[0, k], skip[1, k]
                    s0 = np.float32(0)
                    s1 = np.float32(0)
                    for j in range(LANES):
                        dc[k, j] = p0 * e0[j] + p1 * e1[j]
                        s0 += e0[j] * c[k, j]
                        s1 += e1[j] * c[k, j]
                    gskip[band, 0, k] += s0
                    gskip[band, 1, k] += s1
                _multiply_transposed(w1, d1, dc)
                for k in range(inputs):
                    yy = reach + y - first + dy[k]
                    xx = reach + x0 + dx[k]
                    for j in range(n):
                        gpadded[band, yy, xx + j] += dc[k, j]
        bits[band] = total


@nb.njit(fastmath=FAST, parallel=True, cache=True)
def upsample_rows(x, taps, out):  # type: ignore[no-untyped-def]
    """Twice as many rows: ``(planes, h, w)`` to ``(planes, H, w)`` with h = ceil(H / 2); edges repeat."""
    planes, h, w = x.shape
    height = out.shape[1]
    k0, k1, k2, k3 = taps[0], taps[1], taps[2], taps[3]
    for job in nb.prange(planes * height):
        p, row = job // height, job % height
        i, odd = row // 2, row % 2 == 1
        a, b, c = x[p, max(i - 2, 0)], x[p, max(i - 1, 0)], x[p, i]
        d, e = x[p, min(i + 1, h - 1)], x[p, min(i + 2, h - 1)]
        to = out[p, row]
        if odd:
            for j in range(w):
                to[j] = k0 * e[j] + k2 * d[j] + k3 * c[j] + k1 * b[j]
        else:
            for j in range(w):
                to[j] = k0 * a[j] + k2 * b[j] + k3 * c[j] + k1 * d[j]


@nb.njit(fastmath=FAST, parallel=True, cache=True)
def upsample_columns(x, taps, out):  # type: ignore[no-untyped-def]
    """Twice as many columns: ``(planes, H, w)`` to ``(planes, H, W)`` with w = ceil(W / 2); edges repeat."""
    planes, height, w = x.shape
    width = out.shape[2]
    k0, k1, k2, k3 = taps[0], taps[1], taps[2], taps[3]
    chunk = -(-planes * height // BANDS)
    for band in nb.prange(BANDS):
        line = np.empty(w + 4, np.float32)
        for job in range(band * chunk, min(planes * height, (band + 1) * chunk)):
            p, row = job // height, job % height
            line[2 : w + 2] = x[p, row]
            line[0] = line[1] = x[p, row, 0]
            line[w + 2] = line[w + 3] = x[p, row, w - 1]
            to = out[p, row]
            for j in range(width // 2):
                a, b, c, d, e = line[j], line[j + 1], line[j + 2], line[j + 3], line[j + 4]
                to[2 * j] = k0 * a + k2 * b + k3 * c + k1 * d
                to[2 * j + 1] = k0 * e + k2 * d + k3 * c + k1 * b
            if width % 2:
                to[width - 1] = k0 * line[w - 1] + k2 * line[w] + k3 * line[w + 1] + k1 * line[w + 2]


@nb.njit(fastmath=FAST, parallel=True, cache=True)
def upsample_columns_back(x, taps, grad, gx, gtaps):  # type: ignore[no-untyped-def]
    """Gradients of `upsample_columns`: ``gx`` is overwritten, ``gtaps`` ``(BANDS, 4)`` added to."""
    planes, height, w = x.shape
    width = grad.shape[2]
    k0, k1, k2, k3 = taps[0], taps[1], taps[2], taps[3]
    chunk = -(-planes * height // BANDS)
    for band in nb.prange(BANDS):
        line = np.empty(w + 4, np.float32)
        g = np.zeros((2, w + 4), np.float32)
        s0 = s1 = s2 = s3 = np.float32(0)
        for job in range(band * chunk, min(planes * height, (band + 1) * chunk)):
            p, row = job // height, job % height
            line[2 : w + 2] = x[p, row]
            line[0] = line[1] = x[p, row, 0]
            line[w + 2] = line[w + 3] = x[p, row, w - 1]
            # gradients of even and odd outputs, by the input in their middle, with zeros around them
            for j in range(width // 2):
                g[0, j + 2] = grad[p, row, 2 * j]
                g[1, j + 2] = grad[p, row, 2 * j + 1]
            if width % 2:
                g[0, w + 1] = grad[p, row, width - 1]
                g[1, w + 1] = 0
            for j in range(w):
                a, b, c, d, e = line[j], line[j + 1], line[j + 2], line[j + 3], line[j + 4]
                u, v = g[0, j + 2], g[1, j + 2]
                s0 += u * a + v * e
                s1 += u * d + v * b
                s2 += u * b + v * d
                s3 += (u + v) * c
            to = gx[p, row]
            for j in range(w):
                to[j] = (
                    k0 * (g[0, j + 4] + g[1, j])
                    + k1 * (g[0, j + 1] + g[1, j + 3])
                    + k2 * (g[0, j + 3] + g[1, j + 1])
                    + k3 * (g[0, j + 2] + g[1, j + 2])
                )
            # what lies beyond an edge was the edge
            to[0] += k0 * g[0, 2] + k0 * g[0, 3] + k2 * g[0, 2] + k1 * g[1, 2]
            to[w - 1] += k0 * g[1, w + 1] + k0 * g[1, w] + k2 * g[1, w + 1] + k1 * g[0, w + 1]
        gtaps[band, 0] += s0
        gtaps[band, 1] += s1
        gtaps[band, 2] += s2
        gtaps[band, 3] += s3


@nb.njit(fastmath=FAST, parallel=True, cache=True)
def upsample_rows_back(x, taps, grad, gx, gtaps):  # type: ignore[no-untyped-def]
    """Gradients of `upsample_rows`: ``gx`` is overwritten, ``gtaps`` ``(BANDS, 4)`` added to."""
    planes, h, w = x.shape
    height = grad.shape[1]
    k = taps
    chunk = -(-planes * h // BANDS)
    for band in nb.prange(BANDS):
        sums = np.zeros(4, np.float32)
        for job in range(band * chunk, min(planes * h, (band + 1) * chunk)):
            p, i = job // h, job % h
            to = gx[p, i]
            to[:] = 0
            # every output row that reads this one, and by which tap; at the edges by several
            for row in range(max(2 * i - 6, 0), min(2 * i + 8, height)):
                m, odd = row // 2, row % 2
                weight = np.float32(0)
                for tap in range(4):
                    back = (2, -1, 1, 0)[tap]  # k0 reads m - 2, k1 m + 1, k2 m - 1, k3 m; odd rows mirrored
                    at = m + back if odd else m - back
                    if min(max(at, 0), h - 1) == i:
                        weight += k[tap]
                if weight != 0:
                    g = grad[p, row]
                    for j in range(w):
                        to[j] += weight * g[j]
            for row in range(2 * i, min(2 * i + 2, height)):
                odd = row % 2
                g = grad[p, row]
                for tap in range(4):
                    back = (2, -1, 1, 0)[tap]
                    at = i + back if odd else i - back
                    source = x[p, min(max(at, 0), h - 1)]
                    s = np.float32(0)
                    for j in range(w):
                        s += g[j] * source[j]
                    sums[tap] += s
        for tap in range(4):
            gtaps[band, tap] += sums[tap]


@nb.njit(fastmath=FAST)
def _load(planes, start, n, c):  # type: ignore[no-untyped-def]
    for k in range(planes.shape[0]):
        for j in range(n):
            c[k, j] = planes[k, start + j]
        for j in range(n, LANES):
            c[k, j] = 0


@nb.njit(fastmath=FAST)
def _hidden(w1, b1, c, hidden):  # type: ignore[no-untyped-def]
    for i in range(w1.shape[0]):
        for j in range(LANES):
            hidden[i, j] = b1[i]
    _multiply(w1, c, hidden)
    for i in range(w1.shape[0]):
        for j in range(LANES):
            hidden[i, j] = max(hidden[i, j], np.float32(0))


@nb.njit(fastmath=FAST, parallel=True, cache=True)
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
            for i in range(4):
                for j in range(LANES):
                    o[i, j] = b2[i]
            _multiply(w2, hidden, o)
            _multiply(linear, c, o)
            for i in range(3):
                for j in range(n):
                    out[i, block * LANES + j] = o[i, j]


@nb.njit(fastmath=FAST, parallel=True, cache=True)
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
            _multiply_transposed(w2, g, back)
            for i in range(units):
                s = np.float32(0)
                for j in range(LANES):
                    back[i, j] = back[i, j] if hidden[i, j] > 0 else np.float32(0)
                    s += back[i, j]
                gb1[band, i] += s
            for i in range(3):
                s = np.float32(0)
                for j in range(LANES):
                    s += g[i, j]
                gb2[band, i] += s
            gc[:] = 0
            _multiply_transposed(w1, back, gc)
            _multiply_transposed(linear, g, gc)
            _outer(back, c, gw1[band])
            _outer(g, hidden, gw2[band])
            _outer(g, c, glinear[band])
            for k in range(inputs):
                for j in range(n):
                    gplanes[k, block * LANES + j] = gc[k, j]


@nb.njit(fastmath=FAST, parallel=True, cache=True)
def filter3(padded, weight, bias, out):  # type: ignore[no-untyped-def]
    """3x3 filters from three planes to three; ``padded`` ``(3, h + 2, w + 2)``, ``weight`` ``(3, 3, 3, 3)``."""
    _, h, w = out.shape
    for y in nb.prange(h):
        for o in range(3):
            to = out[o, y]
            for j in range(w):
                to[j] = bias[o]
            for i in range(3):
                for ky in range(3):
                    p0, p1, p2 = weight[o, i, ky, 0], weight[o, i, ky, 1], weight[o, i, ky, 2]
                    line = padded[i, y + ky]
                    for j in range(w):
                        to[j] += p0 * line[j] + p1 * line[j + 1] + p2 * line[j + 2]


@nb.njit(fastmath=FAST, parallel=True, cache=True)
def filter3_back(padded, grad, gweight, gbias):  # type: ignore[no-untyped-def]
    """Gradients of `filter3` for its weights and bias, by band: ``gweight`` ``(bands, 3, 3, 3, 3)``."""
    _, h, w = grad.shape
    bands = gweight.shape[0]
    for band in nb.prange(bands):
        for y in range(band * h // bands, (band + 1) * h // bands):
            for o in range(3):
                g = grad[o, y]
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
