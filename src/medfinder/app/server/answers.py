"""Records as the JSON that clients get, with links to what can be fetched next.

In: hits, cases. Out: plain values. Left out on purpose: where files lie on the server, and the patient's id, even
hashed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medfinder.app.server.pictures import PLANES
from medfinder.records import Case, Evidence, Hit
from medfinder.retrieval.stored_case import IndexedCase

_HIDDEN = ("volume", "patient_id")
# What of a hit is written as it is; the others are written in their own way.
_PLAIN_OF_HIT = tuple(
    field.name for field in fields(Hit) if field.name not in (*_HIDDEN, "evidence", "parts", "shares", "sentences")
)


def links_of(
    case_id: str, *, has_volume: bool, slices: Mapping[str, int] | None = None, viewer: str | None = None
) -> dict[str, Any]:
    """Tell where the rest of a case is found.

    Args:
        slices: slice numbers by plane, where some are better than the thumbnails.
        viewer: address at which the PACS's viewer shows the study.
    """
    case = f"/v1/cases/{quote(case_id, safe='')}"
    if not has_volume:
        return {"case": case, "slices": [], "volume": None, "viewer": viewer}
    pictures = [f"{case}/thumbnail/{place}.jpg" for place in range(3)]
    if slices:
        pictures = [f"{case}/slices/{plane}/{number}.jpg?size=192" for plane, number in slices.items()]
    return {"case": case, "slices": pictures, "volume": f"{case}/volume", "viewer": viewer}


def hit_as_json(hit: Hit, *, viewer: str | None = None) -> dict[str, Any]:
    """Write one hit; its parts become a table by name."""
    evidence = None if hit.evidence is None else evidence_as_json(hit.evidence)
    best = None if evidence is None else evidence["slices"]
    return {
        **{name: _plain(getattr(hit, name)) for name in _PLAIN_OF_HIT},
        "evidence": evidence,
        "parts": dict(hit.parts),
        "shares": dict(hit.shares),
        "sentences": [{"text": text, "score": score} for text, score in hit.sentences],
        "links": links_of(hit.case_id, has_volume=hit.volume is not None, slices=best, viewer=viewer),
    }


def evidence_as_json(evidence: Evidence) -> dict[str, Any]:
    """Write where something was seen; its slices become a table by plane."""
    return {**_facts(evidence), "slices": {plane: evidence.slices[axis] for plane, axis in PLANES.items()}}


def case_as_json(indexed: IndexedCase, *, viewer: str | None = None) -> dict[str, Any]:
    """Write one case: both reports, findings, what is known of the examination."""
    case: Case = indexed.case
    return {
        **_facts(case),
        "negated": list(indexed.negated),
        "links": links_of(case.case_id, has_volume=indexed.volume is not None, viewer=viewer),
    }


def _facts(record: Any) -> dict[str, Any]:
    """List what a record may tell; ``asdict`` would copy all of it first, deeply."""
    kind: Any = type(record)
    return {name: _plain(getattr(record, name)) for name in _told(kind)}


@cache
def _told(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind) if field.name not in _HIDDEN)


def _plain(value: Any) -> Any:
    """Turn records, tuples and paths into what JSON knows."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    # Before what takes longer to find out; most values are one of these.
    if isinstance(value, (tuple, list)):
        return [one if isinstance(one, str) else _plain(one) for one in value]
    if is_dataclass(value):
        return _facts(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
