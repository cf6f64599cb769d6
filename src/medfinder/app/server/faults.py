"""How the server says no: ``{"error": {"code", "message"}}`` and a status that fits, never a traceback.

In: what a room raised, or what FastAPI did. Out: JSON answers. Messages are those of the rooms, which hold no report
text and no patient data; of a request that is not understood the place is told, never what stood there.
"""

import errno
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from medfinder.errors import (
    ConfigError,
    DatasetError,
    MedFinderError,
    MissingExtraError,
    SearchIndexError,
    StateError,
    StudyError,
    VolumeError,
)

_LOG = logging.getLogger("medfinder.server")

_FULL = "no space left on the server's disk; nothing half-written was kept"

_CODES = {
    400: "bad request",
    401: "no key",
    403: "not allowed",
    404: "not found",
    405: "method not allowed",
    408: "too slow",
    409: "conflict",
    411: "no length",
    413: "too large",
    415: "unknown kind of body",
    416: "range not satisfiable",
    422: "not understood",
    429: "too many requests",
    501: "not set up",
    502: "PACS",
    503: "busy",
    507: "disk full",
}

# Which room's refusal is whose fault; the first that fits.
_STATUS: tuple[tuple[type[MedFinderError], int, str], ...] = (
    (ConfigError, 422, "not understood"),
    (VolumeError, 422, "unreadable CT"),
    (StudyError, 422, "unreadable CT"),
    (DatasetError, 404, "gone"),
    (SearchIndexError, 503, "index"),
    (StateError, 503, "state"),
    (MissingExtraError, 501, "not installed"),
    (MedFinderError, 422, "not understood"),
)


class Fault(BaseModel):
    """What went wrong: a short, stable name, and a sentence for people."""

    code: str
    message: str


class Faulty(BaseModel):
    """The one form of every refusal."""

    error: Fault


# For OpenAPI; which status means what stands in docs/api.md.
TOLD_FAULTS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Faulty, "description": "Refused; the message says what was found and what was expected."},
    "5XX": {"model": Faulty, "description": "The server cannot just now, or failed; its log says where."},
}


class Refusal(HTTPException):
    """A request that is refused, with the sentence that the client is told."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message, dict(headers) if headers else None)


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error comes of a full disk, whatever a room made of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__
    return False


def error_answer(
    status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Make the answer that tells of a fault."""
    error = {"code": code or _CODES.get(status, "error"), "message": message}
    return JSONResponse({"error": error}, status_code=status, headers=dict(headers) if headers else None)


def handle_faults(app: FastAPI) -> None:
    """Have the application answer every fault in the one form."""

    @app.exception_handler(HTTPException)
    async def _refused(_: Request, error: HTTPException) -> JSONResponse:
        return error_answer(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return error_answer(422, _tell(error))

    @app.exception_handler(MedFinderError)
    async def _ours(_: Request, error: MedFinderError) -> JSONResponse:
        if is_disk_full(error):
            return error_answer(507, _FULL)
        status, code = next((status, code) for kind, status, code in _STATUS if isinstance(error, kind))
        return error_answer(status, " ".join(str(error).split()), code=code)

    @app.exception_handler(OSError)
    async def _disk(_: Request, error: OSError) -> JSONResponse:
        if is_disk_full(error):
            return error_answer(507, _FULL)
        _LOG.error("the disk refused: %s", error.strerror)
        return error_answer(500, "the server's disk refused; its log says why", code="disk")

    @app.exception_handler(Exception)
    async def _unforeseen(_: Request, error: Exception) -> JSONResponse:
        # The message of an unforeseen error may hold what a client sent; its kind and place are enough to find it.
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
        _LOG.error("unforeseen %s at %s", type(error).__name__, where)
        return error_answer(500, "the server failed; its log says where", code="internal")


def _tell(error: RequestValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    return f"{place}: {first['msg']}"[:300]
