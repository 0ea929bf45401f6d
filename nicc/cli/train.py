"""nicc train: a model from photographs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import typer

from nicc.cli.progress import Bar
from nicc.errors import NiccError


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise typer.BadParameter(f"{text!r} is not a time such as 90, 30m or 1.5h")
    return value


def train(
    config: str = typer.Argument(..., metavar="CONFIG", help="A TOML file, or two-layer or jpeg-like."),
    data: list[Path] = typer.Option(..., "--data", exists=True, help="Folder or tar shard of photographs; repeatable."),
    out: Path | None = typer.Option(None, "--out", help="Folder of checkpoint and log; default runs/NAME."),
    validation: Path | None = typer.Option(None, "--validation", exists=True, help="Folder of validation images."),
    resume: bool = typer.Option(False, "--resume", help="Continue from the checkpoint in the folder."),
    begin: Path | None = typer.Option(None, "--start", exists=True, help="Start from another model's checkpoint."),
    time_budget: str | None = typer.Option(None, "--time-budget", help="End after this time: 90, 30m, 1.5h."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda."),
    compiled: bool = typer.Option(False, "--compile", help="Use torch.compile."),
    amp: bool = typer.Option(True, help="bfloat16 where it does no harm."),
    cache: Path = typer.Option(Path(".cache/nicc"), "--cache", help="Folder for decoded photographs."),
    export_to: Path | None = typer.Option(None, "--export", help="Write the model to this folder afterwards."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress bar."),
) -> None:
    """Train a variable-rate model on photographs."""
    try:
        import torch

        from nicc.training.config import TrainingConfig
        from nicc.training.data import Photos
        from nicc.training.rate_distortion import Run
        from nicc.training.rate_distortion import train as run_training
    except ImportError as e:
        raise NiccError(f"training needs {e.name}; install it with: pip install 'nicc[train]'") from None
    if device not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(f"{device!r} is not auto, cpu or cuda", param_hint="--device")
    if device == "cuda" and not torch.cuda.is_available():
        raise NiccError("no CUDA device found; use --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = TrainingConfig.load(config)
    out = out or Path("runs") / settings.name
    run = Run(data, out, validation, cache, resume, begin, _seconds(time_budget), device, compiled, amp)
    first = int(os.environ.get("RANK", "0")) == 0
    with _Progress(first and not quiet and sys.stderr.isatty()) as progress:
        checkpoint = run_training(settings, run, progress.report)
    if not first:
        return
    typer.echo(f"checkpoint: {checkpoint}", err=True)
    if export_to:
        from nicc.training.export import export

        export(checkpoint, export_to, Photos(data, cache), data, validation)
        typer.echo(f"model: {export_to}", err=True)


class _Progress(Bar):
    """Share of the schedule, elapsed and remaining time; the log file has it all."""

    def __init__(self, shown: bool) -> None:
        super().__init__(shown, ["{task.description}", "BarColumn", "TimeElapsedColumn", "TimeRemainingColumn"], 1.0)

    def report(self, entry: dict[str, Any], progress: float) -> None:
        if "validation" in entry:
            self.say(f"step {entry['step']}: validation log cost {entry['validation']['cost']:.4f}")
        else:
            text = f"step {entry['step']} loss {entry['loss']:.4f} {entry['pixels_per_second'] / 1e6:.2f} Mpx/s"
            self.show(min(progress, 1.0), 1.0, text)
