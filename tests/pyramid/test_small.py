"""A small image costs no more than by the model that is trained for the same aim."""

from __future__ import annotations

import numpy as np
import pytest

import nicc
from nicc.encoder.encode import Result, encode_plainly
from nicc.encoder.entry import encode_picture
from nicc.encoder.settings import Annealing, Options, Settings
from nicc.images import Picture
from nicc.model import load_model

pytest.importorskip("numba", reason="fitting needs Numba")


@pytest.fixture(scope="module", autouse=True)
def fits_alone() -> None:
    """Here they do not."""


@pytest.fixture
def picture(coffee) -> Picture:
    return Picture(np.asarray(coffee.resize((64, 64))))


def encoded(picture: Picture, steps: int, tune: str = "psnr") -> Result:
    return encode_picture(picture, Options(model="pyramid", tune=tune, quality=30, steps=steps, lossless=False))


@pytest.mark.parametrize(("tune", "name"), [("psnr", "two-layer"), ("visual", "two-layer-visual")])
def test_a_poor_fit_gives_way_to_the_trained_model(tune, name, picture):
    result = encoded(picture, 1, tune)
    assert result.model.name == name
    assert name in result.notes[0]
    assert nicc.inspect(result.data).model == load_model(name).code
    np.testing.assert_array_equal(np.asarray(nicc.decode(result.data)), result.decoded)
    plain = encode_plainly(result.model, picture, 30)
    settings = Settings(30, Annealing(0), lagrangian=result.settings.lagrangian)
    assert result.cost <= Result(result.model, picture, settings, plain, visual=tune == "visual").cost


def test_a_good_fit_is_kept(picture):
    result = encoded(picture, 120)
    assert result.model.name == "pyramid"
    assert not result.notes
    assert result.cost < encoded(picture, 1).cost


def test_larger_images_are_fitted_whatever_it_costs(picture, monkeypatch):
    monkeypatch.setattr("nicc.encoder.fitting.SMALL", 64 * 64 - 1)
    assert encoded(picture, 1).model.name == "pyramid"
