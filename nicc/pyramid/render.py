"""Latent grids to pixels in NumPy: upsampling, pointwise synthesis, two 3x3 filters; in bands, on all threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nicc.pyramid.layout import GRIDS
from nicc.threads import one_blas_thread, pool

BAND_PIXELS = 1 << 15
"""Pixels that are synthesised together: what the hidden units of so many take stays in a cache."""


def upsample(x: np.ndarray, taps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Planes ``(planes, h, w)`` to twice the size, cut to ``(planes, height, width)``; edges repeat."""
    return _doubled(_doubled(x, taps, height, 1), taps, width, 2)


def _doubled(x: np.ndarray, taps: np.ndarray, size: int, axis: int) -> np.ndarray:
    n = x.shape[axis]
    around = [(0, 0)] * 3
    around[axis] = (2, 2)
    padded = np.pad(x, around, mode="edge")
    part = [padded[(slice(None),) * axis + (slice(i, i + n),)] for i in range(5)]
    shape = list(x.shape)
    shape[axis] = size
    out = np.empty(shape, np.float32)
    for odd in (0, 1):
        count = (size - odd + 1) // 2
        near = part[::-1] if odd else part
        terms = (taps[0] * near[0], taps[2] * near[1], taps[3] * near[2], taps[1] * near[3])
        out[(slice(None),) * axis + (slice(odd, None, 2),)] = sum(terms)[(slice(None),) * axis + (slice(count),)]
    return out


def filtered(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3x3 filters, inputs ``(3, h + 2, w + 2)``, outputs ``(3, h, w)``."""
    h, w = x.shape[1] - 2, x.shape[2] - 2
    columns = np.stack([x[i, y : y + h, j : j + w] for i in range(3) for y in range(3) for j in range(3)])
    out = weight.reshape(3, 27) @ columns.reshape(27, h * w)
    return (out + bias[:, None]).reshape(3, h, w)


def colours(net: Mapping[str, np.ndarray], planes: np.ndarray) -> np.ndarray:
    """The pointwise synthesis of ``(grids, h, w)``: ``(3, h, w)``."""
    t = planes.reshape(GRIDS, -1)
    hidden = net["colour_in"] @ t
    hidden += net["colour_bias"][:, None]
    np.maximum(hidden, 0, out=hidden)
    out = net["colour_out"] @ hidden
    out += net["colour_linear"] @ t
    out += net["base"][:, None]
    return out.reshape(3, *planes.shape[1:])


@one_blas_thread()
def render(net: Mapping[str, np.ndarray], grids: Sequence[np.ndarray]) -> np.ndarray:
    """Pixels, uint8 ``(height, width, 3)``, of symbol grids, finest first. ``net``: parameters by name, float32."""
    height, width = grids[0].shape
    x = grids[-1][None].astype(np.float32)
    for k in range(GRIDS - 2, 0, -1):
        x = np.concatenate([grids[k][None].astype(np.float32), upsample(x, net["taps"][k], *grids[k].shape)])
    rows = max(2, BAND_PIXELS // width // 2 * 2)
    out = np.empty((height, width, 3), np.uint8)

    def band(top: int) -> None:
        # two rows beyond, for the two filters
        first, last = max(top - 2, 0), min(top + rows + 2, height)
        begin, end = max(first // 2 - 2, 0), min((last + 1) // 2 + 2, x.shape[1])
        part = upsample(x[:, begin:end], net["taps"][0], 2 * (end - begin), width)
        part = part[:, first - 2 * begin : last - 2 * begin]
        planes = np.concatenate([grids[0][None, first:last].astype(np.float32), part])
        plain = np.pad(colours(net, planes), ((0, 0), (1, 1), (1, 1)), mode="edge")
        middle = np.maximum(filtered(plain, net["filter1"], net["filter1_bias"]), 0)
        final = (
            filtered(np.pad(middle, ((0, 0), (1, 1), (1, 1)), mode="edge"), net["filter2"], net["filter2_bias"])
            + plain[:, 1:-1, 1:-1]
        )
        bottom = min(top + rows, height)
        final = final[:, top - first : bottom - first] + np.float32(0.5)
        np.rint(np.clip(final * np.float32(255), 0, 255, out=final), out=final)
        out[top:bottom] = final.transpose(1, 2, 0)

    list(pool().map(band, range(0, height, rows)))
    return out
