"""nicc decode: a .nic file to an image."""

from __future__ import annotations

import io
import time

import typer

from nicc.cli import files


def decode(
    source: str = typer.Argument(..., metavar="IN", help="A .nic file; - for standard input."),
    output: str | None = typer.Option(None, "-o", "--output", help="File, folder or -; default: IN with .png."),
    force: bool = typer.Option(False, "--force", help="Overwrite an existing file."),
    verbose: bool = typer.Option(False, "-v", "--verbose", help="Say how long it took."),
    quiet: bool = typer.Option(False, "--quiet", help="Print errors only."),
) -> None:
    """Decompress a .nic file to an image; the output's suffix chooses its format."""
    import nicc
    from nicc.images import save_image

    begun = time.perf_counter()
    path = files.output_path(source, output, ".png", force)
    with files.naming(source):
        image = nicc.decode(files.read(source))
    decoded = time.perf_counter()
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
