"""Inputs and outputs of the commands: paths, pipes, overwriting, errors that name the file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from nicc.errors import NiccError
from nicc.images import write_atomically

PIPE = "-"


def shown(path: str) -> str:
    return "standard input" if path == PIPE else path


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Puts the file's name before the message of any error raised within."""
    try:
        yield
    except NiccError as e:
        raise type(e)(f"{shown(path)}: {e}") from None


def read(path: str) -> bytes:
    """All bytes of a file, or of standard input for ``-``."""
    if path == PIPE:
        return sys.stdin.buffer.read()
    return Path(path).read_bytes()


def output_path(source: str, output: str | None, suffix: str, force: bool) -> Path | None:
    """Where to write; None is standard output. Refuses to overwrite without ``force``."""
    if output == PIPE or (output is None and source == PIPE):
        return None
    path = Path(output) if output else Path(source).with_suffix(suffix)
    if path.is_dir():
        path = path / Path("stdin" if source == PIPE else source).with_suffix(suffix).name
    if not output and path == Path(source):
        raise NiccError(f"{source}: the output would be the input; name it with -o")
    refuse_overwriting(path, force)
    return path


def refuse_overwriting(path: Path | None, force: bool) -> None:
    """Raises `NiccError` if a file is there already, or no folder for it. None is standard output."""
    if path and path.exists() and not force:
        raise NiccError(f"{path}: exists; overwrite it with --force")
    if path and not path.parent.is_dir():
        raise NiccError(f"{path.parent}: no such folder")


def write(path: Path | None, data: bytes) -> None:
    """Writes a file atomically, or to standard output."""
    if path is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_atomically(path, data)


def say(message: str, quiet: bool = False) -> None:
    """A line for people, on standard error."""
    if not quiet:
        typer.echo(message, err=True)


def bytes_of(text: str) -> int:
    """Bytes of a size such as 20000, 20kB or 20KiB. Raises `ValueError`."""
    number = text.strip().lower()
    units = {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9, "b": 1}
    unit = next((u for u in units if number.endswith(u)), "")
    value = float(number.removesuffix(unit)) * units.get(unit, 1)
    if not 1 <= value < 1 << 40:
        raise ValueError(text)
    return int(value)
