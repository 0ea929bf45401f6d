"""Analysis and hyper-analysis of a shipped model in PyTorch: any analysis, any device, batches for training."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nicc.architecture import LATENTS_PER_HYPER, PIXELS_PER_LATENT
from nicc.encoder.analysis import reach
from nicc.encoder.modules import Analysis, HyperAnalysis, hyper_latents, mirror_pad
from nicc.encoder.transform import Latents, encoder_arrays_of, part_of, unscaled
from nicc.model import Model

BAND_ROWS = 64
"""About as many rows of latents are analysed at a time, so that memory stays bounded."""


def encoder_state(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The stored arrays of the sender as tensors, 8-bit ones scaled."""
    return {name: torch.from_numpy(array) for name, array in unscaled(arrays).items()}


class TorchTransform:
    """The modules with shipped weights."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        state = encoder_arrays_of(model)
        self.device = device
        self.halo = reach(model.architecture)
        self.analysis, self.hyper = Analysis(model.architecture), HyperAnalysis(model.architecture)
        for prefix, module in (("analysis.", self.analysis), ("hyper_analysis.", self.hyper)):
            module.load_state_dict({k: torch.from_numpy(v) for k, v in part_of(state, prefix).items()})
            module.to(device).eval()
        self.offset = torch.from_numpy(state["hyper_offset"]).to(device)
        self.deviation = torch.from_numpy(model.arrays["deviation"]).to(device)

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> Latents:
        """As `nicc.encoder.transform.Transform`."""
        rows = -(-len(pixels) // PIXELS_PER_LATENT)
        count = max(1, round(rows / BAND_ROWS))
        ends = [min(rows, -(-n * rows // (count * LATENTS_PER_HYPER)) * LATENTS_PER_HYPER) for n in range(count + 1)]
        parts = [self._band(pixels, rows, first, last) for first, last in itertools.pairwise(ends)]
        return Latents(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _band(self, pixels: np.ndarray, rows: int, first: int, last: int) -> Latents:
        """Some rows of latents, whole hyper-latents high, from their pixels and those around them."""
        begin, end = max(0, first - self.halo), min(rows, last + self.halo)
        x = torch.tensor(pixels[begin * PIXELS_PER_LATENT : end * PIXELS_PER_LATENT], device=self.device)
        x = x.permute(2, 0, 1)[None].float() / 255
        x = mirror_pad(x, 0, -x.shape[3] % PIXELS_PER_LATENT, 0, -x.shape[2] % PIXELS_PER_LATENT)
        y = self.analysis(x)[:, first - begin : last - begin]
        return Latents(y[0].cpu().numpy(), self.hyper_latents(y)[0].cpu().numpy())

    def hyper_latents(self, y: Tensor) -> Tensor:
        """Hyper-latents in nats of latents ``(N, h, w, C)``."""
        return hyper_latents(self.hyper, y, self.deviation, self.offset)


@lru_cache(maxsize=2)
def torch_transform_of(model: Model, device: str = "cpu") -> TorchTransform:
    """The transform of a loaded model, cached."""
    return TorchTransform(model, device)
