"""Where decoding time goes, how it scales, and beside what: figures of docs/benchmarks.md.

    OPENBLAS_NUM_THREADS=1 python benchmarks/speed.py FOLDER

Matrix products get one thread each, since bands are decoded on as many threads as there are
processors, like the command line does it. Ratios compare runs that alternate.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from PIL import Image

import nicc
from nicc.bench.timing import median_seconds
from nicc.container import unpack
from nicc.decoder import decode as decoder
from nicc.decoder import ops
from nicc.decoder.latents import Grid, dequantise_z, read_z, walk
from nicc.images import Picture, save_image, to_image

QUALITY = 32


def median(work: Callable[[], object], repeats: int = 9) -> float:
    return median_seconds(work, repeats)


def parts(data: bytes) -> None:
    """Milliseconds of each stage of decoding one file."""
    container = unpack(data)
    model = decoder.model_for(container)
    header, grid = container.header, Grid.of(container.header)
    y = np.concatenate(list(decoder.group_latents(model, container)))
    renderer = decoder.Renderer(model, header.rate_point)
    pixels = decoder.synthesise(renderer, [y], header.width, header.height)
    z = dequantise_z(model, header.rate_point, read_z(model, header, container.z, grid))

    def zeros(rows: np.ndarray, *_: object) -> np.ndarray:
        return np.zeros(rows.shape, np.int32)

    context = median(lambda: [walk(model, header.rate_point, z, a, b, grid.w, zeros) for a, b in grid.row_groups()])
    latents = median(lambda: list(decoder.group_latents(model, container)))
    synthesis = median(lambda: decoder.synthesise(renderer, [y], header.width, header.height))
    weight = model.params["synthesis_in"]
    rows = y.reshape(-1, y.shape[-1])
    flat = weight.reshape(len(weight), -1)
    product = median(lambda: rows @ flat)
    half = np.pad(y, ((1, 1), (1, 1), (0, 0)))
    convolution = median(
        lambda: ops.transposed_conv(half, weight, model.architecture.synthesis_stride, int(weight.shape[1] == 14))
    )
    with tempfile.TemporaryDirectory() as folder:
        image = to_image(Picture(pixels))
        png = median(lambda: save_image(image, Path(folder) / "x.png"))
    print(f"{model.name}, {header.width}x{header.height}, {len(data)} bytes, rate point {header.rate_point}:")
    for what, seconds in [
        ("CDF rows and means", context),
        ("entropy decoding, symbols to latents", latents - context),
        ("synthesis, two bands at a time", synthesis),
        ("  its first matrix product, one thread", product),
        ("  its overlap-add, one thread", convolution - product),
        ("PNG", png),
    ]:
        print(f"  {what:40} {seconds * 1000:7.1f} ms")
    side = 1536
    a, b = np.random.default_rng(0).random((2, side, side), dtype=np.float32)
    peak = 2 * side**3 / median(lambda: a @ b)
    got = 2 * rows.shape[0] * flat.size / product
    print(f"  first layer {got / 1e9:.0f} GFLOP/s, measured peak {peak / 1e9:.0f}: {peak / got:.2f} x below")


def processes(path: Path, repeats: int = 7) -> None:
    """nicc decode as a whole process beside `import torch`; its peak memory."""
    commands = {
        "nicc decode": [
            sys.executable,
            "-m",
            "nicc",
            "decode",
            str(path),
            "-o",
            str(path) + ".png",
            "--force",
            "--quiet",
        ],
        "import torch": [sys.executable, "-c", "import torch"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    for _ in range(repeats + 1):
        for name, command in commands.items():
            begun = time.perf_counter()
            subprocess.run(command, check=True, env=environment)
            times[name].append(time.perf_counter() - begun)
    ours, torch = (float(np.median(t[1:])) for t in times.values())
    print(f"whole process: nicc decode {ours:.3f} s, import torch {torch:.3f} s, ratio {ours / torch:.3f}")
    child = (
        "import sys; from nicc.cli import app; app(sys.argv[1:], standalone_mode=False); "
        "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')][0])"
    )
    arguments = [sys.executable, "-c", child, *commands["nicc decode"][3:]]
    done = subprocess.run(arguments, capture_output=True, check=True, env=environment)
    print(f"peak memory of nicc decode: {int(done.stdout) / 1024:.0f} MB")


def beside_compressai(images: list[Image.Image]) -> None:
    """Decoding in process beside mbt2018-mean's decompress (random weights), same images, alternating."""
    import torch
    from compressai.zoo import mbt2018_mean

    processors = len(os.sched_getaffinity(0))
    torch.set_num_threads(processors)
    net = mbt2018_mean(quality=4, pretrained=False).eval()
    net.update()
    for model in ("two-layer", "jpeg-like"):
        ratios = []
        for image in images:
            data = nicc.encode(image, model=model, quality=QUALITY)
            x = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None].float() / 255
            with torch.inference_mode():
                coded = net.compress(x)
                pairs = []
                for _ in range(6):
                    a = median(partial(nicc.decode, data), 1)
                    b = median(partial(net.decompress, coded["strings"], coded["shape"]), 1)
                    pairs.append((a, b))
            ours, theirs = np.median(pairs, 0)
            ratios.append((ours, theirs, ours / theirs))
        ours, theirs, ratio = np.median(ratios, 0)
        print(
            f"{model}: {ours * 1000:.0f} ms, mbt2018-mean {theirs * 1000:.0f} ms, "
            f"ratio 1/{1 / ratio:.1f} ({processors} threads)"
        )


def growth(image: Image.Image) -> None:
    """Decoding time per pixel and peak memory from 0.4 to 24 megapixels, each in a fresh process."""
    script = (
        "import sys, time, nicc; data = open(sys.argv[1], 'rb').read(); nicc.decode(data);"
        "t = [];\nfor _ in range(3):\n"
        " b = time.perf_counter(); im = nicc.decode(data); t.append(time.perf_counter() - b)\n"
        "print(sorted(t)[1], [l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')][0])"
    )
    with tempfile.TemporaryDirectory() as folder:
        for tiles_x, tiles_y in ((1, 1), (2, 2), (4, 4), (8, 8)):
            whole = Image.new("RGB", (image.width * tiles_x, image.height * tiles_y))
            for i in range(tiles_x):
                for j in range(tiles_y):
                    whole.paste(image, (i * image.width, j * image.height))
            path = Path(folder) / "x.nic"
            path.write_bytes(nicc.encode(whole, quality=QUALITY))
            done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, check=True)
            seconds, memory = map(float, done.stdout.split())
            memory /= 1024
            pixels = whole.width * whole.height / 1e6
            print(
                f"{pixels:5.1f} megapixels: {seconds:.3f} s, {seconds / pixels * 1000:.0f} ms per megapixel, "
                f"peak {memory:.0f} MB, {memory / (pixels * 3):.1f} x the output"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    images = []
    for path in sorted(arguments.folder.glob("*.png"))[::4]:
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    with tempfile.TemporaryDirectory() as folder:
        for model in ("two-layer", "jpeg-like"):
            data = nicc.encode(images[0], model=model, quality=QUALITY)
            parts(data)
            path = Path(folder) / "x.nic"
            path.write_bytes(data)
            processes(path)
    beside_compressai(images)
    growth(images[0])


if __name__ == "__main__":
    main()
