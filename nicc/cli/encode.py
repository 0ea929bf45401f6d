"""nicc encode: an image to a .nic file."""

from __future__ import annotations

import io
import sys
import time
from typing import TYPE_CHECKING, Any

import typer

from nicc.cli import files
from nicc.cli.progress import Bar
from nicc.errors import NiccError

if TYPE_CHECKING:
    from nicc.encoder.iterative import State

MOST_STEPS = 1_000_000


def encode(
    source: str = typer.Argument(..., metavar="IN", help="Image that Pillow can read; - for standard input."),
    output: str | None = typer.Option(None, "-o", "--output", help="File, folder or -; default: IN with .nic."),
    quality: int | None = typer.Option(
        None, "-q", "--quality", min=0, max=63, help="Rate point, 0 smallest to 63 best; default 32."
    ),
    target_bpp: float | None = typer.Option(None, "--target-bpp", help="At most this many bits per pixel."),
    target_size: str | None = typer.Option(None, "--target-size", help="At most this size: 20000, 20kB, 20KiB."),
    target_psnr: float | None = typer.Option(None, "--target-psnr", help="At least this PSNR in dB."),
    effort: int = typer.Option(0, "-e", "--effort", min=0, max=3, help="0 plain; 1 to 3 iterate 100, 500, 2000 steps."),
    sga_steps: int | None = typer.Option(
        None, "--sga-steps", min=0, max=MOST_STEPS, help="Steps of iterative encoding, instead of --effort."
    ),
    sga_rounding: str = typer.Option("sigmoid", "--sga-rounding", help="sigmoid, atanh or three-class."),
    seed: int = typer.Option(0, "--seed", help="Of the random rounding; the same seed gives the same file."),
    model: str = typer.Option("two-layer", "--model", help="two-layer, jpeg-like, or a model's folder."),
    beta: float = typer.Option(0.0, "--beta", min=0.0, max=1.0, help="Realism that decoders use by default."),
    strip: bool = typer.Option(False, "--strip", help="Drop ICC profile, EXIF and XMP."),
    force: bool = typer.Option(False, "--force", help="Overwrite an existing file."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda."),
    keep: bool = typer.Option(False, "--keep-on-interrupt", help="On Ctrl-C, write the best so far."),
    verbose: bool = typer.Option(False, "-v", "--verbose", help="Say where bits and time went."),
    quiet: bool = typer.Option(False, "--quiet", help="Print errors only."),
) -> None:
    """Compress an image to a .nic file."""
    from nicc.images import from_image, open_image
    from nicc.model import load_model

    begun = time.perf_counter()
    if sum(t is not None for t in (quality, target_bpp, target_size, target_psnr)) > 1:
        raise typer.BadParameter("give one of --quality, --target-bpp, --target-size and --target-psnr")
    path = files.output_path(source, output, ".nic", force)
    with files.naming(source):
        image = open_image(io.BytesIO(files.read(source)))
        picture, notes = from_image(image, strip=strip)
    for note in notes:
        files.say(f"nicc: {files.shown(source)}: warning: {note}", quiet)
    loaded = load_model(model)
    try:
        from nicc.encoder import effort as encoder
        from nicc.encoder.iterative import ROUNDINGS, Schedule
        from nicc.encoder.targets import encode_to_target
    except ImportError as e:
        raise NiccError(f"encoding needs {e.name}; install it with: pip install 'nicc[encode]'") from None
    if sga_rounding not in ROUNDINGS:
        raise typer.BadParameter(f"{sga_rounding!r} is not one of {', '.join(ROUNDINGS)}", param_hint="--sga-rounding")
    height, width, _ = picture.pixels.shape
    target = _target(target_bpp, target_size, target_psnr, width * height)
    schedule = Schedule(encoder.EFFORT_STEPS[effort] if sga_steps is None else sga_steps, sga_rounding, seed=seed)
    settings = encoder.Settings(
        32 if quality is None else quality, schedule, beta, encoder.choose_device(device), keep_on_interrupt=keep
    )
    with files.naming(source), _Progress(not quiet and schedule.steps > 0 and sys.stderr.isatty()) as progress:
        if target:
            result = encode_to_target(loaded, picture, target, settings, progress.report)
        else:
            result = encoder.encode(loaded, picture, settings, progress.report)
    files.write(path, result.data)
    bpp = len(result.data) * 8 / (width * height)
    files.say(f"{path or 'standard output'}: {width}x{height}, {len(result.data)} bytes, {bpp:.3f} bpp", quiet)
    for note in result.notes:
        if verbose or note != encoder.NOT_LOWER:
            files.say(f"nicc: {files.shown(source)}: note: {note}", quiet)
    if verbose:
        container = result.encoding.container
        z, y = len(container.z), sum(len(g.stream) for g in container.groups)
        files.say(
            f"  model {loaded.name} v{loaded.version}, rate point {container.header.rate_point}, "
            f"PSNR {result.psnr:.2f} dB; z {z} bytes, y {y} bytes, "
            f"estimated {result.encoding.estimated_bits / 8:.0f}; {time.perf_counter() - begun:.2f} s",
            quiet,
        )
        if result.plain_cost:
            gain = 100 * (1 - result.cost / result.plain_cost)
            files.say(f"  iterating lowered bits + lambda MSE by {gain:.1f} %", quiet)


def _target(bpp: float | None, size: str | None, psnr: float | None, pixels: int) -> Any:
    from nicc.encoder.targets import Target, bytes_of

    if bpp is not None:
        if not 0 < bpp < 100:
            raise typer.BadParameter(f"{bpp} is not a number of bits per pixel", param_hint="--target-bpp")
        return Target(size=int(bpp * pixels / 8))
    if size is not None:
        try:
            return Target(size=bytes_of(size))
        except ValueError:
            raise typer.BadParameter(f"{size!r} is not a size such as 20kB", param_hint="--target-size") from None
    if psnr is not None:
        if not 0 < psnr < 100:
            raise typer.BadParameter(f"{psnr} is not a PSNR in dB", param_hint="--target-psnr")
        return Target(psnr=psnr)
    return None


class _Progress(Bar):
    """Step, bits, PSNR, temperature and remaining time."""

    def __init__(self, shown: bool) -> None:
        super().__init__(shown, ["BarColumn", "MofNCompleteColumn", "{task.description}", "TimeRemainingColumn"])

    def report(self, state: State, total: int) -> None:
        text = f"{state.bpp:.3f} bpp {state.psnr:.2f} dB, temperature {state.temperature:.2f}"
        self.show(state.step, total, text)
