"""The report as one HTML file that needs no network: table, plots, and a viewer of two codecs."""

from __future__ import annotations

import base64
import html
import io
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nicc.bench.bd import BdRate
from nicc.bench.report import BD_METRICS, Curve, environment
from nicc.bench.run import Results, pick
from nicc.bench.sources import lossless_webp, read_pixels
from nicc.bench.store import decoded_path


def write(
    results: Results,
    curves: list[Curve],
    anchors: list[Curve],
    rates: dict[str, dict[str, BdRate]],
    anchor: str,
    figures: dict[str, Figure],
) -> Path:
    """``OUT/report.html``."""
    template = (files("nicc.bench") / "page.html").read_text()
    where = environment()
    facts = f"{len(results.sources)} images from {results.settings.source.name}; {where['machine']}; "
    facts += f"Python {where['python']}, commit {where['commit'] or 'unknown'}, {where['date']}"
    parts = {
        "FACTS": html.escape(facts),
        "TABLE": _table(curves + anchors, rates, anchor),
        "NOTES": "".join(f"<li>{html.escape(note)}</li>" for note in results.problems + results.notes),
        "PLOTS": "".join(f"<figure>{_svg(figure)}</figure>" for figure in figures.values()),
        "DATA": json.dumps(_viewer(results)).replace("<", "\\u003c"),
    }
    for name, value in parts.items():
        template = template.replace(f"<!--{name}-->", value)
    path = results.settings.out / "report.html"
    path.write_text(template)
    return path


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _table(curves: list[Curve], rates: dict[str, dict[str, BdRate]], anchor: str) -> str:
    first, *others = BD_METRICS.values()
    head = ["codec", f"BD-rate {first}, % against {anchor}", *others, "PSNR compared, dB"]
    head += ["encode, ms/MP", "decode, ms/MP", "decode peak, MB", "decoder kMAC/px", "what"]
    rows = []
    for curve in curves:
        found = rates.get(curve.name, {})
        cells = [html.escape(curve.name)]
        cells += [_rate(found.get(m)) for m in BD_METRICS]
        cells.append(f"{found['psnr-rgb'].low:.1f}&ndash;{found['psnr-rgb'].high:.1f}" if "psnr-rgb" in found else "")
        cells += ["" if t is None else f"{t * 1000:.0f}" for t in (curve.encoding_time, curve.decoding_time)]
        cells.append(f"{curve.times['decoding_memory'][0]:.0f}" if "decoding_memory" in curve.times else "")
        cells.append("" if curve.decoder_kmac is None else f"{curve.decoder_kmac:g}")
        cells.append(html.escape(curve.description))
        kind = ' class="published"' if curve.published else ""
        rows.append(f"<tr{kind}>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    return "<tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in head) + "</tr>" + "".join(rows)


def _rate(rate: BdRate | None) -> str:
    if rate is None:
        return ""
    mark = '<abbr title="the curves overlap little">*</abbr>' if rate.narrow else ""
    return f"{rate.percent:+.1f}{mark}"


def _viewer(results: Results) -> list[dict[str, Any]]:
    """What the viewer shows: per image the original, and per codec and quality the reconstruction."""
    shown = []
    index = pick(tuple(range(len(results.sources))), results.settings.page_images)
    for source in [results.sources[int(i)] for i in index] if results.settings.page_images else []:
        entries: dict[str, list[dict[str, Any]]] = {}
        for codec in results.codecs:
            for record in results.quality:
                if record["codec"] != codec.name or record["image"] != source.key:
                    continue
                path = decoded_path(results.settings.out, codec, record["quality"], source.key)
                if path.exists():
                    values = {k: record[k] for k in ("quality", "bpp", "bytes", *results.metrics) if k in record}
                    source_type = codec.mime or "image/webp"
                    entries.setdefault(codec.name, []).append(values | {"src": _uri(path.read_bytes(), source_type)})
        if entries:
            original = _uri(lossless_webp(read_pixels(source.path)), "image/webp")
            size = {"width": source.width, "height": source.height}
            shown.append({"name": source.name, **size, "original": original, "codecs": entries})
    return shown


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
