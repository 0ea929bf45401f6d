"""Studies of the papers, made again with the shipped models: figures and JSON, no page of results yet.

    python -m benchmarks.studies PHOTOS RESULTS [--count 8]

Flatness of the synthesis (Yang & Mandt 2023): how far the decoded path between two photographs' latents is from the
straight line, and what a linear map loses. Where the bits go, by channel group and rate, and the price of exact
rows. What the visual objective moved. PHOTOS are validation photographs, of which the middle 512x512 pixels are used.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from nicc.bench.report import environment
from nicc.decoder import networks, ops
from nicc.decoder.hyper import dequantise_z
from nicc.decoder.latents import Visited, walk
from nicc.decoder.render import Renderer
from nicc.encoder.latent_code import upsample
from nicc.encoder.quantise import Quantiser, quantise_z, residual, z_bits
from nicc.encoder.receiver import receiver_of
from nicc.encoder.transform import transform_of
from nicc.images import decibels
from nicc.model import Model, load_transform, shipped_transforms

ROOT = Path(__file__).parent.parent
SIDE, RATES, STEPS = 512, 9, 32
SHARES = (0.1, 0.35, 0.6, 0.85)
"""Rate points of the linear map, as shares of the highest."""
BASES = 24


def crops(folder: Path, count: int) -> list[np.ndarray]:
    found = []
    paths = sorted(folder.glob("*.png"))
    for path in paths[:: max(1, len(paths) // count)][:count]:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        top, left = ((n - SIDE) // 2 for n in pixels.shape[:2])
        found.append(np.ascontiguousarray(pixels[top : top + SIDE, left : left + SIDE]))
    return found


def rate_points(model: Model, count: int = RATES) -> list[int]:
    return np.linspace(0, model.architecture.rate_points - 1, count).round().astype(int).tolist()


class Coded:
    """Symbols, latents and bits of one photograph at a rate point."""

    def __init__(self, model: Model, pixels: np.ndarray, rate_point: int) -> None:
        y, z = transform_of(model)(pixels)
        self.model, self.rate_point, arch = model, rate_point, model.architecture
        symbols = quantise_z(model, rate_point, z)
        self.z = dequantise_z(model, rate_point, symbols)
        self.z_bits = z_bits(model, rate_point, symbols)
        self.v = (y * model.params["gain"][rate_point]).reshape(-1, y.shape[-1])
        self.bits = np.zeros(arch.latent_channels)
        quantise = Quantiser(model)

        def visit(here: Visited) -> np.ndarray:
            s = quantise(residual(self.v, here), here.rows)
            self.bits[here.channels] += quantise.costs(s, here.rows).sum(0)
            return s

        h, w = y.shape[:2]
        self.symbols, self.y_hat = walk(model, rate_point, self.z, 0, h, w, visit)

    def by_group(self) -> list[float]:
        groups = self.model.architecture.groups
        return [float(self.bits[a:b].sum()) for a, b in itertools.pairwise(groups)]


def where_bits_go(model: Model, photos: list[np.ndarray]) -> list[dict[str, Any]]:
    """Bits per pixel of z and of every channel group, means over the photographs, by rate point."""
    rows = []
    for point in rate_points(model):
        coded = [Coded(model, pixels, point) for pixels in photos]
        groups = np.mean([c.by_group() for c in coded], 0) / SIDE**2
        rows.append(
            {"rate point": point, "z": float(np.mean([c.z_bits for c in coded])) / SIDE**2, "y": groups.tolist()}
        )
    return rows


@torch.no_grad()
def price_of_exactness(model: Model, photos: list[np.ndarray]) -> list[dict[str, float]]:
    """Bits of the symbols under whole CDF rows, which are coded, against those under rows interpolated between them."""
    receiver, rows = receiver_of(model, "cpu"), []
    for point in rate_points(model, 4):
        whole = between = 0.0
        for pixels in photos:
            coded = Coded(model, pixels, point)
            nats = torch.from_numpy(coded.z.astype(np.float32) / 64)[None]
            h, w = coded.y_hat.shape[:2]
            v = torch.from_numpy(coded.v.reshape(1, h, w, -1))
            symbols = torch.zeros(v.shape)
            symbols[0, ..., : coded.symbols.shape[-1]] = torch.from_numpy(coded.symbols.astype(np.float32))

            def given(x: torch.Tensor, channels: slice, symbols: torch.Tensor = symbols) -> torch.Tensor:
                return symbols[..., channels]

            code = receiver.code(upsample(nats, h, w), v, receiver.rate(point), given)
            between += float(receiver.symbol_bits(code)[..., : coded.symbols.shape[-1]].sum())
            whole += float(coded.bits.sum())
        rows.append({"rate point": point, "whole rows over interpolated ones": whole / between})
    return rows


def flatness(model: Model, photos: list[np.ndarray]) -> float:
    """Length of the decoded path between two photographs' latents over the straight line's, mean over pairs."""
    renderer, transform, ratios = Renderer(model, model.architecture.rate_points - 1), transform_of(model), []
    latents = [networks.mirror(ops, model.params, transform(pixels)[0], renderer.margin) for pixels in photos]
    for a, b in itertools.pairwise(latents):
        path = [renderer(a + np.float32(t) * (b - a)) for t in np.linspace(0, 1, STEPS + 1)]
        length = sum(float(np.linalg.norm(q - p)) for p, q in itertools.pairwise(path))
        ratios.append(length / float(np.linalg.norm(path[-1] - path[0])))
    return float(np.mean(ratios))


def linear_map(model: Model, photos: list[np.ndarray]) -> list[dict[str, float]]:
    """PSNR of the synthesis and of the best linear map of 3x3 latents to 16x16 pixels, fitted on half of the photos."""
    rows = []
    for share in SHARES:
        point = round(share * (model.architecture.rate_points - 1))
        renderer = Renderer(model, point)
        inputs, outputs, errors = [], [], []
        for pixels in photos:
            y = networks.mirror(ops, model.params, Coded(model, pixels, point).y_hat, renderer.margin)
            inputs.append(ops.lattice_window(y, 1, 1).reshape(SIDE**2 // 256, -1))
            errors.append(np.square(renderer(y).clip(0, 1) * 255 - pixels).mean())
            blocks = pixels.reshape(SIDE // 16, 16, SIDE // 16, 16, 3).transpose(0, 2, 1, 3, 4)
            outputs.append(blocks.reshape(SIDE**2 // 256, -1) / np.float32(255))
        half = len(photos) // 2
        x, t = (np.concatenate(part[:half]).astype(np.float64) for part in (inputs, outputs))
        mean = t.mean(0)
        gram = x.T @ x
        weights = np.linalg.solve(gram + 1e-6 * np.trace(gram) / len(gram) * np.eye(len(gram)), x.T @ (t - mean))
        fitted = [
            np.square(((i @ weights + mean).clip(0, 1) - o) * 255).mean()
            for i, o in zip(inputs[half:], outputs[half:], strict=True)
        ]
        psnrs = [float(np.mean([decibels(float(e)) for e in part])) for part in (errors[half:], fitted)]
        rows.append({"rate point": point, "synthesis": psnrs[0], "linear map": psnrs[1]})
    return rows


def basis(model: Model, channels: int) -> np.ndarray:
    """What single latents add to grey, ``(channels, 48, 48, 3)``, each scaled to its own range."""
    renderer, found = Renderer(model, model.architecture.rate_points // 2), []
    zero = np.zeros((5, 5, model.architecture.latent_channels), np.float32)
    ground = renderer(zero)
    for channel in range(channels):
        y = zero.copy()
        y[2, 2, channel] = model.params["deviation"][channel]
        shown = renderer(y) - ground
        found.append(0.5 + shown / (2 * np.abs(shown).max() + 1e-9))
    return np.stack(found)


def draw(found: dict[str, Any], models: dict[str, Model], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(4.2 * len(models), 3.6), layout="constrained")
    for axes, (name, facts) in zip(figure.subplots(1, len(models)), found["models"].items(), strict=True):
        rows = facts["bits"]
        parts = np.array([[row["z"], *row["y"]] for row in rows]).T
        bounds = models[name].architecture.groups
        labels = ["z", *(f"{a} to {b - 1}" for a, b in itertools.pairwise(bounds))]
        axes.stackplot([row["rate point"] for row in rows], parts / parts.sum(0), labels=labels)
        axes.set(title=name, xlabel="rate point", ylabel="share of bits", ylim=(0, 1))
        axes.legend(fontsize=6, loc="lower left")
    figure.savefig(folder / "bits.svg", metadata={"Date": None})
    pair = [models[n] for n in ("two-layer", "two-layer-visual")]
    rows = [np.concatenate(list(basis(m, BASES)), 1) for m in pair]
    grid = np.concatenate([np.concatenate(np.split(r, 2, 1), 0) for r in rows], 0)
    picture = Image.fromarray((grid.clip(0, 1) * 255).round().astype(np.uint8))
    picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(
        folder / "basis.webp", lossless=True
    )
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, m in zip(("squared error", "visual"), pair, strict=True):
        p = m.params
        middle = m.architecture.rate_points // 2
        steps = p["inverse"][middle][:256] / np.exp(np.log(p["inverse"][middle][:256]).mean())
        axes.semilogy(steps, lw=1, label=name)
    axes.set(xlabel="channel", ylabel="quantisation step, relative to the geometric mean")
    axes.legend(frameon=False)
    figure.savefig(folder / "steps.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--count", type=int, default=8)
    arguments = parser.parse_args()
    photos = crops(arguments.photos, arguments.count)
    models = {name: load_transform(name) for name in shipped_transforms()}
    found: dict[str, Any] = {"environment": environment(), "photographs": len(photos), "models": {}}
    for name, model in models.items():
        found["models"][name] = {
            "version": model.version,
            "bits": where_bits_go(model, photos),
            "exactness": price_of_exactness(model, photos),
            "path over line": flatness(model, photos),
            "linear": linear_map(model, photos),
        }
        print(name, json.dumps(found["models"][name]), flush=True)
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "studies.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, models, ROOT / "docs" / "figures")


if __name__ == "__main__":
    main()
