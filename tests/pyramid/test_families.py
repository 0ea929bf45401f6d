"""Families of starts: the encoder tries each and keeps the better one, files say which."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from PIL import Image

import nicc
from nicc.encoder.fitting import analysis_arrays, set_first_latents
from nicc.errors import ModelError
from nicc.model import load_model
from nicc.pyramid.directions import COMMON, Directions
from nicc.pyramid.layout import PyramidArchitecture
from nicc.pyramid.model import Family, PyramidModel
from nicc.training.pyramid import write_model
from tests.pyramid.test_golden import nearest_family

pytest.importorskip("numba", reason="fitting needs Numba")
from nicc.pyramid.encode import RICH, Fitter, sample_of
from nicc.pyramid.fit import Fit


@pytest.fixture
def photo(coffee) -> Image.Image:
    return coffee.resize((96, 64))


def model_of(tmp_path, rng, good: int) -> PyramidModel:
    """The shipped model's first family as number ``good`` of two; the other has starts at random."""
    shipped = load_model("pyramid")
    arch = PyramidArchitecture(families=2)
    wild = Family(rng.integers(-2000, 2000, (arch.starts, arch.parameters())), Directions.plain(arch.parameters()))
    arrays = shipped.families[0].arrays(good) | wild.arrays(1 - good)
    facts = {"name": "two", "version": 1, "architecture": arch.to_dict(), "training": shipped.description["training"]}
    return write_model(tmp_path / "two", facts, arrays, analysis_arrays(shipped))


def try_early(monkeypatch) -> None:
    """Families are tried in fits of 60 steps already, and on small images, which are not fitted from both."""
    monkeypatch.setattr("nicc.pyramid.encode.SMALL_TWICE", 0)
    monkeypatch.setattr("nicc.pyramid.encode.LEAST_TRIED", 12)
    monkeypatch.setattr("nicc.pyramid.encode.LATER", 0.0)
    monkeypatch.setattr("nicc.pyramid.encode.TRIED", 0.4)


@pytest.mark.parametrize("good", [0, 1])
def test_the_better_family_is_chosen_and_decoded(good, photo, tmp_path, rng, monkeypatch):
    try_early(monkeypatch)
    model = model_of(tmp_path, rng, good)
    steps = []
    fitter = Fitter(model, np.asarray(photo))
    assert fitter.fits(15) == 2  # of so small an image, the latents alone as well
    fitter.run(15, 0.002, 60, lambda step, *_: steps.append(step))
    assert fitter.family == good
    assert steps == list(range(25, 121))  # after twelve of each family
    assert fitter.fits(15) == 1  # it would go on
    monkeypatch.setenv("NICC_MODELS", str(tmp_path))
    data = nicc.encode(photo, model="two", tune="psnr", sga_steps=60, quality=15, lossless=False)
    assert nearest_family(data) == good
    error = np.asarray(nicc.decode(data), float) - np.asarray(photo)
    assert np.abs(error).mean() < 16


def test_few_steps_and_high_rates_are_the_first_family_s(photo, tmp_path, rng, monkeypatch):
    try_early(monkeypatch)
    fitter = Fitter(model_of(tmp_path, rng, 1), np.asarray(photo))
    for rate_point, steps in ((15, 50), (15, 60), (70, 60)):
        fitter.run(rate_point, 0.002, steps)
        assert fitter.family == (steps == 60 and rate_point == 15)
        fitter.begun = None


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("good", [0, 1])
def test_every_family_is_fitted_at_low_rates(good, beside, photo, tmp_path, rng, monkeypatch):
    """To a small image, and to what graphics leave of a page."""
    pixels, pasted = np.asarray(photo), None
    if beside:
        monkeypatch.setattr("nicc.pyramid.encode.SMALL_TWICE", 0)
        pasted = np.zeros(pixels.shape[:2], bool)
        pasted[:, 64:] = True
    fitter = Fitter(model_of(tmp_path, rng, good), pixels, pasted=pasted, page=beside)
    for rate_point in (20, 70):
        weight = fitter.model.architecture.rate_lambda(rate_point)
        fitter.run(rate_point, weight, 30)
        assert fitter.family == (good if rate_point == 20 else 0)
        bits, distortion = fitter.fit.measure()  # of the family that was kept
        if fitter.family == good:
            assert (bits + weight * distortion) * fitter.fit.pixels < fitter.cost() + 1
            assert distortion < 300


def test_all_directions_are_for_rich_images(photo, monkeypatch):
    """By what first latents cost."""
    model = load_model("pyramid")
    analyse = partial(set_first_latents, analysis_arrays(model))
    weight = model.architecture.rate_lambda(78)
    monkeypatch.setattr("nicc.pyramid.encode.SMALL", 0)
    used = []
    for rich in (RICH, RICH / 20):
        monkeypatch.setattr("nicc.pyramid.encode.RICH", rich)
        fitter = Fitter(model, np.asarray(photo), analyse=analyse)
        fitter.run(78, weight, 20)
        used.append(fitter.fit.used)
        assert not fitter.fit.coefficients[fitter.fit.used :].any()
        assert fitter.cost() < RICH / 2
    assert used == [COMMON, len(model.families[0].directions)]
    assert used[1] > COMMON


def test_long_fits_begin_with_latents_of_zero(photo, monkeypatch):
    """Their networks and directions are those that the analysis' latents tell."""
    model = load_model("pyramid")
    monkeypatch.setattr("nicc.pyramid.encode.SMALL", 0)
    monkeypatch.setattr("nicc.pyramid.encode.LONG", 21)
    monkeypatch.setattr("nicc.pyramid.encode.RICH", RICH / 20)
    first = []
    run = Fit.run

    def noted(fit, *rest):
        first.append((fit.used, np.abs(fit.strips[0].y).max()))
        run(fit, *rest)

    monkeypatch.setattr(Fit, "run", noted)
    for steps in (20, 21):
        fitter = Fitter(model, np.asarray(photo), analyse=partial(set_first_latents, analysis_arrays(model)))
        fitter.run(78, model.architecture.rate_lambda(78), steps)
    assert [used for used, _ in first] == [len(model.families[0].directions)] * 2
    assert first[0][1] > 5
    assert first[1][1] == 0


def test_an_interrupted_trial_leaves_what_can_be_kept(photo, tmp_path, rng, monkeypatch):
    try_early(monkeypatch)
    fitter = Fitter(model_of(tmp_path, rng, 1), np.asarray(photo))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Fitter, "_trial", interrupted)
    assert not fitter.run(15, 0.002, 60, keep=True)
    assert fitter.family == 0
    assert 0 < fitter.cost() < 24 * photo.width * photo.height
    with pytest.raises(KeyboardInterrupt):
        Fitter(fitter.model, np.asarray(photo)).run(15, 0.002, 60)


def test_a_sample_is_the_middles_of_the_quarters():
    y, x = np.mgrid[:512, :768]
    pixels = np.stack([y // 2, x // 3, y % 2], -1).astype(np.uint8)
    sample = sample_of(pixels)
    assert sample.shape == (128, 128, 3)
    np.testing.assert_array_equal(sample[:64, :64], pixels[96:160, 160:224])
    np.testing.assert_array_equal(sample[64:, 64:], pixels[352:416, 544:608])
    assert sample_of(pixels[:100]).shape == (100, 768, 3)  # the whole
    assert sample_of(np.zeros((3000, 6000, 3), np.uint8)).shape == (512, 512, 3)


def test_architectures_have_at_least_one_family():
    with pytest.raises(ModelError, match="families"):
        PyramidArchitecture(families=0)


def test_the_start_of_a_rate_point():
    arch = PyramidArchitecture()
    starts = {0: 0, 12: 0, 13: 1, 25: 1, 26: 2, 50: 3, 51: 4, 56: 4, 57: 5, 68: 5, 69: 6, 100: 8}
    assert {point: arch.start_of(point) for point in starts} == starts
    points = [arch.points_of(n) for n in range(arch.starts)]
    assert all(points)
    assert sorted(itertools.chain(*points)) == list(range(arch.rate_points))
