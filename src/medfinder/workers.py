"""Worker processes that end when their parent does.

In: how many. Out: a process pool. Workers are fresh processes (spawned), so that they inherit neither threads nor
locks, and each watches its parent: when that is killed nobody else would end them.
"""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection


def open_pool(workers: int) -> ProcessPoolExecutor:
    """Open a pool of ``workers`` processes; use it as a context manager."""
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_watch_parent)


def _watch_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
