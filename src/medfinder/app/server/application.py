"""The search service put together: one open index and one model behind FastAPI.

In: an open index, its model, a folder for what must outlive the server, limits, the gate that knows the callers. Out:
an ASGI application; its interface is told at ``/v1/openapi.json``. Refused: an index of another model; requests as the
modules below say.
"""

import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfinder import __version__
from medfinder.errors import MissingExtraError

try:
    from fastapi import APIRouter, Depends, FastAPI, Response
except ImportError as error:
    raise MissingExtraError("FastAPI, uvicorn or Pillow", "server") from error

from medfinder.app.server.access import Access
from medfinder.app.server.audit import open_audit
from medfinder.app.server.case_routes import make_case_router
from medfinder.app.server.ct_routes import index_upload, make_ct_router
from medfinder.app.server.faults import TOLD_FAULTS, handle_faults
from medfinder.app.server.gate import Caller, Gate
from medfinder.app.server.guard import Guard
from medfinder.app.server.jobs import Jobs
from medfinder.app.server.keep_routes import make_keep_router
from medfinder.app.server.metrics import KIND, Counted
from medfinder.app.server.page import make_page_router
from medfinder.app.server.record import Audited
from medfinder.app.server.search_routes import make_search_router
from medfinder.app.server.service import Service
from medfinder.app.server.settings import Limits
from medfinder.app.server.state import State, open_state
from medfinder.app.server.study_routes import make_study_router
from medfinder.app.server.text_worker import TextWorker
from medfinder.app.server.worker import Worker
from medfinder.app.study_links import ViewerLinks
from medfinder.retrieval.index import SearchIndex
from medfinder.sources.pacs import PacsSettings

if TYPE_CHECKING:
    from medfinder.models.protocol import DualEncoder

_ABOUT = "Find 3-D CT examinations by what a radiologist would say about them. Not for diagnosis."

UPLOADS = frozenset({"/v1/search/ct", "/v1/embed", "/v1/ingest"})


def make_app(
    index: SearchIndex,
    model: "DualEncoder",
    *,
    folder: Path,
    limits: Limits | None = None,
    hosts: frozenset[str] | None = None,
    state: State | None = None,
    access: Access | None = None,
    pacs: PacsSettings | None = None,
    viewer: ViewerLinks | None = None,
    texts: TextWorker | None = None,
) -> FastAPI:
    """Make the application; it does not close the index.

    Args:
        folder: the state folder: uploads, jobs, curated cases.
        hosts: names with port that may be asked for; None for any, where keys keep strangers out.
        state: what the server remembers; opened in ``folder`` if not given.
        access: knows the callers; without, everybody is admin as long as there are no keys, which is for a server
            that only this machine can reach.
        pacs: whose studies may be asked with.
        viewer: of the PACS, for links from hits.
        texts: encodes the texts of searches in a process of its own; started and ended with the application.

    Raises:
        SearchIndexError: the index was made with another model.
    """
    limits = limits or Limits()
    state = state or open_state(folder)
    access = access or Access(state, is_open=True)
    audit = open_audit(state, folder)
    service = Service(index, model, folder, limits, state, viewer, texts)
    gate = access.require
    worker = Worker(memory_mb=limits.memory_mb, file_mb=limits.unpacked_mb)
    curator = Worker(memory_mb=limits.memory_mb, file_mb=limits.unpacked_mb)
    # Of its own: a PACS that takes its time holds up no upload.
    fetcher = Worker(memory_mb=limits.memory_mb, file_mb=limits.unpacked_mb)
    jobs = Jobs(folder, partial(index_upload, service, curator), most=limits.jobs)
    app = FastAPI(
        title="medfinder",
        version=__version__,
        description=_ABOUT,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses=TOLD_FAULTS,
        lifespan=_lifespan(folder, jobs, state, (worker, curator, fetcher) if pacs else (worker, curator), texts),
    )
    handle_faults(app)
    app.include_router(_make_server_router(service, gate, jobs, texts, has_pacs=pacs is not None))
    app.include_router(make_search_router(service, gate))
    app.include_router(make_ct_router(service, gate, jobs, worker))
    app.include_router(make_study_router(service, gate, pacs, fetcher))
    app.include_router(make_case_router(service, gate))
    app.include_router(make_keep_router(service, access, state, audit))
    app.include_router(make_page_router())
    app.add_middleware(Audited, audit=audit)
    app.add_middleware(Guard, limits=limits, hosts=hosts, uploads=UPLOADS)
    app.add_middleware(Counted, metrics=service.metrics)
    app.state.service = service
    return app


def _lifespan(folder: Path, jobs: Jobs, state: State, workers: tuple[Worker, ...], texts: TextWorker | None) -> Any:
    """Take up the jobs that were left when the server starts, and end its processes with it."""

    @asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        # Uploads that were under way when the server ended were never acknowledged.
        shutil.rmtree(folder / "uploads", ignore_errors=True)
        jobs.start()
        if texts is not None:
            texts.start()
        for worker in workers:
            # Starting takes seconds, which the first upload need not wait for.
            threading.Thread(target=worker.start, daemon=True).start()
        try:
            yield
        finally:
            jobs.close()
            if texts is not None:
                texts.close()
            for worker in workers:
                worker.close()
            state.flush()

    return live


def _make_server_router(
    service: Service, gate: Gate, jobs: Jobs, texts: TextWorker | None, *, has_pacs: bool
) -> APIRouter:
    """Make the routes that tell how the server is."""
    router = APIRouter(tags=["server"])

    @router.get("/healthz")
    async def is_alive() -> dict[str, str]:
        """Tell that the process answers."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def is_ready() -> dict[str, Any]:
        """Tell that the index can be searched and the state be read, and whether texts have their process yet."""
        await service.run(service.state.check)
        ready = {"status": "ok", "cases": await service.run(len, service.index)}
        return ready if texts is None else ready | {"is_text_process_warm": texts.is_warm}

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def show_metrics() -> Response:
        """Tell how many requests came, in Prometheus' text format."""
        figures = {"cases": await service.run(len, service.index), "jobs_waiting": jobs.waiting}
        return Response(service.metrics.text(figures), media_type=KIND)

    @router.get("/v1/info")
    async def describe(caller: Caller = Depends(gate("viewer"))) -> dict[str, Any]:  # noqa: B008
        """Tell what is searched, by which model, and what a request may bring."""
        return await service.run(_describe, service, caller.role, has_pacs)

    return router


def _describe(service: Service, role: str, has_pacs: bool) -> dict[str, Any]:
    info = service.index.info()
    return {
        "version": __version__,
        "index": info.path.name,
        "cases": info.cases,
        "counts": {field: dict(counts) for field, counts in info.counts.items()},
        "model": {"name": info.model_name, "digest": info.model_digest, "width": info.width},
        "is_synthetic": info.counts["is_synthetic"].get("false", 0) == 0,
        "is_model_synthetic": service.model.is_synthetic,
        "not_for_diagnosis": True,
        "role": role,
        "has_pacs": has_pacs,
        "has_viewer": service.viewer is not None,
        "limits": {"upload_mb": service.limits.upload_mb, "body_kb": service.limits.body_kb},
    }
