"""The numbers of SSIMULACRA 2 (Sneyers 2022; weights and formulas of libjxl and of the ``ssimulacra2`` package).

Six scales are compared in the XYB colour space by three maps: structural similarity without the luminance's
denominator, edges that the decoded image has too many, and detail that it has lost. The weighted sum of their means
and 4-norms, before the polynomial that makes a score of it, grows smoothly with distortion.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

SCALES, SMALLEST = 6, 8
C2 = 0.0009
KNEE, SLOPE, OFFSET, EXPONENT = 0.04045, 12.92, 0.055, 2.4
"""sRGB to linear light: up to the knee ``x / SLOPE``, above it ``((x + OFFSET) / (1 + OFFSET)) ** EXPONENT``."""
BLUR_SIGMA, BLUR_REACH = 1.5, 5
OPSIN = (
    (0.30, 0.622, 0.078),
    (0.23, 0.692, 0.078),
    (0.24342268924547819, 0.20476744424496821, 0.5518098665095536),
)
OPSIN_BIAS = 0.0037930732552754493
RED_GREEN = 7
"""By which the difference of the first two cube roots is scaled, to be X."""
POSITIVE = (0.42, 0.01, 0.55)
"""Added to X, Y and B."""
SUM_SCALE = 0.9562382616834844
SCORE = (2.326765642916932, -0.020884521182843837, 6.248496625763138e-05)
SCORE_POWER = 0.6276336467831387
TINY = 1e-24
"""Added under roots, whose slope at zero is infinite."""

WEIGHTS = (  # by colour (X, Y, B), scale, norm (mean, 4-norm), map (similarity, artefacts, lost detail)
    0.0,
    0.0007376606707406586,
    0.0,
    0.0,
    0.0007793481682867309,
    0.0,
    0.0,
    0.0004371155730107379,
    0.0,
    1.1041726426657346,
    0.00066284834129271,
    0.00015231632783718752,
    0.0,
    0.0016406437456599754,
    0.0,
    1.8422455520539298,
    11.441172603757666,
    0.0,
    0.0007989109436015163,
    0.000176816438078653,
    0.0,
    1.8787594979546387,
    10.94906990605142,
    0.0,
    0.0007289346991508072,
    0.9677937080626833,
    0.0,
    0.00014003424285435884,
    0.9981766977854967,
    0.00031949755934435053,
    0.0004550992113792063,
    0.0,
    0.0,
    0.0013648766163243398,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0,
    7.466890328078848,
    0.0,
    17.445833984131262,
    0.0006235601634041466,
    0.0,
    0.0,
    6.683678146179332,
    0.00037724407979611296,
    1.027889937768264,
    225.20515300849274,
    0.0,
    0.0,
    19.213238186143016,
    0.0011401524586618361,
    0.001237755635509985,
    176.39317598450694,
    0.0,
    0.0,
    24.43300999870476,
    0.28520802612117757,
    0.0004485436923833408,
    0.0,
    0.0,
    0.0,
    34.77906344483772,
    44.835625328877896,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0008680556573291698,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0005313191874358747,
    0.0,
    0.00016533814161379112,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0,
    0.0004179171803251336,
    0.0017290828234722833,
    0.0,
    0.0020827005846636437,
    0.0,
    0.0,
    8.826982764996862,
    23.19243343998926,
    0.0,
    95.1080498811086,
    0.9863978034400682,
    0.9834382792465353,
    0.0012286405048278493,
    171.2667255897307,
    0.9807858872435379,
    0.0,
    0.0,
    0.0,
    0.0005130064588990679,
    0.0,
    0.00010854057858411537,
)
VISUAL_SHARE = 0.8
"""Share of the visual part in the visual distortion that models are trained for; the rest is the squared error."""
ENCODING_SHARE = 0.5
"""That share where one image is optimised, by iterating or by fitting a decoder to it: such an optimisation takes from
Butteraugli, LPIPS and PSNR what SSIMULACRA 2 does not see, and trained networks cannot (docs/visual.md)."""
MIDDLE_WEIGHT = 12.0
"""Of the squared error of luma of middle frequencies, where one image is optimised (docs/visual.md)."""
MSE_PER_RAW = 10.0
"""Squared error (0..255 scale) that a weighted sum of 1 stands for: their ratio in the middle of the rates on
nicc's own reconstructions, docs/visual.md."""


def visual_distortion(mse: Any, raw: Any, share: float = VISUAL_SHARE) -> Any:
    """What the objective ``visual`` puts in the place of the squared error ``mse``, on its scale.

    ``raw`` is the weighted sum of the same images, numbers or tensors, ``share`` that of the visual part.
    """
    return (1 - share) * mse + share * MSE_PER_RAW * raw


def encoding_distortion(mse: Any, middle: Any, raw: Any) -> Any:
    """The visual distortion where one image is optimised: `ENCODING_SHARE`, and luma weighed by frequency.

    ``middle`` is the squared error of luma, 0..255, of middle frequencies: the mean of Bl (l - Bl), where l is the
    error of luma and B the blur of SSIMULACRA 2. Its weight by frequency is at most a fourth, at an eighth of a cycle
    per pixel, and zero for the mean and for the finest.
    """
    return visual_distortion(mse + MIDDLE_WEIGHT * middle, raw, ENCODING_SHARE)


def above_knee(x: Any) -> Any:
    """sRGB above `KNEE` to linear light, an array or a tensor."""
    return ((x + OFFSET) / (1 + OFFSET)) ** EXPONENT


def opponent(red: Any, green: Any, blue: Any) -> tuple[Any, Any, Any]:
    """X, Y and B, scaled and moved to positive values, of cube roots (arrays or tensors) less that of `OPSIN_BIAS`."""
    luma = (red + green) / 2
    x_to, y_to, b_to = POSITIVE
    return (red - green) * RED_GREEN + x_to, luma + y_to, blue - luma + b_to


def differences(x: Any, y: Any, blurred: tuple[Any, Any, Any, Any, Any]) -> tuple[Any, Any]:
    """Lost similarity, and artefacts or, where negative, lost detail, of a plane ``x`` and its decoded form ``y``.

    ``blurred`` are the planes' blurs, those of their squares, and that of their product (arrays or tensors).
    """
    mean_x, mean_y, xx, yy, xy = blurred
    similar = 1 - (mean_x - mean_y) ** 2
    structure = (2 * (xy - mean_x * mean_y) + C2) / ((xx - mean_x**2) + (yy - mean_y**2) + C2)
    return 1 - similar * structure, (1 + abs(y - mean_y)) / (1 + abs(x - mean_x)) - 1


def score(raw: Any) -> Any:
    """SSIMULACRA 2 of a weighted sum, a number or a tensor: 100 for 0, 70 high quality, below 0 very low."""
    p = raw * (SCORE[0] + raw * (SCORE[1] + raw * SCORE[2]))
    return 100 - 10 * abs(p) ** SCORE_POWER


def scales_of(height: int, width: int) -> int:
    """How many scales an image is compared at: those of 8 pixels a side or more."""
    return sum(math.ceil(min(height, width) / 2**scale) >= SMALLEST for scale in range(SCALES))


def weights_of(scales: int) -> np.ndarray:
    """``(3 colours, scales, 2 norms, 3 maps)``, float64: small images take the list of weights without gaps."""
    return np.array(WEIGHTS).reshape(-1, 2, 3)[: 3 * scales].reshape(3, scales, 2, 3)


def blur_taps() -> np.ndarray:
    """The Gaussian of 11 taps, float64."""
    taps = np.exp(-(np.arange(-BLUR_REACH, BLUR_REACH + 1) ** 2) / (2 * BLUR_SIGMA**2))
    blurred: np.ndarray = taps / taps.sum()
    return blurred
