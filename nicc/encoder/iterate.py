"""Iterating on a picture's latents, one group of latent rows after another (PyTorch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from nicc.architecture import HYPER_UNIT, LATENTS_PER_HYPER, PIXELS_PER_LATENT
from nicc.container import Header
from nicc.decoder.hyper import dequantise_z
from nicc.decoder.latents import Visited, walk
from nicc.encoder.quantise import NEAREST, Quantiser, quantise_z, residual
from nicc.encoder.receiver import receiver_of
from nicc.encoder.settings import Report, Settings, State
from nicc.encoder.sga import Interrupted, Problem, Surroundings, optimise, reach
from nicc.encoder.transform import Latents
from nicc.errors import NiccError
from nicc.geometry import Grid
from nicc.graphics import Stored
from nicc.images import Picture
from nicc.model import Model

START_INSIDE = 0.4
"""At the start, latents lie at most this far from the symbol that they are rounded to without gradient steps."""


def choose_device(name: str) -> str:
    """``auto`` is a GPU if there is one. Raises `NiccError` for one that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise NiccError("no CUDA device found; use --device cpu")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def starting_point(model: Model, header: Header, analysed: Latents) -> Latents:
    """Latents moved into the intervals of the symbols that they are rounded to without gradient steps."""
    model, grid, r = model.for_file(header), Grid.of(header), header.rate_point
    z_int = dequantise_z(model, r, quantise_z(model, r, analysed.z))
    y = np.empty_like(analysed.y)
    for rows in grid.row_groups():
        y[slice(*rows)] = _started_rows(model, r, z_int, analysed.y[slice(*rows)], rows)
    return Latents(y, analysed.z)


def _started_rows(model: Model, rate_point: int, z: np.ndarray, y: np.ndarray, rows: tuple[int, int]) -> np.ndarray:
    """`starting_point` of the latents ``(h, w, C)`` of one group of rows; ``z`` as `walk` takes them."""
    gain = model.params["gain"][rate_point]
    v = (y * gain).reshape(-1, y.shape[-1])
    moved, quantise = v.copy(), Quantiser(model, rate_point)

    def visit(here: Visited) -> np.ndarray:
        x = residual(v, here)
        s = quantise(x, here.rows, here.channels)
        inside = here.means + s + np.clip(x - s, -START_INSIDE, START_INSIDE)
        moved[here.at, here.channels] = inside / here.factor
        return s

    walk(model, rate_point, z, rows, y.shape[1], visit)
    return moved.reshape(y.shape) / gain


class Kept(Exception):
    """An interrupt after which the latents reached so far are encoded."""

    def __init__(self, latents: list[Latents]) -> None:
        super().__init__()
        self.latents = latents


def _decoded_rows(
    model: Model, header: Header, latents: Latents, rows: tuple[int, int], stored: Stored | None
) -> np.ndarray:
    """Decoded latents of one group of rows, every symbol rounded to the nearest."""
    r = header.rate_point
    z_int = dequantise_z(model, r, quantise_z(model, r, latents.z))
    v = (latents.y[slice(*rows)] * model.params["gain"][r]).reshape(-1, latents.y.shape[-1])
    quantise = Quantiser(model, r, NEAREST)

    def visit(here: Visited) -> np.ndarray:
        return quantise.symbols(v, here)

    return walk(model, r, z_int, rows, latents.y.shape[1], visit, stored.latents if stored else None)[1]


class Iteration:
    """Optimises the latents of pictures of one size, one group of rows after another.

    Every group is iterated beside its neighbours as they are by then. Groups share no context, so
    memory is bounded by a group: 1024 rows of pixels, of all pictures.
    """

    def __init__(
        self,
        model: Model,
        header: Header,
        pictures: Sequence[Picture],
        settings: Settings,
        starts: Sequence[Latents],
        report: Report | None,
    ) -> None:
        self.model, self.header, self.pictures = model.for_file(header), header, pictures
        self.settings, self.report = settings, report
        self.receiver = receiver_of(self.model, settings.device)
        self.y, self.z = (np.stack(parts) for parts in zip(*starts, strict=True))
        self.bounds = list(Grid.of(header).row_groups())
        self.stored = [Stored.of(header, p.extras) for p in pictures]
        self.decoded: dict[int, np.ndarray] = {}
        """Decoded latents of groups that a neighbour needs."""

    def run(self) -> list[Latents]:
        """What is reached after all steps. Raises `Kept` with what an interrupt left, or `KeyboardInterrupt`."""
        stopped = False
        for group, (first, last) in enumerate(self.bounds):
            problem, z_rows = self._problem(group), _z_rows(first, last)
            gain = problem.rate.gain
            v = self._tensor(self.y[:, first:last]) * gain
            z = self._tensor(self.z[:, z_rows]) / problem.z_steps
            try:
                v, z = optimise(problem, v, z, self.settings.annealing, partial(self._told, group))
            except Interrupted as e:
                if not self.settings.keep_on_interrupt:
                    raise KeyboardInterrupt from None
                v, z, stopped = e.v, e.z, True
            self.y[:, first:last] = (v / gain).cpu().numpy()
            self.z[:, z_rows] = (z.round() * problem.z_steps).cpu().numpy()
            if stopped:
                break
            self.decoded.pop(group, None)
            self.decoded.pop(group - 1, None)
        reached = [Latents(*yz) for yz in zip(self.y, self.z, strict=True)]
        if stopped:
            raise Kept(reached)
        return reached

    def _told(self, group: int, state: State) -> None:
        steps = self.settings.annealing.steps
        if self.report:
            self.report(state._replace(step=group * steps + state.step), steps * len(self.bounds))

    def _problem(self, group: int) -> Problem:
        """A group beside what its neighbours decode to now."""
        (first, last), beyond = self.bounds[group], reach(self.model.architecture)
        above, below, z_rows = group > 0, group < len(self.bounds) - 1, _z_rows(first, last)
        no_y = self.y[:, :0, :, : self.receiver.active_channels(self.settings.rate_point)]
        around = Surroundings(
            self._tensor(self._decoded(group - 1)[:, -beyond:] if above else no_y),
            self._tensor(self._decoded(group + 1)[:, :beyond] if below else no_y),
            self._tensor(self._nats(self.z[:, z_rows.start - 1 : z_rows.start] if above else self.z[:, :0])),
            self._tensor(self._nats(self.z[:, z_rows.stop : z_rows.stop + 1] if below else self.z[:, :0])),
        )
        weight = self.settings.weight(self.model.architecture)
        pixels = self._pixels(first - above, last + below)
        problem = Problem(self.receiver, pixels, self.settings.rate_point, weight, around)
        if not any(self.stored):
            return problem
        coded = np.stack(
            [~s.latents[first:last] if s else np.ones_like(self.y[0, first:last, :, 0]) for s in self.stored]
        )
        seen = np.ones((len(pixels), 1, *pixels.shape[2:]), bool)
        for mask, s in zip(seen[:, 0], self.stored, strict=True):
            if s:
                mask[:] = ~s.pixels(first - above, last + below)[: mask.shape[0], : mask.shape[1]]
        device = self.receiver.device
        return replace(problem, coded=self._tensor(coded[..., None]), seen=torch.from_numpy(seen).to(device))

    def _decoded(self, group: int) -> np.ndarray:
        if group not in self.decoded:
            latents = [Latents(*yz) for yz in zip(self.y, self.z, strict=True)]
            rows = [
                _decoded_rows(self.model, self.header, one, self.bounds[group], stored)
                for one, stored in zip(latents, self.stored, strict=True)
            ]
            self.decoded[group] = np.stack(rows)
        return self.decoded[group]

    def _nats(self, z: np.ndarray) -> np.ndarray:
        """Hyper-latents as the receiver gets them."""
        r = self.settings.rate_point
        return dequantise_z(self.model, r, quantise_z(self.model, r, z)).astype(np.float32) / HYPER_UNIT

    def _pixels(self, first: int, last: int) -> Tensor:
        """Pixels ``(N, 3, H, W)`` in 0..1 of latent rows."""
        rows = np.stack([p.pixels[first * PIXELS_PER_LATENT : last * PIXELS_PER_LATENT] for p in self.pictures])
        return torch.tensor(rows, device=self.receiver.device).permute(0, 3, 1, 2).float() / 255

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.tensor(np.ascontiguousarray(array, np.float32), device=self.receiver.device)


def _z_rows(first: int, last: int) -> slice:
    """Rows of the hyper-latents of latent rows."""
    return slice(first // LATENTS_PER_HYPER, -(-last // LATENTS_PER_HYPER))
