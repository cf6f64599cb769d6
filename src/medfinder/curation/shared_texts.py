"""Which studies have the same report, or nearly the same.

In: one text a study, and whose it is. Out: groups of studies whose texts share nine tenths of their three-word runs.
Candidates come from MinHash signatures cut into bands (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, chapter 3); each pair is then compared exactly, so that a group is never a guess. Texts without a word are
passed over.
"""

import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medfinder.curation.contradictions import fold

# Ours: two texts with 0.9 of their runs in common meet in a band with a chance of 1 - (1 - 0.9**6)**12 > 0.9998,
# two with half of them with 0.17: few pairs are compared in vain.
_BANDS, _ROWS = 12, 6
_RUN_WORDS = 3

_Runs = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Told:
    """The report of one study.

    Attributes:
        name: of the study or table row.
        patient: whose it is; compared, never printed.
    """

    name: str
    patient: str
    text: str


@dataclass(frozen=True, slots=True)
class SharedText:
    """Studies with one text.

    Attributes:
        names: in the order they came.
        patients: how many different ones.
        words: of the first text.
        similarity: of the two that are least alike among the compared pairs; 1 where all say the same.
    """

    names: tuple[str, ...]
    patients: int
    words: int
    similarity: float


def find_shared_texts(reports: Iterable[Told], *, similarity: float = 0.9) -> tuple[SharedText, ...]:
    """Find groups of reports that are the same, case, accents and punctuation aside, or nearly the same.

    Args:
        similarity: Jaccard index of the two texts' runs of three words, from which on they count as one.

    Example:
        >>> texts = ("TC tórax: sin hallazgos.", "tc torax . sin hallazgos .", "tc torax . derrame pleural .")
        >>> find_shared_texts(Told(str(n), str(n), text) for n, text in enumerate(texts))
        (SharedText(names=('0', '1'), patients=2, words=4, similarity=1.0),)
    """
    groups: dict[tuple[str, ...], list[Told]] = {}
    for report in reports:
        # Reports share their words: each is held once, not once a report.
        words = tuple(sys.intern(word) for word in re.findall(r"[^\W_]+", fold(report.text)))
        if words:
            groups.setdefault(words, []).append(report)
    texts = list(groups)
    digests: dict[str, int] = {}
    runs = [_cut_runs(words, digests) for words in texts]
    parents = list(range(len(texts)))
    alike = dict.fromkeys(range(len(texts)), 1.0)
    for first, second in sorted(_find_candidates(runs)):
        index = _compare(runs[first], runs[second])
        if index >= similarity:
            _join(parents, alike, first, second, index)
    members: dict[int, list[int]] = {}
    for place in range(len(texts)):
        members.setdefault(_root(parents, place), []).append(place)
    shared = (
        _gather([groups[texts[place]] for place in places], len(texts[places[0]]), alike[root])
        for root, places in members.items()
    )
    return tuple(group for group in shared if len(group.names) > 1)


def _cut_runs(words: Sequence[str], digests: dict[str, int]) -> _Runs:
    """Digest each run of three words; a text of fewer is one run.

    Args:
        digests: of the words met so far; a text repeats most of them.
    """
    for word in words:
        if word not in digests:
            digests[word] = zlib.crc32(word.encode())
    each = np.array([digests[word] for word in words], np.uint32)
    runs = np.zeros(max(1, len(each) - _RUN_WORDS + 1), np.uint32)
    for place in range(min(_RUN_WORDS, len(each))):
        runs = runs * np.uint32(0x9E3779B1) + each[place : place + len(runs)]
    return np.unique(runs)


def _find_candidates(runs: Sequence[_Runs]) -> set[tuple[int, int]]:
    if len(runs) < 2:
        return set()
    signatures = _sign(runs)
    pairs: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        rows = signatures[:, band * _ROWS : (band + 1) * _ROWS]
        buckets: dict[bytes, list[int]] = {}
        for place, row in enumerate(rows):
            # Each is compared with the first few of its bucket: a template of thousands costs thousands, not millions.
            bucket = buckets.setdefault(row.tobytes(), [])
            pairs.update((other, place) for other in bucket[:8])
            bucket.append(place)
    return pairs


def _sign(runs: Sequence[_Runs]) -> npt.NDArray[np.uint32]:
    """Take the smallest of each text's runs under many orders, drawn once and for all."""
    rng = np.random.default_rng(0)
    factors = rng.integers(2**63, size=_BANDS * _ROWS, dtype=np.uint64) | np.uint64(1)
    starts = np.concatenate([[0], np.cumsum([len(one) for one in runs])[:-1]])
    every = np.concatenate(runs).astype(np.uint64) + np.uint64(1)
    # Multiply-shift hashing: the upper half of a product is an order of its own for each odd factor.
    smallest = [
        np.minimum.reduceat(((every * factor) >> np.uint64(32)).astype(np.uint32), starts) for factor in factors
    ]
    return np.stack(smallest, axis=1)


def _compare(first: _Runs, second: _Runs) -> float:
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)


def _root(parents: list[int], place: int) -> int:
    while parents[place] != place:
        parents[place] = parents[parents[place]]
        place = parents[place]
    return place


def _join(parents: list[int], alike: dict[int, float], first: int, second: int, index: float) -> None:
    low, high = sorted((_root(parents, first), _root(parents, second)))
    parents[high] = low
    alike[low] = min(alike[low], alike[high], index)


def _gather(reports: Iterable[Sequence[Told]], words: int, similarity: float) -> SharedText:
    every = [one for group in reports for one in group]
    return SharedText(tuple(_names(every)), len({one.patient for one in every}), words, similarity)


def _names(reports: Iterable[Told]) -> Iterator[str]:
    return iter(dict.fromkeys(report.name for report in reports))
