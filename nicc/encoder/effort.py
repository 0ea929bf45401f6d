"""Encoding with effort: the plain encoding, and one that iterates and must be better to be kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nicc.architecture import HYPER_UNIT, LATENTS_PER_HYPER, PIXELS_PER_LATENT, Architecture
from nicc.container import Header, pack
from nicc.decoder.decode import decode_pixels
from nicc.decoder.latents import Grid, Visited, dequantise_z, walk
from nicc.encoder.encode import (
    DISTORTION_WEIGHT,
    NEAREST,
    Encoding,
    Quantiser,
    encode_latents,
    quantise_z,
    residual,
)
from nicc.encoder.iterative import (
    Diverged,
    Interrupted,
    Problem,
    Schedule,
    State,
    Surroundings,
    optimise,
    reach,
)
from nicc.encoder.receiver import Receiver, receiver_of
from nicc.encoder.transform import transform_of
from nicc.errors import ModelError, NiccError
from nicc.images import Picture
from nicc.model import Model
from nicc.options import DEVICES

START_INSIDE = 0.4
"""At the start, latents lie at most this far from the symbol that the plain encoder would write."""

INTERRUPTED = "interrupted; the best so far is written"
NOT_LOWER = "iterating did not lower the cost; the plain encoding is written"

Report = Callable[[State, int], None]
"""Called after each step with its state and the number of steps in all."""


@dataclass(frozen=True)
class Settings:
    """How to encode one picture.

    ``lagrangian`` replaces the rate point's weight of the mean squared error; ``keep_on_interrupt``
    makes an interrupt end the iterations and not the encoding.
    """

    rate_point: int
    schedule: Schedule
    beta: float = 0.0
    device: str = "cpu"
    lagrangian: float | None = None
    keep_on_interrupt: bool = False

    def weight(self, arch: Architecture) -> float:
        """Weight of the distortion against bits per pixel."""
        return self.lagrangian if self.lagrangian is not None else arch.rate_lambda(self.rate_point)


def choose_device(name: str) -> str:
    """``auto`` is a GPU if there is one. Raises `NiccError` for one that is not there."""
    if name not in DEVICES:
        raise NiccError(f"device {name!r} is not {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise NiccError("no CUDA device found; use --device cpu")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


class Latents(NamedTuple):
    """Latents ``(h, w, C)`` and hyper-latents in nats ``(zh, zw, Cz)``, before rounding."""

    y: np.ndarray
    z: np.ndarray


@dataclass
class Result:
    """An encoding, and what it costs when it is decoded again.

    ``notes`` say what a user should know, ``latents`` are those that an iteration reached.
    """

    model: Model
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
    def mse(self) -> float:
        """Mean squared error on the 0..255 scale of the pixels as a receiver gets them."""
        error = self.picture.pixels.astype(np.float32) - decode_pixels(self.encoding.container, self.model, beta=0)
        return float(np.mean(np.square(error), dtype=np.float64))

    def rounded_by(self, distortion_weight: float) -> Result:
        """The latents that were reached, rounded anew, by another weight of distortion against bits."""
        assert self.latents is not None
        header, extras = self.encoding.container.header, self.picture.extras
        encoding = encode_latents(self.model, header, *self.latents, extras, distortion_weight)
        return replace(self, encoding=encoding)

    @property
    def psnr(self) -> float:
        return float(10 * np.log10(255**2 / self.mse)) if self.mse else 100.0

    @property
    def cost(self) -> float:
        """Bits + lambda * squared error, per pixel."""
        pixels = self.picture.pixels.shape[0] * self.picture.pixels.shape[1]
        return len(self.data) * 8 / pixels + self.settings.weight(self.model.architecture) * self.mse


def encode(
    model: Model,
    picture: Picture,
    settings: Settings,
    report: Report | None = None,
    start: Latents | None = None,
    analysed: Latents | None = None,
) -> Result:
    """Encodes a picture; the iterative encoding is kept only if its measured cost is lower.

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


def _encode(
    model: Model,
    pictures: Sequence[Picture],
    settings: Settings,
    report: Report | None,
    starts: Sequence[Latents | None],
    analysed: Sequence[Latents | None],
) -> list[Result]:
    # the plain encoder weighs distortion for the rate point's own lambda
    rounding = (
        DISTORTION_WEIGHT * settings.weight(model.architecture) / model.architecture.rate_lambda(settings.rate_point)
    )

    def coded(picture: Picture, latents: Latents, weight: float) -> Result:
        encoding = encode_latents(model, _header(model, picture, settings), *latents, picture.extras, weight)
        return Result(model, picture, settings, encoding)

    found = [a or analyse(model, p, settings) for p, a in zip(pictures, analysed, strict=True)]
    plain = [coded(p, a, rounding) for p, a in zip(pictures, found, strict=True)]
    if not settings.schedule.steps:
        return plain
    note: tuple[str, ...] = ()
    try:
        begin = [
            s or _starting_point(model, _header(model, p, settings), a)
            for p, s, a in zip(pictures, starts, found, strict=True)
        ]
        reached = _iterate(model, pictures, settings, begin, report)
    except Diverged as e:
        return [replace(p, notes=(f"{e}; the plain encoding is written",)) for p in plain]
    except _Kept as e:
        reached = e.latents
        note = (INTERRUPTED,)
    results = []
    for picture, latents, simple in zip(pictures, reached, plain, strict=True):
        best = min((coded(picture, latents, weight) for weight in (NEAREST, 3 * rounding)), key=lambda c: c.cost)
        if best.cost < simple.cost:
            best.plain_cost, best.notes = simple.cost, note
        else:
            best, best.notes = simple, (*note, NOT_LOWER)
        best.latents = latents
        results.append(best)
    return results


def analyse(model: Model, picture: Picture, settings: Settings) -> Latents:
    """The analysis transform's latents, the same at every rate point."""
    return Latents(*transform_of(model, settings.device)(picture.pixels))


def _header(model: Model, picture: Picture, settings: Settings) -> Header:
    if settings.beta and not model.has_realism:
        raise ModelError(f"model {model.name} has no realism head; encode with beta 0")
    height, width, _ = picture.pixels.shape
    return Header(model.code, model.fingerprint, width, height, settings.rate_point, settings.beta, picture.grey)


def _starting_point(model: Model, header: Header, analysed: Latents) -> Latents:
    """Latents moved into the intervals of the symbols that the plain encoder writes."""
    grid, r = Grid.of(header), header.rate_point
    z_int = dequantise_z(model, r, quantise_z(model, r, analysed.z))
    quantise = Quantiser(model)
    gain = model.params["gain"][r]
    y = np.empty_like(analysed.y)
    for first, last in grid.row_groups():
        v = (analysed.y[first:last] * gain).reshape(-1, y.shape[-1])
        moved = v.copy()

        def visit(here: Visited) -> np.ndarray:
            x = residual(v, here)  # noqa: B023
            s = quantise(x, here.rows)
            inside = here.means + s + np.clip(x - s, -START_INSIDE, START_INSIDE)
            moved[here.at, here.channels] = inside / here.factor  # noqa: B023
            return s

        walk(model, r, z_int, first, last, grid.w, visit)
        y[first:last] = moved.reshape(last - first, grid.w, -1) / gain
    return Latents(y, analysed.z)


class _Kept(Exception):
    """An interrupt after which the latents reached so far are encoded."""

    def __init__(self, latents: list[Latents]) -> None:
        super().__init__()
        self.latents = latents


def _decoded_rows(model: Model, header: Header, latents: Latents, first: int, last: int) -> np.ndarray:
    """Decoded latents of one group of rows, every symbol rounded to the nearest."""
    r = header.rate_point
    z_int = dequantise_z(model, r, quantise_z(model, r, latents.z))
    v = (latents.y[first:last] * model.params["gain"][r]).reshape(-1, latents.y.shape[-1])
    quantise = Quantiser(model, NEAREST)

    def visit(here: Visited) -> np.ndarray:
        return quantise(residual(v, here), here.rows)

    return walk(model, r, z_int, first, last, latents.y.shape[1], visit)[1]


def _iterate(
    model: Model, pictures: Sequence[Picture], settings: Settings, starts: Sequence[Latents], report: Report | None
) -> list[Latents]:
    """Optimises one group of latent rows after another, each beside its neighbours as they are by then.

    Groups share no context, so memory is bounded by a group: 1024 rows of pixels, of all pictures.
    """
    header, r = _header(model, pictures[0], settings), settings.rate_point
    receiver = receiver_of(model, settings.device)
    all_y, all_z = (np.stack(parts) for parts in zip(*starts, strict=True))
    bounds = list(Grid.of(header).row_groups())
    steps = settings.schedule.steps
    beyond = reach(model.architecture)
    edges: dict[int, np.ndarray] = {}
    stopped = False

    def rows_of(group: int) -> np.ndarray:
        if group not in edges:
            every = zip(all_y, all_z, strict=True)
            edges[group] = np.stack([_decoded_rows(model, header, Latents(*yz), *bounds[group]) for yz in every])
        return edges[group]

    for group, (first, last) in enumerate(bounds):
        beginning, ending = group == 0, group == len(bounds) - 1
        z_rows = slice(first // LATENTS_PER_HYPER, -(-last // LATENTS_PER_HYPER))
        no_y, no_z = all_y[:, :0, :, : receiver.active_channels(r)], all_z[:, :0]
        problem = Problem(
            receiver,
            _pixels(pictures, first - (not beginning), last + (not ending), receiver),
            r,
            settings.weight(model.architecture),
            Surroundings(
                _tensor(receiver, no_y if beginning else rows_of(group - 1)[:, -beyond:]),
                _tensor(receiver, no_y if ending else rows_of(group + 1)[:, :beyond]),
                _tensor(receiver, no_z if beginning else _nats(model, r, all_z[:, z_rows.start - 1 : z_rows.start])),
                _tensor(receiver, no_z if ending else _nats(model, r, all_z[:, z_rows.stop : z_rows.stop + 1])),
            ),
        )
        gain = problem.rate.gain
        v = _tensor(receiver, all_y[:, first:last]) * gain
        z = _tensor(receiver, all_z[:, z_rows]) / problem.z_steps
        done = group * steps

        def told(state: State) -> None:
            if report:
                report(state._replace(step=done + state.step), steps * len(bounds))  # noqa: B023

        try:
            v, z = optimise(problem, v, z, settings.schedule, told)
        except Interrupted as e:
            if not settings.keep_on_interrupt:
                raise KeyboardInterrupt from None
            v, z, stopped = e.v, e.z, True
        all_y[:, first:last] = (v / gain).cpu().numpy()
        all_z[:, z_rows] = (z.round() * problem.z_steps).cpu().numpy()
        if stopped:
            break
        edges.pop(group, None)
        edges.pop(group - 1, None)
    reached = [Latents(*yz) for yz in zip(all_y, all_z, strict=True)]
    if stopped:
        raise _Kept(reached)
    return reached


def _tensor(receiver: Receiver, array: np.ndarray) -> Tensor:
    return torch.tensor(np.ascontiguousarray(array, np.float32), device=receiver.device)


def _nats(model: Model, rate_point: int, z: np.ndarray) -> np.ndarray:
    """Hyper-latents as the receiver gets them."""
    return dequantise_z(model, rate_point, quantise_z(model, rate_point, z)).astype(np.float32) / HYPER_UNIT


def _pixels(pictures: Sequence[Picture], first: int, last: int, receiver: Receiver) -> Tensor:
    """Pixels ``(N, 3, H, W)`` in 0..1 of latent rows."""
    rows = np.stack([p.pixels[max(first, 0) * PIXELS_PER_LATENT : last * PIXELS_PER_LATENT] for p in pictures])
    return torch.tensor(rows, device=receiver.device).permute(0, 3, 1, 2).float() / 255
