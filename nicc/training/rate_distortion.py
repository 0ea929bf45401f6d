"""Training stage rate-distortion: one variable-rate model from photographs.

Read top to bottom: settings of a run, learning rates by group, validation, the loop, checkpoints.
The same command runs on a CPU, on CUDA, and in several processes under torchrun.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn

from nicc.architecture import ANCHORS, RATE_POINTS, RENDERING, Architecture
from nicc.encoder.codec import Codec
from nicc.errors import ImageError, ModelError
from nicc.training.config import Schedule, TrainingConfig
from nicc.training.data import Photos
from nicc.training.objective import Outcome, Phase, RateDistortion, log_cost, loss
from nicc.training.optimizer import MuonAdam
from nicc.training.start import start, start_from

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
"""Copy of the checkpoint whose averaged weights did best on the validation photographs in this run."""
LOG = "log.jsonl"
VALIDATION_CROP = 384
ANCHOR_POINTS = [a * (RATE_POINTS - 1) / (ANCHORS - 1) for a in range(ANCHORS)]


@dataclass(frozen=True)
class Run:
    """Where a training run reads and writes, and on what it runs."""

    data: list[Path]
    out: Path
    validation: Path | None = None
    cache: Path | None = None
    resume: bool = False
    begin: Path | None = None
    """Checkpoint of another model to start from instead of the lapped transform."""
    time_budget: float | None = None
    """Seconds after which training ends; the learning rate then falls with time, not with steps."""
    device: str = "cpu"
    compile: bool = False
    amp: bool = True


def learning_rates(model: RateDistortion, s: Schedule) -> list[dict[str, Any]]:
    """Parameter groups: Muon for the matrices of hidden layers, Adam for the rest.

    Adam's steps shrink with the fan-in, most for the lapped transform.
    """
    groups = []
    linear = {
        "codec.analysis.linear.weight",
        "codec.p.synthesis_linear",
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


def validation_images(folder: Path) -> Tensor:
    """Every fourth image, its middle 384x384 pixels: ``(N, 3, 384, 384)`` in 0..1."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"})[::4]
    crops = []
    for path in paths:
        with Image.open(path) as image:
            a = np.asarray(image.convert("RGB"))
        if min(a.shape[:2]) >= VALIDATION_CROP:
            top, left = ((n - VALIDATION_CROP) // 2 for n in a.shape[:2])
            crops.append(a[top : top + VALIDATION_CROP, left : left + VALIDATION_CROP])
    if not crops:
        raise ImageError(f"{folder}: no validation image of {VALIDATION_CROP} pixels a side or more")
    return torch.tensor(np.stack(crops)).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def validate(model: RateDistortion, images: Tensor) -> dict[str, Any]:
    """Rate and distortion of rounded latents at the eight anchors, and the mean log cost."""
    table, costs = [], []
    model.eval()
    for point in ANCHOR_POINTS:
        parts = [model(x, torch.full((len(x),), point, device=x.device), Phase.PREDICTIVE) for x in images.split(8)]
        bpp = torch.cat([o.bpp_y + o.bpp_z for o in parts])
        mse = torch.cat([o.mse for o in parts])
        lam = model.codec.lambdas(torch.full_like(bpp, point))
        costs.append(log_cost(bpp, mse, lam))
        psnr = 10 * torch.log10(255**2 / mse)
        table.append({"rate_point": point, "bpp": float(bpp.mean()), "psnr": float(psnr.mean())})
    model.train()
    return {"cost": float(np.mean(costs)), "table": table}


class Trainer:
    """State of one run: model, average of its weights, optimizer, position in the schedule."""

    def __init__(self, config: TrainingConfig, run: Run) -> None:
        self.config, self.run, self.s = config, run, config.training
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if run.device == "cuda" else "gloo")
        self.device = torch.device(run.device)
        if run.device == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = True
        torch.manual_seed(self.s.seed)
        self.photos = Photos(run.data, run.cache)
        self.model = RateDistortion(Codec(config.architecture))
        self.step, self.seconds, self.pixels = 0, 0.0, 0  # of all training that the weights have seen
        checkpoint = run.out / CHECKPOINT
        saved = None
        if run.resume and checkpoint.exists():
            saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
            if Architecture.from_dict(saved["architecture"]) != config.architecture:
                raise ModelError(f"{checkpoint}: belongs to another architecture; train into another folder")
        elif checkpoint.exists():
            raise ModelError(f"{checkpoint}: exists; continue it with --resume or choose another folder")
        else:
            self._start()
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = MuonAdam(
            learning_rates(self.model, self.s), betas=(0.9, 0.99), fused=run.device == "cuda" or None
        )
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        if saved:
            self.model.load_state_dict(saved["model"])
            self.average = {k: v.to(self.device) for k, v in saved["average"].items()}
            self.optimizer.load_state_dict(saved["optimizer"])
            for group, fresh in zip(self.optimizer.param_groups, learning_rates(self.model, self.s), strict=True):
                group.update({key: fresh[key] for key in ("base", "phases", "muon")})
            self.step, self.seconds, self.pixels = saved["step"], saved["seconds"], saved["pixels"]
        torch.manual_seed(self.s.seed + 1000 * self.rank + self.step)
        self.rng = np.random.default_rng([self.s.seed, self.rank, self.step])
        self.begun = time.monotonic()
        self.parallel: nn.Module = self.model
        if self.world > 1:
            self.parallel = nn.parallel.DistributedDataParallel(self.model, find_unused_parameters=True)
        elif run.compile:
            self.parallel = torch.compile(self.model)  # type: ignore[assignment]

    def _start(self) -> None:
        if self.run.begin:
            other = torch.load(self.run.begin, map_location="cpu", weights_only=True)
            start_from(self.model, other["average"], Architecture.from_dict(other["architecture"]))
            self.step, self.seconds, self.pixels = other["step"], other["seconds"], other["pixels"]
        else:
            start(self.model.codec, self.model.prior, self.photos, self.s.overlap, self.s.seed)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.begun

    @property
    def progress(self) -> float:
        """Share of the schedule that is done, 0..1, by steps or by the time budget."""
        by_steps = self.step / self.s.steps
        return max(by_steps, self.elapsed / self.run.time_budget) if self.run.time_budget else by_steps

    @property
    def phase(self) -> Phase:
        if self.step < self.s.entropy_steps:
            return Phase.ENTROPY
        left = 1 - self.progress - self.s.predictive_share
        if left <= 0:
            return Phase.PREDICTIVE
        return Phase.JOINT if left <= self.s.joint_share else Phase.SOFT

    @property
    def done(self) -> bool:
        """Whether to stop; all processes decide alike, even if their clocks differ."""
        flag = torch.tensor(float(self.progress >= 1))
        if self.world > 1:
            flag = flag.to(self.device)
            dist.broadcast(flag, 0)
        return bool(flag)

    def train_step(self) -> dict[str, float]:
        s = self.s
        phase = self.phase
        decay = s.final_rate + (1 - s.final_rate) * (1 + math.cos(math.pi * min(self.progress, 1))) / 2
        since = self.step - (0 if phase is Phase.ENTROPY else s.entropy_steps)
        warm = min(1.0, (since + 1) / 100)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * decay * warm if phase.value in group["phases"] else 0.0
        crops = torch.from_numpy(self.photos.crops(self.rng, s.batch, s.crop)).to(self.device)
        x = crops.permute(0, 3, 1, 2).float() / 255
        rate_point = torch.rand(s.batch, device=self.device) * (RATE_POINTS - 1)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.run.amp):
            outcome = self.parallel(x, rate_point, phase)
        objective = loss(outcome, self.model.codec.lambdas(rate_point))
        self.optimizer.zero_grad(set_to_none=True)
        objective.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), s.clip)
        if not torch.isfinite(norm):
            raise ModelError(f"step {self.step}: the gradient is not finite; lower the learning rates")
        self.optimizer.step()
        self.step += 1
        self.pixels += s.batch * s.crop**2 * self.world
        keep = min(s.ema, self.step / (self.step + 10))
        state = self.model.state_dict()
        averaged = [k for k, v in state.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.average[k] for k in averaged], [state[k] for k in averaged], 1 - keep)
        outcome = Outcome(*(part.detach() for part in outcome))
        return {
            "loss": float(objective.detach()),
            "bpp": float((outcome.bpp_y + outcome.bpp_z).mean()),
            "bpp_z": float(outcome.bpp_z.mean()),
            "mse": float(outcome.mse.mean()),
            "gradient": float(norm),
        }

    def averaged_model(self) -> RateDistortion:
        model = RateDistortion(Codec(self.config.architecture)).to(self.device)
        model.load_state_dict(self.average)
        return model

    def save(self) -> None:
        if self.rank:
            return
        self.run.out.mkdir(parents=True, exist_ok=True)
        state = {
            "name": self.config.name,
            "version": self.config.version,
            "architecture": self.config.architecture.to_dict(),
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds + self.elapsed,
            "pixels": self.pixels,
        }
        temporary = self.run.out / (CHECKPOINT + ".tmp")
        torch.save(state, temporary)
        temporary.replace(self.run.out / CHECKPOINT)


def train(config: TrainingConfig, run: Run, report: Callable[[dict[str, Any], float], None] | None = None) -> Path:
    """Trains a model and returns its checkpoint; ``report`` gets each log entry and the progress.

    The log is one JSON object a line: training figures averaged since the last line, and, with a
    validation folder, the table of `validate` for the averaged weights.
    """
    trainer = Trainer(config, run)
    images = validation_images(run.validation).to(trainer.device) if run.validation and not trainer.rank else None
    run.out.mkdir(parents=True, exist_ok=True)
    sums: dict[str, float] = {}
    count, since, best = 0, time.monotonic(), math.inf

    def log(entry: dict[str, Any]) -> None:
        if trainer.rank:
            return
        entry = {"step": trainer.step, "seconds": round(trainer.seconds + trainer.elapsed, 1), **entry}
        with (run.out / LOG).open("a") as f:
            f.write(json.dumps(entry) + "\n")
        if report:
            report(entry, trainer.progress)

    if images is not None and trainer.step == 0:
        log({"validation": validate(trainer.model, images)})
    while not trainer.done:
        for key, value in trainer.train_step().items():
            sums[key] = sums.get(key, 0.0) + value
        count += 1
        if trainer.step % trainer.s.log_every == 0:
            rate = count * trainer.s.batch * trainer.s.crop**2 * trainer.world / (time.monotonic() - since)
            log({**{k: round(v / count, 5) for k, v in sums.items()}, "pixels_per_second": round(rate)})
            sums, count, since = {}, 0, time.monotonic()
        if trainer.step % trainer.s.validate_every == 0 or trainer.done:
            trainer.save()
            if images is not None:
                outcome = validate(trainer.averaged_model(), images)
                log({"validation": outcome})
                if outcome["cost"] < best:
                    best = outcome["cost"]
                    shutil.copyfile(run.out / CHECKPOINT, run.out / BEST)
            since = time.monotonic()
    trainer.save()
    if dist.is_initialized():
        dist.destroy_process_group()
    return run.out / CHECKPOINT
