"""The transposed convolution of `nicc.decoder.ops`: patches by one matrix product, then an overlap-add."""

from __future__ import annotations

import numpy as np

from nicc.decoder.workspace import workspace

Array = np.ndarray


def transposed_conv(x: Array, weights: list[Array], stride: int, margin: int) -> Array:
    """Transposed convolution of ``(h + 2, w + 2, C)`` with ``(C, k, k, D)`` over the inner positions.

    ``weights`` are one array, or two: a second ``(C', k, k, D')`` for the last C' channels adds to the last
    D' outputs. Returns ``(stride h + 2 margin, stride w + 2 margin, D)``: what the inner h x w positions cover,
    less their overhang, and ``margin`` samples around it. One matrix product for the patches, then
    an overlap-add of four shifted views, since the stride is at least half the kernel. Of the
    outer rows only those parts of the patches are computed that reach inside.
    """
    h, w, c = x.shape
    _, k, _, d = weights[0].shape
    rest = k - stride
    reach = rest // 2 + margin
    out = workspace("overlap", (h + 1, stride, w + 1, stride, d), x.dtype)
    inner_rows = out[1 : h - 1]
    inner_rows[:, :, w] = 0
    out[0] = out[h - 1] = out[h] = 0

    def product(y: Array, name: str, rows: slice) -> Array:
        """Patches ``(n, k, k, D)`` of latents ``(n, C)``, cut to ``rows``."""
        first = weights[0][:, rows]
        columns = first[0].size
        result = np.matmul(
            y[:, : len(first)], first.reshape(len(first), -1), out=workspace(name, (len(y), columns), x.dtype)
        )
        patches = result.reshape(len(y), -1, k, d)
        for more in weights[1:]:
            part = more[:, rows]
            size = len(y), part[0].size
            added = np.matmul(
                y[:, c - len(part) :], part.reshape(len(part), -1), out=workspace(name + " more", size, x.dtype)
            )
            patches[..., d - part.shape[-1] :] += added.reshape(len(y), -1, k, part.shape[-1])
        return patches

    def add(tiles: Array, row: int, offset: int) -> None:
        """Adds patches, cut to no more rows than a block has, from ``offset`` on in a row of blocks."""
        below = stride - offset
        if tiles.shape[2] > below:
            add(tiles[:, :, below:], row + 1, 0)
            tiles = tiles[:, :, :below]
        part = tiles.transpose(0, 2, 1, 3, 4)
        target = out[row : row + part.shape[0], offset : offset + part.shape[1]]
        target[:, :, :w] += part[:, :, :, :stride]
        target[:, :, 1:, :rest] += part[:, :, :, stride:]

    patches = product(x[1:-1].reshape(-1, c), "patches", slice(None)).reshape(h - 2, w, k, k, d)
    inner_rows[:, :, :w] = patches[:, :, :stride, :stride].transpose(0, 2, 1, 3, 4)
    inner_rows[:, :, 1:, :rest] += patches[:, :, :stride, stride:].transpose(0, 2, 1, 3, 4)
    add(patches[:, :, stride:], 2, 0)
    for row, begin in ((0, k - reach), (h - 1, 0)):
        edge = product(x[row], "edge", slice(begin, begin + reach))
        add(edge.reshape(1, w, reach, k, d), row + begin // stride, begin % stride)
    cut = stride + rest // 2 - margin
    full = out.reshape((h + 1) * stride, (w + 1) * stride, d)
    return full[cut : h * stride + rest - cut, cut : w * stride + rest - cut]
