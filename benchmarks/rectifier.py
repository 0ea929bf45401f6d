"""What a rectifier gives beside the same training of the synthesis alone: figures of docs/rectifier.md.

    python benchmarks/rectifier.py --data PHOTOS --images FOLDER [FOLDER...] --steps 1000 [--model jpeg-like]
    python benchmarks/rectifier.py ... --compressai-steps 500      # CompressAI's factorized prior, trained first

Every variant starts from the same codec and takes the same number of steps on the same crops. PSNR and
MS-SSIM are means over the middle 384x384 pixels of every fourth image of a folder, at four rate points,
of averaged weights, pixels rounded to whole levels.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from compressai.losses import RateDistortionLoss
from compressai.models import FactorizedPrior
from pytorch_msssim import ms_ssim
from torch import Tensor

from nicc.model import load_model
from nicc.training import rectify
from nicc.training.compressai import FactorizedCodec
from nicc.training.config import RectifyConfig, RectifySchedule
from nicc.training.data import Photos
from nicc.training.stage import Run, drive, validation_images

FACTORIZED = 96, 128
"""Channels of CompressAI's codec, fewer than its own 128 and 192, so that it can be trained in minutes."""
FACTORIZED_LAMBDA = 0.013


@dataclass(frozen=True)
class Variant:
    rectifiers: int
    alphas: tuple[float, ...] = (0.0,)
    distance: str = "l2"


VARIANTS = {
    "control: synthesis only": Variant(0),
    "1 rectifier, alpha 0": Variant(1),
    "1 rectifier, alpha explored": Variant(1, (0.0, 0.003, 0.01, 0.03)),
    "2 rectifiers, alpha 0": Variant(2),
    "3 rectifiers, alpha 0": Variant(3),
    "1 rectifier, L1, alpha 0.01": Variant(1, (0.01,), "l1"),
    "1 rectifier, smooth L1, alpha 0.01": Variant(1, (0.01,), "smooth-l1"),
    "1 rectifier, cosine, alpha 0.01": Variant(1, (0.01,), "cosine"),
}


@torch.no_grad()
def quality(model: rectify.Rectified, codec: rectify.Codec, images: Tensor) -> list[tuple[float, float]]:
    """PSNR and MS-SSIM at the four rate points."""
    found = []
    for value in rectify.VALIDATION_POINTS:
        psnr, similarity = [], []
        for x in images.split(4):
            point = torch.full((len(x),), value)
            _, decoded = model(codec.quantise(x, point), point)
            decoded = (decoded.clamp(0, 1) * 255).round()
            psnr.append(10 * torch.log10(255**2 / (decoded - x * 255).square().mean((1, 2, 3))))
            similarity.append(ms_ssim(decoded, x * 255, data_range=255, size_average=False))
        found.append((float(torch.cat(psnr).mean()), float(torch.cat(similarity).mean())))
    return found


def factorized(photos: Photos, steps: int) -> FactorizedCodec:
    """CompressAI's factorized prior, trained for so many steps of 8 crops of 128x128."""
    torch.manual_seed(0)
    model = FactorizedPrior(*FACTORIZED)
    loss = RateDistortionLoss(lmbda=FACTORIZED_LAMBDA)
    main = [p for n, p in model.named_parameters() if not n.endswith("quantiles")]
    optimizer, auxiliary = torch.optim.Adam(main, 1e-3), torch.optim.Adam([model.entropy_bottleneck.quantiles], 1e-2)
    rng = np.random.default_rng(0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps) + 1e-5
        x = torch.from_numpy(photos.crops(rng, 8, 128)).permute(0, 3, 1, 2).float() / 255
        optimizer.zero_grad()
        outcome = loss(model(x), x)
        outcome["loss"].backward()
        torch.nn.utils.clip_grad_norm_(main, 1.0)
        optimizer.step()
        auxiliary.zero_grad()
        model.aux_loss().backward()
        auxiliary.step()
        if step % 50 == 0:
            bpp, mse = float(outcome["bpp_loss"]), float(outcome["mse_loss"]) * 255**2
            print(f"  factorized, step {step}: {bpp:.3f} bpp, MSE {mse:.0f}")
    codec = FactorizedCodec(model)
    codec.measure_deviation(torch.from_numpy(photos.crops(rng, 8, 256)).permute(0, 3, 1, 2).float() / 255)
    return codec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--model", default="two-layer")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--compressai-steps", type=int, default=0)
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    codec: rectify.Codec
    if arguments.compressai_steps:
        codec = factorized(Photos([arguments.data], arguments.cache), arguments.compressai_steps)
    else:
        codec = rectify.NiccCodec(load_model(arguments.model))
    images = [validation_images(folder) for folder in arguments.images]
    base: list[list[tuple[float, float]]] = []
    for name, variant in {"base": None, **VARIANTS}.items():
        begun, chosen = time.monotonic(), ""
        if variant is None:
            model = rectify.Rectified(codec, 0, 96)
        else:
            schedule = RectifySchedule(
                steps=arguments.steps,
                alphas=variant.alphas,
                distance=variant.distance,
                explore_steps=max(1, arguments.steps // (4 * len(variant.alphas))),
            )
            config = RectifyConfig("ablation", arguments.model, variant.rectifiers, 96, schedule)
            with tempfile.TemporaryDirectory() as out:
                trainer = rectify.Trainer(
                    config, Run([arguments.data], Path(out), cache=arguments.cache), codec, "ablation"
                )
                drive(trainer)
                model = trainer.averaged(trainer.candidates[0])
                chosen = f" ({trainer.candidates[0].alpha:g})" if len(variant.alphas) > 1 else ""
        found = [quality(model, codec, x) for x in images]
        base = base or found
        for folder, now, before in zip(arguments.images, found, base, strict=True):
            gains = "  ".join(
                f"{a[0]:.2f} ({a[0] - b[0]:+.3f} dB, {a[1] - b[1]:+.5f})" for a, b in zip(now, before, strict=True)
            )
            mean = sum(a[0] - b[0] for a, b in zip(now, before, strict=True)) / 4
            print(
                f"{name + chosen:44} {folder.name:12} {gains}  mean {mean:+.3f} dB  {time.monotonic() - begun:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
