"""What a model codes in the place of cells that are stored losslessly: something smooth that costs little."""

from __future__ import annotations

import numpy as np
from PIL import Image

from nicc.graphics import CELL, spread

FADE = 16
"""Pixels over which what lies beside a photograph goes on into the cell that is not coded."""
SMOOTH_BLOCK = 8


def filled(pixels: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """The image with something smooth in the place of cells: what lies beside them, mirrored, fades into a blur."""
    height, width, _ = pixels.shape
    out = pixels.astype(np.float32)
    stored = spread(cells, width, height)
    out[stored] = _blurred(out, stored)[stored]
    weights = np.arange(FADE, 0, -1, dtype=np.float32) / (FADE + 1)
    for row, column in np.argwhere(cells):
        top, left = row * CELL, column * CELL
        bottom, right = min(top + CELL, height), min(left + CELL, width)
        for axis, side in ((0, -1), (0, 1), (1, -1), (1, 1)):
            r, c = (row + side, column) if axis == 0 else (row, column + side)
            if not (0 <= r < len(cells) and 0 <= c < cells.shape[1]) or cells[r, c]:
                continue
            part = out[top:bottom, left:right] if axis == 0 else out[top:bottom, left:right].swapaxes(0, 1)
            edge = (top if side < 0 else bottom) if axis == 0 else (left if side < 0 else right)
            lines = pixels[:, left:right] if axis == 0 else pixels[top:bottom].swapaxes(0, 1)
            n = min(FADE, len(part), edge if side < 0 else len(lines) - edge)
            beyond = lines[edge - n : edge][::-1] if side < 0 else lines[edge : edge + n]  # away from the edge
            w = weights[:n, None, None]
            inner = part[:n] if side < 0 else part[::-1][:n]
            inner += w * (beyond - inner)
    return out.round().clip(0, 255).astype(np.uint8)


def _blurred(pixels: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """The known pixels, carried on smoothly to all others: means over blocks, the smallest that have any."""
    height, width, _ = pixels.shape
    h, w = (-(-n // CELL) * CELL for n in (height, width))
    values = np.zeros((h, w, 4), np.float32)
    values[:height, :width, :3] = np.where(unknown[..., None], 0, pixels)
    values[:height, :width, 3] = ~unknown
    level = values.reshape(h // SMOOTH_BLOCK, SMOOTH_BLOCK, w // SMOOTH_BLOCK, SMOOTH_BLOCK, 4).sum((1, 3))
    levels = [level]
    while max(level.shape[:2]) > 1:
        level = np.pad(level, ((0, level.shape[0] % 2), (0, level.shape[1] % 2), (0, 0)))
        level = level.reshape(level.shape[0] // 2, 2, level.shape[1] // 2, 2, 4).sum((1, 3))
        levels.append(level)
    smooth = levels[-1][..., :3] / np.maximum(levels[-1][..., 3:], 1)
    for level in levels[-2::-1]:
        finer = _resized(smooth, level.shape[1], level.shape[0])
        known = level[..., 3:] > 0
        smooth = np.where(known, level[..., :3] / np.maximum(level[..., 3:], 1), finer)
    return _resized(smooth, w, h)[:height, :width]


def _resized(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """Float32 ``(h, w, 3)``, interpolated bilinearly."""
    planes = [Image.fromarray(np.ascontiguousarray(values[..., c])) for c in range(3)]
    size = width, height
    return np.stack([np.asarray(p.resize(size, Image.Resampling.BILINEAR)) for p in planes], -1)
