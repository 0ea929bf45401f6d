"""nicc bench: nicc's models beside other codecs over a folder of images."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nicc.cli.options import numbers
from nicc.cli.progress import Bar
from nicc.errors import NiccError
from nicc.threads import processors

if TYPE_CHECKING:
    from nicc.bench.bd import BdRate
    from nicc.bench.report import Curve

MOST_JOBS = 8


def bench(
    folder: Path | None = typer.Argument(
        None, metavar="FOLDER", help="The folder of images, or the one image, to measure on."
    ),
    out: Path = typer.Option(
        Path("bench"), "-o", "--output", help="Write results to this folder; a folder that has some is continued."
    ),
    codec: list[str] = typer.Option(
        ["nicc-two-layer*,nicc-jpeg-like,jpeg,webp,avif-444"],
        "--codec",
        help="Measure these codecs: names with commas between them, patterns, or all.",
    ),
    metric: list[str] = typer.Option(
        ["all"], "--metric", help="Measure these metrics: names with commas between them, or all."
    ),
    anchor: str | None = typer.Option(
        None, "--anchor", help="Give BD-rates against this codec; without it, against jpeg."
    ),
    sga_steps: int = typer.Option(
        0, "--sga-steps", min=0, help="Measure nicc's models after this many steps of iterative encoding as well."
    ),
    points: int = typer.Option(8, "--points", min=1, help="Measure each codec at this many qualities."),
    quality: str | None = typer.Option(
        None, "--quality", help="Measure nicc's models at these qualities, 0 to 100 with commas between them."
    ),
    jobs: int = typer.Option(
        0, "-j", "--jobs", min=0, help="Work in this many processes; 0 takes one per processor, 8 at most."
    ),
    repeats: int = typer.Option(
        3, "--repeats", min=1, help="Take each time this often, after a warm-up, and give the median."
    ),
    timing_images: int = typer.Option(
        2, "--timing-images", min=0, help="Take times on this many of the images; 0 takes none."
    ),
    page_images: int = typer.Option(
        3, "--page-images", min=0, help="Show this many of the images in the report's viewer."
    ),
    backbone: Path | None = typer.Option(
        None,
        "--lpips-backbone",
        exists=True,
        dir_okay=False,
        help="Read AlexNet's features for LPIPS from this file; without it, torchvision downloads them.",
    ),
    listing: bool = typer.Option(False, "--list", help="List the codecs and metrics, and what they are missing here."),
    quiet: bool = typer.Option(False, "--quiet", help="Show no progress bar and no table."),
) -> None:
    """Measure rate, distortion, time and memory of codecs side by side."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries, about libraries
    try:
        from nicc.bench import codecs, metrics, page, plots, report
        from nicc.bench.run import BenchSettings, run
    except ImportError as e:
        raise NiccError(f"bench needs {e.name}; install it with: pip install 'nicc[bench]'") from None
    if listing:
        _list(codecs, metrics)
        return
    if folder is None:
        raise typer.BadParameter("a folder of images is needed", param_hint="FOLDER")
    if not folder.exists():
        raise NiccError(f"{folder}: no such folder")
    wanted = metrics.ALL if "all" in metric else tuple(",".join(metric).split(","))
    if unknown := set(wanted) - set(metrics.ALL):
        raise NiccError(f"metric {', '.join(sorted(unknown))} is not known; known are {', '.join(metrics.ALL)}")
    names = tuple(codecs.select(codec, sga_steps))
    jobs = jobs or min(processors(), MOST_JOBS)
    qualities = () if quality is None else tuple(sorted(numbers(quality, 100, "--quality", "20,40,60")))
    settings = BenchSettings(
        folder, out, names, wanted, backbone, points, qualities, jobs, repeats, timing_images, page_images
    )
    with _BenchBar(not quiet and sys.stderr.isatty()) as progress:
        try:
            results = run(settings, progress.report)
        except KeyboardInterrupt:
            typer.echo(f"nicc: interrupted; the same command goes on from {out}", err=True)
            raise typer.Exit(130) from None
    curves, anchors = report.summarise(results), report.published(results)
    reference = report.choose_anchor([*curves, *anchors], anchor)
    if anchor and not reference:
        results.problems.append(f"--anchor {anchor}: no such curve; BD-rates are left out")
    rates = report.bd_rates([*curves, *anchors], reference) if reference else {}
    label = reference.name if reference else "none"
    report.write(results, curves, anchors, rates)
    figures = plots.draw(curves, anchors, rates, label)
    plots.save(figures, out)
    written = page.write(results, curves, anchors, rates, label, figures)
    if not quiet:
        _table(curves, anchors, rates, label)
        typer.echo(f"{written}, {out / 'results'}, {out / 'plots'}")
    for note in results.notes:
        typer.echo(f"nicc: note: {note}", err=True)
    for problem in results.problems:
        typer.echo(f"nicc: {problem}", err=True)
    if results.problems:
        raise typer.Exit(1)


def _list(codecs: Any, metrics: Any) -> None:
    for name in codecs.names():
        found = codecs.find(name)
        try:
            found.prepare(only_decoding=True)
            state = ""
        except codecs.Unavailable as e:
            state = f" ({e})"
        typer.echo(f"{name:24} {found.description}{state}")
    typer.echo("metrics: " + ", ".join(metrics.ALL))


def _table(curves: list[Curve], anchors: list[Curve], rates: dict[str, dict[str, BdRate]], anchor: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from nicc.bench.report import BD_METRICS

    table = Table(title=f"BD-rate against {anchor}; times per megapixel", title_justify="left")
    table.add_column("codec", no_wrap=True)
    for name in (
        "bpp",
        "dB",
        "range dB",
        *BD_METRICS.values(),
        "enc ms",
        "dec ms",
        "dec MB",
        "kMAC/px",
    ):
        table.add_column(name, justify="right")
    for curve in [*curves, *anchors]:
        found = rates.get(curve.name, {})
        cells = [curve.name]
        for name, digits in (("bpp", 2), ("psnr-rgb", 1)):
            values = curve.results.get(name)
            cells.append(f"{min(values):.{digits}f}-{max(values):.{digits}f}" if values else "")
        main = found.get("psnr-rgb")
        cells.append(f"{main.low:.1f}-{main.high:.1f}" if main else "")
        cells += [_percent(found.get(m)) for m in BD_METRICS]
        cells += ["" if t is None else f"{t * 1000:.0f}" for t in (curve.encoding_time, curve.decoding_time)]
        cells.append(f"{curve.times['decoding_memory'][0]:.0f}" if "decoding_memory" in curve.times else "")
        cells.append("" if curve.decoder_kmac is None else f"{curve.decoder_kmac:g}")
        table.add_row(*cells, style="dim" if curve.published else None)
    # a table is for reading: never squeezed because the output is a file
    console = Console() if sys.stdout.isatty() else Console(width=180)
    console.print(table)
    if any(r.narrow for found in rates.values() for r in found.values()):
        console.print("* the curves' qualities overlap by less than half of the narrower range")


def _percent(rate: BdRate | None) -> str:
    return "" if rate is None else f"{rate.percent:+.1f} %" + ("*" if rate.narrow else "")


class _BenchBar(Bar):
    """Finished measurements and remaining time, anew for each stage."""

    def __init__(self, shown: bool) -> None:
        super().__init__(shown, ["{task.description}", "BarColumn", "MofNCompleteColumn", "TimeRemainingColumn"])
        self.total = 0

    def report(self, what: str, finished: int, total: int) -> None:
        if self.bar and total != self.total:
            self.bar.reset(self.task, total=total)
            self.total = total
        self.show(finished, total, what)
