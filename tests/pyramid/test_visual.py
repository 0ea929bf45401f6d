"""The visual distortion in Numba against that in PyTorch, in double precision: value and gradient."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="fitting needs Numba")
torch = pytest.importorskip("torch", reason="the reference is PyTorch")

from nicc.encoder.visual import difference_from, middle_error, raw_difference  # noqa: E402
from nicc.pyramid import strip  # noqa: E402
from nicc.pyramid.visual import VisualDistortion  # noqa: E402
from nicc.ssimulacra2 import encoding_distortion  # noqa: E402


def planes(photo, size) -> np.ndarray:
    return strip.planes(np.asarray(photo.resize((size[1], size[0]))))


def doubled(image, grad=False):
    return (torch.tensor(image, dtype=torch.float64)[None] + 0.5).requires_grad_(grad)


@pytest.mark.parametrize("size", [(96, 131), (65, 64), (9, 200), (8, 8), (7, 30)], ids=str)
@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_value_and_gradient(astronaut, size, noise, rng):
    original = planes(astronaut, size)
    decoded = (original + noise * rng.standard_normal(original.shape)).astype(np.float32)
    decoded[:, 0, :3] += (0.6, -0.6, 0.6)  # what is clipped has no gradient but the squared error's
    x, y = doubled(original), doubled(decoded, grad=True)
    mse = (x - y).square().mean((1, 2, 3)) * 255**2
    expected = encoding_distortion(mse, middle_error(x, y), raw_difference(x, y)).sum() * size[0] * size[1]
    expected.backward()
    found, gradient = VisualDistortion(original, {})(decoded)
    assert found == pytest.approx(float(expected.detach()), rel=5e-4)
    theirs = y.grad[0].numpy()
    assert np.linalg.norm(gradient - theirs) < 5e-3 * np.linalg.norm(theirs)


def test_strips_share_memory_and_nothing_else(astronaut, rng):
    originals = [planes(astronaut, (40, 50)), planes(astronaut.transpose(0), (40, 50))]
    decoded = [(o + 0.05 * rng.standard_normal(o.shape)).astype(np.float32) for o in originals]
    apart = [VisualDistortion(o, {})(d)[0] for o, d in zip(originals, decoded, strict=True)]
    memory: dict = {}
    together = [VisualDistortion(o, memory) for o in originals]
    for _ in range(2):
        assert [t(d)[0] for t, d in zip(together, decoded, strict=True)] == apart
    assert len(memory) == 3


def test_iterating_takes_value_and_gradient_from_here(astronaut, rng):
    originals = np.stack([planes(p, (57, 80)) for p in (astronaut, astronaut.transpose(0))]) + np.float32(0.5)
    noise = 0.05 * rng.standard_normal(originals.shape)
    x = torch.from_numpy(originals)
    y = torch.from_numpy((originals + noise).clip(0.001, 0.999).astype(np.float32)).requires_grad_()
    difference = difference_from(x)
    for _ in range(2):  # what is kept from one image to the next is the original's alone
        found = difference(y)
        (gradient,) = torch.autograd.grad((found * torch.tensor([1.0, 2.0])).sum(), y)
    expected = raw_difference(x, y)
    (theirs,) = torch.autograd.grad((expected * torch.tensor([1.0, 2.0])).sum(), y)
    assert found.grad_fn.name() != expected.grad_fn.name()
    assert torch.allclose(found, expected, rtol=1e-3)
    assert (gradient - theirs).norm() < 5e-3 * theirs.norm()


def test_an_equal_image_differs_by_nothing(astronaut):
    original = planes(astronaut, (32, 48))
    raw, gradient = VisualDistortion(original, {}).raw_difference(original)
    assert raw == pytest.approx(0, abs=1e-3)
    assert np.isfinite(gradient).all()
