"""The label names of PadChest and BIMCV read as keywords, none of them lost.

In: label names as tables bring them, or their UMLS concepts. Out: what the library makes of each, and the names that it
has no keyword for. Refused: nothing; empty entries and remarks such as ``normal`` or ``exclude`` are passed over.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

from medfinder.curation.keywords.library import load_keywords, resolve_keyword
from medfinder.curation.keywords.words import fold
from medfinder.records import Finding


def resolve_label(name: str) -> str | None:
    """Find the keyword of a label name or UMLS concept; None for a remark and for what has no keyword.

    Example:
        >>> resolve_label(" ground glass pattern"), resolve_label("C0742855"), resolve_label("exclude")
        ('ground-glass opacity', 'costophrenic angle blunting', None)
    """
    finding = read_label(name)
    return finding.name if finding else None


def read_label(name: str) -> Finding | None:
    """Read a label as a finding: present, or uncertain where the label itself is a doubt.

    Example:
        >>> read_label("COVID 19 uncertain").status
        'uncertain'
    """
    folded = _fold_label(name)
    entry = _labels().get(folded)
    if entry is not None:
        return Finding(entry["keyword"], entry.get("status", "present")) if "keyword" in entry else None
    keyword = None if folded in _remarks() else resolve_keyword(name)
    return Finding(keyword) if keyword else None


def map_labels(labels: Iterable[str | Finding]) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """Map the labels of one report: its findings, each once, and the names that no keyword stands for.

    Args:
        labels: names, or findings under such names as sources hand them on, which keep their side, place and size.

    Example:
        >>> found, unmapped = map_labels([" pleural effusion", "normal", "", "nipple shadow", "pleural effusion"])
        >>> [finding.name for finding in found], unmapped
        (['pleural effusion'], ('nipple shadow',))
    """
    found: dict[tuple[object, ...], Finding] = {}
    unmapped: dict[str, None] = {}
    for label in labels:
        told = label if isinstance(label, Finding) else Finding(label)
        folded = _fold_label(told.name)
        if not folded or folded in _remarks():
            continue
        read = read_label(told.name)
        if read is None:
            unmapped[told.name.strip()] = None
            continue
        status = read.status if told.status == "present" else told.status
        finding = replace(told, name=read.name, status=status)
        key = (finding.name, finding.laterality, finding.location)
        if key not in found or status == "present":
            found[key] = finding
    return tuple(found.values()), tuple(unmapped)


def _fold_label(name: str) -> str:
    """Fold a label: case, accents, quotes left over from a list in text, underscores and runs of spaces."""
    return " ".join(fold(name).replace("_", " ").strip(" \t'\"[](),").split())


@cache
def _tables() -> Mapping[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath("labels.toml").read_text(encoding="utf-8"))


@cache
def _remarks() -> frozenset[str]:
    return frozenset(_tables()["remarks"])


@cache
def _labels() -> Mapping[str, Any]:
    """Map label names and concepts to what stands beside them; the keywords' own concepts come last."""
    labels: dict[str, Any] = {_fold_label(name): entry for name, entry in _tables()["label"].items()}
    for entry in list(labels.values()):
        labels.update({cui.lower(): entry for cui in entry.get("cui", ())})
    for keyword in load_keywords().values():
        if keyword.cui:
            labels.setdefault(keyword.cui.lower(), {"keyword": keyword.name})
    return labels
