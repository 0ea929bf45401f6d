"""nicc encode: an image to a .nic file."""

from __future__ import annotations

import io
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import typer

from nicc.cli import files, many
from nicc.cli.files import bytes_of
from nicc.cli.progress import Bar
from nicc.container import DEFAULT_MAX_PIXELS
from nicc.encoder.settings import DEFAULT_QUALITY, DEVICES, ROUNDINGS, Options
from nicc.images import image_suffixes
from nicc.model import TUNED

if TYPE_CHECKING:
    from nicc.encoder.encode import Result
    from nicc.encoder.settings import Report, State

MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class Task:
    """What is the same for every input: how to read it, and how to encode it."""

    options: Options
    strip: bool
    srgb: bool
    max_pixels: int = DEFAULT_MAX_PIXELS


def encode_bytes(data: bytes, task: Task, report: Report | None = None) -> tuple[Result, list[str]]:
    """Encodes an image file; returns warnings as well. Raises `NiccError`."""
    from nicc.encoder.entry import encode_picture
    from nicc.images import from_image, open_image

    picture, notes = from_image(open_image(io.BytesIO(data), task.max_pixels), strip=task.strip, srgb=task.srgb)
    return encode_picture(picture, task.options, report), notes


def encode_job(job: many.Job, task: Task) -> many.Done:
    """One of many files."""
    data = job.source.read_bytes()
    result, notes = encode_bytes(data, task)
    files.write(job.output, result.data)
    height, width, _ = result.picture.pixels.shape
    return many.Done(
        len(data),
        len(result.data),
        height * width,
        (*(f"warning: {n}" for n in notes), *(f"note: {n}" for n in result.notes)),
    )


def encode(
    sources: list[str] = typer.Argument(
        ..., metavar="IN...", help="The images, or folders of them, to encode; - is standard input."
    ),
    output: str | None = typer.Option(
        None,
        "-o",
        "--output",
        help="Write to this file, folder or, with -, standard output; without it, to IN with .nic.",
    ),
    quality: int | None = typer.Option(
        None,
        "-q",
        "--quality",
        min=0,
        max=100,
        help=f"Encode with this quality, from 0 (smallest) to 100 (best); without it, with {DEFAULT_QUALITY}.",
    ),
    target_bpp: float | None = typer.Option(
        None, "--target-bpp", help="Spend at most this many bits per pixel, at the best quality that they allow."
    ),
    target_size: str | None = typer.Option(
        None,
        "--target-size",
        help="Write at most this many bytes, for example 20000, 20kB or 20KiB, at the best quality that they allow.",
    ),
    target_psnr: float | None = typer.Option(
        None, "--target-psnr", help="Reach at least this PSNR in dB in the smallest file."
    ),
    target_ssimulacra2: float | None = typer.Option(
        None,
        "--target-ssimulacra2",
        help="Reach at least this SSIMULACRA 2, for example 70, in the smallest file.",
    ),
    effort: int = typer.Option(
        0,
        "-e",
        "--effort",
        min=0,
        max=3,
        help="Take 1, 8 or 32 gradient steps (0 to 2), or anneal for 500 (3, PyTorch). pyramid: 200 to 10000 steps.",
    ),
    sga_steps: int | None = typer.Option(
        None,
        "--sga-steps",
        min=0,
        max=MOST_STEPS,
        help="Iterate for this many steps (PyTorch), or fit pyramid for them.",
    ),
    sga_rounding: str = typer.Option(
        "sigmoid",
        "--sga-rounding",
        help="Relax rounding in iterative encoding in this way: sigmoid, atanh or three-class.",
    ),
    seed: int = typer.Option(
        0, "--seed", help="Seed the random rounding; the same seed gives the same file on the same machine."
    ),
    tune: str | None = typer.Option(
        None,
        "--tune",
        help="Choose the model that keeps what people see (visual, the default) or has the least squared error (psnr).",
    ),
    model: str | None = typer.Option(
        None,
        "--model",
        help="Encode with this model: two-layer-visual, two-layer, jpeg-like, pyramid, or a folder; without it, --tune "
        "chooses.",
    ),
    lossless: bool | None = typer.Option(
        None,
        "--lossless/--no-lossless",
        help="Store all pixels exactly, or none; without either, what is graphic is stored so where that is better.",
    ),
    beta: float = typer.Option(
        0.0,
        "--beta",
        min=0.0,
        max=1.0,
        help="Code for realism, of which decoders use this much unless they are told otherwise.",
    ),
    strip: bool = typer.Option(False, "--strip", help="Leave out ICC profile, EXIF and XMP."),
    srgb: bool = typer.Option(False, "--srgb", help="Convert colours to sRGB by the ICC profile, and drop it."),
    max_pixels: int = typer.Option(
        DEFAULT_MAX_PIXELS, "--max-pixels", min=1, help="Refuse images of more pixels than this."
    ),
    force: bool = typer.Option(False, "--force", help="Overwrite files that exist."),
    skip_existing: bool = typer.Option(
        False, "--skip-existing", help="With several inputs, leave out those whose output exists."
    ),
    jobs: int = typer.Option(
        1, "-j", "--jobs", min=1, help="Encode this many files at once, each in a process of its own."
    ),
    dask: str | None = typer.Option(None, "--dask", metavar="ADDRESS", help="Encode on this Dask scheduler's workers."),
    device: str = typer.Option("auto", "--device", help="Compute on this device: auto, cpu or cuda."),
    keep: bool = typer.Option(False, "--keep-on-interrupt", help="On Ctrl-C, write the best so far."),
    verbose: bool = typer.Option(False, "-v", "--verbose", help="Say where bits and time went."),
    quiet: bool = typer.Option(False, "--quiet", help="Print nothing but errors."),
) -> None:
    """Compress images to .nic files."""
    size = _checked_targets(quality, target_bpp, target_size, target_psnr, target_ssimulacra2)
    if sga_rounding not in ROUNDINGS:
        raise typer.BadParameter(f"{sga_rounding!r} is not one of {', '.join(ROUNDINGS)}", param_hint="--sga-rounding")
    if tune not in (None, *TUNED):
        raise typer.BadParameter(f"{tune!r} is not one of {', '.join(TUNED)}", param_hint="--tune")
    if device not in DEVICES:
        raise typer.BadParameter(f"{device!r} is not one of {', '.join(DEVICES)}", param_hint="--device")
    try:
        options = Options(
            model=model,
            tune=tune,
            quality=quality,
            target_bpp=target_bpp,
            target_size=size,
            target_psnr=target_psnr,
            target_ssimulacra2=target_ssimulacra2,
            effort=effort,
            steps=sga_steps,
            rounding=sga_rounding,
            seed=seed,
            beta=beta,
            device=device,
            keep_on_interrupt=keep,
            lossless=lossless,
        )
    except ValueError as e:
        raise typer.BadParameter(str(e)) from None
    task = Task(options, strip, srgb, max_pixels)
    if many.wanted(sources) or dask:
        plan = many.plan(sources, output, image_suffixes(), ".nic", force, skip_existing)
        many.run(partial(encode_job, task=task), plan, jobs, quiet, dask)
    else:
        _encode_one(sources[0], output, task, force, verbose, quiet)


def _encode_one(source: str, output: str | None, task: Task, force: bool, verbose: bool, quiet: bool) -> None:
    begun = time.perf_counter()
    path = files.output_path(source, output, ".nic", force)
    data = files.read(source)
    with files.naming(source), _EncodeBar(not quiet and sys.stderr.isatty()) as progress:
        result, notes = encode_bytes(data, task, progress.report)
    for note in notes:
        files.say(f"nicc: {files.shown(source)}: warning: {note}", quiet)
    files.write(path, result.data)
    height, width, _ = result.picture.pixels.shape
    bpp = len(result.data) * 8 / (width * height)
    files.say(f"{path or 'standard output'}: {width}x{height}, {len(result.data)} bytes, {bpp:.3f} bpp", quiet)
    from nicc.encoder.encode import NOT_LOWER

    for note in result.notes:
        if verbose or note != NOT_LOWER:
            files.say(f"nicc: {files.shown(source)}: note: {note}", quiet)
    if verbose and result.model:
        container, loaded = result.encoding.container, result.model
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


def _checked_targets(
    quality: int | None, bpp: float | None, size: str | None, psnr: float | None, ssimulacra2: float | None
) -> int | None:
    """The size in bytes, if that is the target. Raises `typer.BadParameter` for targets that are none."""
    if sum(t is not None for t in (quality, bpp, size, psnr, ssimulacra2)) > 1:
        raise typer.BadParameter("give one of --quality and the targets, --target-bpp and the like")
    if ssimulacra2 is not None and not 0 < ssimulacra2 < 100:
        raise typer.BadParameter(f"{ssimulacra2} is not within 0 to 100", param_hint="--target-ssimulacra2")
    if bpp is not None and not 0 < bpp < 100:
        raise typer.BadParameter(f"{bpp} is not a number of bits per pixel", param_hint="--target-bpp")
    if psnr is not None and not 0 < psnr < 100:
        raise typer.BadParameter(f"{psnr} is not a PSNR in dB", param_hint="--target-psnr")
    try:
        return None if size is None else bytes_of(size)
    except ValueError:
        raise typer.BadParameter(f"{size!r} is not a size such as 20kB", param_hint="--target-size") from None


class _EncodeBar(Bar):
    """Step, bits, PSNR, temperature of annealing, and remaining time."""

    def __init__(self, shown: bool) -> None:
        super().__init__(shown, ["BarColumn", "MofNCompleteColumn", "{task.description}", "TimeRemainingColumn"])

    def report(self, state: State, total: int) -> None:
        text = f"{state.bpp:.3f} bpp {state.psnr:.2f} dB"
        if state.temperature is not None:
            text += f", temperature {state.temperature:.2f}"
        self.show(state.step, total, text)
