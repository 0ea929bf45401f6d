"""Errors that a user can act on. Their text is one line: what was wrong, with what, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class NiccError(Exception):
    """Base of all errors that nicc raises on purpose."""


class FormatError(NiccError):
    """A .nic file is damaged, truncated, or of a kind that this version cannot read."""


class ModelError(NiccError):
    """A model is missing, damaged, or not the one that a file needs."""


class ImageError(NiccError):
    """An image cannot be read or cannot be encoded."""


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Imports of optional packages: one that is missing becomes a `NiccError` that says what to install."""
    try:
        yield
    except ImportError as e:
        raise NiccError(f"{what} needs {e.name}; install it with: pip install 'nicc[{extra}]'") from None
