"""The command line: one module per subcommand, no codec logic here."""

from __future__ import annotations

import gc
import sys

# what imports leave behind lives as long as the process: looking through it takes 5 % of decoding a file
gc.disable()

import typer

from nicc.cli.bench import bench
from nicc.cli.decode import decode
from nicc.cli.encode import encode
from nicc.cli.info import info
from nicc.cli.models import models
from nicc.cli.train import train
from nicc.cli.view import view
from nicc.errors import NiccError

app = typer.Typer(
    name="nicc",
    help="Neural image compression with shallow, exact decoders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(encode)
app.command()(decode)
app.command()(info)
app.command()(view)
app.command()(models)
app.command()(train)
app.command()(bench)


def _version(wanted: bool) -> None:
    if wanted:
        from nicc import __version__
        from nicc.cli.models import installed

        known = ", ".join(f"{m['name']} {m.get('version', '(damaged)')}" for m in installed())
        typer.echo(f"nicc {__version__}, models: {known or 'none'}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and the models."
    ),
) -> None:
    pass


def main() -> None:
    """Entry point: one line on standard error and exit 1 for anything that a user can mend."""
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
