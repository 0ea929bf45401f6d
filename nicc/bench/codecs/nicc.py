"""nicc's own models as codecs."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

import nicc
from nicc.bench.codecs.base import Codec, Unavailable
from nicc.container import pack
from nicc.images import Picture
from nicc.model import load_model, model_folders

SUFFIX = r"-(?:sga(\d+)|nearest)$"
"""Of a codec's name: how its model encodes."""


def model_names() -> list[str]:
    """Names of all installed models."""
    return sorted({p.parent.name for folder in model_folders() for p in folder.glob("*/model.json")}, reverse=True)


class NiccCodec(Codec):
    """A model, by ``nicc-NAME`` or ``nicc:FOLDER``; quality is the rate point.

    The suffix ``-sgaN`` encodes with N steps of iterative encoding, ``-nearest`` rounds to the nearest
    symbols, as most neural codecs do, where nicc chooses them by bits and distortion.
    """

    qualities = (0, 9, 18, 27, 36, 45, 54, 63)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        suffix = re.search(SUFFIX, name)
        self.source = name[len("nicc-") : suffix.start() if suffix else None]
        self.steps = int(suffix[1] or 0) if suffix else 0
        self.nearest = suffix is not None and suffix[1] is None
        self.model = load_model(self.source)
        self.decoder_kmac = round(sum(self.model.macs_per_pixel().values()) / 1000, 3)
        self.description = f"{self.model.name} v{self.model.version}"
        if self.steps:
            self.description += f", {self.steps} SGA steps"
        elif self.nearest:
            self.description += ", nearest symbols"

    def prepare(self, *, only_decoding: bool = False) -> None:
        if only_decoding:
            return
        try:
            import nicc.encoder.encode  # noqa: F401
        except ImportError as e:
            raise Unavailable(f"encoding needs {e.name}; install it with: pip install 'nicc[encode]'") from None

    def identity(self) -> str:
        weights = f"{self.model.sha256} {self.model.description['encoder_sha256']}"
        return f"{nicc.__version__} {weights} steps {'nearest' if self.nearest else self.steps}"

    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        if self.nearest:
            from nicc.encoder.encode import NEAREST, encode_picture

            picture = Picture(pixels)
            return pack(encode_picture(self.model, picture, int(quality), distortion_weight=NEAREST).container)
        image = Image.fromarray(pixels)
        return nicc.encode(image, model=self.source, quality=int(quality), sga_steps=self.steps)

    def decode(self, data: bytes) -> np.ndarray:
        return np.asarray(nicc.decode(data))
