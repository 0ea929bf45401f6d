"""Teaching which strength of the head's detail and which grain serve best: a stage for `nicc.encoder.texture`.

Crops are coded as files are, and rendered with several strengths and grains; LPIPS (Zhang et al. 2018) says how far
each is from the original, tile by tile. The network is fitted to choose what has the lowest distance, of single tiles
and of larger ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save as save_arrays
from torch import Tensor

from nicc.arrays import digest
from nicc.encoder import ops
from nicc.encoder.likeness import TILE, cell_features
from nicc.encoder.texture import TEXTURE_FILE, estimates, shapes, tile_features
from nicc.errors import ModelError
from nicc.images import write_atomically
from nicc.model import Model, load_transform
from nicc.training.config_texture import TextureConfig
from nicc.training.files import Layers, grainy, noise_somewhere
from nicc.training.folder import training_facts
from nicc.training.perceptual import Lpips
from nicc.training.stage import LogReport, Run, Stage, drive

STRENGTHS = (0.0, 0.35, 0.7, 1.0, 1.35, 1.8)
GRAINS = (0.0, 0.6, 1.2, 2.2, 4.0)
"""Levels."""
MERGED = (1, 2, 4, 8)
"""Tiles along a side of what is judged together."""
STATISTICS, BATCH, RATE = 256, 16, 2e-3
"""Crops from which the features' means and deviations come, crops of a step of Adam, and its learning rate."""
VALIDATION_STRIDE = 17
"""Rate points between those of validation images that follow each other."""


class TextureTrainer(Stage):
    """One run: a step measures a batch of crops; the network is fitted to all of them, anew, before each validation."""

    def __init__(self, config: TextureConfig, run: Run) -> None:
        super().__init__(run, config.training)
        self.config, self.s = config, config.training
        self.model = load_transform(config.model)
        self.head = self.model.realism
        self.lpips = Lpips.of_folder("alex", run.perceptual)
        self.cells: list[Tensor] = []
        self.distances: list[Tensor] = []
        self.network: dict[str, Tensor] = {}
        self.taught_by = 0
        if saved := self.saved():
            if saved["head"] != self.head.sha256:
                raise ModelError(f"{run.out}: belongs to another head; train into another folder")
            self.cells, self.distances = list(saved["cells"]), list(saved["distances"])
            self.network, self.taught_by = saved["network"], len(self.cells)
        self.begin(saved)

    def train_step(self) -> dict[str, float]:
        highest = round(self.model.architecture.rate_points * self.s.highest_rate)
        for crop in self.crops():
            cells, distances = self.measured(grainy(crop, self.rng), int(self.rng.integers(highest)))
            self.cells.append(cells)
            self.distances.append(distances)
        self.step += 1
        self.pixels += self.s.batch * self.s.crop**2
        return {"loss": float(torch.stack([relative(d).log().mean() for d in self.distances[-self.s.batch :]]).mean())}

    @torch.no_grad()
    def measured(self, pixels: np.ndarray, rate_point: int) -> tuple[Tensor, Tensor]:
        """What the network sees of a picture's cells, and LPIPS by strength and grain ``(S, G, rows, columns)``."""
        _, base, detail = Layers.of(self.model, pixels, rate_point)
        height, width = pixels.shape[:2]
        grain = noise_somewhere(self.rng, height, width)[..., None]
        rate = rate_point / (self.model.architecture.rate_points - 1)
        cells = cell_features(pixels, base, detail, rate)
        original = self.lpips.features(_signed(pixels))
        distances = [
            self.lpips.maps(
                original, self.lpips.features(_signed(np.rint(base + s * detail + g * grain))), TILE, (height, width)
            )
            for s in STRENGTHS
            for g in GRAINS
        ]
        found = torch.cat(distances).reshape(len(STRENGTHS), len(GRAINS), height // TILE, width // TILE)
        return torch.from_numpy(cells).half(), found

    def taught(self) -> dict[str, Tensor]:
        """The network, fitted to all crops so far."""
        if self.taught_by < len(self.cells):
            self.network = fitted(self.cells, self.distances, self.s.width, self.s.updates)
            self.taught_by = len(self.cells)
        return self.network

    def validate(self, images: Tensor) -> dict[str, Any]:
        """LPIPS with the network's choice, as a share of that without a texture box, by size of tiles."""
        if not self.cells:
            return {"cost": 1.0, "table": []}
        network = self.taught()
        shares: list[Tensor] = []
        for number, image in enumerate(images):
            pixels = (image.permute(1, 2, 0) * 255).byte().numpy()
            cells, distances = self.measured(pixels, (VALIDATION_STRIDE * number) % self.model.architecture.rate_points)
            shares.append(chosen(network, cells[None].float(), distances[None])[:, 0].detach().log())
        means = torch.stack(shares).mean(0).exp().tolist()
        return {
            "cost": means[0],
            "table": [{"tiles": TILE * n, "lpips": v} for n, v in zip(MERGED, means, strict=False)],
        }

    def state(self) -> dict[str, Any]:
        return {
            "head": self.head.sha256,
            "network": self.taught(),
            "cells": self.cells,
            "distances": self.distances,
        }


def _signed(pixels: np.ndarray) -> Tensor:
    """Pixels in levels as ``(1, 3, h, w)`` in -1..1."""
    return torch.from_numpy(np.asarray(pixels, np.float32).clip(0, 255) / 127.5 - 1).permute(2, 0, 1)[None]


def relative(distances: Tensor) -> Tensor:
    """Distances ``(..., S, G, rows, columns)`` as shares of the mean without grain at strength 1."""
    return distances / distances[..., STRENGTHS.index(1.0), 0, :, :].mean((-2, -1))[..., None, None, None, None]


def hats(x: Tensor, knots: tuple[float, ...]) -> Tensor:
    """Weights of linear interpolation between knots, ``(..., knots)``."""
    x, k = x.clamp(knots[0], knots[-1])[..., None], torch.tensor(knots)
    steps = torch.diff(k)
    rising = ((x - k[:-1]) / steps).clamp(0, 1)  # 1 behind the interval
    ones = torch.ones_like(x)
    return torch.cat([ones, rising], -1) - torch.cat([rising, torch.zeros_like(ones)], -1)


def chosen(network: dict[str, Tensor], cells: Tensor, distances: Tensor) -> Tensor:
    """`relative` distances ``(sizes, N)`` with what a network chooses for tiles, and for `MERGED` ones that fit."""
    found = estimates(ops, network, tile_features(ops, network, cells)).permute(0, 3, 1, 2)
    values, weights = found[:, :2], found[:, 2:]
    distances, results = relative(distances), []
    for side in (n for n in MERGED if n <= min(values.shape[2:])):
        means = F.avg_pool2d(values * weights, side) / F.avg_pool2d(weights, side)
        pooled = F.avg_pool2d(distances.flatten(0, 2), side).reshape(*distances.shape[:3], *means.shape[2:])
        strength, grain = hats(means[:, 0], STRENGTHS), hats(means[:, 1], GRAINS)
        results.append(torch.einsum("nhws,nhwg,nsghw->nhw", strength, grain, pooled).mean((1, 2)))
    return torch.stack(results)


def fitted(cells: list[Tensor], distances: list[Tensor], width: int, updates: int) -> dict[str, Tensor]:
    """A network for crops of one size: what it sees of each, and LPIPS by strength and grain."""
    torch.manual_seed(0)
    known = torch.stack(cells[:STATISTICS]).float()
    p: dict[str, Tensor] = {}
    for name, shape in shapes(width).items():
        p[name] = torch.randn(shape) * (2 / shape[0]) ** 0.5 if len(shape) == 2 else torch.zeros(shape)
    p["mean"], p["scale"] = known.mean((0, 1, 2)), 1 / (known.std((0, 1, 2)) + 1e-3)
    p["out"] *= 0.1
    p["out_bias"] = torch.tensor([0.0, -3.0, 0.0, 0.0])
    taught = [v.requires_grad_() for name, v in p.items() if name not in ("mean", "scale")]
    optimizer = torch.optim.Adam(taught, RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        at = torch.randint(len(cells), (BATCH,)).tolist()
        found = chosen(p, torch.stack([cells[i] for i in at]).float(), torch.stack([distances[i] for i in at]))
        optimizer.zero_grad()
        found.log().mean().backward()
        torch.nn.utils.clip_grad_norm_(taught, 1.0)
        optimizer.step()
        schedule.step()
    return {k: v.detach() for k, v in p.items()}


def train(config: TextureConfig, run: Run, report: LogReport | None = None) -> Path:
    """Measures crops and fits a network; returns the checkpoint, see `nicc.training.stage.drive`."""
    return drive(TextureTrainer(config, run), report)


def export(checkpoint: Path, model: Model) -> Path:
    """Writes the network of a checkpoint into its model's folder. Raises `ModelError`."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if saved["head"] != model.realism.sha256:
        raise ModelError(f"{checkpoint}: trained for another head than {model.name} has; train again")
    assert model.folder
    arrays = {k: v.numpy().astype(np.float16 if v.ndim > 1 else np.float32) for k, v in saved["network"].items()}
    facts = {"head": saved["head"], "sha256": digest(arrays, {}), "training": training_facts(saved)}
    path = model.folder / TEXTURE_FILE
    write_atomically(path, save_arrays(arrays, {"nicc": json.dumps(facts)}))
    return path
