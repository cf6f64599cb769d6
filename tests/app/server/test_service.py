"""What the threads of the server share: one model, its turns and what it remembers."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from medfinder.app.server.service import Gathered


class Slow:
    """Gives each text its length; the first call lasts until it is let go on."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(list(texts))
        self.began.set()
        assert self.go_on.wait(20)
        if "bad" in texts:
            raise ValueError
        return np.array([[len(text)] for text in texts])


def ask(gathered: Gathered, text: str, answers: dict[str, object]) -> threading.Thread:
    def run() -> None:
        try:
            answers[text] = gathered([text]).tolist()
        except ValueError:
            answers[text] = "refused"

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def gather(first: str, *others: str) -> tuple[Slow, dict[str, object]]:
    """Ask for one text, and for others while it is encoded."""
    slow, answers = Slow(), dict[str, object]()
    gathered = Gathered(slow, threading.RLock())
    threads = [ask(gathered, first, answers)]
    assert slow.began.wait(20)
    for count, text in enumerate(others, start=1):
        threads.append(ask(gathered, text, answers))
        while len(gathered._waiting) < count:
            threads[-1].join(0.01)
    slow.go_on.set()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    gathered(["once more", first] if first != "bad" else ["once more"])
    return slow, answers


def test_texts_that_wait_are_encoded_together_and_each_gets_its_own() -> None:
    slow, answers = gather("mass", "nodule", "effusion", "cyst")
    assert answers == {"mass": [[4]], "nodule": [[6]], "effusion": [[8]], "cyst": [[4]]}
    assert slow.calls[0] == ["mass"]
    assert sorted(slow.calls[1]) == ["cyst", "effusion", "nodule"]
    assert slow.calls[2:] == [["once more"]]


@pytest.mark.parametrize(("first", "other"), [("mass", "bad"), ("bad", "mass")])
def test_a_text_that_cannot_be_encoded_spoils_no_other(first: str, other: str) -> None:
    _, answers = gather(first, other, "cyst")
    assert answers == {"mass": [[4]], "cyst": [[4]], "bad": "refused"}
