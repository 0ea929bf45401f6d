"""From a checkpoint to a shipped model: integers, tables, half precision, a model card."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save as save_arrays

from nicc.architecture import (
    CDF_ROWS,
    HIDDEN_BITS,
    HYPER_UNIT,
    MAGNITUDE_UNIT,
    RATE_POINTS,
    ROW_BITS,
    SIGMA_MAX,
    SIGMA_MIN,
    Z_SYMBOL_LIMIT,
    Architecture,
)
from nicc.decoder.latents import dequantise_z, walk
from nicc.encoder.codec import TAIL_WEIGHT, TAIL_WIDTH, Codec, at_rate
from nicc.encoder.encode import Quantiser, quantise_z
from nicc.encoder.transform import SCALE_SUFFIX, encoder_state
from nicc.errors import ModelError
from nicc.images import write_atomically
from nicc.model import Model, check_exactness, digest
from nicc.training.card import model_card
from nicc.training.data import SUFFIXES, Photos
from nicc.training.objective import HyperPrior, RateDistortion

ROW_SPREADS = 6.0
"""Deviations that a row's table covers before the escape."""
REFIT_CROPS, REFIT_SIZE, REFIT_ROUNDS = 96, 256, 2
PSEUDO_COUNT = 1000.0
"""Weight of the parametric distribution against counted symbols when a row is refitted."""


def quantised_frequencies(pmf: np.ndarray) -> np.ndarray:
    """Integer frequencies, at least 1 each, summing to 2**16, by CompressAI's CDF quantiser."""
    from compressai._CXX import pmf_to_quantized_cdf

    cdf = pmf_to_quantized_cdf((pmf / pmf.sum()).tolist(), 16)
    return np.diff(np.array(cdf, np.int64)).astype(np.uint16)


def row_pmfs() -> list[np.ndarray]:
    """Of every CDF row but 0: probabilities of -m..m, then of the escape."""
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
    return {
        "y_frequencies": np.concatenate([quantised_frequencies(p) if len(p) else p.astype(np.uint16) for p in pmfs]),
        "y_sizes": np.array([len(p) for p in pmfs], np.uint16),
    }


@torch.no_grad()
def _z_tables(codec: Codec, prior: HyperPrior) -> dict[str, np.ndarray]:
    """Hyper-latent tables of all rate points from the trained density."""
    steps = torch.stack([at_rate(codec.log_hyper_gain, torch.tensor([float(r)])) for r in range(RATE_POINTS)])
    steps = (HYPER_UNIT / steps.reshape(RATE_POINTS, -1).exp()).round().clamp(1, 65535)
    k = torch.arange(-Z_SYMBOL_LIMIT, Z_SYMBOL_LIMIT + 1)
    sizes, lows, frequencies = [], [], []
    for step in steps:
        width = step / HYPER_UNIT
        pmf = prior(k[:, None] * width, (1 / width).expand(len(k), -1)).numpy().astype(np.float64)
        for channel in range(pmf.shape[1]):
            likely = np.flatnonzero(pmf[:, channel] > 2.0**-17)
            low = min(likely[0] if len(likely) else Z_SYMBOL_LIMIT, Z_SYMBOL_LIMIT - 1)
            high = max(likely[-1] if len(likely) else Z_SYMBOL_LIMIT, Z_SYMBOL_LIMIT + 1)
            sizes.append(high - low + 1)
            lows.append(low - Z_SYMBOL_LIMIT)
            frequencies.append(quantised_frequencies(pmf[low : high + 1, channel]))
    shape = (RATE_POINTS, -1)
    return {
        "z_steps": steps.numpy().astype(np.uint16),
        "z_sizes": np.array(sizes, np.uint16).reshape(shape),
        "z_lows": np.array(lows, np.int16).reshape(shape),
        "z_frequencies": np.concatenate(frequencies),
    }


@torch.no_grad()
def decoder_arrays(model: RateDistortion) -> dict[str, np.ndarray]:
    """The receiver's arrays, CDF tables not yet refitted."""
    codec, arch = model.codec, model.codec.arch
    points = [torch.tensor([float(r)]) for r in range(RATE_POINTS)]

    def table(t: torch.Tensor) -> np.ndarray:
        return torch.cat([at_rate(t, r)[:, 0, 0] for r in points]).numpy().astype(np.float64)

    def integers(values: np.ndarray, bits: int, kind: type = np.int16) -> np.ndarray:
        scaled = np.rint(values * 2.0**bits)
        if np.abs(scaled).max(initial=0) > np.iinfo(kind).max:
            raise ModelError(f"a weight of the CDF rows is too large for {np.dtype(kind).name}")
        return scaled.astype(kind)

    arrays: dict[str, np.ndarray] = {}
    for name, value in codec.params().items():
        if name in ("parity", "bands"):
            continue
        a = value.numpy()
        if not name.startswith("row"):
            arrays[name] = a.astype(np.float32 if a.ndim == 1 else np.float16)
            continue
        scale = np.full((len(a), 1), 1 / MAGNITUDE_UNIT)
        if name.endswith("_in"):
            scale[: arch.hyper_channels] = 1 / HYPER_UNIT
        bits = ROW_BITS - HIDDEN_BITS if name.endswith("_out") else ROW_BITS
        arrays[name] = integers(a if name.endswith("_out") else a * scale, bits)
    gain = table(codec.log_gain)
    arrays |= {
        "parity": codec.parity.numpy().astype(np.int8),
        "deviation": codec.deviation.numpy(),
        "recon_offset": codec.recon_offset.numpy(),
        "gain": np.exp(gain).astype(np.float32),
        "inverse": np.exp(table(codec.log_inverse) - gain).astype(np.float32),
        "row_bias": integers(table(codec.row_bias), ROW_BITS, np.int32),
        "row_phase": integers(codec.row_phase.numpy(), ROW_BITS, np.int32),
        "row_hidden_bias": integers(table(codec.hidden_bias), ROW_BITS, np.int32),
        "row_hidden_phase": integers(codec.hidden_phase.numpy(), ROW_BITS, np.int32),
    }
    if arch.rectifiers:
        arrays["rectifier_bias"] = table(codec.rectifier_bias).astype(np.float16)
    check_exactness(arrays, arch)
    return arrays | _z_tables(codec, model.prior) | _row_tables(row_pmfs())


@torch.no_grad()
def encoder_arrays(codec: Codec) -> dict[str, np.ndarray]:
    """The sender's arrays: half precision, and 8-bit integers with a scale per output for networks."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in codec.state_dict().items():
        if not name.startswith(("analysis.", "hyper_analysis.", "hyper_offset")):
            continue
        a = value.numpy()
        if a.ndim < 2:
            arrays[name] = a.astype(np.float32)
        elif name.endswith(("linear.weight", "pooled")):
            arrays[name] = a.astype(np.float16)
        else:
            scale = np.abs(a).reshape(len(a), -1).max(1) / 127 + 1e-12
            arrays[name] = np.rint(a / scale.reshape(-1, *[1] * (a.ndim - 1))).astype(np.int8)
            arrays[name + SCALE_SUFFIX] = scale.astype(np.float32)
    return arrays


def refit_rows(
    description: dict[str, Any], arrays: dict[str, np.ndarray], codec: Codec, photos: Photos
) -> dict[str, np.ndarray]:
    """Row tables from the symbols that the rows really code on training crops, all rate points."""
    rng = np.random.default_rng(7)
    crops = torch.tensor(photos.crops(rng, REFIT_CROPS, REFIT_SIZE)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        y = torch.cat([codec.analysis(x) for x in crops.split(8)])
        z = codec.hyper(y).numpy()
    y_all = y.numpy()
    start = row_pmfs()
    pmfs = start
    for _ in range(REFIT_ROUNDS):
        model = Model(description, arrays | _row_tables(pmfs))
        quantise = Quantiser(model)
        counts = [np.zeros(len(p)) for p in start]
        limits = quantise.limit
        for n in range(len(y_all)):
            r = int(rng.integers(RATE_POINTS))
            v = (y_all[n] * model.params["gain"][r]).reshape(-1, y_all.shape[-1])

            def visit(rows: np.ndarray, means: np.ndarray, channels: slice, at: np.ndarray) -> np.ndarray:
                s = quantise(v[at, channels] - means, rows)  # noqa: B023
                for row in np.unique(rows[rows > 0]):
                    m = int(limits[row])  # noqa: B023
                    inside = np.clip(np.where(np.abs(s[rows == row]) <= m, s[rows == row], m + 1) + m, 0, 2 * m + 1)
                    counts[row] += np.bincount(inside, minlength=2 * m + 2)  # noqa: B023
                return s

            z_int = dequantise_z(model, r, quantise_z(model, r, z[n]))
            walk(model, r, z_int, 0, y_all.shape[1], y_all.shape[2], visit)
        pmfs = [start[0]]
        for count, pmf in zip(counts[1:], start[1:], strict=True):
            even = np.append((count[:-1] + count[-2::-1]) / 2, count[-1])
            pmfs.append((even + PSEUDO_COUNT * pmf) / (even.sum() + PSEUDO_COUNT))
    return _row_tables(pmfs)


def export(
    checkpoint: Path, out: Path, photos: Photos, data: Sequence[Path] = (), validation: Path | None = None
) -> Model:
    """Writes the averaged weights of ``checkpoint`` as a model folder with its card.

    ``photos``, read from ``data``, refit the coder's tables; the card's table is measured on the
    images of the folder ``validation``.
    """
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    arch = Architecture.from_dict(saved["architecture"])
    trained = RateDistortion(Codec(arch))
    trained.load_state_dict(saved["average"])
    trained.eval()
    description: dict[str, Any] = {"name": saved["name"], "version": saved["version"], "architecture": arch.to_dict()}
    arrays = decoder_arrays(trained)
    encoder = encoder_arrays(trained.codec)
    trained.codec.load_state_dict(encoder_state(encoder), strict=False)
    arrays |= refit_rows(description, arrays, trained.codec, photos)
    description |= {
        "decoder_sha256": digest(arrays, arch.to_dict()),
        "encoder_sha256": digest(encoder, arch.to_dict()),
        "training": {k: saved[k] for k in ("step", "pixels")} | {"seconds": round(saved["seconds"])},
    }
    out.mkdir(parents=True, exist_ok=True)
    for part, values in (("decoder", arrays), ("encoder", encoder)):
        contiguous = {k: np.ascontiguousarray(values[k]) for k in sorted(values)}
        write_atomically(out / f"{part}.safetensors", save_arrays(contiguous))
    write_atomically(out / "model.json", (json.dumps(description, indent=1) + "\n").encode())
    model = Model(description, arrays, out)
    images = sorted(p for p in validation.iterdir() if p.suffix.lower() in SUFFIXES) if validation else []
    write_atomically(out / "README.md", model_card(model, data, len(photos.images), images).encode())
    return model
