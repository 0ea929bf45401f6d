"""The Pillow plugin through Pillow's own public interface."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

import nicc
import nicc.pillow
from tests.conftest import GOLDEN, psnr

SAMPLE = next(GOLDEN.glob("two-layer-coffee*.nic"))


def saved(image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "NIC", **options)
    return buffer.getvalue()


def test_opening_reads_the_header_only(monkeypatch):
    image = Image.open(SAMPLE)
    assert (image.format, image.size, image.mode) == ("NIC", (160, 120), "RGB")
    assert (image.info["rate_point"], image.info["beta"]) == (20, 0)
    assert image.get_format_mimetype() == "image/x-nic"
    prefix = io.BytesIO(SAMPLE.read_bytes()[:40])
    assert Image.open(prefix).size == (160, 120)
    with pytest.raises(OSError, match="truncated"):
        Image.open(prefix).load()


def test_pixels_are_the_decoders():
    with Image.open(SAMPLE) as image:
        assert np.array_equal(np.asarray(image), np.asarray(nicc.decode(SAMPLE.read_bytes())))
        assert image.getpixel((3, 4)) == nicc.decode(SAMPLE.read_bytes()).getpixel((3, 4))
    image = Image.open(SAMPLE)
    image.thumbnail((40, 40))
    assert image.size == (40, 30)
    assert Image.open(SAMPLE).convert("L").resize((5, 5)).size == (5, 5)
    assert Image.open(SAMPLE).crop((10, 10, 30, 20)).size == (20, 10)


def test_verify():
    Image.open(SAMPLE).verify()
    damaged = SAMPLE.read_bytes()[:-3]
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(damaged)).verify()


def test_saving_by_suffix_and_options(tmp_path, coffee):
    small = coffee.resize((120, 80))
    small.save(tmp_path / "a.nic", quality=50)
    assert (tmp_path / "a.nic").read_bytes() == nicc.encode(small, quality=50)
    data = saved(small, target_size=900, model="jpeg-like")
    assert len(data) <= 900
    assert nicc.inspect(data).model == 2
    assert psnr(Image.open(io.BytesIO(data)), small) > 20
    with pytest.raises(ValueError, match="quality 101"):
        saved(small, quality=101)
    with pytest.raises(OSError, match="not found"):
        saved(small, model="nonesuch")


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_modes(coffee, mode):
    image = coffee.resize((50, 40)).convert(mode)
    back = Image.open(io.BytesIO(saved(image, quality=60)))
    expected = {"P": "RGB", "1": "L"}.get(mode, mode)
    assert back.mode == expected
    back.load()
    assert back.mode == expected
    if "A" in mode:
        assert np.array_equal(np.asarray(back.getchannel("A")), np.asarray(image.getchannel("A")))


def test_metadata_survives(coffee):
    image = coffee.resize((40, 40))
    exif = Image.Exif()
    exif[0x010E] = "a cup"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    back = Image.open(io.BytesIO(saved(image, exif=exif.tobytes(), icc_profile=profile)))
    back.load()
    assert back.info["icc_profile"] == profile
    assert back.getexif()[0x010E] == "a cup"
    again = Image.open(io.BytesIO(saved(back)))
    again.load()
    assert again.info["icc_profile"] == profile
    stripped = Image.open(io.BytesIO(saved(back, strip=True)))
    stripped.load()
    assert "icc_profile" not in stripped.info


def test_beta_is_chosen_before_loading():
    image = Image.open(SAMPLE)
    image.info["beta"] = 2
    with pytest.raises(OSError, match="beta 2"):
        image.load()
    image.info["beta"] = 0.75
    assert np.array_equal(np.asarray(image), np.asarray(nicc.decode(SAMPLE.read_bytes(), beta=0.75)))
    assert not np.array_equal(np.asarray(image), np.asarray(nicc.decode(SAMPLE.read_bytes())))


def test_programs_that_know_nothing_of_nicc(tmp_path):
    script = "import nicc; nicc.register(); from PIL import Image; print(Image.open(__import__('sys').argv[1]).size)"
    done = subprocess.run([sys.executable, "-c", script, str(SAMPLE)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(160, 120)"
