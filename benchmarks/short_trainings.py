"""Short trainings behind docs/studies.md: every group from the same start, for equally many steps.

    OMP_NUM_THREADS=1 python -m benchmarks.short_trainings PHOTOS VALIDATION RUNS NAME [NAME...]

Names are those of `CODECS` and `HEADS`, or beginnings of them; what is finished in RUNS is skipped, what was cut off
goes on. Set the three MALLOC_ variables of docs/training.md first.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nicc.architecture import Architecture
from nicc.head import HeadArchitecture
from nicc.model import load_transform
from nicc.training import rate_distortion, realism
from nicc.training.codec import CodecModule
from nicc.training.config import CodecSchedule, RealismConfig, TrainingConfig, load_config
from nicc.training.data import Photos
from nicc.training.growth import BODY, OUT
from nicc.training.objective import RateDistortion
from nicc.training.restore import checkpoint_of
from nicc.training.stage import CHECKPOINT, Run

LAPPED = "lapped.pt"
"""The two-layer model whose analysis is the linear transform alone."""
KERNELS = {16: 0, 18: 2, 26: 10, 32: 16}
"""Kernels of the jpeg-like synthesis, and the overlap of the lapped transform that fits each."""
SENDERS = (("patch", 900), ("patch", 300), ("cnn", 300))
"""Analyses trained for the shipped two-layer receiver, and for how many steps: a step of `cnn` takes seven times as
long as one of `patch`, one of `elic` longer still."""


@dataclass(frozen=True)
class Training:
    """A training from photographs, or from `LAPPED` with everything but the analysis frozen."""

    config: TrainingConfig
    from_lapped: bool = False


def _codecs() -> dict[str, Training]:
    short = CodecSchedule(
        steps=900, batch=4, entropy_steps=100, joint_share=0.6, predictive_share=0.1, ema=0.98, validate_every=300
    )
    jpeg_like, two_layer = (load_config(name) for name in ("jpeg-like", "two-layer"))
    assert isinstance(jpeg_like, TrainingConfig)
    assert isinstance(two_layer, TrainingConfig)
    found = {}
    for kernel, overlap in KERNELS.items():
        arch = replace(jpeg_like.architecture, kernel=kernel)
        found[f"kernel-{kernel}"] = Training(TrainingConfig("kernel", 1, arch, replace(short, overlap=overlap)))
    for name, residual, hidden in (("residual-12", True, 12), ("plain-24", False, 24)):
        arch = replace(two_layer.architecture, residual=residual, hidden_channels=hidden)
        found[name] = Training(TrainingConfig("two-layer", 1, arch, replace(short, overlap=12, steps=600)))
    sender = replace(
        short, entropy_steps=0, joint_share=1.0, predictive_share=0.0, batch=2, sender_only=True, linear_rate=0.0
    )
    for analysis, steps in SENDERS:
        arch = replace(two_layer.architecture, analysis=analysis)
        config = TrainingConfig("two-layer", 1, arch, replace(sender, steps=steps))
        found[f"analysis-{analysis}-{steps}"] = Training(config, from_lapped=True)
    return found


CODECS = _codecs()
HEADS = ("fourier", "table")
HEAD_STEPS = 250


def lapped_start(out: Path, photos: Photos) -> Path:
    """Writes the shipped two-layer model without the network of its analysis, a checkpoint to start from."""
    path = out / LAPPED
    if not path.exists():
        saved = checkpoint_of(Path(str(load_transform("two-layer").folder)), photos)
        torch.manual_seed(0)
        fresh = RateDistortion(CodecModule(Architecture.from_dict(saved["architecture"]))).state_dict()
        saved["average"] |= {k: v for k, v in fresh.items() if k.startswith((BODY, OUT))}
        out.mkdir(parents=True, exist_ok=True)
        torch.save(saved | {"step": 0, "seconds": 0.0, "pixels": 0}, path)
    return path


def train(name: str, data: Path, validation: Path, out: Path, cache: Path | None) -> None:
    run = Run([data], out / name, validation, cache, resume=(out / name / CHECKPOINT).exists())
    if name in CODECS:
        training = CODECS[name]
        if training.from_lapped:
            run = replace(run, begin=lapped_start(out, Photos([data], cache)))
        rate_distortion.train(training.config, run)
    else:
        config = load_config("realism")
        assert isinstance(config, RealismConfig)
        schedule = replace(config.training, steps=HEAD_STEPS, batch=2, ema=0.99, validate_every=HEAD_STEPS // 2)
        realism.train(
            replace(config, head=HeadArchitecture(condition=name), training=schedule),
            replace(run, perceptual=data.parent / "perceptual"),
        )


def finished(folder: Path, steps: int) -> bool:
    checkpoint = folder / CHECKPOINT
    return checkpoint.exists() and int(torch.load(checkpoint, weights_only=True)["step"]) >= steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    for name in (n for n in (*CODECS, *HEADS) if n.startswith(tuple(arguments.names))):
        if not finished(arguments.runs / name, CODECS[name].config.training.steps if name in CODECS else HEAD_STEPS):
            print(name, flush=True)
            train(name, arguments.data, arguments.validation, arguments.runs, arguments.cache)


if __name__ == "__main__":
    main()
