"""What the sender says of detail and grain: it follows the original, costs little, and leaves beta 0 alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import nicc
from nicc import ModelError
from nicc.bench.metrics import ssimulacra2
from nicc.container import BOX_TEXTURE, pack, unpack
from nicc.decoder.decode import Window, decode_pixels, decode_strips
from nicc.decoder.hyper import dequantise_z, read_z
from nicc.decoder.latents import read_group
from nicc.decoder.texture import UNITS, texture_of
from nicc.encoder import texture
from nicc.encoder.encode import encode, encode_plainly
from nicc.encoder.settings import Annealing, Settings
from nicc.encoder.texture import estimator_for, merged, most_bytes, with_texture
from nicc.geometry import Grid
from nicc.images import Picture
from nicc.model import load_transform


@pytest.fixture(scope="module")
def file(coffee) -> bytes:
    return nicc.encode(coffee, quality=40)


def mean_of(data: bytes) -> np.ndarray:
    """The mean strength, and grain in levels."""
    found = texture_of(unpack(data))
    assert found is not None
    return found.values.mean((0, 1)) * UNITS


def test_beta_0_and_symbols_are_those_without_the_box(coffee):
    model, picture = load_transform(), Picture(np.asarray(coffee))
    plain = encode_plainly(model, picture, 40)
    told = with_texture(model, plain, picture.pixels)
    assert set(told.container.extras) == {BOX_TEXTURE}
    assert told.container.groups == plain.container.groups
    assert told.container.z == plain.container.z
    np.testing.assert_array_equal(decode_pixels(told.container, beta=0), decode_pixels(plain.container, beta=0))
    again = with_texture(model, plain._replace(middles=None), picture.pixels)  # from the file, as of a large picture
    assert again.container == told.container
    assert (decode_pixels(told.container, beta=0.5) != decode_pixels(plain.container, beta=0.5)).any()
    size = len(pack(plain.container))
    assert 0 < len(pack(told.container)) - size <= most_bytes(size, 0) < 0.003 * size


def test_files_that_ask_for_a_beta_tell_more_of_it(coffee):
    plain, asking = (nicc.encode(coffee, quality=20, beta=beta) for beta in (0, 0.5))
    coarse, fine = (texture_of(unpack(data)) for data in (plain, asking))
    assert coarse is not None
    assert fine is not None
    assert fine.side < coarse.side
    boxes = [len(unpack(data).extras[BOX_TEXTURE]) for data in (plain, asking)]
    assert boxes[0] < boxes[1] <= most_bytes(len(asking), 0.5) < 0.03 * len(asking)


def test_files_that_ask_for_a_beta_are_coded_by_their_own_gains(coffee):
    model, picture = load_transform(), Picture(np.ascontiguousarray(np.asarray(coffee)[120:248, 200:360]))
    groups = model.architecture.groups
    spread = []
    for beta in (0, 0.5):
        result = encode(model, picture, Settings(20, Annealing(0), beta=beta))
        container = result.encoding.container
        grid = Grid.of(container.header)
        z = dequantise_z(model, 20, read_z(model, container.header, container.z, grid))
        symbols, _ = read_group(model, container.header, z, container.groups[0].stream, (0, grid.h), grid.w)
        spread.append(np.abs(symbols.astype(int)))
        np.testing.assert_array_equal(result.decoded, np.asarray(nicc.decode(result.data, beta=0)))
        iterated = encode(model, picture, Settings(20, Annealing(40), beta=beta))
        assert iterated.cost < 0.97 * result.cost
    plain, asking = spread
    low, middle = slice(0, groups[2]), slice(groups[4], groups[7])
    assert 0.85 < asking[..., low].sum() / plain[..., low].sum() < 0.95
    assert asking[..., middle].sum() > 1.1 * plain[..., middle].sum()


def test_the_grain_of_an_original_is_told(coffee):
    pixels = np.asarray(coffee.resize((300, 200), Image.Resampling.LANCZOS)).astype(float)
    noise = np.random.default_rng(0).standard_normal((200, 300, 1))
    grainy = Image.fromarray((pixels + 4 * noise).clip(0, 255).astype(np.uint8))
    smooth = Image.fromarray(pixels.astype(np.uint8))
    (_, more), (_, less) = (mean_of(nicc.encode(image, quality=30, lossless=False)) for image in (grainy, smooth))
    assert more > less + 0.6
    assert 0.8 < more < 4


def test_grain_and_detail_have_their_places(coffee):
    pixels = np.asarray(coffee).astype(float)
    pixels[:, 300:] += 4 * np.random.default_rng(0).standard_normal((400, 300, 1))
    found = texture_of(unpack(nicc.encode(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), quality=30)))
    assert found is not None
    middle = found.values.shape[1] // 2
    assert found.values[:, middle + 1 :, 1].mean() * UNITS[1] > 0.4 + found.values[:, : middle - 1, 1].mean() * UNITS[1]


def test_windows_strips_and_reductions_have_the_grain_of_the_whole(file):
    container = unpack(file)
    whole = decode_pixels(container, beta=0.5)
    window = Window(117, 90, 200, 170)
    part = decode_pixels(container, beta=0.5, window=window).astype(int)
    assert np.abs(part - whole[90:260, 117:317]).max() <= 1
    np.testing.assert_array_equal(np.concatenate(list(decode_strips(container, beta=0.5))), whole)
    half = decode_pixels(container, beta=0.5, reduction=2).astype(float)
    means = whole.reshape(200, 2, 300, 2, 3).mean((1, 3))
    assert np.abs(half - means).max() <= 1.1


def test_a_tall_picture_is_looked_at_in_bands(astronaut):
    tall = Image.new("RGB", (96, 2300))
    for top in range(0, 2300, 512):
        tall.paste(astronaut.crop((200, 0, 296, 512)), (0, top))
    data = nicc.encode(tall, quality=30, lossless=False)
    found = texture_of(unpack(data))
    assert found is not None
    whole = decode_pixels(unpack(data), beta=0.5)
    np.testing.assert_array_equal(np.concatenate(list(decode_strips(unpack(data), beta=0.5))), whole)
    lower = decode_pixels(unpack(data), beta=0.5, window=Window(0, 1900, 96, 400)).astype(int)
    assert np.abs(lower - whole[1900:]).max() <= 1


def test_several_betas_at_once_are_those_one_by_one(file):
    for beta, image in zip((0, 0.5, 1), nicc.decode_all(file, [0, 0.5, 1]), strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(nicc.decode(file, beta=beta)))


def test_a_target_of_quality_is_that_of_beta_0(coffee):
    data = nicc.encode(coffee, target_ssimulacra2=60, beta=0.5)
    assert 60 <= ssimulacra2(np.asarray(coffee), np.asarray(nicc.decode(data, beta=0))) < 61


@pytest.mark.parametrize("size", [(1, 1), (33, 17), (31, 64)])
def test_small_pictures_have_boxes_too(astronaut, size):
    image = astronaut.crop((200, 100, 200 + size[0], 100 + size[1]))
    data = nicc.encode(image, quality=20, lossless=False)
    assert texture_of(unpack(data)) is not None
    assert nicc.decode(data, beta=1).size == size


def test_targets_of_size_count_the_box(coffee):
    for size, beta in ((8000, 0), (20000, 0), (9000, 0.5)):
        data = nicc.encode(coffee, target_size=size, beta=beta)
        assert BOX_TEXTURE in unpack(data).extras
        assert 0.95 * size < len(data) <= size


def test_what_has_no_network_for_its_head_has_no_box(coffee, monkeypatch, tmp_path):
    assert estimator_for(load_transform("two-layer")) is None
    assert estimator_for(load_transform("jpeg-like")) is None
    assert BOX_TEXTURE not in unpack(nicc.encode(coffee, quality=30, model="two-layer")).extras
    assert BOX_TEXTURE not in unpack(nicc.encode(coffee, lossless=True)).extras
    model = load_transform()
    monkeypatch.setattr(model.realism, "sha256", "another")
    texture._read.cache_clear()
    encoding = encode_plainly(model, Picture(np.asarray(coffee)), 30)
    assert with_texture(model, encoding, np.asarray(coffee)) is encoding
    texture._read.cache_clear()
    (tmp_path / texture.TEXTURE_FILE).write_bytes(b"no arrays")
    monkeypatch.setattr(model, "folder", tmp_path)
    (tmp_path / "realism.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="damaged"):
        estimator_for(model)
    texture._read.cache_clear()


def test_merged_tiles_are_means_by_weight():
    found = np.ones((3, 2, 4))
    found[0, 0] = 2, 4, 3, 1
    wide = merged(found)
    assert wide.shape == (2, 1, 4)
    np.testing.assert_allclose(wide[0, 0], [(6 + 3) / 6, (4 + 3) / 4, 6, 4])
    np.testing.assert_allclose(wide[1, 0], [1, 1, 2, 2])


def test_a_result_keeps_what_it_has_decoded_but_not_its_bytes(coffee):
    model = load_transform()
    settings = Settings(30, Annealing(0))
    plain = encode(model, Picture(np.asarray(coffee)), settings)
    before, decoded = plain.data, plain.decoded
    told = plain.with_texture()
    assert told.decoded is decoded
    assert len(told.data) > len(before)
    assert unpack(told.data).extras
