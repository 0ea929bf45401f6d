"""nicc decode: .nic files to images, or one file to an image for every realism beta."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nicc.cli import files, many
from nicc.cli.files import bytes_of
from nicc.cli.options import numbers
from nicc.errors import NiccError

if TYPE_CHECKING:
    from PIL import Image

SHEET_BETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
DEFAULT_FORMAT = "png"


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode, the same for every input. The beta None is the file's own."""

    betas: tuple[float | None, ...]
    rectifier: bool
    kind: str
    """Suffix of the file type, where no output name says it."""
    quality: int | None
    crop: tuple[int, int, int, int] | None = None
    reduction: int = 1
    max_pixels: int | None = None
    max_memory: int | None = None


def decode_job(job: many.Job, options: DecodeOptions) -> many.Done:
    """One of many files."""
    from nicc.images import save_image

    data = job.source.read_bytes()
    image = _image(data, options)
    save_image(image, job.output, options.quality)
    return many.Done(len(data), job.output.stat().st_size, image.width * image.height)


def _image(data: bytes, options: DecodeOptions) -> Image.Image:
    import nicc

    try:
        return nicc.decode(
            data,
            beta=options.betas[0],
            rectifier=options.rectifier,
            crop=options.crop,
            reduction=options.reduction,
            max_pixels=options.max_pixels,
            max_memory=options.max_memory,
        )
    except ValueError as e:  # a window outside this image
        raise NiccError(str(e)) from None


def _images(data: bytes, betas: Sequence[float | None], options: DecodeOptions) -> list[Image.Image]:
    import nicc

    return nicc.decode_all(
        data,
        betas,
        rectifier=options.rectifier,
        max_pixels=options.max_pixels,
        max_memory=options.max_memory,
    )


def decode(
    sources: list[str] = typer.Argument(
        ..., metavar="IN...", help="The .nic files, or folders of them, to decode; - is standard input."
    ),
    output: str | None = typer.Option(
        None,
        "-o",
        "--output",
        help="Write to this file, folder or, with -, standard output; without it, to IN with .png.",
    ),
    beta: str | None = typer.Option(
        None,
        "--beta",
        help="Decode with this realism, from 0 to 1 (most detail), or several, such as 0,0.5,1; else the file's own.",
    ),
    sheet: Path | None = typer.Option(None, "--sheet", help="Write crops at rising beta side by side to this image."),
    original: Path | None = typer.Option(
        None, "--original", exists=True, help="Show this image, the original, on the sheet."
    ),
    kind: str | None = typer.Option(
        None, "--format", help="Write this type, such as png, ppm, jpeg or webp, where no output name tells."
    ),
    output_quality: int | None = typer.Option(
        None, "--output-quality", min=0, max=100, help="Write JPEG, WebP or AVIF with this quality."
    ),
    crop: str | None = typer.Option(None, "--crop", metavar="X,Y,W,H", help="Decode only this part, given in pixels."),
    scale: str = typer.Option("1", "--scale", help="Decode at this size, 1, 1/2, 1/4 or 1/8, for thumbnails."),
    rectifier: bool = typer.Option(
        True, "--rectifier/--no-rectifier", help="Use the model's rectifier, if it has one."
    ),
    max_pixels: int | None = typer.Option(
        None, "--max-pixels", min=1, help="Refuse files of more pixels than this; without it, of more than 178 million."
    ),
    max_memory: str | None = typer.Option(
        None,
        "--max-memory",
        metavar="SIZE",
        help="Refuse files that need more memory than this, for example 2GiB, by a rule of thumb.",
    ),
    force: bool = typer.Option(False, "--force", help="Overwrite files that exist."),
    skip_existing: bool = typer.Option(
        False, "--skip-existing", help="With several inputs, leave out those whose output exists."
    ),
    jobs: int = typer.Option(
        1, "-j", "--jobs", min=1, help="Decode this many files at once, each in a process of its own."
    ),
    verbose: bool = typer.Option(False, "-v", "--verbose", help="Say how long decoding took."),
    quiet: bool = typer.Option(False, "--quiet", help="Print nothing but errors."),
) -> None:
    """Decompress .nic files to images; the output's suffix chooses its format."""
    from nicc.images import format_of

    options = DecodeOptions(
        (None,) if beta is None else tuple(numbers(beta, 1, "--beta", "0,0.5,1")),
        rectifier,
        (kind or DEFAULT_FORMAT).lower(),
        output_quality,
        _crop(crop),
        _reduction(scale),
        max_pixels,
        _memory(max_memory),
    )
    format_of(options.kind)
    if kind and output and output != files.PIPE and Path(output).suffix and not Path(output).is_dir():
        raise typer.BadParameter("the output's suffix says the type already", param_hint="--format")
    if many.wanted(sources):
        if sheet or len(options.betas) > 1:
            raise typer.BadParameter(
                "several betas or a sheet need one input", param_hint="--sheet" if sheet else "--beta"
            )
        plan = many.plan(sources, output, {".nic"}, f".{options.kind}", force, skip_existing)
        many.run(partial(decode_job, options=options), plan, jobs, quiet)
        return
    if sheet:
        _write_sheet(sources[0], sheet, original, options, force, quiet)
    elif original:
        raise typer.BadParameter("is shown on a sheet only; give --sheet", param_hint="--original")
    if output or not sheet:
        _decode_one(sources[0], output, options, force, verbose, quiet)


def _decode_one(
    source: str, output: str | None, options: DecodeOptions, force: bool, verbose: bool, quiet: bool
) -> None:
    from nicc.images import format_of, save_image, write_image

    begun, several = time.perf_counter(), len(options.betas) > 1
    path = files.output_path(source, output, f".{options.kind}", force or several)
    if path is None and several:
        raise typer.BadParameter("several images do not fit into standard output", param_hint="--beta")
    if several and (options.crop or options.reduction > 1):
        raise typer.BadParameter("several betas show whole images", param_hint="--beta")
    paths = [path.with_stem(f"{path.stem}-beta{b:g}") if path and several else path for b in options.betas]
    for each in paths:
        files.refuse_overwriting(each, force)
    data = files.read(source)
    with files.naming(source):
        images = _images(data, options.betas, options) if several else [_image(data, options)]
    decoded = time.perf_counter()
    for each, image in zip(paths, images, strict=True):
        if each:
            save_image(image, each, options.quality)
        else:
            buffer = io.BytesIO()
            write_image(image, buffer, format_of(options.kind), options.quality)
            files.write(None, buffer.getvalue())
        files.say(f"{each}: {image.width}x{image.height} {image.mode}", quiet or each is None)
    if verbose:
        saved = time.perf_counter()
        files.say(f"  decoded in {decoded - begun:.3f} s, written in {saved - decoded:.3f} s", quiet)


def _crop(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    try:
        left, top, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not four whole numbers, X,Y,W,H", param_hint="--crop") from None
    return left, top, width, height


def _memory(text: str | None) -> int | None:
    try:
        return None if text is None else bytes_of(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a size such as 2GiB", param_hint="--max-memory") from None


def _reduction(text: str) -> int:
    try:
        return {"1": 1, "1/2": 2, "1/4": 4, "1/8": 8}[text]
    except KeyError:
        raise typer.BadParameter(f"{text!r} is not 1, 1/2, 1/4 or 1/8", param_hint="--scale") from None


def _write_sheet(
    source: str, path: Path, original: Path | None, options: DecodeOptions, force: bool, quiet: bool
) -> None:
    import numpy as np

    from nicc.cli.sheet import contact_sheet
    from nicc.images import open_image, save_image

    betas = [b for b in options.betas if b is not None] or list(SHEET_BETAS)
    files.refuse_overwriting(path, force)
    data = files.read(source)
    with files.naming(source):
        images = _images(data, betas, options)
    versions = [(f"beta {b:g}", np.asarray(image.convert("RGB"))) for b, image in zip(betas, images, strict=True)]
    if original:
        with files.naming(str(original)):
            shown = np.asarray(open_image(io.BytesIO(original.read_bytes())).convert("RGB"))
            if shown.shape != versions[0][1].shape:
                raise NiccError("is not as large as the decoded image")
        versions.insert(0, ("original", shown))
    save_image(contact_sheet(versions), path)
    bpp = len(data) * 8 / (images[0].width * images[0].height)
    files.say(f"{path}: {len(versions)} versions side by side, {bpp:.3f} bpp", quiet)
