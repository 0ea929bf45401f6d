"""How the distortion changes with decoded pixels: gradients of SSIMULACRA 2 and the squared error, in NumPy.

`nicc.encoder.distortion` has the values, of whole images in strips. Here a part of an image is compared at once, and
what counts next to nothing is left out: gradients only say where to go.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from nicc.encoder.distortion import blurred_down, halved, light, luma_error, xyb_of
from nicc.images import LUMA
from nicc.ssimulacra2 import (
    BLUR_REACH,
    C2,
    ENCODING_SHARE,
    EXPONENT,
    KNEE,
    MIDDLE_WEIGHT,
    MSE_PER_RAW,
    OFFSET,
    OPSIN,
    RED_GREEN,
    SLOPE,
    SMALLEST,
    SUM_SCALE,
    TINY,
    weights_of,
)

F = np.float32
Array = np.ndarray
LEAST_WEIGHT = 0.01
"""Colours whose weights are all below it at a scale are left out there."""


def squared_error_gradient(original: Array, decoded: Array) -> Array:
    """The gradient of the squared error (mean of the colours, 0..255), summed over pixels, as `visual_gradient`."""
    gradient: Array = (decoded.astype(F) - original) * F(2 * 255 / 3)
    return gradient


def visual_gradient(original: Array, decoded: Array, scales: int) -> Array:
    """The gradient of `nicc.ssimulacra2.encoding_distortion`, summed over pixels, by decoded sRGB in 0..1.

    Float32 ``(h, w, 3)``. Both images are uint8; ``scales`` are those of the whole image that they are a part of. An
    image too small for any scale has no part of SSIMULACRA 2.
    """
    gradient = squared_error_gradient(original, decoded)
    error = luma_error(original, decoded)
    middle = _blurred(error - _blurred(error)) * F(2 * 255 * MIDDLE_WEIGHT)
    gradient += middle[..., None] * np.array(LUMA, F)
    gradient *= F(1 - ENCODING_SHARE)
    if scales:
        pixels = original.shape[0] * original.shape[1]
        gradient += raw_gradient(original, decoded, scales) * F(ENCODING_SHARE * MSE_PER_RAW * pixels)
    return gradient


def raw_gradient(original: Array, decoded: Array, scales: int) -> Array:
    """The gradient of SSIMULACRA 2's weighted sum by decoded sRGB in 0..1, as `visual_gradient` takes images."""
    weights = weights_of(scales).astype(F)
    a, b = [light()[original]], [light()[decoded]]
    while len(a) < scales and -(-min(a[-1].shape[:2]) // 2) >= SMALLEST:
        a.append(halved(a[-1]))
        b.append(halved(b[-1]))
    found: Array | None = None
    for scale in range(len(a) - 1, -1, -1):
        here = _scale_gradient(a[scale], b[scale], weights[:, scale])
        if found is not None:
            here += _halved_adjoint(found, *here.shape[:2])
        found = here
    assert found is not None
    return found * _light_slope()[decoded]


def _halved_adjoint(g: Array, height: int, width: int) -> Array:
    """The adjoint of `halved`, to an image of this size."""
    out = (g * F(0.25)).repeat(2, 0).repeat(2, 1)
    if height % 2:
        out[height - 1] *= 2
    if width % 2:
        out[:, width - 1] *= 2
    return out[:height, :width]


@lru_cache(maxsize=1)
def _light_slope() -> Array:
    """The derivative of `light` by sRGB in 0..1."""
    x = np.arange(256) / 255
    steep = EXPONENT / (1 + OFFSET) * ((x + OFFSET) / (1 + OFFSET)) ** (EXPONENT - 1)
    return np.where(x <= KNEE, 1 / SLOPE, steep).astype(F)


def _scale_gradient(a: Array, b: Array, weights: Array) -> Array:
    """The gradient of one scale's part by linear light ``b`` ``(h, w, 3)``; ``weights`` ``(3 colours, 2, 3 maps)``."""
    colours = [c for c in range(3) if weights[c].max() >= LEAST_WEIGHT]
    if not colours:
        return np.zeros_like(b)
    x, _ = xyb_of(a)
    y, roots = xyb_of(b)
    planes = {c: _plane_gradient(x[c], y[c], weights[c]) for c in colours}
    zero = F(0)
    by_x, by_y, by_b = (planes.get(c, zero) for c in range(3))
    luma = (by_y - by_b) / 2
    by_root = np.stack(np.broadcast_arrays(luma + RED_GREEN * by_x, luma - RED_GREEN * by_x, by_b), -1)
    found: Array = (by_root / (3 * np.square(roots))) @ np.array(OPSIN, F)
    return found


def _plane_gradient(x: Array, y: Array, weights: Array) -> Array:
    """The gradient by the plane ``y`` ``(h, w)`` of the maps' means and 4-norms, weighted."""
    mean_x, mean_y, xx, yy, xy = (_blurred(p) for p in (x, y, x * x, y * y, x * y))
    apart = mean_x - mean_y
    similar = 1 - apart * apart
    spread = (xx - mean_x * mean_x) + (yy - mean_y * mean_y) + F(C2)
    structure = (2 * (xy - mean_x * mean_y) + F(C2)) / spread
    by_lost = _map_gradient(1 - similar * structure, weights[:, 0])
    ratio = similar / spread
    by_yy = by_lost * ratio * structure
    by_xy = -2 * by_lost * ratio
    by_mean = -2 * by_lost * (structure * apart) - by_xy * mean_x - 2 * by_yy * mean_y

    beyond_x, beyond_y = np.abs(x - mean_x) + 1, y - mean_y
    edges = (np.abs(beyond_y) + 1) / beyond_x - 1
    by_edges = _map_gradient(edges, weights[:, 1]) - _map_gradient(-edges, weights[:, 2])
    direct = by_edges * np.sign(beyond_y) / beyond_x
    by_mean -= direct
    found: Array = direct + _blurred(by_mean) + 2 * y * _blurred(by_yy) + x * _blurred(by_xy)
    return found


def _map_gradient(values: Array, weights: Array) -> Array:
    """The gradient of the weighted mean and 4-norm, by a map whose negative values count as 0."""
    by_mean, by_norm = weights * F(SUM_SCALE / values.size)
    positive = np.maximum(values, 0)
    square = positive * positive
    fourth = float(np.vdot(square, square)) / values.size
    found: Array = square * positive * F(by_norm / (fourth + TINY) ** 0.75)
    if by_mean:
        found += by_mean * (values > 0)
    return found


def _blurred(plane: Array) -> Array:
    """Blurred by a Gaussian: zero beyond the sides, mirrored above and below. Its own adjoint."""
    wide = np.pad(plane, ((0, 0), (BLUR_REACH, BLUR_REACH)))
    across = blurred_down(wide.T).T
    return blurred_down(np.pad(across, ((BLUR_REACH, BLUR_REACH), (0, 0)), "symmetric"))
