"""What the server counts, in the text format that Prometheus reads.

In: method, route, status and duration of each request; figures asked for when the page is drawn up. Out: text. Labels
are route templates and never paths, so that no case, query or key is in them.

Source: Prometheus, "Exposition formats", text format 0.0.4.
"""

import threading
import time
from collections import Counter
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

KIND = "text/plain; version=0.0.4; charset=utf-8"

# Seconds; ours: from a cached slice to a CT that is read.
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counts requests and how long they took, by route."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._seconds: dict[str, float] = {}
        self._counts: Counter[str] = Counter()

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        with self._lock:
            self._requests[method, route, status] += 1
            self._counts[route] += 1
            self._seconds[route] = self._seconds.get(route, 0.0) + seconds
            for bound in _BOUNDS:
                if seconds <= bound:
                    self._buckets[route, bound] += 1

    def text(self, gauges: Mapping[str, float]) -> str:
        """Draw up everything; ``gauges`` are figures of this moment by name."""
        with self._lock:
            lines = ["# TYPE medfinder_requests_total counter"]
            for (method, route, status), count in sorted(self._requests.items()):
                labels = f'method="{method}",route="{route}",status="{status}"'
                lines.append(f"medfinder_requests_total{{{labels}}} {count}")
            lines.append("# TYPE medfinder_request_seconds histogram")
            for route in sorted(self._counts):
                lines += self._histogram(route)
        for name, value in gauges.items():
            lines += [f"# TYPE medfinder_{name} gauge", f"medfinder_{name} {value:g}"]
        return "\n".join(lines) + "\n"

    def _histogram(self, route: str) -> list[str]:
        name = "medfinder_request_seconds"
        buckets = [f'{name}_bucket{{route="{route}",le="{one:g}"}} {self._buckets[route, one]}' for one in _BOUNDS]
        return [
            *buckets,
            f'{name}_bucket{{route="{route}",le="+Inf"}} {self._counts[route]}',
            f'{name}_sum{{route="{route}"}} {self._seconds[route]:.6f}',
            f'{name}_count{{route="{route}"}} {self._counts[route]}',
        ]


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Counted:
    """ASGI middleware that counts every request under its route's template."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.count(method, route, status, time.perf_counter() - started)
