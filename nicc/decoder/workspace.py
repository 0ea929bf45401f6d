"""Memory for intermediate results that is used again and again."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np


class _Kept:
    """What is kept for every thread."""

    buffers = threading.local()


def workspace(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Uninitialised memory that is used again by the next call of the same name in this thread.

    Fresh pages for every band would cost more time than the arithmetic on them.
    """
    size = math.prod(shape)
    held: np.ndarray | None = getattr(_Kept.buffers, name, None)
    if held is None or held.size < size or held.dtype != dtype:
        held = np.empty(size, dtype)
        setattr(_Kept.buffers, name, held)
    return held[:size].reshape(shape)


def forget() -> None:
    """Frees the memory that is kept, of all threads: for work of another kind, which needs other buffers."""
    _Kept.buffers = threading.local()
