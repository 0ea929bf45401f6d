"""Time and peak memory of large images, each command in a fresh process: figures of docs/benchmarks.md.

    python benchmarks/large.py IMAGE [--megapixels 24 100]

The image is tiled to the wanted sizes. Peaks are those of the whole process as the system counts them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from nicc.container import unpack
from nicc.decoder.decode import Window, model_for
from nicc.decoder.limits import MEBI, memory_needed

Image.MAX_IMAGE_PIXELS = None


def run(*arguments: object) -> tuple[float, float]:
    """Seconds and peak MiB of an nicc command."""
    script = (
        "import resource, sys; from nicc.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    begun = time.perf_counter()
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - begun, int(done.stderr.split()[-1]) / 1024


def expected(coded: Path, *, beta: float = 0.0, window: Window | None = None, reduction: int = 1) -> str:
    """What --max-memory takes a file to need."""
    container = unpack(coded.read_bytes())
    needed = memory_needed(model_for(container), container.header, (beta,), window, reduction)
    return f"--max-memory expects {needed / MEBI:.0f}"


def tiled(image: Image.Image, megapixels: float) -> Image.Image:
    """Repeated to a 3:2 format of so many megapixels."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    whole = Image.new("RGB", (round(height * 1.5), height))
    for x in range(0, whole.width, image.width):
        for y in range(0, height, image.height):
            whole.paste(image, (x, y))
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[24, 100])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Image.open(arguments.image) as image:
        source, coded, out = (Path(folder) / name for name in ("x.ppm", "x.nic", "x.png"))
        for megapixels in arguments.megapixels:
            whole = tiled(image.convert("RGB"), megapixels)
            whole.save(source)
            print(f"{whole.width}x{whole.height}, {megapixels:g} megapixels", flush=True)
            middle = Window(whole.width // 2 - 256, whole.height // 2 - 256, 512, 512)
            corner = Window(whole.width - 512, whole.height - 512, 512, 512)
            del whole
            seconds, memory = run("encode", source, "-o", coded, "--force", "--quiet")
            print(f"  {'encode, effort 0':36} {seconds:7.2f} s  {memory:6.0f} MiB", flush=True)
            decodings: dict[str, tuple[list[object], dict[str, Any]]] = {
                "decode to PNG": ([], {}),
                "decode, beta 1": (["--beta", 1], {"beta": 1.0}),
                "decode, 512x512 in the middle": (["--crop", ",".join(map(str, middle))], {"window": middle}),
                "decode, 512x512 in the corner": (["--crop", ",".join(map(str, corner))], {"window": corner}),
                "decode, scale 1/8": (["--scale", "1/8"], {"reduction": 8}),
            }
            for what, (options, same) in decodings.items():
                seconds, memory = run("decode", coded, "-o", out, "--force", "--quiet", *options)
                print(f"  {what:36} {seconds:7.2f} s  {memory:6.0f} MiB, {expected(coded, **same)}", flush=True)


if __name__ == "__main__":
    main()
