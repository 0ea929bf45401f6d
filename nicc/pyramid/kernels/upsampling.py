"""Upsampling of grids by 2 with eight mirrored taps, and its gradients."""

from __future__ import annotations

import numba as nb
import numpy as np

from nicc.pyramid.kernels.blocks import BANDS, OPTIONS


@nb.njit(**OPTIONS, parallel=True, cache=True)
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


@nb.njit(**OPTIONS, parallel=True, cache=True)
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


@nb.njit(**OPTIONS, parallel=True, cache=True)
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


@nb.njit(**OPTIONS, parallel=True, cache=True)
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
