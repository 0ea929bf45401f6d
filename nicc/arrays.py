"""The arrays of a model's receiver: names, shapes, types, fixed-point units. One description for all.

`nicc.training.export` writes them, `nicc.model` checks them, `nicc.encoder.receiver` and
`nicc.training.restore` turn them back into real numbers, and the count of multiply-accumulates
reads them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from nicc.architecture import (
    CDF_ROWS,
    CHROMA_DISTANCES,
    FILTER_STRENGTHS,
    FILTER_TEXTURES,
    FILTER_WEIGHTS,
    GROUP_TABLE_ROWS,
    HIDDEN_BITS,
    HYPER_LIMIT,
    HYPER_UNIT,
    MAGNITUDE_UNIT,
    QUADS,
    REALISM_UNIT,
    RECON_CLASSES,
    ROW_BITS,
    ROW_HIDDEN,
    Architecture,
)
from nicc.errors import ModelError
from nicc.geometry import HYPER_KINDS
from nicc.laplace import SCALES

EXACT_LIMIT = 1 << 24
"""Integers up to here are exact in float32."""
FREE = -1
"""A length that other arrays give."""


class Spec(NamedTuple):
    """One array. ``macs`` are its multiply-accumulates per latent position, counted under ``part``."""

    shape: tuple[int, ...]
    kind: str
    """float32, float16, int8, int16, int32, uint8 or uint16."""
    part: str = ""
    macs: float = 0.0
    optional: bool = False


def receiver_arrays(arch: Architecture) -> dict[str, Spec]:
    """Every array of ``decoder.safetensors`` by name."""
    parts = _tables(arch), _synthesis(arch), _means(arch), _rows(arch), _rectifiers(arch), _filter(arch), _realism(arch)
    return {name: spec for part in parts for name, spec in part.items()}


def _matrix(part: str, inputs: int, outputs: int, share: float = 1.0, kind: str = "float16") -> Spec:
    return Spec((inputs, outputs), kind, part, inputs * outputs * share)


def _tables(arch: Architecture) -> dict[str, Spec]:
    c, cz, points = arch.latent_channels, arch.hyper_channels, arch.rate_points
    return {
        "gain": Spec((points, c), "float32"),
        "inverse": Spec((points, c), "float32"),
        "deviation": Spec((c,), "float32"),
        "parity": Spec((2, c), "int8"),
        "recon_offset": Spec((CDF_ROWS, RECON_CLASSES), "float32"),
        "active_groups": Spec((points,), "uint8", optional=True),
        "y_sizes": Spec((CDF_ROWS,), "uint16"),
        "y_frequencies": Spec((FREE,), "uint16"),
        "y_group_frequencies": Spec((arch.group_count, FREE), "uint16"),
        "z_steps": Spec((points, cz), "uint16"),
        "z_means": Spec((cz,), "int16"),
        "z_weights": Spec((HYPER_KINDS, cz), "int16"),
        "z_scales": Spec((points, HYPER_KINDS, cz), "uint8"),
    }


def _synthesis(arch: Architecture) -> dict[str, Spec]:
    c, k, n, linear = arch.latent_channels, arch.kernel, arch.hidden_channels, arch.linear_outputs
    outputs = linear + (n if arch.residual else 0)
    specs = {
        "synthesis_in": Spec((arch.main, k, k, outputs), "float16", "synthesis 1", arch.main * k * k * outputs),
        "synthesis_bias": Spec((3,), "float32"),
    }
    if arch.main < c:
        more = c - arch.main
        specs["synthesis_more"] = Spec((more, k, k, linear), "float16", "synthesis 1", more * k * k * linear)
    if arch.synthesis == "two-layer":  # per latent position 64 positions of the hidden layer
        specs |= {
            "igdn_beta": Spec((n,), "float32", "inverse gdn", 64 * 2 * n),
            "igdn_gamma": _matrix("inverse gdn", n, n, 64),
            "synthesis_out": Spec((3, 3, n, 12), "float16", "synthesis 2", 64 * 9 * n * 12),
        }
    return specs


def _means(arch: Architecture) -> dict[str, Spec]:
    c, cz, hidden, context = arch.latent_channels, arch.hyper_channels, arch.mean_hidden, arch.context_channels
    specs = {
        "mean_z": _matrix("means", cz, c),
        "mean_later_in": _matrix("means", 9 * context, hidden),
        "mean_later_bias": Spec((hidden,), "float32", "means", hidden),
        "mean_later_out": _matrix("means", hidden, c - context),
    }
    if arch.adaptive:
        specs["gain_z"] = _matrix("steps", cz, c)
        specs["gain_later"] = _matrix("steps", hidden, c - context)
    for g in range(arch.context_groups):
        size, share = arch.groups[g + 1] - arch.groups[g], 1 / arch.phases[g]
        for phase in range(arch.phases[g]):
            name = f"mean{g}_{phase}"
            specs[f"{name}_in"] = _matrix("means", arch.mean_inputs(g, phase), size + hidden, share)
            specs[f"{name}_bias"] = Spec((hidden,), "float32", "means", hidden * share)
            specs[f"{name}_out"] = _matrix("means", hidden, size, share)
    return specs


def _rows(arch: Architecture) -> dict[str, Spec]:
    c, points, hidden = arch.latent_channels, arch.rate_points, arch.group_count * ROW_HIDDEN
    specs = {
        "row_bias": Spec((points, c), "int32"),
        "row_phase": Spec((len(QUADS), c), "int32"),
        "row_hidden_bias": Spec((points, hidden), "int32"),
        "row_hidden_phase": Spec((len(QUADS), hidden), "int32"),
    }
    for g in range(arch.group_count):
        size, phases = arch.groups[g + 1] - arch.groups[g], arch.phases[g]
        specs[f"row{g}_in"] = _matrix("cdf rows", arch.feature_count(g), size + ROW_HIDDEN, kind="int16")
        specs[f"row{g}_out"] = _matrix("cdf rows", ROW_HIDDEN, size, kind="int16")
        if phases > 1:
            specs[f"row{g}_own"] = _matrix("cdf rows", size, size + ROW_HIDDEN, 1 - 1 / phases, kind="int16")
    return specs


def _rectifiers(arch: Architecture) -> dict[str, Spec]:
    c, width, count = arch.latent_channels, arch.rectifier_width, arch.rectifiers
    specs = {"rectifier_bias": Spec((arch.rate_points, count * 3 * width), "float16")} if count else {}
    for i in range(count):
        shapes = {"in": (c, width), "first": (9 * width, width), "second": (9 * width, width)}
        shapes |= {"gate": (width, width), "out": (width, c)}
        specs |= {f"rectifier{i}_{part}": _matrix("rectifier", *shape) for part, shape in shapes.items()}
    return specs


def _filter(arch: Architecture) -> dict[str, Spec]:
    """The filters behind the synthesis, which a model may have; a latent position has four of their blocks."""
    classes = FILTER_STRENGTHS * FILTER_TEXTURES
    # of 8x8 pixels 90 sums along lines, the squares of these and of the pixels, shares of the table's entries
    directions = 4 * (90 * 64 + 90 + 64 + classes * (1 + FILTER_WEIGHTS))
    points, distances = arch.rate_points, len(CHROMA_DISTANCES)
    shape = points, FILTER_STRENGTHS, FILTER_TEXTURES, FILTER_WEIGHTS
    chroma = 256 * 2 * distances * 3  # of two neighbours of a pixel their nearness and two differences
    return {
        "filter_weights": Spec(shape, "float16", "filter", directions + 256 * 2 * FILTER_WEIGHTS, optional=True),
        "filter_limit": Spec((points,), "float32", optional=True),
        "filter_chroma": Spec((points, distances), "float32", "filter", chroma, optional=True),
        "filter_chroma_limit": Spec((points,), "float32", optional=True),
    }


def _realism(arch: Architecture) -> dict[str, Spec]:
    """By how much finer a model may code files that ask for realism, in CDF rows over `REALISM_UNIT`."""
    return {"realism_rows": Spec((arch.rate_points, arch.latent_channels), "int8", optional=True)}


def integer_unit(arch: Architecture, name: str) -> np.ndarray | float:
    """What 1 of an integer array of the CDF rows is worth: rows per nat, log2 of a magnitude, or hidden unit.

    A number, or ``(inputs, 1)`` where inputs differ: the hyper-latents come first, in 1/64 nat.
    """
    if name.endswith("_out"):
        return 2.0 ** (HIDDEN_BITS - ROW_BITS)
    if name.endswith("_own"):
        return MAGNITUDE_UNIT * 2.0**-ROW_BITS
    if name.endswith("_in"):
        group = int(name.removeprefix("row").removesuffix("_in"))
        unit = np.full((arch.feature_count(group), 1), MAGNITUDE_UNIT * 2.0**-ROW_BITS)
        unit[: arch.hyper_channels] = HYPER_UNIT * 2.0**-ROW_BITS
        return unit
    return 2.0**-ROW_BITS


def check_arrays(arch: Architecture, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises `ModelError` unless ``arrays`` are those that the architecture describes, of their shapes and types."""
    specs = receiver_arrays(arch)
    if unknown := sorted(set(arrays) - set(specs)):
        raise ModelError(f"array {unknown[0]} belongs to no model of this architecture")
    for name, spec in specs.items():
        if name not in arrays:
            if spec.optional:
                continue
            raise ModelError(f"array {name} is missing")
        found = arrays[name]
        if found.ndim != len(spec.shape) or any(
            n not in (m, FREE) for m, n in zip(found.shape, spec.shape, strict=True)
        ):
            raise ModelError(f"array {name} is {found.shape}, not {spec.shape}")
        if found.dtype != np.dtype(spec.kind):
            raise ModelError(f"array {name} holds {found.dtype}, not {spec.kind}")
    filters = set(_filter(arch))
    if filters & set(arrays) and (missing := sorted(filters - set(arrays))):
        raise ModelError(f"array {missing[0]} is missing, and others of the filters are there")
    _check_tables(arrays)
    if "active_groups" in arrays:
        active = arrays["active_groups"]
        if active.min() < arch.context_groups or active.max() > arch.group_count:
            raise ModelError("array active_groups names groups that are not there")


def _check_tables(arrays: Mapping[str, np.ndarray]) -> None:
    sizes, frequencies = arrays["y_sizes"], arrays["y_frequencies"]
    if int(sizes.astype(np.int64).sum()) != len(frequencies):
        raise ModelError(f"array y_frequencies has {len(frequencies)} entries, not those of y_sizes")
    if int(sizes[:GROUP_TABLE_ROWS].astype(np.int64).sum()) != arrays["y_group_frequencies"].shape[1]:
        raise ModelError("array y_group_frequencies does not have the entries of y_sizes")
    if not arrays["z_steps"].all():
        raise ModelError("array z_steps has a step of zero")
    if arrays["z_scales"].max() >= SCALES:
        raise ModelError("array z_scales names scales that are not there")


def check_exactness(params: dict[str, np.ndarray], architecture: Architecture) -> int:
    """The largest magnitude that any partial sum on the way to a CDF row can reach.

    Raises `ModelError` if it is not below 2**24: float32 sums would no longer be exact.
    """
    magnitude = 4 * MAGNITUDE_UNIT
    worst = 0
    for g in range(architecture.group_count):
        weight = np.abs(params[f"row{g}_in"].astype(np.int64))
        limits = np.full(len(weight), magnitude, np.int64)
        limits[: architecture.hyper_channels] = HYPER_LIMIT
        bands: list[int] = []
        for i, width in enumerate(architecture.bands[:g]):
            bands += [width] * (architecture.bands_before(i + 1) - architecture.bands_before(i))
        if bands:
            limits[-9 * len(bands) :] = np.tile(bands, 9) * magnitude
        total = limits @ weight
        if architecture.phases[g] > 1:
            total += 4 * magnitude * np.abs(params[f"row{g}_own"].astype(np.int64)).sum(0)
        size = architecture.groups[g + 1] - architecture.groups[g]
        first, last = architecture.groups[g], architecture.groups[g + 1]
        bias = sum(np.abs(params[name].astype(np.int64))[:, first:last].max(0) for name in ("row_bias", "row_phase"))
        if "realism_rows" in params:
            bias += 128 * 2**ROW_BITS // REALISM_UNIT
        hidden = total[size:] + sum(np.abs(params[f"row_hidden_{k}"].astype(np.int64)).max() for k in ("bias", "phase"))
        out = total[:size] + bias + 255 * np.abs(params[f"row{g}_out"].astype(np.int64)).sum(0)
        worst = max(worst, int(out.max()), int(hidden.max()))
    worst += 1 << (ROW_BITS - 1)  # added for rounding
    if worst >= EXACT_LIMIT:
        raise ModelError(f"partial sums reach {worst}, not below 2**24: CDF rows would not be exact")
    return worst


def macs_per_pixel(arch: Architecture, arrays: Collection[str] = ()) -> dict[str, float]:
    """Multiply-accumulates per pixel at the receiver by part, all groups of channels active.

    Optional parts count where ``arrays`` names their arrays.
    """
    parts: dict[str, float] = {}
    for name, spec in receiver_arrays(arch).items():
        if spec.part and (name in arrays or not spec.optional):
            parts[spec.part] = parts.get(spec.part, 0.0) + spec.macs / 256
    return {part: round(macs, 1) for part, macs in parts.items()}


def digest(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> str:
    """SHA-256 over facts of the architecture and every array's name, type, shape and bytes, in hex."""
    h = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(arrays):
        a = np.ascontiguousarray(arrays[name])
        h.update(f"{name} {a.dtype.str} {a.shape}".encode())
        h.update(a.data)
    return h.hexdigest()
