from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import nicc
from nicc.container import pack
from nicc.encoder.encode import encode_plainly
from nicc.encoder.quantise import DISTORTION_WEIGHT, Quantiser
from nicc.encoder.transform import transform_of
from nicc.images import Picture, from_image
from nicc.model import load_model
from tests.conftest import psnr


@pytest.mark.parametrize("quality", [8, 32, 56])
def test_files_are_as_small_as_the_model_says(model, astronaut, coffee, quality):
    for image in (astronaut, coffee):
        encoding = encode_plainly(model, from_image(image)[0], quality)
        assert len(pack(encoding.container)) <= 1.01 * encoding.estimated_bits / 8 + 40
        assert encoding.estimated_bits > 1000


def test_quality_orders_size_and_fidelity(model, coffee):
    coffee = coffee.crop((200, 100, 500, 300))
    sizes, fidelities = [], []
    for quality in (0, 20, 40, 60, 80, 100):
        data = nicc.encode(coffee, model=model.name, quality=quality)
        sizes.append(len(data))
        fidelities.append(psnr(coffee, nicc.decode(data)))
    assert sizes == sorted(sizes)
    assert sizes[-1] > 4 * sizes[0]
    assert fidelities == sorted(fidelities)
    assert fidelities[0] > 25
    assert fidelities[-1] > 33


def test_the_models_beat_jpeg(model, astronaut, tmp_path):
    data = nicc.encode(astronaut, model=model.name, quality=28)
    path = tmp_path / "a.jpg"
    for q in range(95, 5, -5):
        astronaut.save(path, quality=q, optimize=True)
        if path.stat().st_size <= len(data):
            break
    assert psnr(astronaut, nicc.decode(data)) > psnr(astronaut, Image.open(path)) + 1


def test_encoding_is_repeatable_and_any_thread_count_decodes(astronaut):
    image = astronaut.resize((130, 75))
    picture = from_image(image)[0]
    model = load_model("two-layer")
    threads = torch.get_num_threads()
    decoded = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            data = pack(encode_plainly(model, picture, 40).container)
            assert data == pack(encode_plainly(model, picture, 40).container)
            decoded.append(np.asarray(nicc.decode(data)))
    finally:
        torch.set_num_threads(threads)
    assert psnr(*decoded) > 45 if (decoded[0] != decoded[1]).any() else True
    assert psnr(image, decoded[0]) > 30


def test_latents_have_the_promised_shapes(astronaut):
    y, z = transform_of(load_model("two-layer"))(np.asarray(astronaut)[:75, :130])
    assert y.shape == (5, 9, 256)
    assert z.shape == (2, 3, 32)
    assert y.dtype == z.dtype == np.float32


def test_rounding_weighs_bits_against_distortion():
    model = load_model("two-layer")
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 64, (40, 40)).astype(np.uint8)
    residual = (rng.laplace(size=rows.shape) * 0.11 * np.exp(rows * 0.123)).astype(np.float32)
    plain = np.where(rows > 0, np.rint(residual), 0).astype(int)
    thrifty = Quantiser(model, 30)(residual, rows, slice(0, 40))
    assert not thrifty[rows == 0].any()
    assert (np.abs(thrifty) <= np.abs(plain)).all()
    assert (np.abs(plain - thrifty) <= 1).all()
    coded = rows > 0
    quantise = Quantiser(model, 30)

    def cost(s):
        offset = np.where(s != 0, model.params["recon_offset"][rows, np.clip(np.abs(s), 1, 2) - 1], 0)
        error = np.abs(residual) - np.abs(s) + offset
        bits = quantise.cost(s[coded], quantise.shared + rows[coded].astype(int)).sum()
        return bits + DISTORTION_WEIGHT * (error[coded] ** 2).sum()

    assert cost(thrifty) < cost(plain)


def test_flat_images_cost_next_to_nothing():
    for level in (0, 128, 255):
        data = nicc.encode(Image.new("RGB", (256, 256), (level,) * 3), quality=32)
        assert len(data) < 400
        assert psnr(Image.new("RGB", (256, 256), (level,) * 3), nicc.decode(data)) > 38


@pytest.mark.parametrize("arguments", [{"quality": 101}, {"quality": -1}, {"beta": 1.5}])
def test_arguments_out_of_range_are_refused(astronaut, arguments):
    with pytest.raises(ValueError, match="not within"):
        nicc.encode(astronaut, **arguments)


def test_the_header_says_how_it_was_coded(astronaut):
    header = nicc.inspect(nicc.encode(astronaut.resize((50, 20)), model="jpeg-like", quality=17))
    assert (header.width, header.height, header.model) == (50, 20, 2)
    assert header.rate_point == round(0.17 * 63)
    assert header.beta == 0
    assert header.fingerprint == load_model("jpeg-like").fingerprint


def test_kodak_files_are_as_small_as_the_model_says(model, kodak):
    for path in kodak[::12]:
        with Image.open(path) as image:
            picture = Picture(np.asarray(image.convert("RGB")))
        for quality in (8, 56):
            encoding = encode_plainly(model, picture, quality)
            assert len(pack(encoding.container)) <= 1.01 * encoding.estimated_bits / 8 + 40
