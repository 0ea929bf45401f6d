"""Crops as receivers decode their files, for training what is added to them above beta 0."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from nicc.decoder import networks, ops
from nicc.decoder.grain import noise
from nicc.decoder.render import Renderer
from nicc.decoder.texture import SMALLEST_TILE, Texture
from nicc.encoder.encode import encode_plainly
from nicc.encoder.likeness import cell_features
from nicc.encoder.texture import (
    BETA,
    Params,
    estimates,
    merged,
    middles_of,
    texture_from,
    tile_features,
)
from nicc.images import Picture
from nicc.model import Model

GRAINY = 0.4
"""Share of the crops to which a grain of up to so many levels is added before they are coded: ours have little."""
MOST_GRAIN = 4.5
FURTHEST = 1000
"""Pixels from an image's corner at which a crop may lie, for its grain."""
TILES = ((0.48, 0), (0.25, 1), (0.08, 2), (0.0, 3))
"""Rate points, as shares of the highest, from which photographs of 768x512 have tiles of so many doublings."""
POOL, FIRST = 2048, 48
"""Crops that are kept at most, and those before the first step."""


class Layers(NamedTuple):
    """What receivers make of a file above beta 0: latents ``(h, w, C)`` in the middle of their intervals, and in levels
    ``(H, W, 3)`` the reconstruction and the detail of the model's head at beta `nicc.encoder.texture.BETA`."""

    latents: np.ndarray
    base: np.ndarray
    detail: np.ndarray

    @classmethod
    def of(cls, model: Model, pixels: np.ndarray, rate_point: int) -> Layers:
        """Those of a file of uint8 pixels."""
        y = np.concatenate(list(middles_of(model, encode_plainly(model, Picture(pixels), rate_point))))
        renderer = Renderer(model, rate_point, BETA)
        padded = networks.mirror(ops, renderer.params, y, renderer.margin, top=True, bottom=True)
        base, detail = (255 * layer for layer in renderer.layers(padded))
        return cls(y, base, detail)


class Crop(NamedTuple):
    """A crop with its file."""

    pixels: np.ndarray
    """uint8, ``(H, W, 3)``."""
    latents: np.ndarray
    """Of all channels, float16."""
    rate_point: int
    texture: Texture
    """What a file of a photograph would tell of it, by the model's head."""

    @classmethod
    def of(cls, model: Model, network: Params, pixels: np.ndarray, rate_point: int) -> Crop:
        layers, rate = Layers.of(model, pixels, rate_point), rate_point / (model.architecture.rate_points - 1)
        cells = cell_features(pixels, layers.base, layers.detail, rate)
        found = estimates(ops, network, tile_features(ops, network, cells))
        doublings = next(n for begin, n in TILES if rate >= begin)
        for _ in range(doublings):
            found = merged(found)
        room = model.architecture.latent_channels - layers.latents.shape[-1]
        latents = np.pad(layers.latents, ((0, 0), (0, 0), (0, room))).astype(np.float16)
        return cls(pixels, latents, rate_point, texture_from(found, SMALLEST_TILE + doublings))


class Batch(NamedTuple):
    """Crops of one size as tensors."""

    x: Tensor
    """``(N, 3, H, W)`` in 0..1."""
    latents: Tensor
    """``(N, h, w, C)``."""
    rate_point: Tensor
    strength: Tensor
    """Of detail, ``(N, H, W, 1)``."""
    grain: Tensor
    """Its deviation in levels, ``(N, H, W, 1)``."""

    @classmethod
    def of(cls, crops: list[Crop]) -> Batch:
        told = [np.stack(crop.texture.at(0, 0, *crop.pixels.shape[:2])) for crop in crops]
        strength, grain = torch.from_numpy(np.stack(told, 1))[..., None]
        x = torch.from_numpy(np.stack([crop.pixels for crop in crops])).permute(0, 3, 1, 2).float() / 255
        latents = torch.from_numpy(np.stack([crop.latents for crop in crops])).float()
        return cls(x, latents, torch.tensor([crop.rate_point for crop in crops]), strength, grain)

    def to(self, device: torch.device) -> Batch:
        return Batch(*(part.to(device) for part in self))


def grainy(crop: Tensor, rng: np.random.Generator) -> np.ndarray:
    """A crop ``(3, h, w)`` in 0..1 as uint8 pixels ``(h, w, 3)``; some get grain such as film's."""
    pixels = crop.permute(1, 2, 0).numpy() * 255
    if rng.random() < GRAINY:
        pixels = pixels + _film(pixels.shape, rng)
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


def _film(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Grain of more or less luma, more or less fine."""
    blur, share = rng.uniform(0, 0.8), rng.uniform(0.3, 0.9)
    grain = gaussian_filter(rng.normal(size=shape), (blur, blur, 0))
    luma = grain.mean(-1, keepdims=True)
    mixed = share * luma / luma.std() + (1 - share) * grain / grain.std()
    return np.asarray(rng.uniform(0, MOST_GRAIN) * mixed)


def noise_somewhere(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Grain of deviation 1 as a crop somewhere in an image has it, ``(height, width)``."""
    top, left = rng.integers(FURTHEST, size=2).tolist()
    return noise(top, left, height, width)


class Pool:
    """Crops with their files, each shown several times, since coding one takes as long as learning from it."""

    def __init__(self, model: Model, network: Params, highest: int, shown: float) -> None:
        self.model, self.network, self.highest, self.shown = model, network, highest, shown
        self.kept: list[Crop] = []
        self.owed = float(FIRST)

    def draw(self, crops: Tensor, rng: np.random.Generator) -> Batch:
        """As many of the crops that are kept as there are new ones ``(N, 3, h, w)``; so many of these join them first
        that every one is shown about ``shown`` times."""
        self.owed += len(crops) / self.shown
        for crop in crops[: int(self.owed)]:
            self.owed -= 1
            rate_point = int(rng.integers(self.highest))
            self.kept.append(Crop.of(self.model, self.network, grainy(crop, rng), rate_point))
        self.kept = self.kept[-POOL:]
        return Batch.of([self.kept[i] for i in rng.integers(len(self.kept), size=len(crops))])
