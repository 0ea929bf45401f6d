"""A model starts from another: same shapes, or more channels, rates, hidden units, a larger analysis.

What is new starts silent: the grown model computes what the smaller one did, and new channels of
latents are those of the lapped KLT that come next.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nicc.architecture import CDF_ROWS, LOG_ROW_STEP, SIGMA_MIN, Architecture
from nicc.encoder.analysis import LINEAR_KERNEL
from nicc.encoder.latent_code import row_likelihood, upsample
from nicc.errors import ModelError
from nicc.training.codec import CodecModule
from nicc.training.data import Photos
from nicc.training.klt import lapped_klt
from nicc.training.objective import RateDistortion
from nicc.training.start import centred, klt_gains, linear_part, pixel_phases

BODY, OUT = "codec.analysis.body.", "codec.analysis.out"
SYNTHESIS = {"synthesis", "kernel", "hidden_channels", "residual"}
RECTIFIERS = {"rectifiers", "rectifier_width"}
ANALYSIS = {"analysis", "analysis_depth", "analysis_width"}
RATES = {"rate_points", "anchors", "lambda_min", "lambda_max"}
CHANNELS = {"latent_channels", "groups", "phases", "bands", "main_channels", "hidden_channels", "adaptive"}
ROW_SHIFTS = tuple(range(-24, 5, 2))
GAIN_SAMPLE = 64
"""Old channels whose gains say how far training has moved gains from those of the squared error."""


@torch.no_grad()
def start_from(
    model: RateDistortion, state: dict[str, Tensor], old: Architecture, photos: Photos, overlap: int
) -> None:
    """Takes over the weights ``state`` of a model of architecture ``old``.

    The objective may differ; what is larger starts silent: rectifiers, a deeper or wider ``patch``
    analysis, the network of another analysis beside the linear transform, further rates, channels
    and hidden units of a two-layer synthesis, adaptive steps. A jpeg-like synthesis may start from a
    two-layer one: its kernel becomes the linear part of the two layers. ``photos`` and ``overlap``
    give new channels their basis functions. Raises `ModelError` if the architectures cannot be matched.
    """
    new = model.codec.arch
    differing = _matched(old, new)
    if "analysis" in differing:
        state = {k: v for k, v in state.items() if not k.startswith((BODY, OUT))}
    elif differing & ANALYSIS:
        state = state | _larger_analysis(model.state_dict(), state, old.analysis_depth, new.analysis_depth)
    if differing & RATES:
        state = state | _further_rates(state, old, new)
    jpeg_like = new.synthesis != old.synthesis
    if differing & CHANNELS and not jpeg_like:
        state = state | _more_channels(model, state, old, photos, overlap)
    known = model.state_dict()
    own = {k: v for k, v in state.items() if k in known and v.shape == known[k].shape}
    if jpeg_like:
        _linear_synthesis(model.codec, state, old)
        own = {k: v for k, v in own.items() if "synthesis" not in k}
    model.load_state_dict(own, strict=False)
    if new.latent_channels > old.latent_channels:
        _fit_new_rows(model.codec, old, photos)


def _matched(old: Architecture, new: Architecture) -> set[str]:
    """Names of the fields that differ. Raises `ModelError` unless ``new`` can hold what ``old`` computes."""
    differing = {k for k, v in new.to_dict().items() if old.to_dict()[k] != v} - {"objective"}
    allowed = RECTIFIERS | RATES
    if differing & RECTIFIERS and old.rectifiers:
        raise ModelError("cannot start from a model with other rectifiers")
    if "analysis" in differing:
        allowed |= ANALYSIS
    elif new.analysis == "patch":
        allowed |= ANALYSIS
        if new.analysis_width < old.analysis_width or new.analysis_depth < old.analysis_depth:
            raise ModelError("cannot start from a model with a larger analysis")
    if new.synthesis == "jpeg-like" and old.synthesis == "two-layer":
        allowed |= SYNTHESIS
    else:
        allowed |= CHANNELS
    if differing - allowed:
        raise ModelError(f"cannot start from a model that differs in {', '.join(sorted(differing - allowed))}")
    count = old.group_count  # new channels come behind the old ones, so that everything known keeps its place
    prefix = (new.groups[: count + 1], new.phases[:count], new.bands[: count - 1])
    if (
        new.synthesis == old.synthesis
        and differing & CHANNELS
        and (
            prefix != (old.groups, old.phases, old.bands)
            or new.hidden_channels < old.hidden_channels
            or old.main < new.main < new.latent_channels
            or (old.adaptive and not new.adaptive)
        )
    ):
        raise ModelError("cannot start from a model whose channels are not the first ones of this one's")
    return differing


def _linear_synthesis(codec: CodecModule, state: dict[str, Tensor], old: Architecture) -> None:
    """A jpeg-like synthesis from the linear part of a two-layer one."""
    other = CodecModule(old)
    other.load_state_dict({k.removeprefix("codec."): v for k, v in state.items() if k.startswith("codec.")})
    kernel, size = linear_part(other), codec.arch.kernel
    keep = (2 * old.kernel + 4 - size) // 2
    codec.p["synthesis_linear"].copy_(kernel[:, keep : keep + size, keep : keep + size])
    codec.p["synthesis_bias"].copy_(other.p["synthesis_bias"])


def _larger_analysis(
    known: dict[str, Tensor], state: dict[str, Tensor], depth: int, new_depth: int
) -> dict[str, Tensor]:
    """Arrays of a larger ``patch`` analysis, shaped like those ``known``, that computes what ``state``'s does.

    New channels have random weights and reach none of the old ones; new blocks add nothing.
    """
    grown = {}
    for name in (k for k in known if k.startswith(BODY)):
        layer, rest = name.removeprefix(BODY).split(".", 1)
        value = known[name].clone()
        if depth < int(layer) <= new_depth:
            if rest.startswith("second"):
                value.zero_()
        else:
            old = state[f"{BODY}{int(layer) if int(layer) <= depth else depth + 1}.{rest}"]
            if old.dim() > 1:
                value[: len(old), old.shape[1] :] = 0
                value[: len(old), : old.shape[1]] = old
            else:
                value[: len(old)] = old
        grown[name] = value
    return grown


def _further_rates(state: dict[str, Tensor], old: Architecture, new: Architecture) -> dict[str, Tensor]:
    """Anchor tables of other rates, interpolated over log lambda; beyond the old ones gains follow theory.

    There the gain grows with the square root of lambda, and rows with the gain.
    """
    weights = [np.log([a.rate_lambda(point) for point in a.anchor_points]) for a in (old, new)]
    inside = np.clip(weights[1], weights[0][0], weights[0][-1])
    at = torch.tensor(np.interp(inside, weights[0], np.arange(old.anchors)), dtype=torch.float32)
    beyond = torch.tensor(weights[1] - inside, dtype=torch.float32)[:, None] / 2
    low = at.floor().long().clamp_max(old.anchors - 2)
    share = (at - low)[:, None]
    grown = {}
    tables = ("log_gain", "log_inverse", "log_hyper_gain", "row_bias", "hidden_bias", "rectifier_bias", "rounding")
    for leaf in tables:
        if (table := state.get(f"codec.{leaf}")) is not None:
            grown[f"codec.{leaf}"] = table[low] * (1 - share) + table[low + 1] * share
    grown["codec.log_gain"] += beyond
    grown["codec.row_bias"] += beyond / LOG_ROW_STEP
    return grown


def _more_channels(
    model: RateDistortion, state: dict[str, Tensor], old: Architecture, photos: Photos, overlap: int
) -> dict[str, Tensor]:
    """Arrays with the channels and hidden units that ``model`` has more; ``state``'s rates are already its own."""
    new, known = model.codec.arch, model.state_dict()
    c_old, c = old.latent_channels, new.latent_channels
    klt = lapped_klt(photos, c, overlap)
    first = {  # what new channels, which are the last, begin as
        "analysis.linear.weight": centred(klt.analysis, LINEAR_KERNEL)[c_old:],
        "deviation": torch.tensor(klt.deviation, dtype=torch.float32)[c_old:],
    }
    grown: dict[str, Tensor] = {}
    for name, value in known.items():
        leaf, mine = name.removeprefix("codec."), state.get(name)
        if mine is None or mine.shape == value.shape or "synthesis" in leaf or "igdn" in leaf:
            continue
        if leaf == "bands":
            continue  # of the architecture
        if leaf in first:
            grown[name] = torch.cat([mine, first[leaf]])
        elif leaf == "parity":
            grown[name] = torch.cat([mine, torch.tensor(klt.parity, dtype=torch.float32)[:, c_old:]], 1)
        elif leaf == "rounding":
            grown[name] = F.pad(mine, (0, c - c_old), value=1.0)
        elif leaf.startswith("hyper_analysis"):  # sees latents, then their logarithms
            axis = mine.shape.index(2 * c_old)
            halves = mine.split(c_old, axis)
            shape = [c - c_old if i == axis else n for i, n in enumerate(mine.shape)]
            grown[name] = torch.cat([halves[0], torch.zeros(shape), halves[1], torch.zeros(shape)], axis)
        else:  # new rows, or columns, as they are before training; silent
            place = tuple(slice(0, n) for n in mine.shape)
            filled = value.clone() if leaf.startswith("analysis.body") else torch.zeros_like(value)
            filled[place] = mine
            grown[name] = filled
    formula = klt_gains(new, torch.tensor((klt.synthesis**2).sum((1, 2, 3)) ** 0.5, dtype=torch.float32))
    gains = state["codec.log_gain"]
    moved = (gains - formula[:, :c_old])[:, -GAIN_SAMPLE:].mean(1, keepdim=True)
    grown["codec.log_gain"] = torch.cat([gains, formula[:, c_old:] + moved], 1)
    inverse = state["codec.log_inverse"]
    grown["codec.log_inverse"] = torch.cat([inverse, torch.zeros(len(inverse), c - c_old)], 1)
    return grown | _more_synthesis(model.codec, state, old, centred(klt.synthesis, 2 * new.kernel)[c_old:])


def _more_synthesis(
    codec: CodecModule, state: dict[str, Tensor], old: Architecture, basis: Tensor
) -> dict[str, Tensor]:
    """Both layers of a synthesis with more latents or hidden channels; these add nothing yet."""
    new, n, more = codec.arch, codec.arch.hidden_channels, codec.arch.hidden_channels - old.hidden_channels
    prefix = "codec.p."
    parts = [state[f"{prefix}synthesis_linear"]]
    if f"{prefix}synthesis_more" in state:
        parts.append(state[f"{prefix}synthesis_more"])
    linear = torch.cat([*parts, pixel_phases(basis)])
    main = state[f"{prefix}synthesis_main"][: new.main]
    main = F.pad(main, (0, 0, 0, 0, 0, 0, 0, new.main - len(main)))
    main = torch.cat([main, torch.randn(*main.shape[:-1], more) * main.std()], -1)
    out = state[f"{prefix}synthesis_out"]
    grown = {
        "synthesis_linear": linear[: new.main],
        "synthesis_main": main,
        "igdn_beta": F.pad(state[f"{prefix}igdn_beta"], (0, more)),
        "igdn_gamma": F.pad(state[f"{prefix}igdn_gamma"], (0, more, 0, more)),
        # the new units are zero while beta and gamma are, and gamma sees what they would do
        "synthesis_out": torch.cat([out, torch.randn(3, 3, n - old.hidden_channels, out.shape[-1]) * 0.05], 2),
    }
    if new.main < new.latent_channels:
        grown["synthesis_more"] = linear[new.main :]
    return {prefix + name: value for name, value in grown.items()}


def _fit_new_rows(codec: CodecModule, old: Architecture, photos: Photos) -> None:
    """CDF rows of new channels from the hyper-latents, by least squares on crops of ``photos``."""
    arch, c = codec.arch, old.latent_channels
    x = torch.tensor(photos.crops(np.random.default_rng(3), 32, 256)).permute(0, 3, 1, 2) / 255
    y = torch.cat([codec.analysis(part) for part in x.split(8)])
    z = upsample(codec.hyper(y), *y.shape[1:3]).reshape(-1, arch.hyper_channels)
    y = y.reshape(-1, arch.latent_channels)[:, c:]
    size = torch.log(y.abs() + 0.05 * codec.deviation[c:])
    inputs = torch.cat([z, torch.ones(len(z), 1)], 1)
    slopes = torch.linalg.lstsq(inputs, size).solution[:-1]
    rows = z @ slopes / LOG_ROW_STEP
    log_sigma = torch.log((y / torch.exp(z @ slopes)).square().mean(0)) / 2
    bias = (log_sigma + codec.log_gain[:, c:] - np.log(SIGMA_MIN)) / LOG_ROW_STEP
    for anchor in range(arch.anchors):  # outliers raise the deviation: take the rows that cost least
        symbols = (y * codec.log_gain[anchor, c:].exp()).round()
        costs = [
            -torch.log2(row_likelihood(symbols, (rows + bias[anchor] + shift).clamp(0, CDF_ROWS - 1)))
            for shift in ROW_SHIFTS
        ]
        best = torch.stack([cost.mean(0) for cost in costs]).argmin(0)
        codec.row_bias[anchor, c:] = bias[anchor] + torch.tensor(ROW_SHIFTS)[best]
    for group in range(old.group_count, arch.group_count):
        first, last = arch.groups[group], arch.groups[group + 1]
        codec.p[f"row{group}_in"][: arch.hyper_channels, : last - first] = (
            slopes[:, first - c : last - c] / LOG_ROW_STEP
        )
