"""nicc models: what is installed, and what it costs to decode."""

from __future__ import annotations

import json
from typing import Any

import typer


def installed() -> list[dict[str, Any]]:
    """Facts of every model that is found by name."""
    from nicc.errors import ModelError
    from nicc.model import LICENCE, load_model, model_names

    found: list[dict[str, Any]] = []
    for name in model_names():
        try:
            model = load_model(name)
            head = model.realism_macs_per_pixel
        except ModelError as e:
            found.append({"name": name, "problem": str(e)})
            continue
        training = model.description.get("training", {})
        found.append(
            {
                "name": name,
                "version": model.version,
                "fingerprint": model.fingerprint.hex(),
                "rate_points": [0, model.architecture.rate_points - 1],
                "macs_per_pixel": round(sum(model.macs_per_pixel().values())),
                "realism_macs_per_pixel": head and round(head),
                "gigapixels_trained": round(training.get("pixels", 0) / 1e9, 2),
                "licence": model.description.get("licence", LICENCE),
                "folder": str(model.folder),
            }
        )
    return found


def models(as_json: bool = typer.Option(False, "--json", help="Print JSON for programs.")) -> None:
    """List the installed models: rates, decoding cost, realism, licence."""
    found = installed()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for m in found:
        if "problem" in m:
            typer.echo(f"{m['name']}: {m['problem']}")
            continue
        more = m["realism_macs_per_pixel"]
        realism = f"beta 0 to 1 (+{more} MAC/pixel above 0)" if more else "beta 0 only"
        low, high = m["rate_points"]
        typer.echo(
            f"{m['name']} version {m['version']} ({m['fingerprint']}): rate points {low} to {high}, "
            f"{m['macs_per_pixel']} MAC/pixel, {realism}, {m['licence']}"
        )
