"""What a recogniser gives: a span of text that may tell who somebody is.

In: spans in any order, overlapping. Out: spans that do not overlap, left to right. Refused: nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from medfinder.records import Language

Kind = Literal["ADDRESS", "AGE", "DATE", "EMAIL", "HOSPITAL", "ID", "NAME", "PHONE", "URL"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Recogniser = Callable[[str, Language], Iterator["Span"]]


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text, ``text[start:end]``, that may tell who somebody is.

    Attributes:
        score: 0 to 1; how sure its recogniser is.
    """

    kind: Kind
    start: int
    end: int
    score: float = 0.85


def settle(spans: Iterable[Span]) -> list[Span]:
    """Let no two spans overlap: the surer, then the longer one names the kind, and what either covers stays covered.

    Example:
        >>> settle([Span("ID", 0, 9, 0.5), Span("PHONE", 0, 9, 0.9), Span("DATE", 20, 30)])
        [Span(kind='PHONE', start=0, end=9, score=0.9), Span(kind='DATE', start=20, end=30, score=0.85)]
    """
    settled: list[Span] = []
    for span in sorted(spans, key=lambda one: (one.start, -one.end)):
        last = settled[-1] if settled else None
        if last is None or span.start >= last.end:
            settled.append(span)
        else:
            winner = max(last, span, key=lambda one: (one.score, one.end - one.start))
            settled[-1] = replace(winner, start=last.start, end=max(last.end, span.end))
    return settled
