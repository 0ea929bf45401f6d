"""Every codec codes real bytes and back; missing libraries are a sentence, not a crash."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import nicc
from nicc.bench import codecs
from nicc.bench.codecs.compressai import CompressAICodec
from nicc.bench.codecs.pillow import FORMATS
from nicc.container import unpack
from nicc.errors import NiccError
from tests.conftest import psnr


@pytest.fixture
def pixels(coffee) -> np.ndarray:
    return np.asarray(coffee)[100:261, 200:393]


@pytest.mark.parametrize("name", [*(n for n in FORMATS if n != "webp-lossless"), "nicc-two-layer", "nicc-jpeg-like"])
def test_round_trip(name, pixels):
    codec = codecs.find(name)
    codec.prepare()
    sizes, qualities = [], []
    for quality in (codec.qualities[0], codec.qualities[4], codec.qualities[-1]):
        data = codec.encode(pixels, quality)
        decoded = codec.decode(data)
        assert decoded.shape == pixels.shape
        assert decoded.dtype == np.uint8
        sizes.append(len(data))
        qualities.append(psnr(decoded, pixels))
    assert sizes == sorted(sizes)
    assert qualities == sorted(qualities)
    assert qualities[-1] > 33
    assert codec.identity() == codecs.find(name).identity()


def test_chroma_subsampling_is_as_named(pixels):
    """A saturated edge one pixel wide survives in 4:4:4 only."""
    striped = np.zeros((64, 64, 3), np.uint8)
    striped[:, ::2, 0] = 255
    striped[:, 1::2, 2] = 255
    for full, half in (("avif-444", "avif-420"), ("heic-444", "heic-420")):
        values = []
        for name in (full, half):
            codec = codecs.find(name)
            codec.prepare()
            values.append(psnr(codec.decode(codec.encode(striped, codec.qualities[-1])), striped))
        assert values[0] > values[1] + 10, (full, half)


@pytest.mark.parametrize("name", ["mbt2018-mean", "elic2022-official"])
def test_compressai_without_weights_is_for_timing_only(name, pixels, monkeypatch):
    build = CompressAICodec._build

    def offline(self, zoo, quality, pretrained):
        if pretrained:
            raise OSError("no network")
        return build(self, zoo, quality, pretrained)

    monkeypatch.setattr(CompressAICodec, "_build", offline)
    codec = codecs.find(name)
    codec.prepare()
    assert codec.timing_only
    assert "times only" in codec.description
    data = codec.encode(pixels, codec.qualities[0])
    assert codec.decode(data).shape == pixels.shape
    codec.count_macs(pixels)
    assert 20 < codec.decoder_kmac < 600


def test_missing_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(codecs.Unavailable, match=r"pillow-heif.*nicc\[bench\]"):
        codecs.find("heic-444").prepare()
    monkeypatch.setitem(sys.modules, "compressai", None)
    with pytest.raises(codecs.Unavailable, match="compressai"):
        codecs.find("mbt2018-mean").prepare()


def test_names():
    models = ["nicc-two-layer-visual", "nicc-two-layer", "nicc-pyramid", "nicc-jpeg-like"]
    assert codecs.select(["nicc-*,jpeg", "jpeg,webp"]) == [*models, "jpeg", "webp"]
    assert set(codecs.select(["all"])) == set(codecs.names())
    assert codecs.find("nicc:models/two-layer").name == "nicc:models/two-layer"
    assert codecs.select(["nicc-two-layer,jpeg"], 50) == ["nicc-two-layer", "nicc-two-layer-sga50", "jpeg"]
    with pytest.raises(NiccError, match="codec 'gif' is not known; known are nicc-two-layer"):
        codecs.select(["gif"])


def test_iterative_encoding_is_a_codec_of_its_own(pixels):
    plain, iterated = codecs.find("nicc-two-layer"), codecs.find("nicc-two-layer-sga80")
    assert "80 SGA steps" in iterated.description
    assert plain.identity() != iterated.identity()
    crop = pixels[:64, :64]
    assert plain.encode(crop, 30) != iterated.encode(crop, 30)


def test_nearest_symbols_cost_more_bits_and_less_error(pixels):
    plain, nearest = codecs.find("nicc-two-layer"), codecs.find("nicc-two-layer-nearest")
    assert nearest.identity() not in (plain.identity(), codecs.find("nicc-two-layer-sga0").identity())
    crop = pixels[:128, :128]
    chosen, rounded = (codec.encode(crop, 18) for codec in (plain, nearest))
    assert len(rounded) > 1.05 * len(chosen)
    errors = [
        np.square(codec.decode(d).astype(float) - crop).mean() for codec, d in ((plain, chosen), (nearest, rounded))
    ]
    assert errors[1] < errors[0]


def test_a_model_at_a_beta(coffee):
    pixels = np.asarray(coffee.crop((100, 100, 228, 196)))
    plain, real = (codecs.find(f"nicc-two-layer-visual{suffix}") for suffix in ("", "-beta0.5"))
    assert plain.identity() != real.identity()
    assert real.decoder_kmac > plain.decoder_kmac + 5
    data = real.encode(pixels, 30)
    assert unpack(data).header.beta == pytest.approx(0.5, abs=1 / 255)
    np.testing.assert_array_equal(plain.decode(data), np.asarray(nicc.decode(data, beta=0)))
    np.testing.assert_array_equal(real.decode(data), np.asarray(nicc.decode(data, beta=0.5)))
    assert (real.decode(data) != plain.decode(data)).any()
    with pytest.raises(NiccError, match="not known"):
        codecs.find("nicc-two-layer-visual-beta2")


def test_lossless_webp_is_exact(coffee):
    codec = codecs.find("webp-lossless")
    codec.prepare()
    pixels = np.asarray(coffee)[:50, :70]
    np.testing.assert_array_equal(codec.decode(codec.encode(pixels, 100)), pixels)
