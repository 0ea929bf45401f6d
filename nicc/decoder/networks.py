"""The receiver's networks, each described once and run by NumPy or by PyTorch.

Every function takes ``ops``, a namespace of array operations (`nicc.decoder.ops` for NumPy,
`nicc.encoder.ops` for PyTorch), and ``p``, a mapping from names to arrays. Arrays are laid out
channels last, ``(..., height, width, channels)``, in both; leading axes, if any, are a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicc.architecture import (
    ADAPTATION_LIMIT,
    COLOUR_PHASES,
    PIXELS_PER_LATENT,
    RECTIFIER_REACH,
    Architecture,
)

Array = Any
Params = Mapping[str, Array]


def synthesis(ops: Any, arch: Architecture, p: Params, y: Array, margin: int = 0) -> Array:
    """Pixels of the latents ``y``, and ``margin`` more, an even number up to 8, on every side.

    ``y`` has shape ``(..., h + 2, w + 2, C)``: the latents to render with a margin of one
    position on every side (neighbours, or `mirror` at the border of the image). The model's
    last channels may be left out; they are zero then. The result has shape
    ``(..., 16 h + 2 margin, 16 w + 2 margin, 3)``, RGB around 0..1, not clipped.
    """
    if arch.synthesis == "jpeg-like":
        return _jpeg_like(ops, arch, p, y, margin)
    return from_hidden(ops, arch, p, hidden_layer(ops, arch, p, y, margin))


def first_kernels(arch: Architecture, p: Params, channels: int) -> list[Array]:
    """Kernels of the first transposed convolution for so many latents, as ``ops.transposed_conv`` takes them."""
    kernels = [p["synthesis_in"][:channels]]
    if channels > arch.main:
        kernels.append(p["synthesis_more"][: channels - arch.main])
    return kernels


def _jpeg_like(ops: Any, arch: Architecture, p: Params, y: Array, margin: int) -> Array:
    """One transposed convolution (Yang & Mandt 2023, section 3.2, "JPEG-like")."""
    kernels = first_kernels(arch, p, y.shape[-1])
    return ops.transposed_conv(y, kernels, PIXELS_PER_LATENT, margin) + p["synthesis_bias"]


def hidden_layer(ops: Any, arch: Architecture, p: Params, y: Array, margin: int = 0) -> Array:
    """The first transposed convolution of two-layer, of what `synthesis` has: ``(..., 8 h + 2 + margin, ..., D)``.

    Yang & Mandt 2023, section 3.2, "two-layer": transposed convolution, inverse GDN-1 beside a linear residual
    branch, transposed convolution; kernels 14 and 6 stand for 13 and 5, so that the
    sampling grids of pixels, hidden layer and latents stay centred on each other.
    """
    return ops.transposed_conv(y, first_kernels(arch, p, y.shape[-1]), PIXELS_PER_LATENT // 2, 1 + margin // 2)


def from_hidden(ops: Any, arch: Architecture, p: Params, hidden: Array) -> Array:
    """Pixels of a `hidden_layer`."""
    n = arch.hidden_channels
    x = ops.igdn(hidden[..., :n], p["igdn_beta"], p["igdn_gamma"])
    if arch.residual:
        x[..., :COLOUR_PHASES] += hidden[..., n:]
    return ops.subpixel_conv(x, p["synthesis_out"], p["synthesis_bias"])


def rectify(ops: Any, arch: Any, p: Params, y: Array, bias: Any, step: Array) -> Array:
    """Latents nearer to what they were before quantisation (Luo & Chen 2024, section 3.2).

    ``arch`` says how many rectifiers of which ``rectifier_width`` there are. ``y`` has a margin of
    `RECTIFIER_REACH` positions for each of the ``rectifiers``, which the result lacks.
    ``bias`` ``(..., rectifiers * 3 * width)`` and ``step`` ``(..., C)``, the quantisation step of
    each channel, belong to the rate point. Without rectifiers, ``y`` itself.
    """
    width = arch.rectifier_width
    for i in range(arch.rectifiers):
        b = [bias[..., n * width : (n + 1) * width] for n in range(3 * i, 3 * i + 3)]
        y = _rectifier(ops, {k: p[f"rectifier{i}_{k}"] for k in ("in", "first", "second", "gate", "out")}, y, b, step)
    return y


def _rectifier(ops: Any, p: Params, y: Array, bias: list[Array], step: Array) -> Array:
    """Two residual 3x3 layers in a bottleneck, gated by attention; corrections in quantisation steps."""
    a = ops.dense(y, p["in"]) + bias[0]
    a = inside(a, 1) + ops.conv3(ops.relu(a), p["first"])
    a = inside(a, 1) + ops.conv3(ops.relu(a), p["second"]) + bias[1]
    a = ops.relu(a)
    a = a * ops.sigmoid(ops.dense(a, p["gate"]) + bias[2])
    return inside(y, RECTIFIER_REACH) + ops.dense(a, p["out"]) * step


def inside(y: Array, margin: int) -> Array:
    """``(..., h + 2 margin, w + 2 margin, C)`` without its margin."""
    return y[..., margin:-margin, margin:-margin, :] if margin else y


def mirror(ops: Any, p: Params, y: Array, margin: int, top: bool = True, bottom: bool = True) -> Array:
    """``(..., h, w, C)`` latents with ``margin`` positions more on every side, mirrored at the border.

    ``top`` and ``bottom`` say whether these sides are a border of the image; where not, no row is
    added. Basis functions are even or odd under a flip, so the latents of the mirrored image are
    those of the image, with the sign of each channel's parity.
    """
    h, w = y.shape[-3:-1]
    parity = p["parity"][:, : y.shape[-1]]

    def column(j: int) -> Array:
        at, flipped = _mirrored(j, w)
        return y[..., at : at + 1, :] * (parity[0] if flipped else 1)

    y = ops.concat([*map(column, range(-margin, 0)), y, *map(column, range(w, w + margin))], -2)

    def row(i: int) -> Array:
        at, flipped = _mirrored(i, h)
        return y[..., at : at + 1, :, :] * (parity[1] if flipped else 1)

    above = map(row, range(-margin, 0)) if top else ()
    below = map(row, range(h, h + margin)) if bottom else ()
    return ops.concat([*above, y, *below], -3) if top or bottom else y


def _mirrored(i: int, n: int) -> tuple[int, bool]:
    """Which of ``n`` positions, repeated to and fro, is at ``i``, and whether it lies there flipped."""
    i %= 2 * n
    return (i, False) if i < n else (2 * n - 1 - i, True)


# --- means of the latents: floating point, never seen by the entropy coder ------------------------


def mean_from_hyper(p: Params, z: Array, channels: slice = slice(None)) -> Array:
    """Means of the latents' ``channels`` from the upsampled hyper-latents, in units of each channel's deviation."""
    return z @ p["mean_z"][:, channels]


def mean_context(ops: Any, p: Params, step: tuple[int, int], features: Array) -> Array:
    """What is added to the means of one step, (context group, phase): a linear map beside one hidden layer.

    ``features`` ``(..., Architecture.mean_inputs)`` are the upsampled hyper-latents, then the surroundings
    of the position in ``d``, the difference between decoded latents and `mean_from_hyper`, zero
    where nothing is decoded yet: of all earlier groups and, but in the first phase, the group itself.
    """
    name = f"mean{step[0]}_{step[1]}"
    x = features @ p[f"{name}_in"]
    channels = p[f"{name}_out"].shape[-1]
    return x[..., :channels] + ops.relu(x[..., channels:] + p[f"{name}_bias"]) @ p[f"{name}_out"]


def later_hidden(ops: Any, p: Params, d: Array) -> Array:
    """Hidden units, ``(..., h, w, mean_hidden)``, by which the context groups ``d`` shape all others.

    Times ``mean_later_out``, they are added to the means; times ``gain_later``, to the logarithm of
    the gain (`adaptation`).
    """
    return ops.relu(ops.dense(ops.window(d), p["mean_later_in"]) + p["mean_later_bias"])


def adaptation(ops: Any, p: Params, z: Array, hidden: Array | None, channels: slice) -> Array:
    """Factors of the gain of ``channels`` at every position: finer steps where errors show.

    Adaptive quantisation without side information: a linear map of the upsampled hyper-latents and,
    for the groups after the context groups, of `later_hidden`, whose channels begin where the
    context ends. Symbols are rounded after it, so it never touches the entropy coder.
    """
    x = z @ p["gain_z"][:, channels]
    if hidden is not None:
        first = p["gain_z"].shape[-1] - p["gain_later"].shape[-1]
        x = x + hidden @ p["gain_later"][:, channels.start - first : channels.stop - first]
    return ops.exp_within(x, ADAPTATION_LIMIT)


# --- rows of the CDF table: integers, identical on every machine ----------------------------------


def row_features(ops: Any, arch: Architecture, p: Params, group: int, z: Array, m: Array) -> Array:
    """What a channel group's rows owe to everything decoded before the group, ``(..., h, w, G + H)``.

    Linear in the upsampled hyper-latents, the magnitudes ``m`` of all earlier groups at the
    position, and sums of these magnitudes over bands of channels in a 3x3 window. G columns for
    the rows of the group's channels, H for the hidden layer of `rows`.
    """
    first = arch.groups[group]
    if first == 0:
        return ops.dense(z, p["row0_in"])
    known = m[..., :first]
    bands = ops.dense(known, p["bands"][:first, : arch.bands_before(group)])
    return ops.dense(ops.concat([z, known, ops.window(bands)], -1), p[f"row{group}_in"])


def rows(ops: Any, p: Params, group: int, features: Array, own: Array | None, bias: Array, hidden_bias: Array) -> Array:
    """CDF rows of one group, before rounding: a linear map beside one hidden layer.

    ``features`` are those of `row_features`. ``own`` holds the sums of the group's own magnitudes
    over the four nearest decoded neighbours or is None (first phase). With the integer arrays
    of a shipped model, the result is an integer in units of ``2**-ROW_BITS`` rows; with a model in
    training, a row number.
    """
    if own is not None:
        features = features + own @ p[f"row{group}_own"]
    channels = bias.shape[-1]
    hidden = ops.row_hidden(features[..., channels:] + hidden_bias)
    return features[..., :channels] + bias + hidden @ p[f"row{group}_out"]
