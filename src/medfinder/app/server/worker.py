"""A process of its own for whatever is done to files from outside: it can be killed, and its memory has an end.

In: a function of a module, its arguments, a time. Out: its result, or the error of ours that it raised; ``OSError``
where the disk is full, which is no fault of the file. Refused with ``StudyError``: what takes too long, takes too much
memory, or ends the process. The process waits for the next job when it is done, since starting one takes seconds; after
a failure of that kind a new one is started.
"""

import contextlib
import errno
import multiprocessing
import os
import resource
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from medfinder.app.server.faults import is_disk_full
from medfinder.errors import MedFinderError, MissingExtraError, StudyError
from medfinder.workers import end_with_parent

T = TypeVar("T")

_SPAWN = multiprocessing.get_context("spawn")


class _ClosedError(StudyError):
    """The server is ending, which is no fault of the file."""

    def __init__(self) -> None:
        super().__init__("the server is ending; send the CT again when it is back")


class Worker:
    """Runs one job at a time in a process that can be killed; others wait.

    Args:
        memory_mb: address space of the process.
        file_mb: size of any one file that it writes.
    """

    def __init__(self, *, memory_mb: int, file_mb: int) -> None:
        self._limits = (memory_mb * 2**20, file_mb * 2**20)
        self._turn, self._changing = threading.Lock(), threading.Lock()
        self._is_closed = False
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    def start(self) -> None:
        """Start the process, so that the first job need not wait for it."""
        with self._turn, contextlib.suppress(_ClosedError):
            self._require()

    def close(self) -> None:
        """End the process, whatever it is at, and start no more."""
        self._is_closed = True
        # Whoever has the turn waits for the process; its end lets them go on.
        self._end()
        with self._turn:
            self._drop()

    def run(self, work: Callable[..., T], *given: Any, seconds: float) -> T:
        """Run ``work(*given)`` in the process.

        Raises:
            StudyError: it took too long, or too much memory, or the process or the server came to an end.
            MedFinderError: what the work raised.
            OSError: the disk is full.
        """
        with self._turn:
            pipe = self._require()
            try:
                pipe.send((work, given))
                if not pipe.poll(seconds):
                    raise StudyError(f"the CT was not read within {seconds:g} s; send one series, or fewer slices")
                is_done, value = pipe.recv()
            except (EOFError, OSError):
                self._drop()
                if self._is_closed:
                    raise _ClosedError from None
                raise StudyError(
                    "the process that read the CT came to an end; the file is damaged or too large"
                ) from None
            except BaseException:
                self._drop()
                raise
        if is_done:
            return value  # type: ignore[no-any-return]  # a pipe knows no types
        raise value

    def _require(self) -> Connection:
        if self._process is None or not self._process.is_alive() or self._pipe is None:
            self._drop()
            self._pipe = self._begin()
        return self._pipe

    def _begin(self) -> Connection:
        """Start a process; the lock is for ``close``, which may come from another thread meanwhile."""
        ours, theirs = _SPAWN.Pipe()
        with theirs, self._changing:
            if self._is_closed:
                ours.close()
                raise _ClosedError
            process = _SPAWN.Process(target=_serve, args=(theirs, *self._limits), daemon=True)
            process.start()
            self._process = process
        return ours

    def _end(self) -> None:
        with self._changing:
            if self._process is not None:
                self._process.kill()
                self._process.join(5)

    def _drop(self) -> None:
        """End the process and let go of it; for whoever has the turn."""
        self._end()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def _serve(pipe: Connection, memory: int, file: int) -> None:
    """Do jobs until the server goes away."""
    end_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file, file))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Reading it takes seconds, which the first job need not wait for.
    import medfinder.app.server.reading  # noqa: F401

    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            work, given = pipe.recv()
            pipe.send(_outcome(work, given))


def _outcome(work: Callable[..., Any], given: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return True, work(*given)
    except MissingExtraError as error:
        return False, StudyError(str(error))
    except MedFinderError as error:
        # A cause does not travel through a pipe.
        return False, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if is_disk_full(error) else error
    except MemoryError:
        return False, StudyError("the CT takes more memory than this server gives; send one series, or fewer slices")
    except OSError as error:
        if error.errno == errno.EFBIG:
            return False, StudyError("the CT unpacks to more than this server takes; send one series, or fewer slices")
        return False, error if is_disk_full(error) else StudyError(
            f"the CT cannot be read: {error.strerror or type(error).__name__}"
        )
    except Exception as error:
        # Readers of damaged files raise what they like; its message may hold what the file says.
        return False, StudyError(f"the CT cannot be read ({type(error).__name__}); the file is damaged")
