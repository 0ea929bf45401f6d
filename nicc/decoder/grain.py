"""Grain: noise of luma that the receiver adds with realism, as strong as the file says.

What no decoder can predict, noise of film and of sensors, is cheaper described than coded, as in AV1's film grain
synthesis (Norkin and Birkbeck 2018). A pixel's noise follows from its place alone: a window, a strip or a tile has the
grain that it has in the whole image, on every machine.
"""

from __future__ import annotations

import numpy as np

KERNEL = (1, 6, 1)
"""By which neighbouring pixels are mixed, down and across, since the noise of pictures is not quite white."""
_FACTORS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D], np.uint32)
_DEVIATION = (4 * (256**2 - 1) / 12) ** 0.5 * sum(k * k for k in KERNEL) / sum(KERNEL) ** 2
"""Of four bytes' sum, mixed."""


def noise(top: int, left: int, height: int, width: int) -> np.ndarray:
    """Noise of mean 0 and variance 1, float32 ``(height, width)``: of pixels from row ``top``, column ``left`` on."""
    rows = np.arange(top, top + height + 2, dtype=np.uint32)[:, None] * _FACTORS[0]
    columns = np.arange(left, left + width + 2, dtype=np.uint32) * _FACTORS[1]
    v = rows ^ columns
    for _ in range(2):
        v ^= v >> np.uint32(15)
        v *= _FACTORS[2]
    v ^= v >> np.uint32(15)
    near_normal = v.view(np.uint8).reshape(*v.shape, 4).sum(-1, dtype=np.uint16)
    a, b, c = KERNEL
    near_normal = a * near_normal[:-2] + b * near_normal[1:-1] + c * near_normal[2:]
    mixed = a * near_normal[:, :-2] + b * near_normal[:, 1:-1] + c * near_normal[:, 2:]
    mean = 4 * 127.5 * sum(KERNEL) ** 2
    return (mixed.astype(np.float32) - np.float32(mean)) * np.float32(1 / (_DEVIATION * sum(KERNEL) ** 2))
