"""Half the size and back: means of squares of 2x2 pixels of planes ``(3, h, w)`` float32, and their gradient."""

from __future__ import annotations

import numba as nb
import numpy as np

from nicc.pyramid.kernels.blocks import OPTIONS


@nb.njit(**OPTIONS, parallel=True, cache=True)
def halve(fine, coarse):  # type: ignore[no-untyped-def]
    """Means of 2x2; what an odd edge leaves are means of fewer."""
    planes, h, w = fine.shape
    rows, columns = coarse.shape[1:]
    for y in nb.prange(rows):
        below = min(2 * y + 1, h - 1)
        for i in range(planes):
            a, b, to = fine[i, 2 * y], fine[i, below], coarse[i, y]
            for j in range(w // 2):
                to[j] = np.float32(0.25) * (a[2 * j] + a[2 * j + 1] + b[2 * j] + b[2 * j + 1])
            if w % 2:
                to[columns - 1] = np.float32(0.5) * (a[w - 1] + b[w - 1])


@nb.njit(**OPTIONS, parallel=True, cache=True)
def halve_back(coarse, fine):  # type: ignore[no-untyped-def]
    """The gradient of `halve` is added to ``fine``."""
    planes, h, w = fine.shape
    for y in nb.prange(h):
        share = np.float32(1) if h % 2 and y == h - 1 else np.float32(0.5)
        for i in range(planes):
            of, to = coarse[i, y // 2], fine[i, y]
            for j in range(w // 2):
                g = np.float32(0.5) * share * of[j]
                to[2 * j] += g
                to[2 * j + 1] += g
            if w % 2:
                to[w - 1] += share * of[w // 2]
