"""Models' folders as trainings write them."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_arrays

from nicc.errors import ModelError
from nicc.images import write_atomically
from nicc.model import load_model


def write_parts(folder: Path, description: dict[str, Any], **parts: dict[str, np.ndarray]) -> None:
    """Writes ``model.json``, and the arrays of ``decoder`` or ``encoder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, arrays in parts.items():
        contiguous = {k: np.ascontiguousarray(arrays[k]) for k in sorted(arrays)}
        write_atomically(folder / f"{part}.safetensors", save_arrays(contiguous))
    write_atomically(folder / "model.json", (json.dumps(description, indent=1) + "\n").encode())


def training_facts(saved: dict[str, Any]) -> dict[str, int]:
    """What a description tells of a checkpoint's training."""
    return {k: saved[k] for k in ("step", "pixels")} | {"seconds": round(saved["seconds"])}


def earlier_versions(folder: Path, new: bytes) -> dict[str, int]:
    """Fingerprints, in hex, that the model in a folder had before one becomes ``new``, and in which version."""
    path = folder / "model.json"
    if not path.is_file():
        return {}
    old = json.loads(path.read_text())
    earlier: dict[str, int] = old.get("earlier", {})
    with suppress(ModelError):  # of an architecture that is not known any more
        earlier[load_model(str(folder.resolve())).fingerprint.hex()] = old["version"]
    earlier.pop(new.hex(), None)
    return earlier
