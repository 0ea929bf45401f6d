"""nicc train: a model from photographs."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nicc.cli.progress import Bar
from nicc.errors import NiccError
from nicc.model import load_transform

if TYPE_CHECKING:
    from types import ModuleType

    from nicc.training.config import AnyConfig
    from nicc.training.config_pyramid import DirectionsConfig, FamilyConfig, PyramidConfig
    from nicc.training.stage import LogReport, Run


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
    config: str = typer.Argument(
        ...,
        metavar="CONFIG",
        help="A TOML file, or two-layer-visual, two-layer, jpeg-like, pyramid, pyramid-family, pyramid-directions, "
        "realism, realism-visual, texture, rectify, directional, directional-psnr, directional-jpeg-like.",
    ),
    data: list[Path] = typer.Option(
        ...,
        "--data",
        exists=True,
        help="Train on the photographs in this folder or tar shard; the option may be repeated.",
    ),
    out: Path | None = typer.Option(
        None, "--out", help="Write checkpoint and log to this folder; without it, to runs/NAME."
    ),
    validation: Path | None = typer.Option(
        None, "--validation", exists=True, help="Validate on the images in this folder."
    ),
    resume: bool = typer.Option(False, "--resume", help="Continue from the checkpoint that is in the folder."),
    begin: Path | None = typer.Option(
        None, "--start", exists=True, help="Start from another model, given by its checkpoint or its folder."
    ),
    time_budget: str | None = typer.Option(
        None, "--time-budget", help="End training after this time, for example 90, 30m or 1.5h."
    ),
    device: str = typer.Option("auto", "--device", help="Compute on this device: auto, cpu or cuda."),
    compiled: bool = typer.Option(False, "--compile", help="Compile the model with torch.compile."),
    amp: bool | None = typer.Option(
        None,
        "--amp/--no-amp",
        help="Use bfloat16 where it does no harm; without either, where the processor is fast at it.",
    ),
    cache: Path = typer.Option(Path(".cache/nicc"), "--cache", help="Keep decoded photographs in this folder."),
    export_to: Path | None = typer.Option(
        None, "--export", help="Write the trained model, or the head of one, to this folder."
    ),
    perceptual: Path | None = typer.Option(
        None,
        "--perceptual",
        exists=True,
        help="Read the features of LPIPS' networks from this folder; without it, torchvision downloads them.",
    ),
    quiet: bool = typer.Option(False, "--quiet", help="Show no progress bar."),
) -> None:
    """Train a variable-rate model on photographs, or a part of one."""
    try:
        import torch

        from nicc.training import rate_distortion, realism, rectify  # noqa: F401 - what they lack is said here
        from nicc.training.config import load_config
        from nicc.training.stage import Run
    except ImportError as e:
        raise NiccError(f"training needs {e.name}; install it with: pip install 'nicc[train]'") from None
    if device not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(f"{device!r} is not auto, cpu or cuda", param_hint="--device")
    if device == "cuda" and not torch.cuda.is_available():
        raise NiccError("no CUDA device found; use --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = load_config(config)
    out = out or Path("runs") / settings.name
    run = Run(data, out, validation, cache, resume, begin, _seconds(time_budget), device, compiled, amp, perceptual)
    first = int(os.environ.get("RANK", "0")) == 0
    with _TrainBar(first and not quiet and sys.stderr.isatty()) as progress:
        checkpoint = _train(settings, run, progress.report)
    if not first:
        return
    typer.echo(f"checkpoint: {checkpoint}", err=True)
    if export_to:
        _export(settings, checkpoint, export_to, run)
        typer.echo(f"model: {export_to}", err=True)


def _pyramid_stage(settings: PyramidConfig | FamilyConfig | DirectionsConfig) -> ModuleType:
    """The module of a stage of pyramids: these need Numba, and are called alike."""
    from nicc.training import config

    names = {config.PyramidConfig: "pyramid", config.FamilyConfig: "family", config.DirectionsConfig: "directions"}
    return import_module(f"nicc.training.{names[type(settings)]}")


def _train(settings: AnyConfig, run: Run, report: LogReport) -> Path:
    """Runs the stage of a configuration; returns the checkpoint."""
    from nicc.training import config, directional, rate_distortion, realism, rectify, texture

    if isinstance(settings, config.RealismConfig):
        return realism.train(settings, run, report)
    if isinstance(settings, config.TextureConfig):
        return texture.train(settings, run, report)
    if isinstance(settings, config.RectifyConfig):
        return rectify.train(settings, run, report)
    if isinstance(settings, config.DirectionalConfig):
        return directional.train(settings, run, report)
    if isinstance(settings, config.TrainingConfig):
        return rate_distortion.train(settings, run, report)
    trained: Path = _pyramid_stage(settings).train(settings, run, report)
    return trained


def _export(settings: AnyConfig, checkpoint: Path, folder: Path, run: Run) -> None:
    """Writes what a stage has trained to a model's folder."""
    from nicc.training import config, directional, realism, rectify, texture
    from nicc.training.data import Photos

    if isinstance(settings, config.RealismConfig):
        realism.export(checkpoint, load_transform(str(folder)))
    elif isinstance(settings, config.TextureConfig):
        texture.export(checkpoint, load_transform(str(folder)))
    elif isinstance(settings, config.RectifyConfig):
        rectify.export(checkpoint, load_transform(str(folder)))
    elif isinstance(settings, config.DirectionalConfig):
        from nicc.training.export import write_card

        model = directional.export(checkpoint, load_transform(str(folder)))
        write_card(model, Photos(run.data, run.cache), run.data, run.validation)
    elif isinstance(settings, config.TrainingConfig):
        from nicc.training.export import export

        export(checkpoint, folder, Photos(run.data, run.cache), run.data, run.validation)
    else:
        _pyramid_stage(settings).export(settings, checkpoint, folder, Photos(run.data, run.cache), run.data)


def _shown(row: dict[str, Any]) -> str:
    more = f", beta {row['beta']:g}, LPIPS {row['lpips']:.3f}" if "beta" in row else ""
    return f"q{row['rate_point']}: {row['psnr']:.2f} dB{more}"


class _TrainBar(Bar):
    """Share of the schedule, elapsed and remaining time; the log file has it all."""

    def __init__(self, shown: bool) -> None:
        super().__init__(shown, ["{task.description}", "BarColumn", "TimeElapsedColumn", "TimeRemainingColumn"], 1.0)

    def report(self, entry: dict[str, Any], progress: float) -> None:
        if "validation" in entry:
            outcome = entry["validation"]
            if "log_costs" in outcome:
                found = [f"log costs {', '.join(f'{c:.3f}' for c in outcome['log_costs'])}"]
            elif "bpp" in outcome["table"][0]:
                found = [f"log cost {outcome['cost']:.4f}"]
            else:
                found = [_shown(row) for row in outcome["table"]]
            self.say(f"step {entry['step']}: validation {', '.join(found)}")
        elif "finest" in entry:
            self.say(f"step {entry['step']}: start {entry['start']:.0f}, log cost {entry['log_cost']:.3f}")
        elif "candidates" in entry:
            scores = ", ".join(f"alpha {c['alpha']:g}: {c['score']:.5f}" for c in entry["candidates"])
            self.say(f"step {entry['step']}: {scores}; goes on: {', '.join(f'{a:g}' for a in entry['kept'])}")
        elif "ended" in entry:
            self.say(f"step {entry['step']}: ended early: {entry['ended']}")
        else:
            text = f"step {entry['step']} loss {entry['loss']:.4f} {entry['pixels_per_second'] / 1e6:.2f} Mpx/s"
            self.show(min(progress, 1.0), 1.0, text)
