"""A progress bar on standard error, for commands that take long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


class Bar:
    """A rich progress bar if ``shown``, nothing otherwise; a context manager.

    ``columns`` are those of `rich.progress`, by name or as format strings, as `rich.progress.Progress` orders them.
    """

    def __init__(self, shown: bool, columns: list[str], total: float | None = None) -> None:
        self.bar: Any = None
        if shown:
            from rich import progress
            from rich.console import Console

            made = [progress.TextColumn(c) if "{" in c else getattr(progress, c)() for c in columns]
            self.bar = progress.Progress(*made, console=Console(stderr=True))
            self.task = self.bar.add_task("starting", total=total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def show(self, done: float, total: float, text: str) -> None:
        """How much is done of how much, and what; the first time, the bar appears."""
        if self.bar:
            self.bar.start()
            self.bar.update(self.task, completed=done, total=total, description=text)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self.bar:
            self.bar.console.print(text)
