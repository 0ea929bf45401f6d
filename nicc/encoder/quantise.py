"""Latents to a container: quantisation in the decoder's order, entropy coding (NumPy)."""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from safetensors import safe_open

from nicc import laplace
from nicc.architecture import CDF_ROWS, HYPER_UNIT, Z_SYMBOL_LIMIT
from nicc.container import Container, Group, Header, with_checksum
from nicc.decoder.hyper import dequantise_z, walk_z
from nicc.decoder.latents import Visited, walk
from nicc.entropy import FREQUENCY_BITS, SymbolWriter, stream_of
from nicc.geometry import Grid, HyperStep
from nicc.graphics import Stored
from nicc.model import Model

if TYPE_CHECKING:
    from nicc.encoder.refine import Refinement

DISTORTION_WEIGHT = 9.0
"""Weight of a squared rounding error (in quantisation steps) against bits when a symbol is rounded.

At high rates, theory puts the optimum at 6 / ln 2 = 8.7. On the validation photographs the log cost
is -0.428 at 8 and at 10, -0.422 at 13, -0.414 at 17.
"""
NEAREST = 1e9
ESCAPE_BITS = 16
Weight = float | np.ndarray
"""Of squared rounding errors against bits: one number, or one for every latent position of the image ``(h, w)``."""


class Encoding(NamedTuple):
    """A container, and the model's own estimate of the bits of its symbols."""

    container: Container
    estimated_bits: float
    z_checksum: int = 0
    """CRC-32 of the symbols of z, for a container that changes."""
    middles: np.ndarray | None = None
    """Latents in the middle of their intervals, if the image is one group of rows: more would be much to keep."""


@lru_cache(maxsize=8)
def rounding_of(model: Model) -> np.ndarray:
    """By how much more or less a squared rounding error counts in the channels of a model, ``(rate points, C)``.

    It is among the arrays of the encoder, for the anchors; a model that has none rounds all channels alike.
    """
    arch = model.architecture
    path = model.folder / "encoder.safetensors" if model.folder else None
    if path and path.is_file():
        with safe_open(path, framework="np") as f:
            if "rounding" in f.keys():  # noqa: SIM118 - not a dictionary
                channels = f.get_tensor("rounding").T
                points = np.arange(arch.rate_points)
                return np.stack([np.interp(points, arch.anchor_points, weights) for weights in channels], 1)
    return np.ones((arch.rate_points, arch.latent_channels))


class Tables(NamedTuple):
    """What symbols cost, by table: row by row, group of channels after group, and then as if all had one."""

    bits: np.ndarray
    limit: np.ndarray
    """The largest symbol that is no escape, of every table."""
    zero: np.ndarray
    """Index in ``bits`` of symbol 0 of every table."""


@lru_cache(maxsize=8)
def _tables_of(model: Model) -> Tables:
    own, shared = model.arrays["y_group_frequencies"], model.arrays["y_frequencies"]
    higher = shared[own.shape[1] :]
    frequencies = np.concatenate([*(part for group in own for part in (group, higher)), shared])
    bits = (FREQUENCY_BITS - np.log2(np.maximum(frequencies, 1))).astype(np.float32)
    sizes = np.tile(model.arrays["y_sizes"].astype(np.int64), len(own) + 1)
    ends = np.cumsum(sizes)
    bits[ends[sizes > 0] - 1] += ESCAPE_BITS
    limit = (sizes - 2) // 2
    return Tables(bits, limit, ends - sizes + limit)


class Bits:
    """What symbols cost under a model's tables."""

    def __init__(self, model: Model) -> None:
        self.group_of, self.shared = model.architecture.group_of, CDF_ROWS * model.architecture.group_count
        self.bits, self.limit, self.zero = _tables_of(model)

    def cost(self, symbols: np.ndarray, tables: np.ndarray) -> np.ndarray:
        """Bits of ``symbols`` under tables, numbered row by row and group after group; not of rows 0."""
        limit = self.limit[tables]
        inside = np.abs(symbols) <= limit
        return self.bits[self.zero[tables] + np.where(inside, symbols, limit + 1)]

    def costs(self, symbols: np.ndarray, rows: np.ndarray, channels: slice) -> np.ndarray:
        """Bits of every symbol, float32, of a group of channels and any rows; those of row 0 take none."""
        bits = np.zeros(symbols.shape, np.float32)
        coded = rows > 0
        bits[coded] = self.cost(symbols[coded], CDF_ROWS * self.group_of(channels) + rows[coded].astype(np.int64))
        return bits


class Quantiser(Bits):
    """Rounds residuals to the cheaper of the two nearest symbols, counting bits and distortion.

    Bits are those that all groups of channels take together under a CDF row: by the groups' own tables, fine channels
    lose more than eyes would have it (docs/log/visual.md, "Tables of CDF rows").
    The ``distortion_weight``, a number or one for every latent position of the image ``(h, w)``, is multiplied by the
    model's own for every channel at the rate point.
    """

    def __init__(self, model: Model, rate_point: int, distortion_weight: Weight = DISTORTION_WEIGHT) -> None:
        super().__init__(model)
        weight = np.asarray(distortion_weight, np.float32)
        self.places = weight if weight.ndim else None
        self.weights = (rounding_of(model)[rate_point] * (1 if weight.ndim else weight)).astype(np.float32)
        self.offsets = model.params["recon_offset"]

    def symbols(self, v: np.ndarray, here: Visited, first: int = 0) -> np.ndarray:
        """Symbols of a step of a walk that began at latent row ``first`` of the image; ``v`` as in `residual`."""
        places = 1.0 if self.places is None else self.places[first:].reshape(-1, 1)[here.at]
        return self(residual(v, here), here.rows, here.channels, places)

    def __call__(self, residual: np.ndarray, rows: np.ndarray, channels: slice, places: Weight = 1.0) -> np.ndarray:
        """Symbols, int32, for real residuals ``(positions, channels)`` under CDF rows alike. Row 0 gives 0.

        Squared errors weigh ``places`` more, one number or ``(positions, 1)``.
        """
        s = np.rint(np.clip(residual, -32767, 32767)).astype(np.int32)
        s[rows == 0] = 0
        at = np.nonzero(s)
        near, row, x = s[at], rows[at].astype(np.int64), np.abs(residual[at])
        sign, near = np.sign(near), np.abs(near)
        lower = near - 1
        error = x - near + self.offsets[row, np.minimum(near, 2) - 1]
        lower_error = x - lower + np.where(lower > 0, self.offsets[row, np.clip(lower, 1, 2) - 1], 0)
        saved = self.cost(near * sign, self.shared + row) - self.cost(lower * sign, self.shared + row)
        weight = np.broadcast_to(self.weights[channels] * places, s.shape)[at]
        s[at] = sign * np.where(saved > weight * (lower_error**2 - error**2), lower, near)
        return s


def quantise_z(model: Model, rate_point: int, z: np.ndarray) -> np.ndarray:
    """Hyper-latents in nats to symbols, int16."""
    steps = model.arrays["z_steps"][rate_point].astype(np.float32) / HYPER_UNIT
    return np.clip(np.rint(z / steps), -Z_SYMBOL_LIMIT, Z_SYMBOL_LIMIT).astype(np.int16)


class HyperCode(NamedTuple):
    """Coded hyper-latents: stream, symbols as a receiver finds them, and their bits by their distributions."""

    stream: bytes
    symbols: np.ndarray
    bits: float


def write_z(model: Model, rate_point: int, z: np.ndarray, hidden: np.ndarray | None = None) -> HyperCode:
    """Codes hyper-latent symbols ``(zh, zw, Cz)``; ``hidden`` is as in `walk_z`."""
    encoder, bits = laplace.Encoder(), 0.0

    def visit(p: laplace.Prediction, step: HyperStep, coded: np.ndarray) -> np.ndarray:
        nonlocal bits
        symbols = z[step.at][coded].reshape(-1).astype(np.int64)
        encoder.write(symbols, p)
        bits += float(laplace.bits_of(symbols, p).sum())
        return symbols

    symbols = walk_z(model, rate_point, z.shape[0], z.shape[1], visit, hidden)
    return HyperCode(stream_of(encoder.coder), symbols, bits)


def residual(v: np.ndarray, here: Visited) -> np.ndarray:
    """What a step rounds: latents times the rate point's gain ``(positions, C)``, adapted, less their means."""
    return v[here.at, here.channels] * here.factor - here.means


def encode_latents(
    model: Model,
    header: Header,
    y: np.ndarray,
    z: np.ndarray,
    extras: dict[int, bytes] | None = None,
    distortion_weight: Weight = DISTORTION_WEIGHT,
    refinement: Refinement | None = None,
) -> Encoding:
    """Codes latents ``(h, w, C)`` and hyper-latents in nats ``(zh, zw, Cz)``.

    A ``distortion_weight`` of `NEAREST` rounds every symbol to the nearest. A ``refinement`` moves latents before.
    With a graphics box among the ``extras``, what is hidden behind it is not coded.
    """
    model, r, stored = model.for_file(header), header.rate_point, Stored.of(header, extras or {})
    hidden, hidden_z = (stored.latents, stored.hyper_latents) if stored else (None, None)
    coded_z = write_z(model, r, quantise_z(model, r, z), hidden_z)
    z_int = dequantise_z(model, r, coded_z.symbols)
    quantise = Quantiser(model, r, distortion_weight)
    bounds = list(Grid.of(header).row_groups())
    if refinement:
        values = refinement.groups(y, z_int, quantise)
    else:
        values = (y[slice(*rows)] * model.params["gain"][r] for rows in bounds)
    groups, bits, middles = [], coded_z.bits, None
    for v, rows in zip(values, bounds, strict=True):
        group, more, middles = _code_rows(model, r, z_int, v, rows, quantise, hidden)
        groups.append(group)
        bits += more
    container = Container(header, 0, coded_z.stream, tuple(groups), dict(extras or {}))
    z_checksum = zlib.crc32(coded_z.symbols.data)
    kept = middles if len(groups) == 1 else None
    return Encoding(with_checksum(container, z_checksum), bits, z_checksum, kept)


def _code_rows(
    model: Model,
    rate_point: int,
    z: np.ndarray,
    v: np.ndarray,
    rows: tuple[int, int],
    quantise: Quantiser,
    hidden: np.ndarray | None,
) -> tuple[Group, float, np.ndarray]:
    """The y box of one group of latent rows, the estimated bits of its symbols, and the middles of their intervals.

    ``z`` and ``hidden`` are as `walk` takes them, ``v`` latents ``(h, w, C)`` times gain.
    """
    writer, bits, columns = SymbolWriter(), 0.0, v.shape[1]
    v = v.reshape(-1, v.shape[-1])

    def visit(here: Visited) -> np.ndarray:
        nonlocal bits
        s = quantise.symbols(v, here, rows[0])
        model.row_coders[model.architecture.group_of(here.channels)].write(writer, s, here.rows)
        bits += float(quantise.costs(s, here.rows, here.channels).sum())
        return s

    symbols, middles = walk(model, rate_point, z, rows, columns, visit, hidden, middle=True)
    return Group(zlib.crc32(symbols.data), writer.finish()), bits, middles
