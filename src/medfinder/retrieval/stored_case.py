"""A case as the engine keeps it: a point with vectors, words and a payload.

In: a case with its embeddings; a payload. Out: the point; the case again, with the places where its volume may lie.
Refused with ``SearchIndexError``: a vector that has no direction.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medfinder.errors import SearchIndexError
from medfinder.records import Case, Finding
from medfinder.retrieval.columns import point_of
from medfinder.retrieval.engine import Point, Space, flag
from medfinder.retrieval.lexical import Terms, describe_case


@dataclass(frozen=True, slots=True)
class IndexedCase:
    """A case as the index holds it.

    Attributes:
        volume: absolute path of the standardised volume, or None when it has gone.
        negated: canonical names that the report says are absent.
    """

    case: Case
    volume: Path | None
    negated: tuple[str, ...]


def to_point(case: Case, payload: dict[str, Any], image: np.ndarray, report: np.ndarray) -> Point:
    """Make the point of a case: its unit vectors, its words, and its payload with what the report denies.

    Raises:
        SearchIndexError: a vector without a direction.
    """
    words = describe_case(case)
    payload["negated"] = list(words.negated)
    dense: dict[Space, np.ndarray] = {"image": _unit(image, "image", case.case_id)}
    if case.report or case.report_es:
        dense["report"] = _unit(report, "report", case.case_id)
    sparse: dict[Space, Terms] = {"affirmed": words.affirmed, "denied": words.denied}
    return Point(point_of(case.case_id), dense, {name: terms for name, terms in sparse.items() if terms}, payload)


def _unit(vector: np.ndarray, name: str, case_id: str) -> np.ndarray:
    vector = np.asarray(vector, dtype=np.float32)
    norm = float(np.linalg.norm(vector))
    # The engine stores NaN without a word and would never find the case again.
    if not np.isfinite(norm) or norm == 0:
        raise SearchIndexError(f"{name} vector of case {case_id} has length {norm}; expected a finite one above 0")
    return np.asarray(vector / norm)


def _plain(record: Case | Finding) -> dict[str, Any]:
    """List a record's fields; ``asdict`` would copy each of them deeply, which took most of the time of adding."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def to_payload(case: Case, volumes_root: Path, index: Path) -> dict[str, Any]:
    """Flatten a case; absolute and relative places are both kept, so that index and dataset may move together."""
    present = [finding.name for finding in case.findings if finding.status == "present"]
    return {
        **_plain(case),
        "findings": list(dict.fromkeys(present)),
        "finding_records": [_plain(finding) for finding in case.findings],
        "is_synthetic": flag(case.is_synthetic),
        "spacing_z_mm": case.spacing_mm[2],
        "volumes_root": str(volumes_root),
        "volumes_root_relative": os.path.relpath(volumes_root, index),
    }


class StoredCase(NamedTuple):
    """A case as the engine holds it.

    Attributes:
        places: where its volume may lie.
    """

    case: Case
    places: tuple[Path, ...]
    negated: tuple[str, ...]


def from_payload(payload: Mapping[str, Any], index: Path) -> StoredCase:
    """Read a case from its point's payload."""
    names = Case.__dataclass_fields__
    values: dict[str, Any] = {name: payload.get(name) for name in names}
    values["findings"] = tuple(Finding(**record) for record in payload["finding_records"])
    values["spacing_mm"] = tuple(payload["spacing_mm"])
    values["is_synthetic"] = payload["is_synthetic"] == flag(True)
    values["shape"] = tuple(payload["shape"])
    case = Case(**values)
    roots = _resolved(payload["volumes_root"], payload["volumes_root_relative"], index)
    places = tuple(dict.fromkeys(root / case.volume for root in roots))
    return StoredCase(case, places, tuple(payload["negated"]))


def find_volume(places: Sequence[Path]) -> Path | None:
    """Give the first of some places at which there is a file."""
    return next((path for path in places if path.is_file()), None)


@lru_cache(maxsize=1_000)
def _resolved(root: str, relative: str, index: Path) -> tuple[Path, Path]:
    """Resolve folders once: it takes longer than all else that is done to a case, and there are few of them."""
    return Path(root).resolve(), (index / relative).resolve()
