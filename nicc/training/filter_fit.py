"""How the filters behind a model's synthesis are fitted to what its files decode to.

The directional filter (`nicc.decoder.directional`) is linear in its weights, so that a method of second order finds
them: L-BFGS lowers the mean of a distortion over some crops, each relative to what it is unfiltered. It works in
coordinates in which a squared error that every block weighs by as much as its errors count in the distortion would
curve alike in all directions. The filter of chroma (`nicc.decoder.chroma`), whose few weights are linear as well, is
fitted to what that leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from nicc.architecture import CHROMA_DISTANCES, FILTER_STRENGTHS, FILTER_TEXTURES, FILTER_WEIGHTS
from nicc.decoder import chroma, networks, ops
from nicc.decoder import directional as d
from nicc.encoder.visual import difference_from
from nicc.ssimulacra2 import visual_distortion
from nicc.training.perceptual import Lpips

Array = np.ndarray
RIDGE = 1e-3
"""Of the curvature along every weight, added to it."""
TABLE = FILTER_STRENGTHS, FILTER_TEXTURES, FILTER_WEIGHTS
CHROMA_LIMIT = 3.0
"""The limit of the filter of chroma, by the root of the mean squared error of chroma at the rate point."""
CHROMA_STEP = 0.1
"""A weight of the filter of chroma that L-BFGS takes for one."""


@dataclass
class Example:
    """A crop as it was, ``(3, h, w)`` in 0..1, and as it is decoded at a rate point."""

    decoded: Tensor
    """``(3, h, w)``, unfiltered and unclipped."""
    features: Array
    """What the weights multiply, ``(n, 64, FILTER_WEIGHTS)`` of n blocks."""
    shares: Array
    """Of the entries of the table in the weights of a block, as `nicc.decoder.directional.directions` has them."""
    distortion: Callable[[Tensor], Tensor]
    """Of pixels ``(3, h, w)``, on the scale of the squared error."""
    unfiltered: float
    """The distortion without the filter."""
    importance: Array
    """By how much squared errors of luma count in every block, ``(n,)``."""
    chroma: Tensor
    """What the weights of chroma multiply, ``(CHROMA_DISTANCES, 3, h, w)``."""

    def filtered(self, weights: Array) -> Tensor:
        """The decoded pixels with the directional filter, ``(3, h, w)``."""
        by_block = self.shares @ weights.reshape(-1, FILTER_WEIGHTS)
        change = np.einsum("npf,nf->np", self.features, by_block, optimize=True)
        h, w = self.decoded.shape[1:]
        return self.decoded + torch.from_numpy(_image(change, h, w)).float() / 255

    def with_chroma(self, pixels: Tensor, weights: Tensor) -> Tensor:
        """Pixels ``(3, h, w)`` with the filter of chroma."""
        return pixels + torch.tensordot(weights.float(), self.chroma, 1)

    def gradient(self, pixels: Tensor) -> tuple[float, Array]:
        """The distortion of pixels, and its gradient by a level of luma ``(n, 64)``."""
        return _gradient(self.distortion, pixels)


def _gradient(distortion: Callable[[Tensor], Tensor], pixels: Tensor) -> tuple[float, Array]:
    """`Example.gradient` of a distortion."""
    pixels = pixels.clone().requires_grad_()
    value = distortion(pixels)
    value.backward()
    assert pixels.grad is not None
    return value.item(), _blocks(pixels.grad.sum(0).numpy() / 255)


def _blocks(plane: Array) -> Array:
    """``(h, w)`` as blocks ``(n, 64)``."""
    return ops.blocks(np.ascontiguousarray(plane), d.SIDE, 0).reshape(d.SIDE**2, -1).T.copy()


def _image(blocks: Array, h: int, w: int) -> Array:
    """Blocks ``(n, 64)`` as an image ``(h, w)``."""
    squares = blocks.T.reshape(d.SIDE, d.SIDE, -1)
    return ops.unblocked(squares, np.arange(len(blocks)), (h, w), 0).copy()


@dataclass
class Measure:
    """What a filter is fitted by: the squared error, a share of SSIMULACRA 2 in its place, and LPIPS beside both."""

    share: float = 0.0
    lpips: Lpips | None = None
    lpips_weight: float = 0.0

    def distortion(self, original: Tensor) -> Callable[[Tensor], Tensor]:
        """The distortion from an image ``(3, h, w)`` in 0..1, on the scale of the squared error."""
        difference = difference_from(original[None]) if self.share else None
        with torch.no_grad():
            features = self.lpips.features(original[None] * 2 - 1) if self.lpips else []

        def distortion(pixels: Tensor) -> Tensor:
            pixels = pixels.clamp(0, 1)
            found = (pixels - original).square().mean() * 255**2
            if difference:
                found = visual_distortion(found, difference(pixels[None])[0], self.share)
            if self.lpips:
                distance = self.lpips.between(features, self.lpips.features(pixels[None] * 2 - 1))[0]
                found = found + self.lpips_weight * distance
            return found

        return distortion


class Limits(NamedTuple):
    """Of both filters at a rate point, in levels."""

    luma: float
    chroma: float


def example(original: Tensor, around: Tensor, limits: Limits, measure: Measure) -> Example:
    """A crop ``(3, h, w)``, and what it is decoded to, channels last, with the filters' `MARGIN`."""
    around_luma, colours = chroma.parts(ops, around.numpy())
    luma, limit = networks.inside(around_luma[..., None], d.MARGIN - d.REACH)[..., 0], limits.luma
    by_chroma = [_chroma_feature(around_luma, colours, distance, limits) for distance in CHROMA_DISTANCES]
    blocks = ops.blocks(luma, d.SIDE, d.REACH).copy()
    direction, shares = d.directions(ops, d.inner(blocks), limit)
    features = np.empty((blocks.shape[-1], d.SIDE**2, FILTER_WEIGHTS), np.float32)
    for number, pairs in enumerate(d.neighbours()):
        here = direction == number
        parts = d.differences(ops, blocks[..., here], pairs, limit)
        features[here] = np.stack(parts).reshape(FILTER_WEIGHTS, d.SIDE**2, -1).T
    decoded = networks.inside(around, d.MARGIN).permute(2, 0, 1).contiguous()
    distortion = measure.distortion(original)
    unfiltered, gradient = _gradient(distortion, decoded)
    error = _blocks(d.inner(luma) - chroma.parts(ops, original.permute(1, 2, 0).numpy())[0])
    squares = np.square(error).sum(1)
    importance = np.maximum((error * gradient).sum(1), 0) / (2 * squares + 0.01 * squares.mean() + 1e-9)
    return Example(decoded, features, shares, distortion, unfiltered, importance, torch.from_numpy(np.stack(by_chroma)))


def _chroma_feature(luma: Array, colours: list[Array], distance: int, limits: Limits) -> Array:
    """What a weight of 1 at one distance would add to pixels, ``(3, h, w)``."""
    weights = [float(other == distance) for other in CHROMA_DISTANCES]
    there = chroma.ChromaFilter(weights, limits.chroma)
    return np.stack(chroma.changes(ops, there, luma, colours)) / np.float32(255)


def fitted(examples: list[Example], iterations: int) -> tuple[Array, float]:
    """Weights of the `TABLE`, and the mean distortion as a share of what it is without."""
    mean = float(np.mean([e.unfiltered for e in examples]))
    scale = [1 / (e.unfiltered + mean) for e in examples]
    at_first = sum(s * e.unfiltered for s, e in zip(scale, examples, strict=True))
    size = FILTER_STRENGTHS * FILTER_TEXTURES * FILTER_WEIGHTS
    curvature = np.zeros((size, size))
    for s, e in zip(scale, examples, strict=True):
        products = np.einsum("npf,npg,n->nfg", e.features, e.features, 2 * s * e.importance, optimize=True)
        part = np.einsum("ni,nj,nfg->ifjg", e.shares, e.shares, products, optimize=True)
        curvature += part.reshape(size, size)
    curvature += np.diag(RIDGE * (np.diag(curvature) + 1e-3 * np.trace(curvature) / size) + 1e-12)
    values, vectors = np.linalg.eigh(curvature)
    unscaled = vectors / np.sqrt(values)
    """From coordinates in which the curvature is the same along all of them."""

    def cost(x: Array) -> tuple[float, Array]:
        weights = (unscaled @ x).reshape(-1, FILTER_WEIGHTS)
        total, gradient = 0.0, np.zeros_like(weights)
        for s, e in zip(scale, examples, strict=True):
            value, by_luma = e.gradient(e.filtered(weights))
            total += s * value
            gradient += s * e.shares.T @ np.einsum("npf,np->nf", e.features, by_luma, optimize=True)
        return total, gradient.ravel() @ unscaled

    found = minimize(cost, np.zeros(size), jac=True, method="L-BFGS-B", options={"maxiter": iterations})
    return (unscaled @ found.x).reshape(TABLE), float(found.fun) / at_first


def fitted_chroma(examples: list[Example], weights: Array, iterations: int) -> tuple[Array, float]:
    """Weights of the filter of chroma behind a directional one, and the distortion as a share of what that leaves."""
    sharper = [e.filtered(weights) for e in examples]
    at_first = [e.distortion(pixels).item() for e, pixels in zip(examples, sharper, strict=True)]
    mean = float(np.mean(at_first))

    def cost(x: Array) -> tuple[float, Array]:
        total, gradient = 0.0, np.zeros(len(x))
        for e, pixels, first in zip(examples, sharper, at_first, strict=True):
            at = torch.tensor(CHROMA_STEP * x, requires_grad=True)
            value = e.distortion(e.with_chroma(pixels, at)) / (first + mean)
            value.backward()
            assert at.grad is not None
            total += value.item()
            gradient += CHROMA_STEP * at.grad.numpy()
        return total, gradient

    found = minimize(
        cost, np.zeros(len(CHROMA_DISTANCES)), jac=True, method="L-BFGS-B", options={"maxiter": iterations}
    )
    return CHROMA_STEP * found.x, float(found.fun) / sum(first / (first + mean) for first in at_first)
