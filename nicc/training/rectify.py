"""The predictive phase of soft-to-predictive training: synthesis and rectifier on a frozen codec.

Luo & Chen 2024, section 3.3: encoder and entropy model are frozen and quantise hard; per sample
lambda MSE + alpha d(y, QR(y_hat)), with y the unquantised latents, d by default the L2 distance, in
quantisation steps. alpha is explored: candidates train side by side from one state, the worse half
is dropped, the rest goes on, until one is left. The first phase is the rate-distortion stage.

The stage trains any codec that has the methods of `FrozenCodec`; `FrozenModel` is a shipped model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nicc.architecture import RECTIFIER_REACH, Architecture
from nicc.decoder import networks
from nicc.encoder import ops
from nicc.encoder.visual import decibels
from nicc.errors import ModelError
from nicc.model import Model, digest, load_transform, read_part
from nicc.training.codec import at_rate, lambdas, rectifier_parameters
from nicc.training.config import RectifyConfig
from nicc.training.folder import training_facts, write_parts
from nicc.training.frozen import FrozenCodec, FrozenModel, QuantisedLatents
from nicc.training.objective import cost_weights
from nicc.training.stage import CHECKPOINT, Average, LogReport, Run, Stage, drive

VALIDATION_POINTS = (9, 24, 39, 54)
SCORE_CROPS, SCORE_SEED = 16, 99


def distance(kind: str, y: Tensor, rectified: Tensor) -> Tensor:
    """Mean distance ``(N,)`` of latents ``(N, h, w, C)`` in quantisation steps: l2 (squared), l1, smooth-l1, cosine."""
    if kind == "cosine":
        return 1 - F.cosine_similarity(y, rectified, -1).mean((1, 2))
    loss = {"l2": F.mse_loss, "l1": F.l1_loss, "smooth-l1": F.smooth_l1_loss}[kind]
    return loss(rectified, y, reduction="none").mean((1, 2, 3))


class Rectified(nn.Module):
    """Rectifiers and synthesis of a codec, as far as they are trained."""

    def __init__(self, codec: FrozenCodec, rectifiers: int, width: int) -> None:
        super().__init__()
        self.codec, self.rectifiers, self.rectifier_width = codec, rectifiers, width
        self.synthesis = nn.ParameterDict({k: nn.Parameter(v) for k, v in codec.start().items()})
        own = rectifier_parameters(codec.channels, rectifiers, width)
        self.rectifier = nn.ParameterDict({k: nn.Parameter(v.to(codec.deviation.device)) for k, v in own.items()})
        self.bias = nn.Parameter(torch.zeros(codec.arch.anchors, 3 * rectifiers * width, device=codec.deviation.device))

    def arrays(self) -> dict[str, Tensor]:
        """Rectifier arrays by the names of `nicc.decoder.networks`, for latents as they are."""
        p = dict(self.rectifier.items())
        for i in range(self.rectifiers):
            p[f"rectifier{i}_in"] = p[f"rectifier{i}_in"] / self.codec.deviation[:, None]
        return p

    def forward(self, quantised: QuantisedLatents, rate_point: Tensor) -> tuple[Tensor, Tensor]:
        """Rectified latents, with a margin of one, and pixels."""
        y = self.codec.pad(quantised.y_hat, 1 + RECTIFIER_REACH * self.rectifiers)
        bias = at_rate(self.codec.arch, self.bias, rate_point.float())
        y = networks.rectify(ops, self, self.arrays(), y, bias, quantised.step)
        return y, self.codec.synthesise(dict(self.synthesis.items()), y)


@dataclass
class Candidate:
    """One alpha, with everything that is trained by it."""

    alpha: float
    model: Rectified
    optimizer: torch.optim.Adam
    average: Average

    def state(self) -> dict[str, Any]:
        return {
            "alpha": self.alpha,
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
        }


class RectifierTrainer(Stage):
    """State of one run: the candidates that are left, and whose turn it is."""

    def __init__(self, config: RectifyConfig, run: Run, codec: FrozenCodec | None = None, name: str = "") -> None:
        super().__init__(run, config.training)
        self.config, self.s = config, config.training
        model = None if codec else load_transform(config.model)
        self.codec: FrozenCodec = codec or FrozenModel(model, run.device)  # type: ignore[arg-type]
        self.identity = model.sha256 if model else name
        if self.s.alphas and not config.rectifiers and self.s.alphas != (0.0,):
            raise ModelError("alpha weighs the rectifier's distance; without rectifiers alphas must be [0]")
        saved = self.saved()
        torch.manual_seed(self.s.seed)
        first = Rectified(self.codec, config.rectifiers, config.width)
        alphas = [c["alpha"] for c in saved["candidates"]] if saved else list(self.s.alphas)
        self.candidates = [self._candidate(alpha, first) for alpha in alphas]
        self.turn, self.taken = 0, 0
        if saved:
            if saved["identity"] != self.identity or saved["config"] != config.shape:
                raise ModelError(
                    f"{run.out / CHECKPOINT}: belongs to another codec or rectifier; train into another folder"
                )
            for candidate, state in zip(self.candidates, saved["candidates"], strict=True):
                candidate.model.load_state_dict(state["weights"])
                candidate.optimizer.load_state_dict(state["optimizer"])
                candidate.average.values = {k: v.to(self.device) for k, v in state["average"].items()}
            self.turn, self.taken = saved["turn"], saved["taken"]
        scoring = self.photos.crops(np.random.default_rng(SCORE_SEED), SCORE_CROPS, self.s.crop)
        self.scoring = torch.from_numpy(scoring).to(self.device).permute(0, 3, 1, 2).float() / 255
        self.begin(saved)

    def _candidate(self, alpha: float, first: Rectified) -> Candidate:
        model = Rectified(self.codec, self.config.rectifiers, self.config.width)
        model.load_state_dict(first.state_dict())
        groups = [{"params": list(model.synthesis.parameters()), "base": self.s.synthesis_rate}]
        own = [*model.rectifier.parameters(), model.bias]
        groups.append({"params": own, "base": self.s.rate})
        return Candidate(alpha, model, torch.optim.Adam(groups, betas=(0.9, 0.99)), Average(model, self.s.ema))

    @property
    def exploring(self) -> bool:
        return len(self.candidates) > 1

    def train_step(self) -> dict[str, float]:
        candidate = self.candidates[self.turn]
        if self.exploring and not self.taken:  # every candidate of a round sees the same crops
            self.rng = np.random.default_rng([self.s.seed, self.step - self.turn * self.s.explore_steps])
        self.set_rates(candidate.optimizer, self.decay)
        x = self.crops()
        point = torch.from_numpy(self.rng.integers(0, self.codec.arch.rate_points, self.s.batch)).to(self.device)
        quantised = self.codec.quantise(x, point)
        rectified, decoded = candidate.model(quantised, point)
        mse = (decoded - x).square().mean((1, 2, 3)) * 255**2
        error = torch.zeros_like(mse)
        if candidate.alpha:
            inner = networks.inside(rectified, 1)
            error = distance(self.s.distance, quantised.latents / quantised.step, inner / quantised.step)
        objective = (_weights(self.codec.arch, point) * mse + candidate.alpha * error).mean()
        self.update(candidate.model, candidate.optimizer, objective)
        candidate.average.update(candidate.model, self.step)
        if self.exploring:
            self._pass_on()
        figures = {"loss": objective, "mse": mse.mean(), "distance": error.mean()}
        return {k: float(v.detach()) for k, v in figures.items()}

    def _pass_on(self) -> None:
        """The next candidate's turn after `explore_steps`; after the last one's, the worse half is dropped."""
        self.taken = (self.taken + 1) % self.s.explore_steps
        if self.taken:
            return
        self.turn = (self.turn + 1) % len(self.candidates)
        if self.turn:
            return
        scores = [self.score(c) for c in self.candidates]
        order = np.argsort(scores)[: math.ceil(len(scores) / 2)]
        found = [{"alpha": c.alpha, "score": s} for c, s in zip(self.candidates, scores, strict=True)]
        self.candidates = [self.candidates[i] for i in order]
        self.entries.append({"candidates": found, "kept": [c.alpha for c in self.candidates]})

    @torch.no_grad()
    def score(self, candidate: Candidate) -> float:
        """Mean weighted distortion of averaged weights on fixed crops at fixed rate points."""
        model = self.averaged(candidate)
        total = 0.0
        for n, x in enumerate(self.scoring.split(4)):
            point = torch.full((len(x),), VALIDATION_POINTS[n % 4], device=self.device)
            _, decoded = model(self.codec.quantise(x, point), point)
            total += float((_weights(self.codec.arch, point) * (decoded - x).square().mean((1, 2, 3)) * 255**2).sum())
        return total / len(self.scoring)

    def averaged(self, candidate: Candidate) -> Rectified:
        model = Rectified(self.codec, self.config.rectifiers, self.config.width)
        model.load_state_dict(candidate.average.values)
        return model

    @torch.no_grad()
    def validate(self, images: Tensor) -> dict[str, Any]:
        """PSNR of the leading candidate at four rate points."""
        model, table = self.averaged(self.candidates[0]), []
        for value in VALIDATION_POINTS:
            found = []
            for x in images.split(4):
                point = torch.full((len(x),), value, device=self.device)
                _, decoded = model(self.codec.quantise(x, point), point)
                mse = ((decoded.clamp(0, 1) * 255).round() - x * 255).square().mean((1, 2, 3))
                found.append(decibels(mse))
            table.append({"rate_point": value, "psnr": float(torch.cat(found).mean())})
        return {"cost": -float(np.mean([row["psnr"] for row in table])), "table": table}

    def state(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "config": self.config.shape,
            "candidates": [c.state() for c in self.candidates],
            "turn": self.turn,
            "taken": self.taken,
        }


def _weights(arch: Architecture, rate_point: Tensor) -> Tensor:
    """Weight of each sample's MSE."""
    weights = lambdas(arch, rate_point.float())
    return weights * cost_weights(weights)


def train(config: RectifyConfig, run: Run, report: LogReport | None = None) -> Path:
    """Trains synthesis and rectifiers; returns the checkpoint, see `nicc.training.stage.drive`."""
    return drive(RectifierTrainer(config, run), report)


def export(checkpoint: Path, model: Model) -> Model:
    """Writes a model's folder anew with what was trained on it: next version, same fingerprint.

    A directional filter, which belongs to the synthesis as it was, is left out.
    Raises `ModelError` for a checkpoint of another model, or one that is still exploring.
    """
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if saved["identity"] != model.sha256:
        raise ModelError(f"{checkpoint}: trained on another model than {model.name} {model.sha256[:8]}; retrain")
    if len(saved["candidates"]) > 1:
        raise ModelError(f"{checkpoint}: alpha is still explored; train on with --resume")
    assert model.folder
    arch, rectifiers, width = model.architecture, saved["config"]["rectifiers"], saved["config"]["width"]
    trained = Rectified(FrozenModel(model), rectifiers, width)
    trained.load_state_dict(saved["candidates"][0]["average"])
    arrays = {k: v for k, v in model.arrays.items() if not k.startswith(("rectifier", "filter"))}
    tensors = {**dict(trained.synthesis.items()), **trained.arrays()}
    if rectifiers:
        tensors["rectifier_bias"] = at_rate(arch, trained.bias, torch.arange(arch.rate_points).float())[:, 0, 0]
    for name, value in tensors.items():
        a = value.detach().numpy()
        arrays[name] = a.astype(np.float32 if a.ndim == 1 else np.float16)
    architecture = replace(arch, rectifiers=rectifiers, rectifier_width=width).to_dict()
    description = {
        **model.description,
        "version": model.version + 1,
        "architecture": architecture,
        "decoder_sha256": digest(arrays, architecture),
        "encoder_sha256": digest(read_part(model.folder, model.description, "encoder"), architecture),
        "rectify": training_facts(saved),
    }
    new = Model(description, arrays, model.folder)
    if new.fingerprint != model.fingerprint:
        raise ModelError("the fingerprint changed: old files would not be read")  # a bug, not a user's mistake
    write_parts(model.folder, description, decoder=arrays)
    return new
