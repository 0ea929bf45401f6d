"""What a model is made of: the numbers that both sides of the codec agree on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

from nicc.container import LARGEST_RATE_POINT
from nicc.errors import ModelError

PIXELS_PER_LATENT = 16
LATENTS_PER_HYPER = 4
COLOUR_PHASES = 12
"""Three colours at 2x2 pixels: channels of the linear branch of a two-layer synthesis."""
ADAPTATION_LIMIT = 2.0
"""Steps differ from the rate point's by at most this in the natural logarithm."""
CDF_ROWS = 64
SIGMA_MIN, SIGMA_MAX = 0.11, 256.0
GROUP_TABLE_ROWS = 40
"""CDF rows below this have a table for each group of channels; the higher ones, which have large tables, share them."""
ROW_HIDDEN = 48
"""Units in the hidden layer that predicts CDF rows."""
ROW_BITS = 12
"""Fractional bits of the integers that become CDF rows."""
HIDDEN_BITS = 4
"""Fractional bits of the hidden units, which are clipped to 0..255."""
HIDDEN_MAX = 255 / 2**HIDDEN_BITS
MAGNITUDE_UNIT = 4
"""Integer magnitudes are this many times log2(1 + abs symbol)."""
HYPER_UNIT = 64
"""Dequantised hyper-latents are integers in 1/64 nat."""
HYPER_LIMIT = 1023
Z_SYMBOL_LIMIT = 127
"""Hyper-latent symbols of an encoder lie in -127..127."""
Z_WEIGHT_UNIT = 256
"""Weights of hyper-latents' neighbours are integers in 1/256."""
REALISM_UNIT = 16
"""Files that ask for realism have CDF rows moved by so many parts of a row, and their gains along."""
RECON_CLASSES = 2
"""Symbols of magnitude 1 and of 2 or more have their own reconstruction offset."""

RECTIFIER_REACH = 2
"""Latent positions that a rectifier sees on every side."""
MAX_RECTIFIERS = 3

FILTER_STRENGTHS, FILTER_TEXTURES, FILTER_WEIGHTS = 6, 4, 6
"""Entries of the table of a directional filter's weights, by strengths of a direction and by textures beside it, and
weights of an entry."""
CHROMA_DISTANCES = 1, 2, 4
"""Pixels to the neighbours that the filter of chroma sees, each with a weight."""

CODING_FIELDS = ("latent_channels", "hyper_channels", "groups", "phases", "bands", "context_groups", "mean_hidden")
"""Fields that the meaning of a file's symbols depends on; the rest concerns one side only."""
RENDERING = ("synthesis", "igdn", "rectifier", "inverse", "recon_offset", "filter")
"""Beginnings of the names of arrays that only turn decoded symbols into pixels."""

SYNTHESES = ("two-layer", "jpeg-like")
ANALYSES = ("patch", "cnn", "elic")
OBJECTIVES = ("mse", "visual")

QUADS = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Positions in order of decoding, by the parity of row and column: a checkerboard's one colour, then the other."""
PHASES: dict[int, tuple[tuple[int, ...], ...]] = {1: ((0, 1, 2, 3),), 2: ((0, 1), (2, 3)), 4: ((0,), (1,), (2,), (3,))}
"""Quads that each phase decodes, by the number of phases of a channel group."""


class Step(NamedTuple):
    """One step of decoding: what is decoded, and what is known by then.

    The receiver (`nicc.decoder.latents`) and training (`nicc.encoder.latent_code`) both follow the table
    of these, `Architecture.steps`.
    """

    group: int
    channels: slice
    quads: tuple[int, ...]
    """Positions, by their quads, that are decoded side by side."""
    lead: int
    """The quad whose biases hold."""
    neighbours: str
    """Which decoded neighbours of the group itself are known: none (""), "diagonal" or "cross"."""
    network: tuple[int, int] | None
    """Context group and phase whose network predicts the means; None for the groups after those."""


LOG_ROW_STEP = math.log(SIGMA_MAX / SIGMA_MIN) / (CDF_ROWS - 1)
"""Natural logarithm of the ratio between the deviations of neighbouring CDF rows."""


def with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Entries as JSON and TOML have them, lists as the tuples that dataclasses hold."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


@dataclass(frozen=True)
class Architecture:
    """Shapes of a model's networks. Two models with equal architectures differ in weights only.

    ``synthesis`` is ``two-layer`` or ``jpeg-like`` (Yang & Mandt 2023); ``kernel`` the size of its
    first transposed convolution; ``hidden_channels`` and ``residual`` belong to the two-layer form,
    whose non-linear branch sees the first ``main_channels`` latents only (0 for all).
    ``rate_points`` are those of the weights ``lambda_min`` to ``lambda_max`` of the distortion, spaced
    evenly in their logarithm; training knows ``anchors`` of them. ``objective`` is what the distortion
    measures: squared error, or what people see (`nicc.encoder.visual`). With ``adaptive`` steps, the
    gain of a latent depends on the hyper-latents and the context groups around it.
    ``groups`` are the bounds of the channel groups that are decoded one after another, each in 1, 2
    (checkerboard) or 4 ``phases``; ``bands`` the widths, per group but the last, of the channel bands
    whose magnitudes are summed. The first ``context_groups`` predict the means of what follows.
    ``rectifiers`` networks of ``rectifier_width`` channels stand in a row before the synthesis
    (Luo & Chen 2024).
    """

    synthesis: str = "two-layer"
    kernel: int = 14
    hidden_channels: int = 12
    residual: bool = True
    main_channels: int = 0
    rate_points: int = 64
    anchors: int = 8
    lambda_min: float = 0.00125
    lambda_max: float = 0.08
    objective: str = "mse"
    adaptive: bool = False
    latent_channels: int = 256
    hyper_channels: int = 32
    groups: tuple[int, ...] = (0, 3, 8, 16, 32, 56, 88, 128, 256)
    phases: tuple[int, ...] = (4, 2, 2, 2, 2, 1, 1, 1)
    bands: tuple[int, ...] = (1, 1, 1, 4, 6, 8, 10)
    context_groups: int = 5
    mean_hidden: int = 64
    rectifiers: int = 0
    rectifier_width: int = 96
    analysis: str = "patch"
    analysis_width: int = 80
    analysis_depth: int = 4

    def __post_init__(self) -> None:
        if problems := [*self._synthesis_problems(), *self._group_problems(), *self._rate_problems()]:
            raise ModelError("architecture: " + "; ".join(problems))

    def _synthesis_problems(self) -> Iterator[str]:
        smallest = {"two-layer": 8, "jpeg-like": 16}
        if self.synthesis not in SYNTHESES:
            yield f"synthesis must be one of {', '.join(SYNTHESES)}"
        elif self.kernel % 2 or not smallest[self.synthesis] <= self.kernel <= 2 * smallest[self.synthesis]:
            yield f"kernel {self.kernel} is not even or not once to twice the stride"
        if self.analysis not in ANALYSES:
            yield f"analysis must be one of {', '.join(ANALYSES)}"
        if self.synthesis == "jpeg-like" and self.residual:
            yield "a jpeg-like synthesis has no residual branch"
        if self.synthesis == "two-layer" and self.hidden_channels < COLOUR_PHASES:
            yield f"hidden_channels must be at least {COLOUR_PHASES}"
        if not 0 <= self.main_channels < self.latent_channels or (self.main_channels and not self.residual):
            yield "main_channels must be fewer than all, and 0 without a residual branch"
        if not 0 <= self.rectifiers <= MAX_RECTIFIERS or self.rectifier_width < 1:
            yield f"rectifiers must be 0 to {MAX_RECTIFIERS}, their width positive"

    def _group_problems(self) -> Iterator[str]:
        sizes = [b - a for a, b in itertools.pairwise(self.groups)]
        if not sizes or min(sizes) < 1 or self.groups[0] != 0 or self.groups[-1] != self.latent_channels:
            yield "groups must be rising bounds from 0 to latent_channels"
        elif len(self.phases) != len(sizes) or not set(self.phases) <= set(PHASES):
            yield "phases must be 1, 2 or 4 for every group"
        elif len(self.bands) != len(sizes) - 1 or any(w < 1 or n % w for n, w in zip(sizes, self.bands, strict=False)):
            yield "bands do not divide their groups"
        elif not 0 < self.context_groups < len(sizes):
            yield "context_groups must be at least one and leave a group"

    def _rate_problems(self) -> Iterator[str]:
        if not 2 <= self.anchors <= self.rate_points <= LARGEST_RATE_POINT + 1:
            yield f"rate_points must be at most {LARGEST_RATE_POINT + 1}, anchors 2 of them or more"
        if not 0 < self.lambda_min < self.lambda_max:
            yield "lambda_min must be positive and below lambda_max"
        if self.objective not in OBJECTIVES:
            yield f"objective must be one of {', '.join(OBJECTIVES)}"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        """The architecture that a configuration describes; unknown names raise `ModelError`."""
        known = {f.name for f in fields(cls)}
        if unknown := set(values) - known:
            raise ModelError(f"architecture: unknown entries {', '.join(sorted(unknown))}")
        return cls(**with_tuples(values))

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @property
    def group_count(self) -> int:
        return len(self.groups) - 1

    def group_of(self, channels: slice) -> int:
        """The number of a channel group."""
        return self.groups.index(channels.start)

    @property
    def margin(self) -> int:
        """Latent positions around a part of an image that its pixels depend on."""
        return 1 + RECTIFIER_REACH * self.rectifiers

    @property
    def synthesis_stride(self) -> int:
        return PIXELS_PER_LATENT if self.synthesis == "jpeg-like" else PIXELS_PER_LATENT // 2

    @property
    def linear_outputs(self) -> int:
        """Outputs of the first convolution that start as the lapped transform: pixels, residual branch, or all."""
        if self.synthesis == "jpeg-like":
            return 3
        return COLOUR_PHASES if self.residual else self.hidden_channels

    @property
    def main(self) -> int:
        """Latents that reach every output of the first transposed convolution; the rest reach the linear branch."""
        return self.main_channels or self.latent_channels

    def rate_lambda(self, rate_point: float) -> float:
        """Weight of the distortion (mean squared error on the 0..255 scale) against bits per pixel."""
        return float(self.lambda_min * (self.lambda_max / self.lambda_min) ** (rate_point / (self.rate_points - 1)))

    def rate_point_of(self, weight: float) -> int:
        """The rate point whose lambda is nearest to ``weight``, by their ratio."""
        return min(range(self.rate_points), key=lambda point: abs(math.log(self.rate_lambda(point) / weight)))

    @property
    def anchor_points(self) -> list[float]:
        """Rate points of the anchors; not all are whole numbers."""
        return [a * (self.rate_points - 1) / (self.anchors - 1) for a in range(self.anchors)]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps in the order of decoding. Groups of one phase are coded in two halves, to save memory."""
        steps = []
        for group, phases in enumerate(self.phases):
            channels = slice(self.groups[group], self.groups[group + 1])
            for phase, quads in enumerate(PHASES[max(2, phases)]):
                later = phase > 0 and phases > 1
                neighbours = ("cross" if quads[0] >= 2 else "diagonal") if later else ""
                network = (group, phase if phases > 1 else 0) if group < self.context_groups else None
                steps.append(Step(group, channels, quads, quads[0] if later else 0, neighbours, network))
        return tuple(steps)

    def bands_before(self, group: int) -> int:
        """Number of channel bands in the groups decoded before ``group``."""
        return sum((self.groups[g + 1] - self.groups[g]) // self.bands[g] for g in range(group))

    def feature_count(self, group: int) -> int:
        """Inputs of the network that predicts the CDF rows of ``group``, without its own magnitudes."""
        return self.hyper_channels + self.groups[group] + 9 * self.bands_before(group)

    @property
    def context_channels(self) -> int:
        """Channels that predict the means of what follows."""
        return self.groups[self.context_groups]

    def mean_reach(self, group: int) -> int:
        """Positions on every side that the means of a context group see."""
        return 1 if group else 2

    def mean_inputs(self, group: int, phase: int) -> int:
        """Inputs of the network that predicts the means of a context group in a phase."""
        known = self.groups[group + 1] if phase else self.groups[group]
        return self.hyper_channels + (2 * self.mean_reach(group) + 1) ** 2 * known

    def band_matrix(self) -> list[list[int]]:
        """0/1 matrix (channels before the last group, bands) that sums magnitudes over bands."""
        matrix = [[0] * self.bands_before(self.group_count - 1) for _ in range(self.groups[-2])]
        for g in range(self.group_count - 1):
            for c in range(self.groups[g], self.groups[g + 1]):
                matrix[c][self.bands_before(g) + (c - self.groups[g]) // self.bands[g]] = 1
        return matrix
