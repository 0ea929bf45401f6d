"""A shipped model's folder back to the weights that training goes on from: the way of `export`, walked back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nicc.architecture import CDF_ROWS, HYPER_UNIT
from nicc.arrays import integer_unit
from nicc.encoder.torch_transform import encoder_state
from nicc.errors import ModelError
from nicc.model import Model, load_transform, read_part
from nicc.training.codec import COUNTED, CodecModule, at_rate
from nicc.training.data import Photos
from nicc.training.objective import RateDistortion
from nicc.training.start import fit_prior_to

COUNTS = 2000.0
"""Weight of the exported tables in the counts of symbols that training goes on with."""


def checkpoint_of(path: Path, photos: Photos) -> dict[str, Any]:
    """Weights and position of a checkpoint, or of a model's folder as `nicc.training.export` wrote it.

    The prior of the hyper-latents, of which a folder holds tables only, is fitted to ``photos``
    anew. Raises `ModelError` for a file that is neither.
    """
    if path.is_file():
        try:
            saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return {k: saved[k] for k in ("architecture", "average", "step", "seconds", "pixels")}
        except (KeyError, TypeError) as e:
            raise ModelError(f"{path}: not a checkpoint of this stage: {e}") from None
    model = load_transform(str(path.resolve()))
    restored = RateDistortion(restored_codec(model))
    fit_prior_to(restored, photos)
    position = {"step": 0, "seconds": 0.0, "pixels": 0} | model.description.get("training", {})
    return {"architecture": model.architecture.to_dict(), "average": restored.state_dict(), **position}


@torch.no_grad()
def restored_codec(model: Model) -> CodecModule:
    """The codec in training that a shipped model was exported from, to the precision of its files."""
    arch, arrays = model.architecture, model.arrays
    if model.folder is None:
        raise ModelError(f"model {model.name} has no folder to start from")
    codec = CodecModule(arch)
    state = dict(codec.state_dict())

    def real(name: str) -> Tensor:
        unit = integer_unit(arch, name) if name.startswith("row") else 1.0
        return torch.tensor(np.asarray(arrays[name] * unit, np.float32))

    points = torch.arange(arch.rate_points, dtype=torch.float32)
    from_anchors = at_rate(arch, torch.eye(arch.anchors), points)[:, 0, 0].double()

    def at_anchors(table: Tensor) -> Tensor:
        """The anchors that a table of all rate points was interpolated from."""
        return torch.linalg.lstsq(from_anchors, table.double()).solution.float()

    n = arch.hidden_channels
    for key in state:
        name = key.removeprefix("p.")
        if not key.startswith("p."):
            continue
        if name == "synthesis_main":
            state[key] = real("synthesis_in")[..., :n]
        elif name == "synthesis_linear":
            state[key] = real("synthesis_in")[..., n if arch.residual else 0 :]
        else:
            state[key] = real(name)
            if name.startswith("rectifier") and name.endswith("_in"):
                state[key] *= torch.tensor(arrays["deviation"])[:, None]
    gain = real("gain")
    state |= {
        "log_gain": at_anchors(gain.log()),
        "log_inverse": at_anchors((real("inverse") * gain).log()),
        "log_hyper_gain": at_anchors((HYPER_UNIT / real("z_steps")).log()),
        "row_bias": at_anchors(real("row_bias")),
        "row_phase": real("row_phase"),
        "hidden_bias": at_anchors(real("row_hidden_bias")),
        "hidden_phase": real("row_hidden_phase"),
        "row_counts": torch.tensor(_counts(model), dtype=torch.float32),
    }
    state |= {name: real(name) for name in ("recon_offset", "deviation", "parity")}
    if arch.rectifiers:
        state["rectifier_bias"] = at_anchors(real("rectifier_bias"))
    state |= encoder_state(read_part(model.folder, model.description, "encoder"))
    codec.load_state_dict(state)
    return codec


def _counts(model: Model) -> np.ndarray:
    """Counts of magnitudes under every CDF row, ``(64, COUNTED)``, from the coder's tables."""
    counts = np.full((CDF_ROWS, COUNTED), 1e-6)
    counts[0, 0] = 1
    frequencies, sizes = model.arrays["y_frequencies"].astype(np.float64), model.arrays["y_sizes"].astype(int)
    ends = np.cumsum(sizes)
    for row in range(1, CDF_ROWS):
        p = frequencies[ends[row] - sizes[row] : ends[row]]
        zero = (sizes[row] - 2) // 2
        inside = min(COUNTED - 1, zero)
        counts[row, 0] = p[zero]
        counts[row, 1 : inside + 1] = p[zero + 1 : zero + inside + 1] + p[zero - inside : zero][::-1]
        counts[row, inside + 1 :] = p[-1] / 1000
    return COUNTS * counts / counts.sum(1, keepdims=True)
