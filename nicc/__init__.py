"""nicc: neural image compression with shallow, exact decoders.

>>> import nicc
>>> data = nicc.encode(image, quality=60)
>>> image = nicc.decode(data)
>>> nicc.inspect(data).width
768
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nicc.errors import FormatError, ImageError, ModelError, NiccError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from nicc.container import Header
    from nicc.model import AnyModel

__version__ = "0.1.0"
__all__ = [
    "FormatError",
    "ImageError",
    "ModelError",
    "NiccError",
    "decode",
    "decode_all",
    "encode",
    "inspect",
    "load_model",
    "register",
]


def encode(  # noqa: PLR0913 - choices of the user, by keyword, most of them left alone
    image: Image.Image,
    *,
    model: str | None = None,
    tune: str | None = None,
    quality: float | None = None,
    target_bpp: float | None = None,
    target_size: int | None = None,
    target_psnr: float | None = None,
    target_ssimulacra2: float | None = None,
    effort: int = 0,
    sga_steps: int | None = None,
    beta: float = 0.0,
    lossless: bool | None = None,
    strip: bool = False,
    srgb: bool = False,
    device: str = "auto",
    seed: int = 0,
) -> bytes:
    """Compresses an image to the bytes of a .nic file.

    ``model`` is a name or folder; without it, ``tune`` chooses: ``visual``, the default, keeps what
    people see, ``psnr`` the least squared error. ``quality`` goes from 0, smallest, to 100, best.
    Instead of it, a target can be given: ``target_bpp`` bits per pixel or ``target_size`` bytes at
    most, ``target_psnr`` dB or ``target_ssimulacra2`` points at least. ``effort``
    0..2 takes 1, 8 or 32 gradient steps, 3 anneals for 500 (pyramid is fitted for 200, 500, 2000 or 10000),
    ``sga_steps`` for any number; the same ``seed`` on the same
    machine gives the same file. ``beta``, 0..1, is the realism that decoders use by default, above 0
    only for a model with a realism head. An image whose lossless form is no larger is stored
    losslessly, as screenshots and drawings often are, unless ``lossless`` is False; True stores any
    image so. ``strip`` drops ICC profile, EXIF and XMP, ``srgb`` converts by the profile. ``device``
    is auto, cpu or cuda.

    Raises `ImageError` for an image that cannot be coded, `ModelError` for an unknown or damaged
    model, `NiccError` for a target that cannot be reached and for iterating without PyTorch
    (``pip install nicc[iterate]``), and `ValueError` for a number out of range.
    """
    from nicc.encoder.entry import encode_picture
    from nicc.encoder.settings import Options
    from nicc.images import from_image

    options = Options(
        model=model,
        tune=tune,
        quality=quality,
        target_bpp=target_bpp,
        target_size=target_size,
        target_psnr=target_psnr,
        target_ssimulacra2=target_ssimulacra2,
        effort=effort,
        steps=sga_steps,
        seed=seed,
        beta=beta,
        device=device,
        lossless=lossless,
    )
    picture, _ = from_image(image, strip=strip, srgb=srgb)
    return encode_picture(picture, options).data


def decode(
    data: bytes,
    *,
    beta: float | None = None,
    rectifier: bool = True,
    crop: tuple[int, int, int, int] | None = None,
    reduction: int = 1,
    max_pixels: int | None = None,
    max_memory: int | None = None,
) -> Image.Image:
    """The image of a .nic file; ICC profile, EXIF and XMP are in its ``info``.

    ``beta`` is the realism, from 0, the reconstruction of least squared error, to 1, the most
    synthesised detail; by default the file's. ``rectifier`` switches the model's rectifier, if it
    has one. ``crop`` (left, top, width, height in pixels) decodes that part only, without the rest;
    ``reduction`` by 2, 4 or 8 makes a thumbnail. Files of more than ``max_pixels``, 178 million
    unless given, are refused before anything is allocated; so are files that need more than
    ``max_memory`` bytes in all, by a rule of thumb for the whole process. The mode is RGB, L, RGBA
    or LA, as the source was.

    Raises `FormatError` for a damaged file, `ModelError` if the model it needs is not installed, or
    has no realism head for a beta above 0, and `ValueError` for a number out of range.
    """
    from nicc.container import DEFAULT_MAX_PIXELS, unpack
    from nicc.decoder.decode import Window, decode_pixels, decode_strips
    from nicc.decoder.limits import check_memory
    from nicc.images import assemble

    container = unpack(data, max_pixels or DEFAULT_MAX_PIXELS)
    header, extras = container.header, container.extras
    window = Window(*crop) if crop else None
    check_memory(max_memory, container, (beta,), window, reduction)
    if window:
        pixels = decode_pixels(container, None, beta, rectifier, window, reduction)
        return assemble([pixels], (header.width, header.height), header.grey, extras, window, reduction)
    parts = decode_strips(container, None, beta, rectifier, reduction)
    return assemble(parts, (header.width, header.height), header.grey, extras, reduction=reduction)


def decode_all(
    data: bytes,
    betas: Sequence[float | None],
    *,
    rectifier: bool = True,
    max_pixels: int | None = None,
    max_memory: int | None = None,
) -> list[Image.Image]:
    """`decode` for several betas; the file's symbols are decoded once."""
    from nicc.container import DEFAULT_MAX_PIXELS, unpack
    from nicc.decoder.decode import decode_versions
    from nicc.decoder.limits import check_memory
    from nicc.images import Picture, to_image

    container = unpack(data, max_pixels or DEFAULT_MAX_PIXELS)
    check_memory(max_memory, container, betas)
    header, extras = container.header, container.extras
    return [to_image(Picture(x, header.grey, extras)) for x in decode_versions(container, betas, rectifier=rectifier)]


def inspect(data: bytes) -> Header:
    """The header of a .nic file; nothing is decoded and no model is needed. Raises `FormatError`."""
    from nicc.container import unpack

    return unpack(data).header


def register() -> None:
    """Lets Pillow open and save .nic files, and so every program that uses Pillow."""
    from nicc.pillow import register as register_format

    register_format()


def load_model(name: str = "two-layer-visual") -> AnyModel:
    """The receiver's side of a model, by name or by its folder's path. Raises `ModelError`."""
    from nicc.model import load_model as load

    return load(name)
