"""Words: what a report affirms and what it denies, as sparse BM25 vectors.

In: a case, or the words of a query, English or Spanish. Out: two sparse vectors each, one over what is affirmed and
one over what is denied, so that "no effusion" is no match for "effusion". Besides stems, the vectors hold one term for
every finding, so that synonyms, abbreviations and both languages meet: "GGO", "ground-glass opacity" and "vidrio
deslustrado" share a term.

Engines' own analysers miss nodulo/nódulo, neumonia/Neumonía and derrames, so accents, case and endings are dealt with
here, and queries are treated exactly as reports are. Every word passes through the English stemmer and then the
Spanish one, whatever its language: reports mix both, and guessing the language of a word of a short query fails.
"""

import hashlib
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from medfinder.curation.keywords import expand_abbreviations, extract_findings, is_negated, kinds_of, split_sentences
from medfinder.records import Case, Finding, Language

# Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), the usual values.
BM25_K1 = 1.2
BM25_B = 0.75

# Terms of an ordinary report: ours, fixed so that a case's weights never depend on the other cases of an index.
MEAN_TERMS = 60

_STEMMING = threading.Lock()
_LANGUAGES: tuple[Language, Language] = ("en", "es")

# Function words of both languages, folded; none of them is a word of radiology. Negations are no terms either: what
# they deny is kept apart.
_FUNCTION_WORDS = """
    a an and are as at be been both by can could did do does for from had has have in into is it its may might of on or
    other our seen shows show showed that the their there these this those to was we were which will with within
    no not nor without neither
    al con como cual cuales de del desde e el ella en entre es esta este estan esto ha han hay la las le les lo los mas
    o para pero por que se segun ser si sin sobre son su sus tambien tras u un una unas uno unos y ya ni
    observa observan aprecia aprecian visualiza visualizan identifica identifican evidencia evidencian
"""
_STOP_WORDS = frozenset(_FUNCTION_WORDS.split())

_WORD = re.compile(r"[a-z0-9]+")

# Where a clause ends that may be denied on its own: "cardiomegaly without effusion", "effusion, no pneumothorax". A
# bare "not" or "no" does not cut: in "effusion is not seen" it denies what stands before it.
_CLAUSE = re.compile(
    r"\s*[;:]\s*"
    r"|\s*,?\s+(?=(?:without|but|however|although|sin|pero|aunque)\b)"
    r"|\s*,\s*(?=(?:no|not|nor|ni)\b)"
    r"|\s+(?:and|y)\s+(?=(?:no|not|without|sin)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Terms:
    """A sparse vector: hashed terms, each once, and their weights.

    Attributes:
        ids: 32-bit hashes of the terms, ascending. Two terms may share one: among 20,000 terms that happens to about
            0.05 pairs (n^2 / 2^33); the two then count as one term, which costs a little precision and nothing else.
        weights: positive.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.ids)


@dataclass(frozen=True, slots=True)
class Words:
    """What a text or a case says, split by whether it is affirmed.

    Attributes:
        present: canonical names of findings said to be there, perhaps at least, sorted.
        negated: canonical names of findings said to be absent, sorted.
    """

    affirmed: Terms
    denied: Terms
    present: tuple[str, ...] = ()
    negated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Clause:
    """A part of a sentence that affirms or denies as a whole.

    Attributes:
        findings: what it says of the library's findings, each with its own status.
    """

    text: str
    is_denied: bool
    findings: tuple[Finding, ...]


def describe_case(case: Case) -> Words:
    """Weigh the words of a case's reports (both languages) and its known findings, as BM25 documents."""
    affirmed: list[str] = []
    denied: list[str] = []
    reports: tuple[tuple[str, Language], ...] = ((case.report, "en"), (case.report_es, "es"))
    found = list(case.findings)
    for report, language in reports:
        for clause in read_clauses(report, language):
            (denied if clause.is_denied else affirmed).extend(tokenise(clause.text, language))
            found += [finding for finding in clause.findings if finding.status == "absent"]
    present = [finding for finding in case.findings if finding.status != "absent"]
    negated = _absent(found)
    affirmed += _concepts(present)
    denied += _concepts(Finding(name) for name in negated)
    return Words(_document(affirmed), _document(denied), _names(present), negated)


def describe_query(text: str) -> Words:
    """Weigh the words of a query, in either language; each different term counts once."""
    affirmed: list[str] = []
    denied: list[str] = []
    present: list[Finding] = []
    negated: set[str] = set()
    readings = [read_clauses(text, language) for language in _LANGUAGES]
    for clauses in zip(*readings, strict=True):
        # Each language also reads the other's text: "sin fibrosis" holds an English word and no English negation.
        stems = denied if any(clause.is_denied for clause in clauses) else affirmed
        for clause, language in zip(clauses, _LANGUAGES, strict=True):
            stems += tokenise(clause.text, language)
    for reading in readings:
        found = [finding for clause in reading for finding in clause.findings]
        negated |= set(_absent(found))
        present += [finding for finding in found if finding.status != "absent"]
    present = [finding for finding in present if finding.name not in negated]
    affirmed += _concepts(kind for finding in present for kind in _kinds(finding) if kind.name not in negated)
    denied += _concepts(Finding(name) for name in sorted(negated))
    return Words(_query(affirmed), _query(denied), _names(present), tuple(sorted(negated)))


def describe_finding(name: str) -> Words:
    """Weigh one finding, by its canonical name, as a query."""
    return Words(_query([*tokenise(name), *_concepts(_kinds(Finding(name)))]), Terms((), ()), (name,))


def plain_terms(text: str) -> Terms:
    """Weigh the stems of a text alone, whatever it says of them; much quicker than reading it."""
    return _query(tokenise(text))


def tokenise(text: str, language: Language = "en") -> list[str]:
    """Cut a text into folded stems without function words; abbreviations are written out by the language's.

    Example:
        >>> tokenise("Nódulos pulmonares") == tokenise("nodulo pulmonar")
        True
        >>> tokenise("pleural effusions") == tokenise("Pleural EFFUSION")
        True
    """
    folded = fold(expand_abbreviations(text, language))
    return [_stem(word) for word in _WORD.findall(folded) if word not in _STOP_WORDS]


def fold(text: str) -> str:
    """Lower the case and strip the accents: ``"Neumonía"`` becomes ``"neumonia"``."""
    text = text.casefold()
    if text.isascii():
        return text
    parts = unicodedata.normalize("NFKD", text)
    return "".join(part for part in parts if not unicodedata.combining(part))


def read_clauses(text: str, language: Language) -> list[Clause]:
    """Split a text into clauses, and tell which of them do nothing but deny.

    Example:
        >>> [(c.text, c.is_denied) for c in read_clauses("Cardiomegaly without pleural effusion. No mass.", "en")]
        [('Cardiomegaly', False), ('without pleural effusion', True), ('No mass', True)]
    """
    clauses = []
    for sentence in split_sentences(text):
        for part in filter(None, map(str.strip, _CLAUSE.split(sentence))):
            findings = extract_findings(part, language)
            absent = [finding.status == "absent" for finding in findings]
            clauses.append(Clause(part, all(absent) if absent else is_negated(part, language), findings))
    return clauses


def _absent(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Name the findings that are said to be absent, and nowhere said to be there."""
    present = {finding.name for finding in findings if finding.status != "absent"}
    return tuple(sorted({finding.name for finding in findings} - present))


def _names(findings: Iterable[Finding]) -> tuple[str, ...]:
    return tuple(sorted({finding.name for finding in findings}))


def _kinds(finding: Finding) -> Iterator[Finding]:
    """Go through a finding and its kinds, at the same place: a case is described by what it has, not by the wider."""
    return (replace(finding, name=name) for name in kinds_of(finding.name))


def _concepts(findings: Iterable[Finding]) -> list[str]:
    """Name the terms of findings: the finding, and the finding with its side and with its place."""
    terms = []
    for finding in findings:
        name = f"={finding.name}"
        terms.append(name)
        sides = ("left", "right", "bilateral") if finding.laterality == "bilateral" else (finding.laterality,)
        terms += [f"{name}/{side}" for side in sides if side]
        if finding.location:
            terms.append(f"{name}/{fold(finding.location)}")
    return terms


def _document(terms: Sequence[str]) -> Terms:
    """Weigh a document's terms: the term-frequency part of BM25; the engine multiplies by the inverse frequency."""
    counts = _count(terms)
    norm = BM25_K1 * (1 - BM25_B + BM25_B * len(terms) / MEAN_TERMS)
    return Terms(tuple(counts), tuple(count * (BM25_K1 + 1) / (count + norm) for count in counts.values()))


def _query(terms: Sequence[str]) -> Terms:
    counts = _count(terms)
    return Terms(tuple(counts), (1.0,) * len(counts))


def _count(terms: Sequence[str]) -> dict[int, int]:
    return dict(sorted(Counter(_term_id(term) for term in terms).items()))


@lru_cache(maxsize=100_000)
def _term_id(term: str) -> int:
    """Hash a term to 32 bits, the same on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "big")


@lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    # The stemmers keep the word in work as state, so that two threads must not use them at once.
    with _STEMMING:
        english, spanish = _stemmers()
        return str(spanish.stemWord(english.stemWord(word)))


@cache
def _stemmers() -> tuple[Any, Any]:
    import snowballstemmer

    return snowballstemmer.stemmer("english"), snowballstemmer.stemmer("spanish")
