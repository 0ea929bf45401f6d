"""Files for training what is added to them: they are coded and shown as receivers do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nicc import ModelError
from nicc.decoder.decode import decode_pixels
from nicc.decoder.grain import noise
from nicc.encoder import texture
from nicc.encoder.encode import encode_plainly
from nicc.images import Picture
from nicc.model import load_transform
from nicc.training import files, realism, stage
from nicc.training.config import RealismConfig, RealismSchedule
from nicc.training.files import Batch, Crop, Pool, grainy
from nicc.training.stage import Run
from tests.training.conftest import entries

SCHEDULE = RealismSchedule(batch=2, crop=64, adversarial_share=0.0, log_every=1, files=True, shown=2.0, mse_weight=4e-4)


def config_of(name="two-layer-visual"):
    head = load_transform(name).realism
    schedule = replace(SCHEDULE, steps=head.training["step"] + 3)  # those that it had before count
    return RealismConfig("tiny", name, head.architecture, schedule)


@pytest.fixture
def run(photos, tmp_path, perceptual):
    model = load_transform()
    return Run([photos], tmp_path / "run", amp=False, perceptual=perceptual, begin=model.folder)


def test_training_shows_what_receivers_do(run, coffee, monkeypatch):
    monkeypatch.setattr(texture, "SHARE", 0.5)  # the smallest tiles, as these rates have in large pictures
    monkeypatch.setattr(files, "TILES", ((0.0, 0),))
    monkeypatch.setattr(realism, "noise_somewhere", lambda _, height, width: noise(0, 0, height, width))
    pixels = np.asarray(coffee)[60:188, 100:292]
    trainer, model, beta = realism.HeadTrainer(config_of(), run), load_transform(), torch.tensor([0.25])
    encoding = encode_plainly(model, Picture(pixels), 45)
    told = texture.with_texture(model, encoding, pixels).container
    file = Batch.of([Crop.of(model, texture.estimator_for(model), pixels, 45)])
    layers = trainer.layers(trainer._decoded(file), beta, file.rate_point)
    shown = trainer.shown(*layers, beta, file)[0].permute(1, 2, 0).detach().numpy()
    ours = decode_pixels(told, beta=0.25)
    difference = np.abs(ours - 255 * shown.clip(0, 1))
    assert difference.max() < 1.5  # float16 latents, rounding
    assert difference.mean() < 0.3
    assert np.abs(ours - decode_pixels(told, beta=0).astype(float)).mean() > 0.4


def test_files_are_coded_once_and_shown_several_times():
    rng, model = np.random.default_rng(0), load_transform()
    pool = Pool(model, texture.estimator_for(model), 20, 4.0)
    crops = torch.rand(8, 3, 64, 64)
    sizes = []
    for _ in range(4):
        drawn = pool.draw(crops, rng)
        sizes.append(len(pool.kept))
    assert sizes == [8, 16, 24, 32]  # until there are enough to begin with
    pool.owed = 0.0
    drawn = pool.draw(crops, rng)
    assert len(pool.kept) == 34
    assert drawn.x.shape == crops.shape
    assert drawn.strength.shape == drawn.grain.shape == (8, 64, 64, 1)
    assert drawn.latents.shape == (8, 4, 4, model.architecture.latent_channels)
    assert drawn.rate_point.max() < 20


def test_some_crops_get_grain():
    rng, flat = np.random.default_rng(1), torch.full((3, 64, 64), 0.5)
    deviations = np.array([grainy(flat, rng).std() for _ in range(60)])
    assert 0.2 < np.mean(deviations > 0) < 0.6
    assert deviations.max() < 2 * files.MOST_GRAIN


def test_a_head_learns_from_files(run, coffee, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "VALIDATION_CROP", 128)
    (tmp_path / "validation").mkdir()
    coffee.crop((200, 100, 328, 228)).save(tmp_path / "validation" / "coffee.png")
    checkpoint = realism.train(config_of(), replace(run, validation=tmp_path / "validation"))
    table = next(e["validation"]["table"] for e in entries(run.out) if "validation" in e)
    found = {row["beta"]: row["lpips"] for row in table if row["rate_point"] == 27}
    assert len(found) == 5
    assert all(value > 0 for value in found.values())
    assert len(set(found.values())) == 5
    losses = [e["loss"] for e in entries(run.out) if "loss" in e]
    assert len(losses) == 3
    assert all(0 < loss < 10 for loss in losses)
    saved, start = torch.load(checkpoint, weights_only=True), load_transform().realism
    assert saved["step"] == start.training["step"] + 3
    assert any((saved["weights"][f"p.{k}"].numpy() != v).any() for k, v in start.params.items())


def test_files_need_a_network_that_tells_texture(run):
    with pytest.raises(ModelError, match="no network that tells texture"):
        realism.HeadTrainer(config_of("two-layer"), replace(run, begin=None))
