"""nicc's own models as codecs."""

from __future__ import annotations

import numpy as np
from PIL import Image

import nicc
from nicc.bench.codecs.base import Codec, Unavailable
from nicc.model import load_model, model_folders


def model_names() -> list[str]:
    """Names of all installed models."""
    return sorted({p.parent.name for folder in model_folders() for p in folder.glob("*/model.json")}, reverse=True)


class NiccCodec(Codec):
    """A model, by ``nicc-NAME`` or ``nicc:FOLDER``; quality is the rate point."""

    qualities = (0, 9, 18, 27, 36, 45, 54, 63)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.model = load_model(name[len("nicc-") :])
        self.decoder_kmac = round(sum(self.model.macs_per_pixel().values()) / 1000, 3)
        self.description = f"{self.model.name} v{self.model.version}"

    def prepare(self, *, only_decoding: bool = False) -> None:
        if only_decoding:
            return
        try:
            import nicc.encoder.encode  # noqa: F401
        except ImportError as e:
            raise Unavailable(f"encoding needs {e.name}; install it with: pip install 'nicc[encode]'") from None

    def identity(self) -> str:
        return f"{nicc.__version__} {self.model.sha256} {self.model.description['encoder_sha256']}"

    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        return nicc.encode(Image.fromarray(pixels), model=self.name[len("nicc-") :], quality=int(quality))

    def decode(self, data: bytes) -> np.ndarray:
        return np.asarray(nicc.decode(data))
