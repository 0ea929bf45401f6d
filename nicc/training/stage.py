"""What all training stages share: a run's settings, its clock, its checkpoints, and the loop with its log."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor

from nicc.errors import ImageError, ModelError
from nicc.training.data import Photos
from nicc.training.drawn import draw_over
from nicc.training.schedule import StageSchedule

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
"""Copy of the checkpoint whose averaged weights did best on the validation photographs in this run."""
LOG = "log.jsonl"
WARM_UP = 100
"""Steps."""
VALIDATION_CROP = 384
SHIFTS = 8
"""Pixels by which LPIPS sees the images shifted. Its networks look at every fourth pixel, and so do the grids of
nicc's networks: unshifted, these learn a grain that only LPIPS likes, at this one phase."""

LogReport = Callable[[dict[str, Any], float], None]
"""Called with each log entry and the progress, 0..1."""


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
    amp: bool | None = None
    """bfloat16 where it does no harm; None where the processor computes it at least as fast as float32."""
    perceptual: Path | None = None
    """Folder with the features of LPIPS networks, ``alexnet_features.pth`` and the like."""


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 pays; processors that only emulate it take five times as long."""
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class Stage(ABC):
    """One run of a stage: its position in the schedule, its photographs, its checkpoint."""

    def __init__(self, run: Run, schedule: StageSchedule) -> None:
        self.run, self.timing = run, schedule
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if run.device == "cuda" else "gloo")
        self.device = torch.device(run.device)
        if run.device == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = True
        self.amp = fast_bfloat16(self.device) if run.amp is None else run.amp
        torch.manual_seed(schedule.seed)
        self.photos = Photos(run.data, run.cache)
        self.step, self.seconds, self.pixels = 0, 0.0, 0  # of all training that the weights have seen
        self.entries: list[dict[str, Any]] = []
        """What to log besides, as soon as the step is done."""
        self.ended = ""
        """Why training ends before its schedule does, if so."""

    def saved(self) -> dict[str, Any] | None:
        """The checkpoint to go on from, if any. Raises `ModelError` for one that is in the way."""
        checkpoint = self.run.out / CHECKPOINT
        if not checkpoint.exists():
            return None
        if not self.run.resume:
            raise ModelError(f"{checkpoint}: exists; continue it with --resume or choose another folder")
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        return state

    def begin(self, saved: dict[str, Any] | None = None) -> None:
        """Starts the clock and the random numbers, where ``saved`` left off."""
        if saved:
            self.step, self.seconds, self.pixels = saved["step"], saved["seconds"], saved["pixels"]
        torch.manual_seed(self.timing.seed + 1000 * self.rank + self.step)
        self.rng = np.random.default_rng([self.timing.seed, self.rank, self.step])
        self.begun, self.first_step = time.monotonic(), self.step

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.begun

    @property
    def progress(self) -> float:
        """Share of the schedule that is done, 0..1: of the time budget, or of the steps if there is none."""
        return self.elapsed / self.run.time_budget if self.run.time_budget else self.step / self.timing.steps

    @property
    def warmth(self) -> float:
        """By which learning rates rise in a run's first steps: a fresh optimizer's are its wildest."""
        return min(1.0, (self.step - self.first_step + 1) / WARM_UP)

    @property
    def decay(self) -> float:
        """The cosine by which learning rates fall."""
        last = self.timing.final_rate
        return last + (1 - last) * (1 + math.cos(math.pi * min(self.progress, 1))) / 2

    @property
    def done(self) -> bool:
        """Whether to stop; all processes decide alike, even if their clocks differ."""
        flag = torch.tensor(float(self.progress >= 1 or bool(self.ended)))
        if self.world > 1:
            flag = flag.to(self.device)
            dist.broadcast(flag, 0)
        return bool(flag)

    @staticmethod
    def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
        """Sets the learning rate of every group to ``factor`` times its ``base``."""
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * factor

    def crops(self) -> Tensor:
        """The next batch, ``(N, 3, crop, crop)`` in 0..1."""
        crops = self.photos.crops(self.rng, self.timing.batch, self.timing.crop)
        if share := self.timing.drawn_share:
            for n in np.flatnonzero(self.rng.random(len(crops)) < share):
                crops[n] = draw_over(crops[n], self.rng)
        return torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float() / 255

    def shifted(self, *images: Tensor) -> list[Tensor]:
        """The images ``(N, 3, crop, crop)`` cut to the same random phase of the `SHIFTS`."""
        side = self.timing.crop - SHIFTS
        top, left = self.rng.integers(0, SHIFTS, 2)
        return [x[..., top : top + side, left : left + side] for x in images]

    def update(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer, objective: Tensor) -> Tensor:
        """Moves ``module`` down the gradient, counts the step, returns the gradient's norm before it is clipped.

        Raises `ModelError` for a gradient that is not finite.
        """
        optimizer.zero_grad(set_to_none=True)
        objective.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), self.timing.clip)
        if not torch.isfinite(norm):
            raise ModelError(f"step {self.step}: the gradient is not finite; lower the learning rates")
        optimizer.step()
        self.step += 1
        self.pixels += self.timing.batch * self.timing.crop**2 * self.world
        return norm

    @abstractmethod
    def train_step(self) -> dict[str, float]:
        """One step of training; returns what to log, averaged over steps."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the position."""

    @abstractmethod
    def validate(self, images: Tensor) -> dict[str, Any]:
        """Results on validation images ``(N, 3, H, W)`` in 0..1; ``cost``, if there, decides which are best."""

    def save(self) -> None:
        if self.rank:
            return
        self.run.out.mkdir(parents=True, exist_ok=True)
        position = {"step": self.step, "seconds": self.seconds + self.elapsed, "pixels": self.pixels}
        temporary = self.run.out / (CHECKPOINT + ".tmp")
        torch.save(self.state() | position, temporary)
        temporary.replace(self.run.out / CHECKPOINT)


class Average:
    """Exponential moving average of a module's weights."""

    def __init__(self, module: torch.nn.Module, keep: float, values: dict[str, Tensor] | None = None) -> None:
        self.keep = keep
        self.values = values or {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module, step: int) -> None:
        state = module.state_dict()
        names = [k for k, v in state.items() if v.is_floating_point()]
        keep = min(self.keep, step / (step + 10))
        torch._foreach_lerp_([self.values[k] for k in names], [state[k] for k in names], 1 - keep)


def validation_images(folder: Path, every: int = 4) -> Tensor:
    """One of ``every`` so many images, its middle 384x384 pixels: ``(N, 3, 384, 384)`` in 0..1."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"})[::every]
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


def drive(stage: Stage, report: LogReport | None = None) -> Path:
    """Trains to the end of the schedule and returns the checkpoint.

    The log is one JSON object a line: training figures averaged since the last line, and, with a
    validation folder, what `Stage.validate` finds.
    """
    run, timing = stage.run, stage.timing
    images = validation_images(run.validation).to(stage.device) if run.validation and not stage.rank else None
    run.out.mkdir(parents=True, exist_ok=True)
    sums: dict[str, float] = {}
    count, since, best = 0, time.monotonic(), math.inf

    def log(entry: dict[str, Any]) -> None:
        if stage.rank:
            return
        entry = {"step": stage.step, "seconds": round(stage.seconds + stage.elapsed, 1), **entry}
        with (run.out / LOG).open("a") as f:
            f.write(json.dumps(entry) + "\n")
        if report:
            report(entry, stage.progress)

    if images is not None and stage.step == stage.first_step:
        log({"validation": stage.validate(images)})
    while not stage.done:
        for key, value in stage.train_step().items():
            sums[key] = sums.get(key, 0.0) + value
        count += 1
        while stage.entries:
            log(stage.entries.pop(0))
        if stage.step % timing.log_every == 0:
            rate = count * timing.batch * timing.crop**2 * stage.world / (time.monotonic() - since)
            log({**{k: round(v / count, 5) for k, v in sums.items()}, "pixels_per_second": round(rate)})
            sums, count, since = {}, 0, time.monotonic()
        if stage.step % timing.validate_every == 0 or stage.done:
            stage.save()
            if images is not None:
                outcome = stage.validate(images)
                log({"validation": outcome})
                if outcome.get("cost", math.inf) < best:
                    best = outcome["cost"]
                    shutil.copyfile(run.out / CHECKPOINT, run.out / BEST)
            since = time.monotonic()
    stage.save()
    if stage.ended:
        log({"ended": stage.ended})
    if dist.is_initialized():
        dist.destroy_process_group()
    return run.out / CHECKPOINT
