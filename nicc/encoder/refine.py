"""Gradient steps before the last rounding, in NumPy: one in plain encoding, more with effort.

An analysis cannot know what rounding will do to a picture. So latents are rounded and rendered; the gradient of
the distortion says which roundings were bad for this picture, beside those of their neighbours, and latents move
against it by a fraction of a quantisation step before they are rounded again. It is a step of Newton's method on
every latent by itself: the curvature along a channel is how strongly the gradient answers to the channel's own
rounding errors, as found on the picture. docs/iterative-encoding.md has what steps are worth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from nicc.architecture import PIXELS_PER_LATENT
from nicc.decoder import networks, ops
from nicc.decoder.directional import filter_of
from nicc.decoder.latents import Visited, walk
from nicc.encoder.adjoint import mirror_adjoint, synthesis
from nicc.encoder.distortion import mean_squared_error
from nicc.encoder.gradient import squared_error_gradient, visual_gradient
from nicc.encoder.quantise import Quantiser
from nicc.encoder.settings import Report, State
from nicc.geometry import Grid
from nicc.graphics import Stored
from nicc.images import decibels
from nicc.model import Model
from nicc.ssimulacra2 import scales_of
from nicc.threads import one_blas_thread, pool

Array = np.ndarray
SHARE = 0.5
"""Of the way to where Newton's method would go; all latents move at once."""
REACH = {"mse": 0.2, "visual": 0.1}
"""By the objective of the model: latents move at most so far in the first step, in quantisation steps."""
COOLED = 0.3
"""What becomes of `SHARE` and `REACH` over all steps: of n, every one has the n-th root of it times the one before."""
LEAST_CURVATURE = 2.5
"""Bits for a squared quantisation step: few errors tell little of a channel's curvature."""
BAND_PIXELS = 1 << 17
"""About so many are rendered and compared at a time, in every thread, so that memory stays bounded."""
LEAST_ROWS, LEAST_BANDS = 4, 2
"""Fewest latent rows of a band, and fewest bands of an image that has the rows for them."""
BESIDE = 1
"""Latent rows beside a band that are rendered with it: its latents reach 8 pixels further, blurs 5 or 10 more."""


class Rounded(NamedTuple):
    """One group of latent rows, rounded: arrays ``(h, w, C)`` of the active channels."""

    y_hat: Array
    """Decoded latents."""
    factor: Array
    """The adaptive steps' factors of the gain."""
    bits: float
    """The coder's estimate; 0 where nobody asks for it."""


@dataclass
class Refinement:
    """Gradient steps for one picture at one rate point.

    ``pixels`` are uint8 ``(height, width, 3)``; ``lagrangian`` weighs their distortion against bits per pixel.
    """

    model: Model
    rate_point: int
    pixels: Array
    lagrangian: float
    steps: int = 1
    report: Report | None = None
    """Told after every step of several how the latents were rounded before it."""
    stored: Stored | None = None
    """What is stored exactly, whose pixels have no distortion."""
    reached: Array | None = None
    """Latents after the last complete step, while there are more to come."""

    def groups(self, y: Array, z: Array, quantise: Quantiser) -> Iterator[Array]:
        """Latents ``(h, w, C)`` times gain, moved, of one group of latent rows after another.

        ``z`` are hyper-latents as `walk` takes them. Groups are rendered beside their neighbours, so one more is held;
        before the last of several steps, all are.
        """
        for step in range(self.steps - 1):
            y = np.concatenate(list(self._step(y, z, quantise, step)))
            y /= self.model.params["gain"][self.rate_point]
            self.reached = y
        yield from self._step(y, z, quantise, self.steps - 1)

    def _step(self, y: Array, z: Array, quantise: Quantiser, step: int) -> Iterator[Array]:
        """The groups after one step."""
        bounds = list(Grid(*y.shape[:2], *z.shape[:2]).row_groups())
        rounded = (self._rounded(y, z, rows, quantise) for rows in bounds)
        here, above = next(rounded), None
        scale, bits, error = COOLED ** (step / self.steps), 0.0, 0.0
        for rows, below in zip(bounds, chain(rounded, [None]), strict=True):
            v = self._scaled(y, rows)
            gradient, squares = self._gradient(here, above, below, rows)
            self._move(v, here, gradient, scale)
            yield v
            bits, error = bits + here.bits, error + squares
            above = here.y_hat[-BESIDE - 1 :].copy()
            if below:
                here = below
        if self.report and self.steps > 1:
            pixels = self.pixels.shape[0] * self.pixels.shape[1]
            self.report(State(step + 1, bits / pixels, decibels(error / pixels)), self.steps)

    def _scaled(self, y: Array, rows: tuple[int, int]) -> Array:
        scaled: Array = y[slice(*rows)] * self.model.params["gain"][self.rate_point]
        return scaled

    def _rounded(self, y: Array, z: Array, rows: tuple[int, int], quantise: Quantiser) -> Rounded:
        v = self._scaled(y, rows)
        h, w, channels = v.shape
        v = v.reshape(-1, channels)
        factor, bits = np.ones(v.shape, np.float32), 0.0

        def visit(here: Visited) -> Array:
            nonlocal bits
            factor[here.at, here.channels] = here.factor
            symbols = quantise.symbols(v, here, rows[0])
            if self.report:
                bits += float(quantise.costs(symbols, here.rows, here.channels).sum())
            return symbols

        hidden = self.stored.latents if self.stored else None
        _, y_hat = walk(self.model, self.rate_point, z, rows, w, visit, hidden)
        return Rounded(y_hat, factor.reshape(h, w, channels)[..., : y_hat.shape[-1]], bits)

    def _move(self, v: Array, here: Rounded, gradient: Array, scale: float) -> None:
        """Moves latents times gain in place; the ``gradient`` is overwritten."""
        inverse = self.model.params["inverse"][self.rate_point][: gradient.shape[-1]]
        active = v[..., : gradient.shape[-1]]
        error = here.y_hat / inverse
        error -= active
        error *= here.factor  # in quantisation steps
        gradient *= self.lagrangian * inverse
        gradient /= here.factor  # bits for a step
        squares, answers = (np.einsum("hwc,hwc->c", error, other, dtype=np.float64) for other in (error, gradient))
        curvature = np.maximum(answers / (2 * squares + 1e-9), LEAST_CURVATURE).astype(np.float32)
        gradient /= 2 * curvature
        error -= gradient
        error *= SHARE * scale
        reach = REACH[self.model.architecture.objective] * scale
        np.clip(error, -reach, reach, out=error)
        error /= here.factor
        active += error

    @one_blas_thread()
    def _gradient(
        self, here: Rounded, above: Array | None, below: Rounded | None, rows: tuple[int, int]
    ) -> tuple[Array, float]:
        """The gradient of the distortion, summed over pixels, by the decoded latents of a group; their squared error.

        ``above`` are the last rows that were decoded before the group.
        """
        parts = [here.y_hat]
        if above is not None:
            parts.insert(0, above)
        if below is not None:
            parts.append(below.y_hat[: BESIDE + 1])
        around = np.concatenate(parts) if len(parts) > 1 else here.y_hat
        begin = rows[0] - (len(above) if above is not None else 0)
        gradient = np.empty_like(here.y_hat)

        def work(band: tuple[int, int]) -> float:
            gradient[slice(*band)], error = self._band(around, begin, band[0] + rows[0], band[1] + rows[0])
            return error

        return gradient, sum(pool().map(work, _bands(*here.y_hat.shape[:2])))

    def _band(self, around: Array, begin: int, first: int, last: int) -> tuple[Array, float]:
        """`_gradient` of latent rows ``first``..``last``; ``around`` are decoded latents from row ``begin`` on."""
        arch, p, height = self.model.architecture, self.model.params, len(self.pixels)
        end = -(-height // PIXELS_PER_LATENT)
        top, bottom = max(0, first - BESIDE), min(end, last + BESIDE)
        at_top, at_bottom = top == 0, bottom == end
        y = around[top - begin - (not at_top) : bottom - begin + (not at_bottom)]
        there = filter_of(p, self.rate_point)
        rendered, adjoint = synthesis(arch, p, networks.mirror(ops, p, y, 1, at_top, at_bottom), there)
        original = self.pixels[top * PIXELS_PER_LATENT : bottom * PIXELS_PER_LATENT]
        visible = rendered[: len(original), : original.shape[1]]
        decoded = np.rint(visible.clip(0, 1) * 255).astype(np.uint8)
        moves = (visible >= 0) & (visible <= 1)
        if self.stored:
            exact = self.stored.pixels(top, bottom)[: len(original), : original.shape[1]]
            decoded[exact], moves[exact] = original[exact], False
        if arch.objective == "visual":
            found = visual_gradient(original, decoded, scales_of(*self.pixels.shape[:2]))
        else:
            found = squared_error_gradient(original, decoded)
        by_pixels = np.zeros(rendered.shape, np.float32)
        by_pixels[: len(original), : original.shape[1]] = found * moves
        by_latents = mirror_adjoint(p, adjoint(by_pixels), at_top, at_bottom)
        own = slice((first - top) * PIXELS_PER_LATENT, (last - top) * PIXELS_PER_LATENT)
        error = mean_squared_error(original[own], decoded[own]) * original[own, :, 0].size
        return by_latents[first - top : last - top], error


def _bands(rows: int, columns: int) -> list[tuple[int, int]]:
    """First and last + 1 latent row of the bands of a group."""
    height = max(BAND_PIXELS // (columns * PIXELS_PER_LATENT**2), LEAST_ROWS)
    count = max(min(LEAST_BANDS, rows // LEAST_ROWS), -(-rows // height), 1)
    return [(i * rows // count, (i + 1) * rows // count) for i in range(count)]
