"""Codecs by name. Each codes RGB pixels to real bytes and back.

>>> codec = find("webp")
>>> codec.decode(codec.encode(pixels, 75)).shape == pixels.shape
True
"""

from __future__ import annotations

import fnmatch
import re
from functools import partial

from nicc.bench.codecs import compressai, pillow
from nicc.bench.codecs.base import Codec, Unavailable
from nicc.bench.codecs.nicc import SUFFIX, NiccCodec, model_names
from nicc.errors import NiccError

__all__ = ["Codec", "NiccCodec", "Unavailable", "find", "names", "select"]

OTHERS = {name: partial(kind, name) for kind, names in (pillow.CODECS, compressai.CODECS) for name in names}


def names() -> list[str]:
    """Names of all codecs that this installation knows, whether their libraries are there or not."""
    return [f"nicc-{name}" for name in model_names()] + list(OTHERS)


def find(name: str) -> Codec:
    """The codec of a name; ``nicc:FOLDER`` is the model in that folder. Raises `NiccError`.

    Names of models may end in ``-effortN``, ``-sgaN``, N steps of iterative encoding, ``-nearest`` or ``-betaB``, see
    `NiccCodec`.
    """
    if name in OTHERS:
        return OTHERS[name]()
    if name.startswith("nicc:") or re.sub(SUFFIX, "", name).removeprefix("nicc-") in model_names():
        return NiccCodec(name)
    raise NiccError(
        f"codec {name!r} is not known; known are {', '.join(names())}, nicc:FOLDER, "
        "and nicc-NAME with -effortN, -sgaN, -nearest or -betaB"
    )


def select(patterns: list[str], sga_steps: int = 0) -> list[str]:
    """Names that comma-separated names and patterns stand for, in order. Raises `NiccError`.

    With ``sga_steps``, every chosen model is followed by itself with so many steps.
    """
    chosen: list[str] = []
    for pattern in ",".join(patterns).split(","):
        found = fnmatch.filter(names(), "*" if pattern == "all" else pattern)
        chosen += found or [find(pattern).name]
    if sga_steps:
        models = [c for c in chosen if c.startswith("nicc") and not re.search(SUFFIX, c)[0]]  # type: ignore[index]
        chosen = [name for c in chosen for name in ([c, f"{c}-sga{sga_steps}"] if c in models else [c])]
    return list(dict.fromkeys(chosen))
