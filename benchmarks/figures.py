"""Every table and plot of the README and docs, measured and written anew.

    python -m benchmarks.figures measure KODAK RESULTS [--validation FOLDER] [--lpips-backbone FILE]
    python -m benchmarks.figures write RESULTS

``measure`` runs the benchmarks into one folder and goes on where it was interrupted; ``write`` replaces what
stands between ``<!-- figures: NAME -->`` and ``<!-- end -->`` in the documents, for all results that are there,
and says which are not. Every table names its command, commit, date and weights.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.interpolate import PchipInterpolator

from benchmarks.studies_tables import short_blocks, studies_blocks
from benchmarks.tables import stamp, table
from nicc.bench import plots
from nicc.bench.bd import bd_rate
from nicc.bench.report import BD_METRICS, Curve

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLOTS = ROOT / "docs" / "figures"
REALISTIC = "nicc-two-layer-visual-beta0.5"
CODECS = (
    *("jpeg", "webp", "jxl-e9", "avif-444", "avif-444-best"),
    *("nicc-jpeg-like", "nicc-two-layer", "nicc-two-layer-visual", REALISTIC),
)
PAGE_CODECS = ("webp-lossless", "webp", "avif-444", "jxl", "nicc-two-layer-visual")
METRICS_OF_PAGES = ("--metric", "psnr-rgb,ssimulacra2")
ANCHOR = "avif-444"
NAMES = {
    "jpeg": "JPEG (4:2:0, optimised tables)",
    "webp": "WebP (method 6)",
    "webp-lossless": "WebP, lossless",
    "jxl": "JPEG XL (effort 7)",
    "jxl-e9": "JPEG XL (effort 9)",
    "avif-444": "AVIF (4:4:4, speed 6)",
    "avif-444-best": "AVIF at its best (speed 3, tuned for SSIMULACRA 2)",
    "nicc-jpeg-like": "nicc jpeg-like",
    "nicc-two-layer": "nicc two-layer (`--tune psnr`)",
    "nicc-two-layer-visual": "**nicc two-layer-visual** (default)",
    REALISTIC: "the same, encoded and decoded with `--beta 0.5`",
}
POINTS = 6
TRAVERSED = "kodim23.png"
"""The photograph whose latents are traversed."""
SHOWN = ("ssimulacra2", "butteraugli-3norm", "cvvdp", "ms-ssim-rgb", "lpips", "psnr-rgb")
HIGH_QUALITY = 75.0, 90.0
"""From good to visually lossless, in SSIMULACRA 2."""
Results = dict[str, Any]


def measure(kodak: Path, out: Path, validation: Path | None, backbone: Path | None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    lpips = ["--lpips-backbone", backbone] if backbone else []
    bench = ["-m", "nicc", "bench", kodak, "-o", out / "bench", "--codec", ",".join(CODECS), "--anchor", ANCHOR]
    run(*bench, "--points", POINTS, "--timing-images", 0, "--page-images", 0, *lpips)
    run(ROOT / "benchmarks" / "pages.py", out / "drawn")
    pages = ["-m", "nicc", "bench", out / "drawn", "-o", out / "pages", "--codec", ",".join(PAGE_CODECS)]
    run(*pages, "--anchor", ANCHOR, "--points", POINTS, "--timing-images", 0, "--page-images", 0, *METRICS_OF_PAGES)
    run(ROOT / "benchmarks" / "realism.py", kodak, "--json", out / "realism.json", *lpips)
    run(ROOT / "benchmarks" / "speed.py", kodak, "--json", out / "speed.json")
    if validation:
        iterative = [ROOT / "benchmarks" / "iterative.py", validation, "--steps", "100,500"]
        run(*iterative, "--images", 2, "--size", 128, "--variants", "--json", out / "iterative.json")
        run("-m", "benchmarks.studies", validation, out, kodak / TRAVERSED)


def run(*command: object) -> None:
    print("python", *command, flush=True)
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=ROOT)


def write(out: Path) -> None:
    PLOTS.mkdir(exist_ok=True)
    blocks: dict[str, str] = {}
    for name, file, make in PARTS:
        path = out / file
        if path.exists():
            blocks |= make(json.loads(path.read_text()) if path.is_file() else read_bench(path))
        else:
            print(f"{name}: no {path}; left as it is")
    used = set()
    for document in DOCUMENTS:
        text = document.read_text()
        new, names = replace_blocks(text, blocks)
        used |= names
        if new != text:
            document.write_text(new)
    if unused := sorted(set(blocks) - used):
        print("no document has a place for: " + ", ".join(unused))


def replace_blocks(text: str, blocks: dict[str, str]) -> tuple[str, set[str]]:
    """The text with the blocks that it has places for, and their names."""
    used = set()

    def put(match: re.Match[str]) -> str:
        name = match[1]
        if name not in blocks:
            return match[0]
        used.add(name)
        return f"<!-- figures: {name} -->\n{blocks[name].strip()}\n<!-- end -->"

    return re.sub(r"<!-- figures: ([\w-]+) -->\n.*?<!-- end -->", put, text, flags=re.DOTALL), used


# --- nicc bench


def read_bench(folder: Path) -> Results:
    """All codecs that were measured, in the order of `NAMES`."""
    files = {name: folder / f"{name}.json" for name in NAMES}
    return {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}


def bench_blocks(found: Results) -> dict[str, str]:
    if ANCHOR not in found:
        print(f"nicc bench: {ANCHOR} was not measured; its tables are left as they are")
        return {}
    curves = [
        Curve(name, d["description"], False, d["results"], d["quality"], d["decoder_kmac_per_pixel"])
        for name, d in found.items()
    ]
    by_name = {curve.name: curve for curve in curves}
    for metric in SHOWN:
        measured = [c for c in curves if c.name != REALISTIC]
        save(plots.rate_distortion(measured, [], metric), f"rd-{metric}")
    ours = found["nicc-two-layer-visual"]
    weights = ", ".join(d["description"] for name, d in found.items() if name.startswith("nicc"))
    count = len({image["name"] for image in ours["images"]})
    made = stamp(
        f"nicc bench KODAK --codec ... --points {POINTS} --anchor {ANCHOR}",
        ours["environment"],
        f"{count} images, whole files, effort 0, PCHIP",
        weights,
    )
    return {
        "bd-avif": bd_table(by_name, ANCHOR) + "\n\n" + made,
        "bd-avif-best": bd_table(by_name, "avif-444-best"),
        "bd-jpeg": bd_table(by_name, "jpeg"),
        "curves": curve_table(found) + "\n\n" + made,
        "range": high_quality(found) + "\n\n" + made,
        "headline": headline(by_name) + "\n\n" + made,
    }


def percent(anchor: Curve, curve: Curve, metric: str) -> str:
    rate = bd_rate(anchor.results, curve.results, metric)
    return "" if rate is None else f"{rate.percent:+.1f} %" + ("*" if rate.narrow else "")


def bd_table(curves: dict[str, Curve], anchor: str) -> str:
    if anchor not in curves:
        return f"{anchor} was not measured."
    others = [c for name, c in curves.items() if name != anchor]
    rows = [[NAMES[c.name], *(percent(curves[anchor], c, m) for m in SHOWN)] for c in others]
    starred = (
        "\n\n\\* the curves' qualities overlap by less than half of the narrower range" if "*" in str(rows) else ""
    )
    return table([f"BD-rate against {NAMES[anchor]}", *(BD_METRICS[m] for m in SHOWN)], rows) + starred


def headline(curves: dict[str, Curve]) -> str:
    shown = [n for n in ("nicc-two-layer-visual", REALISTIC, "avif-444-best", "jxl-e9", "webp", "jpeg") if n in curves]
    rows = [[NAMES[n], *(percent(curves[ANCHOR], curves[n], m) for m in SHOWN)] for n in shown]
    return table([f"bytes at equal quality, against {NAMES[ANCHOR]}", *(BD_METRICS[m] for m in SHOWN)], rows)


def high_quality(found: Results) -> str:
    """The default against AVIF where people keep photographs, and where its qualities end."""
    metric = "ssimulacra2"
    names = sorted({image["name"] for image in found[ANCHOR]["images"]})

    def rate(anchor: dict[str, list[float]], test: dict[str, list[float]]) -> float:
        difference = bd_rate(between(anchor, metric, *HIGH_QUALITY), between(test, metric, *HIGH_QUALITY), metric)
        assert difference
        return difference.percent

    def photo(codec: str, name: str) -> dict[str, list[float]]:
        images = [image for image in found[codec]["images"] if image["name"] == name]
        return {key: [image[key] for image in images] for key in ("bpp", metric)}

    ours = "nicc-two-layer-visual"
    mean = rate(found[ANCHOR]["results"], found[ours]["results"])
    rates = {name: rate(photo(ANCHOR, name), photo(ours, name)) for name in names}
    worst = max(rates, key=lambda name: rates[name])
    top = [max(photo(ours, name)[metric]) for name in names]
    low, high = (f"{q:.0f}" for q in HIGH_QUALITY)
    return (
        f"From {low} to {high} of SSIMULACRA 2, as far as both go, two-layer-visual's files are at {mean:+.1f} % "
        f"against {NAMES[ANCHOR]},\nphotograph by photograph at {np.mean(list(rates.values())):+.1f} % in the mean and "
        f"{rates[worst]:+.1f} % at worst ({Path(worst).stem}).\n"
        f"Quality 100 is at {np.mean(top):.1f} in the mean, {min(top):.1f} at least."
    )


def between(curve: dict[str, list[float]], metric: str, low: float, high: float) -> dict[str, list[float]]:
    """The part of a curve of rising quality between two qualities, interpolated as BD-rates are."""
    quality = np.array(curve[metric])
    log_rate = PchipInterpolator(quality, np.log(curve["bpp"]))
    at = np.linspace(max(low, quality[0]), min(high, quality[-1]), 64)
    return {"bpp": np.exp(log_rate(at)).tolist(), metric: at.tolist()}


def curve_table(found: Results) -> str:
    rows = []
    for name, d in found.items():
        for i, quality in enumerate(d["quality"]):
            values = [f"{d['results'][m][i]:.4g}" if m in d["results"] else "" for m in ("bpp", *SHOWN)]
            rows.append([NAMES[name] if not i else "", f"{quality:g}", *values])
    return table(["codec", "quality", "bpp", *(BD_METRICS[m] for m in SHOWN)], rows)


# --- nicc bench on benchmarks/pages.py


def page_blocks(found: Results) -> dict[str, str]:
    if missing := set(PAGE_CODECS) - set(found):
        print(f"nicc bench on pages: {', '.join(sorted(missing))} not measured; its tables are left as they are")
        return {}
    ours, lossless = found["nicc-two-layer-visual"], found["webp-lossless"]
    exact = {image["name"]: image["bytes"] for image in lossless["images"]}
    rows, largest = [], 0
    for name, size in exact.items():
        files = sorted((i for i in ours["images"] if i["name"] == name), key=lambda i: i["quality"])
        largest = max(largest, *(i["bytes"] - size for i in files))
        cells = [f"{i['bytes'] / 1000:.1f} ({i['ssimulacra2']:.0f})" for i in files]
        rows.append([name.removesuffix(".png"), f"{size / 1000:.1f}", *cells])
    head = ["page", "WebP, lossless: kB", *(f"nicc -q {q:g}: kB (SSIMULACRA 2)" for q in ours["quality"])]
    rates = []
    mine = Curve("nicc", "", False, ours["results"])
    for name in ("webp", "jxl", "avif-444"):
        other = Curve(name, "", False, found[name]["results"])
        rates.append([NAMES[name], percent(other, mine, "ssimulacra2"), percent(other, mine, "psnr-rgb")])
    made = stamp("nicc bench PAGES", ours["environment"], "benchmarks/pages.py PAGES", ours["description"])
    against = table(["nicc's bytes at equal quality, against", "SSIMULACRA 2", "PSNR"], rates)
    most = f"No file is more than {largest} bytes larger than its lossless WebP form." if largest > 0 else ""
    return {"pages": "\n\n".join((against, table(head, rows), most, made))}


# --- benchmarks/realism.py


def _surfaces(rows: list[Results]) -> Figure:
    """What beta does to three metrics at every rate: differences and ratios against beta 0."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    points, betas = (sorted({row[name] for row in rows}) for name in ("rate point", "beta"))
    at = {(row["rate point"], row["beta"]): row for row in rows}
    shown = (("psnr-rgb", "PSNR (dB)", False), ("lpips", "LPIPS (%)", True), ("fd-alexnet-64", "patches (%)", True))
    for axes, (name, title, relative) in zip(figure.subplots(1, 3), shown, strict=True):
        values = np.array([[at[p, b][name] for b in betas] for p in points])
        values = 100 * (values / values[:, :1] - 1) if relative else values - values[:, :1]
        surface = axes.contourf(betas, [at[p, 0]["bpp"] for p in points], values, levels=12, cmap="viridis")
        figure.colorbar(surface, ax=axes)
        axes.set(xlabel="beta", ylabel="bits per pixel", title=f"{title} against beta 0")
    return figure


def realism_blocks(found: Results) -> dict[str, str]:
    rows = []
    for row in found["rows"]:
        base = next(r for r in found["rows"] if r["rate point"] == row["rate point"] and r["beta"] == 0)
        cells = [f"{row['rate point']:.0f}", f"{row['bpp']:.3f}", f"{row['beta']:g}"]
        for name, digits in (("psnr-rgb", 2), ("ssimulacra2", 1)):
            change = f" ({row[name] - base[name]:+.{digits}f})" if row["beta"] else ""
            cells.append(f"{row[name]:.{digits}f}{change}")
        for name, digits in (("lpips", 4), ("lpips cut", 4), ("fd-alexnet-64", 2)):
            change = f" ({100 * (row[name] / base[name] - 1):+.0f} %)" if row["beta"] else ""
            cells.append(f"{row[name]:.{digits}f}{change}")
        rows.append(cells)
    head = [
        "rate point",
        "bpp",
        "beta",
        "PSNR (dB)",
        "SSIMULACRA 2",
        "LPIPS",
        "LPIPS, cut by 2 pixels",
        "fd-alexnet-64",
    ]
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for point in sorted({row["rate point"] for row in found["rows"]}):
        line = [row for row in found["rows"] if row["rate point"] == point]
        label = f"{line[0]['bpp']:.2f} bpp, beta 0 to 1"
        axes.plot([r["lpips"] for r in line], [r["ssimulacra2"] for r in line], "o-", ms=4, label=label)
    axes.invert_xaxis()
    axes.set(xlabel="LPIPS-AlexNet (better to the right)", ylabel="SSIMULACRA 2")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    save(figure, "realism")
    save(_surfaces(found["rows"]), "realism-surfaces")
    more = f"Decoding at beta 1 takes {found['slowdown']:.1f} times as long as at beta 0."
    made = stamp("benchmarks/realism.py KODAK", found["environment"], f"{found['images']} images", found["model"])
    return {"realism": f"{table(head, rows)}\n\n{more}\n\n{made}"}


# --- benchmarks/speed.py


def speed_blocks(found: Results) -> dict[str, str]:
    models = found["models"]
    blocks = []
    for part, title in (("processes", "whole processes"), ("decoding", "decoding"), ("encoding", "encoding")):
        names = list(next(iter(models.values()))[part])
        rows = [[name, *(quantity(name, m[part][name]) for m in models.values())] for name in names]
        blocks.append(table([title, *(f"{name} v{m['version']}" for name, m in models.items())], rows))
    beside = found["beside mbt2018-mean"]
    rows = [
        [name, f"{b['nicc'] * 1000:.0f} ms", f"{b['mbt2018-mean'] * 1000:.0f} ms", f"{b['times faster']:.1f}"]
        for name, b in beside.items()
    ]
    blocks.append(table(["decoding in process", "nicc", "mbt2018-mean", "times faster"], rows))
    rows = []
    for g in found["growth"]:
        per = g["seconds"] / g["megapixels"] * 1000
        rows.append([f"{g['megapixels']:.1f}", f"{g['seconds']:.3f}", f"{per:.0f}", f"{g['peak MB']:.0f}"])
    blocks.append(table(["megapixels", "seconds to decode", "ms per megapixel", "peak MB"], rows))
    blocks.append(stamp("benchmarks/speed.py KODAK", found["environment"], "NumPy " + np.__version__))
    return {"speed": "\n\n".join(blocks)}


def quantity(name: str, value: float) -> str:
    return f"{value:.0f}" if name.startswith(("peak", "GFLOP")) else f"{value * 1000:.1f} ms"


# --- benchmarks/iterative.py


def iterative_blocks(found: Results) -> dict[str, str]:
    names = {"cost_against_plain": "cost", "seconds_per_megapixel": "seconds per megapixel", "bpp": "mean bpp"}
    results = found["results"]
    rows = [
        [name, *(f"{values[k]:.{3 if k != 'seconds_per_megapixel' else 0}f}" for k in names), f"{values['psnr']:.2f}"]
        for name, values in results.items()
    ]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, values in results.items():
        point = values["seconds_per_megapixel"], values["cost_against_plain"]
        lines.setdefault(name.rstrip(" 0123456789"), []).append(point)
    for label, points in lines.items():
        axes.plot(*zip(*points, strict=True), "o-" if len(points) > 1 else "s", ms=4, label=label)
    axes.axhline(1, color="0.7", lw=0.8)
    axes.set(xscale="log", ylim=(None, 1.25), xlabel="seconds per megapixel", ylabel="cost against plain")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    save(figure, "iterative-encoding")
    made = stamp("benchmarks/iterative.py VALIDATION --variants", found["environment"], found["model"])
    return {"iterative": f"{table(['', *names.values(), 'mean PSNR (dB)'], rows)}\n\n{made}"}


def save(figure: Figure, name: str) -> None:
    figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None})


PARTS: tuple[tuple[str, str, Callable[[Results], dict[str, str]]], ...] = (
    ("nicc bench", "bench/results", bench_blocks),
    ("nicc bench on pages", "pages/results", page_blocks),
    ("benchmarks/realism.py", "realism.json", realism_blocks),
    ("benchmarks/speed.py", "speed.json", speed_blocks),
    ("benchmarks/iterative.py", "iterative.json", iterative_blocks),
    ("benchmarks/studies.py", "studies.json", studies_blocks),
    ("benchmarks/short_results.py", "short.json", short_blocks),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("kodak", type=Path)
    measuring.add_argument("results", type=Path)
    measuring.add_argument("--validation", type=Path)
    measuring.add_argument("--lpips-backbone", type=Path)
    writing = commands.add_parser("write")
    writing.add_argument("results", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "measure":
        optional = (path.resolve() if path else None for path in (arguments.validation, arguments.lpips_backbone))
        measure(arguments.kodak.resolve(), arguments.results.resolve(), *optional)
    else:
        write(arguments.results)


if __name__ == "__main__":
    main()
