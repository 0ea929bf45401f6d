"""A picture to a file, from top to bottom: analyse once, then refine and round, iterate, or search for a target.

Plain encoding is NumPy; iterating needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from nicc.container import Header, pack
from nicc.decoder.decode import decode_pixels
from nicc.encoder.distortion import mean_squared_error, middle_error, raw_difference
from nicc.encoder.places import weights_by_place
from nicc.encoder.quantise import DISTORTION_WEIGHT, NEAREST, Encoding, Weight, encode_latents
from nicc.encoder.refine import Refinement
from nicc.encoder.settings import Annealing, Report, Settings
from nicc.encoder.texture import with_texture
from nicc.encoder.transform import Latents, transform_of
from nicc.errors import ModelError, needs
from nicc.graphics import Stored
from nicc.images import Picture, decibels
from nicc.model import AnyModel, Model, asks_for_realism
from nicc.ssimulacra2 import encoding_distortion, score

INTERRUPTED = "interrupted; the best so far is written"
NOT_LOWER = "iterating did not lower the cost; the plain encoding is written"


@dataclass
class Result:
    """An encoding, and what it costs when it is decoded again.

    ``notes`` say what a user should know, ``latents`` are those that an iteration reached.
    """

    model: AnyModel | None
    """None for an image that is stored losslessly."""
    picture: Picture
    settings: Settings
    encoding: Encoding
    plain_cost: float | None = None
    """Cost of the plain encoding, if this one was iterated."""
    notes: tuple[str, ...] = ()
    latents: Latents | None = None
    visual: bool | None = None
    """Whether the visual distortion was to be low; None for what the model was trained for."""

    @cached_property
    def data(self) -> bytes:
        """The file."""
        return pack(self.encoding.container)

    @cached_property
    def decoded(self) -> np.ndarray:
        """Pixels as a receiver gets them at beta 0."""
        return decode_pixels(self.encoding.container, self.model, beta=0)

    @cached_property
    def mse(self) -> float:
        """Mean squared error on the 0..255 scale."""
        return mean_squared_error(self.picture.pixels, self.decoded)

    @cached_property
    def distortion(self) -> float:
        """What was to be low beside bits: the squared error, or the visual distortion."""
        visual = self.visual
        if visual is None:
            visual = isinstance(self.model, Model) and self.model.architecture.objective == "visual"
        if not visual:
            return self.mse
        return encoding_distortion(self.mse, middle_error(self.picture.pixels, self.decoded), self._difference)

    @property
    def psnr(self) -> float:
        return decibels(self.mse)

    @property
    def ssimulacra2(self) -> float:
        """In points, 100 for identical images."""
        return float(score(self._difference))

    @cached_property
    def _difference(self) -> float:
        """The weighted sum of SSIMULACRA 2."""
        return raw_difference(self.picture.pixels, self.decoded)

    @property
    def cost(self) -> float:
        """Bits + lambda * distortion, per pixel."""
        assert self.model
        pixels = self.picture.pixels.shape[0] * self.picture.pixels.shape[1]
        return len(self.data) * 8 / pixels + self.settings.weight(self.model.architecture) * self.distortion

    def with_texture(self) -> Result:
        """The same with what receivers are told of detail and grain, if the model can tell; beta 0 is unchanged."""
        assert isinstance(self.model, Model)
        result = replace(self, encoding=with_texture(self.model, self.encoding, self.picture.pixels))
        if "decoded" in self.__dict__:
            result.decoded = self.decoded
        return result

    def rounded_by(self, distortion_weight: float) -> Result:
        """The latents that were reached, rounded anew, by another weight of distortion against bits."""
        assert self.latents is not None
        assert isinstance(self.model, Model)
        header, extras = self.encoding.container.header, self.picture.extras
        encoding = encode_latents(self.model, header, *self.latents, extras, distortion_weight)
        return Result(self.model, self.picture, self.settings, encoding, self.plain_cost, self.notes, self.latents)


def encode(
    model: Model,
    picture: Picture,
    settings: Settings,
    report: Report | None = None,
    start: Latents | None = None,
    analysed: Latents | None = None,
) -> Result:
    """Encodes a picture at one rate point; an iterative encoding is kept only if its measured cost is lower.

    ``start`` are latents of an earlier result at the same rate point to go on from,
    ``analysed`` those of `analyse`, where a caller encodes one picture several times.
    """
    return _encode(model, [picture], settings, report, [start], [analysed])[0]


def encode_batch(
    model: Model, pictures: Sequence[Picture], settings: Settings, report: Report | None = None
) -> list[Result]:
    """`encode` of pictures of one size, iterated together. Raises `ValueError` if their sizes differ."""
    if len({p.pixels.shape for p in pictures}) > 1:
        raise ValueError("pictures of a batch must have one size")
    nothing = [None] * len(pictures)
    return _encode(model, pictures, settings, report, nothing, nothing) if pictures else []


def encode_plainly(
    model: Model, picture: Picture, rate_point: int, distortion_weight: float = DISTORTION_WEIGHT, refine: bool = True
) -> Encoding:
    """A picture's container at a rate point, without iterating; ``distortion_weight`` as in `encode_latents`.

    Without ``refine``, latents are rounded as they are analysed, with no gradient step before.
    """
    settings = Settings(rate_point, Annealing(0), refinements=int(refine))
    return _refined(model, picture, settings, analyse(model, picture, settings), distortion_weight).encoding


def analyse(model: Model, picture: Picture, settings: Settings) -> Latents:
    """The analysis transform's latents, the same at every rate point."""
    return transform_of(model, settings.device)(picture.pixels)


def header_of(model: Model, picture: Picture, settings: Settings) -> Header:
    """Raises `ModelError` for a beta above 0 where the model has no realism head."""
    if settings.beta and not model.has_realism:
        raise ModelError(f"model {model.name} has no realism head; encode with beta 0")
    height, width, _ = picture.pixels.shape
    return Header(model.code, model.fingerprint, width, height, settings.rate_point, settings.beta, picture.grey)


def _coded(
    model: Model,
    picture: Picture,
    settings: Settings,
    latents: Latents,
    weight: Weight,
    refinement: Refinement | None = None,
) -> Result:
    encoding = encode_latents(model, header_of(model, picture, settings), *latents, picture.extras, weight, refinement)
    return Result(model, picture, settings, encoding)


def _refined(
    model: Model, picture: Picture, settings: Settings, latents: Latents, weight: float, report: Report | None = None
) -> Result:
    """The encoding after the gradient steps of the settings."""
    arch = model.architecture
    header = header_of(model, picture, settings)
    by_place: Weight = weight
    if arch.objective == "visual":
        rate = settings.rate_point / (arch.rate_points - 1)
        by_place = weight * weights_by_place(picture.pixels, rate, asks_for_realism(header))
    if not settings.refinements or arch.rectifiers:  # whose gradient only PyTorch knows
        return _coded(model, picture, settings, latents, by_place)
    refinement = Refinement(
        model.for_file(header),
        settings.rate_point,
        picture.pixels,
        settings.weight(arch),
        settings.refinements,
        report,
        Stored.of(header, picture.extras),
    )
    try:
        return _coded(model, picture, settings, latents, by_place, refinement)
    except KeyboardInterrupt:
        if not settings.keep_on_interrupt:
            raise
    y = latents.y if refinement.reached is None else refinement.reached
    result = _coded(model, picture, settings, Latents(y, latents.z), by_place)
    result.notes = (INTERRUPTED,)
    return result


def _encode(
    model: Model,
    pictures: Sequence[Picture],
    settings: Settings,
    report: Report | None,
    starts: Sequence[Latents | None],
    analysed: Sequence[Latents | None],
) -> list[Result]:
    # the plain encoder weighs distortion for the rate point's own lambda
    arch = model.architecture
    rounding = DISTORTION_WEIGHT * settings.weight(arch) / arch.rate_lambda(settings.rate_point)
    found = [a or analyse(model, p, settings) for p, a in zip(pictures, analysed, strict=True)]
    iterates = settings.annealing.steps > 0
    told = None if iterates or len(pictures) > 1 else report
    plain = [_refined(model, p, settings, a, rounding, told) for p, a in zip(pictures, found, strict=True)]
    if not iterates or any(INTERRUPTED in p.notes for p in plain):
        return plain
    with needs("iterate", "iterating"):
        from nicc.encoder.iterate import Iteration, Kept, starting_point
        from nicc.encoder.sga import Diverged
    headers = [header_of(model, p, settings) for p in pictures]
    note: tuple[str, ...] = ()
    try:
        begin = [s or starting_point(model, h, a) for h, s, a in zip(headers, starts, found, strict=True)]
        reached = Iteration(model, headers[0], pictures, settings, begin, report).run()
    except Diverged as e:
        for p in plain:
            p.notes = (f"{e}; the plain encoding is written",)
        return plain
    except Kept as e:
        reached = e.latents
        note = (INTERRUPTED,)
    results = []
    for picture, latents, simple in zip(pictures, reached, plain, strict=True):
        options = (_coded(model, picture, settings, latents, weight) for weight in (NEAREST, 3 * rounding))
        best = min(options, key=lambda c: c.cost)
        if best.cost < simple.cost:
            best.plain_cost, best.notes = simple.cost, note
        else:
            best, best.notes = simple, (*note, NOT_LOWER)
        best.latents = latents
        results.append(best)
    return results
