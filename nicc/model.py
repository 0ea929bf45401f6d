"""A model on disk and in memory: a description, and the arrays that sender and receiver need.

A model is a folder with ``model.json`` (architecture, version, digests), ``decoder.safetensors``
(all that decoding needs) and ``encoder.safetensors`` (the analysis; loaded by the encoder only).
Names: shipped models by their name, others by a folder's path, or by a name below ``$NICC_MODELS``.
"""

from __future__ import annotations

import json
import os
from copy import copy
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as load_arrays

from nicc.architecture import (
    CODING_FIELDS,
    GROUP_TABLE_ROWS,
    LOG_ROW_STEP,
    REALISM_UNIT,
    RENDERING,
    ROW_BITS,
    Architecture,
)
from nicc.arrays import check_arrays, check_exactness, digest, macs_per_pixel
from nicc.container import FINGERPRINT_BYTES, Header
from nicc.entropy import RowCoder, tables_of
from nicc.errors import ModelError
from nicc.head import HeadArchitecture
from nicc.pyramid.layout import KIND
from nicc.pyramid.model import PyramidModel

SHIPPED_CODES = {"two-layer": 1, "jpeg-like": 2, "two-layer-visual": 3, "pyramid": 4}
"""Codes of shipped models in the header; every other model is named there."""
LICENCE = "MIT"
"""The licence of a model whose description names no other."""
TUNED = {"visual": "two-layer-visual", "psnr": "two-layer"}
"""The shipped model for each aim of tuning."""
DEFAULT_MODEL = TUNED["visual"]
REALISM_FILE = "realism.safetensors"


class Head:
    """A realism head: its architecture, its arrays and their digest, and how it was trained."""

    def __init__(
        self, architecture: HeadArchitecture, params: dict[str, np.ndarray], sha256: str, training: dict[str, Any]
    ) -> None:
        self.architecture, self.params, self.sha256, self.training = architecture, params, sha256, training


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The facts and the arrays of a file beside a model's own. Raises `ModelError` if it is damaged."""
    try:
        with safe_open(path, framework="np") as f:
            facts = json.loads(f.metadata()["nicc"])
            arrays = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a dictionary
        whole = digest(arrays, facts.get("architecture", {})) == facts["sha256"]
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, OSError) as e:
        raise ModelError(f"{path}: damaged: {e}") from None
    if not whole:
        raise ModelError(f"{path}: damaged: its digest is not the one that it names; reinstall the model")
    return facts, arrays


def read_head(path: Path, model: Model) -> Head:
    """The realism head in a file. Raises `ModelError` if it is damaged or belongs to another model."""
    facts, arrays = read_arrays(path)
    try:
        architecture = HeadArchitecture.from_dict(facts["architecture"])
    except (ValueError, TypeError, KeyError) as e:
        raise ModelError(f"{path}: damaged: {e}") from None
    if facts["model"] != model.sha256:
        raise ModelError(
            f"{path}: this realism head belongs to {facts['name']} {facts['model'][:8]}, "
            f"the installed {model.name} version {model.version} is {model.sha256[:8]}"
        )
    if {k: v.shape for k, v in arrays.items()} != architecture.shapes(model.architecture.latent_channels):
        raise ModelError(f"{path}: damaged: arrays are missing or of the wrong shape")
    params = {k: v.astype(np.float32) for k, v in arrays.items()}
    return Head(architecture, params, facts["sha256"], facts["training"])


def asks_for_realism(header: Header) -> bool:
    """Whether a decoder that is not told otherwise uses a beta above 0; files give it in steps of 1/255."""
    return round(header.beta * 255) > 0


class Model:
    """What decoding needs. ``arrays`` are those of ``decoder.safetensors``, see docs/models.md.

    ``exact_dtype`` is the type in which integer matrix products are carried out; the result does
    not depend on it.
    """

    def __init__(
        self,
        description: dict[str, Any],
        arrays: dict[str, np.ndarray],
        folder: Path | None = None,
        exact_dtype: type = np.float32,
    ) -> None:
        self.description, self.folder = description, folder
        self.name: str = description["name"]
        self.version: int = description["version"]
        self.earlier: dict[str, int] = description.get("earlier", {})
        """Versions by their fingerprints, in hex, whose files this one cannot read."""
        self.architecture = Architecture.from_dict(description["architecture"])
        self.arrays = arrays
        try:
            check_arrays(self.architecture, arrays)
            check_exactness(arrays, self.architecture)
        except ModelError as e:
            raise ModelError(f"model {self.name}: damaged: {e}") from None
        coding = {k: v for k, v in arrays.items() if not k.startswith(RENDERING)}
        self.coding_sha256 = digest(
            coding, {k: v for k, v in self.architecture.to_dict().items() if k in CODING_FIELDS}
        )
        """SHA-256 of what gives a file's bits their meaning: models that share it read each other's files."""
        self.params: dict[str, np.ndarray] = {}
        """The arrays of `nicc.decoder.networks` in the types in which they are computed."""
        for name, array in arrays.items():
            if array.dtype == np.float16:
                self.params[name] = array.astype(np.float32)
            elif name.startswith("row"):
                self.params[name] = array.astype(exact_dtype)
            else:
                self.params[name] = array
        self.params["bands"] = np.array(self.architecture.band_matrix(), exact_dtype)
        self.params["parity"] = arrays["parity"].astype(np.float32)
        self.exact_dtype = exact_dtype

    def for_file(self, header: Header) -> Model:
        """This model with the gains by which a file's latents are coded: those for realism, if it asks for any.

        Everything else is shared. A model without such gains codes all files alike.
        """
        return self._for_realism if asks_for_realism(header) and "realism_rows" in self.arrays else self

    @cached_property
    def _for_realism(self) -> Model:
        other, p = copy(self), self.params
        rows: np.ndarray = self.arrays["realism_rows"].astype(self.exact_dtype)
        gain = np.exp(rows.astype(np.float64) * (LOG_ROW_STEP / REALISM_UNIT)).astype(np.float32)
        other.params = p | {
            "gain": p["gain"] * gain,
            "inverse": p["inverse"] / gain,
            "row_bias": p["row_bias"] + rows * (2**ROW_BITS // REALISM_UNIT),
        }
        other._for_realism = other
        return other

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of what a head belongs to: all arrays but the filter's, behind which nothing stands, and the gains
        for realism, which are chosen for a head."""
        before = {k: v for k, v in self.arrays.items() if not k.startswith(("filter", "realism"))}
        return digest(before, self.description["architecture"])

    @property
    def fingerprint(self) -> bytes:
        """The first bytes of `coding_sha256`, as in a file's header."""
        return bytes.fromhex(self.coding_sha256)[:FINGERPRINT_BYTES]

    @property
    def code(self) -> int | str:
        """How a header names this model."""
        return SHIPPED_CODES.get(self.name, self.name)

    @cached_property
    def row_coders(self) -> list[RowCoder]:
        """One for every group of channels."""
        sizes = self.arrays["y_sizes"]
        shared = tables_of(self.arrays["y_frequencies"], sizes)[GROUP_TABLE_ROWS:]
        own = self.arrays["y_group_frequencies"]
        return [RowCoder(tables_of(group, sizes[:GROUP_TABLE_ROWS]) + shared) for group in own]

    @property
    def has_realism(self) -> bool:
        return self.folder is not None and (self.folder / REALISM_FILE).is_file()

    @cached_property
    def realism(self) -> Head:
        """The realism head, read when first asked for. Raises `ModelError` if there is none."""
        if self.folder is None or not self.has_realism:
            raise ModelError(f"model {self.name} has no realism head; decode with beta 0")
        return read_head(self.folder / REALISM_FILE, self)

    @property
    def realism_macs_per_pixel(self) -> float | None:
        """Multiply-accumulates per pixel that a beta above 0 adds; None without a realism head."""
        if not self.has_realism:
            return None
        return self.realism.architecture.macs_per_pixel(self.architecture.latent_channels)

    def active_groups(self, rate_point: int) -> int:
        """Groups of channels that are coded at a rate point; the others are zero."""
        if "active_groups" not in self.arrays:
            return self.architecture.group_count
        return int(self.arrays["active_groups"][rate_point])

    def macs_per_pixel(self) -> dict[str, float]:
        """Multiply-accumulates per pixel at the receiver, by part, all groups of channels active."""
        return macs_per_pixel(self.architecture, self.arrays)


AnyModel = Model | PyramidModel


def model_folders() -> list[Path]:
    """Where models are looked for: $NICC_MODELS, the installed package, the source tree."""
    here = Path(__file__).resolve().parent
    folders = [Path(p) for p in os.environ.get("NICC_MODELS", "").split(os.pathsep) if p]
    return [*folders, here / "_models", here.parent / "models"]


def model_names() -> list[str]:
    """Models that are found by name."""
    return sorted({p.parent.name for f in model_folders() for p in f.glob("*/model.json")})


def find_model(name: str) -> Path:
    """The folder of a model given by name or path. Raises `ModelError`."""
    candidates = [Path(name)] if os.sep in name or name.startswith(".") else [f / name for f in model_folders()]
    for folder in candidates:
        if (folder / "model.json").is_file():
            return folder
    raise ModelError(f"model {name!r} not found; available: {', '.join(model_names()) or 'none'}")


def read_part(folder: Path, description: dict[str, Any], part: str) -> dict[str, np.ndarray]:
    """The arrays of ``decoder`` or ``encoder``, checked against their digest in ``model.json``."""
    path = folder / f"{part}.safetensors"
    try:
        arrays = load_arrays(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{path}: missing; reinstall the model") from None
    except (SafetensorError, ValueError, OSError) as e:
        raise ModelError(f"{path}: damaged: {e}") from None
    if digest(arrays, description["architecture"]) != description[f"{part}_sha256"]:
        raise ModelError(f"{path}: damaged: its digest is not the one in model.json; reinstall the model")
    return arrays


@lru_cache(maxsize=4)
def _load(folder: Path) -> AnyModel:
    path = folder / "model.json"
    try:
        description = json.loads(path.read_text())
        missing = {"name", "version", "architecture", "decoder_sha256", "encoder_sha256"} - set(description)
        fitted = description["architecture"].get("kind") == KIND if not missing else False
    except (ValueError, TypeError, AttributeError) as e:
        raise ModelError(f"{path}: damaged: {e}") from None
    if missing:
        raise ModelError(f"{path}: damaged: no {', '.join(sorted(missing))}")
    arrays = read_part(folder, description, "decoder")
    if fitted:
        return PyramidModel(description, arrays, folder, SHIPPED_CODES.get(description["name"]))
    return Model(description, arrays, folder)


def load_model(name: str = DEFAULT_MODEL) -> AnyModel:
    """The receiver's side of a model, by name or folder; cached. Raises `ModelError`."""
    return _load(find_model(name))


def load_transform(name: str = DEFAULT_MODEL) -> Model:
    """`load_model` of a model whose weights are the same for every image. Raises `ModelError` for any other."""
    model = load_model(name)
    if not isinstance(model, Model):
        raise ModelError(f"model {model.name} is fitted to every image; this is for models that are not")
    return model


def shipped_transforms() -> list[str]:
    """Names of the shipped models whose weights are the same for every image."""
    return [name for name in SHIPPED_CODES if isinstance(load_model(name), Model)]


def model_of_code(code: int | str) -> AnyModel:
    """The model that a header names. Raises `ModelError`; names in files are never paths."""
    if isinstance(code, int):
        names = {c: n for n, c in SHIPPED_CODES.items()}
        if code not in names:
            raise ModelError(f"model code {code} is unknown; update nicc")
        return load_model(names[code])
    if Path(code).name != code or code.startswith("."):
        raise ModelError(f"model name {code!r} is not a plain name")
    return load_model(code)
