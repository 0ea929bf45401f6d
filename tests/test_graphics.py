"""Pages of photographs and graphics: round trips, what is chosen by itself, seams, and files that lie."""

from __future__ import annotations

import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import nicc
from nicc import FormatError
from nicc.container import BOX_GRAPHICS, LOSSLESS_MODEL, Container, Header, pack, unpack, with_checksum
from nicc.decoder.decode import group_latents
from nicc.decoder.hyper import read_z, upsample
from nicc.decoder.render import Renderer, synthesise
from nicc.encoder import mixed
from nicc.encoder.encode import encode
from nicc.encoder.entry import encode_picture
from nicc.encoder.filling import filled
from nicc.encoder.near_lossless import LARGEST_REACH
from nicc.encoder.settings import Annealing, Options, Settings
from nicc.geometry import Grid
from nicc.graphics import CELL, MAP_LENGTH, Layer, Stored, box_of, grid_of, layer_of, spread
from nicc.images import Picture
from nicc.model import load_model, model_of_code
from tests.conftest import psnr
from tests.test_lossless import drawing

PART = (200, 150, 520, 420)
"""Of a page: text, and most of its photograph."""


def page(coffee: Image.Image, width: int = 600, height: int = 450) -> Image.Image:
    """Text on flat ground, and a photograph that does not lie on cells' borders."""
    image = drawing(width, height)
    image.paste(coffee.resize((270, 180)), (290, 230))
    return image


@pytest.fixture(scope="module", autouse=True)
def quick_webp():
    """WebP at its slowest is most of the time that pages take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nicc.lossless.WEBP_METHODS", (1,))
        yield


@pytest.fixture(scope="module")
def coded(coffee, quick_webp):
    image = page(coffee)
    return image, nicc.encode(image, quality=40)


def cells_of(data: bytes) -> np.ndarray:
    layer = layer_of(unpack(data))
    return np.zeros((0, 0), bool) if layer is None else layer.cells


def test_text_is_sharp_and_photographs_are_coded(coded):
    """Text keeps its colours within a few levels."""
    image, data = coded
    cells, pixels, decoded = cells_of(data), np.asarray(image), np.asarray(nicc.decode(data))
    assert 20 < cells.sum() < cells.size - 6
    inside = spread(cells, image.width, image.height)
    away = np.abs(decoded[inside].astype(int) - pixels[inside]).max(-1)
    assert away.max() <= LARGEST_REACH
    assert (away > 0).mean() < 0.2
    assert 25 < psnr(decoded[~inside], pixels[~inside]) < 60
    photograph = spread(~cells, image.width, image.height)[300:380, 340:500]
    assert photograph.mean() > 0.9
    assert len(data) < 0.8 * len(nicc.encode(image, quality=40, lossless=False))
    assert len(data) < 0.9 * len(nicc.encode(image, lossless=True))


def test_at_the_highest_quality_text_is_exact(coded):
    pixels = np.asarray(coded[0])
    for weight, note in ((1.0, "stored as graphics, exactly"), (0.1, "stored as graphics, within 7 levels")):
        page = mixed.Page(pixels, mixed.candidates(pixels), weight)
        shown = page.forms[-1].shown
        assert (shown == pixels).all() == (weight == 1)
        graphics = page.graphics(page.graphic)
        assert note in graphics.note
        header = unpack(coded[1]).header
        layer = layer_of(Container(header, 0, b"", (), {BOX_GRAPHICS: graphics.box}))
        inside = spread(page.graphic, *coded[0].size)
        np.testing.assert_array_equal(layer.pixels[inside], shown[inside])


def test_parts_thumbnails_and_betas_are_those_of_the_whole(coded):
    image, data = coded
    whole = np.asarray(nicc.decode(data))
    for window in ((0, 0, 70, 70), (250, 200, 200, 150), (530, 380, 70, 70), (301, 63, 3, 66)):
        left, top, width, height = window
        part = np.asarray(nicc.decode(data, crop=window)).astype(int)
        assert np.abs(part - whole[top : top + height, left : left + width]).max() <= 1
    exact = Image.fromarray(whole)
    for reduction in (2, 4, 8):
        thumbnail = np.asarray(nicc.decode(data, reduction=reduction)).astype(int)
        assert np.abs(thumbnail - np.asarray(exact.reduce(reduction))).max() <= 2
        part = np.asarray(nicc.decode(data, reduction=reduction, crop=(64, 128, 256, 192))).astype(int)
        assert np.abs(part - np.asarray(exact.crop((64, 128, 320, 320)).reduce(reduction))).max() <= 2
    plain, real = (np.asarray(x) for x in nicc.decode_all(data, [0.0, 1.0]))
    inside = spread(cells_of(data), image.width, image.height)
    np.testing.assert_array_equal(plain, whole)
    np.testing.assert_array_equal(real[inside], whole[inside])
    assert (real != plain).mean() > 0.02


def test_strips_of_a_tall_page(coffee):
    image = page(coffee, 200, 2300)
    image.paste(coffee.resize((200, 700)), (0, 900))
    data = nicc.encode(image, quality=30)
    inside = spread(cells_of(data), 200, 2300)
    assert 0.3 < inside.mean() < 0.8
    away = np.asarray(nicc.decode(data))[inside].astype(int) - np.asarray(image)[inside]
    assert np.abs(away).max() <= LARGEST_REACH


def test_grey_and_alpha(coffee):
    image = page(coffee).crop(PART)
    back = nicc.decode(nicc.encode(image.convert("L"), quality=40))
    assert back.mode == "L"
    image.putalpha(200)
    data = nicc.encode(image, quality=40)
    assert cells_of(data).any()
    assert nicc.decode(data).getpixel((100, 150))[3] == 200


def test_photographs_have_no_graphics(astronaut, coffee):
    for image in (astronaut, coffee):
        assert mixed.candidates(np.asarray(image)).sum() < mixed.FEWEST_CELLS
        assert BOX_GRAPHICS not in unpack(nicc.encode(image, quality=50)).extras


def test_it_is_said_and_can_be_switched_off(coffee, tmp_path):
    page(coffee).crop(PART).save(tmp_path / "a.png")
    command = [sys.executable, "-m", "nicc", "encode", tmp_path / "a.png", "-q", "40", "--force"]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert "cells stored as graphics, " in done.stderr
    shown = subprocess.run(
        [sys.executable, "-m", "nicc", "info", tmp_path / "a.nic"], capture_output=True, check=True, text=True
    )
    assert ", graphics " in shown.stdout
    subprocess.run([*command, "--no-lossless"], capture_output=True, check=True)
    assert BOX_GRAPHICS not in unpack((tmp_path / "a.nic").read_bytes()).extras


def test_iterating_goes_on_beside_graphics(coffee):
    pixels = np.asarray(page(coffee).crop(PART))
    plain, iterated = (encode_picture(Picture(pixels), Options(quality=40, steps=n)) for n in (0, 5))
    assert cells_of(plain.data).any()
    np.testing.assert_array_equal(cells_of(iterated.data), cells_of(plain.data))
    assert len(iterated.data) * 8 + iterated.mse != len(plain.data) * 8 + plain.mse


@pytest.mark.parametrize("size", [(64, 64), (65, 127), (200, 70)])
def test_a_layer_pastes_what_it_holds(size):
    rng = np.random.default_rng(0)
    width, height = size
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    cells = rng.random((-(-height // CELL), -(-width // CELL))) < 0.5
    out = Layer(cells, pixels).paste(np.zeros_like(pixels))
    inside = spread(cells, width, height)
    np.testing.assert_array_equal(out[inside], pixels[inside])
    assert not out[~inside].any()


@pytest.mark.parametrize("shape", [(1, 1), (4, 6), (3, 5)])
def test_squares_and_neighbours_of_cells(shape):
    rng = np.random.default_rng(0)
    values, cells = rng.random(shape), rng.random(shape) < 0.4
    sums, found = mixed.of_squares(values), mixed.beside(cells)
    for row, column in np.ndindex(shape):
        square = values[row // 2 * 2 : row // 2 * 2 + 2, column // 2 * 2 : column // 2 * 2 + 2]
        assert sums[row, column] == pytest.approx(square.sum())
        near = [(row + d, column) for d in (-1, 1)] + [(row, column + d) for d in (-1, 1)]
        assert found[row, column] == any(cells[r, c] for r, c in near if 0 <= r < shape[0] and 0 <= c < shape[1])


def test_borders_are_tightened(coffee):
    """A cell of photograph in a square of text is left to the model, one of text beside the border is stored."""
    pixels = np.asarray(page(coffee))
    text = mixed.candidates(pixels, single=True)
    wrong = text.copy()
    wrong[tuple(np.argwhere(mixed.beside(~text) & text)[4])] = False
    wrong[tuple(np.argwhere(mixed.beside(text) & ~text)[0])] = True
    coded = np.where(text, 1e9, 10.0)  # by the model, text costs more than it ever can
    found = mixed.Page(pixels, mixed.candidates(pixels), 0.01).tightened(wrong, coded)
    np.testing.assert_array_equal(found, text)


def test_blocks_are_left_out_and_taken_in():
    rng = np.random.default_rng(0)
    pixels = np.full((256, 256, 3), 255, np.uint8)
    pixels[:, 128:] = rng.integers(0, 2, (256, 128, 1)) * 255  # nothing that any lossless coder likes
    cheap = np.zeros((8, 8), bool)
    cheap[:, :4] = True
    coded = np.where(cheap, 100.0, 200.0)
    whole = mixed.Page(pixels, np.ones((8, 8), bool), 0.01)
    for start in (whole.graphic, ~cheap, np.zeros((8, 8), bool)):
        np.testing.assert_array_equal(whole.by_blocks(start, coded), cheap)
    np.testing.assert_array_equal(whole.cheapest(coded), cheap)
    np.testing.assert_array_equal(whole.by_blocks(whole.graphic, coded + 10000), whole.graphic)


def test_the_slowest_lossless_coder_has_the_last_word(monkeypatch):
    monkeypatch.setattr(mixed.Form, "cost", lambda _, cells, quick=True: 100.0 * cells.sum() if quick else 10.0)
    whole = mixed.Page(np.full((256, 256, 3), 255, np.uint8), np.ones((8, 8), bool), 0.01)
    assert whole.cheapest(np.full((8, 8), 50.0)).all()
    assert not whole.cheapest(np.full((8, 8), 0.1)).any()


def test_what_is_coded_in_place_of_graphics_is_smooth(coffee):
    pixels = np.asarray(page(coffee))
    cells = mixed.candidates(pixels)
    out = filled(pixels, cells)
    inside = spread(cells, 600, 450)
    np.testing.assert_array_equal(out[~inside], pixels[~inside])
    steps = np.abs(np.diff(out.astype(int), axis=1)).max(-1)
    assert np.median(steps[inside[:, 1:] & inside[:, :-1]]) <= 1
    # across a border, the step is no larger than within the photograph
    border = inside[:, 1:] != inside[:, :-1]
    assert np.percentile(steps[border], 90) <= max(30, np.percentile(steps[~inside[:, 1:]], 99))
    for all_or_none in (np.ones_like(cells), np.zeros_like(cells)):
        assert filled(pixels, all_or_none).shape == pixels.shape


@pytest.mark.parametrize("size", [(1, 1), (500, 40), (300, 260), (417, 609)], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.9, 0.98, 1.0])
def test_what_is_hidden(size, share):
    """Latents two of which on every side are stored or beyond the image, and hyper-latents that reach no others."""
    rng = np.random.default_rng(0)
    header = Header(3, bytes(4), *size, 40)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    cells = rng.random(grid_of(*size)) < share
    stored, grid = Stored.of(header, {BOX_GRAPHICS: box_of(pixels, cells)}), Grid.of(header)
    assert Stored.of(header, {}) is None
    assert stored
    np.testing.assert_array_equal(stored.cells, cells)
    exact = cells.repeat(2, 0)[: grid.h].repeat(2, 1)[:, : grid.w]
    for i, j in np.ndindex(grid.h, grid.w):
        top, left = i // 2 * 2, j // 2 * 2
        around = exact[max(top - 2, 0) : top + 4, max(left - 2, 0) : left + 4]
        assert stored.latents[i, j] == around.all()
    for i, j in np.ndindex(grid.zh, grid.zw):
        reached = stored.latents[max(4 * i - 2, 0) : 4 * i + 6, max(4 * j - 2, 0) : 4 * j + 6]
        assert stored.hyper_latents[i, j] == reached.all()
    first, last = 0, min(3, grid.h)
    mask = stored.pixels(first, last)[: size[1], : size[0]]
    np.testing.assert_array_equal(mask, spread(cells, *size)[: len(mask)])


def test_nothing_that_is_seen_depends_on_what_is_hidden(coded):
    _, data = coded
    container = unpack(data)
    header, grid, model = container.header, Grid.of(container.header), model_of_code(container.header.model)
    stored, layer = Stored.of(header, container.extras), layer_of(container)
    assert stored
    assert layer
    assert 0 < stored.latents.sum() < stored.latents.size
    assert 0 < stored.hyper_latents.sum() < stored.hyper_latents.size
    rng = np.random.default_rng(0)
    y = np.concatenate(list(group_latents(model, container)))
    other = y.copy()
    other[stored.latents] += rng.normal(0, 1, other[stored.latents].shape).astype(np.float32)
    renderer = Renderer(model, header.rate_point)
    parts = [layer.paste(synthesise(renderer, [part], header.width, header.height)) for part in (y, other)]
    np.testing.assert_array_equal(*parts)
    z = rng.integers(-99, 99, (grid.zh, grid.zw, 32))
    changed = np.where(stored.hyper_latents[..., None], rng.integers(-99, 99, z.shape), z)
    one, two = (upsample(values, 0, grid.h, grid.w) for values in (z, changed))
    assert (one != two).any()
    np.testing.assert_array_equal(one[~stored.latents], two[~stored.latents])


def test_what_is_hidden_costs_nothing(coffee):
    picture = Picture(np.asarray(coffee.resize((300, 200))))
    cells = np.ones(grid_of(300, 200), bool)
    settings = Settings(40, Annealing(0))
    model = load_model("two-layer-visual")
    sizes = []
    for stored in (cells, cells & (np.arange(10) < 5)):
        whole = replace(picture, extras={BOX_GRAPHICS: box_of(picture.pixels, stored)})
        result = encode(model, whole, settings)
        sizes.append(len(result.encoding.container.z) + sum(len(g.stream) for g in result.encoding.container.groups))
        shown = spread(stored, 300, 200)
        np.testing.assert_array_equal(result.decoded[shown], picture.pixels[shown])
        assert psnr(result.decoded, picture.pixels) > 30
        assert 8 * sizes[-1] == pytest.approx(result.encoding.estimated_bits, rel=0.03, abs=60)
    plain = encode(model, picture, settings)
    whole_size = len(plain.encoding.container.z) + sum(len(g.stream) for g in plain.encoding.container.groups)
    assert sizes[0] == 0
    assert sizes[1] < 0.7 * whole_size


@pytest.mark.parametrize("name", ["two-layer-visual", "two-layer"])
def test_iterating_leaves_out_what_is_stored(coffee, name):
    """Two groups of rows; the seam lies among the cells."""
    picture = Picture(np.asarray(coffee.resize((90, 1160))))
    cells = np.zeros(grid_of(90, 1160), bool)
    cells[20:] = True
    whole = replace(picture, extras={BOX_GRAPHICS: box_of(picture.pixels, cells)})
    model = load_model(name)
    plain, iterated = (encode(model, whole, Settings(20, Annealing(n))) for n in (0, 12))
    assert iterated.cost < plain.cost
    shown = spread(cells, 90, 1160)
    np.testing.assert_array_equal(iterated.decoded[shown], picture.pixels[shown])
    assert not iterated.encoding.container.groups[1].stream


def lying(data: bytes, payload: bytes) -> bytes:
    """The file with another graphics box, and checksums that are right."""
    container = unpack(data)
    model, stored = model_of_code(container.header.model), Stored.of(container.header, container.extras)
    assert stored
    z = read_z(model, container.header, container.z, Grid.of(container.header), stored.hyper_latents)
    return pack(with_checksum(replace(container, extras={BOX_GRAPHICS: payload}), zlib.crc32(z.data)))


def test_damage_is_refused(coded):
    image, data = coded
    pixels, cells = np.asarray(image), cells_of(data)
    payload = unpack(data).extras[BOX_GRAPHICS]
    end = MAP_LENGTH.size + MAP_LENGTH.unpack_from(payload)[0]
    assert nicc.decode(lying(data, payload)).size == image.size
    more = np.ones(grid_of(image.width + 400, image.height), bool)
    wide = np.ones(cells.size + 8 - cells.size % 8, bool)  # cells beyond the last
    bits = zlib.compress(np.packbits(wide).tobytes())
    for bad in (
        *(b"", b"\x00", payload[:end], payload[:-30], payload[:4] + bytes(end - 4) + payload[end:]),
        box_of(pixels[:-1], cells),
        box_of(np.pad(pixels, ((0, 0), (0, 400), (0, 0))), more),
        MAP_LENGTH.pack(len(bits)) + bits + payload[end:],
    ):
        with pytest.raises(FormatError):
            nicc.decode(lying(data, bad))
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(data)
        broken[rng.integers(len(broken))] ^= int(rng.integers(1, 256))
        with pytest.raises(nicc.NiccError):
            nicc.decode(bytes(broken))
    for cut in range(0, len(data), 997):
        with pytest.raises(FormatError):
            nicc.decode(data[:cut])


def test_bombs_are_refused_by_their_size(coded, recwarn):
    from tests.hostile.test_damage import claimed_png

    _, data = coded
    payload = unpack(data).extras[BOX_GRAPHICS]
    end = MAP_LENGTH.size + MAP_LENGTH.unpack_from(payload)[0]
    with pytest.raises(FormatError, match="not of the image's size"):
        nicc.decode(lying(data, payload[:end] + claimed_png(40000, 40000)))
    bomb = zlib.compress(bytes(1 << 24))
    with pytest.raises(FormatError, match="map"):
        nicc.decode(lying(data, MAP_LENGTH.pack(len(bomb)) + bomb + payload[end:]))
    assert not recwarn.list


def test_a_lossless_image_has_no_graphics_box(coded):
    image, data = coded
    container = unpack(nicc.encode(image, lossless=True))
    assert container.header.model == LOSSLESS_MODEL
    container = replace(container, extras={BOX_GRAPHICS: unpack(data).extras[BOX_GRAPHICS]})
    with pytest.raises(FormatError, match="no graphics apart"):
        unpack(pack(container))
