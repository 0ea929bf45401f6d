"""Studies of the papers on the shipped models: figures and JSON behind docs/studies.md.

    python -m benchmarks.studies PHOTOS RESULTS SHOWN [--count 12]

Flatness of the synthesis (Yang & Mandt 2023): how far the decoded path between two photographs' latents is from the
straight line, and what a linear map loses. Where the bits go, by channel group and rate, and the price of exact
rows. What the visual objective moved. PHOTOS are validation photographs, of which the middle 512x512 pixels are used.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
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
from nicc.encoder.quantise import Quantiser, quantise_z, residual, write_z
from nicc.encoder.receiver import receiver_of
from nicc.encoder.transform import transform_of
from nicc.images import decibels
from nicc.model import Model, load_transform, shipped_transforms

ROOT = Path(__file__).parent.parent
SIDE, RATES, STEPS = 512, 9, 32
SHARES = (0.1, 0.35, 0.6, 0.85)
"""Rate points of the linear map, as shares of the highest."""
PULLS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""How strongly the fitted linear map is pulled to the linearised synthesis, over the mean square of its inputs."""
BASES = 24
CHANNEL_SHARE = {"two-layer": 0.55, "two-layer-visual": 0.32}
"""Shares of the rate points at which two models are compared channel by channel: nearly equal rates."""
TRAVERSED = (0, 1, 4, 9, 20, 60)


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
        self.z_bits = write_z(model, rate_point, symbols).bits
        self.v = (y * model.params["gain"][rate_point]).reshape(-1, y.shape[-1])
        self.bits = np.zeros(arch.latent_channels)
        h, w = y.shape[:2]
        self.factors = np.ones((h * w, arch.latent_channels), np.float32)
        """What the gain of every latent is multiplied by."""
        quantise = Quantiser(model, rate_point)

        def visit(here: Visited) -> np.ndarray:
            s = quantise(residual(self.v, here), here.rows, here.channels)
            self.bits[here.channels] += quantise.costs(s, here.rows, here.channels).sum(0)
            self.factors[here.at, here.channels] = here.factor
            return s

        self.symbols, self.y_hat = walk(model, rate_point, self.z, (0, h), w, visit)

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


def impulses(model: Model, renderer: Renderer) -> np.ndarray:
    """The synthesis linearised at grey: pixels ``(16 x 16 x 3)`` of small latents ``(3 x 3 x C)``, as a matrix."""
    channels = model.architecture.latent_channels
    zero = np.zeros((5, 5, channels), np.float32)
    ground, found = renderer(zero), np.empty((3, 3, channels, 16, 16, 3), np.float32)
    for channel in range(channels):
        size = np.float32(1e-2) * model.params["deviation"][channel]
        y = zero.copy()
        y[2, 2, channel] = size
        response = ((renderer(y) - ground) / size).reshape(3, 16, 3, 16, 3).swapaxes(1, 2)
        found[:, :, channel] = response[::-1, ::-1]  # a block sees the latent above it from below
    return found.reshape(9 * channels, -1)


def mean_psnr(weights: np.ndarray, ground: np.ndarray, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> float:
    """Mean PSNR of a linear map's blocks, an array of each per photograph."""
    errors = [np.square(((x @ weights + ground).clip(0, 1) - t) * 255) for x, t in zip(inputs, outputs, strict=True)]
    return float(np.mean([decibels(float(e.mean())) for e in errors]))


def linear_map(model: Model, photos: list[np.ndarray]) -> list[dict[str, float]]:
    """PSNR of the synthesis and of linear maps of 3x3 latents to their 16x16 pixels, on the last quarter of the photos.

    One map is the synthesis linearised at grey; the other is fitted by least squares on the first half, pulled
    towards the former as much as is best on the third quarter.
    """
    rows = []
    half, rest = len(photos) // 2, len(photos) // 4
    parts = slice(0, half), slice(half, half + rest), slice(half + rest, None)
    for share in SHARES:
        point = round(share * (model.architecture.rate_points - 1))
        renderer = Renderer(model, point)
        inputs, outputs, errors = [], [], []
        for pixels in photos:
            y_hat = Coded(model, pixels, point).y_hat
            full = np.zeros((*y_hat.shape[:2], model.architecture.latent_channels), np.float32)
            full[..., : y_hat.shape[-1]] = y_hat
            y = networks.mirror(ops, model.params, full, renderer.margin)
            inputs.append(ops.lattice_window(y, 1, 1).reshape(SIDE**2 // 256, -1))
            errors.append(float(np.square((renderer(y).clip(0, 1) - pixels / np.float32(255)) * 255).mean()))
            blocks = pixels.reshape(SIDE // 16, 16, SIDE // 16, 16, 3).transpose(0, 2, 1, 3, 4)
            outputs.append(blocks.reshape(SIDE**2 // 256, -1) / np.float32(255))
        start = impulses(model, renderer)
        ground = renderer(np.zeros((3, 3, model.architecture.latent_channels), np.float32)).reshape(-1)
        x, t = (np.concatenate(part[parts[0]]) for part in (inputs, outputs))
        gram, cross = x.T @ x, x.T @ (t - ground - x @ start)

        scale = np.trace(gram) / len(gram)
        fits = [
            start + np.linalg.solve(gram + pull * scale * np.eye(len(gram), dtype=np.float32), cross) for pull in PULLS
        ]
        held = [mean_psnr(w, ground, inputs[parts[1]], outputs[parts[1]]) for w in (start, *fits)]
        best = (start, *fits)[int(np.argmax(held))]
        shown = inputs[parts[2]], outputs[parts[2]]
        rows.append(
            {
                "rate point": point,
                "synthesis": float(np.mean([decibels(e) for e in errors[parts[2]]])),
                "linearised": mean_psnr(start, ground, *shown),
                "fitted": mean_psnr(best, ground, *shown),
            }
        )
    return rows


def by_channel(model: Model, photos: list[np.ndarray], share: float) -> dict[str, Any]:
    """Bits of every channel at a rate, as shares of all, and of how much its steps adapt to the place."""
    point = round(share * (model.architecture.rate_points - 1))
    coded = [Coded(model, pixels, point) for pixels in photos]
    bits = np.sum([c.bits for c in coded], 0)
    return {
        "rate point": point,
        "bpp": float(np.mean([(c.bits.sum() + c.z_bits) / SIDE**2 for c in coded])),
        "shares": (bits / bits.sum()).tolist(),
        "spread of steps": float(np.mean([np.log(c.factors).std() for c in coded])),
    }


def traversals(model: Model, pixels: np.ndarray, channels: tuple[int, ...]) -> np.ndarray:
    """A photograph's 48x48 pixels while one latent goes from -6 to 6 deviations, a row per channel."""
    point = model.architecture.rate_points // 2
    renderer = Renderer(model, point)
    y_hat = Coded(model, pixels, point).y_hat
    middle = np.zeros((5, 5, model.architecture.latent_channels), np.float32)
    middle[..., : y_hat.shape[-1]] = y_hat[14:19, 14:19]
    rows = []
    for channel in channels:
        row = []
        for steps in (-6, -3, 0, 3, 6):
            y = middle.copy()
            y[2, 2, channel] += np.float32(steps) * model.params["deviation"][channel]
            row.append(renderer(y))
        rows.append(np.concatenate(row, 1))
    return np.concatenate(rows)


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


def save(pictures: np.ndarray, folder: Path, name: str, enlarged: int) -> None:
    picture = Image.fromarray((pictures.clip(0, 1) * 255).round().astype(np.uint8))
    size = picture.width * enlarged, picture.height * enlarged
    picture.resize(size, Image.Resampling.NEAREST).save(folder / f"{name}.webp", quality=90, method=6)


def draw_bits(found: dict[str, Any], models: dict[str, Model], folder: Path) -> None:
    figure = Figure(figsize=(4.2 * len(models), 3.6), layout="constrained")
    for axes, (name, facts) in zip(figure.subplots(1, len(models)), found["models"].items(), strict=True):
        rows = facts["bits"]
        parts = np.array([[row["z"], *row["y"]] for row in rows]).T
        labels = ["z", *(f"{a} to {b - 1}" for a, b in itertools.pairwise(models[name].architecture.groups))]
        axes.stackplot([row["rate point"] for row in rows], parts / parts.sum(0), labels=labels)
        axes.set(title=name, xlabel="rate point", ylabel="share of bits", ylim=(0, 1))
        axes.legend(fontsize=6, loc="lower left")
    figure.savefig(folder / "bits.svg", metadata={"Date": None})


def draw_objectives(found: dict[str, Any], pair: dict[str, Model], folder: Path) -> None:
    """Steps and bits by channel of the squared-error and the visual model, and their basis functions."""
    rows = [np.concatenate(list(basis(m, BASES)), 1) for m in pair.values()]
    save(np.concatenate([np.concatenate(np.split(r, 2, 1), 0) for r in rows], 0), folder, "basis", 2)
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, model), label in zip(pair.items(), ("squared error", "visual"), strict=True):
        steps = model.params["inverse"][found["channels"][name]["rate point"]][:256]
        left.semilogy(steps / np.exp(np.log(steps).mean()), lw=1, label=label)
        right.plot(
            np.cumsum(found["channels"][name]["shares"]),
            lw=1,
            label=f"{label}, {found['channels'][name]['bpp']:.2f} bpp",
        )
    left.set(xlabel="channel", ylabel="quantisation step / geometric mean")
    right.set(xlabel="channel", ylabel="share of the bits up to it", xlim=(0, 256))
    for axes in (left, right):
        axes.legend(frameon=False)
    figure.savefig(folder / "steps.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("shown", type=Path, help="a photograph that may be shown, for the traversals")
    parser.add_argument("--count", type=int, default=12)
    arguments = parser.parse_args()
    begun = time.monotonic()
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
    found["channels"] = {name: by_channel(models[name], photos, share) for name, share in CHANNEL_SHARE.items()}
    print(json.dumps(found["channels"]))
    found["seconds"] = round(time.monotonic() - begun)
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "studies.json").write_text(json.dumps(found, indent=1) + "\n")
    folder = ROOT / "docs" / "figures"
    draw_bits(found, models, folder)
    draw_objectives(found, {name: models[name] for name in CHANNEL_SHARE}, folder)
    with Image.open(arguments.shown) as image:
        shown = np.asarray(image.convert("RGB"))[:SIDE, :SIDE]
    save(traversals(models["two-layer"], shown, TRAVERSED), folder, "traversals", 2)


if __name__ == "__main__":
    main()
