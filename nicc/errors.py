"""Errors that a user can act on. Their text is one line: what was wrong, with what, what to do."""


class NiccError(Exception):
    """Base of all errors that nicc raises on purpose."""


class FormatError(NiccError):
    """A .nic file is damaged, truncated, or of a kind that this version cannot read."""


class ModelError(NiccError):
    """A model is missing, damaged, or not the one that a file needs."""


class ImageError(NiccError):
    """An image cannot be read or cannot be encoded."""
