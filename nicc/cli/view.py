"""nicc view: decoded images in the browser, with a realism slider."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import typer

from nicc.cli import files


def view(
    sources: list[Path] = typer.Argument(..., metavar="FILE...", help="The .nic files to show."),
    originals: list[Path] = typer.Option(
        [],
        "--original",
        exists=True,
        dir_okay=False,
        help="Show this image as the original of the first file; give the option again for the second.",
    ),
    port: int = typer.Option(
        0, "--port", min=0, max=65535, help="Serve on this port of the loopback interface; 0 takes any that is free."
    ),
    browser: bool = typer.Option(True, help="Open the page in the browser."),
) -> None:
    """Show decoded images on a local page: realism slider, zoom, original. Ctrl-C ends it."""
    from nicc.viewer.server import Server, load

    if len(originals) > len(sources):
        raise typer.BadParameter("more originals than files", param_hint="--original")
    shown = []
    for number, path in enumerate(sources):
        with files.naming(str(path)):
            shown.append(load(path, originals[number] if number < len(originals) else None))
    with Server(shown, port) as server:
        typer.echo(server.url)
        if browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            files.say("")
