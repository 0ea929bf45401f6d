"""How strong the head's detail and the grain should be, tile by tile, for a decoded picture to look like the original.

The sender renders what receivers will, and compares three layers of pixels: the original, the reconstruction at beta 0
and the head's detail. Their energies and products in bands of frequency and direction, in cells of 8x8 pixels
(`nicc.encoder.likeness`), go through a small network that was taught by LPIPS which strength and which grain serve
best (`nicc.training.texture`): LPIPS itself would be a network a hundred times as large.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from nicc.architecture import PIXELS_PER_LATENT
from nicc.container import BOX_TEXTURE, pack, with_checksum
from nicc.decoder import ops
from nicc.decoder.decode import group_latents
from nicc.decoder.render import Renderer, bands, tiles_of
from nicc.decoder.texture import HIGHEST, MOST_TILES, SMALLEST_TILE, UNITS, Texture, texture_grid
from nicc.decoder.workspace import forget
from nicc.encoder.likeness import CELL, FEATURES, TILE, cell_features, squares
from nicc.encoder.quantise import Encoding
from nicc.errors import ModelError
from nicc.model import Model, read_arrays
from nicc.threads import one_blas_thread, pool

Array = Any
Params = Mapping[str, Array]
TEXTURE_FILE = "texture.safetensors"
BETA = 0.5
"""At which detail is judged."""
AT_ONCE, WIDEST = 128, 16
"""Tiles that are rendered together, and beside each other, at most: fewer than in decoding, to need no more memory
than encoding had needed before."""
SHARE, SHARE_ASKED = 0.002, 0.02
"""Of a file that a texture box takes at most, unless it has only one tile: of any, and of one that asks decoders for a
beta above 0, who then see what the bytes are for."""
ONE_TILE, FRAMING = 7, 8
"""Bytes of a box of one tile, and around any box, at most."""
LARGEST = tuple(HIGHEST * unit for unit in UNITS)


def shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's arrays, by name."""
    return {
        "mean": (FEATURES,),
        "scale": (FEATURES,),
        "first": (FEATURES, width),
        "first_bias": (width,),
        "second": (width, width),
        "second_bias": (width,),
        "tile": (2 * width, width),
        "tile_bias": (width,),
        "out": (width, 4),
        "out_bias": (4,),
    }


def estimator_for(model: Model) -> Params | None:
    """The network's arrays, if the model has a realism head and the network was taught for it.

    Raises `ModelError` if they are damaged.
    """
    return _read(model) if model.folder and model.has_realism and (model.folder / TEXTURE_FILE).is_file() else None


@lru_cache(maxsize=4)
def _read(model: Model) -> Params | None:
    assert model.folder
    path = model.folder / TEXTURE_FILE
    facts, arrays = read_arrays(path)
    try:
        fits = {k: v.shape for k, v in arrays.items()} == shapes(len(arrays["first_bias"]))
        ours = facts["head"] == model.realism.sha256
    except (KeyError, TypeError) as e:
        raise ModelError(f"{path}: damaged: {e}") from None
    if not fits:
        raise ModelError(f"{path}: damaged: arrays are missing or of the wrong shape")
    return {k: v.astype(np.float32) for k, v in arrays.items()} if ours else None


def with_texture(model: Model, encoding: Encoding, pixels: np.ndarray) -> Encoding:
    """An encoding of uint8 pixels ``(height, width, 3)`` with a texture box, if its model can fill one."""
    if (p := estimator_for(model)) is None:
        return encoding
    forget()
    found = estimates(ops, p, _tiles(model, encoding, pixels, p))
    container = encoding.container
    box = _fitting(found, _share(container.header.beta) * len(pack(container)))
    extras = {BOX_TEXTURE: box} | container.extras
    return encoding._replace(container=with_checksum(replace(container, extras=extras), encoding.z_checksum))


def most_bytes(size: int, beta: float) -> int:
    """By how much a file of at most so many bytes, with this default beta, may grow with a texture box."""
    return int(_share(beta) * size) + ONE_TILE + FRAMING


def _share(beta: float) -> float:
    return SHARE_ASKED if beta else SHARE


def _fitting(found: np.ndarray, limit: float) -> bytes:
    """A box of the smallest tiles with which it takes at most so many bytes, or of one tile."""
    side = SMALLEST_TILE
    while True:
        rows, columns = found.shape[:2]
        if rows * columns <= MOST_TILES:
            box = texture_from(found, side).to_bytes()
            if len(box) <= limit or rows * columns == 1:
                return box
        found, side = merged(found), side + 1


def texture_from(found: np.ndarray, side: int) -> Texture:
    """What a file tells of `estimates` for tiles of ``1 << side`` pixels a side."""
    values = np.rint(found[..., :2] / np.array(UNITS)).astype(np.int64)
    return Texture(side, np.clip(values, 0, HIGHEST))


def merged(found: np.ndarray) -> np.ndarray:
    """`estimates` for tiles of twice the side: means of the values by their weights, and sums of these."""
    found = np.pad(found, ((0, found.shape[0] % 2), (0, found.shape[1] % 2), (0, 0)))
    weights, values = found[..., 2:], found[..., :2] * found[..., 2:]
    total = squares(weights)
    return np.concatenate([squares(values) / total, total], -1)


def middles_of(model: Model, encoding: Encoding) -> Iterator[np.ndarray]:
    """What receivers render above beta 0, group by group of latent rows: latents in the middle of their intervals."""
    known = encoding.middles
    return group_latents(model, encoding.container, middle=True) if known is None else iter([known])


@one_blas_thread()
def _tiles(model: Model, encoding: Encoding, pixels: np.ndarray, p: Params) -> np.ndarray:
    """`tile_features` of a whole picture."""
    header = encoding.container.header
    renderer = Renderer(model, header.rate_point, BETA)
    per_tile, margin = TILE // PIXELS_PER_LATENT, renderer.margin
    grid = texture_grid(header.width, header.height, SMALLEST_TILE)
    found = np.empty((*grid, p["tile"].shape[0] // 2), np.float32)
    for first, padded in bands(renderer, middles_of(model, encoding), header.height, per_tile):
        h, w = (-(-(n - 2 * margin) // per_tile) for n in padded.shape[:2])

        def work(tile: tuple[int, int, int, int], first: int = first, padded: np.ndarray = padded) -> None:
            top, bottom, left, right = (per_tile * n for n in tile)
            base, detail = renderer.layers(padded[top : bottom + 2 * margin, left : right + 2 * margin])
            original = pixels[(first + top) * PIXELS_PER_LATENT :, left * PIXELS_PER_LATENT :]
            original = original[: len(base), : base.shape[1]]
            base, detail = (layer[: len(original), : original.shape[1]] * np.float32(255) for layer in (base, detail))
            rate = header.rate_point / (model.architecture.rate_points - 1)
            features = tile_features(ops, p, cell_features(original, base, detail, rate))
            place = found[(first + top) // per_tile :, left // per_tile :]
            place[: len(features), : features.shape[1]] = features

        for _ in pool().map(work, tiles_of(h, w, AT_ONCE, WIDEST)):
            pass
        del padded, work  # before there are the next
    return found


def tile_features(ops: Any, p: Params, cells: Array) -> Array:
    """Hidden units of every tile ``(..., rows, columns, width)``, of `cell_features`."""
    a = ops.relu(ops.dense((cells - p["mean"]) * p["scale"], p["first"]) + p["first_bias"])
    a = ops.relu(ops.dense(a, p["second"]) + p["second_bias"])
    per = TILE // CELL
    h, w, width = a.shape[-3:]
    return a.reshape(*a.shape[:-3], h // per, per, w // per, per, width).mean((-4, -2))


def estimates(ops: Any, p: Params, tiles: Array) -> Array:
    """Strength, grain's deviation in levels, and the weights of both, ``(..., rows, columns, 4)``.

    A tile's depend on its own `tile_features` and on the means of those around it.
    """
    above, below = tiles[..., :1, :, :], tiles[..., -1:, :, :]
    rows = ops.concat([above, tiles, below], -3)
    around = rows[..., :-2, :, :] + tiles + rows[..., 2:, :, :]
    columns = ops.concat([around[..., :1, :], around, around[..., -1:, :]], -2)
    around = (columns[..., :-2, :] + around + columns[..., 2:, :]) / 9
    a = ops.relu(ops.dense(ops.concat([tiles, around], -1), p["tile"]) + p["tile_bias"])
    out = ops.dense(a, p["out"]) + p["out_bias"]
    values = [limit * ops.sigmoid(out[..., i : i + 1]) for i, limit in enumerate(LARGEST)]
    return ops.concat([*values, ops.exp_within(out[..., 2:], 8.0)], -1)
