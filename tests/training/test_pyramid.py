"""Starts of a pyramid: trained, resumed, exported, and used."""

from __future__ import annotations

import json

import numpy as np
import pytest

import nicc
from nicc.errors import ModelError
from nicc.model import load_model
from nicc.training.config import load_config
from nicc.training.stage import Run

pytest.importorskip("numba", reason="fitting needs Numba")
from nicc.training import pyramid
from nicc.training.data import Photos

TINY = """
stage = "pyramid"
name = "tiny"
[architecture]
neighbours = 4
context_hidden = 4
colour_hidden = 4
starts = 3
[training]
photos = 4
batch = 2
crop = 64
first_steps = 40
steps = 4
"""


def test_shipped_configuration():
    config = load_config("pyramid")
    assert config.architecture == load_model("pyramid").architecture


def test_train_resume_start_and_export(tmp_path, astronaut, monkeypatch):
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "photos").mkdir()
    astronaut.save(tmp_path / "photos" / "a.png")
    config, data = load_config(str(tmp_path / "tiny.toml")), [tmp_path / "photos"]
    run = Run(data, tmp_path / "run")
    entries = []
    checkpoint = pyramid.train(config, run, lambda entry, share: entries.append((entry["anchor"], share)))
    assert entries == [(1, 1 / 3), (0, 2 / 3), (2, 1)]
    log = [json.loads(line) for line in (run.out / "log.jsonl").read_text().splitlines()]
    assert log[0]["loss"] > log[1]["loss"]  # less distortion counts less
    with pytest.raises(ModelError, match="exists; continue it with --resume"):
        pyramid.train(config, run)
    pyramid.train(config, Run(data, run.out, resume=True))
    _, facts = pyramid.read_starts(checkpoint)
    assert facts["step"] == 2 * 48
    assert facts["pixels"] == 2 * 48 * 2 * 64 * 64

    model = pyramid.export(config, checkpoint, tmp_path / "tiny", Photos(data), data)
    assert "3 starts" in (tmp_path / "tiny" / "README.md").read_text()
    monkeypatch.setenv("NICC_MODELS", str(tmp_path))
    photo = astronaut.resize((60, 40))
    decoded = nicc.decode(nicc.encode(photo, model="tiny", tune="psnr", sga_steps=60, quality=60, lossless=False))
    assert np.abs(np.asarray(decoded, float) - np.asarray(photo)).mean() < 25

    other = pyramid.train(config, Run(data, tmp_path / "other", begin=tmp_path / "tiny", time_budget=1e-9))
    starts, facts = pyramid.read_starts(other)
    np.testing.assert_allclose(starts, model.arrays["starts"] / 4096)
    assert facts["step"] == 2 * 48
    with pytest.raises(ModelError, match="not a model of the configuration"):
        pyramid.train(load_config("pyramid"), Run(data, tmp_path / "third", begin=tmp_path / "tiny"))
