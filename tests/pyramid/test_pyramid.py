"""The pyramid from end to end: files of images of all kinds, targets, refusals, damage."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from typer.testing import CliRunner

import nicc
from nicc.arrays import digest
from nicc.bench.metrics import ssimulacra2
from nicc.cli import app
from nicc.container import pack, unpack
from nicc.decoder.limits import memory_needed
from nicc.encoder.entry import encode_picture
from nicc.encoder.settings import Options
from nicc.errors import FormatError, ModelError, NiccError
from nicc.images import Picture, decibels
from nicc.model import load_model
from nicc.pyramid.encode import Fitter
from nicc.pyramid.fit import Cooling
from nicc.pyramid.networks import encode_networks
from nicc.pyramid.rounding import rounded

pytest.importorskip("numba", reason="fitting needs Numba")
QUICK = {"model": "pyramid", "tune": "psnr", "sga_steps": 40}


def psnr(image, data):
    error = np.asarray(image.convert("RGB"), float) - np.asarray(nicc.decode(data).convert("RGB"))
    return decibels(np.mean(error**2))


@pytest.fixture(scope="module")
def photo(request) -> Image.Image:
    from skimage import data

    return Image.fromarray(data.coffee()).resize((96, 64))


@pytest.fixture(scope="module")
def data(photo) -> bytes:
    return nicc.encode(photo, quality=55, **QUICK)


def test_more_steps_cost_less(photo):
    model = load_model("pyramid")
    weight = model.architecture.rate_lambda(50)
    costs = []
    for steps in (12, 60):
        fitter = Fitter(model, np.asarray(photo))
        fitter.run(50, weight, steps)
        bits, distortion = fitter.fit.measure()
        costs.append(bits + weight * distortion)
    assert costs[1] < 0.9 * costs[0]


def test_more_steps_end_colder():
    assert Cooling.over(1) == Cooling.over(500) == Cooling()
    coldest = [Cooling.over(steps).temperature[1] for steps in (500, 1000, 2000, 10000)]
    assert coldest == sorted(coldest, reverse=True)
    assert coldest[0] > coldest[1] > coldest[2] == coldest[3]
    rates = [Cooling.over(steps).latent_rate for steps in (500, 1000, 2000)]
    assert rates == sorted(rates)
    assert rates[0] < rates[2]


def test_the_schedule():
    cooling = Cooling(temperature=(0.5, 0.1), noise=(0.3, 0.1), rise=0.2, last_rate=0.02)
    assert cooling.at(0) == (0.5, 0.3, 1, 0)
    *_, rate, network_rate = cooling.at(0.1)
    assert network_rate == pytest.approx(rate / 2)
    assert cooling.at(1) == pytest.approx((0.1, 0.1, 0.02, 0.02))
    assert replace(cooling, begin=0.5).at(0) == cooling.at(0.5)


def test_going_on_spoils_nothing(photo):
    fitter = Fitter(load_model("pyramid"), np.asarray(photo))
    weights = [fitter.model.architecture.rate_lambda(p) for p in (51, 52)]
    fitter.run(51, weights[0], 80)
    bits, distortion = fitter.fit.measure()
    assert not fitter.begins(52)
    assert fitter.begins(90)
    fitter.run(52, weights[1], 16)
    again, then = fitter.fit.measure()
    assert again + weights[1] * then < 1.02 * (bits + weights[1] * distortion)


@pytest.mark.parametrize("rate_point", [20, 78])
def test_networks_in_whole_steps_cost_little(rate_point, photo):
    model = load_model("pyramid")
    weight = model.architecture.rate_lambda(rate_point)
    fitter = Fitter(model, np.asarray(photo.resize((144, 96))))  # where the start's networks are not kept
    fitter.run(rate_point, weight, 60)
    bits, distortion = fitter.fit.measure()
    change, networks = rounded(fitter.fit, fitter.choices[fitter.family])
    assert change.used
    b, d = fitter.fit.measure(networks)
    spent = 8 * len(encode_networks(fitter.choices, fitter.family, change)) / fitter.fit.pixels
    assert b + weight * d + spent < bits + weight * distortion + 0.4


def test_what_is_measured_is_what_is_decoded(photo):
    result = encode_picture(Picture(np.asarray(photo)), Options(model="pyramid", tune="psnr", quality=50, steps=100))
    bits = 8 * sum(len(g.stream) for g in result.encoding.container.groups)
    assert bits == pytest.approx(result.encoding.estimated_bits, rel=0.03, abs=60)
    assert result.psnr == pytest.approx(psnr(photo, result.data), abs=1e-6)
    assert result.psnr > 24


def test_a_file_says_what_it_is(data):
    header = nicc.inspect(data)
    assert (header.model, header.rate_point, header.beta) == (4, 55, 0)
    assert [box.name for box in unpack(data).boxes] == ["networks", "y"]
    assert pack(unpack(data)) == data


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (17, 9)], ids=str)
def test_small_images(size, photo):
    image = photo.resize(size)
    data = nicc.encode(image, quality=70, lossless=False, **QUICK)
    assert nicc.decode(data).size == size
    assert psnr(image, data) > 15


@pytest.mark.parametrize("level", [0, 250, 255])
def test_flat_and_bright_images(level):
    """Clipping inside the loss would leave bright images without a gradient."""
    image = Image.new("RGB", (64, 48), (level, level, max(level - 3, 0)))
    data = nicc.encode(image, quality=60, lossless=False, **{**QUICK, "sga_steps": 100})
    assert psnr(image, data) > 33


def test_strips_are_independent(photo):
    image = photo.resize((24, 1100))
    data = nicc.encode(image, quality=50, **{**QUICK, "sga_steps": 8})
    whole = np.asarray(nicc.decode(data))
    assert len(unpack(data).groups) == 2
    for crop in ((0, 0, 24, 1100), (3, 1000, 7, 90), (5, 1030, 9, 20)):
        x, y, w, h = crop
        np.testing.assert_array_equal(np.asarray(nicc.decode(data, crop=crop)), whole[y : y + h, x : x + w])
    small = np.asarray(Image.fromarray(whole).reduce(4))
    np.testing.assert_array_equal(np.asarray(nicc.decode(data, reduction=4)), small)


def test_alpha_grey_and_metadata(photo):
    image = photo.convert("LA")
    image.putalpha(photo.convert("L").point(lambda v: 255 * (v > 100)))
    exif = Image.Exif()
    exif[0x010E] = "a cup"
    image.info["exif"] = exif.tobytes()
    out = nicc.decode(nicc.encode(image, quality=50, **QUICK))
    assert out.mode == "LA"
    assert out.getexif()[0x010E] == "a cup"


def test_targets(photo, monkeypatch):
    photo, size = photo.resize((72, 48)), 1000
    data = nicc.encode(photo, model="pyramid", tune="psnr", sga_steps=12, target_size=size, lossless=False)
    assert 0.8 * size < len(data) <= size
    low, high = (nicc.encode(photo, model="pyramid", tune="psnr", sga_steps=24, target_psnr=q) for q in (25, 31))
    assert 25 <= psnr(photo, low) < 31 <= psnr(photo, high)
    assert len(low) < 0.9 * len(high)
    monkeypatch.setattr("nicc.encoder.fitting.CORRECTIONS", 1)
    with pytest.raises(NiccError, match="the target is not reached"):
        nicc.encode(photo, model="pyramid", tune="psnr", sga_steps=2, target_size=30, lossless=False)


def test_a_small_image_may_keep_the_starts_networks(photo, monkeypatch):
    model = load_model("pyramid")

    def fitted() -> Fitter:
        fitter = Fitter(model, np.asarray(photo.resize((24, 16))))
        fitter.run(20, model.architecture.rate_lambda(20), 60)
        return fitter

    with_it = fitted()
    assert with_it.unchanged
    assert not rounded(with_it.fit, with_it.choices[with_it.family])[0].coefficients.any()
    monkeypatch.setattr("nicc.pyramid.encode.SMALL", 0)
    assert with_it.cost() < fitted().cost()


def test_visual(photo):
    small = Picture(np.asarray(photo.resize((48, 32))))
    options = [Options(model="pyramid", tune=tune, quality=50, steps=25) for tune in (None, "psnr")]
    results = [encode_picture(small, o) for o in options]
    assert results[0].distortion != results[1].distortion
    assert results[0].ssimulacra2 > results[1].ssimulacra2
    assert results[1].distortion == pytest.approx(results[1].mse, rel=1e-4)
    assert results[0].ssimulacra2 == pytest.approx(ssimulacra2(small.pixels, results[0].decoded), abs=0.1)


def test_visual_targets_need_no_pytorch(photo, monkeypatch):
    choices = {"model": "pyramid", "tune": "visual", "sga_steps": 40, "lossless": False}
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "nicc.encoder.visual", None)
    assert 1000 < len(nicc.encode(photo, target_size=1500, **choices)) <= 1500  # fits differ between processors
    decoded = np.asarray(nicc.decode(nicc.encode(photo, target_ssimulacra2=40, **choices)))
    assert 39.9 <= ssimulacra2(np.asarray(photo), decoded) < 60


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        ({"beta": 0.5}, "has no realism head"),
        ({"device": "cuda"}, "fitted on the processor"),
        ({"sga_steps": 0}, "no encoding without steps"),
    ],
)
def test_refusals(choices, problem, photo):
    with pytest.raises(NiccError, match=problem):
        nicc.encode(photo, **{**QUICK, **choices})


def test_realism_is_refused_when_decoding(data):
    with pytest.raises(NiccError, match="no realism head"):
        nicc.decode(data, beta=0.5)


def test_stored_losslessly_where_that_is_smaller():
    image = Image.new("RGB", (200, 100), (255, 255, 255))
    image.paste((0, 0, 0), (20, 20, 60, 60))
    assert nicc.inspect(nicc.encode(image, quality=60, **QUICK)).model == 255


def test_damage_is_noticed(data):
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(data)
        at = int(rng.integers(len(data)))
        if rng.random() < 0.3:
            broken = broken[:at]
        else:
            broken[at] ^= int(rng.integers(1, 256))
        with pytest.raises(NiccError):
            nicc.decode(bytes(broken))


def test_parts_of_another_model(data, photo):
    other = unpack(nicc.encode(photo, tune="psnr", lossless=False))
    fitted = unpack(data)
    swapped = pack(type(fitted)(fitted.header, 0, other.z, fitted.groups))
    with pytest.raises(FormatError, match="parts that model pyramid needs"):
        nicc.decode(swapped)
    swapped = pack(type(fitted)(other.header, 0, b"", other.groups, networks=fitted.networks))
    with pytest.raises(FormatError, match="parts that model two-layer needs"):
        nicc.decode(swapped)


def test_memory_limits(data):
    with pytest.raises(FormatError, match="more than the limit"):
        nicc.decode(data, max_memory=1 << 20)
    assert memory_needed(load_model("pyramid"), nicc.inspect(data)) < 250 << 20


def test_command_line(tmp_path, photo):
    photo.save(tmp_path / "in.png")
    options = ["--model", "pyramid", "--tune", "psnr", "--sga-steps", "10", "-v"]
    run = CliRunner().invoke
    done = run(app, ["encode", str(tmp_path / "in.png"), "-o", str(tmp_path / "a.nic"), *options])
    assert done.exit_code == 0, done.output
    assert "model pyramid v" in done.output
    assert run(app, ["info", str(tmp_path / "a.nic")]).output.count("networks") == 1
    assert run(app, ["decode", str(tmp_path / "a.nic"), "-o", str(tmp_path / "a.png")]).exit_code == 0


def test_an_analysis_that_lacks_an_array_is_refused(tmp_path, photo):
    folder = tmp_path / "mine"
    shutil.copytree(load_model("pyramid").folder, folder)
    description = json.loads((folder / "model.json").read_text())
    arrays = load_arrays((folder / "encoder.safetensors").read_bytes())
    del arrays["out3"]
    description["encoder_sha256"] = digest(arrays, description["architecture"])
    (folder / "model.json").write_text(json.dumps(description))
    (folder / "encoder.safetensors").write_bytes(save_arrays(arrays))
    with pytest.raises(ModelError, match="damaged: its analysis"):
        nicc.encode(photo, **{**QUICK, "model": str(folder)})
    (folder / "encoder.safetensors").unlink()
    with pytest.raises(ModelError, match="missing; reinstall"):
        nicc.encode(photo, **{**QUICK, "model": str(folder)})
