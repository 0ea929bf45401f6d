"""How hyper-latents are distributed beside their neighbours: what the coder knows of them, counted on photographs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nicc.architecture import HYPER_LIMIT, HYPER_UNIT, Z_WEIGHT_UNIT, Architecture
from nicc.decoder.hyper import dequantise_z, neighbours, walk_z, with_borders
from nicc.encoder.quantise import quantise_z
from nicc.geometry import HYPER_KINDS, HYPER_STEPS, HyperStep
from nicc.laplace import OFFSETS, SCALES, SCALES_PER_NAT, Prediction, bits_of
from nicc.model import Model

Array = np.ndarray
LEAST_ENERGY = 1e-3
"""Added to the energy of neighbours' averages, a share of the channel's own: weights of what is empty stay small."""
MOST_WEIGHT = 2.0
LEAST_SCALE = 24
"""A deviation of a tenth of a symbol: what never happened on some photographs may happen on others."""
COARSE = 8
"""Numbers of scales between those that are tried first."""


def no_tables(arch: Architecture) -> dict[str, Array]:
    """The arrays of `hyper_tables` before any photograph was seen: no neighbours, one scale."""
    cz = arch.hyper_channels
    return {
        "z_means": np.zeros(cz, np.int16),
        "z_weights": np.zeros((HYPER_KINDS, cz), np.int16),
        "z_scales": np.full((arch.rate_points, HYPER_KINDS, cz), SCALES // 2, np.uint8),
    }


def hyper_tables(model: Model, images: Sequence[Array]) -> dict[str, Array]:
    """Means, neighbours' weights and scales from hyper-latents in nats ``(zh, zw, Cz)`` of images.

    Weights are those of least squares at the middle rate point. Scales are those with the fewest bits at the anchors,
    and between these, in nats, by interpolation.
    """
    arch = model.architecture
    z = np.concatenate([image.reshape(-1, image.shape[-1]) for image in images])
    model = _with(model, {"z_means": np.rint(z.mean(0) * HYPER_UNIT).clip(-HYPER_LIMIT, HYPER_LIMIT).astype(np.int16)})
    model = _with(model, {"z_weights": _weights(model, images)})
    anchors = [round(point) for point in arch.anchor_points]
    steps = SCALES_PER_NAT * np.log(model.arrays["z_steps"].astype(np.float64))[:, None]
    found = np.stack([_scales(_away(model, point, images)) + steps[point] for point in anchors])
    between = np.array([np.interp(np.arange(arch.rate_points), anchors, f) for f in found.reshape(len(anchors), -1).T])
    scales = between.T.reshape(arch.rate_points, *found.shape[1:]) - steps
    whole = np.rint(scales).clip(LEAST_SCALE, SCALES - 1).astype(np.uint8)
    return {name: model.arrays[name] for name in ("z_means", "z_weights")} | {"z_scales": whole}


def _with(model: Model, arrays: dict[str, Array]) -> Model:
    return Model(model.description, model.arrays | arrays)


def _weights(model: Model, images: Sequence[Array]) -> Array:
    rate_point = model.architecture.rate_points // 2
    means = model.arrays["z_means"].astype(np.float64)
    products, energies = np.zeros((2, HYPER_KINDS, len(means)))
    for image in images:
        z = dequantise_z(model, rate_point, quantise_z(model, rate_point, image)) - means
        known, inside = with_borders(z), with_borders(np.ones((*z.shape[:2], 1)))
        for step in HYPER_STEPS[1:]:
            average = neighbours(known, step) / np.maximum(neighbours(inside, step), 1)
            products[step.kind] += (average * z[step.at]).sum((0, 1))
            energies[step.kind] += (average * average).sum((0, 1))
    spread = np.square(np.concatenate([image.reshape(-1, len(means)) for image in images]).std(0) * HYPER_UNIT)
    weights = products / (energies + LEAST_ENERGY * spread * len(images) + 1e-9)
    return np.rint(weights.clip(-MOST_WEIGHT, MOST_WEIGHT) * Z_WEIGHT_UNIT).astype(np.int16)


def _away(model: Model, rate_point: int, images: Sequence[Array]) -> list[Array]:
    """Symbols less their means, ``(n, Cz)``, of every kind of step."""
    channels = model.architecture.hyper_channels
    found: list[list[Array]] = [[np.zeros((0, channels))] for _ in range(HYPER_KINDS)]
    for image in images:
        z = quantise_z(model, rate_point, image)

        def visit(p: Prediction, step: HyperStep, _: Array, z: Array = z) -> Array:
            symbols = z[step.at].reshape(-1)
            found[step.kind].append((symbols - p.mean - p.offset / OFFSETS + 0.5).reshape(-1, channels))
            return symbols

        walk_z(model, rate_point, z.shape[0], z.shape[1], visit)
    return [np.concatenate(parts) for parts in found]


def _scales(away: list[Array]) -> Array:
    """The scale of every kind and channel ``(HYPER_KINDS, Cz)`` with the fewest bits."""
    return np.array([_best(values) for values in away])


def _best(away: Array) -> Array:
    """Every channel's scale with the fewest bits of symbols so far ``away`` ``(n, Cz)`` from their means; bits rise to
    either side of it."""

    def cheapest(scales: Array) -> Array:
        """Of scales ``(m, Cz)``, each channel's."""
        bits = [bits_of(away, Prediction(np.zeros(1), np.full(1, OFFSETS / 2), scale)).sum(0) for scale in scales]
        return np.take_along_axis(scales, np.argmin(bits, 0)[None], 0)[0]

    near = cheapest(np.repeat(np.arange(LEAST_SCALE, SCALES, COARSE)[:, None], away.shape[1], 1))
    return cheapest((near + np.arange(-COARSE, COARSE)[:, None]).clip(LEAST_SCALE, SCALES - 1))
