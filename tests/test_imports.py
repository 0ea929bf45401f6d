"""Rooms import only rooms above them (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

LEVELS = [
    {"errors", "container"},
    {
        "architecture",
        "head",
        "geometry",
        "arrays",
        "entropy",
        "laplace",
        "images",
        "lossless",
        "columns",
        "graphics",
        "threads",
        "processes",
        "pyramid",
    },
    {"model"},
    {"decoder"},
    {"encoder"},
    {"training"},
    {"bench"},
    {"viewer", "cli", "pillow", "__init__", "__main__"},
]
WITH_TORCH = {"iterate", "sga", "receiver", "latent_code", "modules", "torch_transform", "visual", "ops"}


def room(path: Path) -> str:
    return path.relative_to(ROOT / "nicc").parts[0].removesuffix(".py")


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Modules that a file imports when it runs, those for type checkers left out."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in tree.body if top_only else ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted((ROOT / "nicc").rglob("*.py"))


def level(name: str) -> int:
    return next(i for i, rooms in enumerate(LEVELS) if name in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_what_is_above(path):
    own = room(path)
    for module in imports(path):
        parts = module.split(".")
        if parts[0] != "nicc" or len(parts) < 2:
            continue
        other = parts[1]
        if any(other in rooms for rooms in LEVELS):
            assert level(other) <= level(own), f"{own} imports {module}"


def test_torch_is_imported_where_the_map_says():
    for path in FILES:
        heavy = {m.split(".")[0] for m in imports(path, top_only=True)} & {"torch", "compressai", "torchvision"}
        allowed = room(path) == "training" or (room(path) == "encoder" and path.stem in WITH_TORCH)
        assert not heavy or allowed, f"{path} imports {heavy}"


def test_numba_is_imported_by_kernels_alone():
    """And kernels by what fits: decoding goes without."""
    for path in FILES:
        inside = path.relative_to(ROOT / "nicc").parts
        assert inside[:2] == ("pyramid", "kernels") or "numba" not in imports(path), path
        fits = {("pyramid", name) for name in ("fit.py", "strip.py", "visual.py")}
        if inside not in fits and "kernels" not in inside:
            assert "nicc.pyramid.kernels" not in imports(path), path
