"""From a checkpoint to a shipped model: integers, tables, half precision, a model card."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nicc.architecture import (
    CDF_ROWS,
    GROUP_TABLE_ROWS,
    HYPER_UNIT,
    SIGMA_MAX,
    SIGMA_MIN,
    Architecture,
)
from nicc.arrays import check_exactness, integer_unit, receiver_arrays
from nicc.decoder.hyper import dequantise_z
from nicc.decoder.latents import Visited, walk
from nicc.encoder.latent_code import TAIL_WEIGHT, TAIL_WIDTH
from nicc.encoder.quantise import Quantiser, quantise_z
from nicc.encoder.torch_transform import encoder_state
from nicc.encoder.transform import SCALE_SUFFIX
from nicc.errors import ModelError
from nicc.images import write_atomically
from nicc.model import REALISM_FILE, Model, digest, read_head
from nicc.training.card import model_card
from nicc.training.codec import CodecModule, at_rate
from nicc.training.config import RealismGains
from nicc.training.data import SUFFIXES, Photos
from nicc.training.folder import earlier_versions, training_facts, write_parts
from nicc.training.hyper_tables import hyper_tables, no_tables
from nicc.training.objective import RateDistortion
from nicc.training.realism_gains import realism_rows
from nicc.training.weighting import spectra

ROW_SPREADS = 6.0
"""Deviations that a row's table covers before the escape."""
REFIT_CROPS, REFIT_SIZE, REFIT_ROUNDS = 202, 256, 2
HYPER_CROPS, HYPER_SIZE = 200, 512
PSEUDO_COUNT = 1000.0
"""Weight of the parametric distribution against counted symbols when a row is refitted."""
GROUP_COUNT = 300.0
"""Weight of a row's distribution in all groups of channels against symbols that are counted in one."""


def quantised_frequencies(pmf: np.ndarray) -> np.ndarray:
    """Integer frequencies, at least 1 each, summing to 2**16, by CompressAI's CDF quantiser."""
    from compressai._CXX import pmf_to_quantized_cdf

    cdf = pmf_to_quantized_cdf((pmf / pmf.sum()).tolist(), 16)
    return np.diff(np.array(cdf, np.int64)).astype(np.uint16)


def row_pmfs() -> list[np.ndarray]:
    """Probabilities of -m..m, then of the escape, for every CDF row but 0."""
    pmfs = [np.zeros(0)]
    for row in range(1, CDF_ROWS):
        sigma = SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** (row / (CDF_ROWS - 1))
        m = math.ceil(ROW_SPREADS * sigma) + 2
        edges = (np.arange(-m, m + 2) - 0.5) / sigma
        gauss = np.array([math.erf(e / math.sqrt(2)) for e in edges]) / 2
        tail = np.tanh(edges / TAIL_WIDTH / 2) / 2
        cdf = (1 - TAIL_WEIGHT) * gauss + TAIL_WEIGHT * tail
        inside = np.maximum(np.diff(cdf), 1e-9)
        pmfs.append(np.append(inside, max(1 - inside.sum(), 1e-5)))
    return pmfs


def _row_tables(pmfs: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {"y_frequencies": _frequencies(pmfs), "y_sizes": np.array([len(p) for p in pmfs], np.uint16)}


def _group_tables(groups: list[list[np.ndarray]]) -> dict[str, np.ndarray]:
    return {"y_group_frequencies": np.stack([_frequencies(pmfs[:GROUP_TABLE_ROWS]) for pmfs in groups])}


def _frequencies(pmfs: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([quantised_frequencies(p) if len(p) else p.astype(np.uint16) for p in pmfs])


@torch.no_grad()
def _z_steps(codec: CodecModule) -> np.ndarray:
    arch = codec.arch
    steps = torch.stack(
        [at_rate(arch, codec.log_hyper_gain, torch.tensor([float(r)])) for r in range(arch.rate_points)]
    )
    steps = (HYPER_UNIT / steps.reshape(arch.rate_points, -1).exp()).round().clamp(1, 65535)
    return steps.numpy().astype(np.uint16)


@torch.no_grad()
def decoder_arrays(codec: CodecModule) -> dict[str, np.ndarray]:
    """The receiver's arrays, tables not yet refitted."""
    arch = codec.arch
    points = [torch.tensor([float(r)]) for r in range(arch.rate_points)]

    def table(t: torch.Tensor) -> np.ndarray:
        return torch.cat([at_rate(arch, t, r)[:, 0, 0] for r in points]).numpy().astype(np.float64)

    def integers(values: torch.Tensor, name: str) -> np.ndarray:
        kind = np.iinfo(specs[name].kind)
        scaled = np.rint(values.numpy().astype(np.float64) / integer_unit(arch, name))
        if np.abs(scaled).max(initial=0) > kind.max:
            raise ModelError(f"a weight of the CDF rows is too large for {kind.dtype.name}")
        return scaled.astype(kind.dtype)

    specs = receiver_arrays(arch)
    arrays: dict[str, np.ndarray] = {}
    for name, value in codec.params().items():
        if name in ("parity", "bands"):
            continue
        arrays[name] = integers(value, name) if name.startswith("row") else value.numpy().astype(specs[name].kind)
    gain = table(codec.log_gain)
    arrays |= {
        "parity": codec.parity.numpy().astype(np.int8),
        "deviation": codec.deviation.numpy(),
        "recon_offset": codec.recon_offset.numpy(),
        "gain": np.exp(gain).astype(np.float32),
        "inverse": np.exp(table(codec.log_inverse) - gain).astype(np.float32),
        "row_bias": integers(torch.from_numpy(table(codec.row_bias)), "row_bias"),
        "row_phase": integers(codec.row_phase, "row_phase"),
        "row_hidden_bias": integers(torch.from_numpy(table(codec.hidden_bias)), "row_hidden_bias"),
        "row_hidden_phase": integers(codec.hidden_phase, "row_hidden_phase"),
    }
    if arch.rectifiers:
        arrays["rectifier_bias"] = table(codec.rectifier_bias).astype(np.float16)
    check_exactness(arrays, arch)
    pmfs = row_pmfs()
    return (
        arrays
        | {"z_steps": _z_steps(codec)}
        | no_tables(arch)
        | _row_tables(pmfs)
        | _group_tables([pmfs] * arch.group_count)
    )


@torch.no_grad()
def encoder_arrays(codec: CodecModule) -> dict[str, np.ndarray]:
    """The sender's arrays: half precision, and 8-bit integers with a scale per output for networks."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in codec.state_dict().items():
        if not name.startswith(("analysis.", "hyper_analysis.", "hyper_offset", "rounding")):
            continue
        a = value.numpy()
        if a.ndim < 2 or name == "rounding":
            arrays[name] = a.astype(np.float32)
        elif name.endswith(("linear.weight", "pooled")):
            arrays[name] = a.astype(np.float16)
        else:
            scale = np.abs(a).reshape(len(a), -1).max(1) / 127 + 1e-12
            arrays[name] = np.rint(a / scale.reshape(-1, *[1] * (a.ndim - 1))).astype(np.int8)
            arrays[name + SCALE_SUFFIX] = scale.astype(np.float32)
    return arrays


class _Counter:
    """Codes crops and counts symbols by channel group and CDF row."""

    def __init__(self, model: Model, rounding: Tensor) -> None:
        self.model, self.rounding = model, rounding
        sizes = model.arrays["y_sizes"].tolist()
        self.groups = [[np.zeros(n) for n in sizes] for _ in range(model.architecture.group_count)]

    def code(self, y: np.ndarray, z: np.ndarray, rate_point: int) -> None:
        """Codes latents ``(h, w, C)`` with hyper-latents in nats."""
        model = self.model
        quantise = Quantiser(model, rate_point)
        of_rate = at_rate(model.architecture, self.rounding, torch.tensor([rate_point]))
        quantise.weights *= of_rate.numpy().ravel()  # the model is in no folder yet, and knows none
        v = (y * model.params["gain"][rate_point]).reshape(-1, y.shape[-1])

        def visit(here: Visited) -> np.ndarray:
            s = quantise.symbols(v, here)
            counts = self.groups[model.architecture.group_of(here.channels)]
            for row in np.unique(here.rows[here.rows > 0]):
                m = int(quantise.limit[row])
                mine = s[here.rows == row]
                inside = np.clip(np.where(np.abs(mine) <= m, mine, m + 1) + m, 0, 2 * m + 1)
                counts[row] += np.bincount(inside, minlength=2 * m + 2)
            return s

        z_int = dequantise_z(model, rate_point, quantise_z(model, rate_point, z))
        walk(model, rate_point, z_int, (0, len(y)), y.shape[1], visit)


def _counted(counts: list[np.ndarray], pmfs: list[np.ndarray], weight: float) -> list[np.ndarray]:
    """Probabilities from counts, even in the sign, and from ``pmfs`` with the weight of so many symbols."""
    found = [pmfs[0]]
    for count, pmf in zip(counts[1:], pmfs[1:], strict=True):
        even = np.append((count[:-1] + count[-2::-1]) / 2, count[-1])
        found.append((even + weight * pmf) / (even.sum() + weight))
    return found


def active_groups(arch: Architecture, active_from: Sequence[int]) -> np.ndarray:
    """Channel groups by rate point: all but as many as there are numbers, and one more from each number on.

    What groups are worth is not seen in the symbols of plain rounding: the finest stay empty there, and the encoder's
    refinement fills them.
    """
    active = np.full(arch.rate_points, arch.group_count - len(active_from), np.uint8)
    for first in active_from:
        active[first:] += 1
    return active


def refit_tables(
    description: dict[str, Any], arrays: dict[str, np.ndarray], codec: CodecModule, photos: Photos
) -> dict[str, np.ndarray]:
    """Row tables from the symbols that the rows really code on training crops."""
    rng = np.random.default_rng(7)
    crops = torch.tensor(photos.crops(rng, REFIT_CROPS, REFIT_SIZE)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        y = torch.cat([codec.analysis(x) for x in crops.split(8)])
        z = codec.hyper(y).numpy()
    points = rng.permutation(np.arange(REFIT_CROPS) % codec.arch.rate_points)
    start = row_pmfs()
    tables = _row_tables(start)
    for _ in range(REFIT_ROUNDS):
        counter = _Counter(Model(description, arrays | tables), codec.rounding)
        for latents, hyper, point in zip(y.numpy(), z, points.tolist(), strict=True):
            counter.code(latents, hyper, point)
        pmfs = _counted([np.sum(group, 0) for group in zip(*counter.groups, strict=True)], start, PSEUDO_COUNT)
        groups = [_counted(group, pmfs, GROUP_COUNT) for group in counter.groups]
        tables = _row_tables(pmfs) | _group_tables(groups)
    return tables


@torch.no_grad()
def refit_hyper_tables(
    description: dict[str, Any], arrays: dict[str, np.ndarray], codec: CodecModule, photos: Photos
) -> dict[str, np.ndarray]:
    """The arrays of `hyper_tables` from training crops."""
    rng = np.random.default_rng(8)
    z = []
    for _ in range(HYPER_CROPS):
        x = torch.tensor(photos.crops(rng, 1, HYPER_SIZE)).permute(0, 3, 1, 2).float() / 255
        z.append(codec.hyper(codec.analysis(x))[0].numpy())
    return hyper_tables(Model(description, arrays), z)


def _foreign(head: Path, model: Model) -> bool:
    """Whether a realism head cannot be used with a model."""
    try:
        read_head(head, model)
    except ModelError:
        return True
    return False


def export(
    checkpoint: Path, out: Path, photos: Photos, data: Sequence[Path] = (), validation: Path | None = None
) -> Model:
    """Writes the averaged weights of ``checkpoint`` as a model folder with its card.

    An old realism head that belongs to other weights is removed. ``photos``, read from ``data``, refit the coder's
    tables; the card's table is measured on the images of the folder ``validation``.
    """
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    arch = Architecture.from_dict(saved["architecture"])
    trained = RateDistortion(CodecModule(arch))
    trained.load_state_dict(saved["average"])
    trained.eval()
    description: dict[str, Any] = {"name": saved["name"], "version": saved["version"], "architecture": arch.to_dict()}
    arrays = decoder_arrays(trained.codec) | {"active_groups": active_groups(arch, saved["active_from"])}
    if gains := [RealismGains(**given) for given in saved["realism_gains"]]:
        arrays["realism_rows"] = realism_rows(arch, spectra(trained.codec).of_luma.numpy(), gains)
    encoder = encoder_arrays(trained.codec)
    trained.codec.load_state_dict(encoder_state(encoder), strict=False)
    arrays |= refit_tables(description, arrays, trained.codec, photos)
    arrays |= refit_hyper_tables(description, arrays, trained.codec, photos)
    description |= {
        "decoder_sha256": digest(arrays, arch.to_dict()),
        "encoder_sha256": digest(encoder, arch.to_dict()),
        "training": training_facts(saved),
    }
    description["earlier"] = earlier_versions(out, Model(description, arrays).fingerprint)
    write_parts(out, description, decoder=arrays, encoder=encoder)
    model = Model(description, arrays, out)
    head = out / REALISM_FILE
    if head.is_file() and _foreign(head, model):
        head.unlink()
        print(f"{head}: removed, since it belongs to other weights; train it anew", file=sys.stderr)
    write_card(model, photos, data, validation)
    return model


def write_card(model: Model, photos: Photos, data: Sequence[Path] = (), validation: Path | None = None) -> None:
    """Writes the card of a model into its folder; ``photos``, read from ``data``, are those it was trained on."""
    assert model.folder
    images = sorted(p for p in validation.iterdir() if p.suffix.lower() in SUFFIXES) if validation else []
    write_atomically(model.folder / "README.md", model_card(model, data, len(photos.images), images).encode())
