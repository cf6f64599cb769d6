"""The web page's own files: read once, served under fixed routes; nothing else of the disk can be asked for.

In: the files of ``medfinder.app.web`` that the search page is made of. Out: one route each: ``search.html`` at ``/``,
the others under ``/web/`` and their names.
"""

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response

_KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "wasm": "application/wasm",
    "txt": "text/plain; charset=utf-8",
}

_START = "search.html"
# What belongs to the search page; most of the review page's files have their own server.
_OWN = ("common.js", "search", "search.css", "search.js", "vendor")

_PLACEHOLDER = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>medfinder</title>
<h1>medfinder</h1><p>The search service runs. Its interface: <a href="/v1/openapi.json">/v1/openapi.json</a>.
Not for diagnosis.</p></html>"""


def make_page_router() -> APIRouter:
    """Make one route for each file of the page."""
    router = APIRouter(include_in_schema=False)
    web = files("medfinder.app").joinpath("web")
    start = web.joinpath(_START)
    _serve(router, "/", start.read_bytes() if start.is_file() else _PLACEHOLDER, _START)
    for name in _OWN:
        for route, file in _walk(web.joinpath(name), f"/web/{name}"):
            _serve(router, route, file.read_bytes(), file.name)

    @router.get("/favicon.ico")
    async def give_no_icon() -> Response:
        return Response(status_code=204)

    return router


def _walk(file: Traversable, route: str) -> Iterator[tuple[str, Traversable]]:
    if file.is_dir():
        for inner in file.iterdir():
            yield from _walk(inner, f"{route}/{inner.name}")
    elif file.is_file() and file.name.rpartition(".")[2] in _KINDS:
        yield route, file


def _serve(router: APIRouter, route: str, content: bytes, name: str) -> None:
    kind = _KINDS[name.rpartition(".")[2]]
    # Asked for each time, sent only when it has changed.
    headers = {"Cache-Control": "no-cache", "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}

    @router.get(route)
    async def give(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)
