"""The joint bilateral filter of `nicc.decoder.ops`: every pair of pixels is looked at once."""

from __future__ import annotations

import numpy as np

from nicc.decoder.workspace import workspace

Array = np.ndarray


def joint_bilateral(
    planes: list[Array],
    guide: Array,
    neighbours: list[tuple[int, float]],
    margin: int,
    limit: float,
    edge: float,
) -> list[Array]:
    """What moves ``planes`` towards their neighbours where the ``guide`` is alike: `nicc.decoder.chroma`.

    Planes and guide are ``(h + 2 margin, w + 2 margin)``, results ``(h, w)``; ``neighbours`` are distances, up to the
    margin, and their weights. What one pixel of a pair gains the other loses.
    """
    h, w = (n - 2 * margin for n in guide.shape)
    totals = [np.zeros((h, w), guide.dtype) for _ in planes]
    for distance, weight in neighbours:
        _add_pairs([guide, *planes], totals, (distance, 0), margin, weight, limit, edge)
        _add_pairs([guide, *planes], totals, (0, distance), margin, weight, limit, edge)
    return totals


def _add_pairs(
    planes: list[Array],
    totals: list[Array],
    apart: tuple[int, int],
    margin: int,
    weight: float,
    limit: float,
    edge: float,
) -> None:
    """Adds to ``totals`` what pixels have from those that lie ``apart``, down or to the right, and the other way.

    The first of ``planes`` is the guide.
    """
    down, right = apart
    h, w = totals[0].shape
    shape = h + down, w + right
    begin, dtype = (margin - down, margin - right), totals[0].dtype
    near, change = workspace("pairs", (2, *shape), dtype)

    def differ(plane: Array, out: Array) -> None:
        (i, j), (m, n) = begin, shape
        np.subtract(plane[i + down : i + down + m, j + right : j + right + n], plane[i : i + m, j : j + n], out=out)

    differ(planes[0], near)
    np.abs(near, out=near)
    near *= -weight / edge
    near += weight
    (np.maximum if weight > 0 else np.minimum)(near, 0, out=near)
    for plane, total in zip(planes[1:], totals, strict=True):
        differ(plane, change)
        np.clip(change, -limit, limit, out=change)
        change *= near
        np.add(total, change[down:, right:], out=total)
        np.subtract(total, change[:h, :w], out=total)
