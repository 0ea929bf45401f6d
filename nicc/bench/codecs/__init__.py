"""Codecs by name. Each codes RGB pixels to real bytes and back.

>>> codec = find("webp")
>>> codec.decode(codec.encode(pixels, 75)).shape == pixels.shape
True
"""

from __future__ import annotations

import fnmatch
from functools import partial

from nicc.bench.codecs import compressai, pillow
from nicc.bench.codecs.base import Codec, Unavailable
from nicc.bench.codecs.nicc import NiccCodec, model_names
from nicc.errors import NiccError

__all__ = ["DEFAULT", "Codec", "Unavailable", "find", "names", "select"]

OTHERS = {name: partial(kind, name) for kind, names in (pillow.CODECS, compressai.CODECS) for name in names}
DEFAULT = ("nicc-*", "jpeg", "webp", "avif-444")


def names() -> list[str]:
    """Names of all codecs that this installation knows, whether their libraries are there or not."""
    return [f"nicc-{name}" for name in model_names()] + list(OTHERS)


def find(name: str) -> Codec:
    """The codec of a name; ``nicc:FOLDER`` is the model in that folder. Raises `NiccError`."""
    if name in OTHERS:
        return OTHERS[name]()
    if name.startswith("nicc:") or name.removeprefix("nicc-") in model_names():
        return NiccCodec(name)
    raise NiccError(f"codec {name!r} is not known; known are {', '.join(names())}, and nicc:FOLDER")


def select(patterns: list[str]) -> list[str]:
    """Names that comma-separated names and patterns stand for, in order. Raises `NiccError`."""
    chosen: list[str] = []
    for pattern in ",".join(patterns).split(","):
        found = fnmatch.filter(names(), "*" if pattern == "all" else pattern)
        chosen += found or [find(pattern).name]
    return list(dict.fromkeys(chosen))
