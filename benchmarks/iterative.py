"""Iterative encoding on crops of validation photographs: cost against seconds, and the time of a step.

    python benchmarks/iterative.py FOLDER [--steps 100,500,2000] [--points 9,27,45] [--images 3] [--variants]
        [--brief] [--json OUT]

The cost is that of real files: bits + lambda * squared error per pixel, decoded by the receiver.
Beside the shipped roundings: straight-through, uniform noise whose width falls to nothing, and
rate-distortion optimised quantisation by coordinates (`coordinates`), none of which the tool offers;
and the analysis without its network, the lapped transform alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nicc.bench.report import environment
from nicc.container import Header
from nicc.decoder import networks
from nicc.encoder import ops, sga
from nicc.encoder.encode import Result, encode, encode_plainly
from nicc.encoder.iterate import starting_point
from nicc.encoder.latent_code import RateTables, ste_round, upsample
from nicc.encoder.quantise import DISTORTION_WEIGHT, NEAREST, encode_latents
from nicc.encoder.receiver import LARGEST, interpolated, receiver_of
from nicc.encoder.settings import ROUNDINGS, TEMPERATURES, Annealing, Settings
from nicc.encoder.sga import Problem
from nicc.encoder.transform import Latents, PatchTransform, transform_of
from nicc.images import Picture
from nicc.model import Model, load_transform

HOPELESS_STEPS = 100
"""Straight-through and noise are left out above: they get worse with every step."""

Rounding = Callable[[Tensor, float, str, torch.Generator], Tensor]


def straight_through(x: Tensor, temperature: float, rounding: str, generator: torch.Generator) -> Tensor:
    return ste_round(x)


def annealed_noise(x: Tensor, temperature: float, rounding: str, generator: torch.Generator) -> Tensor:
    """Uniform noise that gives way to rounding as the temperature falls."""
    width = temperature / TEMPERATURES[rounding]
    noise = (torch.rand(x.shape, generator=generator) - 0.5) * width
    return x + ((x.round() - x) * (1 - width)).detach() + noise


def crop_of(path: Path, size: int) -> Picture:
    with Image.open(path) as image:
        a = np.asarray(image.convert("RGB"))
    top, left = ((n - size) // 2 for n in a.shape[:2])
    return Picture(np.ascontiguousarray(a[top : top + size, left : left + size]))


def step_time(model: Model, picture: Picture, point: int, rounds: int = 12) -> None:
    """One step of optimisation beside the bare networks, forwards and backwards."""
    times: dict[str, list[float]] = {"step": [], "bare": []}
    receiver = receiver_of(model)
    y, z = transform_of(model)(picture.pixels)
    z_up = upsample(torch.tensor(z)[None], *y.shape[:2])
    m = torch.rand(1, *y.shape).requires_grad_()
    latents = torch.randn(1, *y.shape).requires_grad_()
    rate, arch = receiver.rate(point), receiver.arch
    steps = [(group, phase) for group in range(arch.context_groups) for phase in range(arch.phases[group])]

    def bare() -> None:
        """Synthesis, means and CDF rows of random inputs, as PyTorch calls; no coding tables, no rounding."""
        total = receiver.synthesise(latents, rate).sum()
        for group in range(arch.group_count):
            first, last = arch.groups[group], arch.groups[group + 1]
            units = slice(group * 48, group * 48 + 48)
            features = networks.row_features(ops, arch, receiver.p, group, z_up, m)
            own = ops.cross_sum(m[..., first:last]) if arch.phases[group] > 1 else None
            bias, hidden = rate.row_bias[0, 0, first:last], rate.hidden_bias[0, 0, units]
            total = total + networks.rows(ops, receiver.p, group, features, own, bias, hidden).sum()
        total = total + networks.mean_from_hyper(receiver.p, z_up).sum()
        for group, phase in steps:
            around = ops.window(latents[..., : arch.groups[group + (phase > 0)]], arch.mean_reach(group))
            features = torch.cat([z_up, around], -1)
            total = total + networks.mean_context(ops, receiver.p, (group, phase), features).sum()
        later = networks.later_hidden(ops, receiver.p, latents[..., : arch.context_channels])
        total = total + (later @ receiver.p["mean_later_out"]).sum()
        total.backward()

    def mark(state: sga.State, total: int) -> None:
        times["step"].append(time.perf_counter())

    encode(model, picture, Settings(point, Annealing(rounds)), mark)
    times["step"] = list(np.diff(times["step"]))
    for _ in range(rounds):
        begun = time.perf_counter()
        bare()
        times["bare"].append(time.perf_counter() - begun)
    step, plain = (float(np.median(t)) for t in times.values())
    h, w, _ = picture.pixels.shape
    print(f"{model.name} {w}x{h}: step {step * 1000:.0f} ms, bare networks {plain * 1000:.0f} ms: {step / plain:.2f} x")


def coordinates(model: Model, picture: Picture, point: int, sweeps: int = 20, share: float = 0.15) -> Result:
    """Moves symbols by one where gradient and curvature promise a lower cost, some at random per sweep.

    Distortion by the gradient at the decoded image and each channel's energy in pixels, own bits
    exactly, bits of other symbols' contexts by their gradient.
    """
    settings = Settings(point, Annealing(0))
    height, width, _ = picture.pixels.shape
    header = Header(model.code, model.fingerprint, width, height, point, 0.0, False)
    start = starting_point(model, header, Latents(*transform_of(model)(picture.pixels)))
    receiver = receiver_of(model)
    problem = _whole(model, picture, point)
    z = (torch.tensor(start.z)[None] / problem.z_steps).round()
    v = torch.tensor(start.y)[None] * problem.rate.gain
    symbols: Tensor | None = None
    energy = _energy(model, problem.rate)
    curvature = (
        2
        * model.architecture.rate_lambda(point)
        * 255**2
        / 3
        * energy
        * (problem.rate.inverse / problem.rate.gain) ** 2
    )
    generator = torch.Generator().manual_seed(0)
    nats = upsample(z * problem.z_steps, *v.shape[1:3])
    means = v
    for _ in range(sweeps):
        if symbols is None:
            code = receiver.code(nats, v, problem.rate, lambda x, _: x.round())
            symbols = code.symbols.detach()
        symbols.requires_grad_()
        fixed = symbols
        code = receiver.code(nats, torch.zeros_like(v), problem.rate, lambda _, c: fixed[..., c])  # noqa: B023
        size = symbols.detach().abs().clamp_max(LARGEST)
        decoded = receiver.synthesise(code.y_hat, problem.rate)[..., :height, :width].clamp(0, 1)
        error = (decoded - problem.pixels).square().sum() * (255**2 / 3)
        others = interpolated(receiver.bits, code.rows, size).sum()
        (gradient,) = torch.autograd.grad(model.architecture.rate_lambda(point) * error + others, symbols)
        with torch.no_grad():
            means = -code.residual
            rows = code.rows.round()
            now = interpolated(receiver.bits, rows, size)
            best, move = torch.zeros_like(gradient), torch.zeros_like(gradient)
            for delta in (-1.0, 1.0):
                there = interpolated(receiver.bits, rows, (symbols + delta).abs().clamp_max(LARGEST))
                gain = gradient * delta + curvature / 2 + there - now
                move = torch.where(gain < best, delta, move)
                best = torch.minimum(gain, best)
            chosen = torch.rand(move.shape, generator=generator) < share
            symbols = symbols.detach() + move * chosen
    assert symbols is not None
    y = ((symbols + means) / problem.rate.gain)[0].detach().numpy()
    latents = Latents(y, (z * problem.z_steps)[0].numpy())
    return Result(model, picture, settings, encode_latents(model, header, *latents, {}, NEAREST))


def _whole(model: Model, picture: Picture, point: int) -> Problem:
    y, z = transform_of(model)(picture.pixels[:16, :16])
    nothing = [torch.zeros(1, 0, -(-picture.pixels.shape[1] // n), c) for n, c in ((16, y.shape[2]), (64, z.shape[2]))]
    pixels = torch.tensor(picture.pixels).permute(2, 0, 1)[None].float() / 255
    around = sga.Surroundings(nothing[0], nothing[0], nothing[1], nothing[1])
    return Problem(receiver_of(model), pixels, point, model.architecture.rate_lambda(point), around)


@torch.no_grad()
def _energy(model: Model, rate: RateTables) -> Tensor:
    """Squared pixels per squared latent of every channel, around zero."""
    receiver, c = receiver_of(model), model.architecture.latent_channels
    small = 1e-2
    base = receiver.synthesise(torch.zeros(1, 5, 5, c), rate)
    y = torch.zeros(c, 5, 5, c)
    y[torch.arange(c), 2, 2, torch.arange(c)] = small
    return torch.cat([((receiver.synthesise(p, rate) - base) / small).square().sum((1, 2, 3)) for p in y.split(32)])


def methods(steps: list[int], variants: bool, brief: bool) -> dict[str, Callable[[Model, Picture, int], Result]]:
    found: dict[str, Callable[[Model, Picture, int], Result]] = {
        "plain": lambda m, p, r: encode(m, p, Settings(r, Annealing(0))),
        "without its gradient step": unrefined,
        "nearest rounding": lambda m, p, r: unrefined(m, p, r, NEAREST),
    }
    if not brief:
        found |= {"linear analysis": linear, "coordinates": coordinates}
    for n in steps:
        for rounding in ROUNDINGS if variants else ROUNDINGS[:1]:
            found[f"SGA {rounding} {n}"] = partial(iterated, n, rounding)
        if variants and n <= HOPELESS_STEPS:
            for name, function in (("straight-through", straight_through), ("annealed noise", annealed_noise)):
                found[f"{name} {n}"] = partial(_patched, function, n)
    return found


def iterated(steps: int, rounding: str, model: Model, picture: Picture, point: int) -> Result:
    return encode(model, picture, Settings(point, Annealing(steps, rounding)))


def _patched(function: Rounding, steps: int, model: Model, picture: Picture, point: int) -> Result:
    with patch.object(sga, "round_softly", function):
        return encode(model, picture, Settings(point, Annealing(steps)))


def unrefined(model: Model, picture: Picture, point: int, weight: float = DISTORTION_WEIGHT) -> Result:
    """Symbols rounded by this weight of distortion, or to the nearest as most neural codecs do."""
    encoding = encode_plainly(model, picture, point, distortion_weight=weight, refine=False)
    return Result(model, picture, Settings(point, Annealing(0)), encoding)


def linear(model: Model, picture: Picture, point: int) -> Result:
    """The encoding of what the linear part of a ``patch`` analysis finds, without the gradient step."""
    transform = transform_of(model, "cpu")  # the one that `unrefined` finds in the cache
    assert isinstance(transform, PatchTransform)
    scale, transform.p["scale"] = transform.p["scale"], np.zeros_like(transform.p["scale"])
    try:
        return unrefined(model, picture, point)
    finally:
        transform.p["scale"] = scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="two-layer")
    parser.add_argument("--steps", default="100,500")
    parser.add_argument("--points", default="9,27,45")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--variants", action="store_true", help="all roundings, not the default alone")
    parser.add_argument("--brief", action="store_true", help="plain, nearest and SGA alone, for any analysis")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.glob("*.png"))
    paths = paths[:: max(1, len(paths) // arguments.images)][: arguments.images]
    model = load_transform(arguments.model)
    points = [int(p) for p in arguments.points.split(",")]
    step_time(model, Picture(np.tile(crop_of(paths[0], 256).pixels, (2, 3, 1))), points[0])
    results: dict[str, dict[str, float]] = {}
    costs: dict[str, list[float]] = {}
    steps = [int(n) for n in arguments.steps.split(",")]
    for name, code in methods(steps, arguments.variants, arguments.brief).items():
        seconds, sizes, psnrs = [], [], []
        for path in paths:
            picture = crop_of(path, arguments.size)
            for point in points:
                begun = time.perf_counter()
                result = code(model, picture, point)
                if result.latents is not None:  # also where the tool would have kept the plain encoding
                    rounded = [result.rounded_by(weight) for weight in (NEAREST, 3 * DISTORTION_WEIGHT)]
                    result = min(rounded, key=lambda r: r.cost)
                costs.setdefault(name, []).append(result.cost)
                seconds.append(time.perf_counter() - begun)
                sizes.append(len(result.data) * 8 / arguments.size**2)
                psnrs.append(result.psnr)
        plain = costs.get("plain", costs[name])
        ratio = float(np.exp(np.mean(np.log(np.array(costs[name]) / np.array(plain)))))
        results[name] = {
            "cost_against_plain": ratio,
            "seconds_per_megapixel": float(np.median(seconds)) / arguments.size**2 * 1e6,
            "bpp": float(np.mean(sizes)),
            "psnr": float(np.mean(psnrs)),
            "log_cost": float(np.mean(np.log(costs[name]))),
        }
        print(f"{name:26} " + "  ".join(f"{k} {v:.4f}" for k, v in results[name].items()), flush=True)
    if arguments.json:
        found = {"model": f"{model.name} v{model.version}", "results": results, "environment": environment()}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
