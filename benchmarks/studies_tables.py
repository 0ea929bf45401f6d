"""Tables of docs/studies.md, from the results of `benchmarks.studies` and `benchmarks.short_results`."""

from __future__ import annotations

import itertools
from typing import Any

from benchmarks.tables import stamp, table

Results = dict[str, Any]
SYNTHESIS = ("synthesis 1", "inverse gdn", "synthesis 2")
"""Parts of the receiver that turn latents into pixels."""


def flatness(found: Results) -> str:
    rows = []
    for name, facts in found["models"].items():
        for row in facts["linear"]:
            losses = (row["synthesis"] - row[k] for k in ("linearised", "fitted"))
            length = f"{facts['path over line']:.4f}" if row is facts["linear"][0] else ""
            cells = [f"{row['synthesis']:.2f}", *(f"{loss:.2f}" for loss in losses)]
            rows.append([name if length else "", length, str(row["rate point"]), *cells])
    head = ["", "path / line", "rate point", "synthesis (dB)", "linearised: dB lost", "fitted: dB lost"]
    return table(head, rows)


def bits(found: Results) -> str:
    rows = []
    for name, facts in found["models"].items():
        for n in (0, len(facts["bits"]) // 2, -1):
            row = facts["bits"][n]
            total = row["z"] + sum(row["y"])
            shares = [f"{100 * part / total:.0f}" for part in row["y"]]
            shares += [""] * (max(len(f["bits"][0]["y"]) for f in found["models"].values()) - len(shares))
            label = name if n == 0 else ""
            rows.append([label, str(row["rate point"]), f"{total:.3f}", f"{100 * row['z'] / total:.1f}", *shares])
    groups = len(rows[0]) - 4
    return table(["", "rate point", "bpp", "z (%)", *(f"y{n} (%)" for n in range(groups))], rows)


def exactness(found: Results) -> str:
    rows = []
    for name, facts in found["models"].items():
        changes = [100 * (row["whole rows over interpolated ones"] - 1) for row in facts["exactness"]]
        rows.append([name, *(f"{change:+.2f} %" for change in changes)])
    return table(["", "lowest rate", "a third", "two thirds", "highest rate"], rows)


def objectives(found: Results) -> str:
    """Shares of the bits by ranges of channels, of the squared-error and the visual model at nearly equal rates."""
    edges = (0, 3, 8, 16, 32, 56, 88, 128, 256)
    rows = []
    for name, facts in found["channels"].items():
        shares = [100 * sum(facts["shares"][a:b]) for a, b in itertools.pairwise(edges)]
        cells = [f"{share:.1f}" for share in shares]
        rows.append([name, f"{facts['bpp']:.3f}", *cells, f"{facts['spread of steps']:.2f}"])
    ranges = [f"{a} to {b - 1}" for a, b in itertools.pairwise(edges)]
    return table(["share of y's bits (%)", "bpp", *ranges, "spread of log steps"], rows)


def studies_blocks(found: Results) -> dict[str, str]:
    versions = ", ".join(f"{name} v{facts['version']}" for name, facts in found["models"].items())
    parts = f"middle 512x512 of {found['photographs']} validation photographs", versions
    made = stamp("benchmarks/studies.py VALIDATION RESULTS SHOWN", found["environment"], *parts)
    made += f" {found['seconds']} s."
    makers = {"flatness": flatness, "bits": bits, "exactness": exactness, "objectives": objectives}
    return {f"study-{name}": f"{make(found)}\n\n{made}" for name, make in makers.items()}


def short_blocks(found: Results) -> dict[str, str]:
    blocks = {}
    for name, beginnings in (("kernels", ("kernel",)), ("residual", ("residual", "plain"))):
        rows = []
        for run, facts in found["codecs"].items():
            if not run.startswith(beginnings):
                continue
            rates = [facts.get(f"BD-rate on {images}") for images in ("validation", "kodak")]
            cells = ["" if rate is None else f"{rate:+.1f} %" for rate in rates]
            macs = sum(v for part, v in facts["macs"].items() if part in SYNTHESIS)
            cells += [f"{facts['cost']:.4f}", f"{macs / 1000:.2f}", str(facts["steps"]), f"{facts['seconds']:.0f}"]
            rows.append([run, *cells])
        if rows:
            rates = ["BD-rate, validation", "BD-rate, Kodak"]
            head = ["", *rates, "log cost", "synthesis (kMAC/pixel)", "steps", "seconds"]
            blocks[f"study-{name}"] = table(head, rows)
    if found["heads"]:
        rows = []
        for name, facts in found["heads"].items():
            for row in facts["table"]:
                cells = [f"{row['psnr']:.2f}", f"{row['lpips']:.4f}"]
                rows.append([name, str(row["rate_point"]), str(row["beta"]), *cells])
        blocks["study-conditions"] = table(["", "rate point", "beta", "PSNR (dB)", "LPIPS"], rows)
    made = stamp(
        "benchmarks/short_results.py RUNS KODAK", found["environment"], "trained by benchmarks/short_trainings.py"
    )
    return {name: f"{text}\n\n{made}" for name, text in blocks.items()}
