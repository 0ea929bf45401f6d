"""Codecs that Pillow offers, by itself or with a plugin."""

from __future__ import annotations

import importlib
import io
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import PIL
from PIL import Image, features

from nicc.bench.codecs.base import Codec, Unavailable


@dataclass(frozen=True)
class Format:
    """A Pillow format and its settings; ``scale`` is the keyword that quality is passed by."""

    kind: str
    description: str
    qualities: tuple[float, ...]
    options: dict[str, Any] = field(default_factory=dict)
    feature: str | None = None
    plugin: str | None = None
    package: str = "pillow"
    mime: str | None = None


def _avif(description: str, subsampling: str = "4:4:4", **options: Any) -> Format:
    """AVIF in eight qualities; ``options`` are Pillow's."""
    qualities = (20, 30, 40, 50, 60, 70, 80, 88)
    return Format("AVIF", description, qualities, {"subsampling": subsampling, **options}, "avif", mime="image/avif")


FORMATS = {
    "jpeg": Format(
        "JPEG",
        "libjpeg-turbo 4:2:0, optimised Huffman tables",
        (10, 20, 35, 50, 65, 80, 90, 95),
        {"subsampling": "4:2:0", "optimize": True},
        mime="image/jpeg",
    ),
    "webp": Format(
        "WEBP", "libwebp, method 6", (5, 15, 30, 45, 60, 75, 85, 92), {"method": 6}, "webp", mime="image/webp"
    ),
    "webp-lossless": Format(
        "WEBP", "libwebp, lossless, method 6", (100,), {"method": 6, "lossless": True}, "webp", mime="image/webp"
    ),
    "jpeg-default": Format(
        "JPEG",
        "libjpeg-turbo 4:2:0 as Pillow writes it unasked, like the published JPEG",
        (10, 20, 35, 50, 65, 80, 90, 95),
        mime="image/jpeg",
    ),
    "webp-default": Format(
        "WEBP",
        "libwebp, method 4, like the published WebP",
        (5, 15, 30, 45, 60, 75, 85, 92),
        feature="webp",
        mime="image/webp",
    ),
    "avif-444": _avif("libavif 4:4:4, speed 6", speed=6),
    "avif-444-best": _avif("libavif 4:4:4, speed 3, tuned for SSIMULACRA 2", speed=3, advanced={"tune": "ssimulacra2"}),
    "avif-444-slowest": _avif("libavif 4:4:4, speed 0", speed=0),
    "avif-444-slowest-psnr": _avif("libavif 4:4:4, speed 0, tuned for PSNR", speed=0, advanced={"tune": "psnr"}),
    "avif-420": _avif("libavif 4:2:0, speed 6", subsampling="4:2:0", speed=6),
    "jpeg2000": Format(
        "JPEG2000",
        "OpenJPEG 9/7; quality is minus the compression ratio",
        (-160, -100, -65, -45, -30, -20, -14, -10),
        {"irreversible": True, "quality_mode": "rates"},
        "jpg_2000",
    ),
    "jxl": Format(
        "JXL",
        "libjxl, effort 7",
        (15, 25, 40, 55, 68, 78, 86, 92),
        {"effort": 7},
        plugin="pillow_jxl",
        package="pillow-jxl-plugin",
    ),
    "jxl-e9": Format(
        "JXL",
        "libjxl, effort 9",
        (15, 25, 40, 55, 68, 78, 86, 92),
        {"effort": 9},
        plugin="pillow_jxl",
        package="pillow-jxl-plugin",
    ),
    "heic-444": Format(
        "HEIF",
        "x265 stills 4:4:4",
        (15, 25, 33, 41, 49, 57, 65, 75),
        {"chroma": 444},
        None,
        "pillow_heif",
        "pillow-heif",
    ),
    "heic-420": Format(
        "HEIF",
        "x265 stills 4:2:0",
        (15, 25, 33, 41, 49, 57, 65, 75),
        {"chroma": 420},
        None,
        "pillow_heif",
        "pillow-heif",
    ),
}


class PillowCodec(Codec):
    """One entry of `FORMATS`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.format = FORMATS[name]
        self.description = self.format.description
        self.qualities, self.mime = self.format.qualities, self.format.mime

    def prepare(self, *, only_decoding: bool = False) -> None:
        f = self.format
        try:
            plugin = importlib.import_module(f.plugin) if f.plugin else None
        except ImportError:
            raise Unavailable(f"needs {f.package}; install it with: pip install 'nicc[bench]'") from None
        if plugin and hasattr(plugin, "register_heif_opener"):
            plugin.register_heif_opener()
        if f.feature and not features.check(f.feature):
            raise Unavailable(f"this Pillow was built without {f.kind}")
        Image.init()
        if f.kind not in Image.SAVE:
            raise Unavailable(f"{f.package} cannot write {f.kind} here")

    def identity(self) -> str:
        f = self.format
        return f"pillow {PIL.__version__} {f.package} {version(f.package)} {sorted(f.options.items())}"

    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        buffer = io.BytesIO()
        options = dict(self.format.options)
        if self.format.kind == "JPEG2000":
            options["quality_layers"] = [-quality]
        else:
            options["quality"] = int(quality)
        Image.fromarray(pixels).save(buffer, self.format.kind, **options)
        return buffer.getvalue()

    def decode(self, data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))


CODECS = (PillowCodec, tuple(FORMATS))
