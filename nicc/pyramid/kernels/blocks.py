"""What the kernels are made of: blocks of positions side by side, so that a compiler can vectorise over them.

Numba caches a compiled kernel by the file that it stands in: after a change here, delete this folder's ``*.nbi``.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

# OpenMP's threads spin at every barrier, which takes three times as long beside other work
nb.config.THREADING_LAYER = "workqueue"  # type: ignore[attr-defined]
LANES = 256
"""Positions of a row that are worked on together."""
BANDS = 16
"""Bands of rows, each with sums of its own, which are added in their order: results do not depend on the threads."""
OPTIONS: dict[str, Any] = {
    "fastmath": {"nnan", "ninf", "nsz", "arcp", "contract", "afn", "reassoc"},
    "error_model": "numpy",  # a check for zero in a division keeps its loop from being vectorised
}


@nb.njit(**OPTIONS, inline="always")
def exp_minus(a):  # type: ignore[no-untyped-def]
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


@nb.njit(**OPTIONS)
def multiply(weight, x, out, n):  # type: ignore[no-untyped-def]
    """``out += weight @ x`` at the first ``n`` positions; both sides of ``weight`` are multiples of 4."""
    for i in range(0, weight.shape[0], 2):
        for k in range(0, weight.shape[1], 4):
            p0, p1, p2, p3 = weight[i, k], weight[i, k + 1], weight[i, k + 2], weight[i, k + 3]
            q0, q1, q2, q3 = weight[i + 1, k], weight[i + 1, k + 1], weight[i + 1, k + 2], weight[i + 1, k + 3]
            for j in range(n):
                x0, x1, x2, x3 = x[k, j], x[k + 1, j], x[k + 2, j], x[k + 3, j]
                out[i, j] += p0 * x0 + p1 * x1 + p2 * x2 + p3 * x3
                out[i + 1, j] += q0 * x0 + q1 * x1 + q2 * x2 + q3 * x3


@nb.njit(**OPTIONS)
def multiply_transposed(weight, x, out, n):  # type: ignore[no-untyped-def]
    """``out += weight.T @ x``, likewise."""
    for i in range(0, weight.shape[1], 2):
        for k in range(0, weight.shape[0], 4):
            p0, p1, p2, p3 = weight[k, i], weight[k + 1, i], weight[k + 2, i], weight[k + 3, i]
            q0, q1, q2, q3 = weight[k, i + 1], weight[k + 1, i + 1], weight[k + 2, i + 1], weight[k + 3, i + 1]
            for j in range(n):
                x0, x1, x2, x3 = x[k, j], x[k + 1, j], x[k + 2, j], x[k + 3, j]
                out[i, j] += p0 * x0 + p1 * x1 + p2 * x2 + p3 * x3
                out[i + 1, j] += q0 * x0 + q1 * x1 + q2 * x2 + q3 * x3


@nb.njit(**OPTIONS)
def outer(d, x, out, n):  # type: ignore[no-untyped-def]
    """``out += d @ x.T``, likewise."""
    for i in range(0, d.shape[0], 2):
        for k in range(0, x.shape[0], 4):
            s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = np.float32(0)
            for j in range(n):
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


@nb.njit(**OPTIONS)
def rectify(x, n):  # type: ignore[no-untyped-def]
    """ReLU in place."""
    for i in range(x.shape[0]):
        for j in range(n):
            x[i, j] *= np.float32(x[i, j] > 0)  # max() is not vectorised


@nb.njit(**OPTIONS)
def gate(grad, x, gbias, n):  # type: ignore[no-untyped-def]
    """The gradient before a ReLU whose outputs are ``x``, in place; its sums are added to ``gbias``."""
    for i in range(x.shape[0]):
        s = np.float32(0)
        for j in range(n):
            grad[i, j] = grad[i, j] if x[i, j] > 0 else np.float32(0)
            s += grad[i, j]
        gbias[i] += s


@nb.njit(**OPTIONS)
def spread(bias, out, n):  # type: ignore[no-untyped-def]
    """A bias for every unit, at every position."""
    for i in range(out.shape[0]):
        for j in range(n):
            out[i, j] = bias[i]


# Slices are taken by the caller: with an index that may be negative, a loop is not vectorised.


@nb.njit(**OPTIONS)
def copy(x, out, n):  # type: ignore[no-untyped-def]
    """``out = x`` at the first ``n`` positions."""
    for j in range(n):
        out[j] = x[j]


@nb.njit(**OPTIONS)
def add(x, out, n):  # type: ignore[no-untyped-def]
    """``out += x`` at the first ``n`` positions."""
    for j in range(n):
        out[j] += x[j]


@nb.njit(**OPTIONS)
def subtract(x, out, n):  # type: ignore[no-untyped-def]
    """``out -= x`` at the first ``n`` positions."""
    for j in range(n):
        out[j] -= x[j]


def band_count(height: int) -> int:
    """Bands of rows of an image or grid of some height."""
    return min(BANDS, height)
