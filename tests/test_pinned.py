"""What the shipped models make of three photographs changes by decision only: tests/pinned/make.py."""

from __future__ import annotations

import json

import pytest

from nicc.model import load_model
from tests.conftest import BACKBONE, MODELS
from tests.pinned.make import FIGURES, figures, gain

PINNED = json.loads(FIGURES.read_text())


@pytest.mark.parametrize("name", MODELS)
def test_bits_and_psnr(name):
    """Within 0.5 % and 0.02 dB: between machines, last bits may tip a symbol."""
    found, pinned = figures(name), PINNED[name]["figures"]
    assert found.keys() == pinned.keys()
    for key, (bpp, psnr) in pinned.items():
        assert found[key][0] == pytest.approx(bpp, rel=0.005), key
        assert found[key][1] == pytest.approx(psnr, abs=0.02), key


@pytest.mark.parametrize("name", [name for name in MODELS if "gain" in PINNED[name]])
def test_gain_of_realism(name):
    if not BACKBONE.exists():
        pytest.skip("AlexNet's features are not beside this checkout")
    assert load_model(name).has_realism
    assert PINNED[name]["gain"] > 0.1
    assert gain(name, BACKBONE) == pytest.approx(PINNED[name]["gain"], abs=0.01)
