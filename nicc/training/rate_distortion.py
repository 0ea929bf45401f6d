"""Training stage rate-distortion: one variable-rate model from photographs.

Read top to bottom: learning rates by group, validation, a step; the loop is `nicc.training.stage`.
The same command runs on a CPU, on CUDA, and in several processes under torchrun.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nicc.architecture import RENDERING, Architecture
from nicc.errors import ModelError
from nicc.training.codec import Codec, lambdas
from nicc.training.config import Schedule, TrainingConfig
from nicc.training.growth import start_from
from nicc.training.objective import Outcome, Phase, RateDistortion, log_cost, loss
from nicc.training.optimizer import MuonAdam
from nicc.training.restore import checkpoint_of
from nicc.training.stage import CHECKPOINT, WARM_UP, Average, Report, Run, Stage, drive
from nicc.training.start import start


def learning_rates(model: RateDistortion, s: Schedule) -> list[dict[str, Any]]:
    """Parameter groups: Muon for the matrices of hidden layers, Adam for the rest.

    Adam's steps shrink with the fan-in, most for the lapped transform.
    """
    groups = []
    linear = {
        "codec.analysis.linear.weight",
        "codec.p.synthesis_linear",
        "codec.p.synthesis_more",
        "codec.p.synthesis_out",
        "codec.p.synthesis_bias",
    }
    tables = ("log_", "row_", "hidden_", "recon_", "rectifier_", "out")
    for name, parameter in model.named_parameters():
        leaf = name.split(".")
        if name in linear:
            rate = s.linear_rate
        elif leaf[0] == "prior" or leaf[1].startswith(tables) or leaf[-1] == "out":
            rate = s.table_rate
        else:
            by_network = leaf[1] == "p"  # these are stored (inputs, outputs)
            fan_in = parameter.shape[0] if by_network else parameter[0].numel()
            rate = s.rate * min(1.0, 64 / max(fan_in, 1)) if parameter.dim() > 1 else s.rate
        muon = None
        if parameter.dim() > 1 and name.startswith(("codec.analysis.body.", "codec.hyper_analysis.")):
            muon, rate = "outputs first", s.matrix_rate
        elif name.startswith(("codec.p.row", "codec.p.mean", "codec.p.rectifier")) and parameter.dim() > 1:
            muon, rate = "inputs first", s.matrix_rate
        if leaf[-1] == "synthesis_main":
            rate = s.linear_rate * 4
        elif leaf[-1].startswith("gain_"):
            rate = s.rate / 2
        elif leaf[-1] == "recon_offset" or leaf[-1].startswith("igdn"):
            rate = s.rate / 3
        if leaf[1] in ("analysis", "log_gain"):
            phases = {Phase.SOFT, Phase.JOINT}
        elif leaf[1] == "log_inverse" or leaf[-1].startswith(RENDERING):
            phases = {Phase.SOFT, Phase.JOINT, Phase.PREDICTIVE}
        else:
            phases = set(Phase)
        phase_names = [p.value for p in phases]
        groups.append({"params": [parameter], "lr": rate, "base": rate, "phases": phase_names, "muon": muon})
    return groups


@torch.no_grad()
def validate(model: RateDistortion, images: Tensor) -> dict[str, Any]:
    """Rate and distortion of rounded latents at the anchors, and the mean log cost."""
    table, costs = [], []
    arch = model.codec.arch
    model.eval()
    for point in arch.anchor_points:
        parts = [model(x, torch.full((len(x),), point, device=x.device), Phase.PREDICTIVE) for x in images.split(8)]
        bpp = torch.cat([o.bpp_y + o.bpp_z for o in parts])
        mse, distortion, points = (torch.cat([getattr(o, k) for o in parts]) for k in ("mse", "distortion", "score"))
        costs.append(log_cost(bpp, distortion, lambdas(arch, torch.full_like(bpp, point))))
        psnr = 10 * torch.log10(255**2 / mse)
        row = {"rate_point": point, "bpp": float(bpp.mean()), "psnr": float(psnr.mean())}
        table.append(row | ({"ssimulacra2": float(points.mean())} if arch.objective == "visual" else {}))
    model.train()
    return {"cost": float(np.mean(costs)), "table": table}


class Trainer(Stage):
    """State of one run: model, average of its weights, optimizer, position in the schedule."""

    def __init__(self, config: TrainingConfig, run: Run) -> None:
        super().__init__(run, config.training)
        self.config, self.s = config, config.training
        self.model = RateDistortion(Codec(config.architecture))
        saved = self.saved()
        if not saved:
            self._start()
        elif Architecture.from_dict(saved["architecture"]) != config.architecture:
            raise ModelError(f"{run.out / CHECKPOINT}: belongs to another architecture; train into another folder")
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = MuonAdam(
            learning_rates(self.model, self.s), betas=(0.9, 0.99), fused=run.device == "cuda" or None
        )
        average = None
        if saved:
            self.model.load_state_dict(saved["model"])
            average = {k: v.to(self.device) for k, v in saved["average"].items()}
            self.optimizer.load_state_dict(saved["optimizer"])
            for group, fresh in zip(self.optimizer.param_groups, learning_rates(self.model, self.s), strict=True):
                group.update({key: fresh[key] for key in ("base", "phases", "muon")})
        self.average = Average(self.model, self.s.ema, average)
        self.begin(saved)
        self.parallel: nn.Module = self.model
        if self.world > 1:
            self.parallel = nn.parallel.DistributedDataParallel(self.model, find_unused_parameters=True)
        elif run.compile:
            self.parallel = torch.compile(self.model)  # type: ignore[assignment]

    def _start(self) -> None:
        if self.run.begin:
            other = checkpoint_of(self.run.begin, self.photos)
            start_from(
                self.model, other["average"], Architecture.from_dict(other["architecture"]), self.photos, self.s.overlap
            )
            self.step, self.seconds, self.pixels = other["step"], other["seconds"], other["pixels"]
        else:
            start(self.model.codec, self.model.prior, self.photos, self.s.overlap, self.s.seed)

    @property
    def phase(self) -> Phase:
        if self.step < self.s.entropy_steps:
            return Phase.ENTROPY
        left = 1 - self.progress - self.s.predictive_share
        if left <= 0:
            return Phase.PREDICTIVE
        return Phase.JOINT if left <= self.s.joint_share else Phase.SOFT

    def train_step(self) -> dict[str, float]:
        s, phase, decay = self.s, self.phase, self.decay
        # the transforms join after the entropy phase, warming up anew
        warm = self.warmth if phase is Phase.ENTROPY else min(self.warmth, (self.step - s.entropy_steps + 1) / WARM_UP)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * decay * warm if phase.value in group["phases"] else 0.0
        x = self.crops()
        rate_point = torch.rand(s.batch, device=self.device) * (self.config.architecture.rate_points - 1)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp):
            outcome = self.parallel(x, rate_point, phase)
        objective = loss(outcome, lambdas(self.config.architecture, rate_point))
        norm = self.update(self.model, self.optimizer, objective)
        self.average.update(self.model, self.step)
        outcome = Outcome(*(part.detach() for part in outcome))
        return {
            "loss": float(objective.detach()),
            "bpp": float((outcome.bpp_y + outcome.bpp_z).mean()),
            "bpp_z": float(outcome.bpp_z.mean()),
            "mse": float(outcome.mse.mean()),
            "distortion": float(outcome.distortion.mean()),
            "gradient": float(norm),
        }

    def validate(self, images: Tensor) -> dict[str, Any]:
        model = RateDistortion(Codec(self.config.architecture)).to(self.device)
        model.load_state_dict(self.average.values)
        return validate(model, images)

    def state(self) -> dict[str, Any]:
        return {
            "name": self.config.name,
            "version": self.config.version,
            "architecture": self.config.architecture.to_dict(),
            "model": self.model.state_dict(),
            "average": self.average.values,
            "optimizer": self.optimizer.state_dict(),
        }


def train(config: TrainingConfig, run: Run, report: Report | None = None) -> Path:
    """Trains a model and returns its checkpoint, see `nicc.training.stage.drive`."""
    return drive(Trainer(config, run), report)
