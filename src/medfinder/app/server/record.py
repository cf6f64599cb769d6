"""The audit log as requests pass: one row for whatever shows or changes something, before it is answered.

In: ASGI requests under ``/v1``, and what the routes note of them: the caller, the cases, the words asked. Out: the same
answers, sent once the row is on disk; 503 where it cannot be written. Left out: single pictures, suggestions and the
like, which show nothing that a row before them did not.
"""

from collections.abc import Sequence

import anyio.to_thread
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medfinder.app.server.audit import AuditLog
from medfinder.app.server.faults import error_answer
from medfinder.errors import MedFinderError

_QUIET = ("/v1/keywords", "/v1/fields", "/v1/info", "/v1/openapi.json", "/v1/jobs/{job_id}")
_PICTURES = (".jpg",)
_NOBODY = "nobody"


def note(request: Request, *, case_ids: Sequence[str] = (), asked: str = "") -> None:
    """Note what a request was about, for its row."""
    request.state.case_ids = tuple(case_ids)
    request.state.asked = asked


class Audited:
    """ASGI middleware that writes the audit log."""

    def __init__(self, app: ASGIApp, *, audit: AuditLog) -> None:
        self._app = app
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and write its row before its answer goes out."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        is_lost = False

        async def write_first(message: Message) -> None:
            nonlocal is_lost
            if message["type"] == "http.response.start" and _is_told(scope, message["status"]):
                try:
                    await anyio.to_thread.run_sync(self._write, scope, message["status"])
                except MedFinderError:
                    is_lost = True
                    refusal = error_answer(503, "the audit log cannot be written just now; nothing is shown without it")
                    await refusal(scope, receive, send)
            if not is_lost:
                await send(message)

        await self._app(scope, receive, write_first)

    def _write(self, scope: Scope, status: int) -> None:
        known = scope.get("state", {})
        reader = known.get("reader")
        opened = scope.get("path_params", {}).get("case_id")
        self._audit.write(
            reader.key_id if reader is not None else _NOBODY,
            f"{scope['method']} {scope['route'].path}"[:64],
            case_ids=known.get("case_ids", (opened,) if opened else ()),
            asked=known.get("asked", ""),
            result=str(status),
        )


def _is_told(scope: Scope, status: int) -> bool:
    route = getattr(scope.get("route"), "path", None)
    # Who asks too often is told to wait; a row for each would make the log his to fill.
    return route is not None and route not in _QUIET and not route.endswith(_PICTURES) and status != 429
