"""Frequency weighting: how finely a model quantises and rounds, by the frequency of its channels.

The gains of training follow its objective. What judges from outside it would have otherwise (docs/visual.md) is said
here by bands of frequency, of luma and of colour, as JPEG's quantisation matrices say it. CDF rows move along with
the gains, so that the entropy model is right about single channels at once.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nicc.architecture import LOG_ROW_STEP
from nicc.decoder import networks
from nicc.encoder import ops
from nicc.images import LUMA
from nicc.training.codec import CodecModule
from nicc.training.config import COLOURS, WEIGHTED_RATES, Weighting

AROUND = 2
"""Latent positions around the one whose basis function is looked at."""


class Spectra(NamedTuple):
    """Of every channel's basis function, ``(C,)``."""

    luma: Tensor
    """The share of its energy that is luma."""
    frequency: Tensor
    """The centre of its spectrum in cycles per pixel, of luma or of the colour difference that is stronger."""

    @property
    def of_luma(self) -> Tensor:
        """Whether most of its energy is luma."""
        return self.luma > 0.5


@torch.no_grad()
def spectra(codec: CodecModule) -> Spectra:
    """What single latents look like, about a flat grey."""
    side, c = 2 * AROUND + 1, codec.arch.latent_channels
    p = codec.params()
    flat = torch.zeros(1, side, side, c)
    base = networks.synthesis(ops, codec.arch, p, flat)
    shares, centres = [], []
    for channel in range(c):
        y = flat.clone()
        y[0, AROUND, AROUND, channel] = codec.deviation[channel] / 10
        function = (networks.synthesis(ops, codec.arch, p, y) - base)[0]
        luma = function @ torch.tensor(LUMA)
        planes = torch.stack([luma, function[..., 0] - luma, function[..., 2] - luma])
        energy = planes.square().sum((1, 2))
        share = energy[0] / (energy[0] + (energy[1] + energy[2]) / 2 + 1e-30)
        centres.append(_centre(planes[0 if share > 0.5 else 1 + int(energy[2] > energy[1])]))
        shares.append(share)
    return Spectra(torch.stack(shares), torch.stack(centres))


def _centre(plane: Tensor) -> Tensor:
    """The root mean square frequency of a square plane, in cycles per pixel."""
    power = torch.fft.rfft2(plane).abs().square()
    down, across = torch.fft.fftfreq(len(plane))[:, None], torch.fft.rfftfreq(len(plane))[None]
    return ((power * (down.square() + across.square())).sum() / (power.sum() + 1e-30)).sqrt()


@torch.no_grad()
def weigh(codec: CodecModule, bands: tuple[Weighting, ...]) -> None:
    """Multiplies gains and rounding weights of the channels of every band; rows and steps follow."""
    seen = spectra(codec)
    anchors = np.linspace(0, 1, codec.arch.anchors)
    for colour in COLOURS:
        mine = sorted((b for b in bands if b.colour == colour), key=lambda b: b.above)
        of_colour = seen.of_luma == (colour == "luma")
        for band, following in zip_longest(mine, mine[1:]):
            end = following.above if following else np.inf
            here = of_colour & (seen.frequency >= band.above) & (seen.frequency < end)
            change, rounding = (
                torch.tensor(np.interp(anchors, WEIGHTED_RATES, np.log(values)), dtype=torch.float32)[:, None]
                for values in (band.gain, band.rounding)
            )
            codec.log_gain[:, here] += change
            codec.row_bias[:, here] += change / LOG_ROW_STEP
            codec.rounding[:, here] *= rounding.exp()
