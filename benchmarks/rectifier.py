"""What a rectifier gives beside the same training of the synthesis alone: figures of docs/rectifier.md.

    python benchmarks/rectifier.py --data PHOTOS --images FOLDER [FOLDER...] --steps 400 [--model jpeg-like] [--brief]
    python benchmarks/rectifier.py ... --compressai mbt2018-mean --compressai-steps 400     # that codec, trained first

All variants start from the same codec and take the same steps on the same crops, side by side. PSNR and
MS-SSIM are means over the middle 384x384 pixels of every fourth image of a folder, at four rate points, of
averaged weights, pixels rounded to whole levels; for ``--sga-steps`` besides over real files of the
middle 256x256 pixels of ``--sga-images`` of them, iterated through the base's synthesis.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from compressai import models
from compressai.losses import RateDistortionLoss
from pytorch_msssim import ms_ssim
from torch import Tensor

from nicc.decoder.decode import group_latents
from nicc.encoder.encode import encode
from nicc.encoder.settings import Annealing, Settings
from nicc.images import Picture
from nicc.model import Model, load_transform
from nicc.training import frozen, rectify
from nicc.training.compressai import CompressaiCodec
from nicc.training.config import RectifyConfig, RectifySchedule
from nicc.training.data import Photos
from nicc.training.frozen import Decoded
from nicc.training.stage import Run, validation_images

COMPRESSAI = {
    "bmshj2018-factorized": (models.FactorizedPrior, (64, 96)),
    "bmshj2018-hyperprior": (models.ScaleHyperprior, (64, 96)),
    "mbt2018-mean": (models.MeanScaleHyperprior, (64, 96)),
    "cheng2020-anchor": (models.Cheng2020Anchor, (64,)),
}
"""CompressAI's codecs with fewer channels than its own 128 and 192, so that they can be trained in minutes."""
COMPRESSAI_LAMBDA = 0.013
COMPRESSAI_CROP = 128
PATH_STEPS = 32
PULLS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Ridges that the linear map is fitted with, against the mean square of its inputs."""
SGA_CROP = 256


@dataclass(frozen=True)
class Variant:
    rectifiers: int
    alpha: float = 0.0
    distance: str = "l2"


CONTROL = "control: synthesis only"
BRIEF = {
    CONTROL: Variant(0),
    "1 rectifier, alpha 0": Variant(1),
    "1 rectifier, alpha 0.01": Variant(1, 0.01),
    "1 rectifier, alpha 0.1": Variant(1, 0.1),
}
VARIANTS = BRIEF | {
    "1 rectifier, alpha 0.003": Variant(1, 0.003),
    "1 rectifier, alpha 0.03": Variant(1, 0.03),
    "2 rectifiers, alpha 0": Variant(2),
    "3 rectifiers, alpha 0": Variant(3),
    "1 rectifier, L1, alpha 0.01": Variant(1, 0.01, "l1"),
    "1 rectifier, smooth L1, alpha 0.01": Variant(1, 0.01, "smooth-l1"),
    "1 rectifier, cosine, alpha 0.01": Variant(1, 0.01, "cosine"),
}


class Shared:
    """A codec that quantises a batch once, however many ask for it one after another."""

    def __init__(self, codec: frozen.FrozenCodec) -> None:
        self.codec, self.arch, self.channels, self.deviation = codec, codec.arch, codec.channels, codec.deviation
        self.start, self.pad, self.synthesise = codec.start, codec.pad, codec.synthesise
        self.last: tuple[Tensor, Tensor, frozen.QuantisedLatents] | None = None

    def quantise(self, x: Tensor, rate_point: Tensor) -> frozen.QuantisedLatents:
        if not self.last or not torch.equal(self.last[0], x) or not torch.equal(self.last[1], rate_point):
            self.last = x, rate_point, self.codec.quantise(x, rate_point)
        return self.last[2]


class Files(NamedTuple):
    """Images ``(N, 3, H, W)`` and what was decoded of them at one rate point."""

    point: int
    x: Tensor
    quantised: frozen.QuantisedLatents


def plain(codec: frozen.FrozenCodec, images: Tensor) -> list[Files]:
    """As the encoder writes them; a codec of CompressAI's has one rate."""
    points = rectify.VALIDATION_POINTS if isinstance(codec, frozen.FrozenModel) else (0,)
    return [
        Files(value, x, codec.quantise(x, torch.full((len(x),), value))) for value in points for x in images.split(4)
    ]


def iterated(model: Model, codec: frozen.FrozenModel, images: Tensor, steps: int) -> list[Files]:
    """Real files after so many steps of SGA."""
    begin = (images.shape[-1] - SGA_CROP) // 2
    images = images[..., begin : begin + SGA_CROP, begin : begin + SGA_CROP]
    files = []
    for value in rectify.VALIDATION_POINTS:
        rate = codec.frozen.receiver.rate(torch.tensor([value]))
        for x in images.split(1):
            pixels = (x[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
            result = encode(model, Picture(pixels), Settings(value, Annealing(steps)))
            y_hat = torch.from_numpy(np.concatenate(list(group_latents(model, result.encoding.container))))[None]
            files.append(Files(value, x, Decoded(y_hat, y_hat, None, rate.inverse / rate.gain)))
    return files


@torch.no_grad()
def quality(model: rectify.Rectified, files: list[Files]) -> np.ndarray:
    """PSNR and MS-SSIM at every rate point of the files, ``(points, 2)``."""
    found = []
    for value in sorted({file.point for file in files}):
        psnr, similarity = [], []
        for point, x, quantised in files:
            if point != value:
                continue
            _, decoded = model(quantised, torch.full((len(x),), value))
            decoded = (decoded.clamp(0, 1) * 255).round()
            psnr.append(10 * torch.log10(255**2 / (decoded - x * 255).square().mean((1, 2, 3))))
            similarity.append(ms_ssim(decoded, x * 255, data_range=255, size_average=False))
        found.append((float(torch.cat(psnr).mean()), float(torch.cat(similarity).mean())))
    return np.array(found)


def compressai_codec(name: str, photos: Photos, steps: int) -> CompressaiCodec:
    """A codec of CompressAI's, trained for so many steps of 8 crops of 128x128."""
    torch.manual_seed(0)
    kind, widths = COMPRESSAI[name]
    model = kind(*widths)
    loss = RateDistortionLoss(lmbda=COMPRESSAI_LAMBDA)
    main = [p for n, p in model.named_parameters() if not n.endswith("quantiles")]
    optimizer, auxiliary = torch.optim.Adam(main, 1e-3), torch.optim.Adam([model.entropy_bottleneck.quantiles], 1e-2)
    rng, begun = np.random.default_rng(0), time.monotonic()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps) + 1e-5
        crops = torch.from_numpy(photos.crops(rng, 8, COMPRESSAI_CROP)).permute(0, 3, 1, 2).float() / 255
        x = crops.contiguous()  # cheng2020-anchor's backward pass dies of channels last, PyTorch 2.14 on a CPU
        optimizer.zero_grad()
        outcome = loss(model(x), x)
        outcome["loss"].backward()
        torch.nn.utils.clip_grad_norm_(main, 1.0)
        optimizer.step()
        auxiliary.zero_grad()
        model.aux_loss().backward()
        auxiliary.step()
        if step % 50 == 0 or step == steps - 1:
            bpp, mse = float(outcome["bpp_loss"]), float(outcome["mse_loss"]) * 255**2
            print(f"  {name}, step {step}, {time.monotonic() - begun:.0f} s: {bpp:.3f} bpp, MSE {mse:.0f}", flush=True)
    codec = CompressaiCodec(model)
    codec.measure_deviation(torch.from_numpy(photos.crops(rng, 8, 256)).permute(0, 3, 1, 2).float() / 255)
    return codec


@torch.no_grad()
def flatness(codec: CompressaiCodec, images: Tensor) -> str:
    """Length of decoded paths between latents over the straight line's, and what a linear map for the synthesis loses.

    As in benchmarks/studies.py; the map of 3x3 latents to 16x16 pixels is fitted on the first half of the images,
    its ridge chosen on the third quarter, its loss that of the last.
    """
    quantised, synthesis = codec.quantise(images, torch.zeros(len(images))), codec.model.g_s
    y, y_hat = (part.permute(0, 3, 1, 2) for part in quantised[:2])
    ratios = []
    for a, b in itertools.pairwise(y):
        path = synthesis(torch.stack([a + t * (b - a) for t in torch.linspace(0, 1, PATH_STEPS + 1)]))
        ratios.append(float((path[1:] - path[:-1]).flatten(1).norm(dim=1).sum() / (path[-1] - path[0]).norm()))
    inputs = F.unfold(y_hat, 3, padding=1).permute(0, 2, 1)
    inputs = torch.cat([inputs, torch.ones_like(inputs[..., :1])], -1)
    targets = F.unfold(images, 16, stride=16).permute(0, 2, 1)
    half, rest = len(images) // 2, len(images) // 4
    x, t = inputs[:half].flatten(0, 1), targets[:half].flatten(0, 1)
    gram, cross = x.T @ x, x.T @ t

    def psnr(pixels: Tensor, wanted: Tensor) -> float:
        return float(-10 * (pixels.clamp(0, 1) - wanted).square().flatten(1).mean(1).log10().mean())

    maps = [torch.linalg.solve(gram + pull * gram.trace() / len(gram) * torch.eye(len(gram)), cross) for pull in PULLS]
    chosen = slice(half, half + rest)
    best = max(maps, key=lambda w: psnr(inputs[chosen] @ w, targets[chosen]))
    shown = slice(half + rest, None)
    before, after = psnr(synthesis(y_hat[shown]), images[shown]), psnr(inputs[shown] @ best, targets[shown])
    return f"path / line {np.mean(ratios):.4f}; {before:.2f} dB, by the best linear map {after:.2f} dB"


def trained(
    variants: dict[str, Variant], codec: frozen.FrozenCodec, data: Path, cache: Path | None, steps: int, crop: int
) -> dict[str, rectify.Rectified]:
    """Averaged weights of every variant after so many steps."""
    trainers = {}
    with tempfile.TemporaryDirectory() as out:
        for name, variant in variants.items():
            schedule = RectifySchedule(steps=steps, crop=crop, alphas=(variant.alpha,), distance=variant.distance)
            config = RectifyConfig("ablation", "", variant.rectifiers, 96, schedule)
            trainers[name] = rectify.RectifierTrainer(config, Run([data], Path(out), cache=cache), codec, "ablation")
        begun = time.monotonic()
        for step in range(steps):
            figures = {name: trainer.train_step() for name, trainer in trainers.items()}
            if step % 50 == 0:
                errors = " ".join(f"{f['mse']:.3f}" for f in figures.values())
                print(f"  step {step}, {time.monotonic() - begun:.0f} s, MSE {errors}", flush=True)
    for name, trainer in trainers.items():
        print(f"  {name}: {trainer.score(trainer.candidates[0]):.4f} on training crops, by which alpha is chosen")
    return {name: trainer.averaged(trainer.candidates[0]) for name, trainer in trainers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--model", default="two-layer")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--sga-steps", type=int, default=0)
    parser.add_argument("--sga-images", type=int, default=3)
    parser.add_argument("--brief", action="store_true", help="the control and three variants")
    parser.add_argument("--compressai", choices=COMPRESSAI)
    parser.add_argument("--compressai-steps", type=int, default=400)
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    codec: frozen.FrozenCodec
    crop = 256
    if arguments.compressai:
        crop = COMPRESSAI_CROP
        photos = Photos([arguments.data], arguments.cache)
        codec = compressai_codec(arguments.compressai, photos, arguments.compressai_steps)
        print(f"  {arguments.compressai}: {flatness(codec, validation_images(arguments.images[0]))}", flush=True)
    else:
        model = load_transform(arguments.model)
        codec = frozen.FrozenModel(model)
    sets: dict[str, list[Files]] = {}
    for folder in arguments.images:
        images = validation_images(folder)
        sets[folder.name] = plain(codec, images)
        if arguments.sga_steps and isinstance(codec, frozen.FrozenModel):
            some = images[: arguments.sga_images]
            sets[f"{folder.name}, SGA {arguments.sga_steps}"] = iterated(model, codec, some, arguments.sga_steps)
    base = rectify.Rectified(codec, 0, 96)
    variants = BRIEF if arguments.brief else VARIANTS
    rectified = trained(variants, Shared(codec), arguments.data, arguments.cache, arguments.steps, crop)
    for name, files in sets.items():
        before = quality(base, files)
        values = sorted({file.point for file in files})
        points = " | ".join(f"{p}: {psnr:.2f} dB" for p, (psnr, _) in zip(values, before, strict=True))
        print(f"\n| {name} | {points} | mean | MS-SSIM |\n|{'---|' * (len(values) + 3)}")
        for variant, candidate in rectified.items():
            gain = quality(candidate, files) - before
            cells = " | ".join(f"{g:+.3f}" for g in (*gain[:, 0], gain[:, 0].mean()))
            print(f"| {variant} | {cells} | {gain[:, 1].mean():+.5f} |", flush=True)


if __name__ == "__main__":
    main()
