"""Texts of searches in a process of their own: the same answers, whatever becomes of the process; real processes."""

import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from medfinder.app.server.application import make_app
from medfinder.app.server.run import _make_text_worker
from medfinder.app.server.service import Service
from medfinder.app.server.settings import Limits
from medfinder.app.server.state import open_state
from medfinder.app.server.text_worker import TextWorker
from medfinder.models.checkpoint import load_model
from medfinder.records import Answer, Query
from medfinder.retrieval.index import SearchIndex

from .conftest import CASES, HOST, StandIn

pytestmark = pytest.mark.slow

DIGEST = StandIn.digest

# What the process loads: the stand-in, which stops at one text and refuses another.
LOADERS = """
import os
import sys
import time


def load():
    sys.path.insert(0, {tests!r})
    from conftest import StandIn

    class Apart(StandIn):
        def encode_texts(self, texts):
            if any("asthma" in text for text in texts):
                time.sleep(600)
            if any("fibrosis" in text for text in texts):
                raise ValueError
            return super().encode_texts(texts)

    return Apart()


def load_nothing():
    os._exit(3)
"""


@pytest.fixture
def loaders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that a new process can import."""
    (tmp_path / "loaders_of_texts.py").write_text(LOADERS.format(tests=str(Path(__file__).parent)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "loaders_of_texts", raising=False)
    return importlib.import_module("loaders_of_texts")


@contextmanager
def started(worker: TextWorker) -> Iterator[TextWorker]:
    worker.start()
    try:
        wait_until(lambda: worker.is_warm)
        yield worker
    finally:
        worker.close()


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


def has_gone(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    return False


def hits_of(client: TestClient, text: str) -> list[tuple[str, float]]:
    found = client.post("/v1/search", json={"text": text})
    assert found.status_code == 200, found.text
    return [(hit["case_id"], hit["score"]) for hit in found.json()["hits"]]


def test_a_search_whose_process_is_killed_is_answered_and_another_process_comes(
    loaders: Any, library: SearchIndex, client: TestClient, tmp_path: Path
) -> None:
    worker = TextWorker(loaders.load, DIGEST)
    app = make_app(library, StandIn(), folder=tmp_path / "state", hosts=frozenset({HOST}), texts=worker)
    answers: list[list[tuple[str, float]]] = []
    with TestClient(app, base_url=f"http://{HOST}") as served:
        ready = served.get("/readyz").json()
        assert ready.items() >= {"status": "ok", "cases": len(CASES)}.items()
        # Nobody has to wait for the process.
        assert hits_of(served, "nodule") == hits_of(client, "nodule")
        wait_until(lambda: worker.is_warm)
        assert served.get("/readyz").json()["is_text_process_warm"]
        first = worker.process_id
        assert first is not None
        asking = threading.Thread(target=lambda: answers.append(hits_of(served, "asthma")), daemon=True)
        asking.start()
        wait_until(worker._turn.locked)
        os.kill(first, signal.SIGKILL)
        asking.join(60)
        assert answers == [hits_of(client, "asthma")]
        assert hits_of(served, "emphysema") == hits_of(client, "emphysema")
        wait_until(lambda: worker.is_warm and worker.process_id != first)
        assert hits_of(served, "pleural effusion") == hits_of(client, "pleural effusion")
        last = worker.process_id
    assert last is not None
    assert has_gone(first)
    assert has_gone(last)


def test_what_the_process_cannot_encode_is_left_to_the_server(loaders: Any) -> None:
    with started(TextWorker(loaders.load, DIGEST)) as worker:
        assert worker.encode("encode_texts", ["fibrosis"]) is None
        rows = worker.encode("encode_texts", ["nodule", "mass"])
        assert rows is not None
        assert np.array_equal(rows, StandIn().encode_texts(["nodule", "mass"]))


def test_a_process_that_ends_while_it_loads_delays_nobody(loaders: Any, caplog: pytest.LogCaptureFixture) -> None:
    worker = TextWorker(loaders.load_nothing, DIGEST)
    with caplog.at_level(logging.WARNING, "medfinder.server"):
        worker.start()
        wait_until(lambda: "the next one starts in 1 s" in caplog.text)
        assert worker.encode("encode_texts", ["nodule"]) is None
        # Each time it waits longer.
        wait_until(lambda: "the next one starts in 2 s" in caplog.text)
    began = time.monotonic()
    worker.close()
    assert time.monotonic() - began < 10


def test_another_model_than_the_servers_is_not_asked(loaders: Any, caplog: pytest.LogCaptureFixture) -> None:
    worker = TextWorker(loaders.load, "6" * 64)
    with caplog.at_level(logging.WARNING, "medfinder.server"):
        worker.start()
        wait_until(lambda: "files were changed" in caplog.text)
    assert not worker.is_warm
    assert worker.encode("encode_texts", ["nodule"]) is None
    assert worker.process_id is not None
    assert has_gone(worker.process_id)
    worker.close()


QUERIES = (
    Query(text="small left pleural effusion"),
    Query(text="derrame pleural izquierdo sin enfisema"),
    Query(report="Emphysema of the upper lobes. No effusion. Heart of normal size."),
    Query(keyword="emphysema"),
    Query(text="honeycombing at both bases", k=1),
)


def test_the_shipped_model_gives_the_same_hits_and_scores_in_its_process(tmp_path: Path) -> None:
    model = load_model()
    drawn = np.random.default_rng(0).normal(size=(len(CASES), model.width)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    worker = _make_text_worker(None, model.digest)
    if worker is None:
        pytest.skip("one core: the server encodes texts itself")
    with (
        SearchIndex.create(tmp_path / "index", model_digest=model.digest, width=model.width, model_name="m") as index,
        started(worker),
    ):
        index.add(CASES, drawn, drawn, tmp_path, model_digest=model.digest)
        state = open_state(tmp_path / "state")
        services = [Service(index, model, tmp_path, Limits(), state, texts=texts) for texts in (None, worker)]
        for query in QUERIES:
            inside, apart = (service.searcher.answer(query) for service in services)
            assert_same(inside, apart)
        texts = [query.text or query.report or query.keyword or "" for query in QUERIES]
        assert worker.encode("encode_texts", texts) == pytest.approx(model.encode_texts(texts), abs=1e-5)
        assert worker.encode("encode_sentences", texts) == pytest.approx(model.encode_sentences(texts), abs=1e-5)
        state.close()


def assert_same(one: Answer, other: Answer) -> None:
    assert [hit.case_id for hit in one.hits] == [hit.case_id for hit in other.hits]
    assert [hit.score for hit in one.hits] == pytest.approx([hit.score for hit in other.hits], abs=1e-5)
    assert (one.total, one.notes) == (other.total, other.notes)
