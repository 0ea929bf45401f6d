"""What tests of training stages share: a photograph to train on, a model to train on, a run's log."""

from __future__ import annotations

import json
import shutil

import pytest

from nicc.model import REALISM_FILE, find_model


def entries(out):
    """A run's log."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def bare_model(tmp_path, monkeypatch):
    """A copy of the default model without a head, which is found by its name."""
    folder = tmp_path / "models" / "two-layer"
    shutil.copytree(find_model("two-layer"), folder)
    (folder / REALISM_FILE).unlink(missing_ok=True)
    monkeypatch.setenv("NICC_MODELS", str(folder.parent))
    return folder


@pytest.fixture
def photos(tmp_path, coffee):
    """A folder with one photograph."""
    (tmp_path / "photos").mkdir()
    coffee.save(tmp_path / "photos" / "coffee.png")
    return tmp_path / "photos"
