"""The pyramid's arithmetic in plain PyTorch: what the kernels must agree with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nicc.pyramid.layout import GRIDS, REACH, neighbour_offsets

SMALLEST_MASS = 2.0**-16


def upsample(x: Tensor, taps: Tensor, size: Sequence[int]) -> Tensor:
    """``(planes, h, w)`` to twice the size, cut to ``size``: eight mirrored taps, edges repeated."""
    kernel = torch.cat([taps, taps.flip(0)])
    x = F.pad(x[:, None], (2, 2, 2, 2), mode="replicate")
    x = F.conv_transpose2d(x, kernel.view(1, 1, 8, 1), stride=(2, 1), padding=(7, 0))
    x = F.conv_transpose2d(x, kernel.view(1, 1, 1, 8), stride=(1, 2), padding=(0, 7))
    return x[:, 0, : size[0], : size[1]]


def synthesise(net: Mapping[str, Tensor], grids: Sequence[Tensor]) -> Tensor:
    """The image ``(3, h, w)`` around -0.5..0.5 of latent grids ``(h, w)``, finest first."""
    x = grids[-1][None]
    for k in range(GRIDS - 2, -1, -1):
        x = torch.cat([grids[k][None], upsample(x, net["taps"][k], grids[k].shape)])
    t = x.permute(1, 2, 0)
    hidden = torch.relu(t @ net["colour_in"].T + net["colour_bias"])
    x = (hidden @ net["colour_out"].T + t @ net["colour_linear"].T + net["base"]).permute(2, 0, 1)
    first = F.conv2d(F.pad(x[None], (1, 1, 1, 1), mode="replicate"), net["filter1"], net["filter1_bias"])
    second = F.pad(torch.relu(first), (1, 1, 1, 1), mode="replicate")
    return x + F.conv2d(second, net["filter2"], net["filter2_bias"])[0]


def bits(net: Mapping[str, Tensor], grids: Sequence[Tensor]) -> Tensor:
    """Bits that the latents take, as the context network predicts them."""
    total = torch.zeros(())
    for k, y in enumerate(grids):
        h, w = y.shape
        q = F.pad(y, (REACH, REACH, REACH, 0))
        near = [
            q[REACH + dy : REACH + dy + h, REACH + dx : REACH + dx + w]
            for dy, dx in neighbour_offsets(net["near"].shape[1])
        ]
        near = torch.stack(near, -1)
        base = net["bias"][k].expand(h, w, -1)
        if k + 1 < GRIDS:
            coarse = F.pad(grids[k + 1][None, None], (1, 1, 1, 1))
            added = F.conv2d(coarse, net["coarse"].reshape(-1, 1, 3, 3))[0]
            base = base + added.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :h, :w].permute(1, 2, 0)
        hidden = net["middle"].shape[0]
        one = torch.relu(near @ net["near"].T + base[..., :hidden])
        two = torch.relu(one @ net["middle"].T + net["middle_bias"] + one)
        mean, scale = (two @ net["out"].T + near @ net["skip"].T + base[..., hidden:]).unbind(-1)
        inverse = torch.exp(-scale.clamp(-5, 5))
        away = (y - mean).abs()
        up, low = torch.exp(-(away + 0.5) * inverse), torch.exp(-((away - 0.5) * inverse).abs())
        mass = torch.where(away > 0.5, 0.5 * (low - up), 1 - 0.5 * (low + up))
        total = total - (mass + SMALLEST_MASS).log2().sum()
    return total
