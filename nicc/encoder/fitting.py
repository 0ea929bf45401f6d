"""Encoding by a model whose decoder is fitted to the picture: needs Numba."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from nicc.container import BOX_GRAPHICS, Header
from nicc.decoder import ops
from nicc.encoder.encode import INTERRUPTED, Result, analyse, encode
from nicc.encoder.filling import filled
from nicc.encoder.mixed import FEWEST_CELLS, Graphics, Page, candidates
from nicc.encoder.quantise import Encoding
from nicc.encoder.settings import Annealing, Options, Report, Settings, State
from nicc.encoder.targets import Target, Unreachable
from nicc.encoder.transform import encoder_arrays_of
from nicc.errors import ModelError, NiccError, needs
from nicc.graphics import spread
from nicc.images import Picture, decibels
from nicc.model import TUNED, Model, load_model
from nicc.pyramid import analysis
from nicc.pyramid.model import PyramidModel
from nicc.threads import one_blas_thread

if TYPE_CHECKING:
    from nicc.pyramid.strip import Strip

CORRECTIONS = 6
WARM_SHARE = 0.4
"""Steps of a fit that goes on from the last one, against those of a fit from a start."""
FIRST_RATE = 0.4
"""Where a search for a target begins, as a share of the rate points."""
SIZE_SLOPE = 0.033
"""Natural logarithm of the size by rate point; the first guess of a search."""
SLOPES = {"psnr": 0.14, "ssimulacra2": 0.6}
SMALL = 1 << 16
"""Images of at most so many pixels are also encoded by a trained model: there, networks of their own weigh most."""
AROUND = range(-6, 7)
"""Rate points tried for this, from that of the same lambda."""


def encode_fitted(
    model: PyramidModel, picture: Picture, options: Options, target: Target | None, report: Report | None = None
) -> Result:
    """Fits networks and latents to a picture, at a rate point or to a target.

    Without a target, cells that are graphics may be stored losslessly, unless ``options.lossless`` is False.

    Raises `NiccError` where Numba is missing, for a target that is not reached, and for what the model cannot do:
    realism, and other devices than the processor.
    """
    if options.beta:
        raise NiccError(f"model {model.name} has no realism head; encode with beta 0")
    if options.device == "cuda":
        raise NiccError(f"model {model.name} is fitted on the processor; leave --device out")
    if options.fit_steps < 1:
        raise NiccError(f"model {model.name} has no encoding without steps; use at least 1")
    with needs("pyramid", f"encoding with {model.name}"):
        fitting = _Fitting(model, picture, options, report)
    if target is not None:
        return fitting.to(target)
    rate_point = options.rate_point(model.architecture)
    if options.lossless is None:
        fitting.store_graphics(rate_point)
    return fitting.at(rate_point)


def analysis_arrays(model: PyramidModel) -> dict[str, np.ndarray]:
    """The analysis' arrays, float32, by `nicc.pyramid.analysis.shapes`. Raises `ModelError`."""
    arrays = encoder_arrays_of(model)
    if {k: v.shape for k, v in arrays.items()} != analysis.shapes(model.architecture.starts):
        raise ModelError(f"model {model.name}: damaged: its analysis does not have the arrays of its architecture")
    return arrays


@one_blas_thread()
def set_first_latents(arrays: dict[str, np.ndarray], strip: Strip, start: int) -> None:
    """Sets a strip's latents to what the analysis makes of its pixels."""
    bottom, right = (-n % analysis.ALIGN for n in (strip.height, strip.width))
    pixels = np.pad(strip.target.transpose(1, 2, 0), ((0, bottom), (0, right), (0, 0)), mode="edge")
    found = analysis.first_latents(ops, arrays, pixels, start)
    for grid, (h, w), first in zip(strip.grids(strip.y), strip.shapes, found, strict=True):
        grid[:] = first[:h, :w, 0]


class _Fitting:
    """One picture, whose fit goes on from rate point to rate point while a target is searched."""

    def __init__(self, model: PyramidModel, picture: Picture, options: Options, report: Report | None) -> None:
        from nicc.pyramid.encode import Fitter
        from nicc.pyramid.strip import SquaredError
        from nicc.pyramid.visual import VisualDistortion

        self.model, self.picture, self.options, self.report = model, picture, options, report
        self.visual = options.tune != "psnr"
        self.fitter_of = partial(
            Fitter,
            model,
            seed=options.seed,
            distortion=partial(VisualDistortion, memory={}) if self.visual else SquaredError,
            analyse=partial(set_first_latents, analysis_arrays(model)),
        )
        self.fitter = self.fitter_of(picture.pixels)
        self.steps = options.fit_steps
        self.tried = 0
        """Steps of the fit that told which cells to store losslessly."""
        self.graphics: Graphics | None = None
        self.interrupted = False

    def store_graphics(self, rate_point: int) -> None:
        """Has cells stored losslessly that a short fit of the whole finds dearer; the fit to come is of the rest."""
        from nicc.encoder.fitted_graphics import cells_to_store, steps_tried

        pixels, steps = self.picture.pixels, self.steps
        graphic = candidates(pixels)
        if graphic.sum() < FEWEST_CELLS:
            return
        tried = steps_tried(steps)
        self._run(rate_point, self.model.architecture.rate_lambda(rate_point), tried, following=steps)
        if self.interrupted:
            return
        self.tried = tried
        page = Page(pixels, graphic, self.model.architecture.rate_lambda(rate_point))
        cells = cells_to_store(self.fitter.fit, page, tried / steps)
        pasted = None
        if cells.any():
            self.graphics = page.graphics(cells)
            pasted = spread(cells, pixels.shape[1], pixels.shape[0])
            pixels = filled(pixels, cells)
            if cells.all():  # nothing is left that anybody would see: latents stay zero
                self.fitter_of, self.steps = partial(self.fitter_of, analyse=None), 1
        del self.fitter  # before another takes as much memory
        self.fitter = self.fitter_of(pixels, pasted=pasted, page=True)

    def _run(self, rate_point: int, weight: float, steps: int, following: int = 0) -> None:
        """Fits; ``following`` steps are reported as still to come."""
        total = self.tried + self.fitter.fits(rate_point) * steps + following

        def told(step: int, bits: float, distortion: float) -> None:
            if self.report:
                self.report(State(self.tried + step, bits, decibels(distortion), 0.0), total)

        self.interrupted = not self.fitter.run(rate_point, weight, steps, told, self.options.keep_on_interrupt)

    def at(self, rate_point: float) -> Result:
        """The picture at a real rate point; in fewer steps where that goes on from what was reached before."""
        arch = self.model.architecture
        whole = min(max(round(rate_point), 0), arch.rate_points - 1)
        share = 1.0 if self.fitter.begins(whole) else WARM_SHARE
        weight = arch.rate_lambda(rate_point)
        if not self.interrupted:
            self._run(whole, weight, max(1, round(share * self.steps)))
        height, width, _ = self.picture.pixels.shape
        header = Header(self.model.code, self.model.fingerprint, width, height, whole, 0.0, self.picture.grey)
        graphics = {BOX_GRAPHICS: self.graphics.box} if self.graphics else {}
        container, estimated = self.fitter.container(header, graphics | self.picture.extras)
        settings = Settings(whole, Annealing(0), lagrangian=weight)
        encoding = Encoding(container, estimated)
        result = Result(self.model, self.picture, settings, encoding, visual=self.visual)
        if self.graphics:
            result.notes = (self.graphics.note,)
        if height * width <= SMALL:
            result = min(result, *self._trained(weight), key=lambda r: r.cost)
        if self.interrupted:
            result.notes = (*result.notes, INTERRUPTED)
        return result

    def _trained(self, weight: float) -> list[Result]:
        """The picture by the model trained for the same aim, at rates around ``weight``'s, measured as a fit is.

        In a file of a hundred bytes, a fourth of them networks, what that model knows of all images may be worth more.
        """
        model = load_model(TUNED["visual" if self.visual else "psnr"])
        assert isinstance(model, Model)
        arch = model.architecture
        same = arch.rate_point_of(weight)
        points = [point for d in AROUND if 0 <= (point := same + d) < arch.rate_points]
        latents = analyse(model, self.picture, Settings(same, Annealing(0)))
        results: list[Result] = []
        for point in points:
            settings = Settings(point, Annealing(0), lagrangian=weight)
            encoding = encode(model, self.picture, settings, analysed=latents).encoding
            results.append(Result(model, self.picture, settings, encoding, visual=self.visual))
            results[-1].notes = (f"by {model.name}, whose file of so small an image costs less",)
        return results

    def to(self, target: Target) -> Result:
        """The best result that meets a target, by a search over the rate points."""
        last = float(self.model.architecture.rate_points - 1)
        search = Search(-last / 4, last, SIZE_SLOPE if target.size is not None else SLOPES[target.measure])
        point = FIRST_RATE * last
        best: Result | None = None
        for _ in range(CORRECTIONS + 1):
            result = self.at(point)
            if target.met(result) and (best is None or target.better(result, best)):
                best = result
            if INTERRUPTED in result.notes or target.close(result):
                break
            moved = search.next(point, target.miss(result))
            if moved == point:
                break
            point = moved
        if best is None:
            found = f"{len(result.data)} bytes" if target.size is not None else f"{target.quality(result):.2f}"
            error = Unreachable(f"the target is not reached; the nearest is {found}: try more steps")
            error.nearest = result
            raise error
        return best


class Search:
    """Where what a target lacks is zero: secants, kept between the points that lack and those that exceed.

    Fits are noisy: two points near each other may be in the wrong order, and a secant through them points anywhere.
    """

    def __init__(self, lowest: float, highest: float, slope: float) -> None:
        """``slope``: by how much what is lacking falls from one rate point to the next, a first guess."""
        self.lowest, self.highest, self.slope = lowest, highest, slope
        self.tried: list[tuple[float, float]] = []

    def next(self, point: float, miss: float) -> float:
        """The point to try after ``point``, where ``miss`` was lacking (below zero: exceeded)."""
        if self.tried and self.tried[-1][0] != point:
            measured = (self.tried[-1][1] - miss) / (point - self.tried[-1][0])
            self.slope = min(max(measured, self.slope / 3), 3 * self.slope)
        self.tried.append((point, miss))
        moved = min(max(point + miss / self.slope, self.lowest), self.highest)
        lacking = [p for p, m in self.tried if m > 0]
        exceeding = [p for p, m in self.tried if m <= 0]
        if lacking and exceeding:
            a, b = max(lacking), min(exceeding)
            if a < b and not a <= moved <= b:
                return (a + b) / 2
        return moved
