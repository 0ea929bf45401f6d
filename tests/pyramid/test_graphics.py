"""Pages of photographs and graphics, the photographs by a decoder of their own."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import nicc
from nicc.container import unpack
from nicc.decoder.decode import decode_strips
from nicc.encoder.encode import INTERRUPTED
from nicc.encoder.entry import encode_picture
from nicc.encoder.fitted_graphics import GAIN, cell_costs, cells_to_store
from nicc.encoder.mixed import Page
from nicc.encoder.near_lossless import LARGEST_REACH
from nicc.encoder.settings import Options
from nicc.graphics import CELL, grid_of, layer_of, spread
from nicc.images import Picture
from nicc.laplace import OFFSETS, SCALES, SYMBOL_LIMIT, Prediction, bits_of, by_class, probabilities
from nicc.model import load_model
from tests.test_graphics import PART, cells_of, drawing, page, quick_webp  # noqa: F401 - a fixture

pytest.importorskip("numba", reason="fitting needs Numba")
from nicc.pyramid.encode import Fitter
from nicc.pyramid.strip import Pasted, SquaredError

CHOICES = {"model": "pyramid", "tune": "psnr", "quality": 50}


@pytest.fixture(scope="module", autouse=True)
def quick_trials():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nicc.encoder.fitted_graphics.LEAST_TRIED", 8)
        patch.setattr("nicc.encoder.mixed.BLOCKS", (4,))
        yield


@pytest.fixture(scope="module")
def image(coffee) -> Image.Image:
    return page(coffee)


@pytest.fixture(scope="module")
def coded(image, quick_trials, quick_webp) -> bytes:  # noqa: F811
    return nicc.encode(image, sga_steps=8, **CHOICES)


@pytest.fixture
def never_whole(monkeypatch):
    """So few steps cost more than the lossless form of the whole."""
    monkeypatch.setattr("nicc.encoder.entry._stored_within", lambda *_, **__: None)


def test_text_is_sharp_and_photographs_are_fitted(coded, image):
    assert nicc.inspect(coded).model == 4
    cells = cells_of(coded)
    assert 15 < cells.sum() < cells.size - 6
    inside = spread(cells, image.width, image.height)
    error = np.abs(np.asarray(nicc.decode(coded), int) - np.asarray(image)).max(-1)
    assert error[inside].max() <= LARGEST_REACH
    assert 0 < error[~inside].mean() < 30


def test_parts_and_thumbnails_are_those_of_the_whole(coded):
    whole = nicc.decode(coded)
    for x, y, w, h in ((0, 0, 600, 450), (37, 101, 222, 64), (290, 230, 270, 180)):
        part = np.asarray(nicc.decode(coded, crop=(x, y, w, h)))
        np.testing.assert_array_equal(part, np.asarray(whole.crop((x, y, x + w, y + h))))
    np.testing.assert_array_equal(np.asarray(nicc.decode(coded, reduction=4)), np.asarray(whole.reduce(4)))


@pytest.mark.usefixtures("never_whole")
def test_strips_of_a_tall_page(coffee):
    image = page(coffee, 330, 1300)
    data = nicc.encode(image, sga_steps=3, **CHOICES)
    whole, cells = np.asarray(nicc.decode(data)), cells_of(data)
    assert cells[32:].any()  # in the second strip
    inside = spread(cells, *image.size)
    assert np.abs(whole[inside].astype(int) - np.asarray(image)[inside]).max() <= LARGEST_REACH
    np.testing.assert_array_equal(np.concatenate(list(decode_strips(unpack(data)))), whole)
    np.testing.assert_array_equal(np.asarray(nicc.decode(data, crop=(5, 1100, 300, 150))), whole[1100:1250, 5:305])


@pytest.mark.usefixtures("never_whole")
def test_nothing_is_fitted_where_all_is_stored():
    image, counts = drawing(330, 250), []
    result = encode_picture(Picture(np.asarray(image)), Options(steps=30, **CHOICES), lambda *told: counts.append(told))
    assert cells_of(result.data).all()
    assert [state.step for state, _ in counts] == list(range(1, 10))  # eight of the short fit, and one
    (group,) = unpack(result.data).groups
    assert len(group.stream) < 150
    assert np.abs(np.asarray(nicc.decode(result.data), int) - np.asarray(image)).max() <= LARGEST_REACH


def test_it_is_said_and_can_be_switched_off(image):
    picture = Picture(np.asarray(image.crop(PART)))
    result = encode_picture(picture, Options(steps=4, **CHOICES))
    assert f"{cells_of(result.data).sum()} of 90 cells stored as graphics" in result.notes[0]
    np.testing.assert_array_equal(result.decoded, np.asarray(nicc.decode(result.data)))
    assert layer_of(unpack(encode_picture(picture, Options(steps=4, lossless=False, **CHOICES)).data)) is None


def test_what_cells_cost_is_what_all_costs(coffee):
    pixels = np.asarray(coffee.resize((200, 150)))
    fitter = Fitter(load_model("pyramid"), pixels)
    fitter.run(60, fitter.model.architecture.rate_lambda(60), 40)
    costs = cell_costs(fitter.fit, fitter.fit.strips[0])
    bits, distortion = fitter.fit.measure()
    assert costs.shape == grid_of(200, 150)
    assert costs.min() > 0
    assert costs.sum() == pytest.approx((bits + fitter.fit.weight * distortion) * 200 * 150, rel=0.01)


def test_cells_are_stored_where_that_costs_less(image):
    pixels = np.asarray(image)
    fitter = Fitter(load_model("pyramid"), pixels)
    page = Page(pixels, np.ones(grid_of(*image.size), bool), 0.001)
    fitter.run(20, 0.001, 10)
    cells = cells_to_store(fitter.fit, page, 1.0)
    assert 0 < cells.sum() < cells.size
    assert not cells_to_store(fitter.fit, page, 0.001 ** (1 / GAIN)).any()  # if a fit will be so much better
    fitter.fit.weight = 10.0
    more = cells_to_store(fitter.fit, page, 1.0)
    assert more.sum() > cells.sum()
    assert more[cells].all()


def test_what_is_pasted_costs_nothing_and_asks_for_nothing(rng):
    original, decoded = rng.uniform(-0.5, 0.5, (2, 3, 40, 50)).astype(np.float32)
    pasted = np.zeros((40, 50), bool)
    pasted[8:, 16:] = True
    value, gradient = Pasted(SquaredError(original), original, pasted)(decoded)
    assert value == pytest.approx(65025 / 3 * np.square(decoded - original)[:, ~pasted].sum(), rel=1e-5)
    assert not gradient[:, pasted].any()
    np.testing.assert_array_equal(gradient[:, ~pasted], SquaredError(original)(decoded)[1][:, ~pasted])


def test_a_fit_leaves_out_what_is_pasted(image):
    pixels, pasted = np.asarray(image), np.zeros((image.height, image.width), bool)
    pasted[:, image.width // 2 :] = True
    bits = []
    for some in (None, pasted):
        fitter = Fitter(load_model("pyramid"), pixels, pasted=some)
        fitter.run(20, 0.01, 12)
        fitter.fit.weight = 0.0  # bits alone are counted
        bits.append(cell_costs(fitter.fit, fitter.fit.strips[0])[:, image.width // 2 // CELL + 2 :].sum())
    assert bits[1] < 0.7 * bits[0]


def test_bits_are_those_of_the_tables(rng):
    n = 2000
    p = Prediction(rng.integers(-9, 9, n), rng.integers(0, OFFSETS, n), rng.integers(30, SCALES - 30, n))
    symbols = p.mean + rng.integers(-3, 4, n)
    expected = np.empty(n)
    for kind, part, at in by_class(p):
        table, reach = probabilities(part, kind)
        expected[at] = table[np.arange(len(table)), symbols[at] - part.mean + reach]
    likely = expected > 2.0**-20
    assert likely.sum() > n / 2
    assert np.abs(symbols).max() < SYMBOL_LIMIT
    np.testing.assert_allclose(bits_of(symbols, p)[likely], -np.log2(expected[likely]), atol=0.02)


@pytest.mark.usefixtures("never_whole")
def test_an_interrupt_of_the_short_fit_leaves_a_file(image, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    picture = Picture(np.asarray(image))
    monkeypatch.setattr("nicc.pyramid.fit.Fit._steps", interrupted)
    result = encode_picture(picture, Options(steps=50, keep_on_interrupt=True, **CHOICES))
    assert result.notes[-1] == INTERRUPTED
    assert nicc.decode(result.data).size == image.size
    with pytest.raises(KeyboardInterrupt):
        encode_picture(picture, Options(steps=50, **CHOICES))
