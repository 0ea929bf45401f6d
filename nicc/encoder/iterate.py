"""Iterating on a picture's latents, one group of latent rows after another (PyTorch)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nicc.architecture import HYPER_UNIT, LATENTS_PER_HYPER, PIXELS_PER_LATENT
from nicc.container import Header
from nicc.decoder.latents import Grid, Visited, dequantise_z, walk
from nicc.encoder.quantise import NEAREST, Quantiser, quantise_z, residual
from nicc.encoder.receiver import Receiver, receiver_of
from nicc.encoder.settings import Report, Settings, State
from nicc.encoder.sga import Interrupted, Problem, Surroundings, optimise, reach
from nicc.encoder.transform import Latents
from nicc.errors import NiccError
from nicc.images import Picture
from nicc.model import Model

START_INSIDE = 0.4
"""At the start, latents lie at most this far from the symbol that the plain encoder would write."""


def choose_device(name: str) -> str:
    """``auto`` is a GPU if there is one. Raises `NiccError` for one that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise NiccError("no CUDA device found; use --device cpu")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def starting_point(model: Model, header: Header, analysed: Latents) -> Latents:
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


class Kept(Exception):
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


def iterate(
    model: Model,
    header: Header,
    pictures: Sequence[Picture],
    settings: Settings,
    starts: Sequence[Latents],
    report: Report | None,
) -> list[Latents]:
    """Optimises one group of latent rows after another, each beside its neighbours as they are by then.

    Groups share no context, so memory is bounded by a group: 1024 rows of pixels, of all pictures.
    """
    r = settings.rate_point
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
        raise Kept(reached)
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
