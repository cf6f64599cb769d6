"""What every request passes before it is looked at, and what every answer carries.

In: ASGI requests. Out: the same, with a limit on size and silence, and answers with security headers. Refused: another
host or origin than the server's own where it asks for no key, so that a web site elsewhere cannot reach a server on the
reader's machine; bodies that are too large (413) or come too slowly (408).
"""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medfinder.app.headers import page_headers
from medfinder.app.server.faults import Refusal, error_answer
from medfinder.app.server.settings import Limits

# NiiVue compiles its decoders from WebAssembly, runs them as workers of a blob, and keeps its font in a data address.
HEADERS = page_headers(images="blob: data:", workers="blob:", scripts="'wasm-unsafe-eval'", fetches="blob: data:") | {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

# What a multipart form takes beside the file: its fields, which are texts.
_FORM_BYTES = 2**20


class Guard:
    """ASGI middleware: host, origin, size and pace of requests; headers of answers.

    Args:
        hosts: that may be asked for, with port; None for any, where keys keep strangers out.
        uploads: paths whose body may be as large as an upload.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, hosts: frozenset[str] | None, uploads: frozenset[str]) -> None:
        self._app = app
        self._limits = limits
        self._hosts = hosts
        self._origins = None if hosts is None else {f"{scheme}://{host}" for host in hosts for scheme in _SCHEMES}
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(one for one in _HEADERS if one[0] not in given)]
            await send(message)

        headers = Headers(scope=scope)
        is_upload = scope["path"] in self._uploads
        limit = self._limits.upload_bytes + _FORM_BYTES if is_upload else self._limits.body_kb * 1024
        if not self._is_own(headers):
            await error_answer(403, "not from here: another host or origin than this server's own")(
                scope, receive, send_with_headers
            )
        elif _told_length(headers) > limit:
            await error_answer(413, _too_large(limit), headers={"Connection": "close"})(
                scope, receive, send_with_headers
            )
        else:
            seconds = self._limits.upload_s if is_upload else 2 * self._limits.silence_s
            body = _Body(receive, limit, self._limits.silence_s, time.monotonic() + seconds)
            await self._app(scope, body.receive, send_with_headers)

    def _is_own(self, headers: Headers) -> bool:
        if self._hosts is None or self._origins is None:
            return True
        origin = headers.get("origin")
        return headers.get("host") in self._hosts and (origin is None or origin in self._origins)


_SCHEMES = ("http", "https")


def _told_length(headers: Headers) -> int:
    told = headers.get("content-length", "")
    return int(told) if told.isdecimal() and len(told) < 20 else 0


def _too_large(limit: int) -> str:
    return f"the body has more than {limit / 2**20:.4g} MB; send less"


class _Body:
    """The body of one request, counted and timed while it comes."""

    def __init__(self, receive: Receive, limit: int, silence_s: float, until: float) -> None:
        self._receive = receive
        self._limit = limit
        self._silence_s = silence_s
        self._until = until
        self._come = 0
        self._is_whole = False

    async def receive(self) -> Message:
        if self._is_whole:
            # Whoever asks further waits for the client to go away, which may take its time.
            return await self._receive()
        patience = min(self._silence_s, self._until - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, patience))
        except TimeoutError:
            raise Refusal(408, "the body came too slowly; send it again", {"Connection": "close"}) from None
        self._come += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._come > self._limit:
            raise Refusal(413, _too_large(self._limit), {"Connection": "close"})
        return message
