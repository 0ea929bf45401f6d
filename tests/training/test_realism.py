"""The realism stage: it learns, resumes, exports; heads are refused where they do not belong."""

from __future__ import annotations

from dataclasses import replace

import lpips
import numpy as np
import pytest
import torch
from PIL import Image

import nicc
from nicc import ModelError
from nicc.decoder.networks import inside
from nicc.decoder.realism import strength
from nicc.decoder.render import Renderer
from nicc.head import LATENT_REACH, HeadArchitecture
from nicc.model import load_model, read_head
from nicc.training import realism, stage
from nicc.training.config import RealismConfig, RealismSchedule, load_config
from nicc.training.perceptual import NETWORKS, Lpips
from nicc.training.stage import SHIFTS, Run
from tests.training.conftest import entries

HEAD = HeadArchitecture(condition_width=16, latent_width=16, handover=8, pixel_width=16, depth=1)
SCHEDULE = RealismSchedule(
    steps=8, batch=2, crop=64, adversarial_share=0.5, discriminator_width=4, discriminator_rate=1e-2, log_every=2
)


def train(photos, out, perceptual, schedule=SCHEDULE, head=HEAD, **changes):
    config = RealismConfig("tiny", "two-layer", head, schedule)
    return realism.train(config, Run([photos], out, amp=False, perceptual=perceptual, **changes))


@pytest.mark.parametrize("name", NETWORKS)
def test_lpips_is_the_librarys(name, perceptual):
    torch.manual_seed(0)
    theirs = lpips.LPIPS(net=name, pnet_rand=True, verbose=False)
    ours = Lpips(name, perceptual / f"{NETWORKS[name]}_features.pth")
    theirs.net.load_state_dict(ours.network.net.state_dict())
    a, b = torch.rand(2, 3, 96, 96), torch.rand(2, 3, 96, 96)
    torch.testing.assert_close(ours(a, b), theirs(a, b, normalize=True).flatten(), rtol=1e-4, atol=1e-6)
    b.requires_grad_()
    ours(a, b).sum().backward()
    assert b.grad.abs().sum() > 0


@pytest.mark.parametrize("condition", ["fourier", "table"])
def test_a_head_learns_and_decodes(photos, tmp_path, perceptual, bare_model, coffee, condition):
    schedule = replace(SCHEDULE, steps=20, adversarial_share=0.0, log_every=10, rate=3e-3)
    head = replace(HEAD, condition=condition)
    checkpoint = train(photos, tmp_path / "run", perceptual, schedule, head)
    losses = [e["loss"] for e in entries(tmp_path / "run") if "loss" in e]
    assert losses[-1] < losses[0]
    image = coffee.crop((100, 100, 228, 212))
    data = nicc.encode(image, tune="psnr", quality=10)
    before = np.asarray(nicc.decode(data))
    with pytest.raises(ModelError, match="no realism head"):
        nicc.decode(data, beta=0.5)
    with pytest.raises(ModelError, match="no realism head"):
        nicc.encode(image, tune="psnr", quality=10, beta=0.5)
    path = realism.export(checkpoint, load_model("two-layer"))
    base, half, full = (np.asarray(x).astype(int) for x in nicc.decode_all(data, [0, 0.5, 1]))
    assert np.array_equal(base, before)
    assert np.abs(half - base).max() > 0
    assert np.abs(full - base).mean() < 20
    assert np.array_equal(np.asarray(nicc.decode(data, beta=1.0)), full)
    coded = nicc.encode(image, tune="psnr", quality=10, beta=1.0)
    assert len(coded) == len(data)
    assert np.array_equal(np.asarray(nicc.decode(coded)), full)
    assert np.array_equal(np.asarray(nicc.decode(coded, beta=0)), before)
    assert read_head(path, load_model("two-layer")).training["step"] == 20


def test_training_repeats_resumes_and_shows_crops(photos, tmp_path, perceptual, bare_model, monkeypatch):
    monkeypatch.setattr(stage, "VALIDATION_CROP", 128)
    validation = tmp_path / "validation"
    validation.mkdir()
    with Image.open(photos / "coffee.png") as image:
        image.crop((200, 100, 328, 228)).save(validation / "coffee.png")
    first, again = (
        torch.load(train(photos, tmp_path / n, perceptual, validation=validation), weights_only=True) for n in "ab"
    )
    assert all(torch.equal(first["weights"][k], again["weights"][k]) for k in first["weights"])
    assert (tmp_path / "a" / "crops.png").stat().st_size > 10000
    logged = entries(tmp_path / "a")
    assert [row["beta"] for row in logged[0]["validation"]["table"]] == [0, 0.25, 0.5, 0.75, 1] * 3
    assert logged[1]["realness"] == 0 < logged[4]["realness"]
    untrained = pytest.approx(2 * np.log(2), abs=2e-5)
    assert logged[1]["discriminator"] == untrained
    assert logged[4]["discriminator"] != untrained
    longer = replace(SCHEDULE, steps=10)
    resumed = train(photos, tmp_path / "a", perceptual, longer, resume=True)
    assert torch.load(resumed, weights_only=True)["step"] == 10
    with pytest.raises(ModelError, match="another model or head"):
        train(photos, tmp_path / "a", perceptual, longer, replace(HEAD, depth=2), resume=True)


def test_training_ends_when_the_discriminator_has_won(photos, tmp_path, perceptual, bare_model, monkeypatch):
    monkeypatch.setattr(realism, "WON_LOSS", 1.38629)  # any progress at all
    monkeypatch.setattr(realism, "WON_STEPS", 5)
    schedule = replace(SCHEDULE, steps=1000, adversarial_share=1.0, discriminator_rate=1e-3)
    train(photos, tmp_path / "run", perceptual, schedule)
    assert "has won" in entries(tmp_path / "run")[-1]["ended"]
    assert entries(tmp_path / "run")[-1]["step"] < 200


def test_heads_that_do_not_belong_are_refused(photos, tmp_path, perceptual, bare_model):
    checkpoint = train(photos, tmp_path / "run", perceptual, replace(SCHEDULE, steps=2, adversarial_share=0.0))
    path = realism.export(checkpoint, load_model("two-layer"))
    with pytest.raises(ModelError, match="trained on"):
        realism.export(checkpoint, load_model("jpeg-like"))
    with pytest.raises(ModelError, match="belongs to two-layer"):
        read_head(path, load_model("jpeg-like"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 64
    path.write_bytes(data)
    with pytest.raises(ModelError, match="damaged"):
        read_head(path, load_model("two-layer"))
    path.write_bytes(data[:100])
    with pytest.raises(ModelError, match="damaged"):
        read_head(path, load_model("two-layer"))


def test_a_head_is_trained_on_the_filtered_picture(photos, tmp_path, perceptual, bare_model):
    config = RealismConfig("tiny", "two-layer", HEAD, replace(SCHEDULE, adversarial_share=0.0))
    trainer = realism.HeadTrainer(config, Run([photos], tmp_path / "run", amp=False, perceptual=perceptual))
    point, beta = torch.tensor([50, 50]), torch.full((2,), 0.5)
    decoded = trainer.base.decode(trainer.crops(), point)
    trained = (
        trainer.shown(*trainer.layers(decoded, beta, point), beta).permute(0, 2, 3, 1).detach().numpy()
    )  # a new head is silent
    padded = inside(trainer.base.padded(decoded, LATENT_REACH)[0].numpy(), LATENT_REACH - 1)
    plain = Renderer(trainer.model, 50, rectifier=False)
    np.testing.assert_allclose(trained[0], plain(padded), atol=1e-4)
    assert plain.filter
    plain.filter = plain.filter._replace(weights=0 * plain.filter.weights)
    assert np.abs(trained[0] - plain(padded)).max() > 1e-3


def test_detail_is_as_strong_as_the_rate_says(photos, tmp_path, perceptual, bare_model):
    config = RealismConfig("tiny", "two-layer", replace(HEAD, strength=(1.0, 0.5)), SCHEDULE)
    trainer = realism.HeadTrainer(config, Run([photos], tmp_path / "run", amp=False, perceptual=perceptual))
    torch.nn.init.normal_(trainer.head.p["pixel_out"], std=1e-2)
    highest, beta = trainer.model.architecture.rate_points - 1, 0.5
    point = torch.full((2,), highest)
    decoded = trainer.base.decode(trainer.crops(), point)
    betas = torch.full((2,), beta)
    trained = trainer.shown(*trainer.layers(decoded, betas, point), betas).permute(0, 2, 3, 1).detach().numpy()
    state = trainer.state() | {"average": trainer.head.state_dict(), "pixels": 0, "seconds": 0.0, "step": 1}
    torch.save(state, tmp_path / "head.pt")
    realism.export(tmp_path / "head.pt", load_model("two-layer"))
    model = load_model("two-layer")
    padded = trainer.base.padded(decoded, LATENT_REACH)[0].numpy()
    half = Renderer(model, highest, beta, rectifier=False)(padded)
    np.testing.assert_allclose(half, trained[0], atol=1e-4)  # weights of half precision
    model.realism.architecture = replace(model.realism.architecture, strength=())
    whole = Renderer(model, highest, beta, rectifier=False)(padded)
    base = Renderer(model, highest, rectifier=False)(inside(padded, LATENT_REACH - 1))
    assert np.abs(whole - base).max() > 0.01
    np.testing.assert_allclose(half - base, (whole - base) / 2, atol=1e-6)


def test_every_part_of_a_head_serves_its_rates(photos, tmp_path, perceptual, bare_model):
    head = replace(HEAD, parts=(0.3, 0.6))
    config = RealismConfig("tiny", "two-layer", head, SCHEDULE)
    trainer = realism.HeadTrainer(config, Run([photos], tmp_path / "run", amp=False, perceptual=perceptual))
    for part, deviation in enumerate((3e-3, 0.0, 6e-3)):
        torch.nn.init.normal_(trainer.head.arrays(part)["pixel_out"], std=deviation)
    state = trainer.state() | {"average": trainer.head.state_dict(), "pixels": 0, "seconds": 0.0, "step": 1}
    torch.save(state, tmp_path / "head.pt")
    realism.export(tmp_path / "head.pt", load_model("two-layer"))
    model = load_model("two-layer")
    assert len(model.realism.params) == 3 * len(HEAD.shapes(1))
    point = torch.tensor([60, 10, 30, 18, 5])  # of 64
    decoded = trainer.base.decode(trainer.crops()[:1].expand(5, -1, -1, -1), point)
    _, trained = trainer.layers(decoded, torch.full((5,), 0.5), point)
    padded = trainer.base.padded(decoded, LATENT_REACH).numpy()
    for n, part in enumerate((2, 0, 1, 0, 0)):
        _, detail = Renderer(model, int(point[n]), 0.5, rectifier=False).layers(padded[n])
        np.testing.assert_allclose(detail, trained[n].detach().numpy(), atol=1e-4)
        assert bool(np.abs(detail).max() > 1e-3) == (part != 1)
    with pytest.raises(ModelError, match="parts"):
        replace(HEAD, parts=(0.5, 0.2))


def test_parts_start_from_the_head_of_their_rates(photos, tmp_path, perceptual):
    shipped = load_model("two-layer").realism
    config = RealismConfig("parts", "two-layer", replace(shipped.architecture, parts=(0.4,)), SCHEDULE)
    run = Run([photos], tmp_path / "run", amp=False, perceptual=perceptual, begin=load_model("two-layer").folder)
    trainer = realism.HeadTrainer(config, run)
    for part in range(2):
        for name, value in trainer.head.arrays(part).items():
            np.testing.assert_array_equal(value.detach().numpy(), shipped.params[name])


def test_the_strength_is_linear_between_rates():
    head = replace(HEAD, strength=(0.0, 0.5, 2.0))
    assert [strength(head, rate) for rate in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.25, 0.5, 1.25, 2]
    assert strength(HEAD, 0.3) == 1
    with pytest.raises(ModelError, match="strength"):
        replace(HEAD, strength=(1.0, -0.5))


def test_the_shipped_configuration():
    config = load_config("realism")
    assert isinstance(config, RealismConfig)
    assert config.head.macs_per_pixel(256) <= 10000


def test_lpips_sees_every_phase_of_the_heads_grid(photos, tmp_path, perceptual, bare_model):
    trainer = realism.HeadTrainer(
        RealismConfig("tiny", "two-layer", HEAD, SCHEDULE), Run([photos], tmp_path, perceptual=perceptual)
    )
    side = SCHEDULE.crop
    where = torch.arange(side * side).reshape(1, 1, side, side)
    corners = set()
    for _ in range(200):
        a, b = trainer.shifted(where, where + 1)
        assert a.shape == (1, 1, side - SHIFTS, side - SHIFTS)
        assert torch.equal(a + 1, b)
        corners.add((int(a[0, 0, 0, 0]) // side % 4, int(a[0, 0, 0, 0]) % side % 4))
    assert len(corners) == 16
