"""Worker processes that end when their parent does.

In: how many. Out: a process pool. Workers are fresh processes (spawned), so that they inherit neither threads nor
locks, and each watches its parent: when that is killed nobody else would end them. Ctrl-C reaches a whole terminal; it
is the parent's to answer, and workers end what they are at.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection


def open_pool(workers: int) -> ProcessPoolExecutor:
    """Open a pool of ``workers`` processes; use it as a context manager."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)
    with _interrupts_held():
        # A pool starts a process when work comes: it must come now, for a process inherits what its parent holds back.
        for _ in range(workers):
            pool.submit(int)
    return pool


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back, where the system can."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Have this process end when its parent does, whatever it is at; to be called in a worker as it starts."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
