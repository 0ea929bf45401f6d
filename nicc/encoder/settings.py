"""What a user chooses when encoding, and how one picture is then coded. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from nicc.architecture import Architecture
from nicc.errors import NiccError
from nicc.model import TUNED, AnyModel, load_model
from nicc.pyramid.layout import PyramidArchitecture
from nicc.pyramid.model import PyramidModel

REFINEMENTS = (1, 8, 32, 8)
"""Gradient steps before the last rounding, by effort (`nicc.encoder.refine`)."""
EFFORT_STEPS = (0, 0, 0, 500)
"""Steps of iterating by annealing, by effort (`nicc.encoder.sga`, PyTorch)."""
FIT_STEPS = (200, 500, 2000, 10000)
"""Steps of fitting a decoder to the image by effort: there is no encoding without them."""
TEMPERATURES = {"sigmoid": 0.7, "atanh": 0.2, "three-class": 0.35}
"""Ways of relaxed rounding (`nicc.encoder.sga`), and the temperature at which each starts best."""
ROUNDINGS = tuple(TEMPERATURES)
FEW_STEPS = 100
"""In fewer steps than these, larger ones end better: 20 at twice the learning rate."""
DEVICES = ("auto", "cpu", "cuda")
DEFAULT_QUALITY = 32
"""The quality, 0 to 100, at which the default model has SSIMULACRA 2 of about 73 on the validation photographs."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to encode, as a user says it; the same for every picture.

    One of ``quality`` (0 smallest to 100 best), ``target_bpp`` (bits per pixel at most),
    ``target_size`` (bytes at most), ``target_psnr`` (dB at least) and ``target_ssimulacra2`` (points at
    least) may be given. ``effort``, 0 to 3, says how many gradient steps to take, and for how many to anneal,
    unless ``steps`` does; ``rounding`` says how (`Annealing`). Raises `ValueError` for numbers out of range.
    """

    model: str | None = None
    """Name or folder; None for the one of ``tune``."""
    tune: str | None = None
    """visual (the default) or psnr: what the model has learnt to keep."""
    quality: float | None = None
    target_bpp: float | None = None
    target_size: int | None = None
    target_psnr: float | None = None
    target_ssimulacra2: float | None = None
    effort: int = 0
    steps: int | None = None
    rounding: str = "sigmoid"
    seed: int = 0
    beta: float = 0.0
    device: str = "auto"
    keep_on_interrupt: bool = False
    lossless: bool | None = None
    """True stores the image exactly; None does so where that is smaller, False never."""

    def __post_init__(self) -> None:
        given = (self.target_bpp, self.target_size, self.target_psnr, self.target_ssimulacra2)
        targets = [t for t in given if t is not None]
        if len(targets) + (self.quality is not None) > 1:
            raise ValueError("give one of quality, target_bpp, target_size, target_psnr and target_ssimulacra2")
        if self.quality is not None and not 0 <= self.quality <= 100:
            raise ValueError(f"quality {self.quality} is not within 0..100")
        if any(not 0 < t < math.inf for t in targets):
            raise ValueError(f"target {targets[0]} is not a positive number")
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta {self.beta} is not within 0..1")
        if not 0 <= self.effort < len(EFFORT_STEPS):
            raise ValueError(f"effort {self.effort} is not within 0..{len(EFFORT_STEPS) - 1}")
        if self.lossless and (targets or self.quality is not None or self.steps or self.effort or self.beta):
            raise ValueError("lossless has no quality, target, steps or beta: the image is stored exactly")
        if self.tune not in (None, *TUNED):
            raise ValueError(f"tune {self.tune!r} is not one of {', '.join(TUNED)}")
        if self.device not in DEVICES:
            raise ValueError(f"device {self.device!r} is not one of {', '.join(DEVICES)}")
        self.annealing()  # refuses what it cannot be

    @property
    def refinements(self) -> int:
        """Gradient steps before latents are rounded."""
        return REFINEMENTS[self.effort]

    def annealing(self) -> Annealing:
        """How to anneal the latents of a model whose weights are fixed."""
        return Annealing(EFFORT_STEPS[self.effort] if self.steps is None else self.steps, self.rounding, seed=self.seed)

    @property
    def fit_steps(self) -> int:
        """Steps of fitting a decoder to the image."""
        return FIT_STEPS[self.effort] if self.steps is None else self.steps

    def load_model(self) -> AnyModel:
        """The model to encode with. Raises `ModelError`, and `NiccError` for one that is tuned for something else."""
        model = load_model(self.model or TUNED[self.tune or "visual"])
        if isinstance(model, PyramidModel):
            return model  # fitted for whatever it is tuned for
        aim = "psnr" if model.architecture.objective == "mse" else model.architecture.objective
        if self.tune not in (None, aim):
            raise NiccError(f"model {model.name} is tuned for {aim}, not for {self.tune}")
        return model

    def rate_point(self, arch: Architecture | PyramidArchitecture) -> int:
        """The rate point of a model that the quality, or the default one, means."""
        quality = DEFAULT_QUALITY if self.quality is None else self.quality
        return round(quality / 100 * (arch.rate_points - 1))


@dataclass(frozen=True)
class Annealing:
    """How to anneal; shares of ``steps``, so that one description serves any number of them.

    The defaults are the best found on the validation photographs, docs/iterative-encoding.md.
    Raises `ValueError` for a number of steps below 0 or an unknown rounding.
    """

    steps: int
    rounding: str = "sigmoid"
    temperature: float | None = None
    """The first; None for the rounding's own."""
    hold: float = 0.35
    """Share of the steps at the first temperature; it then falls exponentially."""
    decay: float = 2.0
    """The temperature would fall by e to this over all steps."""
    drop: float = 0.9
    """Share of the steps after which the learning rate is a tenth."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"{self.steps} steps: must not be negative")
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"rounding {self.rounding!r} is not one of {', '.join(ROUNDINGS)}")

    @property
    def learning_rate(self) -> float:
        """Adam's, in quantisation steps of the latents and hyper-latents: 1e-2, more in few steps."""
        return 1e-2 * min(max(math.sqrt(FEW_STEPS / max(self.steps, 1)), 1.0), 2.0)

    def at(self, step: int) -> tuple[float, float]:
        """Temperature and learning rate of a step."""
        share = step / max(self.steps, 1)
        first = TEMPERATURES[self.rounding] if self.temperature is None else self.temperature
        temperature = first * min(1.0, math.exp(-self.decay * (share - self.hold)))
        return temperature, self.learning_rate * (0.1 if share >= self.drop else 1.0)


class State(NamedTuple):
    """Where an optimisation is: means over the images."""

    step: int
    bpp: float
    psnr: float
    temperature: float | None = None
    """Of annealing."""


Report = Callable[[State, int], None]
"""Called after each step with its state and the number of steps in all."""


@dataclass(frozen=True)
class Settings:
    """How to encode one picture at one rate point.

    ``lagrangian`` replaces the rate point's weight of the distortion; ``keep_on_interrupt`` makes an
    interrupt end the steps and not the encoding. ``refinements`` are the gradient steps of an encoding that is not
    iterated; without any it takes a fifth of the time.
    """

    rate_point: int
    annealing: Annealing
    beta: float = 0.0
    device: str = "cpu"
    lagrangian: float | None = None
    keep_on_interrupt: bool = False
    refinements: int = 1

    def weight(self, arch: Architecture | PyramidArchitecture) -> float:
        """Weight of the distortion against bits per pixel."""
        return self.lagrangian if self.lagrangian is not None else arch.rate_lambda(self.rate_point)
