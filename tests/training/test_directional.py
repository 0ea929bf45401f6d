"""The directional stage: it lowers the distortion, resumes, and exports a model whose files stay what they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import nicc
from nicc import ModelError
from nicc.decoder.directional import MARGIN
from nicc.decoder.networks import inside
from nicc.model import _load, load_model
from nicc.training import directional
from nicc.training.config import load_config
from nicc.training.config_filter import DirectionalConfig, DirectionalSchedule, FilterPoint
from nicc.training.filter_fit import Limits, Measure, example
from nicc.training.stage import Run
from tests.training.conftest import entries

SCHEDULE = DirectionalSchedule(steps=2, batch=4, crop=64, crops=8, iterations=3)
CONFIG = DirectionalConfig("tiny", "two-layer", SCHEDULE)


def test_it_lowers_the_distortion_and_files_stay(photos, tmp_path, bare_model, coffee):
    image = coffee.crop((100, 100, 228, 212))
    old = load_model("two-layer")
    data = nicc.encode(image, model="two-layer", quality=20)
    before = np.asarray(nicc.decode(data)).astype(int)
    checkpoint = directional.train(CONFIG, Run([photos], tmp_path / "run", amp=False))
    steps = [e for e in entries(tmp_path / "run") if "loss" in e]
    assert [e["rate_point"] for e in steps] == [0, 63]
    assert all(e["directional"] < 0.995 for e in steps)
    assert all(e["loss"] < 0.995 for e in steps)
    assert 15 > steps[0]["limit"] > 2 * steps[1]["limit"] > 1
    new = directional.export(checkpoint, old)
    assert (new.fingerprint, new.version, new.sha256) == (old.fingerprint, old.version + 1, old.sha256)
    assert new.description["decoder_sha256"] != old.description["decoder_sha256"]
    assert new.arrays["filter_weights"].shape == (64, 6, 4, 6)
    saved = torch.load(checkpoint, weights_only=True)
    np.testing.assert_allclose(new.arrays["filter_weights"][63], saved["weights"][1], atol=1e-3, rtol=1e-3)
    middle = (saved["weights"][0] * 42 + saved["weights"][1] * 21) / 63
    np.testing.assert_allclose(new.arrays["filter_weights"][21], middle, atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(new.arrays["filter_chroma"][[0, 63]], torch.stack(saved["chroma"]), rtol=1e-6)
    first, last = (limits[1] for limits in saved["limits"])
    expected = first, first ** (2 / 3) * last ** (1 / 3), last
    np.testing.assert_allclose(new.arrays["filter_chroma_limit"][[0, 21, 63]], expected, rtol=1e-6)
    _load.cache_clear()  # what a new process would read
    after = np.asarray(nicc.decode(data)).astype(int)
    assert 0 < np.abs(after - before).max() < 60


def test_it_resumes_and_refuses_what_is_not_done(photos, tmp_path, bare_model):
    run = Run([photos], tmp_path / "a", amp=False)
    trainer = directional.FilterFitter(CONFIG, run)
    trainer.train_step()
    trainer.save()
    with pytest.raises(ModelError, match="not all rate points"):
        directional.export(tmp_path / "a" / "checkpoint.pt", load_model("two-layer"))
    directional.train(CONFIG, replace(run, resume=True))
    assert len(torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)["weights"]) == 2
    with pytest.raises(ModelError, match="another model or schedule"):
        directional.train(replace(CONFIG, training=replace(SCHEDULE, steps=3)), replace(run, resume=True))
    with pytest.raises(ModelError, match="fit again"):
        directional.export(tmp_path / "a" / "checkpoint.pt", load_model("jpeg-like"))
    with pytest.raises(ModelError, match="multiple of batch"):
        replace(SCHEDULE, crops=9)


def test_every_rate_point_may_be_fitted_in_its_own_way(photos, tmp_path, bare_model):
    fitted, limits = [], []
    kept = (0.5, 0.5, 2.0, 1.0)
    for points in ((), (FilterPoint(0, kept=kept), FilterPoint(40)), (FilterPoint(0, limit=1.5), FilterPoint(63))):
        config = replace(CONFIG, point=points)
        trainer = directional.FilterFitter(config, Run([photos], tmp_path / f"run{len(fitted)}", amp=False))
        assert trainer.points == [point.rate_point for point in points or (FilterPoint(0), FilterPoint(63))]
        trainer.train_step()
        fitted.append(trainer.weights[0])
        limits.append(trainer.limits[0].luma)
    assert fitted[0].abs().max() > 1e-3
    torch.testing.assert_close(fitted[1], fitted[0] * torch.tensor(kept)[:, None])
    assert limits[1] == limits[0]
    assert limits[2] == pytest.approx(1.5 * limits[0])
    assert (fitted[2] - fitted[0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("rate_point = 3\nkept = [1.0]", "kept"),
        ("rate_point = 3\nlimit = 0.0", "limit"),
        ("rate_point = 3\nstrength = 1", "strength"),
        ("rate_point = 3\nkept = 1.0", "point: "),
        ("rate_point = 3\n[[point]]\nrate_point = 3", "rising"),
    ],
)
def test_wrong_rate_points_are_refused(tmp_path, table, reason):
    path = tmp_path / "wrong.toml"
    head = 'stage = "directional"\nname = "x"\n[training]\nsteps = 2\n[[point]]\n'
    path.write_text(head + table)
    with pytest.raises(ModelError, match=reason):
        load_config(str(path))


def test_the_directional_filter_may_stay(photos, tmp_path, bare_model):
    config = replace(CONFIG, training=replace(SCHEDULE, directional=False))
    checkpoint = directional.train(config, Run([photos], tmp_path / "run", amp=False))
    steps = [e for e in entries(tmp_path / "run") if "loss" in e]
    assert all(e["loss"] < 0.999 and e["directional"] == 1 for e in steps)
    old = load_model("two-layer")
    before = {k: v.copy() for k, v in old.arrays.items() if k.startswith("filter")}
    new = directional.export(checkpoint, old)
    for at in (0, 63):
        assert np.array_equal(new.arrays["filter_weights"][at], before["filter_weights"][at])
        assert new.arrays["filter_limit"][at] == before["filter_limit"][at]
    assert np.abs(new.arrays["filter_chroma"] - before["filter_chroma"]).max() > 1e-3


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_gradients_are_those_of_the_distortion(coffee, share):
    original = torch.tensor(np.asarray(coffee.crop((200, 150, 264, 214)))).permute(2, 0, 1).float() / 255
    torch.manual_seed(0)
    decoded = torch.nn.functional.pad(original[None] * 0.8 + 0.1, (MARGIN,) * 4, "reflect")[0].permute(1, 2, 0)
    decoded = decoded + torch.randn(decoded.shape) * 0.02
    found = example(original, decoded.contiguous(), Limits(5.0, 10.0), Measure(share))
    assert torch.equal(found.decoded, inside(decoded, MARGIN).permute(2, 0, 1))
    assert found.unfiltered == pytest.approx(float(found.distortion(found.decoded)))
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(24, 6)) * 0.02
    _, by_luma = found.gradient(found.filtered(weights))
    gradient = found.shares.T @ np.einsum("npf,np->nf", found.features, by_luma)
    way = 0.24 * gradient / np.linalg.norm(gradient)
    slope = float((gradient * way).sum())
    ahead, behind = (float(found.distortion(found.filtered(weights + s * 0.1 * way))) for s in (1, -1))
    assert slope == pytest.approx((ahead - behind) / 0.2, rel=0.08 if share else 0.01)  # float32 sums of 250
