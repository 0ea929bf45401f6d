"""What tests of training stages share: a photograph to train on, a model to train on, a run's log."""

from __future__ import annotations

import json
import shutil
from functools import partial

import lpips
import pytest
import torch

from nicc.model import REALISM_FILE, find_model
from nicc.training import export, start
from nicc.training.perceptual import NETWORKS


def entries(out):
    """A run's log."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="package", autouse=True)
def quick_starts():
    """Transforms and priors from fewer samples and steps than real trainings take: most of a tiny run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "lapped_klt", partial(start.lapped_klt, blocks=6000))
        patch.setattr(start, "PRIOR_STEPS", 40)
        patch.setattr(start, "START_CROPS", 24)
        patch.setattr(export, "REFIT_CROPS", 40)
        patch.setattr(export, "HYPER_CROPS", 16)
        yield


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


@pytest.fixture(scope="session")
def perceptual(tmp_path_factory):
    """LPIPS networks' features with random weights, in files as torchvision names them."""
    folder = tmp_path_factory.mktemp("perceptual")
    torch.manual_seed(0)
    for name, full in NETWORKS.items():
        state = lpips.LPIPS(net=name, pnet_rand=True, verbose=False).net.state_dict()
        torch.save({f"features.{k.split('.', 1)[1]}": v for k, v in state.items()}, folder / f"{full}_features.pth")
    return folder
