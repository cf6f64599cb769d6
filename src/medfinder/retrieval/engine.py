"""What an index asks of the engine that keeps its vectors, in words that belong to no engine.

In: points, each with dense and sparse vectors and a payload; conditions. Out: ids with scores, payloads, counts. Two
engines answer: Qdrant Edge in a folder (``edge``) and a Qdrant cluster (``cluster``). Each is imported in one file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, Self, get_args

import numpy as np

from medfinder.errors import ConfigError
from medfinder.retrieval.filters import Comparison, Condition
from medfinder.retrieval.lexical import Terms

Space = Literal["image", "report", "affirmed", "denied"]

DENSE: tuple[Space, ...] = ("image", "report")
SPARSE: tuple[Space, ...] = ("affirmed", "denied")

# Payload fields with an index of their own, and its kind: those that filters often ask for or that are counted. Each
# costs ten files that every flush must write, so the others are left to be read from the payload.
PAYLOAD_INDEXES = {
    "age_years": "Float",
    "findings": "Keyword",
    "is_synthetic": "Keyword",
    "negated": "Keyword",
    "region": "Keyword",
    "sex": "Keyword",
    "source": "Keyword",
    "spacing_z_mm": "Float",
    "split": "Keyword",
}

# How vectors are searched: each compared; each compared in compressed form and the best anew; along a graph of them.
Way = Literal["exact", "compressed", "graph"]

# Of the ten best, 4 bits alone and twice as many anew found 0.991, four times as many all (docs/index.md).
_LEAST_ANEW = 40

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """From which size on an index is searched how; the defaults are ours, by the figures of docs/index.md.

    Attributes:
        compressed_from: cases from which on vectors are compared in compressed form, and the best anew in whole.
        graph_from: cases from which on a graph (HNSW) leads to the vectors that are compared at all.
        neighbours: links of a vector in the graph (m).
        build_breadth: candidates looked at while a link is chosen (ef_construct).
        breadth: candidates looked at in a search, at least (ef).
        oversampling: how many candidates, for each that is asked for, are compared anew with the whole vectors.
        segments: parts that are searched side by side.
    """

    compressed_from: int = 20_000
    graph_from: int = 300_000
    neighbours: int = 16
    build_breadth: int = 100
    breadth: int = 128
    oversampling: float = 2.0
    segments: int = 2

    def __post_init__(self) -> None:
        least = {"compressed_from": 1, "neighbours": 2, "build_breadth": 4, "breadth": 1, "oversampling": 1}
        for name, fewest in {**least, "segments": 1, "graph_from": self.compressed_from}.items():
            if getattr(self, name) < fewest:
                raise ConfigError(f"index setting {name} = {getattr(self, name)}; expected at least {fewest}")

    def way(self, cases: int) -> "Way":
        """Choose how so many cases are searched."""
        if cases < self.compressed_from:
            return "exact"
        return "compressed" if cases < self.graph_from else "graph"


@dataclass(frozen=True, slots=True)
class Optimised:
    """How an index was last optimised.

    Attributes:
        cases: that were there then; those added since are searched as well.
        breadth, oversampling: see ``IndexSettings``.
    """

    way: Way = "exact"
    cases: int = 0
    breadth: int = 1
    oversampling: float = 1.0

    def compared_anew(self, limit: int) -> float:
        """Tell how many candidates are compared anew for each that is asked for; more of them where few are asked.

        Example:
            >>> Optimised(oversampling=2).compared_anew(500), Optimised(oversampling=2).compared_anew(10)
            (2, 4.0)
        """
        return max(self.oversampling, _LEAST_ANEW / limit)


class Point(NamedTuple):
    """One case as engines keep it; ``dense`` holds unit vectors."""

    id: int
    dense: Mapping[Space, np.ndarray]
    sparse: Mapping[Space, Terms]
    payload: Mapping[str, Any]


class Record(NamedTuple):
    """What an engine gives back of a point; ``dense`` is empty where no vectors were asked for."""

    id: int
    payload: Mapping[str, Any]
    dense: Mapping[Space, np.ndarray]


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """What was found, best first.

    Attributes:
        points: uint64.
        scores: float64, one a point.
    """

    points: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def of(cls, hits: Sequence[Any]) -> Self:
        """Gather what has an ``id`` and a ``score``."""
        return cls(np.array([hit.id for hit in hits], np.uint64), np.array([hit.score for hit in hits], np.float64))

    def only(self, which: np.ndarray | slice) -> "Found":
        """Keep some."""
        return Found(self.points[which], self.scores[which])

    def at(self, points: np.ndarray) -> np.ndarray:
        """Give the scores of points; NaN where one was not found.

        Example:
            >>> Found(np.array([7, 3], np.uint64), np.array([0.9, 0.5])).at(np.array([3, 5], np.uint64))
            array([0.5, nan])
        """
        order = np.argsort(self.points)
        place = order[np.minimum(np.searchsorted(self.points, points, sorter=order), len(order) - 1)]
        return np.where(self.points[place] == points, self.scores[place], np.nan)


class Engine(Protocol):
    """Keeps points and finds them; every method but the last three raises ``SearchIndexError`` when it fails.

    Attributes:
        is_shared: other processes may change it while we have it open.
    """

    is_shared: bool

    def upsert(self, points: Sequence[Point]) -> None:
        """Add points, or replace those of the same id; when this returns, they are on disk."""
        ...

    def delete(self, ids: Sequence[int]) -> None:
        """Remove points; as lasting as ``upsert``."""
        ...

    def nearest(
        self,
        space: Space,
        query: np.ndarray | Terms,
        *,
        limit: int,
        where: Condition | None,
        among: Sequence[int] | None,
    ) -> Found:
        """List the best points with their scores, best first."""
        ...

    def retrieve(self, ids: Sequence[int], fields: Sequence[str] | None, *, with_vectors: bool = False) -> list[Record]:
        """Fetch points, with some fields of their payload or, for None, with all."""
        ...

    def scroll(self, fields: Sequence[str], where: Condition | None) -> Iterator[Mapping[str, Any]]:
        """Walk through the payloads of all points that pass."""
        ...

    def count(self, where: Condition | None, among: Sequence[int] | None) -> int:
        """Count the points that pass."""
        ...

    def facet(self, field: str, where: Condition | None) -> dict[str, int]:
        """Count the points that pass by the values of a field."""
        ...

    def optimise(self, way: Way, settings: IndexSettings, progress: Progress | None) -> None:
        """Lay the vectors out for a way of searching."""
        ...

    def optimised(self) -> Optimised:
        """Tell how the index was last optimised."""
        ...

    def stamp(self) -> str:
        """Name the state of what is kept: another one after every change; empty where that is not known."""
        ...

    def flush(self) -> None:
        """Write everything to disk."""
        ...

    def size_bytes(self) -> int:
        """Tell what it takes on disk; 0 where that is not known."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def parse_way(word: str) -> Way:
    """Read how an index is to be searched.

    Raises:
        ConfigError: that is no way; names them.
    """
    for way in get_args(Way):
        if word == way:
            return way  # type: ignore[no-any-return]  # one of its literals
    raise ConfigError(f"search {word[:60]!r}; expected one of {', '.join(get_args(Way))}")


def flag(value: bool) -> str:
    """Write a flag as a word: the Edge binding turns True into 1, which matches no stored true."""
    return "true" if value else "false"


def choices(comparison: Comparison) -> list[str | dict[str, float]]:
    """Name what passes a comparison, any of it: words, and bounds of numbers as engines call them.

    Example:
        >>> choices(Comparison("age_years", ">=", (60.0,)))
        [{'gte': 60.0}]
        >>> choices(Comparison("sex", "=", ("F", "M")))
        ['F', 'M']
    """
    bound = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}.get(comparison.operator)
    passing: list[str | dict[str, float]] = []
    for value in comparison.values:
        if isinstance(value, bool):
            passing.append(flag(value))
        elif isinstance(value, float):
            passing.append({bound: value} if bound else {"gte": value, "lte": value})
        else:
            passing.append(value)
    return passing
