from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import nicc
from nicc import ModelError
from nicc.architecture import LOG_ROW_STEP, ROW_BITS, Architecture
from nicc.arrays import EXACT_LIMIT, check_exactness, receiver_arrays
from nicc.container import Header
from nicc.model import REALISM_FILE, Model, find_model, load_model, model_of_code
from tests.conftest import MODELS, ROOT

BUDGET = {"two-layer-visual": 9000, "two-layer": 8000, "jpeg-like": 6000}


def test_partial_sums_stay_exact_in_float32(model):
    assert 0 < check_exactness(model.arrays, model.architecture) < EXACT_LIMIT


def test_a_model_whose_sums_could_round_is_refused(model):
    arrays = dict(model.arrays)
    arrays["row3_in"] = np.full_like(arrays["row3_in"], 32767)
    with pytest.raises(ModelError, match="not be exact"):
        check_exactness(arrays, model.architecture)


def test_the_decoder_stays_within_its_budget(model):
    assert 1000 < sum(model.macs_per_pixel().values()) <= BUDGET[model.name]


def test_rate_points_are_found_by_their_lambda(model):
    arch = model.architecture
    points = range(arch.rate_points)
    assert [arch.rate_point_of(arch.rate_lambda(point)) for point in points] == list(points)
    assert arch.rate_point_of(arch.rate_lambda(7.4)) == 7
    assert arch.rate_point_of(arch.rate_lambda(7.6)) == 8
    assert arch.rate_point_of(arch.lambda_min / 9) == 0
    assert arch.rate_point_of(arch.lambda_max * 9) == points[-1]


def test_shipped_weights_stay_small():
    sizes = {f: f.stat().st_size for name in MODELS for f in (ROOT / "models" / name).iterdir()}
    assert sum(n for f, n in sizes.items() if f.name != REALISM_FILE) <= 22e6
    assert sum(sizes.values()) <= 24e6


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "two-layer"
    shutil.copytree(find_model("two-layer"), folder)
    return folder


def test_a_damaged_model_is_refused(copy):
    path = copy / "decoder.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="digest"):
        load_model(str(copy))


@pytest.mark.parametrize("damage", ["{", "[]", "{}", ""])
def test_a_damaged_description_is_refused(copy, damage):
    (copy / "model.json").write_text(damage)
    with pytest.raises(ModelError, match="damaged"):
        load_model(str(copy))


def test_missing_arrays_are_refused(copy):
    (copy / "decoder.safetensors").unlink()
    with pytest.raises(ModelError, match="missing"):
        load_model(str(copy))


def test_another_models_weights_are_refused_by_their_fingerprint(copy, monkeypatch, astronaut):
    data = nicc.encode(astronaut.resize((32, 32)), model="two-layer")
    description = json.loads((copy / "model.json").read_text())
    model = load_model("two-layer")
    other = Model(description, {**model.arrays, "gain": model.arrays["gain"] * 2}, copy)
    assert other.fingerprint != model.fingerprint
    monkeypatch.setattr("nicc.decoder.decode.model_of_code", lambda code: other)
    with pytest.raises(ModelError, match="fingerprint"):
        nicc.decode(data)
    other = Model({**description, "version": 9, "earlier": {model.fingerprint.hex(): 5}}, other.arrays, copy)
    with pytest.raises(ModelError, match=r"written with two-layer version 5; .* this one has version 9"):
        nicc.decode(data)


@pytest.mark.parametrize("name", ["synthesis_in", "igdn_beta", "inverse", "recon_offset"])
def test_files_outlive_a_better_synthesis(name):
    """The fingerprint is of what gives bits their meaning, not of what renders it."""
    model = load_model("two-layer")
    other = Model(model.description, {**model.arrays, name: model.arrays[name] * 2})
    assert other.fingerprint == model.fingerprint
    assert other.sha256 != model.sha256


def test_missing_or_foreign_rectifiers_are_refused():
    model = load_model("two-layer")
    description = {**model.description, "architecture": {**model.description["architecture"], "rectifiers": 1}}
    with pytest.raises(ModelError, match="rectifier_bias is missing"):
        Model(description, model.arrays)
    arrays = {
        name: np.zeros(spec.shape, spec.kind)
        for name, spec in receiver_arrays(Architecture(rectifiers=1)).items()
        if "rectifier" in name
    }
    Model(description, {**model.arrays, **arrays})
    arrays["rectifier0_out"] = np.zeros((80, 256), np.float16)
    with pytest.raises(ModelError, match=r"rectifier0_out is \(80, 256\), not \(96, 256\)"):
        Model(description, {**model.arrays, **arrays})


def test_files_that_ask_for_realism_have_gains_of_their_own():
    model, plain = load_model("two-layer-visual"), load_model("two-layer")
    asking, not_asking = (Header(3, b"", 16, 16, 20, beta) for beta in (0.5, 0.001))  # the latter is 0 in a file
    assert model.for_file(not_asking) is model
    assert plain.for_file(asking) is plain
    other = model.for_file(asking)
    assert other.for_file(asking) is other
    assert (other.fingerprint, other.sha256) == (model.fingerprint, model.sha256)
    change = other.params["gain"] / model.params["gain"]
    np.testing.assert_allclose(change * other.params["inverse"] / model.params["inverse"], 1, rtol=1e-6)
    assert change[20].min() < 0.95
    assert change[20].max() > 1.05
    last = model.architecture.groups[-2]
    assert change[60, last:].max() < 0.8
    np.testing.assert_array_equal(change[-1, last:], 1)
    rows = (other.params["row_bias"] - model.params["row_bias"]) / 2**ROW_BITS
    np.testing.assert_allclose(rows, np.log(change) / LOG_ROW_STEP, atol=1e-3)
    with pytest.raises(ModelError, match=r"realism_rows is \(100, 448\)"):
        Model(model.description, {**model.arrays, "realism_rows": model.arrays["realism_rows"][1:]})


def test_unknown_models_are_refused():
    with pytest.raises(ModelError, match="available: jpeg-like, pyramid, two-layer"):
        load_model("three-layer")
    with pytest.raises(ModelError, match="code 77"):
        model_of_code(77)
    for name in ("../two-layer", "/tmp/x", ".hidden"):
        with pytest.raises(ModelError, match="plain name"):
            model_of_code(name)


def test_models_of_ones_own_are_found_by_folder_and_named_in_files(copy, monkeypatch, astronaut):
    own = copy.parent / "mine"
    copy.rename(own)
    description = json.loads((own / "model.json").read_text())
    (own / "model.json").write_text(json.dumps({**description, "name": "mine"}))
    image = astronaut.resize((40, 40))
    data = nicc.encode(image, model=str(own))
    assert nicc.inspect(data).model == "mine"
    with pytest.raises(ModelError, match="not found"):
        nicc.decode(data)
    monkeypatch.setenv("NICC_MODELS", str(own.parent))
    assert nicc.decode(data).size == (40, 40)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"synthesis": "three-layer"}, "synthesis"),
        ({"kernel": 13}, "kernel"),
        ({"synthesis": "jpeg-like", "kernel": 34, "residual": False}, "kernel"),
        ({"groups": [0, 3, 8, 16, 32, 56, 88, 128, 250]}, "groups"),
        ({"groups": [0, 3, 8, 8, 32, 56, 88, 128, 256]}, "groups"),
        ({"phases": [4, 2, 2, 2, 2, 1, 1]}, "phases"),
        ({"phases": [3, 2, 2, 2, 2, 1, 1, 1]}, "phases"),
        ({"bands": [1, 1, 1, 5, 6, 8, 10]}, "bands"),
        ({"bands": [1, 1, 1, 4, 6, 8]}, "bands"),
        ({"context_groups": 0}, "context_groups"),
        ({"context_groups": 8}, "context_groups"),
        ({"hidden_channels": 6}, "hidden_channels"),
        ({"rectifiers": 4}, "rectifiers"),
        ({"rectifiers": 1, "rectifier_width": 0}, "rectifiers"),
        ({"colour": 3}, "unknown"),
    ],
)
def test_impossible_architectures_are_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        Architecture.from_dict(changes)
