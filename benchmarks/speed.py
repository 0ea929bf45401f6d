"""Where time goes in encoding and decoding, how it grows, and beside what: figures of docs/benchmarks.md.

    python benchmarks/speed.py FOLDER [--json FILE]

Bands of an image are worked on side by side, on as many threads as there are processors. Ratios
compare runs that alternate. OpenBLAS in NumPy below 2 does not know recent processors: where it
falls back to old kernels, set OPENBLAS_CORETYPE (SkylakeX, Zen) or measure with NumPy 2.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import nicc
from nicc.bench.report import environment
from nicc.bench.timing import median_seconds
from nicc.container import unpack
from nicc.decoder import decode as decoder
from nicc.decoder import networks, ops
from nicc.decoder.hyper import dequantise_z, read_z
from nicc.decoder.latents import Visited, walk
from nicc.decoder.render import Renderer, synthesise
from nicc.encoder.encode import encode_plainly
from nicc.encoder.transform import transform_of
from nicc.geometry import Grid
from nicc.images import Picture, save_image, to_image
from nicc.model import Model, load_transform, shipped_transforms
from nicc.threads import one_blas_thread, processors

QUALITY = 32


def median(work: Callable[[], object], repeats: int = 9) -> float:
    return median_seconds(work, repeats)


def decoding_parts(data: bytes) -> dict[str, float]:
    """Seconds of each stage of decoding one file, and how near the first layer comes to the processor's peak."""
    container = unpack(data)
    model = decoder.model_for(container)
    assert isinstance(model, Model)
    header, grid = container.header, Grid.of(container.header)
    y = np.concatenate(list(decoder.group_latents(model, container)))
    renderer = Renderer(model, header.rate_point)
    pixels = synthesise(renderer, [y], header.width, header.height)
    z = dequantise_z(model, header.rate_point, read_z(model, header, container.z, grid))

    def zeros(here: Visited) -> np.ndarray:
        return np.zeros(here.rows.shape, np.int32)

    context = median(lambda: [walk(model, header.rate_point, z, rows, grid.w, zeros) for rows in grid.row_groups()])
    latents = median(lambda: list(decoder.group_latents(model, container)))
    weights = networks.first_kernels(model.architecture, model.params, y.shape[-1])
    rows = np.split(y.reshape(-1, y.shape[-1]), [len(weights[0])], 1)
    flat = [weight.reshape(len(weight), -1) for weight in weights]
    half = np.pad(y, ((1, 1), (1, 1), (0, 0)))
    side = 1536
    a, b = np.random.default_rng(0).random((2, side, side), dtype=np.float32)
    with one_blas_thread():
        product = median(lambda: [r @ f for r, f in zip(rows, flat, strict=False)])
        stride = model.architecture.synthesis_stride
        convolution = median(lambda: ops.transposed_conv(half, weights, stride, int(weights[0].shape[1] == 14)))
        peak = 2 * side**3 / median(lambda: a @ b)
    with tempfile.TemporaryDirectory() as folder:
        image = to_image(Picture(pixels))
        png = median(lambda: save_image(image, Path(folder) / "x.png"))
    return {
        "CDF rows and means": context,
        "entropy decoding, symbols to latents": latents - context,
        "synthesis, all threads": median(lambda: synthesise(renderer, [y], header.width, header.height)),
        "- first matrix product, one thread": product,
        "- overlap-add, one thread": convolution - product,
        "PNG": png,
        "GFLOP/s of the first layer": 2 * len(rows[0]) * sum(f.size for f in flat) / product / 1e9,
        "GFLOP/s of a large product": peak / 1e9,
    }


def encoding_parts(image: Image.Image, model_name: str) -> dict[str, float]:
    """Seconds of each stage of encoding at effort 0."""
    model, picture = load_transform(model_name), Picture(np.asarray(image))
    rate_point = round(QUALITY / 100 * (model.architecture.rate_points - 1))
    analysis = median(lambda: transform_of(model)(picture.pixels))
    plain = median(lambda: encode_plainly(model, picture, rate_point, refine=False))
    whole = median(lambda: encode_plainly(model, picture, rate_point))
    return {
        "analysis": analysis,
        "quantisation and entropy coding": plain - analysis,
        "the gradient step before it": whole - plain,
    }


def run(*command: str | Path) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
    return time.perf_counter() - begun


STARTS = {
    "interpreter": ("-c", "pass"),
    "interpreter, NumPy": ("-c", "import numpy"),
    "start of decode": (
        "-c",
        "import nicc.cli.decode, nicc.decoder.decode, nicc.images, nicc; nicc.load_model({model!r}).params",
    ),
    "start of encode": ("-c", "import nicc.cli.encode, nicc.encoder.encode, nicc; nicc.load_model({model!r}).params"),
    "import torch": ("-c", "import torch"),
}
"""What happens before the first pixel: modules and the model; for comparison, PyTorch."""


def processes(image: Image.Image, model: str, repeats: int = 7) -> dict[str, float]:
    """Median seconds of whole processes, taken in turns, and peak memory in MB."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        image.save(folder / "x.png")
        (folder / "x.nic").write_bytes(nicc.encode(image, model=model, quality=QUALITY))
        encode = ["encode", folder / "x.png", "-o", folder / "y.nic", "-q", str(QUALITY), "--model", model, "--force"]
        decode = ["decode", folder / "x.nic", "-o", folder / "y.png", "--force"]
        commands = {name: [part.format(model=model) for part in command] for name, command in STARTS.items()}
        commands |= {f"nicc {c[0]}": ["-m", "nicc", *map(str, c), "--quiet"] for c in (encode, decode)}
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats):
            for name, command in commands.items():
                times[name].append(run(*command))
        found = {name: float(np.median(t)) for name, t in times.items()}
        child = (
            "import sys; from nicc.cli import app; app(sys.argv[1:], standalone_mode=False); "
            "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')][0])"
        )
        for c in (encode, decode):
            command = [sys.executable, "-c", child, *map(str, c), "--quiet"]
            done = subprocess.run(command, capture_output=True, check=True, text=True)
            found[f"peak MB of {c[0]}"] = int(done.stdout.split()[-1]) / 1024
    return found


def beside_compressai(images: list[Image.Image]) -> dict[str, dict[str, float]]:
    """Decoding in process beside mbt2018-mean's decompress (random weights), same images, alternating."""
    import torch
    from compressai.zoo import mbt2018_mean

    torch.set_num_threads(processors())
    net = mbt2018_mean(quality=4, pretrained=False).eval()
    net.update()
    found = {}
    for model in shipped_transforms():
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
            ratios.append((ours, theirs, theirs / ours))
        found[model] = dict(
            zip(("nicc", "mbt2018-mean", "times faster"), map(float, np.median(ratios, 0)), strict=True)
        )
    return found


def growth(image: Image.Image) -> list[dict[str, float]]:
    """Decoding time and peak memory from 0.4 to 24 megapixels, each in a fresh process."""
    script = (
        "import sys, time, nicc; data = open(sys.argv[1], 'rb').read(); nicc.decode(data);"
        "t = [];\nfor _ in range(3):\n"
        " b = time.perf_counter(); im = nicc.decode(data); t.append(time.perf_counter() - b)\n"
        "print(sorted(t)[1], [l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')][0])"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for tiles in (1, 2, 4, 8):
            whole = Image.new("RGB", (image.width * tiles, image.height * tiles))
            for i in range(tiles**2):
                whole.paste(image, (i % tiles * image.width, i // tiles * image.height))
            path = Path(folder) / "x.nic"
            path.write_bytes(nicc.encode(whole, quality=QUALITY))
            done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, check=True)
            seconds, memory = map(float, done.stdout.split())
            rows.append({"megapixels": whole.width * whole.height / 1e6, "seconds": seconds, "peak MB": memory / 1024})
    return rows


def show(title: str, values: dict[str, Any]) -> None:
    print(title)
    for name, value in values.items():
        print(f"  {name:40} {value if isinstance(value, str) else format(value, '.4g')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    images = []
    for path in sorted(arguments.folder.glob("*.png"))[::4]:
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    found: dict[str, Any] = {"environment": environment(), "models": {}}
    for model in shipped_transforms():
        data = nicc.encode(images[0], model=model, quality=QUALITY)
        facts = {"bytes": len(data), "version": load_transform(model).version}
        parts = {"decoding": decoding_parts(data), "encoding": encoding_parts(images[0], model)}
        found["models"][model] = {**facts, **parts, "processes": processes(images[0], model)}
        for name in ("decoding", "encoding", "processes"):
            show(f"{model}, {name}, seconds:", found["models"][model][name])
    found["beside mbt2018-mean"] = beside_compressai(images)
    for model, values in found["beside mbt2018-mean"].items():
        show(f"{model} beside mbt2018-mean:", values)
    found["growth"] = growth(images[0])
    for row in found["growth"]:
        show("decoding, default model:", row)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
