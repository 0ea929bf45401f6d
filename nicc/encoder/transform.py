"""The sender's half of a shipped model: pixels to latents and hyper-latents, in NumPy.

The ``patch`` analysis needs no PyTorch; larger analyses, and CUDA, go by `nicc.encoder.modules`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from nicc.architecture import LATENTS_PER_HYPER, PIXELS_PER_LATENT
from nicc.decoder import ops
from nicc.encoder import analysis
from nicc.errors import ModelError, needs
from nicc.model import AnyModel, Model, read_part
from nicc.threads import one_blas_thread, pool

BAND_POSITIONS = 1024
"""About as many latents are analysed at a time, in every thread, so that memory stays bounded."""
LEAST_ROWS = 16
"""Fewest rows of a band, unless the image has fewer for each: the rows around a band are analysed twice."""
LEAST_BANDS = 2
"""Fewest bands of an image that has the rows for them; not the number of processors: files must not depend on it."""
LINEAR_POSITIONS = 512
"""Latents at a time of the linear transform, whose patches are large."""
SCALE_SUFFIX = ".scale"
"""Arrays of 8-bit integers have their scale per output under their name and this."""


Values = TypeVar("Values")


class Latents(NamedTuple):
    """Latents ``(h, w, C)`` and hyper-latents in nats ``(zh, zw, Cz)``, before rounding."""

    y: np.ndarray
    z: np.ndarray


class Transform(Protocol):
    """A model's analysis and hyper-analysis."""

    def __call__(self, pixels: np.ndarray) -> Latents:
        """Latents of uint8 pixels ``(height, width, 3)``.

        The image is mirrored up to whole latents, the latents repeated up to whole hyper-latents.
        """


def encoder_arrays_of(model: AnyModel) -> dict[str, np.ndarray]:
    """The stored arrays of the sender as float32, 8-bit ones scaled. Raises `ModelError`."""
    if model.folder is None:
        raise ModelError(f"model {model.name} has no encoder side")
    arrays = read_part(model.folder, model.description, "encoder")
    return unscaled(arrays)


def unscaled(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Stored arrays as float32, 8-bit ones times their scale per output."""
    state = {}
    for name, array in arrays.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        state[name] = array.astype(np.float32)
        if array.dtype == np.int8:
            state[name] *= arrays[name + SCALE_SUFFIX].reshape(-1, *[1] * (array.ndim - 1))
    return state


def part_of(state: dict[str, Values], prefix: str) -> dict[str, Values]:
    """The arrays of one module, without its prefix."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def bands(rows: int, columns: int) -> list[tuple[int, int]]:
    """First and last + 1 row of latents of each band, whole hyper-latents high."""
    per_band = min(max(BAND_POSITIONS // columns, LEAST_ROWS), -(-rows // LEAST_BANDS))
    per_band = -(-per_band // LATENTS_PER_HYPER) * LATENTS_PER_HYPER
    return [(first, min(rows, first + per_band)) for first in range(0, rows, per_band)]


class PatchTransform:
    """The ``patch`` analysis with shipped weights, in bands on all threads."""

    def __init__(self, model: Model) -> None:
        state = encoder_arrays_of(model)
        self.depth, self.halo = model.architecture.analysis_depth, analysis.reach(model.architecture)
        self.p = analysis.analysis_matrices(ops, part_of(state, "analysis."), self.depth)
        self.hyper = analysis.hyper_matrices(ops, part_of(state, "hyper_analysis."))
        self.offset, self.deviation = state["hyper_offset"], model.arrays["deviation"]

    @one_blas_thread()
    def __call__(self, pixels: np.ndarray) -> Latents:
        rows, columns = (-(-n // PIXELS_PER_LATENT) for n in pixels.shape[:2])
        y = np.empty((rows, columns, len(self.deviation)), np.float32)
        z_shape = tuple(-(-n // LATENTS_PER_HYPER) for n in (rows, columns))
        z = np.empty((*z_shape, len(self.offset)), np.float32)

        def work(band: tuple[int, int]) -> None:
            first, last = band
            y[first:last] = self._latents(pixels, rows, columns, first, last)
            here = slice(first // LATENTS_PER_HYPER, -(-last // LATENTS_PER_HYPER))
            z[here] = self._hyper_latents(y[first:last])

        for _ in pool().map(work, bands(rows, columns)):
            pass
        return Latents(y, z)

    def _latents(self, pixels: np.ndarray, rows: int, columns: int, first: int, last: int) -> np.ndarray:
        """Rows of latents from their pixels and those around them."""
        begin, end = max(0, first - self.halo), min(rows, last + self.halo)
        size = PIXELS_PER_LATENT
        wide = mirrored(pixels, begin * size, end * size, columns * size)
        y = analysis.network_latents(ops, self.p, wide, self.depth)[first - begin : last - begin]
        at_once = max(1, LINEAR_POSITIONS // columns)
        for top in range(first, last, at_once):
            bottom = min(last, top + at_once)
            margin = analysis.LINEAR_MARGIN
            around = mirrored(pixels, top * size - margin, bottom * size + margin, columns * size, rows * size, margin)
            y[top - first : bottom - first] += analysis.linear_latents(ops, self.p, around)
        return y

    def _hyper_latents(self, y: np.ndarray) -> np.ndarray:
        h, w, _ = y.shape
        padded = np.pad(y / self.deviation, ((0, -h % LATENTS_PER_HYPER), (0, -w % LATENTS_PER_HYPER), (0, 0)), "edge")
        return analysis.hyper_latents(ops, self.hyper, padded) - self.offset


def mirrored(
    pixels: np.ndarray, top: int, bottom: int, width: int, height: int | None = None, margin: int = 0
) -> np.ndarray:
    """Rows ``top``..``bottom`` of an image as float32 in 0..1, mirrored beyond its borders.

    First the image is mirrored up to ``height`` and ``width``, then by ``margin`` on every side.
    """
    height = bottom if height is None else height
    rows = _reflected(_reflected(np.arange(top, bottom), height), len(pixels))
    columns = _reflected(_reflected(np.arange(-margin, width + margin), width), pixels.shape[1])
    return pixels[rows][:, columns].astype(np.float32) / 255


def _reflected(index: np.ndarray, n: int) -> np.ndarray:
    """Indices into ``n`` samples that are mirrored, borders repeated, to and fro."""
    index = index % (2 * n)
    return np.minimum(index, 2 * n - 1 - index)


@lru_cache(maxsize=4)
def transform_of(model: Model, device: str = "cpu") -> Transform:
    """The transform of a loaded model, cached. Raises `NiccError` if it needs PyTorch and that is missing."""
    if model.architecture.analysis == "patch" and device == "cpu":
        return PatchTransform(model)
    with needs("iterate", f"the analysis {model.architecture.analysis} on {device}"):
        from nicc.encoder.torch_transform import TorchTransform
    return TorchTransform(model, device)
