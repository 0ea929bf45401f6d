"""The kernels against the same arithmetic in PyTorch, in double precision: values and every gradient."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from nicc.pyramid.directions import Directions
from nicc.pyramid.layout import PyramidArchitecture
from nicc.pyramid.networks import Networks
from nicc.pyramid.render import render
from tests.conftest import ROOT

pytest.importorskip("numba", reason="fitting needs Numba")
torch = pytest.importorskip("torch", reason="the reference is PyTorch")

from nicc.pyramid import kernels  # noqa: E402
from nicc.pyramid.fit import Cooling, Fit  # noqa: E402
from nicc.pyramid.strip import Strip  # noqa: E402
from tests.pyramid import reference  # noqa: E402

ARCH = PyramidArchitecture()
WEIGHT = 100.0


def problem(size, rng):
    strip = Strip(rng.integers(0, 256, (*size, 3)).astype(np.uint8))
    networks = Networks(ARCH, rng.normal(0, 0.15, ARCH.parameters()))
    return strip, networks, rng.normal(0, 2, strip.count).astype(np.float32)


def close(ours, theirs):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max() + 1e-9)


@pytest.mark.parametrize("size", [(70, 291), (64, 64), (5, 3), (1, 1), (1, 700), (33, 2)], ids=str)
def test_values_and_gradients(size, rng):
    strip, networks, q = problem(size, rng)
    gradients = Networks(ARCH)
    image = strip.synthesise(networks, q)
    strip.synthesise_back(networks, np.float32(2 * WEIGHT) * (image - strip.target), gradients)
    bits = strip.bits(networks, q, gradients)

    net = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in networks.of.items()}
    grids = [torch.tensor(g, dtype=torch.float64, requires_grad=True) for g in strip.grids(q)]
    expected = reference.synthesise(net, grids)
    expected_bits = reference.bits(net, grids)
    (expected_bits + WEIGHT * (expected - torch.tensor(strip.target)).square().sum()).backward()
    close(image, expected)
    assert bits == pytest.approx(float(expected_bits.detach()), rel=1e-5)
    for k, grid in enumerate(strip.grids(strip.memory.gq)):
        close(grid, grids[k].grad)
    for name, tensor in net.items():
        close(gradients[name], tensor.grad)


def test_a_second_step_starts_from_nothing(rng):
    strip, networks, q = problem((20, 30), rng)
    found = []
    for _ in range(2):
        gradients = Networks(ARCH)
        strip.synthesise_back(networks, strip.synthesise(networks, q) - strip.target, gradients)
        strip.bits(networks, q, gradients)
        found.append((gradients.flat.copy(), strip.memory.gq.copy()))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_strips_share_memory_and_nothing_else(rng):
    images = rng.integers(0, 256, (2, 20, 30, 3)).astype(np.uint8)
    start = rng.normal(0, 0.15, ARCH.parameters())
    found = []
    for memory in ({}, None):
        fit = Fit([Strip(image, memory=memory) for image in images], Networks(ARCH))
        fit.begin(Directions.plain(ARCH.parameters()), start)
        fit.run(0.01, 5, Cooling())
        found.append([fit.coefficients, *(s.y for s in fit.strips)])
    assert fit.strips[0].memory is not fit.strips[1].memory
    for shared, apart in zip(*found, strict=True):
        np.testing.assert_array_equal(shared, apart)


def test_soft_rounding(rng):
    y, noise = (rng.normal(0, 2, 999).astype(np.float32) for _ in range(2))
    q, slope = np.empty_like(y), np.empty_like(y)
    kernels.soften(y, noise, 0.2, 0.3, q, slope)

    def soft(x):
        middle = torch.floor(x) + 0.5
        return middle + 0.5 * torch.tanh((x - middle) / 0.3) / np.tanh(0.5 / 0.3)

    x = torch.tensor(y, dtype=torch.float64, requires_grad=True)
    expected = soft(soft(x) + 0.2 * torch.tensor(noise, dtype=torch.float64))
    expected.sum().backward()
    np.testing.assert_allclose(q, expected.detach(), atol=2e-4)
    np.testing.assert_allclose(slope, x.grad, atol=2e-3)


def test_adam(rng):
    y = rng.normal(size=50).astype(np.float32)
    x = torch.tensor(y, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.1, betas=(0.9, 0.95))
    m, v = np.zeros_like(y), np.zeros_like(y)
    for step in range(1, 6):
        g, slope = (rng.normal(size=50).astype(np.float32) for _ in range(2))
        kernels.adam(y, g, slope, m, v, 0.1, step, (0.9, 0.95))
        x.grad = torch.tensor(g * slope)
        optimizer.step()
    np.testing.assert_allclose(y, x.detach(), atol=1e-4)


@pytest.mark.parametrize("size", [(70, 91), (1, 1), (3, 50), (301, 40)], ids=str)
def test_the_receiver_renders_the_same(size, rng, monkeypatch):
    monkeypatch.setattr("nicc.pyramid.render.BAND_PIXELS", 600)  # many bands
    strip, networks, q = problem(size, rng)
    symbols = np.rint(q)
    image = strip.synthesise(networks, symbols)
    expected = np.rint(np.clip(image.transpose(1, 2, 0) + 0.5, 0, 1) * 255)
    found = render(networks.of, [g.astype(np.int16) for g in strip.grids(symbols)])
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.mean(found != expected) < 0.01


CHILD = """
import sys, zlib, numpy as np
from nicc.model import load_model
from nicc.pyramid.encode import Fitter
pixels = np.random.default_rng(0).integers(0, 256, (48, 80, 3)).astype(np.uint8)
fitter = Fitter(load_model("pyramid"), pixels)
fitter.run(40, 0.01, 5)
print(zlib.crc32(fitter.fit.networks.flat.data), zlib.crc32(fitter.fit.strips[0].y.data))
"""


def test_threads_do_not_matter():
    found = set()
    for threads in ("1", "2"):
        env = {"NUMBA_NUM_THREADS": threads, "PYTHONPATH": str(ROOT), "PATH": ""}
        done = subprocess.run([sys.executable, "-c", CHILD], env=env, capture_output=True, check=True, text=True)
        found.add(done.stdout)
    assert len(found) == 1
