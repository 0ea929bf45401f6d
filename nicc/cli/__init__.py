"""The command line: one module per subcommand, no codec logic here."""

from __future__ import annotations

import gc
import sys

# what imports leave behind lives as long as the process: looking through it takes 5 % of decoding a file
gc.disable()

from importlib import import_module
from typing import Any

import typer

from nicc.errors import NiccError

COMMANDS = ("encode", "decode", "info", "view", "models", "train", "bench")
"""Subcommands, each a function in the module of its name."""


def command_line(*names: str) -> typer.Typer:
    """The command line with some of the `COMMANDS`, whose modules are imported."""
    app = typer.Typer(
        name="nicc",
        help="Neural image compression with shallow, exact decoders.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    for name in names:
        app.command()(getattr(import_module(f"nicc.cli.{name}"), name))
    app.callback()(_options)
    return app


def __getattr__(name: str) -> Any:
    if name == "app":
        return command_line(*COMMANDS)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version(wanted: bool) -> None:
    if wanted:
        from nicc import __version__
        from nicc.cli.models import installed

        known = ", ".join(f"{m['name']} {m.get('version', '(damaged)')}" for m in installed())
        typer.echo(f"nicc {__version__}, models: {known or 'none'}")
        raise typer.Exit


def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and the models."
    ),
) -> None:
    pass


def main() -> None:
    """Entry point: one line on standard error and exit 1 for anything that a user can mend."""
    app = command_line(*([name for name in sys.argv[1:2] if name in COMMANDS] or COMMANDS))  # each costs milliseconds
    gc.freeze()
    gc.enable()
    try:
        app()
    except NiccError as e:
        sys.exit(f"nicc: {e}")
    except MemoryError:
        sys.exit("nicc: out of memory")
    except OSError as e:
        sys.exit(f"nicc: {e.filename or 'input/output'}: {e.strerror or e}")
    except ImportError as e:
        sys.exit(f"nicc: {e.name or e} is not installed")
