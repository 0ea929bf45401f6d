"""SSIMULACRA 2's weighted sum and its gradient: colours, blurs and maps, row by row.

`nicc.encoder.visual` has the formulas in PyTorch. Planes are ``(3, h, w)`` float32.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from nicc import ssimulacra2 as metric
from nicc.pyramid.kernels.blocks import OPTIONS

TAPS = tuple(metric.blur_taps()[metric.BLUR_REACH :].astype(np.float32))
"""Of the Gaussian, from its middle outwards."""
MATRIX = tuple(tuple(np.float32(v) for v in row) for row in metric.OPSIN)
BIAS, ROOT_BIAS = np.float32(metric.OPSIN_BIAS), np.float32(metric.OPSIN_BIAS ** (1 / 3))
SCALE_X = np.float32(metric.RED_GREEN)
TO_X, TO_Y, TO_B = (np.float32(v) for v in metric.POSITIVE)


def _power(exponent: float, lowest: float, highest: float) -> tuple[tuple[np.float32, ...], np.float32, np.float32]:
    """A polynomial, highest power first, of ``s * scale + offset`` for s**exponent, to 3e-7 of it."""
    fit = Chebyshev.interpolate(lambda s: s**exponent, 9, domain=[lowest, highest])
    coefficients = Chebyshev(fit.coef).convert(kind=Polynomial).coef[::-1]
    scale = 2 / (highest - lowest)
    return tuple(np.float32(c) for c in coefficients), np.float32(scale), np.float32(-1 - lowest * scale)


LINEAR, LINEAR_SCALE, LINEAR_OFFSET = _power(
    2 * (metric.EXPONENT - 2), math.sqrt((metric.KNEE + metric.OFFSET) / (1 + metric.OFFSET)), 1.0
)
CUBE, CUBE_SCALE, CUBE_OFFSET = _power(4 / 3, metric.OPSIN_BIAS**0.25, (1 + metric.OPSIN_BIAS) ** 0.25)


@nb.njit(**OPTIONS, inline="always")
def _horner(c, t):  # type: ignore[no-untyped-def]
    p = ((c[0] * t + c[1]) * t + c[2]) * t + c[3]
    p = ((p * t + c[4]) * t + c[5]) * t + c[6]
    return ((p * t + c[7]) * t + c[8]) * t + c[9]


@nb.njit(**OPTIONS, inline="always")
def _cube_root(x):  # type: ignore[no-untyped-def]
    """Of the bias to 1 and the bias."""
    return _horner(CUBE, np.float32(math.sqrt(math.sqrt(x))) * CUBE_SCALE + CUBE_OFFSET)


@nb.njit(**OPTIONS, parallel=True, cache=True)
def linear_light(image, linear, slope):  # type: ignore[no-untyped-def]
    """sRGB around -0.5..0.5, clipped to it, to linear light, and the slope, which is zero where it was clipped."""
    planes, h, w = image.shape
    for y in nb.prange(h):
        for i in range(planes):
            of, to, rise = image[i, y], linear[i, y], slope[i, y]
            for j in range(w):
                v = of[j] + np.float32(0.5)
                x = min(max(v, np.float32(0)), np.float32(1))
                p = (max(x, np.float32(0.04)) + np.float32(metric.OFFSET)) * np.float32(1 / (1 + metric.OFFSET))
                q = p * _horner(LINEAR, np.float32(math.sqrt(p)) * LINEAR_SCALE + LINEAR_OFFSET)  # p**1.4
                low = x <= np.float32(metric.KNEE)
                to[j] = x * np.float32(1 / metric.SLOPE) if low else p * q
                d = np.float32(1 / metric.SLOPE) if low else np.float32(metric.EXPONENT / (1 + metric.OFFSET)) * q
                rise[j] = d if v == x else np.float32(0)


@nb.njit(**OPTIONS, parallel=True, cache=True)
def opponent(linear, xyb):  # type: ignore[no-untyped-def]
    """Linear RGB to XYB, scaled and moved to positive values."""
    h, w = linear.shape[1:]
    for y in nb.prange(h):
        red, green, blue = linear[0, y], linear[1, y], linear[2, y]
        for j in range(w):
            r, g, b = red[j], green[j], blue[j]
            p = _cube_root(MATRIX[0][0] * r + MATRIX[0][1] * g + MATRIX[0][2] * b + BIAS) - ROOT_BIAS
            q = _cube_root(MATRIX[1][0] * r + MATRIX[1][1] * g + MATRIX[1][2] * b + BIAS) - ROOT_BIAS
            s = _cube_root(MATRIX[2][0] * r + MATRIX[2][1] * g + MATRIX[2][2] * b + BIAS) - ROOT_BIAS
            luma = np.float32(0.5) * (p + q)
            xyb[0, y, j] = (p - q) * SCALE_X + TO_X
            xyb[1, y, j] = luma + TO_Y
            xyb[2, y, j] = s - luma + TO_B


@nb.njit(**OPTIONS, inline="always")
def _root_slope(g, x):  # type: ignore[no-untyped-def]
    """``g`` times the slope of the cube root that is ``x``."""
    return g / (np.float32(3) * x * x)


@nb.njit(**OPTIONS, parallel=True, cache=True)
def opponent_back(xyb, grad, out):  # type: ignore[no-untyped-def]
    """The gradient of `opponent`, whose results are ``xyb``."""
    h, w = xyb.shape[1:]
    for y in nb.prange(h):
        for j in range(w):
            luma = xyb[1, y, j] - TO_Y + ROOT_BIAS
            half = (xyb[0, y, j] - TO_X) * np.float32(0.5 / metric.RED_GREEN)
            third = xyb[2, y, j] - TO_B + luma
            gx, gb = grad[0, y, j] * SCALE_X, grad[2, y, j]
            gluma = np.float32(0.5) * (grad[1, y, j] - gb)
            p, q = _root_slope(gluma + gx, luma + half), _root_slope(gluma - gx, luma - half)
            s = _root_slope(gb, third)
            for i in range(3):
                out[i, y, j] = MATRIX[0][i] * p + MATRIX[1][i] * q + MATRIX[2][i] * s


@nb.njit(**OPTIONS, inline="always")
def _across(padded, out, n):  # type: ignore[no-untyped-def]
    """The Gaussian along a row that has `BLUR_REACH` zeros on both sides."""
    for j in range(n):
        out[j] = (
            TAPS[0] * padded[j + 5]
            + TAPS[1] * (padded[j + 4] + padded[j + 6])
            + TAPS[2] * (padded[j + 3] + padded[j + 7])
            + TAPS[3] * (padded[j + 2] + padded[j + 8])
            + TAPS[4] * (padded[j + 1] + padded[j + 9])
            + TAPS[5] * (padded[j] + padded[j + 10])
        )


@nb.njit(**OPTIONS, inline="always")
def _mirrored(y, h):  # type: ignore[no-untyped-def]
    """The row of an image of ``h`` that stands for row ``y``; edges are repeated by the mirror."""
    y = -1 - y if y < 0 else y
    return 2 * h - 1 - y if y >= h else y


@nb.njit(**OPTIONS, inline="always")
def _down(plane, y, out, n):  # type: ignore[no-untyped-def]
    """The Gaussian down the columns, at one row."""
    h = plane.shape[0]
    a0 = plane[y]
    a1, b1 = plane[_mirrored(y - 1, h)], plane[_mirrored(y + 1, h)]
    a2, b2 = plane[_mirrored(y - 2, h)], plane[_mirrored(y + 2, h)]
    a3, b3 = plane[_mirrored(y - 3, h)], plane[_mirrored(y + 3, h)]
    a4, b4 = plane[_mirrored(y - 4, h)], plane[_mirrored(y + 4, h)]
    a5, b5 = plane[_mirrored(y - 5, h)], plane[_mirrored(y + 5, h)]
    for j in range(n):
        out[j] = (
            TAPS[0] * a0[j]
            + TAPS[1] * (a1[j] + b1[j])
            + TAPS[2] * (a2[j] + b2[j])
            + TAPS[3] * (a3[j] + b3[j])
            + TAPS[4] * (a4[j] + b4[j])
            + TAPS[5] * (a5[j] + b5[j])
        )


@nb.njit(**OPTIONS, parallel=True, cache=True)
def products_across(x, y, out):  # type: ignore[no-untyped-def]
    """Rows of y, y y and x y, blurred along: ``out`` ``(3, 3, h, w)``, products first."""
    planes, h, w = y.shape
    for row in nb.prange(h):
        padded = np.zeros(w + 2 * metric.BLUR_REACH, np.float32)
        middle = padded[metric.BLUR_REACH : metric.BLUR_REACH + w]
        for i in range(planes):
            a, b = x[i, row], y[i, row]
            for j in range(w):
                middle[j] = b[j]
            _across(padded, out[0, i, row], w)
            for j in range(w):
                middle[j] = b[j] * b[j]
            _across(padded, out[1, i, row], w)
            for j in range(w):
                middle[j] = b[j] * a[j]
            _across(padded, out[2, i, row], w)


@nb.njit(**OPTIONS, parallel=True, cache=True)
def across(plane, out):  # type: ignore[no-untyped-def]
    """Rows of a plane ``(h, w)``, blurred along."""
    h, w = plane.shape
    for row in nb.prange(h):
        padded = np.zeros(w + 2 * metric.BLUR_REACH, np.float32)
        of, middle = plane[row], padded[metric.BLUR_REACH : metric.BLUR_REACH + w]
        for j in range(w):
            middle[j] = of[j]
        _across(padded, out[row], w)


@nb.njit(**OPTIONS, parallel=True, cache=True)
def down(across, out):  # type: ignore[no-untyped-def]
    """Planes ``(n, 3, h, w)`` blurred down their columns."""
    planes, colours, h, w = across.shape
    for row in nb.prange(h):
        for k in range(planes):
            for i in range(colours):
                _down(across[k, i], row, out[k, i, row], w)


@nb.njit(**OPTIONS, inline="always")
def _maps(x, y, mx, my, vx, yy, xy):  # type: ignore[no-untyped-def]
    """Similarity's parts, and the edges of ``y`` against those of ``x``; ``vx`` is the variance of x."""
    similar = np.float32(1) - (mx - my) * (mx - my)
    inverse = np.float32(1) / (vx + (yy - my * my) + np.float32(metric.C2))
    structure = (np.float32(2) * (xy - mx * my) + np.float32(metric.C2)) * inverse
    sharp = np.float32(1) / (np.float32(1) + abs(x - mx))
    edges = (np.float32(1) + abs(y - my)) * sharp - np.float32(1)
    return similar, structure, inverse, sharp, edges


@nb.njit(**OPTIONS, parallel=True, cache=True)
def sums(x, y, mean_x, variance_x, means, rows):  # type: ignore[no-untyped-def]
    """Sums along rows of the three maps and of their fourth powers: ``rows`` ``(3 colours, 2, 3 maps, h)``.

    ``means`` ``(3, 3, h, w)`` are y, y y and x y, blurred.
    """
    planes, h, w = y.shape
    for row in nb.prange(h):
        for i in range(planes):
            a, b, mx, vx = x[i, row], y[i, row], mean_x[i, row], variance_x[i, row]
            my, yy, xy = means[0, i, row], means[1, i, row], means[2, i, row]
            s0 = s1 = s2 = q0 = q1 = q2 = np.float32(0)
            for j in range(w):
                similar, structure, _, _, edges = _maps(a[j], b[j], mx[j], my[j], vx[j], yy[j], xy[j])
                d = max(np.float32(1) - similar * structure, np.float32(0))
                more, less = max(edges, np.float32(0)), max(-edges, np.float32(0))
                s0, s1, s2 = s0 + d, s1 + more, s2 + less
                d, more, less = d * d, more * more, less * less
                q0, q1, q2 = q0 + d * d, q1 + more * more, q2 + less * less
            rows[i, 0, 0, row], rows[i, 0, 1, row], rows[i, 0, 2, row] = s0, s1, s2
            rows[i, 1, 0, row], rows[i, 1, 1, row], rows[i, 1, 2, row] = q0, q1, q2


@nb.njit(**OPTIONS, parallel=True, cache=True)
def maps_back(x, y, mean_x, variance_x, means, factors, grad):  # type: ignore[no-untyped-def]
    """Gradients of the weighted sums: ``means`` is overwritten by theirs, ``grad`` ``(3, h, w)`` by that of y alone.

    ``factors`` ``(3 colours, 2, 3 maps)`` are those of the sums of the maps, and of third powers.
    """
    planes, h, w = y.shape
    for row in nb.prange(h):
        for i in range(planes):
            a, b, mx, vx, g = x[i, row], y[i, row], mean_x[i, row], variance_x[i, row], grad[i, row]
            my, yy, xy = means[0, i, row], means[1, i, row], means[2, i, row]
            f0, f1, f2 = factors[i, 0]
            c0, c1, c2 = factors[i, 1]
            for j in range(w):
                m, n = mx[j], my[j]
                similar, structure, inverse, sharp, edges = _maps(a[j], b[j], m, n, vx[j], yy[j], xy[j])
                d = np.float32(1) - similar * structure
                gd = f0 + c0 * d * d * d if d > 0 else np.float32(0)
                e = abs(edges)
                ge = f1 + c1 * e * e * e if edges > 0 else -(f2 + c2 * e * e * e)
                ge = ge * sharp if b[j] > n else -ge * sharp
                toward = gd * similar * inverse
                g[j] = ge
                my[j] = -ge - gd * np.float32(2) * (m - n) * structure - np.float32(2) * toward * (n * structure - m)
                yy[j] = toward * structure
                xy[j] = np.float32(-2) * toward


@nb.njit(**OPTIONS, parallel=True, cache=True)
def products_back(x, y, down, grad):  # type: ignore[no-untyped-def]
    """Gradients of means, blurred down, are blurred along and go to y: added to ``grad``."""
    planes, h, w = y.shape
    for row in nb.prange(h):
        padded = np.zeros(w + 2 * metric.BLUR_REACH, np.float32)
        middle = padded[metric.BLUR_REACH : metric.BLUR_REACH + w]
        found = np.zeros(w, np.float32)
        for i in range(planes):
            a, b, g = x[i, row], y[i, row], grad[i, row]
            for k in range(3):
                of = down[k, i, row]
                for j in range(w):
                    middle[j] = of[j]
                _across(padded, found, w)
                if k == 0:
                    for j in range(w):
                        g[j] += found[j]
                elif k == 1:
                    for j in range(w):
                        g[j] += np.float32(2) * b[j] * found[j]
                else:
                    for j in range(w):
                        g[j] += a[j] * found[j]
