"""Report text: find what may tell who somebody is, and put a placeholder by kind in its place.

In: a report in English or Spanish. Out: the report with ``[NAME]``, ``[DATE]`` and the like, and how many of each.
Refused: nothing; a text without any comes back as it is. Presidio runs our recognisers and its own for identifiers
with check digits, on a blank spaCy engine: named-entity models of general language take findings for people. Brackets
make a placeholder that no keyword, abbreviation or trigger of the keyword library contains and that translators keep.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from medfinder.curation.deidentify.names import find_names
from medfinder.curation.deidentify.patterns import find_ages, find_contacts, find_dates, find_ids
from medfinder.curation.deidentify.places import find_addresses, find_hospitals
from medfinder.curation.deidentify.spans import KINDS, Kind, Recogniser, Span, settle
from medfinder.records import Language

# BIMCV's own placeholders, and ours from an earlier run.
_PLACEHOLDER = re.compile(
    rf"\[(?:{'|'.join(KINDS)})\]|\bnombrepropio\b|\bname num fecha loc hc nhc\b|\bnum fecha\b", re.IGNORECASE
)
_RECOGNISERS: tuple[tuple[Recogniser, tuple[Kind, ...]], ...] = (
    (find_names, ("NAME",)),
    (find_hospitals, ("HOSPITAL",)),
    (find_addresses, ("ADDRESS",)),
    (find_dates, ("DATE",)),
    (find_ages, ("AGE",)),
    (find_contacts, ("EMAIL", "URL", "PHONE")),
    (find_ids, ("ID",)),
)


@dataclass(frozen=True, slots=True)
class CleanText:
    """A text without what may tell who somebody is.

    Attributes:
        counts: how many pieces of each kind were replaced.
    """

    text: str
    counts: Mapping[str, int]


def deidentify_text(text: str, language: Language) -> CleanText:
    """Put placeholders in place of whatever may tell who somebody is.

    Raises:
        MissingExtraError: Presidio is not installed.

    Example:
        >>> deidentify_text("derrame pleural . informado por dra. garcia el 12/03/2019 .", "es").text
        'derrame pleural . informado por dra. [NAME] el [DATE] .'
    """
    pieces, done = [], 0
    spans = find_phi(text, language)
    for span in spans:
        pieces += [text[done : span.start], f"[{span.kind}]"]
        done = span.end
    return CleanText("".join([*pieces, text[done:]]), dict(Counter(span.kind for span in spans)))


def find_phi(text: str, language: Language) -> list[Span]:
    """Find what may tell who somebody is; spans do not overlap and go from left to right.

    Raises:
        MissingExtraError: Presidio is not installed.
    """
    results = _engine().analyze(text, language=language)
    kept = [(found.start(), found.end()) for found in _PLACEHOLDER.finditer(text)]
    spans = [
        Span(_kind(result.entity_type), result.start, result.end, result.score)
        for result in results
        if not any(start < result.end and result.start < end for start, end in kept)
    ]
    return settle(spans)


def _kind(entity: str) -> Kind:
    return next((kind for kind in KINDS if kind == entity), "ID")


@cache
def _engine() -> Any:
    from medfinder.curation.deidentify.presidio import build_engine

    return build_engine(_RECOGNISERS)
