"""A process of its own for the texts of searches, which are encoded there while the server does everything else.

In: a way to load the server's model once more; texts. Out: their vectors, as the model gives them; ``None`` while there
is no such process, because it loads still or came to an end: the server has the model, too, and encodes the texts
itself, so that no search fails of it. A process that ended is followed by another one. Refused: a model that is not the
server's, its files having been changed meanwhile.
"""

import contextlib
import logging
import multiprocessing
import resource
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Literal

import numpy as np

from medfinder.workers import end_with_parent

if TYPE_CHECKING:
    from medfinder.models.protocol import DualEncoder

_LOG = logging.getLogger("medfinder.server")

_SPAWN = multiprocessing.get_context("spawn")

TextMethod = Literal["encode_texts", "encode_sentences"]

# Ours: the model is loaded in some ten seconds, the longest text that a search may bring is encoded in as many; what
# takes several times as long stands still.
_LOAD_S, _ANSWER_S = 300.0, 120.0

# Ours: between two processes, doubled each time unless the last one lived long enough to be worth its start.
_PAUSE_S, _LONGEST_PAUSE_S, _LONG_LIFE_S = 1.0, 300.0, 60.0


class TextWorker:
    """Encodes texts in another process, for one thread at a time.

    Args:
        load: gives the model; called in the process, so it must be something that can be pickled.
        digest: of the server's model.
    """

    def __init__(self, load: Callable[[], "DualEncoder"], digest: str) -> None:
        self._load = load
        self._digest = digest
        self._turn, self._starting = threading.Lock(), threading.Lock()
        self._is_closed = threading.Event()
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    @property
    def is_warm(self) -> bool:
        """Whether the process has loaded the model and takes texts."""
        return self._pipe is not None

    @property
    def process_id(self) -> int | None:
        """Id of the process, or of the one before as long as there is no other; None before the first."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Have a process there from now on; does not wait for it."""
        self._keeper.start()

    def close(self) -> None:
        """End the process, whatever it is at, and start no more."""
        self._is_closed.set()
        self._end()
        if self._keeper.ident is not None:
            self._keeper.join(10)

    def encode(self, method: TextMethod, texts: Sequence[str]) -> np.ndarray | None:
        """Encode texts, a row each; None where somebody else must."""
        with self._turn:
            if self._pipe is None:
                return None
            with contextlib.suppress(EOFError, OSError):
                self._pipe.send((method, list(texts)))
                if self._pipe.poll(_ANSWER_S):
                    rows: np.ndarray | None = self._pipe.recv()
                    return rows
            # What it may answer yet must not be taken for the answer to the next texts.
            self._pipe = None
            self._end()
            return None

    def _keep(self) -> None:
        """Start one process after the other until the server ends."""
        # A new process inherits it: Ctrl-C reaches a whole terminal, and is the server's to answer. The tracker comes
        # first, since its own start lets the signal through again.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        pause_s = 0.0
        while not self._is_closed.wait(pause_s):
            started = time.monotonic()
            digest = self._live()
            if self._is_closed.is_set():
                return
            if digest not in (None, self._digest):
                _LOG.warning("the model's files were changed; the server encodes texts itself until it starts anew")
                return
            is_long = time.monotonic() - started > _LONG_LIFE_S
            pause_s = _PAUSE_S if is_long else min(max(_PAUSE_S, 2 * pause_s), _LONGEST_PAUSE_S)
            _LOG.warning("the process that encodes texts ended; the next one starts in %g s", pause_s)

    def _live(self) -> str | None:
        """Start a process and wait for its end; tell whose model it had, None where it loaded none."""
        ours, theirs = _SPAWN.Pipe()
        with ours:
            with theirs:
                self._begin(theirs)
            digest = _first_word(ours)
            if digest == self._digest and self._process is not None:
                self._pipe = ours
                connection.wait([self._process.sentinel])
            self._end()
            with self._turn:
                self._pipe = None
        return digest

    def _begin(self, pipe: Connection) -> None:
        with self._starting:
            if not self._is_closed.is_set():
                process = _SPAWN.Process(target=_serve, args=(pipe, self._load), daemon=True)
                # Without memory for a process the pipe ends as it does with one that ends.
                with contextlib.suppress(OSError):
                    process.start()
                    self._process = process

    def _end(self) -> None:
        with self._starting:
            if self._process is not None:
                self._process.kill()
                self._process.join(5)


def _first_word(pipe: Connection) -> str | None:
    """Wait until a process tells whose model it has loaded; None where it does not come so far."""
    try:
        return str(pipe.recv()) if pipe.poll(_LOAD_S) else None
    except (EOFError, OSError):
        return None


def _serve(pipe: Connection, load: Callable[[], "DualEncoder"]) -> None:
    """Encode texts until the server goes away."""
    end_with_parent()
    # What was asked for must not get to the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    model = load()
    # The first text takes several times as long as those after it.
    model.encode_texts(["chest"])
    with contextlib.suppress(EOFError, OSError):
        pipe.send(model.digest)
        while True:
            method, texts = pipe.recv()
            pipe.send(_rows(getattr(model, method), texts))


def _rows(encode: Callable[[Sequence[str]], np.ndarray], texts: Sequence[str]) -> np.ndarray | None:
    try:
        return encode(texts)
    except Exception:
        # The server comes upon the same, and can tell of it.
        return None
