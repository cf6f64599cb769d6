"""Searching: by words, a report, a keyword or a case; what can be filtered and asked for by name; a text's vector.

In: JSON. Out: ranked hits with links, or suggestions. Refused: what the search room refuses (422), unknown fields.
"""

import time
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from medfinder.app.server.access import Reader
from medfinder.app.server.answers import hit_as_json
from medfinder.app.server.gate import Gate
from medfinder.app.server.record import note
from medfinder.app.server.service import Service
from medfinder.curation.keywords import KEYWORDS
from medfinder.curation.keywords.words import fold
from medfinder.records import Box
from medfinder.records import Query as Asked
from medfinder.retrieval.filters import ALIASES, FIELDS
from medfinder.retrieval.search import MAX_CHARACTERS, MAX_HITS

_SUGGESTIONS = 12
# Whose examination it is may be filtered by those who know the hash; nobody is told that it can.
_UNTOLD = ("patient_id",)

Text = Annotated[str | None, Field(max_length=MAX_CHARACTERS)]
Ids = Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=100)]


class AskedBox(BaseModel):
    """A box in the case that is asked with, in mm of its volume's frame (RAS+)."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    lo_mm: tuple[float, float, float]
    hi_mm: tuple[float, float, float]


class Wanted(BaseModel):
    """What is looked for."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "left pleural effusion without cardiomegaly", "k": 5},
                {"keyword": "GGO", "where": "sex = F and age >= 60", "k": 10, "facets": True},
            ]
        },
    )
    text: Text = None
    report: Text = None
    keyword: Text = None
    case_id: Annotated[str | None, Field(max_length=200)] = None
    liked: Ids = []
    disliked: Ids = []
    box: AskedBox | None = None
    where: Annotated[str | None, Field(max_length=4_000)] = None
    k: Annotated[int, Field(ge=1, le=MAX_HITS)] = 10
    offset: Annotated[int, Field(ge=0, le=10_000)] = 0
    group: Annotated[str, Field(pattern="^(study|patient)?$")] = ""
    facets: bool = False
    explain: bool = False


class Found(BaseModel):
    """A ranked answer."""

    query_id: str
    took_ms: float
    total: int
    notes: list[str]
    has_good_match: bool
    facets: dict[str, dict[str, int]]
    hits: list[dict[str, Any]]


def make_search_router(service: Service, gate: Gate) -> APIRouter:
    """Make the routes for searching."""
    router = APIRouter(prefix="/v1", dependencies=[Depends(gate("viewer"))], tags=["search"])
    viewer = Annotated[Reader, Depends(gate("viewer"))]

    @router.post("/search", response_model=Found)
    async def search(request: Request, reader: viewer, wanted: Wanted) -> Response:
        """Find the most similar examinations."""
        found = await service.run(answer, service, reader, wanted, wanted_as_query(wanted))
        note_answer(request, wanted, found)
        return as_json(found)

    @router.get("/keywords")
    async def suggest(q: Annotated[str, Query(max_length=100)] = "") -> list[dict[str, str]]:
        """Suggest findings for the beginning of a word, in English or Spanish."""
        return suggest_keywords(q)

    @router.get("/fields")
    async def list_fields() -> list[dict[str, Any]]:
        """List what a filter can ask about."""
        return [
            {
                "name": name,
                "meaning": field.meaning,
                "is_ordered": field.is_ordered,
                "aliases": [alias for alias, full in ALIASES.items() if full == name],
            }
            for name, field in FIELDS.items()
            if name not in _UNTOLD
        ]

    return router


def wanted_as_query(wanted: Wanted, *, ct: Path | None = None) -> Asked:
    """Turn a request into a query of the search room."""
    return Asked(
        text=wanted.text,
        report=wanted.report,
        keyword=wanted.keyword,
        ct=ct,
        where=wanted.where,
        k=wanted.k,
        case_id=wanted.case_id,
        liked=tuple(wanted.liked),
        disliked=tuple(wanted.disliked),
        box=Box(wanted.box.lo_mm, wanted.box.hi_mm) if wanted.box else None,
        offset=wanted.offset,
        group=wanted.group,
    )


def answer(service: Service, reader: Reader, wanted: Wanted, query: Asked) -> dict[str, Any]:
    """Search, remember it in the caller's history, and write the answer."""
    started = time.perf_counter()
    found = service.searcher.answer(query, facets=wanted.facets)
    hits = service.searcher.explain(query, found.hits) if wanted.explain else found.hits
    said = wanted.model_dump(exclude_defaults=True) | ({"ct": True} if query.ct else {})
    return {
        "query_id": service.state.add_search(reader.holder, said, len(hits)),
        "took_ms": round((time.perf_counter() - started) * 1000, 1),
        "total": found.total,
        "notes": list(found.notes),
        "has_good_match": found.has_good_match,
        "facets": {field: dict(counts) for field, counts in found.facets.items()},
        "hits": [hit_as_json(hit, viewer=service.viewer_link(hit.study_id)) for hit in hits],
    }


def as_json(found: dict[str, Any]) -> Response:
    """Write an answer at once: FastAPI would first check every value of it against ``Found``, as the tests do."""
    return Response(to_json(found), media_type="application/json")


def note_answer(request: Request, wanted: Wanted, found: dict[str, Any]) -> None:
    """Note for the audit log what was asked, and which cases were shown."""
    asked = "\n".join(filter(None, (wanted.text, wanted.report, wanted.keyword, wanted.where)))
    note(request, case_ids=[hit["case_id"] for hit in found["hits"]], asked=asked)


def suggest_keywords(typed: str) -> list[dict[str, str]]:
    """Suggest findings of which a name begins like what was typed, then those of which a later word does.

    Example:
        >>> suggest_keywords("vidrio d")[0]["name"]
        'ground-glass opacity'
    """
    start = fold(typed.strip())
    if not start:
        return [{"name": name, "synonym": name} for name in list(KEYWORDS)[:_SUGGESTIONS]]
    ranked = []
    for name, keyword in KEYWORDS.items():
        names = [one for one in (*keyword.names_en, *keyword.abbreviations, *keyword.names_es) if ".." not in one]
        found = [(place, one) for one in names if (place := _match(fold(one), start)) is not None]
        if found:
            place, synonym = min(found, key=lambda one: one[0])
            ranked.append((place, len(synonym), name, synonym))
    return [{"name": name, "synonym": synonym} for _, _, name, synonym in sorted(ranked)[:_SUGGESTIONS]]


def _match(name: str, start: str) -> int | None:
    if name.startswith(start):
        return 0
    return 1 if f" {start}" in name else None
