"""What people keep: sessions, collections, notes, verdicts, their own searches; export; the audit log.

In: JSON. Out: JSON, or CSV for export. Collections and history belong to the holder of a key; what is another person's
is told as not there. Refused: what ``state`` refuses.
"""

import csv
import io
import json
from typing import Annotated, Any, Literal, TypeVar

import anyio.to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from medfinder.app.server.access import Access, Reader
from medfinder.app.server.answers import case_as_json
from medfinder.app.server.audit import AuditLog
from medfinder.app.server.faults import Refusal
from medfinder.app.server.record import note
from medfinder.app.server.schema import MAX_NAME, MAX_TEXT, Collection
from medfinder.app.server.service import Service
from medfinder.app.server.state import State

T = TypeVar("T")

_EXPORT_COLUMNS = ("case_id", "study_id", "source", "age_years", "sex", "region", "findings", "report", "report_es")
_CASES_EXPORTED = 1_000

Id = Annotated[str, Path(max_length=200)]
ShortId = Annotated[str, Field(max_length=200)]


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Shown(_Said):
    """A key that a browser shows."""

    key: Annotated[str, Field(max_length=200)]


class Begun(_Said):
    """A collection to begin."""

    name: Annotated[str, Field(max_length=MAX_NAME)]
    remark: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    is_shared: bool = False


class Changed(_Said):
    """What to change of a collection."""

    name: Annotated[str | None, Field(max_length=MAX_NAME)] = None
    remark: Annotated[str | None, Field(max_length=MAX_TEXT)] = None
    is_shared: bool | None = None


class Remark(_Said):
    """A note on a case."""

    text: Annotated[str, Field(max_length=MAX_TEXT)]


class Judged(_Said):
    """Whether a hit was a good answer."""

    query_id: ShortId
    case_id: ShortId
    verdict: Literal["good", "bad"]


class Exported(_Said):
    """Cases to export."""

    case_ids: Annotated[list[ShortId], Field(max_length=_CASES_EXPORTED)]
    format: Literal["csv", "json"] = "csv"


def make_keep_router(service: Service, access: Access, state: State, audit: AuditLog) -> APIRouter:
    """Make the routes for what people keep."""
    router = APIRouter(prefix="/v1", tags=["kept"])
    _add_sessions(router, access)
    _add_collections(router, access, state)
    _add_remarks(router, service, access, state)
    _add_export(router, service, access, state)

    @router.get("/audit", dependencies=[Depends(access.require("admin"))])
    def show_audit(
        after: Annotated[int, Query(ge=-10_000, le=2**62)] = -100, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> list[dict[str, Any]]:
        """List rows of the audit log; a negative ``after`` counts from the end."""
        return [
            {
                "number": row.number,
                "at": row.at.isoformat(),
                "key_id": row.key_id,
                "action": row.action,
                "case_ids": row.case_ids,
                "cases": row.cases,
                "asked": row.asked,
                "result": row.result,
            }
            for row in audit.rows(after=after, limit=limit)
        ]

    return router


def _add_sessions(router: APIRouter, access: Access) -> None:
    @router.post("/session")
    def log_in(shown: Shown, request: Request, response: Response) -> dict[str, str]:
        """Show a key, and be known by a cookie from then on."""
        reader = access.log_in(request, response, shown.key)
        return {"holder": reader.holder, "role": reader.role}

    @router.delete("/session", status_code=204)
    def log_out(request: Request, response: Response) -> None:
        """Forget the cookie."""
        access.log_out(request, response)


def _add_collections(router: APIRouter, access: Access, state: State) -> None:
    viewer = Annotated[Reader, Depends(access.require("viewer"))]

    @router.get("/collections")
    def list_all(reader: viewer) -> list[dict[str, Any]]:
        """List one's own collections and those that others share."""
        return [{**_collection(one, reader), "cases": count} for one, count in state.collections(reader.holder)]

    @router.post("/collections", status_code=201)
    def begin(reader: viewer, begun: Begun) -> dict[str, Any]:
        """Begin a collection."""
        made = state.add_collection(reader.holder, begun.name, remark=begun.remark, is_shared=begun.is_shared)
        return {**_collection(made, reader), "case_ids": []}

    @router.get("/collections/{collection_id}")
    def show(reader: viewer, collection_id: Id) -> dict[str, Any]:
        """Show a collection with its cases."""
        found = _there(state.collection(collection_id, reader.holder))
        return {**_collection(found, reader), "case_ids": _there(state.collection_cases(collection_id, reader.holder))}

    @router.patch("/collections/{collection_id}")
    def change(reader: viewer, collection_id: Id, changed: Changed) -> dict[str, Any]:
        """Change a collection of one's own."""
        said = changed.model_dump(exclude_unset=True)
        return _collection(_there(state.change_collection(collection_id, reader.holder, **said)), reader)

    @router.delete("/collections/{collection_id}", status_code=204)
    def give_up(reader: viewer, collection_id: Id) -> None:
        """Give up a collection of one's own."""
        _there(state.remove_collection(collection_id, reader.holder) or None)

    @router.put("/collections/{collection_id}/cases/{case_id}", status_code=204)
    def put(reader: viewer, collection_id: Id, case_id: Id) -> None:
        """Put a case into a collection of one's own."""
        _there(state.put_case(collection_id, reader.holder, case_id) or None)

    @router.delete("/collections/{collection_id}/cases/{case_id}", status_code=204)
    def take(reader: viewer, collection_id: Id, case_id: Id) -> None:
        """Take a case out of a collection of one's own."""
        _there(state.take_case(collection_id, reader.holder, case_id) or None)


def _add_remarks(router: APIRouter, service: Service, access: Access, state: State) -> None:
    viewer = Annotated[Reader, Depends(access.require("viewer"))]

    @router.get("/cases/{case_id}/notes")
    def list_notes(reader: viewer, case_id: Id) -> list[dict[str, Any]]:
        """List the notes on a case, the oldest first."""
        service.case(case_id)
        return [
            {"id": one.id, "text": one.text, "holder": one.holder, "at": one.created_at.isoformat(),
             "is_own": one.holder == reader.holder}
            for one in state.notes(case_id)
        ]  # fmt: skip

    @router.post("/cases/{case_id}/notes", status_code=201)
    def write_note(reader: viewer, case_id: Id, remark: Remark) -> dict[str, Any]:
        """Write a note on a case, for all who see the case."""
        service.case(case_id)
        made = state.add_note(case_id, reader.holder, remark.text)
        return {"id": made.id, "text": made.text, "holder": made.holder, "at": made.created_at.isoformat()}

    @router.post("/feedback", status_code=204)
    def judge(request: Request, reader: viewer, judged: Judged) -> None:
        """Say whether a hit of one's own search was a good answer; the last word counts."""
        note(request, case_ids=[judged.case_id])
        given = state.give_feedback(judged.query_id, reader.holder, judged.case_id, judged.verdict)
        _there(given or None)

    @router.get("/history")
    def list_searches(reader: viewer, limit: Annotated[int, Query(ge=1, le=500)] = 100) -> list[dict[str, Any]]:
        """List one's own searches, the newest first."""
        found = state.searches(reader.holder, limit)
        return [{"query_id": one.id, "query": one.query, "hits": one.hits, "at": one.at.isoformat()} for one in found]

    @router.delete("/history", status_code=204)
    def forget(reader: viewer) -> None:
        """Forget one's own searches."""
        state.forget_searches(reader.holder)


def _add_export(router: APIRouter, service: Service, access: Access, state: State) -> None:
    viewer = Annotated[Reader, Depends(access.require("viewer"))]
    answers: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {}, "application/json": {}}}}

    @router.get("/export", response_class=Response, responses=answers)
    async def export_collection(
        request: Request,
        reader: viewer,
        collection: ShortId,
        format: Literal["csv", "json"] = "csv",
    ) -> Response:
        """Export the cases of a collection."""
        found = await anyio.to_thread.run_sync(state.collection_cases, collection, reader.holder)
        return await _export(request, _there(found)[:_CASES_EXPORTED], format)

    @router.post("/export", response_class=Response, responses=answers)
    async def export_cases(request: Request, _: viewer, exported: Exported) -> Response:
        """Export cases, e.g. the hits of a search."""
        return await _export(request, exported.case_ids, exported.format)

    async def _export(request: Request, case_ids: list[str], kind: str) -> Response:
        cases = await service.run(service.index.cases, case_ids)
        note(request, case_ids=list(cases))
        rows = [case_as_json(cases[case_id]) for case_id in case_ids if case_id in cases]
        name = f'attachment; filename="medfinder-cases.{kind}"'
        if kind == "csv":
            return Response(_as_csv(rows), media_type="text/csv", headers={"Content-Disposition": name})

        body = json.dumps(rows, ensure_ascii=False, indent=2)
        return Response(body, media_type="application/json", headers={"Content-Disposition": name})


def _as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_EXPORT_COLUMNS)
    for row in rows:
        present = [one["name"] for one in row["findings"] if one["status"] == "present"]
        cells = {**row, "findings": "; ".join(dict.fromkeys(present))}
        writer.writerow([_harmless(cells[name]) for name in _EXPORT_COLUMNS])
    return text.getvalue()


def _harmless(value: Any) -> Any:
    """Keep a spreadsheet from taking a text for a formula. Source: OWASP, "CSV Injection"."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _collection(one: Collection, reader: Reader) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "remark": one.remark,
        "is_shared": one.is_shared,
        "is_own": one.holder == reader.holder,
        "holder": one.holder,
        "created_at": one.created_at.isoformat(),
    }


def _there(found: T | None) -> T:
    if found is None:
        raise Refusal(404, "no such thing of yours here")
    return found
