"""The filters behind the synthesis: the same by both libraries, by their formulas, in parts as in the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nicc.architecture import CHROMA_DISTANCES, FILTER_STRENGTHS, FILTER_TEXTURES, FILTER_WEIGHTS
from nicc.decoder import chroma, directional, ops
from nicc.decoder.chroma import ChromaFilter
from nicc.decoder.directional import MARGIN, REACH, Filter, filtered, neighbours
from nicc.encoder import ops as torch_ops
from nicc.images import LUMA

NO_CHROMA = ChromaFilter((0.0, 0.0, 0.0), 1.0)
CHROMA = ChromaFilter((0.1, -0.05, 0.2), 12.0)


def filter_with(seed=0, size=0.1, limit=5.0, of_chroma=CHROMA):
    weights = np.random.default_rng(seed).normal(size=(FILTER_STRENGTHS, FILTER_TEXTURES, FILTER_WEIGHTS)) * size
    return Filter(weights.astype(np.float32), limit, of_chroma)


@pytest.fixture
def picture(coffee):
    """Pixels ``(72, 104, 3)`` around 0..1, some of them outside."""
    pixels = np.asarray(coffee.crop((198, 148, 302, 220)), np.float32) / 255
    return pixels * 1.3 - 0.15


def inner(x):
    return x[MARGIN:-MARGIN, MARGIN:-MARGIN]


def test_numpy_and_torch_filter_alike(picture):
    """Within 1/400 of a level: a block's texture is a difference of sums, whose order depends on the machine."""
    there = filter_with()
    a = filtered(ops, there, picture)
    both = torch.tensor(np.stack([picture, picture[::-1]]))
    b = filtered(torch_ops, there._replace(weights=torch.tensor(there.weights)), both).numpy()
    assert a.shape == (64, 96, 3)
    assert np.abs(a - inner(picture)).max() > 0.01
    np.testing.assert_allclose(b[0], a, atol=1e-5)
    np.testing.assert_allclose(b[1], filtered(ops, there, picture[::-1]), atol=1e-5)


def test_a_pixel_is_moved_by_its_clipped_differences(picture):
    there = filter_with(of_chroma=NO_CHROMA)
    found = filtered(ops, there, picture)
    edge = MARGIN - REACH
    luma = (picture.clip(0, 1) @ (np.array(LUMA) * 255))[edge:-edge, edge:-edge]
    blocks = ops.blocks(luma.astype(np.float32), 8, REACH).copy()
    direction, shares = directional.directions(ops, directional.inner(blocks), 5.0)
    for row, column in ((0, 0), (13, 50), (63, 95), (40, 7)):
        block = row // 8 * 12 + column // 8
        weights = np.tensordot(shares[block].reshape(FILTER_STRENGTHS, FILTER_TEXTURES), there.weights, 2)
        change, here = 0.0, (row + REACH, column + REACH)
        for i, pair in enumerate(neighbours()[direction[block]]):
            for down, right in pair:
                apart = luma[here[0] + down, here[1] + right] - luma[here]
                change += weights[i] * np.clip(apart, -5, 5) + weights[3 + i] * np.clip(apart, -20, 20)
        np.testing.assert_allclose(found[row, column], inner(picture)[row, column] + change / 255, atol=1e-5)


def test_chroma_moves_towards_neighbours_of_the_same_luma(picture):
    found = filtered(ops, filter_with(size=0), picture)
    seen = picture.clip(0, 1) * 255
    luma = seen @ np.array(LUMA)
    for row, column in ((0, 0), (13, 50), (63, 95), (40, 7)):
        here = row + MARGIN, column + MARGIN
        change = np.zeros(3)
        for distance, weight in zip(CHROMA_DISTANCES, CHROMA.weights, strict=True):
            for down, right in ((distance, 0), (-distance, 0), (0, distance), (0, -distance)):
                other = here[0] + down, here[1] + right
                near = max(0, 1 - abs(luma[other] - luma[here]) / chroma.EDGE)
                apart = (seen[other] - luma[other]) - (seen[here] - luma[here])
                change += weight * near * np.clip(apart, -CHROMA.limit, CHROMA.limit)
        change[1] = -(LUMA[0] * change[0] + LUMA[2] * change[2]) / LUMA[1]  # luma stays
        np.testing.assert_allclose(found[row, column], inner(picture)[row, column] + change / 255, atol=1e-5)
    assert np.abs(found - inner(picture)).max() > 0.02


def test_chroma_is_smoothed_along_edges_of_luma_and_not_across():
    """A blurred edge of colour over a sharp one of luma becomes sharper on its side; without the edge it would not."""
    columns = np.arange(40)
    luma = np.where(columns < 20, 90.0, 160.0)
    red = 30 / (1 + np.exp(-(columns - 19.5) / 3))
    row = np.stack([luma + red, luma - red * LUMA[0] / LUMA[1], luma], -1)
    x = np.broadcast_to(row / 255, (16, 40, 3)).astype(np.float32)
    there = filter_with(size=0, of_chroma=ChromaFilter((0.1, 0.1, 0.1), 30.0))
    _, (_, before) = chroma.parts(ops, inner(x))
    _, (_, after) = chroma.parts(ops, filtered(ops, there, x))
    assert after[0, 16] - after[0, 15] > 1.2 * (before[0, 16] - before[0, 15])
    assert after[0, 15] < before[0, 15]
    assert after[0, 16] > before[0, 16]


@pytest.mark.parametrize("direction", range(8))
def test_stripes_have_their_direction(direction):
    down, right = directional.DIRECTIONS[direction]
    row, column = np.mgrid[:8, :8]
    phase = (column * down - row * right) / np.hypot(down, right)
    stripes = (128 + 60 * np.sin(1.3 * phase)).astype(np.float32)[..., None]
    found, shares = directional.directions(ops, stripes, 5.0)
    assert found.tolist() == [direction]
    assert strength_of(shares) > 2
    assert shares.sum() == pytest.approx(1)


def strength_of(shares):
    """The mean strength, in entries of the table, of one block."""
    return shares.reshape(FILTER_STRENGTHS, FILTER_TEXTURES).sum(1) @ np.arange(FILTER_STRENGTHS)


def test_what_averages_along_the_direction_lack_is_texture():
    stripes = np.broadcast_to(128 + 40 * np.sin(np.arange(8) * 1.3)[None], (8, 8)).astype(np.float32)
    noise = np.random.default_rng(2).normal(size=(8, 8)).astype(np.float32)
    blocks = np.stack([stripes + amount * noise for amount in (0.0, 2.0, 15.0)], -1)
    direction, shares = directional.directions(ops, blocks, 5.0)
    assert direction.tolist() == [6, 6, 6]
    textures = shares.reshape(3, FILTER_STRENGTHS, FILTER_TEXTURES).sum(1) @ np.arange(FILTER_TEXTURES)
    assert textures[0] == 0
    # log2 of the variance left, 8 / 64 of which belong to averages, by the squared limit
    left = np.square(noise - noise.mean(0)).sum() / 64
    expected = [(np.log2(left * (amount / 5) ** 2 + 2**-7.5) + 5.5) / 3 for amount in (2.0, 15.0)]
    np.testing.assert_allclose(textures[1:], expected, atol=1e-4)


def test_flat_pictures_and_weights_of_zero_change_nothing(picture):
    flat = np.full((36, 36, 3), 0.3, np.float32)
    np.testing.assert_allclose(filtered(ops, filter_with(), flat[:-4, :-4]), flat[:24, :24], atol=1e-6)
    same = filtered(ops, filter_with(size=0, of_chroma=NO_CHROMA), picture)
    assert np.array_equal(same, inner(picture))


def test_a_part_is_filtered_as_in_the_whole(picture):
    there = filter_with()
    whole = filtered(ops, there, picture)
    part = filtered(ops, there, picture[16 : 16 + 40, 40 : 40 + 48])
    np.testing.assert_allclose(part, whole[16:48, 40:80], atol=1e-6)


def test_gradients_pass_where_nothing_is_clipped():
    """With weights that do not follow directions' strengths and textures, which count as constants."""
    torch.manual_seed(0)
    weights = torch.randn(FILTER_WEIGHTS, dtype=torch.float64).expand(FILTER_STRENGTHS, FILTER_TEXTURES, -1) * 0.1
    there = Filter(weights, 1000.0, ChromaFilter((0.1, 0.05, 0.2), 1000.0))
    x = (torch.rand(1, 24, 24, 3, dtype=torch.float64) * 0.6 + 0.2).requires_grad_()
    filtered(torch_ops, there, x).square().sum().backward()
    moved = torch.randn(x.shape, dtype=torch.float64) * 1e-6
    with torch.no_grad():
        ahead, behind = (filtered(torch_ops, there, x + s * moved).square().sum() for s in (1, -1))
    assert float((x.grad * moved).sum()) == pytest.approx(float(ahead - behind) / 2, rel=1e-6)
