"""What is compared of an original, its reconstruction and the head's detail."""

import numpy as np
import pytest

from nicc.encoder import likeness
from nicc.encoder.likeness import COUNT, FEATURES, LUMA_BANDS, OF_COLOURS, OF_LUMA, cell_features

SIZE = 64
ENERGY, LIKENESS, EVENNESS = (slice(n * COUNT, (n + 1) * COUNT) for n in (0, 4, 8))
"""Of the original; of original and reconstruction; of the original."""


def wave(frequency: float, angle: float, phase: float, colour: tuple[float, float, float]) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    values = np.cos(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return (128 + 10 * values[..., None] * np.array(colour)).astype(np.float32)


def inner(found: np.ndarray) -> np.ndarray:
    """Cells whose filters see no border."""
    return found[2:-2, 2:-2]


def test_filters_have_neither_a_mean_nor_a_size():
    for filters, count in ((OF_LUMA, 24), (OF_COLOURS, 4)):
        assert filters.shape == (144, 2 * count)
        np.testing.assert_allclose(filters.sum(0), 0, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(filters, axis=0), 1, rtol=1e-5)


@pytest.mark.parametrize("scale", range(4))
@pytest.mark.parametrize("direction", range(6))
def test_a_wave_is_found_in_its_own_band_wherever_it_lies(scale, direction):
    frequency, angle = LUMA_BANDS.scales[scale][0], direction * np.pi / 6
    energies = []
    for phase in (0.0, 1.0, 2.5):
        x = wave(frequency, angle, phase, (1, 1, 1))
        luma = inner(cell_features(x, x, x - x, 0.5)[..., ENERGY])[..., : LUMA_BANDS.pairs].mean((0, 1))
        assert luma.argmax() == 6 * scale + direction
        assert luma.max() - np.median(luma) > 1
        energies.append(luma.max())
    assert max(energies) - min(energies) < 0.1


def test_colours_are_told_from_luma():
    grey = wave(0.25, 0, 0, (1, 1, 1))
    blue = wave(0.25, 0, 0, (-0.114 / 0.886,) * 2 + (1,))  # of no luma
    luma, colours = slice(0, LUMA_BANDS.pairs), slice(LUMA_BANDS.pairs, COUNT)
    found = [inner(cell_features(x, x, x - x, 0.5)[..., ENERGY]).mean((0, 1)) for x in (grey, blue)]
    silent = np.log(likeness.NOISE)
    assert found[0][luma].max() > silent + 4
    np.testing.assert_allclose(found[0][colours], silent, atol=1e-3)
    np.testing.assert_allclose(found[1][luma], silent, atol=1e-2)
    assert found[1][colours].max() > silent + 3


def test_likeness_is_one_of_the_same_and_little_of_others():
    rng = np.random.default_rng(7)
    x, y, d = (rng.uniform(0, 255, (SIZE, SIZE, 3)).astype(np.float32) for _ in range(3))
    same, other = (cell_features(x, z, d, 0.25)[..., LIKENESS] for z in (x, y))
    assert same.max() < 1  # by the noise under the root
    assert np.median(same) > 0.999
    assert abs(np.median(other)) < 0.1
    assert np.abs(other).max() < 1


def test_evenness_tells_a_stroke_from_a_texture():
    stroke = np.full((SIZE, SIZE, 3), 100, np.float32)
    stroke[:, 30:31] = 160
    found = [cell_features(x, x, x - x, 0.5)[..., EVENNESS] for x in (stroke, wave(0.27, 0, 0, (1, 1, 1)))]
    horizontal = 12  # at 0.27 cycles per pixel, across
    beside, inside = found[0][4, 4, horizontal], inner(found[1])[..., horizontal]
    assert beside < -0.5
    assert inside.min() > -0.1


def test_cells_come_in_whole_tiles():
    rng = np.random.default_rng(3)
    x, y, d = (rng.uniform(0, 255, (40, 70, 3)).astype(np.float32) for _ in range(3))
    found = cell_features(x, y, d, 0.25)
    assert found.shape == (8, 12, FEATURES)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (found[..., -1] == 0.25).all()
    whole = (np.pad(layer, ((0, 24), (0, 26), (0, 0)), "edge") for layer in (x, y, d))
    np.testing.assert_allclose(found, cell_features(*whole, 0.25), rtol=1e-4, atol=1e-4)
