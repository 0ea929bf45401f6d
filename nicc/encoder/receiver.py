"""A shipped model's receiver as a differentiable function, for iterative encoding.

Same definition (`nicc.encoder.latent_code.latent_code`, `nicc.decoder.networks`), arrays of the shipped
file: integers of the CDF rows as real numbers, and the bits of its coding tables, interpolated
linearly between symbols and between rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nicc.architecture import CDF_ROWS, HYPER_UNIT, Z_WEIGHT_UNIT
from nicc.arrays import integer_unit, receiver_arrays
from nicc.decoder import networks
from nicc.decoder.directional import filter_of, rendered
from nicc.encoder import ops
from nicc.encoder.latent_code import LatentCode, RateTables, latent_code
from nicc.encoder.quantise import Bits
from nicc.geometry import HYPER_REACH, HYPER_STEPS, HyperStep
from nicc.laplace import SCALE_RANGE, SCALES_PER_NAT
from nicc.model import Model

LARGEST = 2047
"""Magnitudes up to here have their own entry in the table of bits."""
FORBIDDEN_BITS = 8.0
"""What row 0, which codes nothing but zero, adds to row 1's bits of other symbols."""


class _Interpolated(torch.autograd.Function):
    """Values of a table at real (row, column), bilinear, with their exact derivatives."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, row: Tensor, column: Tensor) -> Tensor:
        width = table.shape[1]
        r = row.floor().clamp_(0, table.shape[0] - 2)
        c = column.floor().clamp_(0, width - 2)
        index = (r * width + c).long()
        fr, fc = row - r, column - c
        flat = table.reshape(-1)
        t00, t01 = flat[index], flat[index + 1]
        index += width
        t10, t11 = flat[index], flat[index + 1]
        by_row, by_column = torch.lerp(t10 - t00, t11 - t01, fc), torch.lerp(t01 - t00, t11 - t10, fr)
        ctx.save_for_backward(by_row, by_column)
        return torch.lerp(torch.lerp(t00, t01, fc), torch.lerp(t10, t11, fc), fr)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        by_row, by_column = ctx.saved_tensors
        return None, grad * by_row, grad * by_column


def interpolated(table: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """``table`` ``(R, C)`` at real indices of equal shape."""
    return _Interpolated.apply(table, row, column)


class Receiver:
    """A model at one device; `rate` holds what a rate point changes."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        self.model, self.arch, self.device = model, model.architecture, device
        specs = receiver_arrays(self.arch)
        self.p: dict[str, Tensor] = {}
        for name, array in model.params.items():
            unit = integer_unit(self.arch, name) if name in specs and name.startswith("row") else 1.0
            self.p[name] = torch.tensor(np.asarray(array * unit, np.float32), device=device)
        self.row_bias, self.hidden_bias = (
            self.p.pop(f"{name}_bias")[:, None] + self.p.pop(f"{name}_phase") for name in ("row", "row_hidden")
        )
        self._z_steps = torch.tensor(model.arrays["z_steps"].astype(np.float32) / HYPER_UNIT, device=device)
        self.bits = torch.from_numpy(bit_table(model)).to(device)
        sizes = np.diff(self.arch.groups)
        first = CDF_ROWS * np.arange(len(sizes), dtype=np.float32).repeat(sizes)
        self.first_table = torch.from_numpy(first).to(device)
        """In ``bits``, of every channel."""

    def rate(self, rate_point: int | Tensor) -> RateTables:
        """Tables of a rate point, or of rate points ``(N,)``, then ``(N, 1, 1, columns)``."""
        p, r = self.p, self._rows(rate_point)
        return RateTables(
            p["gain"][r],
            p["inverse"][r] * p["gain"][r],
            self.row_bias[r].reshape(-1, *self.row_bias.shape[1:]),
            self.hidden_bias[r].reshape(-1, *self.hidden_bias.shape[1:]),
            p["rectifier_bias"][r] if self.arch.rectifiers else None,
            filter_of(p, rate_point) if isinstance(rate_point, int) else None,
        )

    def active_channels(self, rate_point: int) -> int:
        """Channels that are coded at a rate point."""
        return self.arch.groups[self.model.active_groups(rate_point)]

    def z_steps(self, rate_point: int | Tensor) -> Tensor:
        """Nats per hyper-latent symbol, ``(Cz,)`` or ``(N, 1, 1, Cz)``."""
        return self._z_steps[self._rows(rate_point)]

    @staticmethod
    def _rows(rate_point: int | Tensor) -> int | Tensor:
        return rate_point if isinstance(rate_point, int) else rate_point.long()[:, None, None]

    def z_bits(self, rate_point: int, symbols: Tensor, above: int) -> Tensor:
        """Bits of relaxed hyper-latent symbols ``(N, zh, zw, Cz)``, of the same shape.

        ``above`` of the rows lie above a group's first. Rows that are not there count as beyond the image.
        """
        steps = self.z_steps(rate_point)
        mean, weights = self.p["z_means"] / HYPER_UNIT, self.p["z_weights"] / Z_WEIGHT_UNIT
        around = symbols * steps - mean
        place = torch.empty_like(symbols)
        scale = torch.empty_like(symbols[0])
        rows, columns = (torch.arange(n, device=self.device) for n in symbols.shape[1:3])
        for step in HYPER_STEPS:
            here = ((rows - above) % step.stride == step.row)[:, None] & (columns % step.stride == step.column)
            total, count = (_neighbours(v, step) for v in (around, torch.ones_like(around[:1, ..., :1])))
            moved = weights[step.kind] * total / count.clamp_min(1)
            place = torch.where(here[..., None], (mean + moved) / steps, place)
            scale = torch.where(here[..., None], self.p["z_scales"][rate_point, step.kind], scale)
        return _laplace_bits((symbols - place).abs(), torch.exp(scale / SCALES_PER_NAT - SCALE_RANGE))

    def synthesise(self, y_hat: Tensor, rate: RateTables, top: bool = True, bottom: bool = True) -> Tensor:
        """Pixels ``(N, 3, H, W)`` around 0..1 of latents ``(N, h, w, C)``.

        ``top`` and ``bottom`` say whether these are borders of the image; if not, the outermost
        `Architecture.margin` rows of latents are not rendered.
        """
        y = networks.mirror(ops, self.p, y_hat, self.arch.margin, top, bottom)
        y = networks.rectify(ops, self.arch, self.p, y, rate.rectifier_bias, rate.inverse / rate.gain)
        return rendered(ops, self.arch, self.p, y, rate.filter).permute(0, 3, 1, 2)

    def code(self, z: Tensor, v: Tensor, rate: RateTables, quantise: Callable[[Tensor, slice], Tensor]) -> LatentCode:
        """`nicc.encoder.latent_code.latent_code`, relaxed, of upsampled hyper-latents in nats."""
        return latent_code(self.arch, self.p, rate, z, v, quantise, relaxed=True)

    def symbol_bits(self, code: LatentCode) -> Tensor:
        """Bits of every symbol ``(N, h, w, C)``."""
        return interpolated(self.bits, code.rows + self.first_table, code.symbols.abs().clamp_max(LARGEST))


def bit_table(model: Model) -> np.ndarray:
    """Bits of magnitudes 0..`LARGEST` under every CDF row, group of channels after group: float32 ``(64 n, 2048)``."""
    cost, count = Bits(model).cost, CDF_ROWS * model.architecture.group_count
    sizes = np.tile(np.arange(LARGEST + 1, dtype=np.int64), (count, 1))
    tables = np.tile(np.arange(count)[:, None], (1, LARGEST + 1))
    tables[::CDF_ROWS] += 1
    bits = cost(sizes, tables).astype(np.float32)
    bits[::CDF_ROWS] += FORBIDDEN_BITS
    bits[::CDF_ROWS, 0] = 0
    return bits


def _neighbours(values: Tensor, step: HyperStep) -> Tensor:
    """The sum of ``values`` ``(N, zh, zw, C)`` over the neighbours that a step's positions have, at every position."""
    h, w = values.shape[1:3]
    wide = F.pad(values, (0, 0, *(HYPER_REACH,) * 4))
    parts = (wide[:, HYPER_REACH + i :][:, :h, HYPER_REACH + j :][:, :, :w] for i, j in step.neighbours)
    return sum(parts, torch.zeros_like(values))


def _laplace_bits(away: Tensor, scale: Tensor) -> Tensor:
    """Bits of unit intervals whose middles are so far ``away`` from the mean (`nicc.laplace.bits_of`)."""
    far = 0.5 * torch.exp(-(away - 0.5).clamp_min(0) / scale) * -torch.expm1(-1 / scale)
    near = 1 - 0.5 * (torch.exp(-(0.5 + away) / scale) + torch.exp(-(0.5 - away).clamp_min(0) / scale))
    return -torch.log2(torch.where(away > 0.5, far, near).clamp_min(2.0**-32))


@lru_cache(maxsize=2)
def receiver_of(model: Model, device: str = "cpu") -> Receiver:
    """The receiver of a loaded model, cached."""
    return Receiver(model, device)
