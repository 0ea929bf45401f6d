"""What a run leaves behind: JSON in CompressAI's form, CSV, plots and a page; and the printed table."""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from nicc.bench import bd, timing
from nicc.bench.metrics import frechet_distance
from nicc.bench.run import Results
from nicc.bench.store import features_path

PACKAGES = (
    *("nicc", "numpy", "pillow", "pillow-heif", "pillow-jxl-plugin", "torch", "compressai"),
    *("lpips", "pytorch-msssim", "ssimulacra2", "bjontegaard"),
)
BD_METRICS = {
    "ssimulacra2": "SSIMULACRA 2",
    "butteraugli-3norm": "Butteraugli",
    "cvvdp": "CVVDP",
    "ms-ssim-rgb": "MS-SSIM",
    "lpips": "LPIPS",
    "psnr-rgb": "PSNR",
}
"""Metrics of the tables of BD-rates, first what people see, and their headings."""


@dataclass
class Curve:
    """Means over the images of one codec; lists are parallel to ``quality``."""

    name: str
    description: str
    published: bool
    results: dict[str, list[float]]
    quality: list[float] = field(default_factory=list)
    decoder_kmac: float | None = None
    times: dict[str, list[float]] = field(default_factory=dict)
    """Seconds per megapixel by quality, and megabytes."""

    @property
    def decoding_time(self) -> float | None:
        """Seconds per megapixel, mean over the qualities."""
        return float(np.mean(self.times["decoding_time"])) if self.times else None

    @property
    def encoding_time(self) -> float | None:
        return float(np.mean(self.times["encoding_time"])) if self.times else None


def summarise(results: Results) -> list[Curve]:
    """One curve per measured codec. A metric that some image is too small for is averaged over the others."""
    curves = []
    for codec in results.codecs:
        curve = Curve(codec.name, codec.description, False, {}, list(codec.qualities), codec.decoder_kmac)
        complete = [q for q in codec.qualities if _add_quality(results, curve, q)]
        curve.quality = list(codec.qualities) if codec.timing_only else complete
        _add_times(results, curve)
        curves.append(curve)
    return curves


def _add_quality(results: Results, curve: Curve, quality: float) -> bool:
    """Adds the means over all images; false if one failed, since a mean over the others would not compare."""
    records = [r for r in results.quality if r["codec"] == curve.name and r["quality"] == quality]
    if len(records) != len(results.sources):
        return False
    for name in ["bpp", *(m for m in results.metrics if m in records[0])]:
        values = [r[name] for r in records if r[name] is not None]
        if values:
            curve.results.setdefault(name, []).append(float(np.mean(values)))
    if "fd-alexnet-64" in results.metrics:
        distance = _patch_distance(results, curve.name, quality)
        if distance is not None:
            curve.results.setdefault("fd-alexnet-64", []).append(distance)
    return True


def _add_times(results: Results, curve: Curve) -> None:
    taken = [t for t in results.times if t["codec"] == curve.name]
    for name in ("encoding_time", "decoding_time"):
        by_quality = [[t[name] / t["megapixels"] for t in taken if t["quality"] == q] for q in curve.quality]
        if by_quality and all(by_quality):
            curve.times[name] = [float(np.mean(values)) for values in by_quality]
    for name in ("encoding_memory", "decoding_memory"):
        peaks = [t[name] for t in taken if name in t]
        if peaks:
            curve.times[name] = [max(peaks)]


def _patch_distance(results: Results, codec: str, quality: float) -> float | None:
    out, keys = results.settings.out, [s.key for s in results.sources]
    pairs = [(features_path(out, "original", 0, k), features_path(out, codec, quality, k)) for k in keys]
    pairs = [pair for pair in pairs if pair[0].exists() and pair[1].exists()]
    if not pairs:
        return None
    return frechet_distance(*(np.concatenate([np.load(p) for p in side]) for side in zip(*pairs, strict=True)))


def published(results: Results) -> list[Curve]:
    """Published curves, if the images are Kodak's, all 24, by their pixels."""
    data = json.loads((files("nicc.bench") / "kodak.json").read_text())
    if {s.key for s in results.sources} != set(data["kodak_sha256"]):
        return []
    return [
        Curve(
            f"{name} (published)",
            c["source"] + (f"; {c['note']}" if "note" in c else ""),
            True,
            c["results"],
            decoder_kmac=c.get("decoder_kmac"),
        )
        for name, c in data["codecs"].items()
    ]


def bd_rates(curves: list[Curve], anchor: Curve) -> dict[str, dict[str, bd.BdRate]]:
    """BD-rates of every curve against one, by codec and metric."""
    table: dict[str, dict[str, bd.BdRate]] = {}
    for curve in curves:
        rates = {m: bd.bd_rate(anchor.results, curve.results, m) for m in BD_METRICS} if curve.results else {}
        table[curve.name] = {m: r for m, r in rates.items() if r}
    return table


def choose_anchor(curves: list[Curve], name: str | None) -> Curve | None:
    """The curve called ``name``; else jpeg, or whatever was measured first. None for an unknown name."""
    usable = [c for c in curves if c.results]
    if name:
        return next((c for c in usable if name in (c.name, c.name.removesuffix(" (published)"))), None)
    return next((c for c in usable if c.name == "jpeg"), usable[0] if usable else None)


@lru_cache
def environment() -> dict[str, Any]:
    """Machine, versions, and the commit of the source tree, if it is one."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:
        commit = None
    return {
        "machine": timing.machine(),
        "python": platform.python_version(),
        "system": platform.system(),
        "versions": versions,
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }


def write(results: Results, curves: list[Curve], anchors: list[Curve], rates: Mapping[str, Any]) -> list[Path]:
    """Everything but the plots and the page: ``results/CODEC.json``, ``summary.csv``, ``images.csv``."""
    out, where = results.settings.out, environment()
    folder = out / "results"
    folder.mkdir(exist_ok=True)
    written = []
    for curve in curves:
        rows = [r for r in results.quality if r["codec"] == curve.name]
        document = {
            "name": curve.name,
            "description": curve.description,
            "quality": curve.quality,
            "results": {**curve.results, **{k: v for k, v in curve.times.items() if k.endswith("time")}},
            "units": {"encoding_time": "seconds per megapixel", "decoding_time": "seconds per megapixel"},
            "peak_memory_mb": {k: v[0] for k, v in curve.times.items() if k.endswith("memory")},
            "decoder_kmac_per_pixel": curve.decoder_kmac,
            "bd_rate": {m: {**r._asdict(), "narrow": r.narrow} for m, r in rates.get(curve.name, {}).items()},
            "images": [{k: v for k, v in r.items() if k not in ("kind", "codec", "identity")} for r in rows],
            "environment": where,
        }
        path = folder / f"{curve.name.replace('/', '_')}.json"
        path.write_text(json.dumps(document, indent=1) + "\n")
        written.append(path)
    columns = ["bpp", *results.metrics, "encoding_time", "decoding_time"]

    def summary(row: Callable[[list[Any]], Any]) -> None:
        row(["codec", "published", "quality", *columns])
        for curve in [*curves, *anchors]:
            table = {**curve.results, **curve.times}
            for i in range(len(curve.results.get("bpp", curve.quality))):
                quality = curve.quality[i] if curve.quality else ""
                values = [table[c][i] if len(table.get(c, [])) > i else "" for c in columns]
                row([curve.name, curve.published, quality, *values])

    def images(row: Callable[[list[Any]], Any]) -> None:
        names = ["codec", "quality", "name", "bytes", "bpp", *(m for m in results.metrics if m != "fd-alexnet-64")]
        row(names)
        for r in results.quality:
            row([r.get(n, "") for n in names])

    for name, fill in (("summary.csv", summary), ("images.csv", images)):
        with (out / name).open("w", newline="") as f:
            fill(csv.writer(f).writerow)
        written.append(out / name)
    return written
