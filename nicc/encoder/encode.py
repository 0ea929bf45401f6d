"""A picture to a file, from top to bottom: analyse once, then round, iterate, or search for a target.

Plain encoding is NumPy; iterating, and the visual distortion that it lowers, need PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from nicc.container import Header, pack
from nicc.decoder.decode import decode_pixels
from nicc.encoder.quantise import DISTORTION_WEIGHT, NEAREST, Encoding, encode_latents
from nicc.encoder.settings import Annealing, Options, Report, Settings
from nicc.encoder.targets import Target, Unreachable, encode_to_target
from nicc.encoder.transform import Latents, transform_of
from nicc.errors import ModelError, needs
from nicc.images import Picture, decibels
from nicc.lossless import store, worth_trying
from nicc.model import Model

INTERRUPTED = "interrupted; the best so far is written"
NOT_LOWER = "iterating did not lower the cost; the plain encoding is written"


@dataclass
class Result:
    """An encoding, and what it costs when it is decoded again.

    ``notes`` say what a user should know, ``latents`` are those that an iteration reached.
    """

    model: Model | None
    """None for an image that is stored losslessly."""
    picture: Picture
    settings: Settings
    encoding: Encoding
    plain_cost: float | None = None
    """Cost of the plain encoding, if this one was iterated."""
    notes: tuple[str, ...] = ()
    latents: Latents | None = None

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
        """What the model's objective weighs. Raises `NiccError` if that needs PyTorch and it is missing."""
        if self.model is None or self.model.architecture.objective == "mse":
            return self.mse
        with needs("iterate", "the visual distortion"):
            from nicc.encoder.visual import distortion_of
        return distortion_of(self.picture.pixels, self.decoded)

    @property
    def psnr(self) -> float:
        return decibels(self.mse)

    @cached_property
    def ssimulacra2(self) -> float:
        """In points, 100 for identical images. Raises `NiccError` where PyTorch, which computes it, is missing."""
        with needs("iterate", "SSIMULACRA 2"):
            from nicc.encoder.visual import ssimulacra2
        return ssimulacra2(self.picture.pixels, self.decoded)

    @property
    def cost(self) -> float:
        """Bits + lambda * distortion, per pixel."""
        assert self.model
        pixels = self.picture.pixels.shape[0] * self.picture.pixels.shape[1]
        return len(self.data) * 8 / pixels + self.settings.weight(self.model.architecture) * self.distortion

    def rounded_by(self, distortion_weight: float) -> Result:
        """The latents that were reached, rounded anew, by another weight of distortion against bits."""
        assert self.latents is not None
        assert self.model
        header, extras = self.encoding.container.header, self.picture.extras
        encoding = encode_latents(self.model, header, *self.latents, extras, distortion_weight)
        return Result(self.model, self.picture, self.settings, encoding, self.plain_cost, self.notes, self.latents)


def mean_squared_error(original: np.ndarray, decoded: np.ndarray) -> float:
    """Of uint8 images of one shape, on the 0..255 scale."""
    error = original.astype(np.float32) - decoded
    return float(np.mean(np.square(error), dtype=np.float64))


def encode_picture(picture: Picture, options: Options, report: Report | None = None) -> Result:
    """Encodes a picture as a user says. `nicc.encode`, the command line, Pillow and the bench all come here.

    Raises `ModelError` for an unknown or damaged model, `NiccError` for a target that cannot be
    reached and for what needs PyTorch where it is missing.
    """
    if options.lossless:
        return _stored(picture)
    model = options.load_model()
    device = "cpu"
    if options.steps or options.device == "cuda":
        with needs("iterate", "iterating" if options.steps else "encoding on CUDA"):
            from nicc.encoder.iterate import choose_device
        device = choose_device(options.device)
    settings = Settings(
        options.rate_point(model.architecture),
        options.annealing(),
        options.beta,
        device,
        keep_on_interrupt=options.keep_on_interrupt,
    )
    size, may_store = options.target_size, options.lossless is None
    if options.target_bpp is not None:
        size = int(options.target_bpp * picture.pixels.shape[0] * picture.pixels.shape[1] / 8)
    if size is not None and may_store and (stored := _stored_within(picture, size)):
        return stored
    target = Target(size) if size is not None else None
    if options.target_psnr is not None:
        target = Target(least=options.target_psnr)
    elif options.target_ssimulacra2 is not None:
        target = Target(least=options.target_ssimulacra2, measure="ssimulacra2")
    if target:
        try:
            result = encode_to_target(model, picture, target, settings, report)
        except Unreachable as e:
            if may_store and size is None and (stored := _stored_within(picture, len(e.nearest.data), "instead of")):
                return stored
            raise
        if may_store and size is None and (stored := _stored_within(picture, len(result.data), "instead of")):
            result = stored  # with a limit on the size, the lossless form was found too large already
        return result
    analysed = analyse(model, picture, settings)
    plain = encode(model, picture, replace(settings, annealing=Annealing(0)), analysed=analysed)
    if may_store and (stored := _stored_within(picture, len(plain.data), "instead of")):
        return stored
    return encode(model, picture, settings, report, analysed=analysed) if options.steps else plain


def _stored(picture: Picture) -> Result:
    """A picture stored exactly."""
    return Result(None, picture, Settings(0, Annealing(0)), Encoding(store(picture), 0.0))


def _stored_within(picture: Picture, limit: int, relation: str = "within") -> Result | None:
    """A picture stored exactly, if that takes at most ``limit`` bytes; most are not even tried."""
    if not worth_trying(picture.pixels, limit):
        return None
    result = _stored(picture)
    if len(result.data) > limit:
        return None
    result.notes = (f"stored losslessly: {_kilobytes(len(result.data))} {relation} {_kilobytes(limit)}",)
    return result


def _kilobytes(size: int) -> str:
    return f"{size / 1000:.{0 if size >= 10000 else 1}f} kB"


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
    model: Model, picture: Picture, rate_point: int, distortion_weight: float = DISTORTION_WEIGHT
) -> Encoding:
    """A picture's container at a rate point, without iterating; ``distortion_weight`` as in `encode_latents`."""
    settings = Settings(rate_point, Annealing(0))
    return _coded(model, picture, settings, analyse(model, picture, settings), distortion_weight).encoding


def analyse(model: Model, picture: Picture, settings: Settings) -> Latents:
    """The analysis transform's latents, the same at every rate point."""
    return transform_of(model, settings.device)(picture.pixels)


def header_of(model: Model, picture: Picture, settings: Settings) -> Header:
    """Raises `ModelError` for a beta above 0 where the model has no realism head."""
    if settings.beta and not model.has_realism:
        raise ModelError(f"model {model.name} has no realism head; encode with beta 0")
    height, width, _ = picture.pixels.shape
    return Header(model.code, model.fingerprint, width, height, settings.rate_point, settings.beta, picture.grey)


def _coded(model: Model, picture: Picture, settings: Settings, latents: Latents, weight: float) -> Result:
    encoding = encode_latents(model, header_of(model, picture, settings), *latents, picture.extras, weight)
    return Result(model, picture, settings, encoding)


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
    plain = [_coded(model, p, settings, a, rounding) for p, a in zip(pictures, found, strict=True)]
    if not settings.annealing.steps:
        return plain
    with needs("iterate", "iterating"):
        from nicc.encoder.iterate import Kept, iterate, starting_point
        from nicc.encoder.sga import Diverged
    headers = [header_of(model, p, settings) for p in pictures]
    note: tuple[str, ...] = ()
    try:
        begin = [s or starting_point(model, h, a) for h, s, a in zip(headers, starts, found, strict=True)]
        reached = iterate(model, headers[0], pictures, settings, begin, report)
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
