"""The texture stage: it learns from what it measures, resumes, and exports for one head only."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from nicc import ModelError
from nicc.encoder import texture as encoder
from nicc.model import load_transform
from nicc.training import texture
from nicc.training.config import load_config
from nicc.training.config_texture import TextureConfig, TextureSchedule
from nicc.training.perceptual import Lpips
from nicc.training.stage import Run

SCHEDULE = TextureSchedule(steps=2, batch=2, crop=128, updates=40, width=8)
CONFIG = TextureConfig("tiny", "two-layer-visual", SCHEDULE)


@pytest.fixture
def run(photos, tmp_path, perceptual):
    return Run([photos], tmp_path / "run", perceptual=perceptual)


def test_hats_interpolate_between_knots():
    knots = (0.0, 0.5, 2.0)
    x = torch.tensor([[-1.0, 0.0, 0.25], [0.5, 1.7, 9.0]])
    weights = texture.hats(x, knots)
    assert weights.shape == (2, 3, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))
    torch.testing.assert_close((weights * torch.tensor(knots)).sum(-1), x.clamp(0, 2))
    assert ((weights > 0).sum(-1) <= 2).all()


def test_the_network_finds_what_features_tell():
    """Of made-up crops: in half of the tiles grain is best, and one feature says so."""
    generator = torch.Generator().manual_seed(3)
    cells, distances = [], []
    grains, strengths = torch.tensor(texture.GRAINS), torch.tensor(texture.STRENGTHS)
    for _ in range(24):
        best = torch.randint(2, (4, 4), generator=generator).float()
        features = torch.randn(16, 16, encoder.FEATURES, generator=generator)
        features[..., 5] = best.repeat_interleave(4, 0).repeat_interleave(4, 1)
        cost = (grains[:, None, None] - 2 * best).square() + (strengths[:, None, None, None] - 0.7).square()
        cells.append(features)
        distances.append(0.1 + cost)
    network = texture.fitted(cells, distances, 8, 300)
    found = encoder.estimates(texture.ops, network, encoder.tile_features(texture.ops, network, torch.stack(cells[:8])))
    truth = torch.stack([d.flatten(0, 1).argmin(0) % len(grains) for d in distances[:8]])
    grainy = truth > 0
    assert 0.3 < grainy.float().mean() < 0.7
    assert found[..., 1][grainy].mean() > 1.2
    assert found[..., 1][~grainy].mean() < 0.6
    assert (found[..., 0] - 0.7).abs().mean() < 0.25
    chosen = texture.chosen(network, torch.stack(cells), torch.stack(distances))
    assert chosen.shape == (3, 24)  # of 4x4 tiles, 8 of a side cannot be merged
    assert chosen[0].mean() < chosen[2].mean() < 1  # large tiles cannot have both


def test_numpy_and_torch_have_one_network():
    generator = np.random.default_rng(0)
    p = {k: generator.normal(size=s).astype(np.float32) / 4 for k, s in encoder.shapes(8).items()}
    cells = generator.normal(size=(12, 8, encoder.FEATURES)).astype(np.float32)
    ours = encoder.estimates(encoder.ops, p, encoder.tile_features(encoder.ops, p, cells))
    tensors = {k: torch.from_numpy(v) for k, v in p.items()}
    features = encoder.tile_features(texture.ops, tensors, torch.from_numpy(cells)[None])
    theirs = encoder.estimates(texture.ops, tensors, features)[0].numpy()
    assert ours.shape == (3, 2, 4)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_maps_of_lpips_have_its_mean(run):
    lpips, generator = Lpips.of_folder("alex", run.perceptual), torch.Generator().manual_seed(1)
    a = torch.rand(1, 3, 128, 192, generator=generator) * 2 - 1
    b = a.clone()
    b[..., 96:] = (b[..., 96:] + 0.2 * torch.randn(1, 3, 128, 96, generator=generator)).clamp(-1, 1)
    with torch.no_grad():
        x, y = lpips.features(a), lpips.features(b)
        found, whole = lpips.maps(x, y, 32, (128, 192)), lpips.between(x, y)
    assert found.shape == (1, 4, 6)
    assert float(found.mean()) == pytest.approx(float(whole), rel=0.05)
    assert found[..., :2].max() < 0.2 * found[..., 4:].min()


def test_it_measures_resumes_and_exports(run, tmp_path):
    checkpoint = texture.train(CONFIG, run)
    saved = torch.load(checkpoint, weights_only=True)
    assert len(saved["cells"]) == len(saved["distances"]) == 4
    assert saved["distances"][0].shape == (len(texture.STRENGTHS), len(texture.GRAINS), 4, 4)
    assert all((d > 0).all() for d in saved["distances"])
    texture.train(replace(CONFIG, training=replace(SCHEDULE, steps=3)), replace(run, resume=True))
    assert len(torch.load(checkpoint, weights_only=True)["cells"]) == 6
    model = load_transform()
    shown = type(model)(model.description, model.arrays, tmp_path)
    (tmp_path / "realism.safetensors").write_bytes((model.folder / "realism.safetensors").read_bytes())
    path = texture.export(checkpoint, shown)
    with safe_open(path, framework="np") as f:
        facts = json.loads(f.metadata()["nicc"])
    assert facts["head"] == model.realism.sha256
    assert facts["training"]["step"] == 3
    assert {k: v.shape for k, v in encoder.estimator_for(shown).items()} == encoder.shapes(8)
    with pytest.raises(ModelError, match="another head"):
        texture.export(checkpoint, load_transform("two-layer"))
    with pytest.raises(ModelError, match="another head"):
        texture.train(replace(CONFIG, model="two-layer"), replace(run, resume=True))


def test_schedules_out_of_range_are_refused(tmp_path):
    assert load_config("texture").model == "two-layer-visual"
    for wrong in ("width = 0", "highest_rate = 1.5", "updates = 0"):
        (tmp_path / "c.toml").write_text(f'stage = "texture"\nname = "a"\n[training]\n{wrong}\n')
        with pytest.raises(ModelError, match="must be positive"):
            load_config(str(tmp_path / "c.toml"))
