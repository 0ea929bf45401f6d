from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms

import nicc
from nicc import ImageError
from nicc.container import BOX_ALPHA, BOX_ICC
from nicc.images import from_image, open_image, save_image, to_image
from tests.conftest import psnr


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (17, 31), (16, 16), (65, 64)])
def test_small_and_odd_sizes_round_trip(astronaut, size):
    image = astronaut.crop((200, 90, 200 + size[0], 90 + size[1]))
    decoded = nicc.decode(nicc.encode(image, quality=100))
    assert decoded.size == size
    assert psnr(image, decoded) > 30


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "PA", "CMYK", "YCbCr", "HSV", "I;16", "I"])
def test_modes_are_coded(astronaut, mode):
    small = astronaut.crop((200, 90, 248, 130))
    if mode in ("I;16", "I"):
        grey = np.asarray(small.convert("L"), np.int32) * 257
        image = Image.fromarray(grey.astype(np.uint16) if mode == "I;16" else grey.astype(np.int32))
    else:
        image = small.convert("L").convert(mode) if mode == "LA" else small.convert(mode)
    picture, notes = from_image(image)
    assert ("16 bits" in " ".join(notes)) == (mode in ("I;16", "I"))
    decoded = nicc.decode(nicc.encode(image, quality=50))
    expected = {"L": "L", "1": "L", "I;16": "L", "I": "L", "RGBA": "RGBA", "LA": "LA", "PA": "RGBA"}.get(mode, "RGB")
    assert decoded.mode == expected
    reference = Image.fromarray(picture.pixels).convert(expected[:-1] if expected.endswith("A") else expected)
    if mode != "1":  # dithered
        base = decoded.convert("L" if expected in ("L", "LA") else "RGB")
        assert psnr(reference, base) > (20 if mode in ("P", "PA") else 30)  # palettes are dithered too


def test_floating_point_images_are_refused():
    with pytest.raises(ImageError, match="floating-point"):
        from_image(Image.new("F", (4, 4)))


def test_alpha_is_lossless(astronaut):
    image = astronaut.resize((70, 33))
    alpha = np.random.default_rng(0).integers(0, 256, (33, 70)).astype(np.uint8)
    image.putalpha(Image.fromarray(alpha))
    decoded = nicc.decode(nicc.encode(image, quality=20))
    assert (np.asarray(decoded.getchannel("A")) == alpha).all()


def test_a_transparent_palette_keeps_its_alpha(astronaut):
    image = astronaut.resize((20, 20)).quantize(8)
    image.info["transparency"] = 3
    decoded = nicc.decode(nicc.encode(image))
    assert decoded.mode == "RGBA"
    assert (np.asarray(decoded.getchannel("A")) == np.where(np.asarray(image) == 3, 0, 255)).all()


def test_orientation_is_applied_once_and_metadata_kept(astronaut, tmp_path):
    image = astronaut.resize((64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    exif[0x010E] = "a description"
    path = tmp_path / "a.jpg"
    image.save(path, exif=exif, icc_profile=b"profile", quality=95)
    with Image.open(path) as source:
        data, bare = nicc.encode(source, quality=40), nicc.encode(source, quality=40, strip=True)
    decoded = nicc.decode(data)
    assert decoded.size == (32, 64)
    assert decoded.info["icc_profile"] == b"profile"
    kept = decoded.getexif()
    kept.load(decoded.info["exif"])
    assert kept[0x010E] == "a description"
    assert 0x0112 not in kept
    assert not {"icc_profile", "exif"} & set(nicc.decode(bare).info)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_resolution_is_kept(astronaut, tmp_path, suffix):
    astronaut.resize((30, 20)).save(tmp_path / f"a.{suffix}", dpi=(300, 200))
    with Image.open(tmp_path / f"a.{suffix}") as source:
        decoded = nicc.decode(nicc.encode(source))
        assert decoded.info["dpi"] == pytest.approx((300, 200), abs=0.02)
        assert "dpi" not in nicc.decode(nicc.encode(source, strip=True)).info
    save_image(decoded, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as saved:
        assert saved.info["dpi"] == pytest.approx((300, 200), abs=0.02)
    plain = nicc.encode(astronaut.resize((30, 20)))
    usual = astronaut.resize((30, 20))
    usual.info["dpi"] = (72, 72)
    assert nicc.encode(usual) == plain  # no bytes for what says nothing


def swapped_profile() -> bytes:
    """An ICC profile of RGB whose red and blue are exchanged: sRGB's with two tags swapped."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_srgb_converts_by_the_profile(astronaut, mode):
    image = astronaut.crop((200, 90, 248, 130)).convert(mode)
    image.info["icc_profile"] = swapped_profile()
    picture, notes = from_image(image, srgb=True)
    assert not notes
    assert BOX_ICC not in picture.extras
    expected = np.asarray(image)[..., 2::-1]
    assert np.abs(picture.pixels.astype(int) - expected).max() <= 2
    assert (BOX_ALPHA in picture.extras) == (mode == "RGBA")
    kept, _ = from_image(image)
    assert kept.extras[BOX_ICC] == swapped_profile()
    assert (kept.pixels == np.asarray(image)[..., :3]).all()


def test_profiles_that_cannot_be_used_warn(astronaut):
    image = astronaut.resize((20, 20))
    image.info["icc_profile"] = b"nonsense"
    picture, notes = from_image(image, srgb=True)
    assert "cannot be used" in notes[0]
    assert (picture.pixels == np.asarray(image)).all()
    _, notes = from_image(image.convert("CMYK"))
    assert "CMYK" in notes[0]


def test_grey_stays_grey(astronaut):
    decoded = nicc.decode(nicc.encode(astronaut.convert("L").resize((64, 64))))
    assert decoded.mode == "L"


def test_unreadable_images_are_refused_with_a_reason(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    for name, message in [("text.png", "not an image"), ("cut.png", "image"), ("none.png", "no such file")]:
        with pytest.raises(ImageError, match=message):
            open_image(tmp_path / name)


def test_pictures_come_back_as_they_went(coffee):
    picture, notes = from_image(coffee)
    assert not notes
    assert (np.asarray(to_image(picture)) == np.asarray(coffee)).all()
