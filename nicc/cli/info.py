"""nicc info: what a .nic file says of itself."""

from __future__ import annotations

import json
from typing import Any

import typer

from nicc.cli import files
from nicc.errors import ModelError


def describe(data: bytes) -> dict[str, Any]:
    """Everything known of a file; figures that need its model are None where that is missing."""
    from nicc.container import LOSSLESS_MODEL, unpack
    from nicc.decoder.decode import model_for
    from nicc.model import SHIPPED_CODES

    container = unpack(data)
    header = container.header
    names = {code: name for name, code in SHIPPED_CODES.items()}
    if container.lossless is not None:
        names[LOSSLESS_MODEL] = "lossless"
    name = header.model if isinstance(header.model, str) else names.get(header.model, f"code {header.model}")
    facts: dict[str, Any] = {
        "model": name,
        "fingerprint": header.fingerprint.hex(),
        "width": header.width,
        "height": header.height,
        "rate_point": header.rate_point,
        "lambda": None,
        "beta": round(header.beta, 3),
        "grey": header.grey,
        "bytes": len(data),
        "bpp": round(len(data) * 8 / (header.width * header.height), 5),
        "boxes": [{"type": box.name, "bytes": box.size} for box in container.boxes],
        "decoder_macs_per_pixel": None,
        "realism_macs_per_pixel": None,
        "model_card": None,
    }
    try:
        model = model_for(container)
    except ModelError as e:
        facts["model_problem"] = str(e)
    else:
        facts["lambda"] = round(model.architecture.rate_lambda(header.rate_point), 6)
        macs = model.macs_per_pixel()
        facts["decoder_macs_per_pixel"] = {k: round(v, 1) for k, v in (*macs.items(), ("total", sum(macs.values())))}
        facts["realism_macs_per_pixel"] = model.realism_macs_per_pixel
        training = model.description.get("training", {})
        pixels = training.get("pixels", 0) / 1e9
        facts["model_card"] = f"{model.name} version {model.version}, trained on {pixels:.2f} gigapixels"
    return facts


def info(
    source: str = typer.Argument(..., metavar="IN", help="The .nic file to describe; - is standard input."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON for programs."),
) -> None:
    """Show header, boxes, rate and decoder cost of a .nic file."""
    with files.naming(source):
        facts = describe(files.read(source))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    boxes = ", ".join(f"{b['type']} {b['bytes']}" for b in facts["boxes"])
    lines = [
        f"{files.shown(source)}: {facts['width']}x{facts['height']}{' grey' if facts['grey'] else ''}, "
        f"{facts['bytes']} bytes, {facts['bpp']:.3f} bpp",
        f"model        {facts['model']} ({facts['fingerprint']})",
        f"rate point   {facts['rate_point']} (lambda {facts['lambda']})",
        f"beta         {facts['beta']}",
        f"boxes        {boxes} (bytes)",
    ]
    if facts["model_card"]:
        macs = facts["decoder_macs_per_pixel"]
        parts = ", ".join(f"{k} {v}" for k, v in macs.items() if k != "total")
        more = facts["realism_macs_per_pixel"]
        realism = f"beta 0 to 1 by a head of {more:.0f} MAC/pixel" if more else "no head: beta 0 only"
        lines += [
            f"model card   {facts['model_card']}",
            f"decoder      {macs['total']} MAC/pixel: {parts}",
            f"realism      {realism}",
        ]
    else:
        lines.append(f"model card   {facts['model_problem']}")
    typer.echo("\n".join(lines))
