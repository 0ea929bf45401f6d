"""The sender's half of a shipped model: pixels to latents and hyper-latents, by PyTorch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from nicc.architecture import PIXELS_PER_LATENT
from nicc.encoder.analysis import Analysis, HyperAnalysis, hyper_latents, mirror_pad
from nicc.errors import ModelError
from nicc.model import Model, read_part

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
        x = torch.tensor(pixels, device=self.device).permute(2, 0, 1)[None].float() / 255
        x = mirror_pad(x, 0, -x.shape[3] % PIXELS_PER_LATENT, 0, -x.shape[2] % PIXELS_PER_LATENT)
        y = self.analysis(x)
        return y[0].cpu().numpy(), self.hyper_latents(y)[0].cpu().numpy()

    def hyper_latents(self, y: torch.Tensor) -> torch.Tensor:
        """Hyper-latents in nats of latents ``(N, h, w, C)``."""
        return hyper_latents(self.hyper, y, self.deviation, self.offset)


@lru_cache(maxsize=2)
def transform_of(model: Model, device: str = "cpu") -> Transform:
    """The transform of a loaded model, cached."""
    return Transform(model, device)
