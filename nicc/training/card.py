"""The model card that goes with exported weights: what they cost, reach, and were trained on."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from nicc.architecture import Architecture
from nicc.container import pack, unpack
from nicc.decoder.decode import decode_pixels
from nicc.encoder.encode import encode_plainly
from nicc.images import Picture, decibels
from nicc.model import Model
from nicc.ssimulacra2 import VISUAL_SHARE

MANIFEST = "MANIFEST.tsv"


def licences(data: Sequence[Path]) -> str:
    """Images by licence, from manifests (column ``licence``) beside or in the given places."""
    counts: Counter[str] = Counter()
    manifests = {(d if d.is_dir() else d.parent) / MANIFEST for d in data}
    for path in sorted(manifests):
        if path.is_file():
            with path.open(newline="") as f:
                counts.update(row["licence"] for row in csv.DictReader(f, delimiter="\t"))
    return "; ".join(f"{name}: {n}" for name, n in counts.most_common()) or "unknown"


def coded_table(model: Model, images: Sequence[Path]) -> list[tuple[int, float, float, float]]:
    """(rate point, lambda, mean bpp of whole files, mean PSNR in dB) at eight rate points."""
    pixels = []
    for path in images:
        with Image.open(path) as image:
            pixels.append(np.asarray(image.convert("RGB")))
    table = []
    for r in (round(point) for point in model.architecture.anchor_points):
        bpp, psnr = [], []
        for x in pixels:
            data = pack(encode_plainly(model, Picture(x), r).container)
            mse = np.mean((decode_pixels(unpack(data), model).astype(np.float64) - x) ** 2)
            bpp.append(len(data) * 8 / (x.shape[0] * x.shape[1]))
            psnr.append(decibels(mse))
        table.append((r, model.architecture.rate_lambda(r), float(np.mean(bpp)), float(np.mean(psnr))))
    return table


def objective(arch: Architecture) -> str:
    if arch.objective == "mse":
        return "bpp + lambda MSE"
    return f"bpp + lambda ({1 - VISUAL_SHARE:g} MSE + {VISUAL_SHARE:g} visual distortion), see docs/visual.md"


def model_card(model: Model, data: Sequence[Path], image_count: int, validation: Sequence[Path]) -> str:
    """Markdown. ``data`` are the training sources, ``validation`` images to measure on."""
    training = model.description["training"]
    macs = model.macs_per_pixel()
    arch = model.architecture
    lines = [
        f"# {model.name}, version {model.version}",
        "",
        f"{arch.synthesis} synthesis, kernel {arch.kernel}, {arch.latent_channels} latent channels, "
        f"`{arch.analysis}` analysis; one model for rate points 0 to {arch.rate_points - 1}. "
        f"Fingerprint `{model.fingerprint.hex()}`.",
        "",
        f"Decoder: {sum(macs.values()):.0f} MAC per pixel ({', '.join(f'{k} {v:.0f}' for k, v in macs.items())}).",
        "",
        f"Training: {training['step']} steps, {training['pixels'] / 1e9:.2f} gigapixels, "
        f"{training['seconds'] / 3600:.2f} hours, objective {objective(arch)}.",
        "",
        f"Data: {image_count} photographs, by licence: {licences(data)}.",
    ]
    if validation:
        lines += [
            "",
            f"Validation, {len(validation)} photographs, whole files, mean PSNR in RGB, no iterative encoding:",
            "",
            "| rate point | lambda | bpp | PSNR (dB) |",
            "|---|---|---|---|",
            *(f"| {r} | {lam:.5f} | {bpp:.4f} | {psnr:.2f} |" for r, lam, bpp, psnr in coded_table(model, validation)),
        ]
    return "\n".join(lines) + "\n"
