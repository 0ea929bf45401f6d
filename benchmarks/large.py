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

from PIL import Image

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
            middle = f"{whole.width // 2 - 256},{whole.height // 2 - 256},512,512"
            corner = f"{whole.width - 512},{whole.height - 512},512,512"
            del whole
            commands = {
                "encode, effort 0": ("encode", source, "-o", coded, "--force", "--quiet"),
                "decode to PNG": ("decode", coded, "-o", out, "--force", "--quiet"),
                "decode, beta 1": ("decode", coded, "-o", out, "--force", "--quiet", "--beta", 1),
                "decode, 512x512 in the middle": ("decode", coded, "-o", out, "--force", "--quiet", "--crop", middle),
                "decode, 512x512 in the corner": ("decode", coded, "-o", out, "--force", "--quiet", "--crop", corner),
                "decode, scale 1/8": ("decode", coded, "-o", out, "--force", "--quiet", "--scale", "1/8"),
            }
            for what, command in commands.items():
                seconds, memory = run(*command)
                print(f"  {what:32} {seconds:7.2f} s  {memory:6.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
