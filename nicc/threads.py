"""Threads: bands of an image are the parallelism, and every matrix product within them has one thread.

A matrix product on two threads may add its terms in another order than on one, and so differ in
the last bit. With one thread the same file gives the same pixels however many processors, jobs or
threads the caller has, and threads do not wait for each other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache

from threadpoolctl import OpenBLASController, ThreadpoolController

MAX_THREADS = 8


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bands_at_once() -> int:
    """How many bands are worked on at once."""
    return min(processors(), MAX_THREADS)


@lru_cache(maxsize=1)
def pool() -> ThreadPoolExecutor:
    """Threads for bands; they are kept, and with them the memory that they work in."""
    return ThreadPoolExecutor(bands_at_once(), "nicc")


class _Limit:
    """Who works under the limit now. The first to come sets it, the last to go restores what was."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0

    def enter(self) -> None:
        with self.lock:
            if not self.users:
                _free_control()
                self.limiter = _controller().limit(limits=1, user_api="blas")
            self.users += 1

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                _free_control()
                self.limiter.restore_original_limits()
                _free_control()


def _free_control() -> None:
    """Lets the next thread that asks set OpenBLAS's threads.

    From threadpoolctl 3.8 on, only the first thread that ever did may do so; the last user of the
    limit need not be the first.
    """
    if clear := getattr(OpenBLASController, "clear_controlling_thread", None):
        clear(force=True)


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    """The libraries that NumPy has loaded by now; finding them takes a millisecond."""
    return ThreadpoolController()


_limit = _Limit()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Matrix products of NumPy have one thread within the block; afterwards as many as before.

    The number is the process's: other threads of the caller have one thread too while a block
    lasts. Blocks may overlap in any way. The environment is not touched.
    """
    _limit.enter()
    try:
        yield
    finally:
        _limit.leave()
