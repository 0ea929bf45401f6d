"""Training of a family of a pyramid's starts: networks fitted jointly to the latents of many smooth crops.

Networks that are trained beside an analysis code a smooth photograph as a contour map of its luminance in the finest
grid. Networks that are fitted from nothing, to latents that begin at zero, leave that grid nearly empty; but only where
the rate is low, and only hot fits leave what they began with. So the first start is the second lowest rate's, from
networks at random; each one above goes on from its neighbour's networks and latents, and the lowest is the last.
A family that has directions is trained on from its own networks, and every crop moves them along these by itself, as
an encoder does: what they have in common is what is left to the start. With ``torchrun``, every process has crops of
its own.
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
    from nicc.pyramid.optimizer import PULL, Momentum
    from nicc.pyramid.strip import Strip

FIRST = 1
"""The start that is trained first."""
FIRST_PARTS = 3
"""Its steps, from networks at random, against those of each of the others."""
BETAS = (0.9, 0.95)
"""Of Adam on the networks."""
CHECKED, CHECK_STEPS = 4, 150
"""Validation images that are fitted, and in how many steps."""
FREE_RATE = 0.1
"""Rate of networks that have no directions yet, see `nicc.pyramid.fit.Cooling`."""
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
        self.s, self.number = config.training, config.family
        self.model = model_to_extend(config.model, run, "families of starts")
        self.arch = self.model.architecture
        self.known = None if self.number is None else self.model.family(self.number)
        self.directions = self.known.directions if self.known else Directions.plain(self.arch.parameters())
        highest = self.s.starts or self.arch.starts
        if not FIRST < highest <= self.arch.starts or (self.known is None and highest < self.arch.starts):
            raise ModelError(f"starts must be {FIRST + 1} to {self.arch.starts}, and all of them of a new family")
        self.order = [*range(FIRST, highest), *range(FIRST - 1, -1, -1)]
        self.first_parts = FIRST_PARTS if self.known is None else 1
        parts = len(self.order) - 1 + self.first_parts
        if self.s.steps % parts:
            raise ModelError(f"the steps of a family must be a multiple of {parts}")
        self.part = self.s.steps // parts
        self.trained: dict[int, Tensor] = {}
        if saved := self.saved():
            if saved["model"] != self.model.sha256 or saved["family"] != self.number:
                raise ModelError(f"{run.out / CHECKPOINT}: is of another model or family; train into another folder")
            self.trained = saved["trained"]
            saved["step"] = self._step_of(len(self.trained))  # latents are not kept: a start begins anew
        self.begin(saved)
        drawn = self.photos.crops(self.rng, self.s.candidates * self.s.batch, self.s.crop)
        crops = smoothest(drawn, self.s.batch)
        seed = self.s.seed + self.rank * self.s.batch
        self.fits = [Fit([Strip(crop)], Networks(self.arch), seed + n) for n, crop in enumerate(crops)]
        if self.known is None:
            first = untrained(self.arch, np.random.default_rng(self.s.seed))
        else:
            first = Networks.of_integers(self.arch, self.known.starts[FIRST])
        self.start = first.flat.copy()
        """The networks that all crops share."""
        self._begin_anew()
        if 0 < len(self.trained) < len(self.order):
            self._go_on(self.order[len(self.trained)])

    def _step_of(self, index: int) -> int:
        """The step at which the start begins that is trained as number ``index``."""
        return self.part * (index + self.first_parts - 1 if index else 0)

    def _begin_anew(self) -> None:
        """Sets latents to zero, and the networks of every crop to the shared ones."""
        self.hot = True
        for fit in self.fits:
            fit.begin(self.directions, self.start)
            fit.strips[0].y[:] = 0

    def _go_on(self, start: int) -> None:
        """Begins a start with what its trained neighbour has reached; with its networks alone if it is not the last."""
        neighbour = start - 1 if start > FIRST else start + 1
        self.start[:] = self.trained[neighbour].numpy()
        self.hot = False
        if start < FIRST or self.step == self.first_step:
            self._begin_anew()

    def state(self) -> dict[str, Any]:
        facts = {"model": self.model.sha256, "model_folder": str(self.model.folder), "family": self.number}
        return facts | {"trained": self.trained}

    def train_step(self) -> dict[str, float]:
        index = len(self.trained)
        start, begun = self.order[index], self._step_of(index)
        if self.step in (begun, self.first_step):
            self._restart()
        steps = self._step_of(index + 1) - begun
        cooling = Cooling.over(steps) if self.hot else replace(Cooling.over(steps), begin=self.s.begin)
        temperature, noise, rate, network_rate = cooling.at((self.step - begun) / steps)
        weight = self.arch.start_lambda(start)
        total, results = np.zeros_like(self.start), []
        for n, (fit, momentum) in enumerate(zip(self.fits, self.momenta, strict=True)):
            fit.weight, gradient = weight, Networks(self.arch)
            bits, distortion = fit.gradients(fit.strips[0], gradient, temperature, noise)
            fit.strips[0].move(cooling.latent_rate * rate)
            cost = (bits + weight * distortion) / self.s.crop**2
            self.costs[n] = self.costs[n] + (1 - SMOOTHING) * (cost - self.costs[n]) if self.costs[n] else cost
            total += gradient.flat / np.float32(self.costs[n])
            if self.known:
                momentum.step(gradient.flat, cooling.network_rate * network_rate)
            results.append((math.log(cost), bits / self.s.crop**2))
        self.networks.grad = torch.from_numpy(total)
        if self.world > 1:
            dist.all_reduce(self.networks.grad)
        self.set_rates(self.optimizer, network_rate)
        self.optimizer.step()
        for fit in self.fits:
            fit.set_networks()
        self.step += 1
        self.pixels += self.s.batch * self.s.crop**2 * self.world
        if self.step == begun + steps:
            self.trained[start] = torch.from_numpy(self.start.copy())
            self.entries.append(self._measured(start))
            if not self.done:
                self._go_on(self.order[index + 1])
        loss, bpp = np.mean(results, 0)
        return {"loss": float(loss), "bpp": float(bpp)}

    def _restart(self) -> None:
        """Forgets the moments of all gradients."""
        self.costs = np.zeros(len(self.fits))
        self.networks = torch.from_numpy(self.start)  # of the same memory
        group = {"params": [self.networks], "base": self.s.network_rate}
        self.optimizer = torch.optim.Adam([group], betas=BETAS)
        self.momenta = [Momentum(self.directions, fit.coefficients[: fit.used]) for fit in self.fits]
        for fit in self.fits:
            fit.strips[0].restart()

    def _measured(self, start: int) -> dict[str, Any]:
        """What the crops cost with rounded latents, to log, and how full the finest grid is."""
        outcomes = np.array([fit.measure() for fit in self.fits])
        finest = [np.rint(fit.strips[0].grids(fit.strips[0].y)[0]) for fit in self.fits]
        row = {"start": start, "bpp": outcomes[:, 0].mean(), "psnr": np.mean([decibels(d) for d in outcomes[:, 1]])}
        row["log_cost"] = np.log(outcomes @ (1, self.arch.start_lambda(start))).mean()
        row["finest"] = np.mean([np.mean(g != np.median(g)) for g in finest])
        return {k: round(float(v), 4) for k, v in row.items()}

    def validate(self, images: Tensor) -> dict[str, Any]:
        """Log costs of fits to the images' corners from the start that was trained last, with networks' bits.

        Networks that have no directions yet are free, parameter by parameter, and their bits are not counted.
        """
        if not self.trained:
            return {"log_costs": []}
        start = self.order[len(self.trained) - 1]
        weight, costs = self.arch.start_lambda(start), []
        rate, pull = (Cooling.network_rate, float(PULL)) if self.known else (FREE_RATE, 0.0)
        for x in images[:CHECKED, :, : self.s.crop, : self.s.crop]:
            fit = Fit([Strip((x.permute(1, 2, 0) * 255).byte().numpy())], Networks(self.arch))
            fit.begin(self.directions, self.trained[start].numpy())
            fit.run(weight, CHECK_STEPS, replace(Cooling(), network_rate=rate))
            bits, distortion = fit.measure()
            networks = pull * float(np.abs(fit.coefficients).sum()) / fit.pixels
            costs.append(round(math.log(bits + networks + weight * distortion), 4))
        return {"start": start, "log_costs": costs}


def train(config: FamilyConfig, run: Run, report: LogReport | None = None) -> Path:
    """Trains a family of starts and returns the checkpoint, see `nicc.training.stage.drive`."""
    return drive(FamilyTrainer(config, run), report)


def export(config: FamilyConfig, checkpoint: Path, out: Path, photos: Photos, data: list[Path]) -> PyramidModel:
    """Writes a model's folder with the family that was trained, a new one behind those that it had, and its card."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = model_of_checkpoint(saved)
    arch = model.architecture
    trained, number = saved["trained"], saved["family"]
    missing = set(range(config.training.starts or arch.starts)) - set(trained)
    if missing:
        raise ModelError(f"{checkpoint}: {len(missing)} starts are not trained yet; go on with --resume")
    integers = {n: Networks(arch, flat.numpy()).integers() for n, flat in trained.items()}
    if number is None:
        number, arch = arch.families, replace(arch, families=arch.families + 1)
        family = Family(np.stack([integers[n] for n in range(arch.starts)]), Directions.plain(arch.parameters()))
    else:
        known = model.families[number]
        family = known._replace(starts=np.stack([integers.get(n, s) for n, s in enumerate(known.starts)]))
    decoder = model.arrays | family.arrays(number)
    facts: dict[str, Any] = {"name": config.name, "version": config.version}
    facts["architecture"] = arch.to_dict()
    facts["training"] = model.description["training"] | {f"family {number}": training_facts(saved)}
    return write_with_card(out, facts, decoder, analysis_arrays(model), photos, data)
