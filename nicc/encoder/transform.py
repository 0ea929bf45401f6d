"""The sender's half of a shipped model: pixels to latents and hyper-latents, by PyTorch."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import torch

from nicc.architecture import LATENTS_PER_HYPER, PIXELS_PER_LATENT
from nicc.encoder.analysis import Analysis, HyperAnalysis, hyper_latents, mirror_pad, reach
from nicc.errors import ModelError
from nicc.model import Model, read_part

BAND_ROWS = 64
"""About as many rows of latents are analysed at a time, so that memory stays bounded."""
SCALE_SUFFIX = ".scale"
"""Arrays of 8-bit integers have their scale per output under their name and this."""


def encoder_state(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The stored arrays of the sender as float32 tensors, 8-bit ones scaled."""
    state = {}
    for name, array in arrays.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        state[name] = torch.from_numpy(array.astype(np.float32))
        if array.dtype == np.int8:
            scale = torch.from_numpy(arrays[name + SCALE_SUFFIX])
            state[name] *= scale.reshape(-1, *[1] * (array.ndim - 1))
    return state


class Transform:
    """Analysis and hyper-analysis with shipped weights."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        if model.folder is None:
            raise ModelError(f"model {model.name} has no encoder side")
        arrays = read_part(model.folder, model.description, "encoder")
        state = encoder_state(arrays)
        self.device = device
        self.halo = reach(model.architecture)
        self.analysis, self.hyper = Analysis(model.architecture), HyperAnalysis(model.architecture)
        for prefix, module in (("analysis.", self.analysis), ("hyper_analysis.", self.hyper)):
            part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            module.load_state_dict(part)
            module.to(device).eval()
        self.offset = state["hyper_offset"].to(device)
        self.deviation = torch.from_numpy(model.arrays["deviation"]).to(device)

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 ``(height, width, 3)`` to latents ``(h, w, C)`` and hyper-latents in nats ``(zh, zw, Cz)``.

        The image is mirrored up to whole latents, the latents repeated up to whole hyper-latents.
        """
        rows = -(-len(pixels) // PIXELS_PER_LATENT)
        count = max(1, round(rows / BAND_ROWS))
        ends = [min(rows, -(-n * rows // (count * LATENTS_PER_HYPER)) * LATENTS_PER_HYPER) for n in range(count + 1)]
        bands = [self._band(pixels, rows, first, last) for first, last in itertools.pairwise(ends)]
        y, z = (np.concatenate(parts) if count > 1 else parts[0] for parts in zip(*bands, strict=True))
        return y, z

    def _band(self, pixels: np.ndarray, rows: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Some rows of latents, whole hyper-latents high, from their pixels and those around them."""
        begin, end = max(0, first - self.halo), min(rows, last + self.halo)
        x = torch.tensor(pixels[begin * PIXELS_PER_LATENT : end * PIXELS_PER_LATENT], device=self.device)
        x = x.permute(2, 0, 1)[None].float() / 255
        x = mirror_pad(x, 0, -x.shape[3] % PIXELS_PER_LATENT, 0, -x.shape[2] % PIXELS_PER_LATENT)
        y = self.analysis(x)[:, first - begin : last - begin]
        return y[0].cpu().numpy(), self.hyper_latents(y)[0].cpu().numpy()

    def hyper_latents(self, y: torch.Tensor) -> torch.Tensor:
        """Hyper-latents in nats of latents ``(N, h, w, C)``."""
        return hyper_latents(self.hyper, y, self.deviation, self.offset)


@lru_cache(maxsize=2)
def transform_of(model: Model, device: str = "cpu") -> Transform:
    """The transform of a loaded model, cached."""
    return Transform(model, device)
