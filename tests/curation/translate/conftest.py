"""A small OpenAI-compatible endpoint on the loopback, well-behaved or faulty, and tiny Marian weights."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Reply = Callable[["Endpoint", str, str], dict[str, Any] | None]


class Endpoint(ThreadingHTTPServer):
    """Answers /v1/chat/completions; ``plan`` names what is done to the next requests, then all is well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan: list[str] = []
        self.always = ""
        self.asked: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.slow_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


def english_of(spanish: str) -> str:
    """What the endpoint makes of a text: enough to see which one it was."""
    return f"English of {spanish}"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def log_message(self, format: str, *args: Any) -> None:  # silence
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.times.append(time.monotonic())
            self.server.keys.append(self.headers.get("Authorization"))
            fault = self.server.plan.pop(0) if self.server.plan else self.server.always
            self.server.under_way += 1
            self.server.most_under_way = max(self.server.most_under_way, self.server.under_way)
        try:
            time.sleep(self.server.slow_s)
            self._answer(body, fault)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def _answer(self, body: dict[str, Any], fault: str) -> None:
        report = re.search(r'(?s)<report id="(\w+)">\n(.*)\n</report>', body["messages"][-1]["content"])
        assert report is not None
        mark, spanish = report[1], report[2]
        if fault.isdigit():
            after = {"Retry-After": "1"} if fault == "429" else {}
            self._send(int(fault), json.dumps({"error": {"message": f"quoted: {spanish[:20]}"}}), after)
            return
        if fault == "time-out":
            time.sleep(1.0)
        contents = {
            "empty": "",
            "other report": '<translation id="0123456789ab">Another report.</translation>',
            "unmarked": english_of(spanish),
            "refusal": "I'm sorry, but I can't assist with that.",
            "torn": f'<translation id="{mark}">Left pleural',
        }
        content = contents.get(fault, f'<translation id="{mark}">\n{english_of(spanish)}\n</translation>')
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        choice["finish_reason"] = "length" if fault == "length" else "stop"
        answer = {"id": "x", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
        if fault == "other model":
            answer["model"] = "parrot-1"
        text = json.dumps(answer)
        self._send(200, text[: len(text) // 2] if fault == "half a JSON" else text)

    def _send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        raw = text.encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(raw)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
