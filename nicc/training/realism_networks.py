"""What the realism stage trains: the head and its discriminator, as PyTorch's modules."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from nicc.architecture import PIXELS_PER_LATENT
from nicc.decoder import realism
from nicc.encoder import ops
from nicc.head import HeadArchitecture

LATENTS_SEEN = 12
"""Channels that the discriminator makes of the latents."""


class RealismHead(nn.Module):
    """The head's arrays, silent at the start."""

    def __init__(self, head: HeadArchitecture, latent_channels: int, deviation: Tensor) -> None:
        super().__init__()
        self.head = head
        values = {}
        for name, shape in head.shapes(latent_channels).items():
            silent = len(shape) == 1 or name.endswith(("pixel_out", "beta_table", "rate_table"))
            values[name] = torch.zeros(shape) if silent else torch.randn(shape) * shape[0] ** -0.5
            if name.endswith("latent_in"):
                values[name] /= deviation.cpu()[:, None]
        self.p = nn.ParameterDict({k: nn.Parameter(v) for k, v in values.items()})

    def arrays(self, part: int) -> dict[str, Tensor]:
        """Those of one part, by their names within it."""
        return self.head.arrays_of(part, dict(self.p.items()))

    def forward(self, y: Tensor, x: Tensor, beta: Tensor, rate: Tensor) -> Tensor:
        """What to add to pixels, ``(N, H, W, 3)``.

        ``y`` and ``x`` as `nicc.decoder.realism.detail` takes them, beta 0..`LARGEST_BETA` and the
        rate point as a share of the highest ``(N,)``.
        """
        parts = np.array([self.head.part(share) for share in rate.tolist()])
        order = np.argsort(parts, kind="stable")
        found = []
        for part in np.unique(parts):
            at = torch.from_numpy(order[parts[order] == part]).to(beta.device)
            p = self.arrays(int(part))
            condition = realism.conditions(ops, self.head, p, beta[at, None], rate[at, None])
            found.append(realism.detail(ops, self.head, p, y[at], x[at], condition[:, None, None]))
        back = torch.from_numpy(np.argsort(order)).to(beta.device)
        return beta[:, None, None, None] * torch.cat(found)[back]


class Discriminator(nn.Module):
    """Logits per patch of images ``(N, 3, H, W)`` in 0..1 and their latents ``(N, C, h, w)``."""

    def __init__(self, width: int, latent_channels: int) -> None:
        super().__init__()
        self.latents = spectral_norm(nn.Conv2d(latent_channels, LATENTS_SEEN, 3, padding=1))
        layers, known = [], 3 + LATENTS_SEEN
        for factor, stride in ((1, 2), (2, 2), (4, 2), (8, 1)):
            layers.append(spectral_norm(nn.Conv2d(known, factor * width, 4, stride, 1, padding_mode="reflect")))
            known = factor * width
        self.layers = nn.ModuleList(layers)
        self.out = spectral_norm(nn.Conv2d(known, 1, 1))

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        seen = F.leaky_relu(self.latents(latents), 0.2)
        x = torch.cat([x * 2 - 1, F.interpolate(seen, scale_factor=PIXELS_PER_LATENT)], 1)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return self.out(x)
