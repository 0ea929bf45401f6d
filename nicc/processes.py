"""Worker processes that neither outlive who started them nor see interrupts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def end_with_parent() -> None:
    """For a pool's ``initializer``: the process ends as soon as its parent does, even if that was killed."""
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """An interrupt waits for the end of the block; processes started within never see one, not even at first."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def interrupts_noted() -> Iterator[Callable[[], None]]:
    """Within the block an interrupt raises `KeyboardInterrupt` where the yielded function is called, and nowhere else.

    Raised in the middle of an executor's bookkeeping, it may leave a lock held for ever. Where
    interrupts are somebody else's, or the thread is not the main one, the function does nothing.
    """
    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: None
        return
    noted = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: noted.set())

    def check() -> None:
        if noted.is_set():
            raise KeyboardInterrupt

    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
