"""The gradient step of plain encoding: its gradients against PyTorch's, and what it is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nicc.decoder import directional, networks, ops
from nicc.decoder.hyper import dequantise_z
from nicc.encoder import adjoint, quantise, refine
from nicc.encoder.encode import INTERRUPTED, Result, analyse, encode, encode_plainly
from nicc.encoder.gradient import raw_gradient, squared_error_gradient, visual_gradient
from nicc.encoder.quantise import Quantiser, quantise_z
from nicc.encoder.receiver import receiver_of
from nicc.encoder.settings import Annealing, Settings, State
from nicc.encoder.visual import middle_error, raw_difference
from nicc.images import Picture, from_image
from nicc.model import load_model
from nicc.ssimulacra2 import encoding_distortion, scales_of


@pytest.mark.parametrize(
    ("name", "channels"), [("two-layer-visual", 300), ("two-layer-visual", 56), ("two-layer", 88), ("jpeg-like", 256)]
)
def test_the_adjoint_of_the_synthesis_is_its_gradient(name, channels):
    model, rng = load_model(name), np.random.default_rng(0)
    arch, p = model.architecture, model.params
    y = rng.normal(size=(3, 5, channels)).astype(np.float32)
    by_pixels = rng.normal(size=(48, 80, 3)).astype(np.float32)
    padded = networks.mirror(ops, p, y, 1)
    expected_pixels = networks.synthesis(ops, arch, p, padded).copy()
    pixels, back = adjoint.synthesis(arch, p, padded)
    assert np.array_equal(pixels, expected_pixels)
    unfiltered = back(by_pixels).copy()

    receiver, point = receiver_of(model), arch.rate_points - 1
    there = directional.filter_of(p, point)
    pixels, back = adjoint.synthesis(arch, p, padded, there)
    assert np.array_equal(pixels, directional.rendered(ops, arch, p, padded, there))
    assert np.abs(back(by_pixels) - unfiltered).max() < 1e-4 * np.abs(unfiltered).max()  # the filter is the identity

    leaf = torch.tensor(y[None], requires_grad=True)
    rendered = receiver.synthesise(leaf, receiver.rate(point)._replace(filter=None))
    rendered.backward(torch.tensor(by_pixels[None]).permute(0, 3, 1, 2))
    expected = leaf.grad[0].numpy()
    found = adjoint.mirror_adjoint(p, unfiltered, True, True)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("size", [(256, 256), (301, 217), (8, 77)])
def test_the_gradient_of_the_score_is_that_of_pytorch(coffee, size):
    image = np.asarray(coffee.crop((40, 30, 40 + size[0], 30 + size[1]))) // 2 + 64
    noise = np.random.default_rng(1).normal(size=(-(-image.shape[0] // 4), -(-image.shape[1] // 4), 3)) * 9
    noise = noise.repeat(4, 0).repeat(4, 1)[: image.shape[0], : image.shape[1]]
    decoded = (image + noise).round().astype(np.uint8)
    a, b = (torch.tensor(x.astype(np.float32)).permute(2, 0, 1)[None] / 255 for x in (image, decoded))
    b.requires_grad_()
    raw_difference(a, b).sum().backward()
    expected = b.grad[0].permute(1, 2, 0).numpy()
    found = raw_gradient(image, decoded, scales_of(*image.shape[:2]))
    # colours that weigh next to nothing at a scale are left out
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)


def test_the_gradient_of_the_squared_error_is_exact():
    rng = np.random.default_rng(0)
    original, decoded = (rng.integers(0, 256, (9, 11, 3), np.uint8) for _ in range(2))
    error = decoded.astype(float) - original
    # the mean over colours of squared errors on the 0..255 scale, by samples in 0..1
    assert np.allclose(squared_error_gradient(original, decoded), 2 * error / 3 * 255)


def test_the_gradient_of_the_visual_distortion_is_that_of_pytorch(coffee):
    image = np.asarray(coffee.crop((40, 30, 141, 107))) // 2 + 64
    decoded = (image + np.random.default_rng(2).normal(size=image.shape) * 6).round().astype(np.uint8)
    a, b = (torch.tensor(x.astype(np.float32)).permute(2, 0, 1)[None] / 255 for x in (image, decoded))
    b.requires_grad_()
    mse = (a - b).square().mean((1, 2, 3)) * 255**2
    (encoding_distortion(mse, middle_error(a, b), raw_difference(a, b)) * image[..., 0].size).sum().backward()
    expected = b.grad[0].permute(1, 2, 0).numpy()
    found = visual_gradient(image, decoded, scales_of(*image.shape[:2]))
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)


def _rounded(model, picture, point):
    """A picture's refinement, and its latents rounded as one group."""
    y, z = analyse(model, picture, Settings(point, Annealing(0)))
    z_int = dequantise_z(model, point, quantise_z(model, point, z))
    step = refine.Refinement(model, point, picture.pixels, model.architecture.rate_lambda(point))
    return step, step._rounded(y, z_int, (0, len(y)), Quantiser(model, point))


def test_a_group_beside_its_neighbours_has_the_gradient_of_the_whole(coffee, monkeypatch):
    model, picture = load_model("two-layer"), from_image(coffee.crop((0, 0, 208, 200)))[0]
    step, rounded = _rounded(model, picture, 40)
    whole, error = step._gradient(rounded, None, None, (0, 13))
    middle, below = (refine.Rounded(rounded.y_hat[a:b], rounded.factor[a:b], 0) for a, b in ((4, 9), (9, 13)))
    part, _ = step._gradient(middle, rounded.y_hat[4 - refine.BESIDE - 1 : 4], below, (4, 9))
    assert np.abs(part - whole[4:9]).max() < 1e-3 * np.abs(whole).max()
    monkeypatch.setattr(refine, "BAND_PIXELS", 1)
    bands, same = step._gradient(rounded, None, None, (0, 13))
    assert np.abs(bands - whole).max() < 1e-3 * np.abs(whole).max()
    assert same == pytest.approx(error)


def test_groups_of_rows_are_moved_beside_their_neighbours(coffee):
    model = load_model("two-layer-visual")
    tall = Picture(np.asarray(coffee.resize((48, 1060))))
    y, z = analyse(model, tall, Settings(30, Annealing(0)))
    z_int = dequantise_z(model, 30, quantise_z(model, 30, z))
    step = refine.Refinement(model, 30, tall.pixels, model.architecture.rate_lambda(30))
    moved = list(step.groups(y, z_int, Quantiser(model, 30)))
    assert [len(part) for part in moved] == [64, 3]
    gain = model.params["gain"][30]
    for part, before in zip(moved, (y[:64], y[64:]), strict=True):
        by = np.abs(part - before * gain)
        assert 0 < by.max() < 8 * refine.REACH["visual"]  # reach, over the adaptive steps' factor of e**-2 at least


@pytest.fixture
def objective_alone(monkeypatch):
    """Rounding by the objective alone: a model's own weights of rounding errors stand for judges outside it."""

    def even(model):
        return np.ones((model.architecture.rate_points, model.architecture.latent_channels))

    monkeypatch.setattr(quantise, "rounding_of", even)


@pytest.mark.usefixtures("objective_alone")
def test_the_step_lowers_the_cost_of_files(model, astronaut, coffee):
    for image in (astronaut, coffee):
        picture = from_image(image.crop((60, 60, 316, 316)))[0]
        for share in (0.1, 0.4, 0.8):
            point = round(share * (model.architecture.rate_points - 1))
            settings = Settings(point, Annealing(0))
            plain, refined = (
                Result(model, picture, settings, encode_plainly(model, picture, point, refine=r)) for r in (False, True)
            )
            assert refined.cost < plain.cost


@pytest.mark.usefixtures("objective_alone")
def test_more_steps_lower_the_cost_further_and_say_how_far_they_are(coffee):
    model, picture = load_model("two-layer-visual"), from_image(coffee.crop((60, 60, 316, 316)))[0]
    told: list[tuple[State, int]] = []
    one, eight = (
        encode(model, picture, Settings(30, Annealing(0), refinements=n), lambda *state: told.append(state))
        for n in (1, 8)
    )
    assert eight.cost < one.cost
    assert eight.ssimulacra2 > one.ssimulacra2 + 0.5
    assert [(state.step, of) for state, of in told] == [(n, 8) for n in range(1, 9)]
    last = told[-1][0]  # of the rounding before the last step, which the file has hardly changed
    assert last.bpp == pytest.approx(8 * len(eight.data) / 256**2, rel=0.05)
    assert last.psnr == pytest.approx(eight.psnr, abs=0.2)


@pytest.mark.parametrize("step", [3, 8])
def test_an_interrupt_ends_the_steps(coffee, step):
    picture, model = from_image(coffee.crop((0, 0, 64, 64)))[0], load_model("two-layer")

    def stop(state: State, _: int) -> None:
        if state.step == step:
            raise KeyboardInterrupt

    settings = Settings(30, Annealing(0), refinements=8)
    with pytest.raises(KeyboardInterrupt):
        encode(model, picture, settings, stop)
    kept = encode(model, picture, replace(settings, keep_on_interrupt=True), stop)
    assert kept.notes == (INTERRUPTED,)
    assert kept.cost < encode(model, picture, replace(settings, refinements=0)).cost


def test_flat_pictures_are_refined_without_a_warning():
    model = load_model("two-layer-visual")
    for level in (0, 128, 255):
        picture = Picture(np.full((40, 70, 3), level, np.uint8))
        with np.errstate(all="raise", under="ignore"):
            encoding = encode_plainly(model, picture, 60)
        assert encoding.container.header.width == 70
