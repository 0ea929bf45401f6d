"""The rectify stage: it explores alpha, resumes, exports without touching the bitstream, and serves other codecs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import nicc
from nicc import ModelError
from nicc.model import _load, load_model
from nicc.training import rectify
from nicc.training.config import DISTANCES, RectifyConfig, RectifySchedule, load_config
from nicc.training.stage import Run, drive
from tests.training.conftest import entries

SCHEDULE = RectifySchedule(steps=22, batch=2, crop=64, alphas=(0.0, 0.1, 50.0, 80.0), explore_steps=3, log_every=1)
CONFIG = RectifyConfig("tiny", "two-layer", 1, 16, SCHEDULE)


def test_alpha_is_explored_and_the_bitstream_stays(photos, tmp_path, bare_model, coffee):
    image = coffee.crop((100, 100, 228, 212))
    old = load_model("two-layer")
    data = nicc.encode(image, tune="psnr", quality=20)
    before = np.asarray(nicc.decode(data)).astype(int)
    checkpoint = rectify.train(CONFIG, Run([photos], tmp_path / "run", amp=False))
    rounds = [e for e in entries(tmp_path / "run") if "candidates" in e]
    assert [[c["alpha"] for c in r["candidates"]] for r in rounds[:1]] == [[0.0, 0.1, 50.0, 80.0]]
    assert [len(r["kept"]) for r in rounds] == [2, 1]
    assert [r["step"] for r in rounds] == [12, 18]
    scores = {c["alpha"]: c["score"] for c in rounds[0]["candidates"]}
    assert set(rounds[0]["kept"]) == set(sorted(scores, key=scores.get)[:2])
    saved = torch.load(checkpoint, weights_only=True)
    assert [c["alpha"] for c in saved["candidates"]] == rounds[1]["kept"]
    new = rectify.export(checkpoint, old)
    assert (new.fingerprint, new.version, new.architecture.rectifiers) == (old.fingerprint, old.version + 1, 1)
    assert new.sha256 != old.sha256
    _load.cache_clear()  # what a new process would read
    after = np.asarray(nicc.decode(data)).astype(int)
    assert 0 < np.abs(after - before).max() < 60
    without = np.asarray(nicc.decode(data, rectifier=False)).astype(int)
    assert np.abs(without - after).max() > 0
    iterated = nicc.encode(image, tune="psnr", quality=20, sga_steps=5)  # through the rectifier
    assert nicc.decode(iterated).size == image.size


def test_it_repeats_and_resumes_while_exploring(photos, tmp_path, bare_model):
    short = replace(CONFIG, training=replace(SCHEDULE, steps=7))
    for name in "ab":
        rectify.train(short, Run([photos], tmp_path / name, amp=False))
    first, again = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in "ab")
    assert (first["turn"], first["taken"]) == (2, 1)
    for a, b in zip(first["candidates"], again["candidates"], strict=True):
        assert all(torch.equal(a["weights"][k], b["weights"][k]) for k in a["weights"])
    with pytest.raises(ModelError, match="still explored"):
        rectify.export(tmp_path / "a" / "checkpoint.pt", load_model("two-layer"))
    rectify.train(CONFIG, Run([photos], tmp_path / "a", amp=False, resume=True))
    assert len(torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)["candidates"]) == 1
    with pytest.raises(ModelError, match="another codec or rectifier"):
        rectify.train(replace(CONFIG, width=8), Run([photos], tmp_path / "a", amp=False, resume=True))
    with pytest.raises(ModelError, match="trained on another model"):
        rectify.export(tmp_path / "a" / "checkpoint.pt", load_model("jpeg-like"))


def test_the_control_trains_the_synthesis_alone(photos, tmp_path, bare_model):
    config = replace(CONFIG, rectifiers=0, training=replace(SCHEDULE, alphas=(0.0,), steps=3))
    old = load_model("two-layer")
    new = rectify.export(rectify.train(config, Run([photos], tmp_path / "run", amp=False)), old)
    assert new.architecture.rectifiers == 0
    assert not np.array_equal(new.arrays["synthesis_in"], old.arrays["synthesis_in"])
    for name in ("gain", "mean_z", "row0_in", "z_scales"):
        assert np.array_equal(new.arrays[name], old.arrays[name])
    bad = replace(config, training=replace(SCHEDULE, alphas=(0.1,)))
    with pytest.raises(ModelError, match="without rectifiers alphas must be"):
        rectify.train(bad, Run([photos], tmp_path / "bad", amp=False))


@pytest.mark.parametrize("kind", DISTANCES)
def test_distances(kind):
    y = torch.randn(3, 4, 5, 6)
    assert torch.allclose(rectify.distance(kind, y, y), torch.zeros(3), atol=1e-6)
    near, far = (rectify.distance(kind, y, y + n * torch.randn_like(y)) for n in (0.1, 1.0))
    assert (near < far).all()


@pytest.mark.parametrize(
    ("kind", "widths"),
    [("FactorizedPrior", (8, 12)), ("MeanScaleHyperprior", (8, 12)), ("Cheng2020Anchor", (12,))],
)
def test_rectifiers_for_compressai(photos, tmp_path, bare_model, kind, widths):
    import compressai.models

    from nicc.training.compressai import CompressaiCodec

    torch.manual_seed(0)
    codec = CompressaiCodec(getattr(compressai.models, kind)(*widths))
    codec.measure_deviation(torch.rand(2, 3, 64, 64))
    config = replace(CONFIG, training=replace(SCHEDULE, alphas=(0.1,), steps=30, synthesis_rate=1e-2))
    trainer = rectify.RectifierTrainer(config, Run([photos], tmp_path / "run", amp=False), codec, kind)
    x, point = torch.rand(2, 3, 64, 64), torch.zeros(2)
    quantised = codec.quantise(x, point)
    _, decoded = trainer.candidates[0].model(quantised, point)
    theirs = codec.model.g_s(quantised.y_hat.permute(0, 3, 1, 2))
    torch.testing.assert_close(decoded, theirs)  # silent at the start
    before = trainer.score(trainer.candidates[0])
    drive(trainer)
    assert trainer.score(trainer.candidates[0]) < 0.9 * before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rectifiers = 4", "rectifiers must be 0 to 3"),
        ("width = 0", "width positive"),
        ("[training]\nalphas = []", "alphas must be"),
        ("[training]\nalphas = [0.1, -1.0]", "alphas must be"),
        ('[training]\ndistance = "l3"', "distance must be one of"),
    ],
)
def test_bad_configurations_are_refused(tmp_path, text, message):
    path = tmp_path / "c.toml"
    path.write_text(f'name = "a"\nstage = "rectify"\n{text}')
    with pytest.raises(ModelError, match=message):
        load_config(str(path))


def test_the_shipped_configuration():
    config = load_config("rectify")
    assert isinstance(config, RectifyConfig)
    assert config.training.alphas == (0.0, 0.01, 0.03, 0.1)
