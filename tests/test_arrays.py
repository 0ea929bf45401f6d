"""The one description of a receiver's arrays, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nicc import ModelError
from nicc.arrays import check_arrays, macs_per_pixel, receiver_arrays
from nicc.model import Model, load_model
from nicc.training.codec import CodecModule
from nicc.training.export import decoder_arrays
from tests.conftest import TINY

LARGER = replace(
    TINY,
    latent_channels=48,
    groups=(0, 3, 8, 16, 32, 48),
    phases=(4, 2, 1, 1, 1),
    bands=(1, 5, 4, 8),
    hidden_channels=16,
    main_channels=20,
    adaptive=True,
    rate_points=101,
    anchors=13,
    lambda_max=0.86,
    objective="visual",
)


@pytest.mark.parametrize(
    "arch", [TINY, LARGER, replace(TINY, rectifiers=2), replace(TINY, synthesis="jpeg-like", kernel=32, residual=False)]
)
def test_export_writes_what_is_described(arch):
    torch.manual_seed(0)
    arrays = decoder_arrays(CodecModule(arch))
    check_arrays(arch, arrays)
    required = {name for name, spec in receiver_arrays(arch).items() if not spec.optional}
    assert set(arrays) == required


def test_shipped_models_are_what_is_described(model):
    check_arrays(model.architecture, model.arrays)
    assert sum(macs_per_pixel(model.architecture).values()) < 9000


@pytest.mark.parametrize("name", ["gain", "row3_in", "synthesis_in", "z_steps"])
def test_a_model_that_lacks_an_array_is_refused(name):
    model = load_model("two-layer")
    arrays = {k: v for k, v in model.arrays.items() if k != name}
    with pytest.raises(ModelError, match=f"two-layer: damaged: array {name} is missing"):
        Model(model.description, arrays, model.folder)


def test_every_missing_array_is_noticed():
    model = load_model("two-layer")
    for name in model.arrays:
        with pytest.raises(ModelError, match="missing"):
            Model(model.description, {k: v for k, v in model.arrays.items() if k != name}, model.folder)


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("igdn_beta", lambda a: a[:-1], r"is \(11,\), not \(12,\)"),
        ("gain", lambda a: a.T, "is .256, 64., not"),
        ("mean_z", lambda a: a.astype(np.float32), "holds float32, not float16"),
        ("parity", lambda a: a[..., None], "is .2, 256, 1., not"),
        ("y_frequencies", lambda a: a[:-1], "not those of y_sizes"),
        ("row3_in", lambda a: np.full_like(a, 32767), "would not be exact"),
    ],
)
def test_a_model_with_a_wrong_array_is_refused(name, change, problem):
    model = load_model("two-layer")
    with pytest.raises(ModelError, match=problem):
        Model(model.description, model.arrays | {name: change(model.arrays[name])}, model.folder)


def test_an_unknown_array_is_refused():
    model = load_model("two-layer")
    with pytest.raises(ModelError, match="array more belongs to no model"):
        Model(model.description, {**model.arrays, "more": np.zeros(3)}, model.folder)
