"""BD-rate: published pairs, exact cases, and what cannot be compared."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest

from nicc.bench import codecs
from nicc.bench.bd import bd_rate
from nicc.bench.metrics import psnr
from nicc.bench.sources import read_pixels

PUBLISHED = json.loads((files("nicc.bench") / "kodak.json").read_text())["codecs"]
LINE = {"bpp": [0.1, 0.2, 0.4, 0.8, 1.6], "psnr-rgb": [27.0, 30.0, 33.0, 36.0, 39.0]}


@pytest.mark.parametrize(
    ("test", "percent"),
    [
        ("vvc-vtm-444", -18.9),
        ("shallow-ntc-two-layer", 5.6),
        ("shallow-ntc-two-layer-sga", -5.1),
        ("elic2022", -26.7),
    ],
)
def test_published_pairs(test, percent):
    found = bd_rate(PUBLISHED["hevc-hm-444"]["results"], PUBLISHED[test]["results"])
    assert found.percent == pytest.approx(percent, abs=0.05)
    assert not found.narrow


def test_a_tenth_more_bits_is_ten_percent():
    more = {"bpp": [1.1 * b for b in LINE["bpp"]], "psnr-rgb": LINE["psnr-rgb"]}
    assert bd_rate(LINE, more).percent == pytest.approx(10, abs=1e-6)
    assert bd_rate(more, LINE).percent == pytest.approx(100 / 1.1 - 100, abs=1e-6)
    assert bd_rate(LINE, LINE).percent == pytest.approx(0, abs=1e-9)


def test_order_and_points_that_are_worse_do_not_matter():
    shuffled = {k: [v[i] for i in (3, 0, 4, 2, 1)] for k, v in LINE.items()}
    assert bd_rate(LINE, shuffled).percent == pytest.approx(0, abs=1e-9)
    worse = {"bpp": [*LINE["bpp"], 1.0], "psnr-rgb": [*LINE["psnr-rgb"], 35.0]}
    assert bd_rate(LINE, worse).percent == pytest.approx(0, abs=1e-9)


def test_lower_is_better_for_lpips():
    curve = {"bpp": LINE["bpp"], "lpips": [0.4, 0.3, 0.2, 0.1, 0.05]}
    better = {"bpp": LINE["bpp"], "lpips": [0.3, 0.2, 0.1, 0.06, 0.03]}
    assert bd_rate(curve, better, "lpips").percent < -20


def test_overlap():
    high = {"bpp": LINE["bpp"], "psnr-rgb": [p + 10 for p in LINE["psnr-rgb"]]}
    found = bd_rate(LINE, high)
    assert (found.low, found.high) == (37.0, 39.0)
    assert found.share == pytest.approx(2 / 12)
    assert found.narrow
    apart = {"bpp": LINE["bpp"], "psnr-rgb": [p + 20 for p in LINE["psnr-rgb"]]}
    assert bd_rate(LINE, apart) is None
    assert bd_rate(LINE, apart, "lpips") is None
    assert bd_rate(LINE, {"bpp": [0.3], "psnr-rgb": [31.0]}) is None


def test_published_numbers_are_sane():
    for name, codec in PUBLISHED.items():
        lengths = {len(v) for v in codec["results"].values()}
        assert len(lengths) == 1, name
        assert codec["source"], name
        assert np.all(np.array(codec["results"]["psnr-rgb"]) > 20), name


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_measured_curves_are_the_published_ones(name, kodak):
    """Codecs with the settings of the published curves, on the same photographs."""
    codec = codecs.find(f"{name}-default")
    curve: dict[str, list[float]] = {"bpp": [], "psnr-rgb": []}
    for quality in codec.qualities[::2]:
        bits, values = [], []
        for path in kodak:
            pixels = read_pixels(path)
            data = codec.encode(pixels, quality)
            bits.append(len(data) * 8 / pixels[..., 0].size)
            values.append(psnr(pixels, codec.decode(data)))
        curve["bpp"].append(float(np.mean(bits)))
        curve["psnr-rgb"].append(float(np.mean(values)))
    assert abs(bd_rate(PUBLISHED[name]["results"], curve).percent) < 5
