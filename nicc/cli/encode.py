"""nicc encode: an image to a .nic file."""

from __future__ import annotations

import io
import time

import typer

from nicc.cli import files
from nicc.errors import NiccError


def encode(
    source: str = typer.Argument(..., metavar="IN", help="Image that Pillow can read; - for standard input."),
    output: str | None = typer.Option(None, "-o", "--output", help="File, folder or -; default: IN with .nic."),
    quality: int = typer.Option(32, "-q", "--quality", min=0, max=63, help="Rate point, 0 smallest to 63 best."),
    model: str = typer.Option("two-layer", "--model", help="two-layer, jpeg-like, or a model's folder."),
    beta: float = typer.Option(0.0, "--beta", min=0.0, max=1.0, help="Realism that decoders use by default."),
    strip: bool = typer.Option(False, "--strip", help="Drop ICC profile, EXIF and XMP."),
    force: bool = typer.Option(False, "--force", help="Overwrite an existing file."),
    device: str = typer.Option("cpu", "--device", help="cpu or cuda."),
    verbose: bool = typer.Option(False, "-v", "--verbose", help="Say where bits and time went."),
    quiet: bool = typer.Option(False, "--quiet", help="Print errors only."),
) -> None:
    """Compress an image to a .nic file."""
    from nicc.container import pack
    from nicc.images import from_image, open_image
    from nicc.model import load_model

    begun = time.perf_counter()
    path = files.output_path(source, output, ".nic", force)
    with files.naming(source):
        image = open_image(io.BytesIO(files.read(source)))
        picture, notes = from_image(image, strip=strip)
    for note in notes:
        files.say(f"nicc: {files.shown(source)}: warning: {note}", quiet)
    loaded = load_model(model)
    try:
        from nicc.encoder.encode import encode_picture
    except ImportError as e:
        raise NiccError(f"encoding needs {e.name}; install it with: pip install 'nicc[encode]'") from None
    with files.naming(source):
        encoding = encode_picture(loaded, picture, quality, beta, device)
    data = pack(encoding.container)
    files.write(path, data)
    height, width, _ = picture.pixels.shape
    bpp = len(data) * 8 / (width * height)
    files.say(f"{path or 'standard output'}: {width}x{height}, {len(data)} bytes, {bpp:.3f} bpp", quiet)
    if verbose:
        z, y = len(encoding.container.z), sum(len(g.stream) for g in encoding.container.groups)
        files.say(
            f"  model {loaded.name} v{loaded.version}, rate point {quality}; z {z} bytes, y {y} bytes, "
            f"estimated {encoding.estimated_bits / 8:.0f}; {time.perf_counter() - begun:.2f} s",
            quiet,
        )
