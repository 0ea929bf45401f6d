"""What a pyramid's encoder begins with: trained, resumed, exported, and used."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import nicc
from nicc.decoder import ops as arrays
from nicc.encoder import ops as tensors
from nicc.encoder.fitting import analysis_arrays
from nicc.errors import ModelError
from nicc.model import load_model, read_part
from nicc.pyramid import analysis
from nicc.training.config import load_config
from nicc.training.config_pyramid import FamilyConfig, FamilySchedule
from nicc.training.stage import Run, validation_images
from tests.conftest import ROOT
from tests.training.conftest import entries

pytest.importorskip("numba", reason="fitting needs Numba")
from nicc.training import directions, family, pyramid
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
batch = 2
crop = 128
steps = 60
log_every = 20
validate_every = 60
rate = 3e-3
network_rate = 6e-3
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    return load_config(str(tmp_path / "tiny.toml"))


def test_shipped_configuration():
    arch = load_model("pyramid").architecture
    assert load_config("pyramid").architecture == replace(arch, families=1)
    assert load_config("pyramid-directions").family < arch.families


def test_crops_must_fit_the_coarsest_grid(tmp_path):
    (tmp_path / "a.toml").write_text(TINY.replace("crop = 128", "crop = 64"))
    with pytest.raises(ModelError, match="multiple of 128"):
        load_config(str(tmp_path / "a.toml"))


def test_it_learns_resumes_exports_and_is_used(config, photos, tmp_path, astronaut, monkeypatch):
    monkeypatch.setattr("nicc.training.stage.VALIDATION_CROP", 128)
    validation = tmp_path / "validation"
    validation.mkdir()
    astronaut.crop((0, 0, 400, 400)).save(validation / "a.png")
    run = Run([photos], tmp_path / "run", validation=validation)
    checkpoint = pyramid.train(config, run)
    before, after = (e["validation"]["cost"] for e in entries(run.out) if "validation" in e)
    assert after < before - 0.5
    losses = [e["loss"] for e in entries(run.out) if "loss" in e]
    assert losses[-1] < losses[0]
    with pytest.raises(ModelError, match="exists; continue it with --resume"):
        pyramid.train(config, run)
    pyramid.train(replace(config, training=replace(config.training, steps=62)), Run([photos], run.out, resume=True))
    assert torch.load(checkpoint, weights_only=True)["step"] == 62

    model = pyramid.export(config, checkpoint, tmp_path / "tiny", Photos([photos]), [photos])
    assert "1 x 3 starts" in (tmp_path / "tiny" / "README.md").read_text()
    assert model.description["training"]["pixels"] == 62 * 2 * 128 * 128
    monkeypatch.setenv("NICC_MODELS", str(tmp_path))
    monkeypatch.setattr("nicc.encoder.fitting.SMALL", 0)  # what a trained model makes of it may cost less
    photo = astronaut.resize((60, 40))
    decoded = nicc.decode(nicc.encode(photo, model="tiny", tune="psnr", sga_steps=60, quality=60, lossless=False))
    assert np.abs(np.asarray(decoded, float) - np.asarray(photo)).mean() < 25

    finder = replace(load_config("pyramid-directions"), name="tiny", count=50)
    quick = replace(finder.training, steps=12, crop=64, fit_steps=30, curvatures=1, validate_every=12)
    run = Run([photos], tmp_path / "found", validation=validation, begin=tmp_path / "tiny")
    checkpoint = directions.train(replace(finder, training=quick), run)
    assert len([e for e in entries(run.out) if "validation" in e]) == 2
    better = directions.export(finder, checkpoint, tmp_path / "better", Photos([photos]), [photos])
    assert len(better.families[0].directions) == 50
    np.testing.assert_array_equal(better.families[0].starts, model.families[0].starts)
    deviations = better.families[0].directions.deviations
    assert (np.diff(deviations) <= 0).all()
    options = {"tune": "psnr", "sga_steps": 60, "quality": 60, "lossless": False}
    sizes = [len(nicc.encode(photo, model=name, **options)) for name in ("tiny", "better")]
    assert sizes[1] < sizes[0]

    other = pyramid.StartTrainer(config, Run([photos], tmp_path / "other", begin=tmp_path / "tiny"))
    for networks, start in zip(other.module.networks, model.families[0].starts, strict=True):
        np.testing.assert_allclose(networks.detach().numpy(), start / 4096, rtol=1e-6)
    for name, value in read_part(tmp_path / "tiny", model.description, "encoder").items():
        np.testing.assert_array_equal(other.module.p[name].detach().numpy(), value.astype(np.float32))
    assert other.step == 62
    other.average.values["networks.0"] += 1
    other.save()
    newer = pyramid.export(config, tmp_path / "other" / "checkpoint.pt", tmp_path / "tiny", Photos([photos]), [photos])
    assert newer.earlier == {model.fingerprint.hex(): 1}
    with pytest.raises(ModelError, match="not a model of the configuration"):
        pyramid.train(load_config("pyramid"), Run([photos], tmp_path / "third", begin=tmp_path / "tiny"))


def test_a_further_family(config, photos, tmp_path, astronaut, monkeypatch):
    """It is trained start by start, goes on after a stop, joins the model and gets directions."""
    monkeypatch.setattr("nicc.training.stage.VALIDATION_CROP", 128)
    monkeypatch.setattr(family, "CHECK_STEPS", 5)
    validation = tmp_path / "validation"
    validation.mkdir()
    astronaut.crop((0, 0, 400, 400)).save(validation / "a.png")
    start = pyramid.StartTrainer(config, Run([photos], tmp_path / "start"))
    start.save()
    model = pyramid.export(config, start.run.out / "checkpoint.pt", tmp_path / "tiny", Photos([photos]), [photos])

    quick = FamilySchedule(steps=60, batch=2, crop=64, validate_every=36, log_every=12)
    settings = FamilyConfig("tiny", version=2, training=quick)
    run = Run([photos], tmp_path / "family", validation=validation, begin=tmp_path / "tiny")
    with pytest.raises(ModelError, match="multiple of 5"):
        family.train(replace(settings, training=replace(quick, steps=61)), run)
    with pytest.raises(ModelError, match="time-budget"):
        family.train(settings, replace(run, time_budget=9.0))
    checkpoint = family.train(settings, run)
    found = [e for e in entries(run.out) if "log_cost" in e]
    assert [e["start"] for e in found] == [1, 2, 0]
    assert [e["step"] for e in found] == [36, 48, 60]
    losses = [e["loss"] for e in entries(run.out) if "loss" in e]
    assert losses[2] < losses[0] - 0.5
    assert found[1]["psnr"] > found[0]["psnr"] > found[2]["psnr"]
    checks = [e["validation"]["log_costs"] for e in entries(run.out) if "validation" in e]
    assert [len(c) for c in checks] == [0, 1, 1]

    saved = torch.load(checkpoint, weights_only=True)
    del saved["trained"][0]
    torch.save(saved | {"step": 55}, checkpoint)
    with pytest.raises(ModelError, match="1 starts are not trained yet"):
        family.export(settings, checkpoint, tmp_path / "tiny2", Photos([photos]), [photos])
    for _ in range(2):  # the second time, nothing is left to do
        family.train(settings, replace(run, resume=True))
    assert torch.load(checkpoint, weights_only=True)["step"] == 60

    both = family.export(settings, checkpoint, tmp_path / "tiny2", Photos([photos]), [photos])
    assert len(both.families) == 2
    np.testing.assert_array_equal(both.families[0].starts, model.families[0].starts)
    finder = replace(load_config("pyramid-directions"), name="tiny2", count=50, family=1)
    finder = replace(finder, training=replace(finder.training, steps=6, crop=64, fit_steps=20, curvatures=1))
    run = Run([photos], tmp_path / "found", validation=validation, begin=tmp_path / "tiny2")
    checkpoint = directions.train(finder, run)
    images = validation_images(validation)
    others = (
        directions.DirectionFinder(replace(finder, family=n), replace(run, out=tmp_path / f"{n}")) for n in (0, 1)
    )
    costs = [finder_of.validate(images)["cost"] for finder_of in others]
    assert abs(costs[0] - costs[1]) > 0.1  # each validates fits of its own family
    both = directions.export(finder, checkpoint, tmp_path / "tiny2", Photos([photos]), [photos])
    np.testing.assert_array_equal(both.families[0].directions.rows, model.families[0].directions.rows)
    assert len(both.families[1].directions) == 50
    with pytest.raises(ModelError, match="no family 2"):
        directions.train(replace(finder, family=2), Run([photos], tmp_path / "third", begin=tmp_path / "tiny2"))


def test_a_family_is_trained_on(config, photos, tmp_path):
    start = pyramid.StartTrainer(config, Run([photos], tmp_path / "start"))
    start.save()
    model = pyramid.export(config, start.run.out / "checkpoint.pt", tmp_path / "one", Photos([photos]), [photos])
    facts = model.description | {"architecture": replace(model.architecture, families=2).to_dict()}
    known = model.families[0]
    pyramid.write_model(tmp_path / "two", facts, known.arrays(0) | known.arrays(1), analysis_arrays(model))

    quick = FamilySchedule(steps=48, batch=2, crop=64, log_every=12, starts=2)
    settings = FamilyConfig("tiny", version=2, family=1, training=quick)
    run = Run([photos], tmp_path / "run", begin=tmp_path / "two")
    with pytest.raises(ModelError, match="no family 2"):
        family.train(replace(settings, family=2), run)
    for wrong in (replace(settings, training=replace(quick, starts=1)), replace(settings, family=None)):
        with pytest.raises(ModelError, match="starts must be"):
            family.train(wrong, run)
    checkpoint = family.train(settings, run)
    assert [e["start"] for e in entries(run.out) if "log_cost" in e] == [1, 0]
    losses = [e["loss"] for e in entries(run.out) if "loss" in e]
    assert losses[1] < losses[0]
    with pytest.raises(ModelError, match="another model or family"):
        family.train(replace(settings, family=0), replace(run, resume=True))
    trained = family.export(settings, checkpoint, tmp_path / "three", Photos([photos]), [photos])
    moved = [np.any(a != b) for a, b in zip(trained.families[1].starts, known.starts, strict=True)]
    assert moved == [True, True, False]
    np.testing.assert_array_equal(trained.families[1].directions.rows, known.directions.rows)
    np.testing.assert_array_equal(trained.families[0].starts, known.starts)


def test_numpy_and_pytorch_find_the_same_latents():
    torch.manual_seed(3)
    p = {k: 0.2 * torch.randn(shape) for k, shape in analysis.shapes(3).items()}
    x = torch.rand(1, 128, 256, 3) - 0.5
    expected = analysis.first_latents(tensors, p, x, 2)
    found = analysis.first_latents(arrays, {k: v.numpy() for k, v in p.items()}, x[0].numpy(), 2)
    assert [g.shape for g in found] == [(128 >> k, 256 >> k, 1) for k in range(8)]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b[0].numpy(), rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def test_its_gradients_are_those_of_the_logarithm_of_the_cost(config, photos, tmp_path, monkeypatch):
    """Without noise, a shift of a grid's latents changes the logarithm by what the gradient says."""
    monkeypatch.setattr(pyramid, "NOISE", (0.0, 0.0))
    trainer = pyramid.StartTrainer(config, Run([photos], tmp_path / "run"))
    trainer.update = lambda module, optimizer, objective: objective.backward() or torch.zeros(())
    bias = trainer.module.p["out_bias"]

    def logarithm(shift: float, grid: int) -> float:
        trainer.rng = np.random.default_rng(5)
        with torch.no_grad():
            bias[:, grid] += shift
        loss = trainer.train_step()["loss"]
        with torch.no_grad():
            bias[:, grid] -= shift
        return loss

    for grid in (0, 3):
        up, down = logarithm(0.02, grid), logarithm(-0.02, grid)
        bias.grad = None
        logarithm(0.0, grid)
        assert float(bias.grad[:, grid].sum()) == pytest.approx((up - down) / 0.04, rel=0.05)
    assert sum(p.grad is not None for p in trainer.module.networks) == 1  # one start at a time


def test_directions_make_costs_round_and_fits_uncorrelated():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6, 6))
    curvature = a @ a.T + np.eye(6)
    ways = rng.normal(size=(4000, 3)) @ rng.normal(size=(3, 6))
    ways += 0.1 * rng.normal(size=ways.shape)
    found, deviations = directions.principal(curvature, ways, 6)
    np.testing.assert_allclose(found @ curvature @ found.T, np.eye(6), atol=1e-6)
    coefficients = ways @ np.linalg.inv(found)
    assert (np.diff(deviations) <= 0).all()
    assert deviations[3] < 0.6 * deviations[0]
    few, _ = directions.principal(curvature, ways, 2)
    np.testing.assert_allclose(few, found[:2])
    assert coefficients[:, 0].std() > coefficients[:, 5].std()


def test_curvature_is_that_of_the_cost(config, photos, tmp_path):
    """Second differences of bits and distortion along one parameter of the last filter, which is no kink's."""
    arch = config.architecture
    fit = directions.Fit([directions.Strip(Photos([photos]).images[0][:64, :64])], pyramid.Networks(arch))
    fit.networks.flat[:] = pyramid.untrained(arch, np.random.default_rng(0)).flat
    fit.strips[0].y[:] = 3 * np.random.default_rng(1).normal(size=fit.strips[0].count)
    fit.weight = 0.01
    found = directions.curvature_of(fit)
    at = len(fit.networks.flat) - 1  # filter2's last bias

    def cost(shift: float) -> float:
        fit.networks.flat[at] += np.float32(shift)
        bits = fit.strips[0].bits(fit.networks, fit.strips[0].y)
        d, _ = fit.strips[0].distortion(fit.strips[0].synthesise(fit.networks, fit.strips[0].y))
        fit.networks.flat[at] -= np.float32(shift)
        return (bits + fit.weight * d) / fit.pixels

    expected = (cost(0.05) - 2 * cost(0.0) + cost(-0.05)) / 0.05**2
    assert found[at, at] == pytest.approx(expected, rel=0.02)
    np.testing.assert_allclose(found, found.T)


def test_processes_put_their_fits_together(config, photos, tmp_path):
    """And one goes on alone where two have stopped."""
    trainer = pyramid.StartTrainer(config, Run([photos], tmp_path / "starts"))
    trainer.save()
    checkpoint = tmp_path / "starts" / "checkpoint.pt"
    pyramid.export(config, checkpoint, tmp_path / "tiny", Photos([photos]), [photos])
    schedule = "steps = 4\nbatch = 1\ncrop = 64\nfit_steps = 3\ncurvatures = 1\nvalidate_every = 1000"
    toml = tmp_path / "directions.toml"
    toml.write_text(f'stage = "pyramid-directions"\nname = "tiny"\nmodel = "{tmp_path}/tiny"\n[training]\n{schedule}\n')
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--")
    train = ("nicc", "train", str(toml), "--data", str(photos), "--out", str(tmp_path / "run"), "--quiet")
    subprocess.run([sys.executable, *launch, *train], cwd=ROOT, check=True, capture_output=True)
    first = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert [len(ends) for ends in first["ended_at"]] == [2, 1, 1]
    assert (first["curved"], first["step"], first["pixels"]) == (3, 4, 4 * 3 * 64 * 64)

    finder = load_config(str(toml))
    more = replace(finder, training=replace(finder.training, steps=6))
    last = torch.load(directions.train(more, Run([photos], tmp_path / "run", resume=True)), weights_only=True)
    assert [len(ends) for ends in last["ended_at"]] == [2, 2, 2]
    assert (last["curved"], last["step"], last["pixels"]) == (3, 6, 6 * 3 * 64 * 64)
    ends = torch.stack([end for some in last["ended_at"] for end in some])
    assert len(torch.unique(ends, dim=0)) == 6
    assert torch.equal(first["ended_at"][0][1], last["ended_at"][0][1])
