"""Training of what a pyramid's encoder begins with: networks for every start, and an analysis for first latents.

Together they are a codec like any other, of softly rounded latents: every step takes one start and some crops.
Numba computes the receiver's half with its gradients, PyTorch the analysis.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nicc.arrays import digest
from nicc.encoder import ops
from nicc.encoder.fitting import analysis_arrays
from nicc.encoder.transform import part_of
from nicc.errors import ModelError, needs
from nicc.images import decibels, write_atomically
from nicc.model import load_model
from nicc.pyramid.analysis import first_latents, shapes
from nicc.pyramid.directions import Directions
from nicc.pyramid.layout import GRIDS, PyramidArchitecture
from nicc.pyramid.model import PyramidModel
from nicc.pyramid.networks import Networks
from nicc.training.card import licences
from nicc.training.config_pyramid import PyramidConfig
from nicc.training.data import Photos
from nicc.training.folder import earlier_versions, training_facts, write_parts
from nicc.training.optimizer import MuonAdam
from nicc.training.stage import CHECKPOINT, Average, LogReport, Run, Stage, drive

with needs("pyramid", "training a pyramid"):
    from nicc.pyramid.fit import Fit
    from nicc.pyramid.strip import Strip

BICUBIC_TAPS = (-0.0351562, -0.1054688, 0.2617188, 0.8789062)
FIRST_STARTS = "0.starts"
"""Name of the array of the starts that are trained together with the analysis."""
TEMPERATURE, NOISE = (0.4, 0.15), (0.25, 0.15)
"""Of soft rounding, at the first step and at the last."""


def untrained(arch: PyramidArchitecture, rng: np.random.Generator) -> Networks:
    """Networks at random: bicubic upsampling, predictions near zero, filters that do little."""
    networks = Networks(arch)
    inputs = {"near": arch.neighbours + 9, "coarse": arch.neighbours + 9, "middle": 12 * arch.context_hidden}
    inputs |= {"colour_in": 8, "colour_out": 12 * arch.colour_hidden, "colour_linear": 800, "filter1": 800}
    for name, count in inputs.items():
        networks[name][:] = rng.uniform(-1, 1, networks[name].shape) / math.sqrt(count)
    networks["coarse"][arch.context_hidden :] = 0
    networks["bias"][:, -1] = -1
    networks["taps"][:] = BICUBIC_TAPS
    return networks


GAINS = {"in": 8.0} | {f"out{k}": 0.1 for k in range(GRIDS)}
"""By which arrays of an untrained analysis are larger than what keeps variances: latents have units of symbols."""


class Starts(nn.Module):
    """The analysis' arrays ``p``, and the networks of every start as one vector each."""

    def __init__(self, arch: PyramidArchitecture, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.p = nn.ParameterDict()
        for name, shape in shapes(arch.starts).items():
            if name.endswith("_scale"):
                value = torch.ones(shape)
            elif name.endswith(("_bias", "_second")):
                value = torch.zeros(shape)  # blocks are silent at first
            else:
                value = torch.randn(shape, generator=generator) / math.sqrt(shape[0])
            self.p[name] = nn.Parameter(value * GAINS.get(name, 1.0))
        flat = torch.from_numpy(untrained(arch, np.random.default_rng(seed)).flat)
        self.networks = nn.ParameterList([nn.Parameter(flat.clone()) for _ in range(arch.starts)])


class StartTrainer(Stage):
    """State of one run: analysis, networks, their averages, optimizer, position."""

    def __init__(self, config: PyramidConfig, run: Run) -> None:
        super().__init__(run, config.training)
        self.arch, self.s = config.architecture, config.training
        self.module = Starts(self.arch, self.s.seed)
        self.optimizer = MuonAdam(self._groups(), betas=(0.9, 0.99))
        saved, average = self.saved(), None
        self.kept = {f"0.{k}": v for k, v in Directions.plain(self.arch.parameters()).arrays().items()}
        """The model's arrays beside the starts of its first family, which are what is trained."""
        if saved:
            if saved["architecture"] != self.arch.to_dict():
                raise ModelError(f"{run.out / CHECKPOINT}: has another architecture; train into another folder")
            self.module.load_state_dict(saved["module"])
            self.optimizer.load_state_dict(saved["optimizer"])
            average = saved["average"]
            self.kept = {k: v.numpy() for k, v in saved["kept"].items()}
        elif run.begin:
            self._start_from(run.begin)
        self.average = Average(self.module, self.s.ema, average)
        side = self.s.crop
        self.fit = Fit([Strip(np.zeros((side, side, 3), np.uint8))], Networks(self.arch), seed=self.s.seed)
        self.begin(saved)

    @torch.no_grad()
    def _start_from(self, folder: Path) -> None:
        """Takes over a model's networks and analysis."""
        model = load_model(str(folder.resolve()))
        if not isinstance(model, PyramidModel) or replace(model.architecture, families=1) != self.arch:
            raise ModelError(f"{folder}: not a model of the configuration's architecture")
        for networks, start in zip(self.module.networks, model.families[0].starts, strict=True):
            networks.copy_(torch.from_numpy(Networks.of_integers(self.arch, start).flat))
        for name, value in analysis_arrays(model).items():
            self.module.p[name].copy_(torch.from_numpy(value))
        self.kept = {k: v for k, v in model.arrays.items() if k != FIRST_STARTS}
        facts = model.description["training"]
        self.step, self.pixels, self.seconds = facts["step"], facts["pixels"], float(facts["seconds"])

    def _groups(self) -> list[dict[str, Any]]:
        """Muon for the matrices of hidden layers, Adam for the rest."""
        groups: list[dict[str, Any]] = [{"params": list(self.module.networks), "base": self.s.network_rate}]
        for name, p in self.module.p.items():
            muon = name.endswith(("first", "second")) or name in ("fall2", "fall", "rise1", "rise")
            base = self.s.matrix_rate if muon else self.s.rate
            groups.append({"params": [p], "base": base, "muon": "inputs first" if muon else None})
        return groups

    def state(self) -> dict[str, Any]:
        return {
            "architecture": self.arch.to_dict(),
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
            "kept": {k: torch.from_numpy(v) for k, v in self.kept.items()},
        }

    def _latents(self, p: Any, x: Tensor, start: int) -> Tensor:
        """``(N, symbols)``, finest grid first."""
        grids = first_latents(ops, p, x.permute(0, 2, 3, 1) - 0.5, start)
        return torch.cat([g.reshape(len(x), -1) for g in grids], 1)

    def train_step(self) -> dict[str, float]:
        self.set_rates(self.optimizer, self.decay * self.warmth)
        temperature, noise = (a + (b - a) * min(self.progress, 1) for a, b in (TEMPERATURE, NOISE))
        start = int(self.rng.integers(self.arch.starts))
        weight = self.arch.start_lambda(start)
        x = self.crops()
        y = self._latents(self.module.p, x, start)
        networks = self.module.networks[start]
        self.fit.networks.flat[:] = networks.detach().numpy()
        self.fit.weight = weight
        gradient, into_y = Networks(self.arch), torch.empty_like(y)
        bits = distortion = 0.0
        strip = self.fit.strips[0]
        for n, pixels in enumerate(x):
            strip.target[:] = pixels.numpy() - np.float32(0.5)
            strip.y[:] = y[n].detach().numpy()
            b, d = self.fit.gradients(strip, gradient, temperature, noise)
            bits, distortion = bits + b, distortion + d
            into_y[n] = torch.from_numpy(strip.memory.gq * strip.memory.slope)
        pixel_count = x[:, 0].numel()
        cost = (bits + weight * distortion) / pixel_count
        # its gradient is that of the logarithm of the cost
        objective = (y * into_y).sum() + (networks * torch.from_numpy(gradient.flat)).sum()
        norm = self.update(self.module, self.optimizer, objective / (pixel_count * cost))
        self.average.update(self.module, self.step - self.first_step)
        return {"loss": math.log(cost), "bpp": bits / pixel_count, "gradient": float(norm)}

    @torch.no_grad()
    def validate(self, images: Tensor) -> dict[str, Any]:
        """Rates and PSNR of rounded first latents, and the mean logarithm of the cost, over every second start."""
        values = self.average.values
        p = part_of(values, "p.")
        strips = [Strip((x.permute(1, 2, 0) * 255).byte().numpy()) for x in images]
        table, costs = [], []
        for start in range(0, self.arch.starts, 2):
            networks, weight = Networks(self.arch, values[f"networks.{start}"].numpy()), self.arch.start_lambda(start)
            outcomes = []
            for x, strip in zip(images, strips, strict=True):
                strip.y[:] = self._latents(p, x[None], start)[0].numpy()
                outcomes.append(self.fit.measure(networks, [strip]))
            bits, distortion = np.array(outcomes).T
            costs.append(np.log(bits + weight * distortion).mean())
            row = {"bpp": bits.mean(), "psnr": np.mean([decibels(d) for d in distortion])}
            table.append({"rate_point": round(self.arch.start_point(start))} | {k: float(v) for k, v in row.items()})
        return {"cost": float(np.mean(costs)), "table": table}


def train(config: PyramidConfig, run: Run, report: LogReport | None = None) -> Path:
    """Trains starts and analysis and returns the checkpoint, see `nicc.training.stage.drive`."""
    return drive(StartTrainer(config, run), report)


def export(config: PyramidConfig, checkpoint: Path, out: Path, photos: Photos, data: list[Path]) -> PyramidModel:
    """Writes the averaged starts and analysis as a model's folder, with its card."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    arch, values = config.architecture, {k: v.numpy() for k, v in saved["average"].items()}
    starts = [Networks(arch, values[f"networks.{n}"]).integers() for n in range(arch.starts)]
    decoder = {FIRST_STARTS: np.stack(starts).astype(np.int32)} | {k: v.numpy() for k, v in saved["kept"].items()}
    arch = replace(arch, families=len({name.split(".")[0] for name in decoder}))
    facts = {"name": config.name, "version": config.version, "architecture": arch.to_dict()}
    facts["training"] = training_facts(saved)
    return write_with_card(out, facts, decoder, part_of(values, "p."), photos, data)


def model_to_extend(source: str, run: Run, lacking: str) -> PyramidModel:
    """The model that a run begins with, ``source`` where it names none; ``lacking`` is what others have no use for.

    Raises `ModelError` for a model that is not fitted to images.
    """
    model = load_model(str(run.begin.resolve()) if run.begin else source)
    if not isinstance(model, PyramidModel):
        raise ModelError(f"model {model.name} is not fitted to images; {lacking} are for those that are")
    return model


def model_of_checkpoint(saved: dict[str, Any]) -> PyramidModel:
    """The model that a checkpoint extends. Raises `ModelError` if it has changed since."""
    model = load_model(saved["model_folder"])
    if not isinstance(model, PyramidModel) or model.sha256 != saved["model"]:
        raise ModelError(f"{saved['model_folder']}: is not the model any more that the checkpoint is of")
    return model


def write_with_card(
    out: Path,
    facts: dict[str, Any],
    decoder: dict[str, np.ndarray],
    encoder: dict[str, np.ndarray],
    photos: Photos,
    data: list[Path],
) -> PyramidModel:
    """Writes a model's folder, as `write_model` does, and its card."""
    model = write_model(out, facts, decoder, encoder)
    write_atomically(out / "README.md", card(model, len(photos.images), data).encode())
    return model


def write_model(
    out: Path, facts: dict[str, Any], decoder: dict[str, np.ndarray], encoder: dict[str, np.ndarray]
) -> PyramidModel:
    """Writes a model's folder but for its card; ``facts`` are its description's but digests and earlier versions."""
    encoder = {k: v.astype(np.float16) for k, v in encoder.items()}
    architecture = facts["architecture"]
    digests = {"decoder_sha256": digest(decoder, architecture), "encoder_sha256": digest(encoder, architecture)}
    description = facts | digests
    description["earlier"] = earlier_versions(out, PyramidModel(description, decoder).fingerprint)
    write_parts(out, description, decoder=decoder, encoder=encoder)
    return PyramidModel(description, decoder, out)


def card(model: PyramidModel, image_count: int, data: list[Path]) -> str:
    """The model's card, Markdown."""
    arch, facts, macs = model.architecture, model.description["training"], model.macs_per_pixel()
    directions = " and ".join(str(len(f.directions)) for f in model.families)
    return f"""# {model.name}, version {model.version}

{arch.families} x {arch.starts} starts for networks that are fitted to every image, {arch.parameters()} parameters \
each, and an analysis for first latents, {directions} directions; \
rate points 0 to {arch.rate_points - 1}, lambda {arch.lambda_min:g} to {arch.lambda_max:g}. \
Fingerprint `{model.fingerprint.hex()}`.

Decoder: {sum(macs.values()):.0f} MAC per pixel ({", ".join(f"{k} {v:.0f}" for k, v in macs.items())}).

Training: {facts["step"]} steps, {facts["pixels"] / 1e9:.2f} gigapixels, {facts["seconds"] / 3600:.2f} hours, \
objective bpp + lambda MSE.

Data: crops of photographs drawn from {image_count}; the folder's, by licence: {licences(data)}.
"""
