"""The filters behind a model's synthesis: a stage that fits their weights, see `nicc.training.filter_fit`.

At every rate point in turn; between these, weights are linear.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nicc.architecture import CHROMA_DISTANCES
from nicc.decoder import chroma, networks
from nicc.decoder.directional import MARGIN
from nicc.encoder import ops as torch_ops
from nicc.encoder.visual import decibels
from nicc.errors import ModelError
from nicc.model import Model, digest, load_transform
from nicc.ssimulacra2 import ENCODING_SHARE
from nicc.training.config_filter import DirectionalConfig, FilterPoint
from nicc.training.filter_fit import CHROMA_LIMIT, TABLE, Limits, Measure, example, fitted, fitted_chroma
from nicc.training.folder import training_facts, write_parts
from nicc.training.frozen import Frozen
from nicc.training.perceptual import Lpips
from nicc.training.stage import LogReport, Run, Stage, drive

Array = np.ndarray
AT_ONCE = 8
"""Crops that are coded at a time."""


class FilterFitter(Stage):
    """One run: a step fits one rate point, from the lowest to the highest."""

    def __init__(self, config: DirectionalConfig, run: Run) -> None:
        super().__init__(run, config.training)
        self.config, self.s = config, config.training
        self.model = load_transform(config.model)
        self.base, self.arch = Frozen(self.model, run.device), self.model.architecture
        share = ENCODING_SHARE if self.arch.objective == "visual" else 0.0
        self.fits = config.points(self.arch.rate_points)
        self.points = [fit.rate_point for fit in self.fits]
        lpips = Lpips.of_folder("squeeze", run.perceptual) if any(fit.lpips_weight for fit in self.fits) else None
        self.measures = [Measure(share, lpips, fit.lpips_weight) for fit in self.fits]
        self.weights: list[Tensor] = []
        self.chroma: list[Tensor] = []
        self.limits: list[Limits] = []
        if saved := self.saved():
            if saved["model"] != self.model.sha256 or saved["points"] != self.points:
                raise ModelError(f"{run.out}: belongs to another model or schedule; fit into another folder")
            self.weights, self.chroma = list(saved["weights"]), list(saved["chroma"])
            self.limits = [Limits(*limits) for limits in saved["limits"]]
        self.begin(saved)

    def _decoded(self, x: Tensor, point: int) -> Tensor:
        """What ``x`` ``(N, 3, h, w)`` is decoded to, unfiltered, with the filters' margin, channels last."""
        decoded = self.base.decode(x, torch.full((len(x),), point, device=x.device))
        return self.base.synthesise(self.base.padded(decoded, 1), MARGIN)

    @torch.no_grad()
    def _pairs(self, images: Tensor, fit: FilterPoint) -> tuple[list[tuple[Tensor, Tensor]], Limits]:
        """Images beside what they are decoded to, and the limits that follow from the errors."""
        pairs = [
            (o, x.cpu())
            for part in images.split(AT_ONCE)
            for o, x in zip(part.cpu(), self._decoded(part, fit.rate_point), strict=True)
        ]
        squares = []
        for o, x in pairs:
            (luma, colours), (true, true_colours) = (
                chroma.parts(torch_ops, pixels) for pixels in (networks.inside(x, MARGIN), o.permute(1, 2, 0))
            )
            errors = [luma - true, *(c - t for c, t in zip(colours, true_colours, strict=True))]
            squares.append([error.square().mean() for error in errors])
        of_luma, *of_chroma = torch.tensor(squares).mean(0)
        return pairs, Limits(
            fit.limit * float(of_luma.sqrt()), CHROMA_LIMIT * float(torch.stack(of_chroma).mean().sqrt())
        )

    def train_step(self) -> dict[str, float]:
        fit, measure = self.fits[self.step], self.measures[self.step]
        point = fit.rate_point
        crops = torch.cat([self.crops() for _ in range(self.s.crops // self.s.batch)])
        pairs, limits = self._pairs(crops, fit)
        left = 1.0
        if not self.s.directional:
            limits = limits._replace(luma=float(self.model.params["filter_limit"][point]))
        examples = [example(o, x, limits, measure) for o, x in pairs]
        if self.s.directional:
            weights, left = fitted(examples, self.s.iterations)
            weights *= np.array(fit.kept)[:, None]
        else:
            weights = self.model.params["filter_weights"][point].astype(np.float64)
        by_chroma, left_of_that = fitted_chroma(examples, weights, self.s.iterations)
        self.weights.append(torch.from_numpy(weights))
        self.chroma.append(torch.from_numpy(by_chroma))
        self.limits.append(limits)
        self.step += 1
        self.pixels += len(crops) * self.s.crop**2
        found = dict(zip((f"chroma_{n}" for n in CHROMA_DISTANCES), by_chroma.tolist(), strict=True))
        limit = {"limit": limits.luma, "chroma_limit": limits.chroma}
        return {"rate_point": float(point), **limit, **found, "directional": left, "loss": left_of_that}

    def validate(self, images: Tensor) -> dict[str, Any]:
        """The distortion as a share of what it is unfiltered, and PSNR, at the rate point fitted last."""
        last = max(self.step - 1, 0)
        pairs, limits = self._pairs(images, self.fits[last])
        weights, by_chroma = np.zeros(TABLE), torch.zeros(len(CHROMA_DISTANCES))
        if self.weights:
            weights, by_chroma, limits = self.weights[-1].numpy(), self.chroma[-1], self.limits[-1]
        found, mse = [], []
        for o, x in pairs:
            e = example(o, x, limits, self.measures[last])
            pixels = e.with_chroma(e.filtered(weights), by_chroma).clamp(0, 1)
            found.append(e.distortion(pixels).item() / e.unfiltered)
            mse.append([((p.clamp(0, 1) - o) * 255).square().mean() for p in (pixels, e.decoded)])
        after, before = decibels(torch.tensor(mse)).mean(0).tolist()
        row = {
            "rate_point": self.points[last],
            "psnr": after,
            "unfiltered": before,
            "distortion": float(np.mean(found)),
        }
        return {"cost": row["distortion"], "table": [row]}

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.sha256,
            "points": self.points,
            "weights": self.weights,
            "chroma": self.chroma,
            "limits": [tuple(limits) for limits in self.limits],
        }


def train(config: DirectionalConfig, run: Run, report: LogReport | None = None) -> Path:
    """Fits the filter; returns the checkpoint, see `nicc.training.stage.drive`."""
    return drive(FilterFitter(config, run), report)


def arrays_of(saved: dict[str, Any], rate_points: int) -> dict[str, Array]:
    """A model's arrays of a checkpoint: linear between the rate points that were fitted, limits in their logarithm."""
    points = saved["points"][: len(saved["weights"])]

    def everywhere(values: Array) -> Array:
        columns = [np.interp(np.arange(rate_points), points, column) for column in values.reshape(len(points), -1).T]
        return np.stack(columns, -1).reshape(rate_points, *values.shape[1:])

    limits = np.exp(everywhere(np.log(np.array(saved["limits"])))).astype(np.float32)
    return {
        "filter_weights": everywhere(torch.stack(saved["weights"]).numpy()).astype(np.float16),
        "filter_limit": limits[:, 0],
        "filter_chroma": everywhere(torch.stack(saved["chroma"]).numpy()).astype(np.float32),
        "filter_chroma_limit": limits[:, 1],
    }


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
