"""Cases as training reads them, and the order in which they come.

In: a dataset folder, and how a report is cut into pieces. Out: examples; batches of their volumes, read ahead in a
thread from the memory-mapped files. Every draw depends on the seed and the number of the step alone.
"""

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medfinder.curation.dataset import Dataset
from medfinder.curation.keywords import extract_findings
from medfinder.models.labels import ShortQuery, draw_query, labels_of
from medfinder.models.texts import PieceTable
from medfinder.records import Case, Finding

Cut = Callable[[str], tuple[str, ...]]


@dataclass(frozen=True)
class Examples:
    """Cases as training reads them.

    Attributes:
        hu: gives the int16 volume of a case.
        pieces: numbers of each report's pieces in the table of frozen vectors.
        groups: cases with the same number are of one study or have one report text.
        findings: of each case.
        queries: for each case some short queries with the numbers of their pieces; may be empty.
        regions: for each case the (token, label) pairs where a finding's mask touches the token; None when unknown.
        maps: the same for the cells of the finding maps and for findings.
        piece_labels: what each piece of text says is there; None where nothing asks for it.
    """

    hu: Callable[[int], np.ndarray]
    pieces: Sequence[tuple[int, ...]]
    groups: np.ndarray
    findings: Sequence[tuple[Finding, ...]]
    queries: Sequence[Sequence[tuple[ShortQuery, tuple[int, ...]]]]
    regions: Sequence[np.ndarray] | None = None
    maps: Sequence[np.ndarray] | None = None
    piece_labels: Sequence[frozenset[str]] | None = None

    def __len__(self) -> int:
        return len(self.pieces)


def cases_with_report(dataset: Dataset, split: str) -> list[Case]:
    """List the chest cases of a split that have a report."""
    return [case for case in dataset.select(split) if case.report and case.region == "chest"]


def read_examples(
    dataset: Dataset,
    *,
    cut: Cut,
    embed: Callable[[list[str]], PieceTable],
    queries: int,
    seed: int,
) -> tuple[Examples, Examples, PieceTable]:
    """Read the training and validation cases that have a report, and embed every piece of their texts once.

    Args:
        embed: gives the table of frozen vectors of some pieces.
        queries: short queries drawn for each training case.
    """
    parts = [cases_with_report(dataset, split) for split in ("train", "val")]
    rng = np.random.default_rng([seed, 4])
    names = sorted({finding.name for case in parts[0] for finding in case.findings})
    drawn = [[draw_query(case.findings, names, rng) for _ in range(queries)] for case in parts[0]]
    asked = [[query for query in some if query is not None] for some in drawn]
    texts = [case.report for part in parts for case in part] + [query.text for some in asked for query in some]
    table = embed([piece for text in texts for piece in cut(text)])
    none: list[list[ShortQuery]] = [[] for _ in parts[1]]
    return _examples(dataset, parts[0], asked, cut, table), _examples(dataset, parts[1], none, cut, table), table


def _examples(
    dataset: Dataset, cases: Sequence[Case], queries: Sequence[Sequence[ShortQuery]], cut: Cut, table: PieceTable
) -> Examples:
    return Examples(
        hu=lambda place: dataset.volume(cases[place]),
        pieces=[table.numbers(cut(case.report)) for case in cases],
        groups=group_numbers(cases),
        findings=[case.findings for case in cases],
        queries=[[(query, table.numbers(cut(query.text))) for query in some] for some in queries],
    )


def group_numbers(cases: Sequence[Case]) -> np.ndarray:
    """Number the cases so that those of one study, or with one report text, share a number."""
    number: dict[str, int] = {}
    groups = []
    for place, case in enumerate(cases):
        keys = (f"study {case.study_id}", f"report {case.report}")
        group = next((number[key] for key in keys if key in number), place)
        groups.append(group)
        for key in keys:
            number.setdefault(key, group)
    return np.array(groups)


@dataclass(frozen=True)
class Reading:
    """Which cases a step has, and the volumes of some of them.

    Attributes:
        cases: of all processes.
        hu: (n, x, y, z) int16 of this process's share.
    """

    step: int
    cases: np.ndarray
    hu: np.ndarray


@dataclass(frozen=True)
class Order:
    """The order in which cases come: shuffled anew in each epoch; what does not fill a batch waits for the next one.

    Attributes:
        multiple: an epoch has a multiple of so many batches.
        share: (number of this process, number of processes); each reads its part of every batch.
    """

    cases: int
    batch: int
    seed: int
    multiple: int = 1
    share: tuple[int, int] = (0, 1)

    @property
    def steps_per_epoch(self) -> int:
        """Give the number of whole batches of an epoch."""
        return self.cases // self.batch // self.multiple * self.multiple

    def cases_of(self, step: int) -> np.ndarray:
        """List the cases of a step, of all processes."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(self.cases)
        return order[place * self.batch : (place + 1) * self.batch]

    def own(self) -> slice:
        """Say which part of a batch is this process's."""
        number, processes = self.share
        size = self.batch // processes
        return slice(number * size, (number + 1) * size)

    def read(self, examples: Examples, first: int, last: int) -> Iterator[Reading]:
        """Read the volumes of steps ``first`` to ``last``."""
        for step in range(first, last):
            cases = self.cases_of(step)
            yield Reading(step, cases, np.stack([np.asarray(examples.hu(case)) for case in cases[self.own()]]))


def read_ahead(readings: Iterator[Reading], depth: int = 2) -> Iterator[Reading]:
    """Read the coming batches in a thread while the present one is used."""
    box: queue.Queue[Reading | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Reading | BaseException | None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                box.put(item, timeout=0.2)
                return

    def read() -> None:
        try:
            for reading in readings:
                put(reading)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # handed to the reader's side, raised there
            put(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (item := box.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def label_pieces(table: PieceTable, cache: Path) -> tuple[frozenset[str], ...]:
    """Read from each piece of text the labels of the findings that it says are there; once, kept in ``cache``."""
    digest = hashlib.sha256("\0".join(table.number).encode()).hexdigest()
    path = cache / f"labels-{digest[:16]}.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        stored = [sorted(labels_of(extract_findings(piece, "en"))) for piece in table.number]
        cache.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(stored), encoding="utf-8")
    return tuple(frozenset(labels) for labels in stored)
