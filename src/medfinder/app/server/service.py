"""What the routes share: the open index, the model, the threads that search, the pictures.

In: an open index and its model. Out: searches and other work, a bounded number side by side; whoever comes when too
many wait is told to come again (503). The model is called by one thread at a time for texts and by one for volumes:
it uses all cores as it is, and remembers texts in a table that knows no threads. Texts that wait for it meanwhile are
encoded together, and their vectors kept; in a process of their own, where there is one.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio
import anyio.to_thread
import numpy as np

from medfinder.app.server.faults import Refusal
from medfinder.app.server.metrics import Metrics
from medfinder.app.server.pictures import Pictures
from medfinder.app.server.settings import Limits
from medfinder.app.server.state import State
from medfinder.app.server.text_worker import TextMethod, TextWorker
from medfinder.app.study_links import ViewerLinks
from medfinder.curation.dataset import view_beside
from medfinder.retrieval.index import SearchIndex
from medfinder.retrieval.search import Searcher
from medfinder.retrieval.stored_case import IndexedCase

if TYPE_CHECKING:
    from medfinder.models.protocol import DualEncoder

T = TypeVar("T")

_RETRY_S = "2"

# Ours: what a ward asks in a day; 8 MB at a width of 512.
_TEXTS_KEPT = 4_096


class Gathered:
    """Encodes texts in one call with those of other threads that wait for their turn, and keeps the vectors.

    One text takes most of the time that four take together, and a second page or a filter asks for the same again.

    Args:
        encode: texts to vectors, a row each; called by one thread at a time.
        turn: held meanwhile.
    """

    def __init__(self, encode: Callable[[Sequence[str]], np.ndarray], turn: threading.RLock) -> None:
        self._encode = encode
        self._turn = turn
        self._access = threading.Lock()
        self._waiting: dict[str, None] = {}
        self._kept: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Give the vectors of texts."""
        found = self._find(texts)
        new = [text for text in dict.fromkeys(texts) if text not in found]
        if new:
            with self._access:
                self._waiting |= dict.fromkeys(new)
            with self._turn:
                # Whoever had the turn before may have done ours, too.
                found |= self._find(new)
                found |= self._encode_waiting([text for text in new if text not in found])
        return np.stack([found[text] for text in texts]) if texts else self._encode(texts)

    def _find(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        with self._access:
            return {text: self._kept[text] for text in texts if text in self._kept}

    def _encode_waiting(self, own: list[str]) -> dict[str, np.ndarray]:
        if not own:
            return {}
        with self._access:
            together = [*own, *(text for text in self._waiting if text not in self._kept and text not in own)]
            self._waiting.clear()
        try:
            made = dict(zip(together, self._encode(together), strict=True))
        except Exception:
            if together == own:
                raise
            # What is wrong with another's text is told to him alone.
            made = dict(zip(own, self._encode(own), strict=True))
        with self._access:
            self._kept |= made
            for oldest in list(self._kept)[: max(0, len(self._kept) - _TEXTS_KEPT)]:
                del self._kept[oldest]
        return made


class SharedModel:
    """A model whose methods are called by one thread at a time, those for volumes apart from those for texts.

    Args:
        texts: encodes the texts of searches in its own process, as long as it can.
    """

    def __init__(self, model: "DualEncoder", texts: TextWorker | None = None) -> None:
        self._model = model
        self._worker = texts
        self._texts, self._volumes = threading.RLock(), threading.RLock()
        self.encode_texts = Gathered(partial(self._encode, "encode_texts"), threading.RLock())
        self.encode_sentences = Gathered(partial(self._encode, "encode_sentences"), threading.RLock())

    def _encode(self, method: TextMethod, texts: Sequence[str]) -> np.ndarray:
        rows = None if self._worker is None else self._worker.encode(method, texts)
        if rows is not None:
            return rows
        found: np.ndarray = self._call(self._texts, getattr(self._model, method), texts)
        return found

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._model, name)
        if not callable(value):
            return value
        return partial(self._call, self._volumes if name in _OF_VOLUMES else self._texts, value)

    @staticmethod
    def _call(lock: threading.RLock, method: Callable[..., Any], *given: Any, **named: Any) -> Any:
        with lock:
            return method(*given, **named)


_OF_VOLUMES = ("encode_volumes", "encode_regions", "map_findings")


class Service:
    """One open index and its model, as the routes use them.

    Attributes:
        folder: where the server keeps what must outlive it.
        state: what it remembers of people.
        viewer: turns a study into an address of the PACS's viewer, where the server was told of one.
    """

    def __init__(
        self,
        index: SearchIndex,
        model: "DualEncoder",
        folder: Path,
        limits: Limits,
        state: State,
        viewer: ViewerLinks | None = None,
        texts: TextWorker | None = None,
    ) -> None:
        self.index = index
        self.model = cast("DualEncoder", SharedModel(model, texts))
        self.searcher = Searcher(index, self.model)
        self.folder = folder
        self.limits = limits
        self.state = state
        self.viewer = viewer
        self.metrics = Metrics()
        self.pictures = Pictures(limits.pictures_mb * 2**20)
        self._turns: anyio.CapacityLimiter | None = None

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """Do work in a thread when its turn comes.

        Raises:
            Refusal: too many wait already.
        """
        if self._turns is None:
            self._turns = anyio.CapacityLimiter(self.limits.searches)
        if self._turns.statistics().tasks_waiting >= self.limits.waiting:
            raise Refusal(503, "too many searches wait already; try again in a moment", {"Retry-After": _RETRY_S})
        return await anyio.to_thread.run_sync(partial(work, *given), limiter=self._turns)

    def case(self, case_id: str) -> IndexedCase:
        """Fetch one case.

        Raises:
            Refusal: there is none of this id.
        """
        found = self.index.cases([case_id])
        if case_id not in found:
            raise Refusal(404, "no such case in this index")
        return found[case_id]

    def viewer_link(self, study_id: str) -> str | None:
        """Tell where the PACS's viewer shows a study; None where nobody remembers."""
        return None if self.viewer is None else self.viewer.of(study_id)

    def volume(self, case_id: str) -> Path:
        """Tell where the standardised volume of a case lies.

        Raises:
            Refusal: there is no such case, or its volume has gone.
        """
        path = self.case(case_id).volume
        if path is None:
            raise Refusal(404, "the volume of this case has gone from the server's disk; index the case again")
        return path

    def view(self, case_id: str) -> Path:
        """Tell where a case's volume lies as people look at it: the finer copy, or else the standardised volume.

        Raises:
            Refusal: there is no such case, or its volume has gone.
        """
        return view_beside(self.volume(case_id))
