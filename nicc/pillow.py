"""The .nic format in Pillow, and in every program that opens images with it: ``import nicc.pillow``.

>>> import nicc.pillow
>>> image = Image.open("photo.nic")      # reads the header only
>>> image.info["beta"] = 0.8             # realism, if the model has a head; before the pixels are loaded
>>> image.save("copy.nic", quality=40)
"""

from __future__ import annotations

from typing import IO, Any

from PIL import Image, ImageFile

from nicc.container import BOX_ALPHA, FLAG_OF_BOX, MAGIC, MAX_HEADER, read_header
from nicc.errors import NiccError

FORMAT = "NIC"
OPTIONS = (
    "quality",
    "model",
    "tune",
    "target_bpp",
    "target_size",
    "target_psnr",
    "target_ssimulacra2",
    "effort",
    "sga_steps",
    "beta",
    "lossless",
    "srgb",
    "device",
)
"""Arguments of `nicc.encode` that ``Image.save`` passes on."""


class NicImageFile(ImageFile.ImageFile):
    """A .nic file; ``info`` holds model, rate point, and the realism beta to decode with."""

    format = FORMAT
    format_description = "Neural image compression"

    def _open(self) -> None:
        try:
            header, flags = read_header(self._file.read(MAX_HEADER))
        except NiccError as e:
            raise SyntaxError(str(e)) from None
        alpha = bool(flags & FLAG_OF_BOX[BOX_ALPHA])
        self._size = header.width, header.height
        self._mode = ("LA" if alpha else "L") if header.grey else ("RGBA" if alpha else "RGB")
        self.info |= {"model": header.model, "rate_point": header.rate_point, "beta": header.beta}
        self.tile = []
        self._loaded = False

    @property
    def _file(self) -> IO[bytes]:
        if self.fp is None:
            raise ValueError("the file is closed")
        return self.fp

    def load(self) -> Any:
        """Decodes the pixels. Raises `OSError` if the file is damaged or its model is missing."""
        if not self._loaded:
            import nicc

            self._loaded = True
            self._file.seek(0)
            try:
                decoded = nicc.decode(self._file.read(), beta=float(self.info["beta"]))
            except (NiccError, ValueError) as e:
                self._loaded = False
                raise OSError(str(e)) from None
            self.im = decoded.im
            self._mode = decoded.mode
            self.info |= decoded.info
            if self._exclusive_fp:
                self._file.close()
        return super().load()

    def verify(self) -> None:
        """Checks framing and checksums of all boxes. Raises `OSError`."""
        from nicc.container import unpack

        self._file.seek(0)
        try:
            unpack(self._file.read())
        except NiccError as e:
            raise OSError(str(e)) from None


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


def _save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    import nicc

    given = image.encoderinfo
    options = {name: given[name] for name in OPTIONS if name in given}
    copy = image.copy()
    copy.info = {k: v for k, v in image.info.items() if k in ("icc_profile", "exif", "xmp", "dpi", "transparency")}
    copy.info |= {k: given[k] for k in ("icc_profile", "exif", "xmp", "dpi") if k in given}
    try:
        file.write(nicc.encode(copy, strip=bool(given.get("strip")), **options))
    except (NiccError, ImportError) as e:
        raise OSError(str(e)) from None


def register() -> None:
    """Makes Pillow open and save .nic files."""
    Image.register_open(FORMAT, NicImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_extension(FORMAT, ".nic")
    Image.register_mime(FORMAT, "image/x-nic")


register()
