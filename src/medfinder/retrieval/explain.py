"""Why a case matched: findings that it has, denies or says nothing of, and the sentences of its report.

In: the words of a query and a case's report. Out: canonical names, and sentences with scores from 0 to 1. Refused:
nothing; a case without a report has no sentences.
"""

from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from medfinder.curation.keywords import KEYWORDS, extract_findings, is_negated, kinds_of, split_sentences
from medfinder.records import Finding, Language
from medfinder.retrieval.lexical import Words, tokenise

if TYPE_CHECKING:
    from medfinder.models.protocol import DualEncoder

# Ours: that a sentence says what is asked for counts more than that it uses the same words.
_FINDING, _WORDS = 0.7, 0.3

# Shown sentences; a hit is no report.
MOST_SENTENCES = 3


def compare_findings(
    asked: Sequence[str], present: Set[str], negated: Set[str]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Sort what was asked for into what a case has, or a kind of it, what it denies, and what nothing is known of."""
    has = tuple(name for name in asked if not present.isdisjoint(kinds_of(name)))
    denies = tuple(name for name in asked if name in negated and name not in has)
    return has, denies, tuple(name for name in asked if name not in has and name not in denies)


def best_sentences(report: str, language: Language, text: str, words: Words) -> tuple[tuple[str, float], ...]:
    """Choose the sentences that say what is asked for, or deny it, best first.

    The score is the share of the query's findings that the sentence speaks of as the query does, and the share of the
    query's words in it. A sentence that denies what is asked for has half the score of one that affirms it: it must be
    seen, too.
    """
    named, asked, stems, telling = _sought(text, words)
    scored = []
    for sentence, own in _sentences(report):
        if own.isdisjoint(telling):
            continue
        said = _findings(sentence, language) if asked else ()
        told = [
            1.0 if _agrees(finding, asked[finding.name]) else 0.5
            for finding in said
            # That one kind is not there says nothing of the others.
            if finding.name in named or (finding.name in asked and finding.status != "absent")
        ]
        shared = len(own & stems) / len(stems) if stems else 0.0
        score = _FINDING * min(1.0, sum(told) / len(named)) + _WORDS * shared if asked else shared
        # A word alone ("right") is no match where findings were asked for.
        if score > 0 and (told or not asked):
            scored.append((sentence, round(min(1.0, score), 3)))
    return tuple(sorted(scored, key=lambda one: -one[1])[:MOST_SENTENCES])


def likest_sentences(
    report: str, text: str, model: "DualEncoder", *, besides: Sequence[tuple[str, float]]
) -> tuple[tuple[str, float], ...]:
    """Fill up with the sentences whose vectors are nearest to the query's, other than those that only deny.

    Their scores are cosines, cut to what shared words alone could give: likeness is less than being told.
    """
    taken = {sentence for sentence, _ in besides}
    others = [one for one in split_sentences(report) if one not in taken and not is_negated(one)]
    wanted = MOST_SENTENCES - len(besides)
    if wanted <= 0 or not others:
        return ()
    vectors = model.encode_sentences([text, *others])
    cosines = vectors[1:] @ vectors[0]
    order = sorted(zip(others, cosines, strict=True), key=lambda one: -one[1])[:wanted]
    return tuple((sentence, round(_WORDS * max(0.0, float(cosine)), 3)) for sentence, cosine in order)


def says(report: str, words: str) -> bool:
    """Tell whether a report holds words in this order, in a sentence that does more than deny.

    Example:
        >>> says("Nodule with spiculated margins. No pleural plaques.", "spiculated margin")
        True
        >>> says("Nodule with spiculated margins. No pleural plaques.", "pleural plaque")
        False
    """
    wanted = tokenise(words)
    return any(
        _holds_run(tokenise(sentence), wanted) and not is_negated(sentence) for sentence in split_sentences(report)
    )


def _holds_run(stems: Sequence[str], wanted: Sequence[str]) -> bool:
    return any(stems[at : at + len(wanted)] == wanted for at in range(len(stems) - len(wanted) + 1))


def _agrees(finding: Finding, status: str) -> bool:
    return (finding.status == "absent") == (status == "absent")


class _Sought(NamedTuple):
    """What sentences are compared with.

    Attributes:
        named: the query's findings, each with its status; ``asked`` holds their kinds, too.
        stems: of the query's words; a sentence with none of the ``telling`` ones need not be read.
    """

    named: Mapping[str, str]
    asked: Mapping[str, str]
    stems: frozenset[str]
    telling: frozenset[str]


@lru_cache(maxsize=1_000)
def _sought(text: str, words: Words) -> _Sought:
    """Make ready once what every hit of an answer is compared with."""
    named = dict.fromkeys(words.present, "present") | dict.fromkeys(words.negated, "absent")
    # Kinds of what is asked for tell of it; a kind that is named for itself is asked for as it was named.
    asked = {kind: status for name, status in named.items() for kind in kinds_of(name)} | named
    stems = frozenset(tokenise(text))
    return _Sought(named, asked, stems, stems.union(*(_stems_of(name) for name in asked)))


@lru_cache(maxsize=2_000)
def _sentences(report: str) -> tuple[tuple[str, frozenset[str]], ...]:
    return tuple((sentence, frozenset(tokenise(sentence))) for sentence in split_sentences(report))


@lru_cache(maxsize=20_000)
def _findings(sentence: str, language: Language) -> tuple[Finding, ...]:
    return extract_findings(sentence, language)


@lru_cache(maxsize=1_000)
def _stems_of(name: str) -> frozenset[str]:
    """Collect the stems of all names of a finding, so that sentences without any of them need not be read."""
    keyword = KEYWORDS[name]
    names = (*keyword.names_en, *keyword.names_es, *keyword.abbreviations)
    return frozenset(stem for one in names for stem in tokenise(one.replace("..", " ")))
