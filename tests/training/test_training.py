"""Tiny runs of the real training stage: it learns, resumes, repeats, exports, and runs in parallel."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import tarfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import nicc
from nicc import ImageError, ModelError
from nicc.architecture import LOG_ROW_STEP, REALISM_UNIT
from nicc.encoder.quantise import Quantiser, rounding_of
from nicc.model import load_model, load_transform
from nicc.training import stage
from nicc.training.codec import CodecModule
from nicc.training.config import CodecSchedule, RealismGains, TrainingConfig, Weighting, load_config
from nicc.training.data import Photos
from nicc.training.export import active_groups, decoder_arrays, export
from nicc.training.growth import start_from
from nicc.training.klt import lapped_klt, lapping
from nicc.training.objective import Phase, RateDistortion
from nicc.training.rate_distortion import train
from nicc.training.realism_gains import HIGH, realism_rows
from nicc.training.restore import restored_codec
from nicc.training.stage import Run
from nicc.training.weighting import spectra
from tests.conftest import ROOT, TINY, psnr
from tests.training.conftest import entries

SCHEDULE = CodecSchedule(steps=20, entropy_steps=8, batch=2, crop=64, log_every=5, validate_every=1000)
CONFIG = TrainingConfig("tiny", 1, TINY, SCHEDULE)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, astronaut, coffee):
    """A folder and a tar shard of photographs."""
    path = tmp_path_factory.mktemp("photos")
    coffee.save(path / "coffee.png")
    astronaut.save(path / "astronaut.jpg", quality=95)
    with tarfile.open(path / "shard.tar", "w") as tar:
        tar.add(path / "astronaut.jpg", "inside.jpg")
    (path / "astronaut.jpg").unlink()
    return path


def run(folder, out, config=CONFIG, **changes):
    return train(config, Run([folder], out, amp=False, **changes))


@pytest.fixture(scope="module")
def begun(folder, tmp_path_factory):
    """The checkpoint of a run that others start from."""
    return run(folder, tmp_path_factory.mktemp("begun"))


def test_training_learns(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "VALIDATION_CROP", 192)
    config = replace(CONFIG, training=replace(SCHEDULE, steps=100, entropy_steps=40, validate_every=50))
    validation = tmp_path / "validation"
    validation.mkdir()
    with Image.open(folder / "coffee.png") as image:
        image.crop((0, 0, 400, 390)).save(validation / "a.png")
    run(folder, tmp_path / "run", config, validation=validation)
    costs = [e["validation"]["cost"] for e in entries(tmp_path / "run") if "validation" in e]
    assert len(costs) == 3
    assert costs[2] < costs[1] - 0.01 < costs[0] - 0.02
    table = [e for e in entries(tmp_path / "run") if "validation" in e][-1]["validation"]["table"]
    assert [row["bpp"] for row in table] == sorted(row["bpp"] for row in table)


def test_training_repeats_and_resumes(folder, begun, tmp_path):
    first = torch.load(begun, weights_only=True)
    again = torch.load(run(folder, tmp_path / "a"), weights_only=True)
    assert all(torch.equal(first["model"][k], again["model"][k]) for k in first["model"])
    with pytest.raises(ModelError, match="--resume"):
        run(folder, tmp_path / "a")
    longer = replace(CONFIG, training=replace(SCHEDULE, steps=40))
    resumed = torch.load(run(folder, tmp_path / "a", longer, resume=True), weights_only=True)
    assert resumed["step"] == 40
    assert resumed["pixels"] == 40 * 2 * 64 * 64
    other = replace(CONFIG, architecture=replace(TINY, analysis_width=8))
    with pytest.raises(ModelError, match="another architecture"):
        run(folder, tmp_path / "a", other, resume=True)


def test_a_time_budget_ends_training(folder, tmp_path, monkeypatch):
    """By a clock that goes 0.01 s further whenever it is asked."""
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(ticks) / 100)
    monkeypatch.setattr(stage, "time", clock)
    config = replace(CONFIG, training=replace(SCHEDULE, steps=10**9))
    saved = torch.load(run(folder, tmp_path / "run", config, time_budget=1.0), weights_only=True)
    assert 10 < saved["step"] < 100
    assert 1 <= saved["seconds"] < 1.15


@pytest.mark.parametrize("synthesis", ["two-layer", "plain", "jpeg-like"])
def test_exported_models_code_images(folder, tmp_path, monkeypatch, coffee, synthesis):
    changes = {
        "two-layer": {},
        "plain": {"residual": False, "hidden_channels": 24},
        "jpeg-like": {"synthesis": "jpeg-like", "kernel": 18, "residual": False},
    }[synthesis]
    overlap = 2 if synthesis == "jpeg-like" else 12
    finer = RealismGains("luma", (0.1,) * TINY.group_count, (0.2,) * TINY.group_count)
    config = replace(
        CONFIG,
        architecture=replace(TINY, **changes),
        training=replace(SCHEDULE, overlap=overlap),
        realism_gains=(finer,) if synthesis == "two-layer" else (),
    )
    checkpoint = run(folder, tmp_path / "run", config)
    arrays = export(checkpoint, tmp_path / "tiny", Photos([folder])).arrays
    if config.realism_gains:
        assert {13, 26} <= set(arrays["realism_rows"].ravel().tolist())
    else:
        assert "realism_rows" not in arrays
    monkeypatch.setenv("NICC_MODELS", str(tmp_path))
    image = coffee.crop((100, 100, 228, 228))
    small, large = (nicc.encode(image, model="tiny", quality=q) for q in (5, 60))
    assert len(small) < len(large)
    assert 21 < psnr(image, nicc.decode(small)) < psnr(image, nicc.decode(large))


def test_the_last_groups_are_active_from_their_rate_points_on():
    count, rates = TINY.group_count, TINY.rate_points
    assert active_groups(TINY, ()).tolist() == [count] * rates
    assert active_groups(TINY, (5, 33)).tolist() == [count - 2] * 5 + [count - 1] * 28 + [count] * (rates - 33)
    for given in ((1, 2, 3), (-1,)):
        with pytest.raises(ModelError, match="active_from"):
            replace(CONFIG, training=replace(SCHEDULE, active_from=given))


def test_gains_for_realism_are_those_of_low_rates_and_of_the_highest():
    count, channels = TINY.group_count, TINY.latent_channels
    luma = np.arange(channels) % 3 > 0
    low, highest = np.linspace(-0.3, 0.2, count), np.linspace(0, 0.1, count)
    rows = realism_rows(TINY, luma, [RealismGains("luma", tuple(low), tuple(highest))])
    of_channel = np.repeat(np.arange(count), np.diff(TINY.groups))
    rates = np.arange(TINY.rate_points) / (TINY.rate_points - 1)
    for rate, change in zip(rates, rows * (LOG_ROW_STEP / REALISM_UNIT), strict=True):
        above = max(rate - HIGH, 0) / (1 - HIGH)
        np.testing.assert_allclose(change, luma * (low + above * (highest - low))[of_channel], atol=0.004)
    with pytest.raises(ModelError, match="realism_gains"):
        RealismGains("red", (), ())
    with pytest.raises(ModelError, match="each group"):
        replace(CONFIG, realism_gains=(RealismGains("chroma", (0.1,) * count, (0.1, 0.2)),))


def test_exported_steps_of_hyper_latents_are_the_trained_ones():
    model = RateDistortion(CodecModule(TINY))
    with torch.no_grad():
        model.codec.log_hyper_gain[:, :4] = torch.tensor([3.0, 0.0, -2.0, -4.0])
        steps = decoder_arrays(model.codec)["z_steps"]
    np.testing.assert_allclose(steps[0, :4], [round(64 / np.exp(g)) for g in (3.0, 0.0, -2.0, -4.0)])


def test_a_jpeg_like_model_starts_as_the_linear_part_of_a_two_layer_one(folder, begun, tmp_path):
    arch = replace(TINY, synthesis="jpeg-like", kernel=32, residual=False)
    config = replace(CONFIG, architecture=arch, training=replace(SCHEDULE, steps=SCHEDULE.steps + 1))
    started = torch.load(run(folder, tmp_path / "b", config, begin=begun), weights_only=True)
    first = torch.load(begun, weights_only=True)
    name = "codec.analysis.linear.weight"
    torch.testing.assert_close(started["model"][name], first["average"][name], atol=1e-3, rtol=0)
    assert started["step"] == first["step"] + 1
    assert started["pixels"] > first["pixels"]
    with pytest.raises(ModelError, match="differs in"):
        run(folder, tmp_path / "c", replace(config, architecture=replace(arch, mean_hidden=8)), begin=begun)


def test_another_sender_is_trained_for_the_same_receiver(folder, begun, tmp_path):
    arch = replace(TINY, analysis="cnn")
    phases = {"entropy_steps": 0, "joint_share": 1.0, "predictive_share": 0.0}
    schedule = replace(SCHEDULE, steps=SCHEDULE.steps + 3, sender_only=True, batch=1, crop=64, **phases)
    config = replace(CONFIG, architecture=arch, training=schedule)
    trained = torch.load(run(folder, tmp_path / "b", config, begin=begun), weights_only=True)["model"]
    first = torch.load(begun, weights_only=True)["average"]
    for name, value in first.items():
        if not name.startswith("codec.analysis.body") and name not in ("codec.analysis.out", "codec.row_counts"):
            same = torch.equal(trained[name], value)
            assert same != (name == "codec.analysis.linear.weight"), name
    assert trained["codec.analysis.out"].abs().max() > 0


def test_bits_are_weighed_by_frequency(folder, begun, tmp_path):
    luma = (Weighting("luma", 0.0, (1.0, 1.0, 1.5)), Weighting("luma", 0.1, (0.5,) * 3, (2.0, 2.0, 3.0)))
    bands = (*luma, Weighting("chroma", 0.0))
    config = replace(CONFIG, training=replace(SCHEDULE, steps=1), weighting=bands)  # which it has behind it
    out = run(folder, tmp_path / "b", config, begin=begun)
    new, old = (torch.load(path, weights_only=True)["average"] for path in (out, begun))
    changed = {k for k, v in old.items() if not torch.equal(new[k], v)}
    assert changed == {"codec.log_gain", "codec.row_bias", "codec.rounding"}
    codec = CodecModule(TINY)
    codec.load_state_dict({k.removeprefix("codec."): v for k, v in old.items() if k.startswith("codec.")})
    seen = spectra(codec)
    factor = (new["codec.log_gain"] - old["codec.log_gain"]).exp()
    fine = (seen.luma > 0.5) & (seen.frequency >= 0.1)
    broad = (seen.luma > 0.5) & (seen.frequency < 0.1)
    assert fine.any()
    assert broad.any()
    torch.testing.assert_close(factor[:, fine], torch.full_like(factor[:, fine], 0.5))
    assert (factor[0, broad] - 1).abs().max() < 1e-6
    torch.testing.assert_close(factor[-1, broad], torch.full_like(factor[-1, broad], 1.5))
    assert (factor[:, seen.luma <= 0.5] - 1).abs().max() < 1e-6
    rows = (new["codec.row_bias"] - old["codec.row_bias"]) * LOG_ROW_STEP
    torch.testing.assert_close(rows, factor.log(), atol=1e-5, rtol=1e-4)
    rounding = new["codec.rounding"]
    for anchor, weight in ((0, 2.0), (-1, 3.0)):
        torch.testing.assert_close(rounding[anchor], 1 + (weight - 1) * fine.float())

    model = export(out, tmp_path / "model", Photos([folder]))
    at_points = rounding_of(model)
    assert at_points.shape == (TINY.rate_points, TINY.latent_channels)
    np.testing.assert_allclose(at_points[[0, -1]], rounding[[0, -1]])
    restored = restored_codec(load_model(str(tmp_path / "model")))
    torch.testing.assert_close(restored.rounding, rounding)


def test_a_rounding_weight_keeps_more_of_its_channels():
    model = load_transform("two-layer")
    rng = np.random.default_rng(3)
    rows = rng.integers(1, 64, (50, 8)).astype(np.uint8)
    values = (rng.laplace(size=rows.shape) * np.exp(rows * 0.1) / 8).astype(np.float32)
    quantise = Quantiser(model, 30)
    even = quantise(values, rows, slice(0, 8))
    quantise.weights = quantise.weights.copy()
    quantise.weights[:4] *= 10
    weighed = quantise(values, rows, slice(0, 8))
    assert np.abs(weighed[:, :4]).sum() > np.abs(even[:, :4]).sum()
    np.testing.assert_array_equal(weighed[:, 4:], even[:, 4:])


def test_frequencies_of_channels_are_those_of_their_basis_functions():
    seen = spectra(restored_codec(load_transform("two-layer")))
    assert seen.luma[0] > 0.9  # the means of colours come first
    assert seen.luma[1:3].max() < 0.2
    assert seen.frequency[:3].max() < 1 / 16
    assert seen.frequency[200:].mean() > 2 * seen.frequency[:30].mean()


def test_a_larger_analysis_starts_as_the_smaller_one():
    torch.manual_seed(1)
    first = RateDistortion(CodecModule(TINY))
    first.codec.analysis.out.data.fill_(0.5)
    grown = replace(TINY, analysis_width=TINY.analysis_width + 8, analysis_depth=TINY.analysis_depth + 2)
    second = RateDistortion(CodecModule(grown))
    start_from(second, first.state_dict(), TINY, None, 0)
    x = torch.rand(2, 3, 64, 96)
    y, expected = (model.codec.analysis(x) for model in (second, first))
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    y.square().mean().backward()
    body = second.codec.analysis.body
    for weight in (body[-1].weight[:, TINY.analysis_width :], body[-2].second.weight):
        assert weight.detach().abs().max() == 0
    assert body[-1].weight.grad[:, TINY.analysis_width :].abs().max() > 0
    assert body[-2].second.weight.grad.abs().max() > 0
    with pytest.raises(ModelError, match="larger analysis"):
        start_from(first, second.state_dict(), grown, None, 0)


def test_two_processes_train_one_model(folder, begun, tmp_path):
    config = tmp_path / "tiny.toml"
    arch = "\n".join(f"{k} = {json.dumps(v)}" for k, v in TINY.to_dict().items())
    config.write_text(
        f'name = "tiny"\n[architecture]\n{arch}\n'
        "[training]\nsteps = 28\nentropy_steps = 3\nbatch = 1\ncrop = 64\nlog_every = 2\n"
    )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    command += ["-m", "--", "nicc", "train", str(config), "--data", str(folder), "--out", str(tmp_path / "run")]
    command += ["--start", str(begun)]  # spares a KLT
    command += ["--cache", str(tmp_path / "cache"), "--device", "cpu", "--no-amp"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 28
    assert saved["pixels"] == (20 + 8) * 2 * 64 * 64
    assert [e["step"] for e in entries(tmp_path / "run")] == [22, 24, 26, 28]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not a TOML file"),
        ("[training]\nsteps = 5", "no name"),
        ('name = "a"\nspeed = 3', "unknown entries"),
        ('name = "a"\n[training]\nstep = 3', "unknown entries"),
        ('name = "a"\n[training]\ncrop = 100', "multiple of 64"),
        ('name = "a"\n[training]\nsender_only = true', "which train the receiver, must be 0"),
        ('name = "a"\n[[weighting]]\ncolour = "red"\nabove = 0.1', "luma or chroma"),
        ('name = "a"\n[[weighting]]\ncolour = "luma"\nabove = 0.1\ngain = [1.0, 0.0, 1.0]', "above 0 are needed"),
        ('name = "a"\n[[weighting]]\ncolour = "luma"\nbelow = 0.1', "weighting: "),
        ('name = "a"\n[[weighting]]\ncolour = "luma"\nabove = 0.1\nrounding = 2.0', "weighting: "),
        ('name = "a"\n[architecture]\nkernel = 15', "kernel"),
        ('name = "a"\nstage = "magic"', "stage 'magic' is not one of"),
        ('name = "a"\nstage = "realism"\n[architecture]', "unknown entries architecture"),
        ('name = "a"\nstage = "realism"\n[head]\ncondition = "none"', "condition must be one of"),
        ('name = "a"\nstage = "realism"\n[head]\nwidth = 3', "unknown entries width"),
        ('name = "a"\nstage = "realism"\n[training]\nlinear_rate = 3', "unknown entries linear_rate"),
    ],
)
def test_bad_configurations_are_refused(tmp_path, text, message):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ModelError, match=message):
        load_config(str(path))


def test_shipped_configurations_are_those_of_the_shipped_models(model):
    assert load_config(model.name).architecture == model.architecture


def test_an_unknown_configuration_names_the_known_ones():
    names = (
        "jpeg-like, pyramid, pyramid-directions, pyramid-family, realism, realism-visual, rectify, texture, two-layer"
    )
    with pytest.raises(ModelError, match=names):
        load_config("three-layer")


def test_photos_come_from_folders_and_shards_and_are_cached(folder, tmp_path):
    photos = Photos([folder], tmp_path)
    again = Photos([folder], tmp_path)
    assert len(photos.images) == 2
    assert all((a == b).all() for a, b in zip(photos.images, again.images, strict=True))
    crops = photos.crops(np.random.default_rng(0), 3, 128)
    assert crops.shape == (3, 128, 128, 3)
    assert crops.dtype == np.uint8
    assert (crops == again.crops(np.random.default_rng(0), 3, 128)).all()
    with pytest.raises(ImageError, match="no images"):
        Photos([tmp_path])


@pytest.mark.parametrize("overlap", [0, 8, 12, 16])
def test_lapping_reconstructs_perfectly(overlap):
    forward, backward = lapping(overlap)
    blocks = 5
    n = 16 * blocks + overlap
    total = np.zeros((n, n))
    for b in range(blocks):
        window = slice(16 * b, 16 * b + 16 + overlap)
        total[window, window] += backward @ forward
    inner = slice(overlap + 16, n - overlap - 16)
    np.testing.assert_allclose(total[inner], np.eye(n)[inner], atol=1e-12)


def test_the_lapped_transform_compacts_better_than_blocks(folder):
    photos = Photos([folder])

    def coding_gain(overlap):
        t = lapped_klt(photos, 768, overlap, blocks=6000)
        energy = t.deviation**2 * (t.synthesis**2).sum((1, 2, 3))
        return -np.log2(energy).mean()

    assert coding_gain(12) > coding_gain(0) + 0.02


def test_basis_functions_are_even_or_odd(folder):
    t = lapped_klt(Photos([folder]), 64, 12, blocks=6000)
    np.testing.assert_allclose(t.synthesis[..., ::-1], t.synthesis * t.parity[0][:, None, None, None], atol=1e-9)
    np.testing.assert_allclose(t.synthesis[..., ::-1, :], t.synthesis * t.parity[1][:, None, None, None], atol=1e-9)


def test_perceptual_distance_counts_in_training_only():
    torch.manual_seed(0)
    plain = RateDistortion(CodecModule(replace(TINY, objective="visual")))
    model = RateDistortion(plain.codec, lambda x, decoded: 7 + (decoded - x).abs().mean((1, 2, 3)))
    model.prior = plain.prior
    x, point = torch.rand(2, 3, 64, 64), torch.tensor([3.0, 40.0])
    for training in (True, False):
        model.train(training)
        plain.train(training)
        a, b = (m(x, point, Phase.PREDICTIVE).distortion for m in (model, plain))
        assert ((a - b > 7) == training).all()
        if not training:
            torch.testing.assert_close(a, b)


def test_lpips_joins_the_objective(folder, tmp_path, perceptual):
    training = replace(SCHEDULE, steps=4, entropy_steps=0, log_every=1, lpips_weight=50.0, crop=128)
    config = replace(CONFIG, architecture=replace(TINY, objective="visual"), training=training)
    train(config, Run([folder], tmp_path / "with", amp=False, perceptual=perceptual))
    without = replace(config, training=replace(training, lpips_weight=0.0))
    train(without, Run([folder], tmp_path / "without", amp=False))
    a, b = ([e["distortion"] for e in entries(tmp_path / n) if "distortion" in e] for n in ("with", "without"))
    assert a[0] > b[0]
    with pytest.raises(ModelError, match="lpips_weight"):
        replace(training, lpips_weight=-1.0)
