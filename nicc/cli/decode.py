"""nicc decode: a .nic file to an image, or to one for every realism beta."""

from __future__ import annotations

import io
import time
from pathlib import Path

import typer

from nicc.cli import files
from nicc.errors import NiccError

SHEET_BETAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def decode(
    source: str = typer.Argument(..., metavar="IN", help="A .nic file; - for standard input."),
    output: str | None = typer.Option(None, "-o", "--output", help="File, folder or -; default: IN with .png."),
    beta: str | None = typer.Option(
        None, "--beta", help="Realism: 0 (least error) to 1 (most detail), or several: 0,0.5,1. Default: the file's."
    ),
    sheet: Path | None = typer.Option(None, "--sheet", help="Write crops at rising beta side by side to this image."),
    original: Path | None = typer.Option(None, "--original", exists=True, help="The original, shown on the sheet."),
    rectifier: bool = typer.Option(True, "--rectifier/--no-rectifier", help="Use the model's rectifier, if any."),
    force: bool = typer.Option(False, "--force", help="Overwrite an existing file."),
    verbose: bool = typer.Option(False, "-v", "--verbose", help="Say how long it took."),
    quiet: bool = typer.Option(False, "--quiet", help="Print errors only."),
) -> None:
    """Decompress a .nic file to an image; the output's suffix chooses its format."""
    import nicc
    from nicc.images import save_image

    betas = _betas(beta)
    if sheet:
        _write_sheet(source, sheet, original, [b for b in betas if b is not None] or list(SHEET_BETAS), force, quiet)
        if not output:
            return
    elif original:
        raise typer.BadParameter("is shown on a sheet only; give --sheet", param_hint="--original")
    begun = time.perf_counter()
    path = files.output_path(source, output, ".png", force or len(betas) > 1)
    if path is None and len(betas) > 1:
        raise typer.BadParameter("several images do not fit into standard output", param_hint="--beta")
    paths = [path if path is None or len(betas) == 1 else path.with_stem(f"{path.stem}-beta{b:g}") for b in betas]
    for p in paths:
        files.refuse_overwriting(p, force)
    data = files.read(source)
    with files.naming(source):
        images = nicc.decode_all(data, betas, rectifier=rectifier)
    decoded = time.perf_counter()
    for path, image in zip(paths, images, strict=True):
        if path is None:
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            files.write(None, buffer.getvalue())
        else:
            save_image(image, path)
        files.say(f"{path or 'standard output'}: {image.width}x{image.height} {image.mode}", quiet or path is None)
    if verbose:
        saved = time.perf_counter()
        files.say(f"  decoded in {decoded - begun:.3f} s, written in {saved - decoded:.3f} s", quiet)


def _betas(text: str | None) -> list[float | None]:
    """The values of --beta; None is the file's own."""
    if text is None:
        return [None]
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number or several, as in 0,0.5,1", param_hint="--beta") from None
    for value in values:
        if not 0 <= value <= 1:
            raise typer.BadParameter(f"{value:g} is not within 0..1", param_hint="--beta")
    return list(dict.fromkeys(values))


def _write_sheet(source: str, path: Path, original: Path | None, betas: list[float], force: bool, quiet: bool) -> None:
    import numpy as np

    import nicc
    from nicc.images import open_image, save_image
    from nicc.sheet import contact_sheet

    files.refuse_overwriting(path, force)
    data = files.read(source)
    with files.naming(source):
        images = nicc.decode_all(data, betas)
        versions = [(f"beta {b:g}", np.asarray(image.convert("RGB"))) for b, image in zip(betas, images, strict=True)]
    if original:
        with files.naming(str(original)):
            shown = np.asarray(open_image(io.BytesIO(original.read_bytes())).convert("RGB"))
            if shown.shape != versions[0][1].shape:
                raise NiccError("is not as large as the decoded image")
        versions.insert(0, ("original", shown))
    bpp = len(data) * 8 / (images[0].width * images[0].height)
    sheet = contact_sheet(versions)
    save_image(sheet, path)
    files.say(f"{path}: {len(versions)} versions side by side, {bpp:.3f} bpp", quiet)
