"""The keyword library: what a report, in English or Spanish, says is there, is not there, or may be there.

In: words. Out: canonical keywords and ``Finding`` records. The words themselves, the triggers of denial and doubt, the
places and the sides stand in ``keywords.toml``, the label names of PadChest and BIMCV in ``labels.toml``, and can be
read and mended there. ``library`` holds them, ``words`` and ``sentences`` take a text apart, ``matching`` finds the
words in it, ``reading`` judges what is said of them, ``places`` tells where. Refused: nothing; words that are not known
are passed over, labels that no keyword stands for are handed back.
"""

from collections.abc import Mapping
from typing import Any

from medfinder.curation.keywords.labels import map_labels, read_label, resolve_label
from medfinder.curation.keywords.library import (
    Keyword,
    expand_abbreviations,
    kinds_of,
    load_keywords,
    resolve_keyword,
)
from medfinder.curation.keywords.reading import extract_findings, is_negated
from medfinder.curation.keywords.sentences import split_sentences

KEYWORDS: Mapping[str, Keyword]

__all__ = [
    "KEYWORDS",
    "Keyword",
    "expand_abbreviations",
    "extract_findings",
    "is_negated",
    "kinds_of",
    "map_labels",
    "read_label",
    "resolve_keyword",
    "resolve_label",
    "split_sentences",
]


def __getattr__(name: str) -> Any:
    """Load ``KEYWORDS`` on first use, so that importing this module reads no file."""
    if name == "KEYWORDS":
        return load_keywords()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
