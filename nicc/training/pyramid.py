"""Trained starts for a model whose networks are fitted to every image: networks fitted to many photographs at once.

At every anchor, networks are shared by some photographs, each with latents of its own that persist between visits; a
step visits a few of them. The first anchor lies in the middle of the rates, and each other begins with the networks
and latents of its neighbour. Numba does the work; PyTorch is not needed.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_arrays

from nicc.arrays import digest
from nicc.errors import ModelError, NiccError, needs
from nicc.images import write_atomically
from nicc.model import load_model
from nicc.pyramid.coding import WEIGHT_BITS, WEIGHT_LIMIT
from nicc.pyramid.layout import PyramidArchitecture
from nicc.pyramid.model import PyramidModel
from nicc.pyramid.networks import Networks
from nicc.training.card import licences
from nicc.training.config import PyramidConfig
from nicc.training.data import Photos
from nicc.training.stage import LOG, LogReport, Run

with needs("pyramid", "training a pyramid"):
    from nicc.pyramid.fit import Cooling, Fit, Momentum
    from nicc.pyramid.strip import Strip

CHECKPOINT = "starts.npz"
BICUBIC_TAPS = (-0.0351562, -0.1054688, 0.2617188, 0.8789062)


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


class StartFit(Fit):
    """Networks shared by crops of many photographs, of which every step visits some."""

    def __init__(self, strips: list[Strip], networks: Networks, batch: int, seed: int) -> None:
        super().__init__(strips, networks, seed=seed)
        self.batch = batch

    def train(self, weight: float, steps: int, cooling: Cooling) -> float:
        """The cost, bits + ``weight`` * squared error per pixel, of rounded latents at the end."""
        self.weight = weight
        momentum = Momentum(self.networks, self.networks.flat.copy())
        for s in self.strips:
            s.restart()
        order: list[int] = []
        for step in range(steps):
            temperature, noise, rate = cooling.at(step / steps)
            gradient = Networks(self.networks.arch)
            for _ in range(self.batch):
                order = order or self.rng.permutation(len(self.strips)).tolist()
                s = self.strips[order.pop()]
                self._strip_step(s, gradient, temperature, noise, cooling.latent_rate * rate, rounded=False)
            momentum.step(gradient.flat, cooling.network_rate * rate)
        bits, distortion = self.measure()
        return bits + weight * distortion


def anchor_order(count: int) -> list[list[int]]:
    """The anchors in the order of training: from the middle to the lowest, then up to the highest."""
    middle = count // 2
    return [list(range(middle, -1, -1)), list(range(middle + 1, count))]


def train(config: PyramidConfig, run: Run, report: LogReport | None = None) -> Path:
    """Trains the starts of all anchors; those of ``run.begin``, a model's folder, are where they begin.

    Returns the file of the starts reached so far, written after every anchor; with ``run.resume`` those in it are
    kept. A time budget ends training between anchors. Raises `ModelError` for a start of another architecture.
    """
    arch, schedule = config.architecture, config.training
    run.out.mkdir(parents=True, exist_ok=True)
    checkpoint = run.out / CHECKPOINT
    starts, facts = _begin(arch, run, checkpoint)
    rng = np.random.default_rng(schedule.seed)
    photos = Photos(run.data, run.cache)
    fit = StartFit(
        [Strip(c) for c in photos.crops(rng, schedule.photos, schedule.crop)],
        untrained(arch, rng),
        schedule.batch,
        schedule.seed,
    )
    np.savez(checkpoint, starts=starts, facts=json.dumps(facts))
    begun, done = time.monotonic(), 0
    middle: list[np.ndarray] = []
    for half in anchor_order(arch.starts):
        if middle:
            fit.networks.flat[:] = starts[arch.starts // 2]
            for s, y in zip(fit.strips, middle, strict=True):
                s.y[:] = y
        for anchor in half:
            if run.time_budget and time.monotonic() - begun > run.time_budget:
                break
            if run.begin:
                fit.networks.flat[:] = starts[anchor]
            point = anchor / (arch.starts - 1) * (arch.rate_points - 1)
            weight, steps = arch.rate_lambda(point), schedule.steps if done else schedule.first_steps
            clock = time.monotonic()
            cost = fit.train(weight, steps, Cooling(network_rate=schedule.rate, looks=0))
            starts[anchor] = fit.networks.flat
            if anchor == arch.starts // 2:
                middle = [s.y.copy() for s in fit.strips]
            facts["step"] += steps
            facts["pixels"] += steps * schedule.batch * schedule.crop**2
            facts["seconds"] += time.monotonic() - clock
            done += 1
            np.savez(checkpoint, starts=starts, facts=json.dumps(facts))
            entry = {"step": facts["step"], "anchor": anchor, "lambda": weight, "loss": cost}
            entry["pixels_per_second"] = steps * schedule.batch * schedule.crop**2 / (time.monotonic() - clock)
            with (run.out / LOG).open("a") as log:
                log.write(json.dumps(entry) + "\n")
            if report:
                report(entry, done / arch.starts)
    return checkpoint


def _begin(arch: PyramidArchitecture, run: Run, checkpoint: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The starts to go on from, and what they have seen."""
    if checkpoint.exists():
        if not run.resume:
            raise ModelError(f"{checkpoint}: exists; continue it with --resume or choose another folder")
        return read_starts(checkpoint)
    facts: dict[str, Any] = {"step": 0, "pixels": 0, "seconds": 0.0}
    starts = np.zeros((arch.starts, arch.parameters()), np.float32)
    if run.begin:
        model = load_model(str(run.begin.resolve()))
        if not isinstance(model, PyramidModel) or model.architecture != arch:
            raise ModelError(f"{run.begin}: not a model of the configuration's architecture")
        starts[:] = model.arrays["starts"] / float(1 << WEIGHT_BITS)
        facts |= model.description.get("training", {})
    return starts, facts


def read_starts(checkpoint: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Starts ``(anchors, parameters)`` and what they have seen. Raises `NiccError` for a file that is none."""
    try:
        with np.load(checkpoint) as f:
            return f["starts"], json.loads(str(f["facts"]))
    except (OSError, ValueError, KeyError) as e:
        raise NiccError(f"{checkpoint}: not a checkpoint of a pyramid: {e}") from None


def export(config: PyramidConfig, checkpoint: Path, out: Path, photos: Photos, data: list[Path]) -> PyramidModel:
    """Writes the starts as a model's folder, with its card."""
    starts, facts = read_starts(checkpoint)
    integers = np.clip(np.rint(starts * float(1 << WEIGHT_BITS)), -WEIGHT_LIMIT, WEIGHT_LIMIT)
    arrays = {"starts": integers.astype(np.int32)}
    architecture = config.architecture.to_dict()
    facts["seconds"] = round(facts["seconds"])
    description = {
        "name": config.name,
        "version": config.version,
        "architecture": architecture,
        "decoder_sha256": digest(arrays, architecture),
        "training": facts,
    }
    model = PyramidModel(description, arrays, out)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "decoder.safetensors", save_arrays(arrays))
    write_atomically(out / "model.json", (json.dumps(description, indent=1) + "\n").encode())
    write_atomically(out / "README.md", card(model, len(photos.images), data).encode())
    return model


def card(model: PyramidModel, image_count: int, data: list[Path]) -> str:
    """The model's card, Markdown."""
    arch, facts, macs = model.architecture, model.description["training"], model.macs_per_pixel()
    return f"""# {model.name}, version {model.version}

{arch.starts} starts for networks that are fitted to every image, {arch.parameters()} parameters each; \
rate points 0 to {arch.rate_points - 1}, lambda {arch.lambda_min:g} to {arch.lambda_max:g}. \
Fingerprint `{model.fingerprint.hex()}`.

Decoder: {sum(macs.values()):.0f} MAC per pixel ({", ".join(f"{k} {v:.0f}" for k, v in macs.items())}).

Training: {facts["step"]} steps, {facts["pixels"] / 1e9:.2f} gigapixels, {facts["seconds"] / 3600:.2f} hours, \
objective bpp + lambda MSE.

Data: crops of photographs drawn from {image_count}; the folder's, by licence: {licences(data)}.
"""
