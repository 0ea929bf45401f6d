"""Training stage rate-distortion: one variable-rate model from photographs.

Read top to bottom: learning rates by group, validation, a step; the loop is `nicc.training.stage`.
The same command runs on a CPU, on CUDA, and in several processes under torchrun.
"""

from __future__ import annotations

from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nicc.architecture import Architecture
from nicc.encoder.visual import decibels
from nicc.errors import ModelError
from nicc.training.codec import CodecModule, lambdas
from nicc.training.config import CodecSchedule, TrainingConfig
from nicc.training.growth import start_from
from nicc.training.objective import Outcome, Phase, RateDistortion, log_cost, loss
from nicc.training.optimizer import MuonAdam
from nicc.training.perceptual import Lpips
from nicc.training.restore import checkpoint_of
from nicc.training.stage import CHECKPOINT, WARM_UP, Average, LogReport, Run, Stage, drive
from nicc.training.start import start
from nicc.training.weighting import weigh

LPIPS_NETWORK = "squeeze"
"""The network that is trained on; benchmarks measure with the other, AlexNet."""


class Rule(NamedTuple):
    """How the parameters are trained whose names match the pattern."""

    pattern: str
    """A pattern as `fnmatch` takes it."""
    rate: str
    """The name of the schedule's learning rate that is theirs."""
    phases: frozenset[Phase] = frozenset(Phase)
    factor: float = 1.0
    """What the schedule's rate is multiplied by."""
    muon: str | None = None
    """Muon instead of Adam: which axis of the matrix comes first."""


SENDER = frozenset({Phase.SOFT, Phase.JOINT})
"""The predictive phase leaves the analysis as it is."""
RECEIVER = frozenset({Phase.SOFT, Phase.JOINT, Phase.PREDICTIVE})
"""The entropy phase has no synthesis."""

RULES = (
    Rule("codec.analysis.linear.weight", "linear_rate", SENDER),
    Rule("codec.analysis.body.*.weight", "matrix_rate", SENDER, muon="outputs first"),
    Rule("codec.analysis.body.*.bias", "rate", SENDER),
    Rule("codec.analysis.out", "table_rate", SENDER),
    Rule("codec.log_gain", "table_rate", SENDER),
    Rule("codec.hyper_analysis.*.weight", "matrix_rate", muon="outputs first"),
    Rule("codec.hyper_analysis.*.bias", "rate"),
    Rule("codec.hyper_analysis.pooled", "matrix_rate", muon="outputs first"),
    Rule("codec.log_hyper_gain", "table_rate"),
    Rule("codec.row_*", "table_rate"),
    Rule("codec.hidden_*", "table_rate"),
    Rule("codec.p.row*", "matrix_rate", muon="inputs first"),
    Rule("codec.p.mean*_in", "matrix_rate", muon="inputs first"),
    Rule("codec.p.mean*_out", "matrix_rate", muon="inputs first"),
    Rule("codec.p.mean_z", "matrix_rate", muon="inputs first"),
    Rule("codec.p.mean*_bias", "rate"),
    Rule("codec.p.gain_*", "rate", factor=1 / 2),
    Rule("codec.p.synthesis_[!m]*", "linear_rate", RECEIVER),
    Rule("codec.p.synthesis_more", "linear_rate", RECEIVER),
    Rule("codec.p.synthesis_main", "linear_rate", RECEIVER, factor=4),
    Rule("codec.p.igdn_*", "rate", RECEIVER, factor=1 / 3),
    Rule("codec.p.rectifier*", "matrix_rate", RECEIVER, muon="inputs first"),
    Rule("codec.rectifier_bias", "table_rate", RECEIVER),
    Rule("codec.log_inverse", "table_rate", RECEIVER),
    Rule("codec.recon_offset", "rate", RECEIVER, factor=1 / 3),
    Rule("prior.*", "table_rate"),
)
"""Every parameter matches one pattern; the order means nothing."""


def learning_rates(model: RateDistortion, s: CodecSchedule) -> list[dict[str, Any]]:
    """Groups of the parameters that need gradients, by the `RULES`: Muon for matrices of hidden layers, or Adam."""
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        (rule,) = (r for r in RULES if fnmatchcase(name, r.pattern))
        rate = getattr(s, rule.rate) * rule.factor
        phases = [p.value for p in rule.phases]
        groups.append({"params": [parameter], "lr": rate, "base": rate, "phases": phases, "muon": rule.muon})
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
        row = {"rate_point": point, "bpp": float(bpp.mean()), "psnr": float(decibels(mse).mean())}
        table.append(row | ({"ssimulacra2": float(points.mean())} if arch.objective == "visual" else {}))
    model.train()
    return {"cost": float(np.mean(costs)), "table": table}


class CodecTrainer(Stage):
    """State of one run: model, average of its weights, optimizer, position in the schedule."""

    def __init__(self, config: TrainingConfig, run: Run) -> None:
        super().__init__(run, config.training)
        self.config, self.s = config, config.training
        perceptual = None
        if self.s.lpips_weight:
            self.lpips = Lpips.of_folder(LPIPS_NETWORK, run.perceptual).to(self.device)
            perceptual = self._perceptual
        self.model = RateDistortion(CodecModule(config.architecture), perceptual)
        saved = self.saved()
        if not saved:
            self._start()
        elif Architecture.from_dict(saved["architecture"]) != config.architecture:
            raise ModelError(f"{run.out / CHECKPOINT}: belongs to another architecture; train into another folder")
        self.model.to(self.device).to(memory_format=torch.channels_last)
        if self.s.sender_only:
            self.model.requires_grad_(False).codec.analysis.requires_grad_(True)
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
        if self.config.weighting:
            weigh(self.model.codec, self.config.weighting)

    def _perceptual(self, original: Tensor, decoded: Tensor) -> Tensor:
        return self.s.lpips_weight * self.lpips(*self.shifted(original, decoded))

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
        model = RateDistortion(CodecModule(self.config.architecture)).to(self.device)
        model.load_state_dict(self.average.values)
        return validate(model, images)

    def state(self) -> dict[str, Any]:
        return {
            "name": self.config.name,
            "version": self.config.version,
            "architecture": self.config.architecture.to_dict(),
            "active_from": self.s.active_from,
            "realism_gains": [asdict(gains) for gains in self.config.realism_gains],
            "model": self.model.state_dict(),
            "average": self.average.values,
            "optimizer": self.optimizer.state_dict(),
        }


def train(config: TrainingConfig, run: Run, report: LogReport | None = None) -> Path:
    """Trains a model and returns its checkpoint, see `nicc.training.stage.drive`."""
    return drive(CodecTrainer(config, run), report)
