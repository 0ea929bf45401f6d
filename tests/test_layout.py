"""Modules and functions stay short enough to be read in one go; what is longer gives its reason here."""

from __future__ import annotations

import ast

from tests.conftest import ROOT

MODULE_LINES, FUNCTION_LINES = 300, 60
LONGER = {
    "cli/bench.py bench": "Typer makes options of its parameters, a line or more each",
    "cli/decode.py decode": "Typer makes options of its parameters",
    "cli/encode.py encode": "Typer makes options of its parameters",
    "cli/train.py train": "Typer makes options of its parameters",
}


def longer() -> set[str]:
    found = set()
    for path in sorted((ROOT / "nicc").rglob("*.py")):
        name, text = str(path.relative_to(ROOT / "nicc")), path.read_text()
        if text.count("\n") > MODULE_LINES:
            found.add(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno
                if node.end_lineno - node.lineno + 1 > FUNCTION_LINES:
                    found.add(f"{name} {node.name}")
    return found


def test_what_is_long_has_a_reason():
    assert longer() == set(LONGER)
