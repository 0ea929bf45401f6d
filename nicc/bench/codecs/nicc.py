"""nicc's own models as codecs."""

from __future__ import annotations

import hashlib
import re

import numpy as np
from PIL import Image

import nicc
from nicc.bench.codecs.base import Codec, Unavailable
from nicc.container import pack
from nicc.encoder.settings import Options
from nicc.encoder.texture import TEXTURE_FILE, estimator_for
from nicc.errors import NiccError, needs
from nicc.images import Picture
from nicc.model import Model, load_model, model_folders
from nicc.pyramid.model import PyramidModel

SUFFIX = (
    r"(?:-(?P<tune>psnr))?"
    r"(?:-(?:effort(?P<effort>[0-3])|sga(?P<steps>\d+)|(?P<nearest>nearest)|beta(?P<beta>[01](?:\.\d+)?)))?$"
)
"""What ends a codec's name and says how its model encodes or decodes."""


FITTED_QUALITIES = (10, 22, 33, 42, 48, 56, 66, 78)
"""Qualities of models that are fitted to the image, over about 27 to 40 dB: each takes a minute and more."""


def model_names() -> list[str]:
    """Names of all installed models."""
    return sorted({p.parent.name for folder in model_folders() for p in folder.glob("*/model.json")}, reverse=True)


class NiccCodec(Codec):
    """A model, by ``nicc-NAME`` or ``nicc:FOLDER``; quality goes from 0 to 100.

    The suffix ``-effortN`` encodes with that effort, ``-sgaN`` with N steps of iterative encoding; ``-nearest`` rounds
    to the nearest symbols, as most neural codecs do, where nicc chooses them by bits and distortion; ``-beta0.5``
    asks decoders for that realism, and is decoded with it. Before these, ``-psnr`` tunes a model that is fitted to the
    image.
    """

    qualities = (0, 14, 29, 43, 57, 71, 86, 100)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        suffix = re.search(SUFFIX, name)
        assert suffix  # it may be empty
        self.source = name[len("nicc-") : suffix.start()]
        self.tune, self.steps = suffix["tune"], int(suffix["steps"] or 0)
        self.nearest, self.effort = bool(suffix["nearest"]), int(suffix["effort"] or 0)
        self.beta = float(suffix["beta"] or 0)
        self.model = load_model(self.source)
        self.decoder_kmac = round(sum(self.model.macs_per_pixel().values()) / 1000, 3)
        self.fitted = isinstance(self.model, PyramidModel)
        if self.fitted:
            self.qualities = FITTED_QUALITIES
        self.description = f"{self.model.name} v{self.model.version}" + (
            f", tuned for {self.tune}" if self.tune else ""
        )
        if self.effort:
            self.description += f", effort {self.effort}"
        elif self.steps:
            self.description += f", {self.steps} SGA steps"
        elif self.nearest:
            self.description += ", nearest symbols"
        elif self.beta:
            self.description += f", realism beta {self.beta:g}"
            self.decoder_kmac = round(self.decoder_kmac + (self.model.realism_macs_per_pixel or 0) / 1000, 3)

    def prepare(self, *, only_decoding: bool = False) -> None:
        iterates = Options(effort=self.effort, steps=self.steps or None).annealing().steps > 0
        if only_decoding or not (iterates or self.fitted):
            return
        try:
            if self.fitted:
                with needs("pyramid", "fitting"):
                    import nicc.pyramid.encode
            if not self.fitted or self.tune != "psnr":
                with needs("iterate", "iterating"):
                    import nicc.encoder.iterate  # noqa: F401
        except NiccError as e:
            raise Unavailable(str(e)) from None

    def identity(self) -> str:
        weights = " ".join(self.model.description[f"{part}_sha256"] for part in ("decoder", "encoder"))
        rounding = "nearest" if self.nearest else "refined"
        how = f"effort {self.effort}" if self.effort else f"steps {self.steps or rounding}"
        if self.beta and isinstance(self.model, Model):
            how += f" beta {self.beta:g} {self.model.realism.sha256}"
        if isinstance(self.model, Model) and estimator_for(self.model):
            assert self.model.folder
            how += f" texture {hashlib.sha256((self.model.folder / TEXTURE_FILE).read_bytes()).hexdigest()}"
        return f"{nicc.__version__} {weights} {how}"

    def encode(self, pixels: np.ndarray, quality: float) -> bytes:
        if self.nearest and isinstance(self.model, Model):
            from nicc.encoder.encode import encode_plainly
            from nicc.encoder.quantise import NEAREST

            picture = Picture(pixels)
            rate_point = Options(quality=quality).rate_point(self.model.architecture)
            return pack(encode_plainly(self.model, picture, rate_point, NEAREST, refine=False).container)
        image = Image.fromarray(pixels)
        return nicc.encode(
            image,
            model=self.source,
            tune=self.tune,
            quality=quality,
            effort=self.effort,
            sga_steps=self.steps or None,
            beta=self.beta,
        )

    def decode(self, data: bytes) -> np.ndarray:
        return np.asarray(nicc.decode(data, beta=self.beta))
