"""Latents in fitting: noisy soft rounding with its slope, and steps of Adam."""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from nicc.pyramid.kernels.blocks import BANDS, OPTIONS, exp_minus


@nb.njit(**OPTIONS, inline="always")
def _soft(x, temperature, scale):  # type: ignore[no-untyped-def]
    """Soft rounding and its slope; ``scale`` is 1 / (2 tanh(1 / (2 temperature)))."""
    half, one = np.float32(0.5), np.float32(1)
    f = np.floor(x)
    r = x - f - half
    sign = np.float32(2) * np.float32(r >= 0) - one
    e = exp_minus(np.float32(2) * sign * r / temperature)
    th = (one - e) / (one + e)
    return f + half + sign * th * scale, (one - th * th) * scale / temperature


@nb.njit(**OPTIONS, parallel=True, cache=True)
def soften(y, noise, deviation, temperature, q, slope):  # type: ignore[no-untyped-def]
    """Noisy soft rounding of flat latents ``y`` into ``q``, and dq/dy into ``slope``; ``noise`` has deviation 1."""
    sigma = np.float32(deviation)
    scale = np.float32(0.5 / math.tanh(0.5 / temperature))
    t = np.float32(temperature)
    n = y.shape[0]
    chunk = -(-n // BANDS)
    for band in nb.prange(BANDS):
        for i in range(band * chunk, min(n, (band + 1) * chunk)):
            a, da = _soft(y[i], t, scale)
            b, db = _soft(a + sigma * noise[i], t, scale)
            q[i] = b
            slope[i] = da * db


@nb.njit(**OPTIONS, parallel=True, cache=True)
def adam(y, grad, slope, m, v, rate, steps, betas):  # type: ignore[no-untyped-def]
    """The ``steps``-th step of Adam (two ``betas``) on flat latents, whose gradient is ``grad * slope``."""
    n = y.shape[0]
    chunk = -(-n // BANDS)
    beta1, beta2 = betas
    b1, b2, eps = np.float32(beta1), np.float32(beta2), np.float32(1e-8)
    step = np.float32(rate / (1 - beta1**steps))
    root = np.float32(1 / math.sqrt(1 - beta2**steps))
    for band in nb.prange(BANDS):
        for i in range(band * chunk, min(n, (band + 1) * chunk)):
            g = grad[i] * slope[i]
            m[i] = b1 * m[i] + (np.float32(1) - b1) * g
            v[i] = b2 * v[i] + (np.float32(1) - b2) * g * g
            y[i] -= step * m[i] / (math.sqrt(v[i]) * root + eps)
