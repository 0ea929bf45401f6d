"""Markdown tables, and what they were made by."""

from __future__ import annotations

from typing import Any


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def stamp(command: str, environment: dict[str, Any], *more: str) -> str:
    """What a table was made by."""
    where = f"{environment['date']}, commit {environment['commit']}, {environment['machine']}"
    return f"`{command}`: {'; '.join([where, *more])}."
