"""Training of a further family of a pyramid's starts: networks fitted jointly to the latents of many smooth crops.

Networks that are trained beside an analysis code a smooth photograph as a contour map of its luminance in the finest
grid. Networks that are fitted from nothing, to latents that begin at zero, leave that grid nearly empty; but only where
the rate is low, and only hot fits leave what they began with. So the first start is the second lowest rate's, from
networks at random; each one above goes on from its neighbour's networks and latents, and the lowest is the last.
With ``torchrun``, every process has crops of its own.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from nicc.encoder.fitting import analysis_arrays
from nicc.errors import ModelError, needs
from nicc.images import decibels
from nicc.pyramid.directions import Directions
from nicc.pyramid.model import Family, PyramidModel
from nicc.pyramid.networks import Networks
from nicc.training.config_pyramid import FamilyConfig
from nicc.training.data import Photos
from nicc.training.folder import training_facts
from nicc.training.pyramid import model_of_checkpoint, model_to_extend, untrained, write_with_card
from nicc.training.stage import CHECKPOINT, LogReport, Run, Stage, drive

with needs("pyramid", "training a pyramid"):
    from nicc.pyramid.fit import Cooling, Fit
    from nicc.pyramid.strip import Strip

FIRST = 1
"""The start that is trained first."""
FIRST_PARTS = 3
"""Its steps against those of each of the others."""
BETAS = (0.9, 0.95)
"""Of Adam on the networks."""
CHECKED, CHECK_STEPS = 4, 150
"""Validation images that are fitted, by networks that are free parameter by parameter, and in how many steps."""
SMOOTHING = 0.9
"""Decay of the costs of crops, by which their gradients are divided: all crops weigh alike."""


def smoothest(crops: np.ndarray, count: int) -> np.ndarray:
    """Those ``count`` of crops ``(N, h, w, 3)`` whose neighbouring pixels differ least."""
    luminance = crops.astype(np.float32).mean(-1)
    differences = [np.abs(np.diff(luminance, axis=a)).mean((1, 2)) for a in (1, 2)]
    return crops[np.sort(np.argsort(sum(differences), kind="stable")[:count])]


class FamilyTrainer(Stage):
    """State of one run: the starts that are trained so far, and the networks and latents of the one in work."""

    def __init__(self, config: FamilyConfig, run: Run) -> None:
        super().__init__(run, config.training)
        if run.time_budget:
            raise ModelError("the schedule of a family is in steps; leave --time-budget out")
        self.s = config.training
        self.model = model_to_extend(config.model, run, "families of starts")
        self.arch = self.model.architecture
        self.order = [*range(FIRST, self.arch.starts), *range(FIRST - 1, -1, -1)]
        parts = self.arch.starts - 1 + FIRST_PARTS
        if self.s.steps % parts:
            raise ModelError(f"the steps of a family must be a multiple of {parts}")
        self.part = self.s.steps // parts
        self.trained: dict[int, Tensor] = {}
        if saved := self.saved():
            if saved["model"] != self.model.sha256:
                raise ModelError(f"{run.out / CHECKPOINT}: is of another model; train into another folder")
            self.trained = saved["trained"]
            saved["step"] = self._step_of(len(self.trained))  # latents are not kept: a start begins anew
        self.begin(saved)
        drawn = self.photos.crops(self.rng, self.s.candidates * self.s.batch, self.s.crop)
        crops = smoothest(drawn, self.s.batch)
        networks = Networks(self.arch, untrained(self.arch, np.random.default_rng(self.s.seed)).flat)
        self.fit = Fit([Strip(crop) for crop in crops], networks, seed=self.s.seed + self.rank)
        self.hot = True
        if 0 < len(self.trained) < self.arch.starts:
            self._go_on(self.order[len(self.trained)])

    def _step_of(self, index: int) -> int:
        """The step at which the start begins that is trained as number ``index``."""
        return self.part * (index + FIRST_PARTS - 1 if index else 0)

    def _go_on(self, start: int) -> None:
        """Begins a start with the networks of its trained neighbour, and with the latents if these are the last."""
        neighbour = start - 1 if start > FIRST else start + 1
        self.hot = start < FIRST or self.step == self.first_step
        self.fit.networks.flat[:] = self.trained[neighbour].numpy()
        if self.hot:
            for strip in self.fit.strips:
                strip.y[:] = 0

    def state(self) -> dict[str, Any]:
        return {"model": self.model.sha256, "model_folder": str(self.model.folder), "trained": self.trained}

    def train_step(self) -> dict[str, float]:
        index = len(self.trained)
        start, begun = self.order[index], self._step_of(index)
        if self.step in (begun, self.first_step):
            self._restart()
        steps = self._step_of(index + 1) - begun
        cooling = Cooling.over(steps) if self.hot else replace(Cooling.over(steps), begin=self.s.begin)
        temperature, noise, rate, network_rate = cooling.at((self.step - begun) / steps)
        weight = self.arch.start_lambda(start)
        self.fit.weight = weight
        total, results = np.zeros_like(self.fit.networks.flat), []
        for n, strip in enumerate(self.fit.strips):
            gradient = Networks(self.arch)
            bits, distortion = self.fit.gradients(strip, gradient, temperature, noise)
            strip.move(cooling.latent_rate * rate)
            cost = (bits + weight * distortion) / self.s.crop**2
            self.costs[n] = self.costs[n] + (1 - SMOOTHING) * (cost - self.costs[n]) if self.costs[n] else cost
            total += gradient.flat / np.float32(self.costs[n])
            results.append((math.log(cost), bits / self.s.crop**2))
        self.networks.grad = torch.from_numpy(total)
        if self.world > 1:
            dist.all_reduce(self.networks.grad)
        self.set_rates(self.optimizer, network_rate)
        self.optimizer.step()
        self.step += 1
        self.pixels += self.s.batch * self.s.crop**2 * self.world
        if self.step == begun + steps:
            self.trained[start] = torch.from_numpy(self.fit.networks.flat.copy())
            self.entries.append(self._measured(start))
            if not self.done:
                self._go_on(self.order[index + 1])
        loss, bpp = np.mean(results, 0)
        return {"loss": float(loss), "bpp": float(bpp)}

    def _restart(self) -> None:
        """Forgets the moments of all gradients."""
        self.costs = np.zeros(len(self.fit.strips))
        self.networks = torch.from_numpy(self.fit.networks.flat)  # of the same memory
        group = {"params": [self.networks], "base": self.s.network_rate}
        self.optimizer = torch.optim.Adam([group], betas=BETAS)
        for strip in self.fit.strips:
            strip.restart()

    def _measured(self, start: int) -> dict[str, Any]:
        """What the crops cost with rounded latents, to log, and how full the finest grid is."""
        outcomes = np.array([self.fit.measure(strips=[s]) for s in self.fit.strips])
        finest = [np.rint(s.grids(s.y)[0]) for s in self.fit.strips]
        row = {"start": start, "bpp": outcomes[:, 0].mean(), "psnr": np.mean([decibels(d) for d in outcomes[:, 1]])}
        row["log_cost"] = np.log(outcomes @ (1, self.arch.start_lambda(start))).mean()
        row["finest"] = np.mean([np.mean(g != np.median(g)) for g in finest])
        return {k: round(float(v), 4) for k, v in row.items()}

    def validate(self, images: Tensor) -> dict[str, Any]:
        """Log costs of fits to the images' corners from the start that was trained last, without networks' bytes."""
        if not self.trained:
            return {"log_costs": []}
        start = self.order[len(self.trained) - 1]
        weight, costs = self.arch.start_lambda(start), []
        plain = Directions.plain(self.arch.parameters())
        for x in images[:CHECKED, :, : self.s.crop, : self.s.crop]:
            fit = Fit([Strip((x.permute(1, 2, 0) * 255).byte().numpy())], Networks(self.arch))
            fit.begin(plain, self.trained[start].numpy())
            fit.run(weight, CHECK_STEPS, replace(Cooling(), network_rate=0.1))
            bits, distortion = fit.measure()
            costs.append(round(math.log(bits + weight * distortion), 4))
        return {"start": start, "log_costs": costs}


def train(config: FamilyConfig, run: Run, report: LogReport | None = None) -> Path:
    """Trains a family of starts and returns the checkpoint, see `nicc.training.stage.drive`."""
    return drive(FamilyTrainer(config, run), report)


def export(config: FamilyConfig, checkpoint: Path, out: Path, photos: Photos, data: list[Path]) -> PyramidModel:
    """Writes a model's folder with the family that was trained behind those that it had, and its card."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = model_of_checkpoint(saved)
    arch = model.architecture
    if len(saved["trained"]) < arch.starts:
        raise ModelError(f"{checkpoint}: only {len(saved['trained'])} of {arch.starts} starts; go on with --resume")
    starts = np.stack([Networks(arch, saved["trained"][n].numpy()).integers() for n in range(arch.starts)])
    decoder = model.arrays | Family(starts, Directions.plain(arch.parameters())).arrays(arch.families)
    facts: dict[str, Any] = {"name": config.name, "version": config.version}
    facts["architecture"] = replace(arch, families=arch.families + 1).to_dict()
    facts["training"] = model.description["training"] | {"family": training_facts(saved)}
    return write_with_card(out, facts, decoder, analysis_arrays(model), photos, data)
