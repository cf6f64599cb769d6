"""The review queue in the browser: a small web application on this machine alone.

In: a dataset folder. Out: an ASGI application with the pages, the items, slices of the volumes, and a place to send
decisions to; each decision is on disk before it is answered. What readers diagnose, and who settles where they differ,
is in ``diagnose_page``. Refused: requests that do not come from the page itself (another host name, another origin),
decisions on items that are not there.
"""

import io
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from medfinder.app.diagnose_page import Desk, ReportRule, serve_diagnoses
from medfinder.app.headers import page_headers
from medfinder.app.montage import render_panels
from medfinder.app.render import render
from medfinder.curation.dataset import Dataset, Figures
from medfinder.curation.review import Item, decide, list_items, read_decisions
from medfinder.errors import ConfigError, DatasetError, MissingExtraError
from medfinder.records import Case

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request, Response
    from PIL import Image
    from pydantic import BaseModel
except ImportError as error:
    raise MissingExtraError("FastAPI, uvicorn or Pillow", "server") from error

HOST = "127.0.0.1"
_HEADERS = page_headers()
_PAGES = {"/": "review.html", "/diagnose": "diagnose.html", "/settle": "settle.html"}
_SCRIPTS = ("review.js", "diagnose.js", "settle.js", "common.js", "planes.js", "picker.js", "report.js")
_FILES = {**dict.fromkeys(_SCRIPTS, "text/javascript"), "review.css": "text/css"}

# What a translation most often gets wrong, marked in both texts so that the eye finds it.
_MARKS = re.compile(
    r"(?P<number>\d+(?:[.,]\d+)?(?:\s?(?:mm|cm|ml|cc|%))?)"
    r"|(?P<side>\b(?:left|right|bilateral|both|izquierd[oa]s?|derech[oa]s?|izqd?[oa]?|dch[oa]|bilaterales|ambos|ambas)\b)"
    r"|(?P<negation>\b(?:no|not|without|sin|ni|nor|neither|negative|absen(?:ce|t)|ausencia|descart\w+|rules? out)\b)",
    re.IGNORECASE,
)


class Said(BaseModel):
    """A decision as the page sends it."""

    item: str
    verdict: str
    reader: str
    before: str = ""
    after: str = ""
    note: str = ""


@dataclass(frozen=True)
class _Queue:
    """The dataset under review, read once; decisions are read anew, since others may write them too."""

    dataset: Dataset
    rows: tuple[tuple[Case, Figures], ...]

    @property
    def cases(self) -> dict[str, Case]:
        return {case.case_id: case for case, _ in self.rows}

    def items(self) -> dict[str, Item]:
        return {item.key: item for item in list_items(self.rows, read_decisions(self.dataset.path))}


def make_review_app(path: Path, *, port: int, report: ReportRule = "asked") -> FastAPI:
    """Make the application for one dataset.

    Args:
        port: that it is going to be served on; requests for another host are refused.
        report: whether readers who diagnose see the report: when they ask for it, always or never.

    Raises:
        ConfigError: there is no such rule.
        DatasetError: the folder is no dataset.
    """
    dataset = Dataset.open(path)
    queue = _Queue(dataset, dataset.all_rows())
    app = FastAPI(title="medfinder review", docs_url=None, redoc_url=None, openapi_url=None)
    _guard(app, {f"{HOST}:{port}", f"localhost:{port}"})
    _serve_page(app)
    _serve_items(app, queue)
    serve_diagnoses(app, Desk(dataset, queue.rows, report))
    return app


def serve_review(path: Path, *, port: int, report: ReportRule, told: Callable[[str], None]) -> None:
    """Serve the review page of a dataset until Ctrl-C; on this machine alone, since it asks for no key."""
    app = make_review_app(path, port=port, report=report)
    told(f"review queue of {path}: http://{HOST}:{port}/ (Ctrl-C ends it; every decision is stored at once)")
    told(f"to diagnose: http://{HOST}:{port}/diagnose; where readers differ: http://{HOST}:{port}/settle")
    uvicorn.run(app, host=HOST, port=port, log_level="warning", access_log=False)


def _guard(app: FastAPI, hosts: set[str]) -> None:
    """Answer the page itself only: a web site elsewhere must not reach a server on the reader's machine."""

    @app.middleware("http")
    async def _check(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        origin = request.headers.get("origin")
        is_own = request.headers.get("host") in hosts and origin in (None, *(f"http://{host}" for host in hosts))
        response = await answer(request) if is_own else Response("not from here", status_code=403)
        response.headers.update(_HEADERS)
        return response


def _serve_page(app: FastAPI) -> None:
    web = files("medfinder.app").joinpath("web")
    served = {route: (render(name, {}), "text/html") for route, name in _PAGES.items()}
    served |= {f"/{name}": (web.joinpath(name).read_text(encoding="utf-8"), kind) for name, kind in _FILES.items()}
    for route, (content, kind) in served.items():

        def give(content: str = content, kind: str = kind) -> Response:
            return Response(content, media_type=kind)

        app.get(route, include_in_schema=False)(give)

    @app.get("/favicon.ico", include_in_schema=False)
    def give_no_icon() -> Response:
        return Response(status_code=204)


def _serve_items(app: FastAPI, queue: _Queue) -> None:
    @app.get("/items")
    def list_all() -> dict[str, Any]:
        items = queue.items().values()
        return {
            "dataset": queue.dataset.path.name,
            "is_synthetic": queue.dataset.is_synthetic,
            "items": [{**asdict(item), "holds": item.holds} for item in items],
        }

    @app.get("/items/{stage}/{name}")
    def show(stage: str, name: str) -> dict[str, Any]:
        item = queue.items().get(f"{stage}/{name}")
        if item is None:
            raise HTTPException(404, "no such item")
        return _show_item(queue, item)

    @app.get("/slices/{case_id}.png")
    def draw(case_id: str) -> Response:
        case = queue.cases.get(case_id)
        if case is None:
            raise HTTPException(404, "no such case")
        try:
            return Response(_draw(queue.dataset, case), media_type="image/png")
        except DatasetError as error:
            raise HTTPException(404, str(error)) from error

    @app.post("/decisions")
    def say(said: Said) -> dict[str, Any]:
        try:
            decision = decide(
                queue.dataset.path,
                queue.items(),
                said.item,
                said.verdict,
                reader=said.reader,
                before=said.before,
                after=said.after,
                note=said.note,
            )
        except ConfigError as error:
            raise HTTPException(422, str(error)) from error
        return asdict(decision)


def _show_item(queue: _Queue, item: Item) -> dict[str, Any]:
    case = queue.cases[item.case_ids[0]]
    history = [asdict(one) for one in read_decisions(queue.dataset.path) if one.item == item.key]
    english = next((one["after"] for one in reversed(history) if one["verdict"] == "correct"), case.report)
    return {
        **asdict(item),
        "holds": item.holds,
        "report": english,
        "report_marked": mark(english),
        "report_es_marked": mark(case.report_es),
        "findings_from": case.findings_from,
        "findings": [_spell(finding.name, finding.status) for finding in case.findings],
        "facts": _facts(queue, item),
        "history": history,
    }


def _facts(queue: _Queue, item: Item) -> list[Mapping[str, Any]]:
    figures = {case.case_id: one for case, one in queue.rows}
    return [
        {
            "case": case_id,
            "shape": " x ".join(map(str, queue.cases[case_id].shape)),
            "spacing_mm": " x ".join(f"{one:.3g}" for one in queue.cases[case_id].spacing_mm),
            "region": queue.cases[case_id].region,
            "quality": round(figures[case_id].quality_score, 3),
            "source": queue.cases[case_id].source,
        }
        for case_id in item.case_ids
    ]


def _spell(name: str, status: str) -> str:
    return name if status == "present" else f"{name} ({status})"


def mark(text: str) -> list[tuple[str, str]]:
    """Cut a text into pieces, each with the kind of thing that it is: number, side, negation or nothing.

    Example:
        >>> mark("no 3 mm nodule")
        [('no', 'negation'), (' ', ''), ('3 mm', 'number'), (' nodule', '')]
    """
    pieces: list[tuple[str, str]] = []
    done = 0
    for match in _MARKS.finditer(text):
        if match.start() > done:
            pieces.append((text[done : match.start()], ""))
        pieces.append((match[0], match.lastgroup or ""))
        done = match.end()
    if done < len(text):
        pieces.append((text[done:], ""))
    return pieces


def _draw(dataset: Dataset, case: Case) -> bytes:
    import numpy as np

    pixels = np.concatenate([panel.pixels for panel in render_panels(dataset.view(case))], axis=1)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    return png.getvalue()
