"""nicc: neural image compression with shallow, exact decoders.

>>> import nicc
>>> data = nicc.encode(image, quality=40)      # needs nicc[encode], that is, PyTorch
>>> image = nicc.decode(data)                  # NumPy only
>>> nicc.inspect(data).rate_point
40
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nicc.errors import FormatError, ImageError, ModelError, NiccError

if TYPE_CHECKING:
    from PIL import Image

    from nicc.container import Header
    from nicc.model import Model

__version__ = "0.1.0"
__all__ = ["FormatError", "ImageError", "ModelError", "NiccError", "decode", "encode", "inspect", "load_model"]


def encode(
    image: Image.Image,
    *,
    model: str = "two-layer",
    quality: int = 32,
    beta: float = 0.0,
    strip: bool = False,
    device: str = "cpu",
) -> bytes:
    """Compresses an image to the bytes of a .nic file.

    ``quality`` is the rate point, 0 (smallest) to 63 (best); ``beta``, 0..1, the realism that
    decoders use by default; ``strip`` drops ICC profile, EXIF and XMP. Raises `ImageError` for an
    image that cannot be coded, `ModelError` for an unknown or damaged model, `ValueError` for a
    quality or beta out of range, and `ImportError` without PyTorch (``pip install nicc[encode]``).
    """
    if not 0 <= quality <= 63:
        raise ValueError(f"quality {quality} is not within 0..63")
    if not 0 <= beta <= 1:
        raise ValueError(f"beta {beta} is not within 0..1")
    from nicc.container import pack
    from nicc.encoder.encode import encode_picture
    from nicc.images import from_image
    from nicc.model import load_model as load

    picture, _ = from_image(image, strip=strip)
    return pack(encode_picture(load(model), picture, quality, beta, device).container)


def decode(data: bytes) -> Image.Image:
    """The image of a .nic file; ICC profile, EXIF and XMP are in its ``info``.

    The mode is RGB, L, RGBA or LA, as the source was. Raises `FormatError` for a damaged file and
    `ModelError` if the model it needs is not installed.
    """
    from nicc.container import unpack
    from nicc.decoder.decode import decode_pixels
    from nicc.images import Picture, to_image

    container = unpack(data)
    return to_image(Picture(decode_pixels(container), container.header.grey, container.extras))


def inspect(data: bytes) -> Header:
    """The header of a .nic file; nothing is decoded and no model is needed. Raises `FormatError`."""
    from nicc.container import unpack

    return unpack(data).header


def load_model(name: str = "two-layer") -> Model:
    """The receiver's side of a model, by name or by its folder's path. Raises `ModelError`."""
    from nicc.model import load_model as load

    return load(name)
