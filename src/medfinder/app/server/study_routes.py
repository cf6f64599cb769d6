"""Studies of the PACS to search with: the server fetches what is not in its index.

In: JSON with a StudyInstanceUID, and whatever else a search takes. Out: hits. The study is fetched and read in a
process that can be killed, and forgotten once the answer is there; its UID goes into no history and no log. Refused:
what is no UID (422), a study that the PACS does not have (404), a PACS that does not answer or does not give the study
up (502), any study where the server knows no PACS (501).
"""

import logging
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends, Request
from pydantic import ConfigDict, Field

from medfinder.app.pacs_study import UnknownStudyError, fetch_study
from medfinder.app.server.access import Reader
from medfinder.app.server.faults import Refusal
from medfinder.app.server.gate import Gate
from medfinder.app.server.search_routes import Found, Wanted, answer, note_answer, wanted_as_query
from medfinder.app.server.service import Service
from medfinder.app.server.uploads import upload_folder
from medfinder.app.server.worker import Worker
from medfinder.errors import DatasetError
from medfinder.sources.pacs import PacsSettings

_LOG = logging.getLogger("medfinder.server")

# Ours: one study is fetched at a time, in about ten seconds; who would wait for minutes is told to come again.
_MOST_WAITING = 16
_RETRY_S = "30"


class WantedStudy(Wanted):
    """A study of the PACS that is asked with, and what else is looked for."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"study_instance_uid": "1.2.840.113619.2.55.1", "text": "with emphysema", "k": 5}]
        },
    )
    study_instance_uid: Annotated[str, Field(max_length=64, pattern=r"^[0-9]+(\.[0-9]+)*$")]


def make_study_router(service: Service, gate: Gate, pacs: PacsSettings | None, worker: Worker) -> APIRouter:
    """Make the route; without a PACS it refuses, and OpenAPI does not tell of it."""
    router = APIRouter(prefix="/v1", tags=["search"], include_in_schema=pacs is not None)
    viewer = Annotated[Reader, Depends(gate("viewer"))]
    line = _Line()

    @router.post("/search/study", response_model=Found)
    async def search_by_study(request: Request, reader: viewer, wanted: WantedStudy) -> dict[str, Any]:
        """Find the examinations most like a study of the PACS, and whatever else is asked for."""
        if pacs is None:
            raise Refusal(501, "this server knows no PACS; start it with: medfinder serve INDEX --dicomweb URL")
        plain = Wanted.model_validate(wanted.model_dump(exclude={"study_instance_uid"}))
        with upload_folder(service.folder) as folder:
            fetch = partial(_fetch, worker, wanted.study_instance_uid, pacs, folder, service.limits.study_s)
            volume, notes = await anyio.to_thread.run_sync(fetch, limiter=line.join())
            found = await service.run(answer, service, reader, plain, wanted_as_query(plain, ct=volume))
        note_answer(request, plain, found)
        return {**found, "notes": [*found["notes"], *notes]}

    return router


class _Line:
    """Those who wait for a study: one is served at a time."""

    def __init__(self) -> None:
        self._turns: anyio.CapacityLimiter | None = None

    def join(self) -> anyio.CapacityLimiter:
        """Give the turnstile, unless too many stand before it.

        Raises:
            Refusal: they do.
        """
        # Made by the first request: it belongs to the event loop that runs then.
        if self._turns is None:
            self._turns = anyio.CapacityLimiter(1)
        if self._turns.statistics().tasks_waiting >= _MOST_WAITING:
            raise Refusal(503, "too many studies wait to be fetched from the PACS", {"Retry-After": _RETRY_S})
        return self._turns


def _fetch(worker: Worker, uid: str, pacs: PacsSettings, folder: Path, seconds: float) -> tuple[Path, tuple[str, ...]]:
    try:
        return worker.run(fetch_study, uid, pacs, folder, seconds=seconds)
    except UnknownStudyError as error:
        raise Refusal(404, str(error)) from None
    except DatasetError as error:
        # Where the PACS is found is no reader's business.
        told = str(error).replace(pacs.url, "the PACS")
        _LOG.warning("a study could not be fetched: %s", told)
        raise Refusal(502, told) from None
