"""Iterative encoding: the relaxed receiver is the real one, and what it finds is better or not kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import nicc
from nicc.architecture import Architecture
from nicc.container import Header
from nicc.decoder.decode import decode_pixels
from nicc.encoder.distortion import middle_error, raw_difference
from nicc.encoder.encode import INTERRUPTED, NOT_LOWER, Result, encode, encode_batch, encode_plainly
from nicc.encoder.iterate import Iteration
from nicc.encoder.quantise import NEAREST, encode_latents, quantise_z, write_z
from nicc.encoder.receiver import bit_table, interpolated, receiver_of
from nicc.encoder.settings import Annealing, Settings, State
from nicc.encoder.sga import Adam, Interrupted, Measured, Problem, Surroundings, optimise, round_softly
from nicc.encoder.transform import Latents, transform_of
from nicc.images import Picture
from nicc.model import load_model
from nicc.ssimulacra2 import encoding_distortion
from tests.conftest import psnr

POINT = 30


@pytest.fixture
def picture(coffee) -> Picture:
    return Picture(np.ascontiguousarray(np.asarray(coffee)[120:220, 200:340]))


def problem_of(model, picture, point=POINT):
    receiver = receiver_of(model)
    y, z = transform_of(model)(picture.pixels)
    pixels = torch.tensor(picture.pixels).permute(2, 0, 1)[None].float() / 255
    coded = y[..., : receiver.active_channels(point)]
    nothing = (torch.zeros(1, 0, n.shape[1], n.shape[2]) for n in (coded, coded, z, z))
    problem = Problem(receiver, pixels, point, model.architecture.rate_lambda(point), Surroundings(*nothing))
    return problem, torch.tensor(y)[None] * problem.rate.gain, torch.tensor(z)[None] / problem.z_steps


@pytest.mark.parametrize("point", [3, 30, 60])
def test_the_relaxed_receiver_is_the_real_one(model, picture, point):
    """Bits and error of hard symbols are those of the written file, decoded."""
    arrays = {k: v.copy() for k, v in model.params.items()}
    problem, v, z = problem_of(model, picture, point)
    with torch.no_grad():
        bits, _, error = problem.measure(v, z, torch.round)
    h, w, _ = picture.pixels.shape
    header = Header(model.code, model.fingerprint, w, h, point, 0.0, False)
    encoding = encode_latents(
        model, header, (v / problem.rate.gain)[0].numpy(), (z.round() * problem.z_steps)[0].numpy(), {}, NEAREST
    )
    assert float(bits) == pytest.approx(encoding.estimated_bits, rel=0.05)  # real rows, where the coder rounds them
    decoded = decode_pixels(encoding.container, model).astype(float)
    rounded = float(error) / (h * w) + 1 / 12  # to levels, which the relaxed picture is not
    assert rounded == pytest.approx(np.mean((decoded - picture.pixels) ** 2), rel=0.03)
    assert all(np.array_equal(arrays[k], model.params[k]) for k in arrays)  # nothing shared was scaled


def test_interpolated_tables():
    table = torch.tensor([[0.0, 3.0, 5.0], [1.0, 2.0, 8.0], [4.0, 4.0, 4.0]])
    row, column = torch.tensor([0.0, 1.0, 0.25, 2.0, 1.5]), torch.tensor([1.0, 2.0, 0.5, 2.0, 1.5])
    row.requires_grad_()
    column.requires_grad_()
    value = interpolated(table, row, column)
    assert value.tolist() == pytest.approx([3, 8, 0.75 * 1.5 + 0.25 * 1.5, 4, 4.5])
    value.sum().backward()
    assert column.grad[2] == pytest.approx(0.75 * 3 + 0.25 * 1)
    assert row.grad[4] == pytest.approx((4 + 4 - 2 - 8) / 2)


def test_bits_of_every_row_are_probabilities():
    bits = bit_table(load_model("two-layer")).reshape(-1, 64, 2048)
    bits = bits[1]  # of a group
    mass = 2.0 ** -bits[:, 0] + 2 * (2.0 ** -bits[:, 1:]).sum(1)
    assert np.all(mass < 1.01)
    assert np.all(mass[1:40] > 0.95)  # the rest is the escape's
    assert bits[0, 0] == 0
    assert bits[0, 1] > 12


@pytest.mark.parametrize("rounding", ["sigmoid", "atanh", "three-class"])
def test_soft_rounding(rounding):
    x = torch.linspace(-2.9, 2.9, 59)
    cold = round_softly(x, 0.01, rounding, torch.Generator().manual_seed(0))
    away = (x - x.floor() - 0.5).abs() > 0.1
    assert torch.allclose(cold[away], x[away].round(), atol=1e-2)
    low, even, high = (
        round_softly(torch.full((20000,), f), 0.5, rounding, torch.Generator().manual_seed(0)) for f in (0.4, 0.5, 0.6)
    )
    assert float(even.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(even.std()) > 0.2
    assert 0.55 < float(high.mean()) < 0.95
    assert float(low.mean()) == pytest.approx(1 - float(high.mean()), abs=0.02)
    a, b = (round_softly(x, 0.5, rounding, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("rounding", ["sigmoid", "atanh"])
def test_gradient_of_soft_rounding(rounding):
    """The derivative for fixed noise, against finite differences."""
    x = torch.tensor([0.1, 0.35, 0.5, 0.77, -1.3, 4.6], dtype=torch.float64, requires_grad=True)

    def sample(at):
        return round_softly(at, 0.7, rounding, torch.Generator().manual_seed(3))

    sample(x).sum().backward()
    step = 1e-6
    slope = (sample(x.detach() + step) - sample(x.detach() - step)) / (2 * step)
    assert torch.allclose(x.grad, slope, rtol=1e-4)


def test_adam_is_pytorchs():
    torch.manual_seed(0)
    ours, theirs = ([torch.full((3, 4), 0.5).requires_grad_(), torch.zeros(2).requires_grad_()] for _ in range(2))
    adam, optimizer = Adam(ours), torch.optim.Adam(theirs)
    for step in range(5):
        optimizer.param_groups[0]["lr"] = rate = 0.02 / (1 + step)
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        adam.step(rate)
        optimizer.step()
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-7)
            assert a.grad is None


def test_schedule_scales_with_its_steps():
    short, long = Annealing(100), Annealing(2000)
    assert short.at(50) == pytest.approx(long.at(1000))
    temperatures = [long.at(s)[0] for s in range(2000)]
    assert temperatures == sorted(temperatures, reverse=True)
    assert temperatures[0] == temperatures[600] > 2 * temperatures[-1]
    assert long.at(1999)[1] == pytest.approx(long.at(0)[1] / 10)
    rates = [Annealing(steps).learning_rate for steps in (1, 20, 50, 100, 2000)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == rates[1] == 2 * rates[-1]
    assert short.learning_rate == long.learning_rate
    for bad in ({"steps": -1}, {"steps": 10, "rounding": "stochastic"}):
        with pytest.raises(ValueError, match=r"steps|rounding"):
            Annealing(**bad)


def test_iterating_lowers_the_cost_of_real_files(model, picture):
    for point in (10, 45):
        plain = encode(model, picture, Settings(point, Annealing(0)))
        result = encode(model, picture, Settings(point, Annealing(45)))
        rounded = Result(model, picture, plain.settings, encode_plainly(model, picture, point, refine=False))
        assert result.plain_cost == plain.cost
        assert result.cost < plain.cost
        assert result.cost < 0.99 * rounded.cost
        decoded = np.asarray(nicc.decode(result.data))
        assert psnr(decoded, picture.pixels) == pytest.approx(result.psnr, abs=1e-6)
        distortion = np.mean((decoded - picture.pixels.astype(float)) ** 2)
        if model.architecture.objective == "visual":
            middle, raw = middle_error(picture.pixels, decoded), raw_difference(picture.pixels, decoded)
            distortion = encoding_distortion(distortion, middle, raw)
        assert result.cost == pytest.approx(
            len(result.data) * 8 / (100 * 140) + model.architecture.rate_lambda(point) * distortion
        )


def test_the_same_seed_gives_the_same_file(picture):
    files = [encode(load_model("two-layer"), picture, Settings(20, Annealing(30, seed=s))).data for s in (1, 1, 2)]
    assert files[0] == files[1] != files[2]


def test_a_result_that_is_no_better_is_not_kept(picture, monkeypatch):
    plain = encode(load_model("two-layer"), picture, Settings(20, Annealing(0)))

    def worse(self):
        return [Latents(y + 0.01 * np.sign(y), z) for y, z in zip(self.y, self.z, strict=True)]

    monkeypatch.setattr(Iteration, "run", worse)
    result = encode(load_model("two-layer"), picture, Settings(20, Annealing(5)))
    assert result.data == plain.data
    assert result.notes == (NOT_LOWER,)
    assert result.plain_cost is None


def test_a_batch_gives_each_picture_its_own_file(coffee):
    """Neighbours in a batch do not change each other's course, but for the random numbers."""
    pictures = [Picture(np.ascontiguousarray(np.asarray(coffee)[y : y + 64, 200:290])) for y in (60, 200)]
    model, settings = load_model("two-layer"), Settings(20, Annealing(40))
    batch = encode_batch(model, pictures, settings)
    for picture, result in zip(pictures, batch, strict=True):
        alone = encode(model, picture, settings)
        assert result.plain_cost == alone.plain_cost
        assert result.cost == pytest.approx(alone.cost, rel=0.03)
        assert psnr(np.asarray(nicc.decode(result.data)), picture.pixels) == pytest.approx(result.psnr, abs=1e-6)
    with pytest.raises(ValueError, match="one size"):
        encode_batch(model, [pictures[0], Picture(pictures[1].pixels[:48])], settings)
    assert encode_batch(model, [], settings) == []


def test_divergence_falls_back_to_the_plain_encoding(picture, monkeypatch):
    plain = encode(load_model("two-layer"), picture, Settings(20, Annealing(0)))
    measure = Problem.measure

    def broken(self, v, z, quantise):
        return Measured(*(part * math.nan for part in measure(self, v, z, quantise)))

    monkeypatch.setattr(Problem, "measure", broken)
    result = encode(load_model("two-layer"), picture, Settings(20, Annealing(5)))
    assert result.data == plain.data
    assert "diverged at step 0" in result.notes[0]


def test_interrupts(picture):
    def stop(state: State, total: int) -> None:
        assert total == 60
        if state.step == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(load_model("two-layer"), picture, Settings(20, Annealing(60)), stop)
    kept = encode(load_model("two-layer"), picture, Settings(20, Annealing(60), keep_on_interrupt=True), stop)
    assert INTERRUPTED in kept.notes
    assert psnr(np.asarray(nicc.decode(kept.data)), picture.pixels) > 25


def test_interrupted_optimisation_hands_over_what_it_has(picture):
    problem, v, z = problem_of(load_model("two-layer"), picture)

    def stop(state: State) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        optimise(problem, v, z, Annealing(3), stop)
    assert 0 < float((caught.value.v - v).abs().max()) < 0.1


def test_no_joints_between_groups_of_rows(coffee):
    """An image of two groups: the error at the joint falls as it does elsewhere."""
    tall = np.concatenate([np.asarray(coffee)[:, 250:266]] * 3)[: 1024 + 120]
    picture = Picture(np.ascontiguousarray(tall))
    model = load_model("two-layer")
    steps = []
    files = [
        encode(model, picture, Settings(25, Annealing(n)), lambda s, n: steps.append((s.step, n))).data for n in (0, 40)
    ]
    assert steps[-1] == (80, 80)
    errors = [np.square(np.asarray(nicc.decode(f)).astype(float) - tall).mean((1, 2)) for f in files]
    near = np.abs(np.arange(len(tall)) - 1023.5) < 16
    costs = [
        len(f) * 8 / tall[..., 0].size + Architecture().rate_lambda(25) * e.mean()
        for f, e in zip(files, errors, strict=True)
    ]
    assert costs[1] < 0.99 * costs[0]
    change = errors[1] / np.maximum(errors[0], 1)
    assert change[near].mean() < change[~near].mean() + 0.1


@pytest.mark.parametrize("height", [1, 17, 1025, 1041])
def test_heights_at_the_edges_of_groups(height, coffee):
    column = np.tile(np.asarray(coffee)[:, 300:318], (3, 1, 1))[:height]
    picture = Picture(np.ascontiguousarray(column))
    result = encode(load_model("two-layer"), picture, Settings(20, Annealing(2)))
    assert np.asarray(nicc.decode(result.data)).shape == column.shape


def test_bits_of_whole_hyper_latents_are_those_of_the_coder():
    model, rng = load_model("two-layer"), np.random.default_rng(0)
    z = rng.normal(0, 2, (25, 7, 32)).round().astype(np.int16)
    relaxed = torch.tensor(z[None].astype(np.float32))
    receiver = receiver_of(model)
    bits = receiver.z_bits(20, relaxed, 0)[0]
    assert float(bits.sum()) == pytest.approx(write_z(model, 20, z).bits, rel=0.005)
    second = receiver.z_bits(20, relaxed[:, 15:], 1)[0, 1:]  # the second group, whose first rows see one row above
    np.testing.assert_allclose(second[2:], bits[18:], rtol=1e-5)


def test_hyper_latents_stay_within_their_bounds(picture):
    """However far they are pushed."""
    problem, v, z = problem_of(load_model("two-layer"), picture, 5)
    with torch.no_grad():
        bits, *_ = problem.measure(v, z * 0 + 1e4, torch.round)
    assert torch.isfinite(bits).all()
    assert np.abs(quantise_z(load_model("two-layer"), 5, np.full((1, 1, 32), 1e4))).max() <= 127
