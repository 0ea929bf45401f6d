"""Metrics against definitions and against the libraries that define them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from nicc.bench import metrics
from nicc.errors import NiccError


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """AlexNet's features with random weights, as torchvision names them."""
    import lpips

    torch.manual_seed(1)
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = {}
    for part in range(1, 6):
        for key, value in getattr(network.net, f"slice{part}").state_dict().items():
            state[f"features.{key}"] = value
    state["classifier.1.weight"] = torch.zeros(1)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(state, path)
    return path, network.eval()


@pytest.fixture
def pair(astronaut):
    original = np.asarray(astronaut)[:256, 100:356]
    noisy = original + np.random.default_rng(0).normal(0, 12, original.shape)
    return original, noisy.clip(0, 255).astype(np.uint8)


def test_psnr():
    a = np.full((8, 8, 3), 100, np.uint8)
    assert metrics.psnr(a, a + 1) == pytest.approx(20 * np.log10(255))
    assert metrics.psnr(a, a) == 100
    assert metrics.psnr(a, np.full_like(a, 90)) == pytest.approx(20 * np.log10(25.5))


def test_structural_metrics_order_images(pair):
    original, noisy = pair
    for function, perfect in ((metrics.ms_ssim, 1.0), (metrics.ssimulacra2, 100.0)):
        assert function(original, original) == pytest.approx(perfect, abs=1e-4)
        assert function(original, noisy) < 0.99 * perfect
    assert metrics.ms_ssim(original[:100], noisy[:100]) is None
    assert metrics.ssimulacra2(original[:7], noisy[:7]) is None


def test_lpips_is_the_library_s(pair, backbone):
    path, network = backbone
    ours = metrics.AlexNetMetrics(path)
    a, b = (torch.from_numpy(x).permute(2, 0, 1)[None] / 127.5 - 1 for x in pair)
    with torch.inference_mode():
        theirs = float(network(a, b))
    assert theirs > 0
    assert ours.lpips(*pair) == pytest.approx(theirs, rel=1e-4)
    assert ours.lpips(pair[0], pair[0]) == pytest.approx(0, abs=1e-7)
    assert ours.lpips(pair[1], pair[0]) == pytest.approx(theirs, rel=1e-4)  # not the last original's features
    assert ours.lpips(pair[0][:40], pair[1][:40]) is None


def test_patches_cover_the_image_and_its_shifted_grid(pair, backbone):
    ours = metrics.AlexNetMetrics(backbone[0])
    assert ours.patches(pair[0]).shape == (16 + 9, 256)
    assert ours.patches(pair[0][:70, :64]).shape == (1, 256)
    assert ours.patches(pair[0][:60]) is None


def test_frechet_distance():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (4000, 6)), rng.normal(0.5, 2, (4000, 6)) @ rng.normal(0, 1, (6, 6))
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    wanted = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert metrics.frechet_distance(a, b) == pytest.approx(wanted, rel=1e-6)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert metrics.frechet_distance(a, a + 3) == pytest.approx(9 * 6, rel=1e-6)


def test_meter_leaves_out_what_cannot_be_measured(tmp_path, pair, monkeypatch):
    broken = tmp_path / "weights.pth"
    broken.write_bytes(b"not weights")
    with pytest.raises(NiccError, match="--lpips-backbone"):
        metrics.AlexNetMetrics(broken)
    for module in ("ssimulacra2", "pycvvdp"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(metrics, "BUTTERAUGLI", ("not-installed",))
    meter = metrics.Meter(metrics.ALL, broken)
    assert meter.available == ("psnr-rgb", "ms-ssim-rgb")
    assert len(meter.notes) == 4
    assert any("libjxl-devtools" in note for note in meter.notes)
    assert set(meter.measure(*pair)) == {"psnr-rgb", "ms-ssim-rgb"}
    assert meter.patches(pair[0]) is None


def test_visible_differences_grow(pair):
    original, decoded = pair
    assert metrics.cvvdp(original, original) == pytest.approx(10, abs=1e-3)
    assert 5 < metrics.cvvdp(original, decoded) < 9.99


def test_butteraugli_grows(pair):
    if not metrics.butteraugli_program():
        pytest.skip("no butteraugli_main here; .ci/run installs it")
    original, decoded = pair
    assert metrics.butteraugli(original, original) == pytest.approx(0, abs=1e-6)
    assert metrics.butteraugli(original, decoded) > 0.1
