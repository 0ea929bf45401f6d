"""The entry of encoding: what a user chose becomes a file, by the model, exactly, or both.

`nicc.encode`, the command line, Pillow and the bench all come here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from nicc.container import BOX_GRAPHICS
from nicc.encoder import mixed
from nicc.encoder.encode import Result, analyse, encode
from nicc.encoder.filling import filled
from nicc.encoder.fitting import encode_fitted
from nicc.encoder.quantise import Encoding
from nicc.encoder.settings import Annealing, Options, Report, Settings
from nicc.encoder.targets import Target, Unreachable, encode_to_target
from nicc.encoder.texture import estimator_for, most_bytes
from nicc.encoder.transform import Latents
from nicc.errors import needs
from nicc.images import Picture
from nicc.lossless import store, worth_trying
from nicc.model import Model
from nicc.pyramid.model import PyramidModel

MOSTLY = 0.5
"""Share of graphic cells from which the lossless form of an image is always tried."""


def encode_picture(picture: Picture, options: Options, report: Report | None = None) -> Result:
    """Encodes a picture as a user says.

    Raises `ModelError` for an unknown or damaged model, `NiccError` for a target that cannot be
    reached and for what needs PyTorch where it is missing.
    """
    if options.lossless:
        return _stored(picture)
    model = options.load_model()
    if isinstance(model, PyramidModel):
        return _fitted(model, picture, options, report)
    result = _transformed(model, picture, options, report)
    return result.with_texture() if result.model else result


def _transformed(model: Model, picture: Picture, options: Options, report: Report | None) -> Result:
    """Encodes with a model whose weights are the same for every picture, or stores it losslessly if that is better."""
    annealing, device = options.annealing(), "cpu"
    if annealing.steps or options.device == "cuda":
        with needs("iterate", "iterating" if annealing.steps else "encoding on CUDA"):
            from nicc.encoder.iterate import choose_device
        device = choose_device(options.device)
    settings = Settings(
        options.rate_point(model.architecture),
        annealing,
        options.beta,
        device,
        keep_on_interrupt=options.keep_on_interrupt,
        refinements=options.refinements,
    )
    if (target := _target(picture, options)) is not None:
        return _to_target(model, picture, target, settings, options.lossless is None, report)
    analysed = analyse(model, picture, settings)
    plainly = replace(settings, annealing=Annealing(0), refinements=1)
    plain = encode(model, picture, plainly, analysed=analysed)
    if options.lossless is None and (better := _with_graphics(model, picture, plain, settings, analysed, report)):
        return better
    return plain if settings == plainly else encode(model, picture, settings, report, analysed=analysed)


def _fitted(model: PyramidModel, picture: Picture, options: Options, report: Report | None) -> Result:
    """Encodes with a decoder that is fitted to the picture, or stores it losslessly where that is better.

    Better is smaller, and without a target, of an image with graphics, a lower cost.
    """
    if (target := _target(picture, options)) is not None:
        may_store = options.lossless is None
        return _stored_or(
            picture, target.size, may_store, lambda: encode_fitted(model, picture, options, target, report)
        )
    result = encode_fitted(model, picture, options, None, report)
    if options.lossless is not None:
        return result
    return _stored_instead_of(result, mixed.candidates(picture.pixels)) or result


def cost_in_bytes(result: Result) -> float:
    """Bytes and the weighed squared error of a result, which costs nothing where the picture is stored exactly."""
    if result.model is None:
        return len(result.data)
    pixels = result.picture.pixels.shape[0] * result.picture.pixels.shape[1]
    return len(result.data) + result.settings.weight(result.model.architecture) * result.mse * pixels / 8


def _target(picture: Picture, options: Options) -> Target | None:
    size = options.target_size
    if options.target_bpp is not None:
        size = int(options.target_bpp * picture.pixels.shape[0] * picture.pixels.shape[1] / 8)
    if size is not None:
        return Target(size)
    if options.target_psnr is not None:
        return Target(least=options.target_psnr)
    if options.target_ssimulacra2 is not None:
        return Target(least=options.target_ssimulacra2, measure="ssimulacra2")
    return None


def _to_target(
    model: Model, picture: Picture, target: Target, settings: Settings, may_store: bool, report: Report | None
) -> Result:
    """Encodes to a target, or stores the picture losslessly where that reaches it in fewer bytes."""
    if target.size is not None and estimator_for(model):
        target = replace(target, room=most_bytes(target.size, settings.beta))
    return _stored_or(
        picture, target.size, may_store, lambda: encode_to_target(model, picture, target, settings, report)
    )


def _stored_or(picture: Picture, size: int | None, may_store: bool, code: Callable[[], Result]) -> Result:
    """What ``code`` makes, or the picture stored losslessly: within a ``size``, or where that is no larger."""
    if size is not None and may_store:
        if stored := _stored_within(picture, size, "within"):
            return stored
        may_store = False  # with a limit on the size, the lossless form was found too large
    try:
        result = code()
    except Unreachable as e:
        if may_store and (stored := _stored_within(picture, len(e.nearest.data))):
            return stored
        raise
    return (may_store and _stored_within(picture, len(result.data))) or result


def _with_graphics(
    model: Model, picture: Picture, plain: Result, settings: Settings, analysed: Latents, report: Report | None
) -> Result | None:
    """A picture stored losslessly, whole or in those of its cells that are graphics, if that is better than ``plain``.

    Better is smaller, where all is stored, and otherwise a lower cost: bits + lambda * squared error.
    """
    graphic = mixed.candidates(picture.pixels)
    stored = _stored_instead_of(plain, graphic)
    if graphic.sum() < mixed.FEWEST_CELLS:
        return stored
    page = mixed.Page(picture.pixels, graphic, settings.weight(model.architecture))
    coded = mixed.coded_costs(page, model, plain.encoding.container.header, analysed, plain.decoded)
    best, cells = stored or plain, None

    def better(choice: np.ndarray) -> bool:
        """Whether these cells are better than what was the best, which they are then."""
        nonlocal best, cells
        if not choice.any() or (cells is not None and np.array_equal(choice, cells)):
            return False
        graphics = page.graphics(choice, quick=True)
        if choice.all() and not graphics.reach:
            return False  # the whole, exactly, is stored more simply
        result = _composed(model, picture, graphics, plain.settings, None)
        if cost_in_bytes(result) >= cost_in_bytes(best):
            return False
        best, cells = result, choice
        return True

    for choice in page.choices(coded):
        better(choice)
    for _ in range(mixed.TIGHTENED):
        if cells is None or not better(page.tightened(cells, coded)):
            break
    if cells is not None:
        best = _composed(model, picture, page.graphics(cells), settings, report)
    return best if best is not plain else None


def _stored_instead_of(result: Result, graphic: np.ndarray) -> Result | None:
    """The picture stored exactly, if that is smaller, or in an image with ``graphic`` cells costs less."""
    picture, size = result.picture, len(result.data)
    if graphic.sum() < mixed.FEWEST_CELLS:
        return _stored_within(picture, size)
    return _stored_within(picture, int(cost_in_bytes(result)), of=size, glance=graphic.mean() < MOSTLY)


def _composed(
    model: Model, picture: Picture, graphics: mixed.Graphics, settings: Settings, report: Report | None
) -> Result:
    """A picture with some of its cells stored exactly."""
    around = replace(picture, pixels=filled(picture.pixels, graphics.cells))
    whole = replace(picture, extras={BOX_GRAPHICS: graphics.box} | picture.extras)
    result = encode(model, whole, settings, report, analysed=analyse(model, around, settings))
    result.notes = (*result.notes, graphics.note)
    return result


def _stored(picture: Picture) -> Result:
    """A picture stored exactly."""
    return Result(None, picture, Settings(0, Annealing(0)), Encoding(store(picture), 0.0))


def _stored_within(
    picture: Picture, limit: int, relation: str = "instead of", of: int | None = None, glance: bool = True
) -> Result | None:
    """A picture stored exactly, if that takes at most ``limit`` bytes; with a ``glance``, most are not even tried.

    The note gives the ``relation`` to the size ``of`` something else, or to the limit.
    """
    if glance and not worth_trying(picture.pixels, limit):
        return None
    result = _stored(picture)
    if len(result.data) > limit:
        return None
    result.notes = (f"stored losslessly: {_kilobytes(len(result.data))} {relation} {_kilobytes(of or limit)}",)
    return result


def _kilobytes(size: int) -> str:
    return f"{size / 1000:.{0 if size >= 10000 else 1}f} kB"
