"""The directional filter of a model: its weights, fitted to what files of the model decode to.

The filter (`nicc.decoder.directional`) is linear in its weights, so that a method of second order finds them: at every
rate point in turn, L-BFGS lowers the mean of the model's distortion over some crops, each relative to what it is
unfiltered. It works in coordinates in which a squared error that every block weighs by as much as its errors count in
the distortion would curve alike in all directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from nicc.architecture import FILTER_STRENGTHS, FILTER_TEXTURES, FILTER_WEIGHTS
from nicc.decoder import directional as d
from nicc.decoder import networks, ops
from nicc.encoder import ops as torch_ops
from nicc.encoder.visual import decibels, difference_from
from nicc.errors import ModelError
from nicc.model import Model, digest, load_transform
from nicc.ssimulacra2 import ENCODING_SHARE, visual_distortion
from nicc.training.config import DirectionalConfig
from nicc.training.folder import training_facts, write_parts
from nicc.training.frozen import Frozen
from nicc.training.perceptual import Lpips
from nicc.training.stage import LogReport, Run, Stage, drive

Array = np.ndarray
RIDGE = 1e-3
"""Of the curvature along every weight, added to it."""
TABLE = FILTER_STRENGTHS, FILTER_TEXTURES, FILTER_WEIGHTS
AT_ONCE = 8
"""Crops that are coded at a time."""


@dataclass
class Example:
    """A crop as it was, ``(3, h, w)`` in 0..1, and as it is decoded at a rate point."""

    decoded: Tensor
    """``(3, h, w)``, unfiltered and unclipped."""
    features: Array
    """What the weights multiply, ``(n, 64, FILTER_WEIGHTS)`` of n blocks."""
    shares: Array
    """Of the entries of the table in the weights of a block, as `nicc.decoder.directional.directions` has them."""
    distortion: Callable[[Tensor], Tensor]
    """Of pixels ``(3, h, w)``, on the scale of the squared error."""
    unfiltered: float
    """The distortion without the filter."""
    importance: Array
    """By how much squared errors of luma count in every block, ``(n,)``."""

    def filtered(self, weights: Array) -> Tensor:
        """The decoded pixels with the filter, ``(3, h, w)``."""
        by_block = self.shares @ weights.reshape(-1, FILTER_WEIGHTS)
        change = np.einsum("npf,nf->np", self.features, by_block, optimize=True)
        h, w = self.decoded.shape[1:]
        return self.decoded + torch.from_numpy(_image(change, h, w)).float() / 255

    def gradient(self, pixels: Tensor) -> tuple[float, Array]:
        """The distortion of pixels, and its gradient by a level of luma ``(n, 64)``."""
        return _gradient(self.distortion, pixels)


def _gradient(distortion: Callable[[Tensor], Tensor], pixels: Tensor) -> tuple[float, Array]:
    """`Example.gradient` of a distortion."""
    pixels = pixels.clone().requires_grad_()
    value = distortion(pixels)
    value.backward()
    assert pixels.grad is not None
    return value.item(), _blocks(pixels.grad.sum(0).numpy() / 255)


def _blocks(plane: Array) -> Array:
    """``(h, w)`` as blocks ``(n, 64)``."""
    return ops.blocks(np.ascontiguousarray(plane), d.SIDE, 0).reshape(d.SIDE**2, -1).T.copy()


def _image(blocks: Array, h: int, w: int) -> Array:
    """Blocks ``(n, 64)`` as an image ``(h, w)``."""
    squares = blocks.T.reshape(d.SIDE, d.SIDE, -1)
    return ops.unblocked(squares, np.arange(len(blocks)), (h, w), 0).copy()


@dataclass
class Measure:
    """What a filter is fitted by: the squared error, a share of SSIMULACRA 2 in its place, and LPIPS beside both."""

    share: float = 0.0
    lpips: Lpips | None = None
    lpips_weight: float = 0.0

    def distortion(self, original: Tensor) -> Callable[[Tensor], Tensor]:
        """The distortion from an image ``(3, h, w)`` in 0..1, on the scale of the squared error."""
        difference = difference_from(original[None]) if self.share else None
        with torch.no_grad():
            features = self.lpips.features(original[None] * 2 - 1) if self.lpips else []

        def distortion(pixels: Tensor) -> Tensor:
            pixels = pixels.clamp(0, 1)
            found = (pixels - original).square().mean() * 255**2
            if difference:
                found = visual_distortion(found, difference(pixels[None])[0], self.share)
            if self.lpips:
                distance = self.lpips.between(features, self.lpips.features(pixels[None] * 2 - 1))[0]
                found = found + self.lpips_weight * distance
            return found

        return distortion


def example(original: Tensor, around: Tensor, limit: float, measure: Measure) -> Example:
    """A crop ``(3, h, w)``, and what it is decoded to with a margin, ``(h + 2 REACH, w + 2 REACH, 3)``."""
    luma = d.luma(ops, around.numpy())
    blocks = ops.blocks(luma, d.SIDE, d.REACH).copy()
    direction, shares = d.directions(ops, d.inner(blocks), limit)
    features = np.empty((blocks.shape[-1], d.SIDE**2, FILTER_WEIGHTS), np.float32)
    for number, pairs in enumerate(d.neighbours()):
        here = direction == number
        parts = d.differences(ops, blocks[..., here], pairs, limit)
        features[here] = np.stack(parts).reshape(FILTER_WEIGHTS, d.SIDE**2, -1).T
    decoded = networks.inside(around, d.REACH).permute(2, 0, 1).contiguous()
    distortion = measure.distortion(original)
    unfiltered, gradient = _gradient(distortion, decoded)
    error = _blocks(d.inner(luma) - d.luma(ops, original.permute(1, 2, 0).numpy()))
    squares = np.square(error).sum(1)
    importance = np.maximum((error * gradient).sum(1), 0) / (2 * squares + 0.01 * squares.mean() + 1e-9)
    return Example(decoded, features, shares, distortion, unfiltered, importance)


def fitted(examples: list[Example], iterations: int) -> tuple[Array, float]:
    """Weights of the `TABLE`, and the mean distortion as a share of what it is without."""
    mean = float(np.mean([e.unfiltered for e in examples]))
    scale = [1 / (e.unfiltered + mean) for e in examples]
    at_first = sum(s * e.unfiltered for s, e in zip(scale, examples, strict=True))
    size = FILTER_STRENGTHS * FILTER_TEXTURES * FILTER_WEIGHTS
    curvature = np.zeros((size, size))
    for s, e in zip(scale, examples, strict=True):
        products = np.einsum("npf,npg,n->nfg", e.features, e.features, 2 * s * e.importance, optimize=True)
        part = np.einsum("ni,nj,nfg->ifjg", e.shares, e.shares, products, optimize=True)
        curvature += part.reshape(size, size)
    curvature += np.diag(RIDGE * (np.diag(curvature) + 1e-3 * np.trace(curvature) / size) + 1e-12)
    values, vectors = np.linalg.eigh(curvature)
    unscaled = vectors / np.sqrt(values)
    """From coordinates in which the curvature is the same along all of them."""

    def cost(x: Array) -> tuple[float, Array]:
        weights = (unscaled @ x).reshape(-1, FILTER_WEIGHTS)
        total, gradient = 0.0, np.zeros_like(weights)
        for s, e in zip(scale, examples, strict=True):
            value, by_luma = e.gradient(e.filtered(weights))
            total += s * value
            gradient += s * e.shares.T @ np.einsum("npf,np->nf", e.features, by_luma, optimize=True)
        return total, gradient.ravel() @ unscaled

    found = minimize(cost, np.zeros(size), jac=True, method="L-BFGS-B", options={"maxiter": iterations})
    return (unscaled @ found.x).reshape(TABLE), float(found.fun) / at_first


class FilterFitter(Stage):
    """One run: a step fits one rate point, from the lowest to the highest."""

    def __init__(self, config: DirectionalConfig, run: Run) -> None:
        super().__init__(run, config.training)
        self.config, self.s = config, config.training
        self.model = load_transform(config.model)
        self.base, self.arch = Frozen(self.model, run.device), self.model.architecture
        share = ENCODING_SHARE if self.arch.objective == "visual" else 0.0
        lpips = Lpips.of_folder("squeeze", run.perceptual) if self.s.lpips_weight else None
        self.measure = Measure(share, lpips, self.s.lpips_weight)
        self.points = np.linspace(0, self.arch.rate_points - 1, self.s.steps).round().astype(int).tolist()
        self.weights: list[Tensor] = []
        self.limits: list[float] = []
        if saved := self.saved():
            if saved["model"] != self.model.sha256 or saved["points"] != self.points:
                raise ModelError(f"{run.out}: belongs to another model or schedule; fit into another folder")
            self.weights, self.limits = list(saved["weights"]), saved["limits"]
        self.begin(saved)

    def _decoded(self, x: Tensor, point: int) -> Tensor:
        """What ``x`` ``(N, 3, h, w)`` is decoded to, unfiltered, with the filter's margin, channels last."""
        decoded = self.base.decode(x, torch.full((len(x),), point, device=x.device))
        return self.base.synthesise(self.base.padded(decoded, 1), d.REACH)

    @torch.no_grad()
    def _pairs(self, images: Tensor, point: int) -> tuple[list[tuple[Tensor, Tensor]], float]:
        """Images beside what they are decoded to, and the root of the luma's mean squared error, in levels."""
        pairs = [
            (o, x.cpu())
            for part in images.split(AT_ONCE)
            for o, x in zip(part.cpu(), self._decoded(part, point), strict=True)
        ]
        error = [
            (d.luma(torch_ops, networks.inside(x, d.REACH)) - d.luma(torch_ops, o.permute(1, 2, 0))).square().mean()
            for o, x in pairs
        ]
        return pairs, float(torch.stack(error).mean().sqrt())

    def train_step(self) -> dict[str, float]:
        point = self.points[self.step]
        crops = torch.cat([self.crops() for _ in range(self.s.crops // self.s.batch)])
        pairs, limit = self._pairs(crops, point)
        weights, left = fitted([example(o, x, limit, self.measure) for o, x in pairs], self.s.iterations)
        kept = self.s.kept[self.step] if self.s.kept else 1.0
        self.weights.append(torch.from_numpy(kept * weights))
        self.limits.append(limit)
        self.step += 1
        self.pixels += len(crops) * self.s.crop**2
        return {"rate_point": float(point), "limit": limit, "loss": left}

    def validate(self, images: Tensor) -> dict[str, Any]:
        """The distortion as a share of what it is unfiltered, and PSNR, at the rate point fitted last."""
        point = self.points[max(self.step - 1, 0)]
        pairs, limit = self._pairs(images, point)
        weights = np.zeros(TABLE)
        if self.weights:
            weights, limit = self.weights[-1].numpy(), self.limits[-1]
        found, mse = [], []
        for o, x in pairs:
            e = example(o, x, limit, self.measure)
            pixels = e.filtered(weights).clamp(0, 1)
            found.append(e.distortion(pixels).item() / e.unfiltered)
            mse.append([((p.clamp(0, 1) - o) * 255).square().mean() for p in (pixels, e.decoded)])
        after, before = decibels(torch.tensor(mse)).mean(0).tolist()
        row = {"rate_point": point, "psnr": after, "unfiltered": before, "distortion": float(np.mean(found))}
        return {"cost": row["distortion"], "table": [row]}

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.sha256,
            "points": self.points,
            "weights": self.weights,
            "limits": self.limits,
        }


def train(config: DirectionalConfig, run: Run, report: LogReport | None = None) -> Path:
    """Fits the filter; returns the checkpoint, see `nicc.training.stage.drive`."""
    return drive(FilterFitter(config, run), report)


def arrays_of(saved: dict[str, Any], rate_points: int) -> dict[str, Array]:
    """A model's arrays of a checkpoint: linear between the rate points that were fitted, and constant beyond them."""
    points, weights = saved["points"][: len(saved["weights"])], torch.stack(saved["weights"]).numpy()
    everywhere = np.arange(rate_points)
    columns = [np.interp(everywhere, points, column) for column in weights.reshape(len(points), -1).T]
    table = np.stack(columns, -1).reshape(rate_points, *weights.shape[1:])
    limits = np.exp(np.interp(everywhere, points, np.log(saved["limits"])))
    return {"filter_weights": table.astype(np.float16), "filter_limit": limits.astype(np.float32)}


def export(checkpoint: Path, model: Model) -> Model:
    """Writes a model's folder anew with the filter: next version, same fingerprint. Raises `ModelError`."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if saved["model"] != model.sha256:
        raise ModelError(f"{checkpoint}: fitted to {saved['model'][:8]}, {model.name} is {model.sha256[:8]}; fit again")
    if len(saved["weights"]) < len(saved["points"]):
        raise ModelError(f"{checkpoint}: not all rate points are fitted; go on with --resume")
    assert model.folder
    arrays = model.arrays | arrays_of(saved, model.architecture.rate_points)
    description = {
        **model.description,
        "version": model.version + 1,
        "decoder_sha256": digest(arrays, model.description["architecture"]),
        "filter": training_facts(saved),
    }
    new = Model(description, arrays, model.folder)
    write_parts(model.folder, description, decoder=arrays)
    return new
