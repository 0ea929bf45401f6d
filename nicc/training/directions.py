"""Finding the directions along which a pyramid's networks move: fits to many photographs, and how costs are curved.

A fit ends some way from its start. Over many photographs these ways have second moments C; the cost of a fit, bits +
lambda D per pixel, has a curvature H in the networks' parameters. With H = L L', the eigenvectors U of L' C L give
directions B = L'^-1 U in whose coefficients the cost is curved by one alike, and fits are not correlated: transform
coding of parameters, and a preconditioner learned in advance. Starts stay as they are: moved to the mean of their fits
(Reptile), they fitted the analysis' first latents less well, which cost 2 % at low rates.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from nicc.encoder.fitting import analysis_arrays, set_first_latents
from nicc.errors import ModelError, needs
from nicc.pyramid.directions import Directions
from nicc.pyramid.model import Family, PyramidModel
from nicc.pyramid.networks import Networks
from nicc.training.config_pyramid import DirectionsConfig
from nicc.training.data import Photos
from nicc.training.folder import training_facts
from nicc.training.pyramid import model_of_checkpoint, model_to_extend, write_with_card
from nicc.training.stage import CHECKPOINT, LogReport, Run, Stage, drive

with needs("pyramid", "finding directions"):
    from nicc.pyramid.encode import Fitter
    from nicc.pyramid.fit import Cooling, Fit
    from nicc.pyramid.strip import Strip

NUDGE = 2.0**-8
"""By how much a parameter is changed to measure curvature: about as far as rounding moves it."""
LEAST_CURVATURE = 1e-2
"""Bits per pixel and unit squared: directions that change nothing are taken to be curved so much."""
LEAST_DEVIATION = 0.003
"""Of coefficients: about half of the step in which a 768x512 image has them."""
SINGLE = 0.2
"""Share of the second moments that is of parameters by themselves: photographs are fewer than parameters."""
CHECKED = 3
"""Validation images that are fitted."""


def principal(curvature: np.ndarray, ways: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` directions, ``(count, parameters)`` for a coefficient of one, and the deviations of these.

    ``ways`` ``(fits, parameters)`` are those of fits from their starts. Where these did not go, deviations are
    `LEAST_DEVIATION`: fits of crops are pulled from ways that pay in larger images.
    """
    moments = ways.T @ ways / len(ways)
    moments = (1 - SINGLE) * moments + SINGLE * np.diag(np.diag(moments))
    values, vectors = np.linalg.eigh(curvature)
    root = np.sqrt(np.maximum(values, LEAST_CURVATURE))
    whitened = vectors * root
    spread, turned = np.linalg.eigh(whitened.T @ moments @ whitened)
    first = np.argsort(-spread)[:count]
    directions = ((vectors / root) @ turned[:, first]).T
    return directions, np.sqrt(np.maximum(spread[first], LEAST_DEVIATION**2))


def curvature_of(fit: Fit) -> np.ndarray:
    """Second derivatives of bits + weight * distortion per pixel by networks, of rounded latents, which it rounds."""
    strip = fit.strips[0]
    np.rint(strip.y, out=strip.y)
    here = fit.networks.flat.copy()

    def gradient() -> np.ndarray:
        found = Networks(fit.networks.arch)
        fit.gradients(strip, found, 1.0, 0.0, rounded=True)
        return found.flat.astype(np.float64)

    middle = gradient()
    rows = np.empty((len(here), len(here)))
    for i, value in enumerate(here):
        fit.networks.flat[i] = value + np.float32(NUDGE)
        rows[i] = gradient() - middle
        fit.networks.flat[i] = value
    return (rows + rows.T) / (2 * NUDGE * fit.pixels)


class DirectionFinder(Stage):
    """State of one run: where fits ended, by start, and the sum of curvatures. A step is one fit.

    Fits are of the rate points that their start is for. With ``torchrun``, every process makes fits of its own; their
    ends come together where a checkpoint is saved.
    """

    def __init__(self, config: DirectionsConfig, run: Run) -> None:
        super().__init__(run, config.training)
        self.s, self.count, self.number = config.training, config.count, config.family
        model = model_to_extend(config.model, run, "directions")
        self.family = model.family(self.number)
        self.model, self.arch = model, model.architecture
        self.analysis = analysis_arrays(model)
        self._forget()
        if saved := self.saved():
            if saved["model"] != model.sha256 or saved["family"] != self.number:
                raise ModelError(f"{run.out / CHECKPOINT}: is of another model or family; train into another folder")
            if not self.rank:
                self._add(saved)
        self.begin(saved)

    def _forget(self) -> None:
        n = self.arch.parameters()
        self.ended_at: list[list[Tensor]] = [[] for _ in range(self.arch.starts)]
        self.curvature, self.curved = torch.zeros(n, n, dtype=torch.float64), 0

    def _add(self, found: dict[str, Any]) -> None:
        """What another process, or this one before, has found: its `state`."""
        for here, there in zip(self.ended_at, found["ended_at"], strict=True):
            here.extend(there)
        self.curvature += found["curvature"]
        self.curved += found["curved"]

    def save(self) -> None:
        if self.world > 1:
            others: list[Any] | None = None if self.rank else [None] * self.world
            dist.gather_object(self.state(), others)
            for found in others[1:] if others else []:
                self._add(found)
            if self.rank:
                self._forget()  # the first has it
        super().save()

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.sha256,
            "family": self.number,
            "model_folder": str(self.model.folder),
            "ended_at": self.ended_at,
            "curvature": self.curvature,
            "curved": self.curved,
        }

    def _point(self, start: int, share: float) -> int:
        """One of the rate points that a start is for; its own, if it is for none."""
        points = self.arch.points_of(start) or [round(self.arch.start_point(start))]
        return points[int(share * len(points))]

    def train_step(self) -> dict[str, float]:
        index, starts = self.step + self.rank, min(self.s.starts or self.arch.starts, self.arch.starts)
        start = index % starts
        [crop] = self.photos.crops(self.rng, 1, self.timing.crop)
        fit = Fit([Strip(crop)], Networks(self.arch), seed=index)
        fit.begin(self.family.directions, Networks.of_integers(self.arch, self.family.starts[start]).flat)
        if not self.number:
            set_first_latents(self.analysis, fit.strips[0], start)
        weight = self.arch.rate_lambda(self._point(start, self.rng.random()))
        cooling = replace(Cooling.over(self.s.fit_steps), network_rate=self.s.network_rate)
        fit.run(weight, self.s.fit_steps, cooling)
        bits, distortion = fit.measure()
        self.ended_at[start].append(torch.from_numpy(fit.networks.flat.copy()))
        if index < self.s.curvatures * starts:
            self.curvature += torch.from_numpy(curvature_of(fit))
            self.curved += 1
        self.step += self.world
        self.pixels += self.timing.crop**2 * self.s.fit_steps * self.world
        return {"loss": math.log(bits + weight * distortion), "bpp": bits}

    def validate(self, images: Tensor) -> dict[str, Any]:
        """Cost of fits along the directions that are known so far, with the networks' bytes, at the middle start."""
        model = alone(found_model(self.model, self.state(), self.count) if self.curved else self.model, self.number)
        analyse = None if self.number else partial(set_first_latents, self.analysis)
        start = self.arch.starts // 2
        point = self._point(start, 0.5)
        weight, costs = self.arch.rate_lambda(point), []
        for x in images[:CHECKED]:
            pixels = (x.permute(1, 2, 0) * 255).byte().numpy()
            fitter = Fitter(model, pixels, analyse=analyse)
            fitter.run(point, weight, self.s.fit_steps)
            costs.append(math.log(fitter.cost() / fitter.fit.pixels))
        return {"cost": float(np.mean(costs)), "table": [{"rate_point": point, "bpp": 0.0}]}


def alone(model: PyramidModel, number: int) -> PyramidModel:
    """A model of one family of another's, whose fits are of that family."""
    description = model.description | {"architecture": replace(model.architecture, families=1).to_dict()}
    return PyramidModel(description, model.families[number].arrays(0), model.folder)


def found_model(model: PyramidModel, saved: dict[str, Any], count: int) -> PyramidModel:
    """A model with the directions of a checkpoint for the family that it is of."""
    number = saved["family"]
    ways = [
        torch.stack(ends).numpy().astype(np.float64) - Networks.of_integers(model.architecture, start).flat
        for ends, start in zip(saved["ended_at"], model.families[number].starts, strict=True)
        if ends
    ]
    curvature = saved["curvature"].numpy() / saved["curved"]
    found = principal(curvature, np.concatenate(ways), min(count, model.architecture.parameters()))
    family = Family(model.families[number].starts, Directions.nearest(*found))
    return PyramidModel(model.description, model.arrays | family.arrays(number), model.folder)


def train(config: DirectionsConfig, run: Run, report: LogReport | None = None) -> Path:
    """Fits and returns the checkpoint, see `nicc.training.stage.drive`."""
    return drive(DirectionFinder(config, run), report)


def export(config: DirectionsConfig, checkpoint: Path, out: Path, photos: Photos, data: list[Path]) -> PyramidModel:
    """Writes a model's folder with the directions that were found, and its card."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if not saved["curved"]:
        raise ModelError(f"{checkpoint}: has no curvature yet; go on with --resume")
    model = model_of_checkpoint(saved)
    decoder = found_model(model, saved, config.count).arrays
    facts = {"name": config.name, "version": config.version, "architecture": model.architecture.to_dict()}
    stage = f"directions of family {saved['family']}" if saved["family"] else "directions"
    facts["training"] = model.description["training"] | {stage: training_facts(saved)}
    return write_with_card(out, facts, decoder, analysis_arrays(model), photos, data)
