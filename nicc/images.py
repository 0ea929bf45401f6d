"""Between Pillow's images and what the codec codes: RGB pixels, an alpha plane, and metadata."""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from nicc.container import BOX_ALPHA, BOX_EXIF, BOX_ICC, BOX_XMP, DEFAULT_MAX_PIXELS, MAX_PIXELS, MAX_SIDE
from nicc.errors import FormatError, ImageError

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue."""
GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F"}
PNG_LEVEL = 1
"""zlib's level 1 takes a third of the time of 6 and made the files no larger on decoded photographs."""
ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, INCH, CENTIMETRE = 0x0112, 0x011A, 0x011B, 0x0128, 2, 3
SIXTEEN_BIT_MODES = {"I", "I;16", "I;16B", "I;16L"}


@dataclass(frozen=True)
class Picture:
    """Pixels uint8 ``(height, width, 3)``; ``extras`` are optional boxes by their type."""

    pixels: np.ndarray
    grey: bool = False
    extras: dict[int, bytes] = field(default_factory=dict)


def image_suffixes() -> frozenset[str]:
    """Suffixes of files that Pillow can read, but for our own."""
    return frozenset(s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN and s != ".nic")


@contextmanager
def any_size() -> Iterator[None]:
    """Pillow's own limit on the pixels of an image is lifted: callers compare the claimed size with theirs."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def open_image(source: str | Path | BinaryIO, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Reads an image file completely. Raises `ImageError` with the reason."""
    try:
        with any_size():
            image = Image.open(source)
            if image.width * image.height > max_pixels:
                raise ImageError(f"{image.width}x{image.height} are more pixels than the limit of {max_pixels}")
            image.load()
            return image
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except Image.UnidentifiedImageError:
        raise ImageError("not an image that Pillow can read") from None
    except (OSError, ValueError, SyntaxError, EOFError) as e:
        raise ImageError(f"cannot be read as an image: {e}") from None


def from_image(image: Image.Image, *, strip: bool = False, srgb: bool = False) -> tuple[Picture, list[str]]:
    """What will be coded of an image, and warnings about what is lost.

    The orientation is applied. Grey stays grey, alpha is kept losslessly, 16 bits become 8. ICC
    profile, EXIF, XMP and the resolution in dpi are kept unless ``strip``. With ``srgb``, colours
    are converted by the profile, which is then dropped; CMYK always is. Raises `ImageError` for
    sizes out of limits.
    """
    if not (0 < image.width <= MAX_SIDE and 0 < image.height <= MAX_SIDE and image.width * image.height <= MAX_PIXELS):
        raise ImageError(f"size {image.width}x{image.height} is outside the limits of the format")
    notes = []
    profile, xmp = image.info.get("icc_profile"), image.info.get("xmp")
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    exif = _with_resolution(image.getexif(), image.info.get("dpi"))
    grey = image.mode in GREY_MODES
    extras: dict[int, bytes] = {}
    if image.mode in SIXTEEN_BIT_MODES:
        notes.append("16 bits per sample reduced to 8")
        image = Image.fromarray((np.clip(np.asarray(image, np.int32), 0, 65535) >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ImageError("floating-point images have no defined range; convert it to 8 bits first")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        buffer = io.BytesIO()
        alpha.save(buffer, "PNG", optimize=True)
        extras[BOX_ALPHA] = buffer.getvalue()
    if image.mode == "CMYK":
        notes.append("CMYK converted to sRGB" + ("" if profile else "; it has no profile, so colours are approximate"))
    if profile and (srgb or image.mode == "CMYK"):
        image, note = _to_srgb(image, profile)
        notes += note
        profile = None
    if not strip:
        if profile:
            extras[BOX_ICC] = profile
        if len(exif):
            extras[BOX_EXIF] = exif.tobytes()
        if xmp:
            extras[BOX_XMP] = xmp.encode() if isinstance(xmp, str) else xmp
    return Picture(np.asarray(image if image.mode == "RGB" else image.convert("RGB")), grey, extras), notes


def _with_resolution(exif: Image.Exif, dpi: Any) -> Image.Exif:
    """EXIF with dots per inch, unless it has them or they are the usual 72 that mean nothing."""
    if not dpi or X_RESOLUTION in exif or not all(0 < float(d) < 1 << 20 for d in dpi) or set(map(round, dpi)) == {72}:
        return exif
    given, exif = exif, Image.Exif()  # the image's own stays as it is
    exif.load(given.tobytes())
    exif[X_RESOLUTION], exif[Y_RESOLUTION], exif[RESOLUTION_UNIT] = float(dpi[0]), float(dpi[1]), INCH
    return exif


def _to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, list[str]]:
    """The image converted by its profile, alpha untouched; as it is, with a warning, if the profile cannot be used."""
    from PIL import ImageCms

    alpha = image.getchannel("A") if "A" in image.getbands() else None
    colours = image if image.mode in ("RGB", "CMYK", "L") else image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image, ["the ICC profile cannot be used; colours are not converted"]
    assert converted is not None
    if alpha:
        converted.putalpha(alpha)
    return converted, []


def to_image(picture: Picture) -> Image.Image:
    """The image that a decoder hands out; metadata is in ``info`` where Pillow's savers find it."""
    height, width, _ = picture.pixels.shape
    return assemble([picture.pixels], (width, height), picture.grey, picture.extras)


def assemble(
    strips: Iterable[np.ndarray],
    size: tuple[int, int],
    grey: bool,
    extras: dict[int, bytes],
    window: tuple[int, int, int, int] | None = None,
    reduction: int = 1,
) -> Image.Image:
    """The image whose pixels come in strips ``(any, width, 3)`` from top to bottom.

    ``size`` is that of the picture that was coded. If the strips are a ``window`` (left, top, width,
    height) of it, or reduced, so is the alpha plane.
    """
    width, height = window[2:] if window else size
    image = Image.new("L" if grey else "RGB", (-(-width // reduction), -(-height // reduction)))
    top = 0
    for strip in strips:
        image.paste(Image.fromarray(strip[..., 1] if grey else strip), (0, top))
        top += len(strip)
    if alpha := extras.get(BOX_ALPHA):
        image.putalpha(_alpha(alpha, size, window, reduction))
    for kind, name in ((BOX_ICC, "icc_profile"), (BOX_EXIF, "exif"), (BOX_XMP, "xmp")):
        if kind in extras:
            image.info[name] = extras[kind]
    if BOX_EXIF in extras and (dpi := _resolution(extras[BOX_EXIF])):
        image.info["dpi"] = dpi
    return image


def _resolution(data: bytes) -> tuple[float, float] | None:
    """Dots per inch in EXIF, if it has them."""
    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif.load(data)
        x, y = float(exif[X_RESOLUTION]), float(exif[Y_RESOLUTION])
        scale = {INCH: 1.0, CENTIMETRE: 2.54}[exif.get(RESOLUTION_UNIT, INCH)]
    except (KeyError, ValueError, TypeError, SyntaxError, OSError, struct.error, ZeroDivisionError):
        return None
    return (x * scale, y * scale) if 0 < x < 1 << 20 and 0 < y < 1 << 20 else None


def _alpha(data: bytes, size: tuple[int, int], window: tuple[int, int, int, int] | None, reduction: int) -> Image.Image:
    """The alpha plane of a picture of ``size``, or the part of it; refused before it is read if it does not fit."""
    try:
        with any_size(), Image.open(io.BytesIO(data), formats=["PNG"]) as whole:
            if whole.size != size or whole.mode not in ("L", "1"):
                raise FormatError("damaged: the alpha plane is not one of the image's size")
            plane = whole.convert("L")
            if window:
                left, top, width, height = window
                plane = plane.crop((left, top, left + width, top + height))
            if reduction > 1:
                plane = plane.reduce(reduction)
            return plane
    except (OSError, ValueError, SyntaxError):
        raise FormatError("damaged: the alpha plane cannot be read") from None


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes ``path``'s place when all went well, so that no half file is ever seen."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes all of a file, or nothing."""
    with replacing(path) as file:
        file.write(data)


def format_of(suffix: str) -> str:
    """Pillow's name of a file type that it can write, by suffix, with or without a dot. Raises `ImageError`."""
    Image.preinit()  # the usual formats only; loading all of Pillow's plugins takes a while
    suffix = "." + suffix.lower().removeprefix(".")
    kind = Image.EXTENSION.get(suffix) or Image.registered_extensions().get(suffix)
    if kind is None or kind not in Image.SAVE:
        raise ImageError(f"Pillow cannot write the type {suffix!r}; use .png, .jpg, .webp or another suffix")
    return kind


def write_image(image: Image.Image, file: BinaryIO, kind: str, quality: int | None = None) -> None:
    """Writes an image as one of Pillow's types, with the metadata in ``info``. Raises `ImageError`."""
    options: dict[str, Any] = {k: image.info[k] for k in ("icc_profile", "exif", "xmp", "dpi") if k in image.info}
    if kind == "PNG":
        options["compress_level"] = PNG_LEVEL
    if quality is not None:
        options["quality"] = quality
    try:
        image.save(file, kind, **options)
    except ValueError as e:
        raise ImageError(str(e)) from None
    except OSError as e:
        if e.errno is not None:
            raise
        raise ImageError(str(e)) from None  # an encoder's refusal, not the disk's


def save_image(image: Image.Image, path: Path, quality: int | None = None) -> None:
    """Saves with the metadata in ``info``, atomically; the format follows the suffix."""
    try:
        kind = format_of(path.suffix)
        with replacing(path) as file:
            write_image(image, file, kind, quality)
    except ImageError as e:
        raise ImageError(f"{path.name}: {e}") from None


def decibels(mse: float) -> float:
    """PSNR in dB of a mean squared error on the 0..255 scale; 100 where there is none."""
    return float(10 * np.log10(255**2 / mse)) if mse else 100.0
