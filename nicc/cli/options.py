"""Values of options that several commands take."""

from __future__ import annotations

import typer


def numbers(text: str, most: float, option: str, example: str) -> list[float]:
    """Numbers from 0 to ``most`` with commas between them, each once. Raises `typer.BadParameter`, with an example."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number or several, as in {example}", param_hint=option) from None
    for value in values:
        if not 0 <= value <= most:
            raise typer.BadParameter(f"{value:g} is not within 0..{most:g}", param_hint=option)
    return list(dict.fromkeys(values))
