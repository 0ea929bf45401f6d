"""What a model's entropy coding leaves: networks fitted to its symbols, without touching the model.

    python benchmarks/context.py DATA VALIDATION [--model two-layer] [--groups 0,4,16,56] [--inputs magnitudes]
        [--width 96] [--seconds 150]

First the shares of a file's bits by channel group and phase. Then, for each channel group of ``--groups`` (which
need not be the model's), two residual 3x3 layers learn corrections of CDF rows, and with ``--inputs latents``
of means, from z and everything decoded before; the second half of a checkerboard also sees the first. Bits are
those of noisy latents under the parametric rows, before and after: how many are to be had, not how many
integers would save.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nicc.architecture import CDF_ROWS, PHASES
from nicc.encoder.latent_code import quads, row_likelihood
from nicc.model import load_transform
from nicc.training.data import Photos
from nicc.training.frozen import Frozen
from nicc.training.optimizer import MuonAdam
from nicc.training.stage import validation_images

POINTS = (0, 18, 36, 54)
REPORT = 100


class Sample(NamedTuple):
    """A batch as the model codes it, channels first."""

    point: Tensor
    z: Tensor
    latents: Tensor
    """Decoded latents in units of each channel's deviation."""
    magnitudes: Tensor
    residual: Tensor
    rows: Tensor
    scale: Tensor
    """Quantisation steps per deviation."""


@torch.no_grad()
def sample(frozen: Frozen, x: Tensor, point: Tensor) -> Sample:
    """``x`` ``(N, 3, H, W)`` in 0..1 at integer rate points ``(N,)``."""
    y, z, rate, code = frozen.code(x, point)
    scale = rate.gain * frozen.receiver.p["deviation"]
    latents = (code.symbols + y * rate.gain - code.residual) / scale
    magnitudes = torch.log2(1 + code.symbols.abs().clamp_max(15))
    parts = (z, latents, magnitudes, code.residual, code.rows, scale)
    return Sample(point, *(a.permute(0, 3, 1, 2) for a in parts))


class Correction(nn.Module):
    """Additions to the means (in deviations) and CDF rows of one group of channels in one phase."""

    def __init__(self, inputs: int, width: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 2 * channels, 1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.last(x + F.relu(self.second(x)))


class Corrections(nn.Module):
    """`Correction` for every group and phase of a checkerboard."""

    def __init__(self, groups: list[int], z_channels: int, width: int, with_latents: bool) -> None:
        super().__init__()
        self.groups = [slice(a, b) for a, b in itertools.pairwise(groups)]
        self.kinds = 2 if with_latents else 1
        self.networks = nn.ModuleList()
        for group in self.groups:
            size = group.stop - group.start
            for phase in (0, 1):
                inputs = 1 + z_channels + self.kinds * (group.start + phase * size)
                self.networks.append(Correction(inputs, width, size))

    def forward(self, batch: Sample, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Bits of every sample and group, ``(N, groups)``, of the model and corrected."""
        n, _, h, w = batch.z.shape
        second = (quads(h, w, batch.z.device)[..., 0] >= 2).float()
        known = [batch.magnitudes, batch.latents][: self.kinds]
        point = (batch.point / 63)[:, None, None, None].expand(n, 1, h, w)
        before: list[Tensor] = []
        after: list[Tensor] = []
        for i, group in enumerate(self.groups):
            features = [point, batch.z, *(a[:, : group.start] for a in known)]
            own = [a[:, group] * (1 - second) for a in known]
            early, late = self.networks[2 * i : 2 * i + 2]
            out = torch.where(second > 0, late(torch.cat([*features, *own], 1)), early(torch.cat(features, 1))).float()
            mean, row = out.chunk(2, 1)
            at, rows = batch.residual[:, group] + noise[:, group], batch.rows[:, group]
            moved = at - 0.1 * mean * batch.scale[:, group] * (self.kinds - 1)
            for bits, r, rows_here in ((before, at, rows), (after, moved, (rows + row).clamp(0, CDF_ROWS - 1))):
                bits.append(-torch.log2(row_likelihood(r, rows_here)).sum((1, 2, 3)))
        return torch.stack(before, 1), torch.stack(after, 1)


def noise_like(a: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(a.shape, generator=generator) - 0.5


@torch.no_grad()
def shares(frozen: Frozen, images: Tensor) -> None:
    """Prints which part of y's bits every channel group takes, by phase."""
    arch = frozen.arch
    for point in POINTS:
        bits = []
        for x in images.split(8):
            bits.append(frozen.receiver.symbol_bits(frozen.code(x, torch.full((len(x),), point)).code))
        total = torch.cat(bits)
        h, w = total.shape[1:3]
        quad = quads(h, w, total.device)
        pixels = len(images) * images.shape[2] * images.shape[3]
        print(f"rate point {point}: {float(total.sum()) / pixels:.4f} bpp of y")
        for group, (a, b) in enumerate(itertools.pairwise(arch.groups)):
            parts = [
                float((total[..., a:b] * ((quad >= members[0]) & (quad <= members[-1]))).sum() / total.sum())
                for members in PHASES[arch.phases[group]]
            ]
            print(f"  channels {a}..{b - 1}: {sum(parts):.3f} ({' '.join(f'{p:.3f}' for p in parts)})")


@torch.no_grad()
def saved(corrections: Corrections, batches: list[list[Sample]]) -> None:
    """Prints the change of bits per rate point: of all groups, the mean of logarithms, then of each."""
    for point, parts in zip(POINTS, batches, strict=True):
        generator = torch.Generator().manual_seed(3)
        outcomes = [corrections(b, noise_like(b.residual, generator)) for b in parts]
        before, after = (torch.cat(side) for side in zip(*outcomes, strict=True))
        whole = 100 * float((after.sum(1) / before.sum(1)).log().mean())
        each = " ".join(f"{100 * float(v):+.1f}" for v in after.sum(0) / before.sum(0) - 1)
        print(f"rate point {point}: {whole:+.2f} % ({each})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--model", default="two-layer")
    parser.add_argument("--groups", default="", help="bounds, the model's by default")
    parser.add_argument("--inputs", choices=("magnitudes", "latents"), default="magnitudes")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--cache", type=Path)
    a = parser.parse_args()
    torch.manual_seed(0)
    frozen = Frozen(load_transform(a.model))
    images = validation_images(a.validation)
    shares(frozen, images)

    groups = [int(g) for g in a.groups.split(",")] if a.groups else list(frozen.arch.groups)
    corrections = Corrections(groups, frozen.arch.hyper_channels, a.width, a.inputs == "latents")
    parameters = []
    for name, p in corrections.named_parameters():
        muon = p.dim() > 1 and "last" not in name
        rate = 4e-3 if muon else 1e-3
        parameters.append({"params": [p], "base": rate, "lr": rate, "muon": "outputs first" if muon else None})
    optimizer = MuonAdam(parameters, betas=(0.9, 0.99))
    photos, rng, generator = Photos([a.data], a.cache), np.random.default_rng(1), torch.Generator().manual_seed(1)
    begun, losses, step = time.monotonic(), [], 0
    while (share := (time.monotonic() - begun) / a.seconds) < 1:
        x = torch.from_numpy(photos.crops(rng, 8, 256)).permute(0, 3, 1, 2).float() / 255
        batch = sample(frozen, x, torch.from_numpy(rng.integers(0, 64, 8)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            before, after = corrections(batch, noise_like(batch.residual, generator))
        loss = torch.log(after.sum(1) / before.sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * min(1, (step + 1) / 30) * (0.02 + 0.49 * (1 + math.cos(math.pi * share)))
        optimizer.step()
        step += 1
        losses.append(100 * float(loss.detach()))
        if step % REPORT == 0:
            seconds = time.monotonic() - begun
            print(f"step {step}, {seconds:.0f} s: {np.mean(losses[-REPORT:]):+.2f} % on training crops")
    saved(corrections, [[sample(frozen, x, torch.full((len(x),), p)) for x in images.split(8)] for p in POINTS])


if __name__ == "__main__":
    main()
