"""Images stored exactly: round trips, what is chosen by itself, and files that lie."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

import nicc
from nicc import FormatError, ImageError, ModelError
from nicc.container import LOSSLESS_MODEL, pack, unpack, with_checksum
from nicc.decoder.decode import model_for
from nicc.images import from_image
from nicc.lossless import lossless_stream, store, worth_trying


def drawing(width: int = 300, height: int = 200) -> Image.Image:
    """A page of text and boxes in few colours."""
    image = Image.new("RGB", (width, height), (250, 250, 245))
    draw = ImageDraw.Draw(image)
    for i in range(0, height - 12, 12):
        draw.text((6, i), f"line {i}: the quick brown fox jumps over the lazy dog", fill=(20, 20, 40))
    draw.rectangle((width // 2, 20, width - 10, 90), fill=(30, 90, 200), outline=(0, 0, 0))
    return image


def stored(image: Image.Image, **options) -> bytes:
    return nicc.encode(image, lossless=True, **options)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1"])
@pytest.mark.parametrize("size", [(1, 1), (33, 70), (300, 200)])
def test_every_pixel_comes_back(coffee, mode, size):
    image = coffee.resize(size).convert("L").convert(mode) if mode == "LA" else coffee.resize(size).convert(mode)
    if mode in ("RGBA", "LA"):
        rng = np.random.default_rng(0)
        image.putalpha(Image.fromarray(rng.integers(0, 256, size[::-1], np.uint8)))
    back = nicc.decode(stored(image))
    assert back.mode == {"P": "RGB", "1": "L"}.get(mode, mode)
    np.testing.assert_array_equal(np.asarray(back), np.asarray(image.convert(back.mode)))


def test_what_webp_cannot_hold_is_a_png():
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2, 20000, 3), np.uint8))
    data = stored(wide)
    assert unpack(data).lossless.startswith(b"\x89PNG")
    np.testing.assert_array_equal(np.asarray(nicc.decode(data)), np.asarray(wide))


def test_the_file_describes_itself(astronaut, tmp_path):
    image = astronaut.crop((0, 0, 90, 70))
    image.info["dpi"] = (300, 300)
    data = stored(image)
    header = nicc.inspect(data)
    assert (header.model, header.rate_point, header.beta, header.width) == (LOSSLESS_MODEL, 0, 0, 90)
    assert nicc.decode(data).info["dpi"] == (300, 300)
    with pytest.raises(ModelError, match="stored losslessly"):
        model_for(unpack(data))
    (tmp_path / "a.nic").write_bytes(data)
    done = subprocess.run([sys.executable, "-m", "nicc", "info", tmp_path / "a.nic"], capture_output=True, check=True)
    assert b"lossless" in done.stdout


def test_windows_thumbnails_and_betas(coffee):
    data = stored(coffee)
    part = nicc.decode(data, crop=(30, 40, 50, 60))
    np.testing.assert_array_equal(np.asarray(part), np.asarray(coffee)[40:100, 30:80])
    assert nicc.decode(data, reduction=4).size == (150, 100)
    one, two = nicc.decode_all(data, [0.0, 1.0])
    np.testing.assert_array_equal(np.asarray(one), np.asarray(two))
    with pytest.raises(ValueError, match="is not inside"):
        nicc.decode(data, crop=(590, 0, 20, 20))
    with pytest.raises(ValueError, match="beta 2"):
        nicc.decode(data, beta=2)
    with pytest.raises(FormatError, match="more than the limit"):
        nicc.decode(data, max_memory=1 << 20)


def test_pillow_saves_and_opens_it(coffee):
    nicc.register()
    buffer = io.BytesIO()
    coffee.save(buffer, "NIC", lossless=True)
    np.testing.assert_array_equal(np.asarray(Image.open(buffer)), np.asarray(coffee))


def test_drawings_are_stored_where_that_is_smaller():
    image = drawing()
    data = nicc.encode(image, quality=60)
    assert nicc.inspect(data).model == LOSSLESS_MODEL
    lossy = nicc.encode(image, quality=60, lossless=False)
    assert nicc.inspect(lossy).model != LOSSLESS_MODEL
    assert len(data) < len(lossy)
    np.testing.assert_array_equal(np.asarray(nicc.decode(data)), np.asarray(image))


@pytest.mark.parametrize("quality", [0, 30, 70, 100])
def test_never_larger_than_lossless(quality):
    image = drawing(200, 120)
    webp = len(lossless_stream(np.asarray(image)))
    assert len(nicc.encode(image, quality=quality)) <= webp + 64


def test_targets_use_it(coffee):
    page = drawing()
    assert nicc.inspect(nicc.encode(page, target_psnr=33)).model == LOSSLESS_MODEL
    page.paste(coffee.resize((120, 80)), (170, 100))
    size = len(stored(page))
    assert nicc.inspect(nicc.encode(page, target_size=size + 500)).model == LOSSLESS_MODEL
    data = nicc.encode(page, target_size=size - 500)
    assert nicc.inspect(data).model != LOSSLESS_MODEL
    assert len(data) <= size - 500


def test_photographs_are_coded_and_not_even_tried(astronaut, coffee, monkeypatch):
    for image in (astronaut, coffee):
        pixels = np.asarray(image)
        for quality in (30, 60):
            data = nicc.encode(image, quality=quality)
            assert data == nicc.encode(image, quality=quality, lossless=False)
            assert not worth_trying(pixels, len(data))


def test_the_choice_is_said(tmp_path):
    drawing().save(tmp_path / "page.png")
    done = subprocess.run(
        [sys.executable, "-m", "nicc", "encode", tmp_path / "page.png", "-q", "90"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert "note: stored losslessly: " in done.stderr
    assert " instead of " in done.stderr


@pytest.mark.parametrize(
    "arguments", [["-q", "40"], ["--target-size", "9kB"], ["--effort", "1"], ["--beta", "0.5"], ["--sga-steps", "9"]]
)
def test_choices_that_contradict_it_are_wrong_usage(tmp_path, arguments):
    drawing(40, 30).save(tmp_path / "page.png")
    command = [sys.executable, "-m", "nicc", "encode", tmp_path / "page.png", "--lossless", *arguments]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 2
    assert "stored exactly" in done.stderr
    assert not (tmp_path / "page.nic").exists()


def test_choices_that_contradict_it_in_python(coffee):
    for options in ({"quality": 40}, {"beta": 0.5}, {"sga_steps": 3}, {"target_psnr": 40}):
        with pytest.raises(ValueError, match="lossless has no"):
            nicc.encode(coffee, lossless=True, **options)


def lying(container, stream: bytes) -> bytes:
    """A file whose checksums are right and whose stream is not what the header says."""
    return pack(with_checksum(replace(container, lossless=stream), zlib.crc32(stream)))


def test_damage_is_refused(coffee):
    image = coffee.resize((60, 40))
    data = stored(image)
    container = unpack(data)
    for n in range(0, len(data), 7):
        with pytest.raises(FormatError):
            nicc.decode(data[:n])
    rng = np.random.default_rng(0)
    for _ in range(200):
        bad = bytearray(data)
        bad[rng.integers(len(bad))] ^= int(rng.integers(1, 256))
        with pytest.raises((FormatError, ModelError)):
            nicc.decode(bytes(bad))
    other = unpack(stored(image.resize((61, 40)))).lossless
    for stream in (other, b"", b"RIFF", container.lossless[:-20]):
        with pytest.raises(FormatError, match="lossless image"):
            nicc.decode(lying(container, stream))


def test_bombs_are_refused_by_their_size(coffee, recwarn):
    from tests.hostile.test_damage import claimed_png

    container = unpack(stored(coffee.resize((60, 40))))
    with pytest.raises(FormatError, match="not one of the header's size"):
        nicc.decode(lying(container, claimed_png(40000, 40000)))
    assert not recwarn.list


def test_boxes_out_of_place(coffee):
    small = coffee.resize((60, 40))
    container, coded = unpack(stored(small)), nicc.encode(small, quality=20)
    box = pack(container)[len(pack(replace(container, lossless=b""))) - 2 :]
    for bad in (coded + box, pack(container) + box, pack(container)[: -len(box)]):
        with pytest.raises(FormatError):
            unpack(bad)
    beta = replace(container.header, beta=0.5)
    with pytest.raises(FormatError, match="no rate point, beta or fingerprint"):
        unpack(pack(replace(container, header=beta)))


def test_what_cannot_be_stored_says_so(monkeypatch, coffee):
    monkeypatch.setattr("nicc.lossless.lossless_stream", lambda pixels: (_ for _ in ()).throw(OSError("no room")))
    with pytest.raises(ImageError, match="no room"):
        store(from_image(coffee)[0])
