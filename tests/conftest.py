"""Fixtures: real photographs from scikit-image, the shipped models, the shared data where present."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from nicc.architecture import Architecture
from nicc.model import load_model

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
KODAK = ROOT.parent / "shared" / "data" / "kodak"
BACKBONE = ROOT.parent / "shared" / "data" / "perceptual" / "alexnet_features.pth"
MODELS = ("two-layer-visual", "two-layer", "jpeg-like")
TINY = Architecture(
    latent_channels=32,
    hyper_channels=32,
    groups=(0, 3, 8, 16, 32),
    phases=(4, 2, 1, 1),
    bands=(1, 5, 4),
    context_groups=2,
    analysis_width=16,
    analysis_depth=1,
)

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,1600 --force-device-scale-factor=1"
)


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


@pytest.fixture(scope="session")
def browser():
    if not BROWSER or not DRIVER:
        pytest.skip("no Chromium and chromedriver here; .ci/run installs them")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in QUIET.split():
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(180)  # a page's images took longer than the 30 s by default on a slow, busy machine
    yield driver
    driver.quit()


def wait_for_images(browser):
    browser.execute_async_script("Promise.all([...document.images].map(i => i.decode())).then(arguments[0])")
