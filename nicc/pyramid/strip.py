"""One strip of an image in fitting: the kernels put together, and the memory that they work in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from nicc.pyramid import kernels
from nicc.pyramid.kernels import BANDS, LANES, band_count
from nicc.pyramid.layout import GRIDS, REACH, grid_shapes, neighbour_offsets
from nicc.pyramid.networks import Networks

LOG2_E = 1 / math.log(2)
F = np.float32
BETAS = (0.6, 0.98)
"""Of Adam on the latents: what a rounding does to the others changes at once, and gradients shrink by orders of
magnitude, which a longer memory would not forget."""

Distortion = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""Of a decoded image ``(3, h, w)`` around -0.5..0.5: the sum over pixels, and its gradient."""


class SquaredError:
    """To an original ``(3, h, w)``: 0..255 scale, mean of the colours; unclipped, so that no gradient is lost."""

    def __init__(self, original: np.ndarray) -> None:
        self.original = original

    def __call__(self, decoded: np.ndarray) -> tuple[float, np.ndarray]:
        error = decoded - self.original
        weight = F(65025 / 3)
        return float(np.vdot(error, error)) * float(weight), error * (2 * weight)


class Pasted:
    """A distortion of an image over which some pixels are pasted: these cost nothing, and ask for nothing."""

    def __init__(self, distortion: Distortion, original: np.ndarray, pasted: np.ndarray) -> None:
        """``pasted`` says which pixels these are, bool ``(h, w)``; in ``original`` ``(3, h, w)`` they are as pasted."""
        self.distortion, self.original, self.pasted = distortion, original, pasted
        self.left = (~pasted).astype(F)

    def __call__(self, decoded: np.ndarray) -> tuple[float, np.ndarray]:
        found, gradient = self.distortion(np.where(self.pasted, self.original, decoded))
        return found, gradient * self.left


def planes(pixels: np.ndarray) -> np.ndarray:
    """uint8 ``(h, w, 3)`` as float32 ``(3, h, w)`` in -0.5..0.5."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(F) / 255 - F(0.5)


def four_rows(a: np.ndarray) -> np.ndarray:
    return np.concatenate([a, np.zeros((4 - len(a), *a.shape[1:]), F)])


class Memory:
    """What a strip of one size is decoded, and its gradients computed, in."""

    def __init__(self, height: int, width: int) -> None:
        self.shapes = grid_shapes(height, width)
        count = sum(h * w for h, w in self.shapes)
        self.q, self.slope, self.gq = np.zeros(count, F), np.zeros(count, F), np.zeros(count, F)
        self.padded = [np.zeros((REACH + h, w + 2 * REACH + LANES), F) for h, w in self.shapes]
        self.coarse = [np.zeros((h + 2, w + 2 + LANES), F) for h, w in self.shapes]
        self.stacks = [np.zeros((GRIDS - k, *s), F) for k, s in enumerate(self.shapes)]
        self.gstacks = [np.zeros_like(s) for s in self.stacks]
        self.rows = [np.zeros((GRIDS - k - 1, self.shapes[k][0], self.shapes[k + 1][1]), F) for k in range(GRIDS - 1)]
        self.grows = [np.zeros_like(r) for r in self.rows]
        self.out = np.zeros((4, height, width), F)
        self.first = np.zeros((3, height + 2, width + 2), F)
        self.second = np.zeros((3, height + 2, width + 2), F)
        self.image = np.zeros((3, height, width), F)
        self.work = np.zeros((3, height, width), F)
        self.gwide = np.zeros((3, height + 4, width + 4), F)
        self.gfiltered = np.zeros((3, height + 2, width + 2), F)


class Strip:
    """One strip of an image in fitting: its latents, and what moves them.

    Strips of an image share memory: what a call of `synthesise`, `synthesise_back` or `bits` leaves in it is the
    strip's until the next of another one.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        distortion: Callable[[np.ndarray], Distortion] = SquaredError,
        memory: dict[tuple[int, int], Memory] | None = None,
    ) -> None:
        """``pixels`` uint8 ``(h, w, 3)``; ``distortion`` is made of their `planes`, `target`; ``memory`` by size."""
        self.height, self.width, _ = pixels.shape
        self.target = planes(pixels)
        self.distortion = distortion(self.target)
        memory = {} if memory is None else memory
        size = self.height, self.width
        if size not in memory:
            memory[size] = Memory(*size)
        self.memory = memory[size]
        self.shapes = self.memory.shapes
        self.count = len(self.memory.q)
        starts = np.cumsum([0, *(h * w for h, w in self.shapes)])
        self.slices = [slice(a, b) for a, b in itertools.pairwise(starts)]
        self.y = np.zeros(self.count, F)
        self.m, self.v, self.steps = np.zeros(self.count, F), np.zeros(self.count, F), 0

    def restart(self) -> None:
        """Forgets the moments of the latents' gradients."""
        self.m[:], self.v[:], self.steps = 0, 0, 0

    def move(self, rate: float) -> None:
        """A step of Adam on the latents, by the gradients in `Memory.gq`."""
        self.steps += 1
        kernels.adam(self.y, self.memory.gq, self.memory.slope, self.m, self.v, rate, self.steps, BETAS)

    def grids(self, flat: np.ndarray) -> list[np.ndarray]:
        return [flat[s].reshape(shape) for s, shape in zip(self.slices, self.shapes, strict=True)]

    def synthesise(self, net: Networks, q: np.ndarray) -> np.ndarray:
        """The image ``(3, h, w)`` around -0.5..0.5 of latents."""
        memory = self.memory
        grids = self.grids(q)
        memory.stacks[-1][0] = grids[-1]
        for k in range(GRIDS - 2, -1, -1):
            memory.stacks[k][0] = grids[k]
            kernels.upsample_rows(memory.stacks[k + 1], net["taps"][k], memory.rows[k])
            kernels.upsample_columns(memory.rows[k], net["taps"][k], memory.stacks[k][1:])
        pixels = self.height * self.width
        kernels.colour(
            memory.stacks[0].reshape(GRIDS, pixels),
            net["colour_in"],
            net["colour_bias"],
            four_rows(net["colour_out"]),
            four_rows(net["base"]),
            four_rows(net["colour_linear"]),
            memory.out.reshape(4, pixels),
        )
        memory.first[:, 1:-1, 1:-1] = memory.out[:3]
        edges(memory.first)
        kernels.filter3(memory.first, net["filter1"].reshape(3, 3, 9), net["filter1_bias"], memory.second, 1, True)
        edges(memory.second)
        kernels.filter3(memory.second, net["filter2"].reshape(3, 3, 9), net["filter2_bias"], memory.image, 0, False)
        memory.image += memory.out[:3]
        return memory.image

    def synthesise_back(self, net: Networks, g: np.ndarray, grads: Networks) -> None:
        """Adds the gradients for ``g`` ``(3, h, w)`` to the networks', writes those of the latents to `Memory.gq`."""
        memory = self.memory
        gh = self._filter_back(memory.second, g, "filter2", net, grads)
        gh *= memory.second[:, 1:-1, 1:-1] > 0
        np.add(g, self._filter_back(memory.first, gh, "filter1", net, grads), out=memory.work)
        pixels = self.height * self.width
        names = ("colour_in", "colour_bias", "colour_out", "base", "colour_linear")
        wide = [np.zeros((BANDS, *(four_rows(net[n]) if len(net[n]) == 3 else net[n]).shape), F) for n in names]
        kernels.colour_back(
            memory.stacks[0].reshape(GRIDS, pixels),
            net["colour_in"],
            net["colour_bias"],
            four_rows(net["colour_out"]),
            four_rows(net["colour_linear"]),
            memory.work.reshape(3, pixels),
            memory.gstacks[0].reshape(GRIDS, pixels),
            tuple(wide),
        )
        for name, part in zip(names, wide, strict=True):
            grads[name][:] += part.sum(0)[: len(net[name])]
        gq = self.grids(memory.gq)
        for k in range(GRIDS - 1):
            gq[k][:] = memory.gstacks[k][0]
            gt = np.zeros((BANDS, 4), F)
            kernels.upsample_columns_back(memory.rows[k], net["taps"][k], memory.gstacks[k][1:], memory.grows[k], gt)
            kernels.upsample_rows_back(memory.stacks[k + 1], net["taps"][k], memory.grows[k], memory.gstacks[k + 1], gt)
            grads["taps"][k] += gt.sum(0)
        gq[-1][:] = memory.gstacks[-1][0]

    def _filter_back(self, padded: np.ndarray, g: np.ndarray, name: str, net: Networks, grads: Networks) -> np.ndarray:
        """The gradient of `kernels.filter3` for its input before padding; adds those of its parameters."""
        memory = self.memory
        bands = band_count(self.height)
        gw, gb = np.zeros((bands, 3, 3, 3, 3), F), np.zeros((bands, 3), F)
        memory.gwide[:, 2:-2, 2:-2] = g
        kernels.filter3_back(padded, memory.gwide, gw, gb)
        grads[name][:] += gw.sum(0)
        grads[f"{name}_bias"][:] += gb.sum(0)
        flipped = np.ascontiguousarray(net[name][:, :, ::-1, ::-1].transpose(1, 0, 2, 3)).reshape(3, 3, 9)
        kernels.filter3(memory.gwide, flipped, np.zeros(3, F), memory.gfiltered, 0, False)
        return fold(memory.gfiltered)

    def bits(self, net: Networks, q: np.ndarray, grads: Networks | None = None) -> float:
        """Bits of latents; adds their gradients to `Memory.gq` and the networks'."""
        grads = grads or Networks(net.arch)
        for k, (grid, (_, w)) in enumerate(zip(self.grids(q), self.shapes, strict=True)):
            self.memory.padded[k][REACH:, REACH : REACH + w] = grid
            if k:
                self.memory.coarse[k][1:-1, 1 : w + 1] = grid
        return LOG2_E * sum(self._grid_bits(net, k, grads) for k in range(GRIDS))

    def _grid_bits(self, net: Networks, k: int, grads: Networks) -> float:
        """Nats of one grid."""
        memory = self.memory
        hidden = net.arch.context_hidden
        h, w = self.shapes[k]
        pairs, wide = (h + 1) // 2, (w + 1) // 2
        base = np.empty((hidden + 2, pairs, wide), F)
        if k + 1 < GRIDS:
            kernels.coarse_forward(memory.coarse[k + 1], net["coarse"], net["bias"][k], base)
        else:
            base[:] = net["bias"][k][:, None, None]
        gbase = np.empty_like(base)
        bands = band_count(pairs)
        names = ("near", "middle", "middle_bias", "out", "skip")
        weights = tuple(four_rows(net[n]) if n in ("out", "skip") else net[n] for n in names)
        parts = tuple(np.zeros((bands, *a.shape), F) for a in (*weights, net["middle_bias"]))
        gpadded = np.zeros((bands, 2 * (-(-pairs // bands)) + REACH, w + 2 * REACH + LANES), F)
        nats = np.zeros(bands)
        dy, dx = self.offsets(net.arch.neighbours)
        kernels.context(memory.padded[k], base, (REACH, dy, dx), weights, parts, gbase, gpadded, nats)
        for name, part in zip(names, parts[:-1], strict=True):
            grads[name][:] += part.sum(0)[: len(net[name])] * F(LOG2_E)
        gq = self.grids(memory.gq)
        for band in range(bands):
            first, last = 2 * (band * pairs // bands), min(h, 2 * ((band + 1) * pairs // bands))
            above = min(first, REACH)
            part = gpadded[band, REACH - above : last - first + REACH, REACH : REACH + w]
            gq[k][first - above : last] += F(LOG2_E) * part
        if k + 1 < GRIDS:
            self._coarse_back(net, k, gbase, grads)
        else:
            grads["bias"][k] += gbase.sum((1, 2)) * F(LOG2_E)
        return float(nats.sum())

    def _coarse_back(self, net: Networks, k: int, gbase: np.ndarray, grads: Networks) -> None:
        """The gradients of what grid ``k`` gets from the coarser one."""
        units, h, w = gbase.shape
        bands = band_count(h)
        gw, gb = np.zeros((bands, units, 9), F), np.zeros((bands, units), F)
        gp = np.zeros((bands, -(-h // bands) + 2, w + 2 + LANES), F)
        kernels.coarse_backward(self.memory.coarse[k + 1], net["coarse"], gbase, gw, gb, gp)
        grads["coarse"][:] += gw.sum(0) * F(LOG2_E)
        grads["bias"][k] += gb.sum(0) * F(LOG2_E)
        whole = np.zeros((h + 2, w + 2), F)
        for band in range(bands):
            first, last = band * h // bands, (band + 1) * h // bands
            whole[first : last + 2] += gp[band, : last - first + 2, : w + 2]
        self.grids(self.memory.gq)[k + 1] += F(LOG2_E) * whole[1:-1, 1:-1]

    @staticmethod
    @lru_cache
    def offsets(neighbours: int) -> tuple[np.ndarray, np.ndarray]:
        """dy and dx of the positions that the context network sees."""
        dy, dx = np.array(neighbour_offsets(neighbours)).T
        return np.ascontiguousarray(dy), np.ascontiguousarray(dx)


def edges(p: np.ndarray) -> None:
    """Repeats the edges of an array padded by 1."""
    p[..., 0, 1:-1], p[..., -1, 1:-1] = p[..., 1, 1:-1], p[..., -2, 1:-1]
    p[..., 0], p[..., -1] = p[..., 1], p[..., -2]


def fold(g: np.ndarray) -> np.ndarray:
    """The gradient of what `edges` repeats."""
    g[..., 1] += g[..., 0]
    g[..., -2] += g[..., -1]
    g[..., 1, :] += g[..., 0, :]
    g[..., -2, :] += g[..., -1, :]
    return g[..., 1:-1, 1:-1]
