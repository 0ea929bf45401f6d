"""Rate-distortion curves, and quality against decoding time, as matplotlib figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from nicc.bench.bd import BdRate
from nicc.bench.report import Curve

mpl.rcParams["svg.fonttype"] = "none"
mpl.rcParams["svg.hashsalt"] = "nicc"
LABELS = {
    "psnr-rgb": "PSNR, RGB (dB)",
    "ms-ssim-rgb": "MS-SSIM (dB, $-10\\,\\log_{10}(1-x)$)",
    "lpips": "LPIPS-AlexNet (lower is better)",
    "ssimulacra2": "SSIMULACRA 2",
    "butteraugli-3norm": "Butteraugli, 3-norm (lower is better)",
    "cvvdp": "ColorVideoVDP (JOD)",
    "fd-alexnet-64": "Fréchet distance, AlexNet, 64x64 patches (lower is better)",
}
COLOURS = ["#0057b8", "#e4572e", "#2e9e4f", "#8e44ad", "#b8860b", "#0aa1a8", "#c2185b", "#5d4037", "#607d8b", "#333333"]


def rate_distortion(curves: list[Curve], anchors: list[Curve], metric: str) -> Figure:
    """One metric against bits per pixel; published curves dashed and grey."""
    figure = Figure(figsize=(7.5, 5.2), layout="constrained")
    axes = figure.subplots()
    measured = [c for c in curves if metric in c.results]
    for curve, colour in zip(measured, COLOURS * len(measured), strict=False):
        axes.plot(*_points(curve, metric), "o-", color=colour, ms=4, lw=1.8, label=curve.name)
    shown = ("hevc-hm-444", "vvc-vtm-444", "mbt2018-mean", "shallow-ntc-two-layer", "shallow-ntc-two-layer-sga", "jpeg")
    styles = ["--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 3))]
    for curve in anchors:
        name = curve.name.removesuffix(" (published)")
        if metric in curve.results and name in shown:
            style = styles[shown.index(name)]
            axes.plot(*_points(curve, metric), ls=style, color="0.45", lw=1.2, label=curve.name)
    if measured:
        highest = max(max(c.results["bpp"]) for c in measured)
        axes.set_xlim(0, min(highest * 1.05, 2.5))
    axes.set_xlabel("bits per pixel, whole files")
    axes.set_ylabel(LABELS[metric])
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _points(curve: Curve, metric: str) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(curve.results["bpp"])
    values = np.array(curve.results[metric])[order]
    if metric == "ms-ssim-rgb":
        values = -10 * np.log10(np.maximum(1 - values, 1e-9))
    return np.array(curve.results["bpp"])[order], values


def against_time(curves: list[Curve], rates: dict[str, dict[str, BdRate]], anchor: str) -> Figure | None:
    """BD-rate against decoding time of the measured codecs, or None if there are none with both."""
    shown = [c for c in curves if c.decoding_time and "psnr-rgb" in rates.get(c.name, {})]
    if not shown:
        return None
    figure = Figure(figsize=(7.5, 5.2), layout="constrained")
    axes = figure.subplots()
    for curve, colour in zip(shown, COLOURS * len(shown), strict=False):
        x, y = (curve.decoding_time or 0) * 1000, rates[curve.name]["psnr-rgb"].percent
        axes.plot(x, y, "o", ms=8, color=colour)
        axes.annotate(curve.name, (x, y), xytext=(7, 5), textcoords="offset points", fontsize=9)
    axes.set_xscale("log")
    axes.set_xlabel("decoding time (ms per megapixel)")
    axes.set_ylabel(f"BD-rate against {anchor}, PSNR (%, lower is better)")
    axes.grid(alpha=0.25, which="both")
    return figure


def save(figures: dict[str, Figure], out: Path) -> list[Path]:
    """Every figure as PNG and SVG in ``out/plots``."""
    folder = out / "plots"
    folder.mkdir(exist_ok=True)
    paths = []
    for name, figure in figures.items():
        for suffix in ("png", "svg"):
            paths.append(folder / f"{name}.{suffix}")
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(paths[-1], dpi=140, metadata=metadata)
    return paths


def draw(
    curves: list[Curve], anchors: list[Curve], rates: dict[str, dict[str, BdRate]], anchor: str
) -> dict[str, Figure]:
    """All figures of a run by name."""
    figures = {}
    for metric in LABELS:
        if any(metric in c.results for c in curves):
            figures[metric] = rate_distortion(curves, anchors, metric)
    timed = against_time(curves, rates, anchor)
    if timed:
        figures["bd-rate-against-decoding-time"] = timed
    return figures
