"""What an encoding costs beside bits: the squared error, or SSIMULACRA 2 beside it, of decoded pixels (NumPy).

`nicc.encoder.visual` and `nicc.pyramid.visual` have gradients as well, for optimisation.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from nicc.images import LUMA
from nicc.ssimulacra2 import (
    BLUR_REACH,
    KNEE,
    OPSIN,
    OPSIN_BIAS,
    SLOPE,
    SUM_SCALE,
    TINY,
    above_knee,
    blur_taps,
    differences,
    opponent,
    scales_of,
    weights_of,
)
from nicc.threads import one_blas_thread, pool

STRIP_PIXELS = 1 << 15
"""About so many are compared at a time: they stay in a cache."""
F = np.float32
TAPS = blur_taps().astype(F)


def mean_squared_error(original: np.ndarray, decoded: np.ndarray) -> float:
    """Mean squared error of uint8 images of one shape, on the 0..255 scale."""
    error = original.astype(np.float32) - decoded
    return float(np.mean(np.square(error), dtype=np.float64))


@one_blas_thread()
def raw_difference(original: np.ndarray, decoded: np.ndarray) -> float:
    """The weighted sum of SSIMULACRA 2 before its polynomial, 0 for equal uint8 images ``(height, width, 3)``."""
    scales = scales_of(*original.shape[:2])
    weights = weights_of(scales)
    a, b, total = original, decoded, 0.0
    for scale in range(scales):
        if scale:
            a, b = halved(a), halved(b)
        mean, fourth = _moments(a, b)
        total += float((weights[:, scale, 0] * mean + weights[:, scale, 1] * (fourth + TINY) ** 0.25).sum())
    return total * SUM_SCALE


@one_blas_thread()
def middle_error(original: np.ndarray, decoded: np.ndarray) -> float:
    """The squared error of luma of middle frequencies: see `nicc.ssimulacra2.encoding_distortion`."""
    height = len(original)

    def part(strip: tuple[int, int]) -> float:
        at = mirrored(np.arange(strip[0] - BLUR_REACH, strip[1] + BLUR_REACH), height)
        error = luma_error(original[at], decoded[at])
        blurred = blurred_down(_blurred_across(error, 1))
        return float(np.vdot(blurred, error[BLUR_REACH:-BLUR_REACH] - blurred))

    return sum(pool().map(part, _strips(*original.shape[:2]))) / original[..., 0].size


def luma_error(original: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Errors of luma, 0..255, of uint8 images ``(h, w, 3)``."""
    error: np.ndarray = (decoded.astype(F) - original) @ np.array(LUMA, F)
    return error


def mirrored(rows: np.ndarray, height: int) -> np.ndarray:
    """Rows of an image that stand for those above and below it."""
    found: np.ndarray = np.where(rows < 0, -1 - rows, np.where(rows >= height, 2 * height - 1 - rows, rows))
    return found


@lru_cache(maxsize=1)
def light() -> np.ndarray:
    """Linear light of the 256 levels of sRGB, float32."""
    x = np.arange(256) / 255
    return np.where(x <= KNEE, x / SLOPE, above_knee(x)).astype(F)


def _linear(rows: np.ndarray) -> np.ndarray:
    """Linear light of rows of an image, which is uint8 at the first scale."""
    return light()[rows] if rows.dtype == np.uint8 else rows


def _strips(height: int, width: int) -> list[tuple[int, int]]:
    """Bounds of strips of rows, an even number in each but the last."""
    rows = max(2 * (STRIP_PIXELS // (2 * width)), 2)
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def halved(image: np.ndarray) -> np.ndarray:
    """Linear light, means of squares of 2x2 pixels: of what there is of them at the right and at the bottom."""
    height, width, _ = image.shape
    out = np.empty((-(-height // 2), -(-width // 2), 3), F)
    for top, bottom in _strips(height, width):
        rows = np.pad(_linear(image[top:bottom]), ((0, (bottom - top) % 2), (0, width % 2), (0, 0)), "edge")
        sums = rows[::2] + rows[1::2]
        out[top // 2 : -(-bottom // 2)] = (sums[:, ::2] + sums[:, 1::2]) / 4
    return out


def _moments(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means, and means of fourth powers, of the maps between two images ``(h, w, 3)``: ``(3 colours, 3 maps)``."""
    height, width, _ = a.shape

    def sums(strip: tuple[int, int]) -> np.ndarray:
        at = mirrored(np.arange(strip[0] - BLUR_REACH, strip[1] + BLUR_REACH), height)
        maps = _maps(_xyb(_linear(a[at])), _xyb(_linear(b[at])))
        squares = np.square(maps)
        parts = np.stack([maps, np.square(squares)]).sum(2, dtype=np.float64)
        found: np.ndarray = parts.reshape(2, 3, width, 3).sum(2)
        return found

    mean, fourth = np.sum(list(pool().map(sums, _strips(height, width))), 0) / (height * width)
    return mean.T, fourth.T


def xyb_of(linear: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """X, Y and B, scaled and moved to positive values, of linear light ``(..., 3)``, and the cube roots behind them."""
    mixed = linear @ np.array(OPSIN, F).T + F(OPSIN_BIAS)
    roots = np.cbrt(np.maximum(mixed, F(1e-6)))
    red, green, blue = np.moveaxis(roots - F(OPSIN_BIAS ** (1 / 3)), -1, 0)
    return opponent(red, green, blue), roots


def _xyb(linear: np.ndarray) -> np.ndarray:
    """`xyb_of` linear light ``(rows, width, 3)``: ``(rows, 3 width)``."""
    return np.stack(xyb_of(linear)[0], -1).reshape(len(linear), -1)


def _maps(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Lost similarity, artefacts and lost detail ``(3, rows, 3 width)``; ``x``, ``y`` have `BLUR_REACH` rows around."""
    inner = slice(BLUR_REACH, -BLUR_REACH)
    blurred = tuple(_blurred(np.stack([x, y, x * x, y * y, x * y])))
    lost, edges = differences(x[inner], y[inner], blurred)
    return np.maximum(np.stack([lost, edges, -edges]), 0)


def _blurred(planes: np.ndarray) -> np.ndarray:
    """Blurred by a Gaussian ``(n, rows, 3 width)``: zero beyond the sides, and without `BLUR_REACH` rows around."""
    return blurred_down(_blurred_across(planes, 3))


def _blurred_across(planes: np.ndarray, colours: int) -> np.ndarray:
    """Blurred along rows ``(..., width colours)``, zero beyond the sides."""
    across: np.ndarray = planes * TAPS[BLUR_REACH]
    for k in range(1, BLUR_REACH + 1):
        weighed = planes * TAPS[BLUR_REACH + k]
        across[..., colours * k :] += weighed[..., : -colours * k]
        across[..., : -colours * k] += weighed[..., colours * k :]
    return across


def blurred_down(planes: np.ndarray) -> np.ndarray:
    """Sums over rows ``(..., rows, columns)``, weighed by a Gaussian, without `BLUR_REACH` of them at either end."""
    n = planes.shape[-2] - 2 * BLUR_REACH

    def shifted(by: int) -> np.ndarray:
        return planes[..., BLUR_REACH + by : BLUR_REACH + by + n, :]

    down = shifted(0) * TAPS[BLUR_REACH]
    for k in range(1, BLUR_REACH + 1):
        pair = shifted(-k) + shifted(k)
        pair *= TAPS[BLUR_REACH + k]
        down += pair
    return down
