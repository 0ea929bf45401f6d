"""What the short trainings of `benchmarks.short_trainings` came to: tables and pictures of docs/studies.md.

    python -m benchmarks.short_results RUNS KODAK [--shown FILE]

Rate-distortion is that of averaged weights as `nicc.training.rate_distortion.validate` has it, symbols as the
encoder writes them, on the middle 384x384 pixels: of validation photographs as logged, of all Kodak images here.
Of trained analyses, folders are written that ``benchmarks/iterative.py --model`` takes.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.short_trainings import CODECS, HEADS, KERNELS
from benchmarks.studies import save
from nicc.arrays import macs_per_pixel
from nicc.bench.bd import bd_rate
from nicc.bench.report import environment
from nicc.model import digest, load_transform
from nicc.training.codec import CodecModule
from nicc.training.export import encoder_arrays
from nicc.training.folder import write_parts
from nicc.training.objective import RateDistortion
from nicc.training.rate_distortion import validate
from nicc.training.stage import CHECKPOINT, LOG, validation_images

PICTURES = Path(__file__).parent.parent / "docs" / "figures"
SHOWN_POINT, SHOWN_SIDE, ENLARGED = 9.0, 96, 3
"""Rate point of the pictures of kernels, side of what is shown in pixels, and by how much it is enlarged."""
REFERENCES = {"kernel": "kernel-32", "plain": "residual-12"}
"""What a group's BD-rates are against, by the beginning of its names."""


def trained(folder: Path) -> RateDistortion:
    """A finished training's averaged weights."""
    saved = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    model = RateDistortion(CodecModule(CODECS[folder.name].config.architecture))
    model.load_state_dict(saved["average"])
    return model.eval()


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def curve(table: list[dict[str, float]]) -> dict[str, list[float]]:
    return {"bpp": [row["bpp"] for row in table], "psnr-rgb": [row["psnr"] for row in table]}


def codecs(runs: Path, kodak: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, training in CODECS.items():
        folder = runs / name
        last = entries(folder)[-1] if (folder / CHECKPOINT).exists() else {}
        if "validation" not in last or last["step"] < training.config.training.steps:
            print(f"{name}: not finished, left out")
            continue
        facts = {"steps": last["step"], "seconds": last["seconds"], "cost": last["validation"]["cost"]}
        facts |= {"macs": macs_per_pixel(training.config.architecture), "validation": last["validation"]["table"]}
        if not training.from_lapped:
            facts["kodak"] = validate(trained(folder), kodak)["table"]
        found[name] = facts
    for beginning, reference in REFERENCES.items():
        for name in (n for n in found if n.startswith(beginning) and reference in found):
            for images in ("validation", "kodak"):
                bd = bd_rate(curve(found[reference][images]), curve(found[name][images]))
                found[name][f"BD-rate on {images}"] = bd.percent if bd else None
    return found


def heads(runs: Path) -> dict[str, Any]:
    found = {}
    for name in HEADS:
        if (runs / name / CHECKPOINT).exists():
            last = entries(runs / name)[-1]
            found[name] = {"steps": last["step"], "seconds": last["seconds"], "table": last["validation"]["table"]}
    return found


def as_model(folder: Path) -> None:
    """Writes the two-layer model with a trained analysis into the run's folder ``model``; its decoder is the same."""
    base = load_transform("two-layer")
    assert base.folder is not None
    arch = CODECS[folder.name].config.architecture.to_dict()
    encoder = encoder_arrays(trained(folder).codec)
    description = {
        **base.description,
        "architecture": arch,
        "decoder_sha256": digest(base.arrays, arch),
        "encoder_sha256": digest(encoder, arch),
    }
    write_parts(folder / "model", description, encoder=encoder)
    shutil.copyfile(base.folder / "decoder.safetensors", folder / "model" / "decoder.safetensors")


@torch.no_grad()
def show_kernels(runs: Path, shown: Path, left: int, top: int) -> None:
    """The same part of an image through all kernels at a low rate, enlarged, the original first."""
    with Image.open(shown) as image:
        a = np.asarray(image.convert("RGB"))
    x = torch.from_numpy(a[top - 144 : top + 240, left - 144 : left + 240].copy()).permute(2, 0, 1)[None].float() / 255
    part = slice(144, 144 + SHOWN_SIDE)
    pictures = [x[0, :, part, part]]
    for kernel in KERNELS:
        codec = trained(runs / f"kernel-{kernel}").codec
        point = torch.tensor([SHOWN_POINT])
        y = codec.analysis(x)
        code = codec.entropy(y, codec.hyper(y), point)
        pictures.append(codec.synthesise(code.y_hat, point)[0, :, part, part].clamp(0, 1))
    save(torch.cat(pictures, 2).permute(1, 2, 0).numpy(), PICTURES, "kernels", ENLARGED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("kodak", type=Path)
    parser.add_argument("--shown", type=Path, help="a Kodak photograph for the pictures of kernels")
    parser.add_argument("--at", type=int, nargs=2, default=(400, 200), help="left and top of what is shown")
    arguments = parser.parse_args()
    found = {
        "codecs": codecs(arguments.runs, validation_images(arguments.kodak, every=1)),
        "heads": heads(arguments.runs),
    }
    found["environment"] = environment()
    for name in found["codecs"]:
        if CODECS[name].from_lapped:
            as_model(arguments.runs / name)
    (arguments.runs / "short.json").write_text(json.dumps(found, indent=1) + "\n")
    for name, facts in found["codecs"].items():
        print(name, json.dumps({k: v for k, v in facts.items() if k not in ("validation", "kodak")}))
    if arguments.shown and all(f"kernel-{k}" in found["codecs"] for k in KERNELS):
        show_kernels(arguments.runs, arguments.shown, *arguments.at)


if __name__ == "__main__":
    main()
