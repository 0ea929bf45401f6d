"""Fixtures: real photographs from scikit-image, the shipped models, the shared data where present."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from nicc.model import load_model

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
KODAK = ROOT.parent / "shared" / "data" / "kodak"
MODELS = ("two-layer", "jpeg-like")


@pytest.fixture(scope="session")
def astronaut() -> Image.Image:
    """A 512x512 RGB photograph."""
    return Image.fromarray(photos.astronaut())


@pytest.fixture(scope="session")
def coffee() -> Image.Image:
    """A 600x400 RGB photograph."""
    return Image.fromarray(photos.coffee())


@pytest.fixture(params=MODELS)
def model(request):
    return load_model(request.param)


@pytest.fixture
def kodak() -> list[Path]:
    if not KODAK.is_dir():
        pytest.skip("the Kodak photographs are not beside this checkout")
    return sorted(KODAK.glob("*.png"))


def psnr(a, b) -> float:
    error = np.asarray(a, float) - np.asarray(b, float)
    return float(10 * np.log10(255**2 / max(np.mean(error**2), 1e-9)))
