"""Readers at work: cases one after the other with their three planes, and where readers differ, for who settles it.

In: a dataset, and who reads. Out: routes of the review application: the cases with what this reader has said of them
and no one else's words, voxels for the browser to cut, the report when it is asked for, and the differences with
everybody's words, on a page of their own. Refused: a case that is not there, a report that the readers are not to see,
whatever ``readings`` refuses.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np

from medfinder.app.montage import WINDOWS, choose_slices
from medfinder.curation.dataset import Dataset, Figures
from medfinder.curation.diagnoses import STORE as IMPORTED
from medfinder.curation.diagnoses import Diagnosis, DiagnosisTable, merge_readings, read_imported, settle_diagnoses
from medfinder.curation.keywords import KEYWORDS, extract_findings
from medfinder.curation.readings import Reading, finish, look, open_readings, say, standing, undo
from medfinder.errors import ConfigError, DatasetError, MissingExtraError
from medfinder.records import Case
from medfinder.volume import Volume

try:
    from fastapi import FastAPI, HTTPException, Response
    from pydantic import BaseModel
except ImportError as error:
    raise MissingExtraError("FastAPI", "server") from error

ReportRule = Literal["asked", "always", "never"]
MOST_VOXELS = 320**3
"""Ours: these are 66 MB, which a browser cuts without a pause; finer volumes are thinned."""
Answer = TypeVar("Answer")


class Spoken(BaseModel):
    """A word as the page sends it."""

    reader: str
    finding: str
    status: str
    settles: bool = False


class Who(BaseModel):
    """Who does something, as the page sends it."""

    reader: str


@dataclass
class Desk:
    """What readers work on: cases that do not change, and words that other processes may add to.

    Attributes:
        rows: every case that passed the filters, those that wait among them.
        adjudicator: the reader whose imported words decide, as the dataset's settings name one.
    """

    dataset: Dataset
    rows: tuple[tuple[Case, Figures], ...]
    report_rule: ReportRule = "asked"
    _imported: tuple[float, DiagnosisTable] = field(default=(-1.0, DiagnosisTable((), ())))

    def __post_init__(self) -> None:
        check_report_rule(self.report_rule)
        self.cases = {case.case_id: case for case, _ in self.rows}
        self.held = {case.case_id for case, _ in self.dataset.held}
        self.journal = open_readings(self.dataset.path)
        self.adjudicator = self.dataset.provenance.get("settings", {}).get("adjudicator") or None

    def diagnoses(self) -> tuple[Diagnosis, ...]:
        """Read all words that stand, imported ones too."""
        return merge_readings(self.imported().diagnoses, self.journal.read())

    def imported(self) -> DiagnosisTable:
        """Read what tables brought, anew only when it has changed."""
        store: Path = self.dataset.path / IMPORTED
        changed = store.stat().st_mtime if store.exists() else 0.0
        if changed != self._imported[0]:
            self._imported = (changed, read_imported(self.dataset.path))
        return self._imported[1]


def check_report_rule(name: str) -> ReportRule:
    """Take the name of a rule.

    Raises:
        ConfigError: there is no such rule.
    """
    for rule in get_args(ReportRule):
        if name == rule:
            return cast(ReportRule, rule)
    raise ConfigError(f"report {name!r}; expected {', '.join(get_args(ReportRule))}")


def serve_diagnoses(app: FastAPI, desk: Desk) -> None:
    """Add the routes of readers and of who settles their differences."""
    _serve_lists(app, desk)
    _serve_case(app, desk)
    _take_words(app, desk)


def _serve_lists(app: FastAPI, desk: Desk) -> None:
    @app.get("/cases")
    def list_cases(reader: str = "") -> dict[str, Any]:
        return {
            "dataset": desk.dataset.path.name,
            "is_synthetic": any(case.is_synthetic for case, _ in desk.rows),
            "report_rule": desk.report_rule,
            "windows": WINDOWS,
            "cases": _list_cases(desk, " ".join(reader.split())),
        }

    @app.get("/keywords")
    def list_keywords() -> list[dict[str, Any]]:
        return [
            {
                "name": one.name,
                "es": one.names_es[0],
                "others": _plain_names(one.names_en, one.names_es, one.abbreviations),
            }
            for one in KEYWORDS.values()
        ]

    @app.get("/differences")
    def list_differences() -> dict[str, Any]:
        return {
            "dataset": desk.dataset.path.name,
            "is_synthetic": any(case.is_synthetic for case, _ in desk.rows),
            "report_rule": desk.report_rule,
            "windows": WINDOWS,
            "differences": _list_differences(desk),
        }


def _plain_names(*names: Iterable[str]) -> list[str]:
    """Gather the names that a reader might type; those with a gap for other words are for reports alone."""
    return list(dict.fromkeys(name for group in names for name in group if ".." not in name))


def _list_cases(desk: Desk, reader: str) -> list[dict[str, Any]]:
    stands = [one for one in standing(desk.journal.read()) if one.reader == reader]
    finished = {one.case_id for one in stands if one.act == "finish"}
    started = {one.case_id for one in stands if one.act == "say" and not one.settles}
    differ = {settled.case_id for settled in settle_diagnoses(desk.diagnoses()) if settled.how in ("majority", "open")}
    return [
        {
            "case_id": case_id,
            "state": "finished" if case_id in finished else "started" if case_id in started else "",
            "is_held": case_id in desk.held,
            "differs": case_id in differ,
        }
        for case_id in desk.cases
    ]


def _list_differences(desk: Desk) -> list[dict[str, Any]]:
    """List what readers differ on, with everybody's word: the open ones first."""
    diagnoses = desk.diagnoses()
    words: dict[tuple[str, str], list[Diagnosis]] = {}
    for diagnosis in diagnoses:
        words.setdefault((diagnosis.case_id, diagnosis.finding), []).append(diagnosis)
    named = {(one.case_id, one.finding, one.reader) for one in standing(desk.journal.read()) if one.act == "say"}
    named |= {(one.case_id, one.finding, one.reader) for one in desk.imported().diagnoses}
    found = [
        {
            **asdict(settled),
            "key": f"{settled.case_id}/{settled.finding}",
            "words": [
                {**asdict(one), "is_named": (one.case_id, one.finding, one.reader) in named}
                for one in words[settled.case_id, settled.finding]
            ],
        }
        for settled in settle_diagnoses(diagnoses, adjudicator=desk.adjudicator)
        if settled.how not in ("one reader", "all agree") and settled.case_id in desk.cases
    ]
    order = ("open", "majority", "adjudicator")
    return sorted(found, key=lambda one: (order.index(str(one["how"])), str(one["key"])))


def _serve_case(app: FastAPI, desk: Desk) -> None:
    @app.get("/cases/{case_id}")
    def show(case_id: str, reader: str = "") -> dict[str, Any]:
        return _show(desk, _find(desk, case_id), " ".join(reader.split()))

    @app.get("/cases/{case_id}/voxels")
    def give_voxels(case_id: str) -> Response:
        try:
            volume = _thin(desk.dataset, _find(desk, case_id))
        except DatasetError as error:
            raise HTTPException(404, str(error)) from error
        # x runs fastest: a row of an axial slice lies together.
        voxels = volume.hu.astype("<i2").tobytes(order="F")
        return Response(voxels, media_type="application/octet-stream", headers={"X-Volume": _describe(volume)})

    @app.post("/cases/{case_id}/report")
    def show_report(case_id: str, who: Who) -> dict[str, Any]:
        case = _find(desk, case_id)
        if desk.report_rule == "never":
            raise HTTPException(403, "reports are not shown here: the page was opened with --report never")
        # Stored before it is shown: words that follow were not said blind.
        _refuse_politely(lambda: look(desk.journal, case_id, reader=who.reader))
        text, language = (case.report_es, "es") if case.report_es else (case.report, "en")
        found = extract_findings(text, "es" if language == "es" else "en")
        names = dict.fromkeys((one.name, one.status) for one in found)
        return {
            "report": case.report,
            "report_es": case.report_es if case.report_es != case.report else "",
            "suggestions": [{"finding": name, "status": status} for name, status in names],
        }


def _show(desk: Desk, case: Case, reader: str) -> dict[str, Any]:
    """Tell of a case what this reader may know: own words, voxels, nothing of the report."""
    own = [one for one in desk.journal.read() if one.case_id == case.case_id and one.reader == reader]
    stands = standing(own)
    return {
        "case_id": case.case_id,
        "facts": f"{_who(case)} · {case.region}",
        "words": [asdict(one) for one in stands if one.act == "say" and not one.settles],
        "is_finished": any(one.act == "finish" for one in stands),
        "was_shown": any(one.act == "look" for one in stands),
        "has_report": bool(case.report or case.report_es),
        "history": [asdict(one) for one in own if not one.settles],
    }


def _who(case: Case) -> str:
    who = {"F": "woman", "M": "man", None: "sex not known"}[case.sex]
    return f"{who}, age not known" if case.age_years is None else f"{who}, {min(case.age_years, 90)} years"


def _thin(dataset: Dataset, case: Case) -> Volume:
    """Take every voxel, or where there are too many for a browser every second or third."""
    view = dataset.view(case)
    step = math.ceil((math.prod(view.shape) / MOST_VOXELS) ** (1 / 3))
    # The first voxel stays where it was; the others lie further apart.
    return Volume(np.asarray(view.hu[::step, ::step, ::step]), view.affine @ np.diag([step, step, step, 1.0]))


def _describe(volume: Volume) -> str:
    """Tell the browser how voxels lie, and through which of them its planes run first."""
    _, (_, height, _), front = choose_slices(volume)
    start = [volume.shape[0] // 2, front, height]
    return json.dumps({"shape": volume.shape, "spacing_mm": volume.spacing_mm, "start": start})


def _take_words(app: FastAPI, desk: Desk) -> None:
    @app.post("/cases/{case_id}/words")
    def take_word(case_id: str, spoken: Spoken) -> dict[str, Any]:
        _find(desk, case_id)
        stored = _refuse_politely(
            lambda: say(
                desk.journal, case_id, spoken.finding, spoken.status, reader=spoken.reader, settles=spoken.settles
            )
        )
        return asdict(stored)

    @app.post("/cases/{case_id}/finish")
    def take_finish(case_id: str, who: Who) -> dict[str, Any]:
        _find(desk, case_id)
        return asdict(_refuse_politely(lambda: finish(desk.journal, case_id, reader=who.reader)))

    @app.post("/undo")
    def take_back(who: Who) -> Mapping[str, Any]:
        undone: Reading | None = _refuse_politely(lambda: undo(desk.journal, reader=who.reader))
        return asdict(undone) if undone else {}


def _find(desk: Desk, case_id: str) -> Case:
    case = desk.cases.get(case_id)
    if case is None:
        raise HTTPException(404, "no such case")
    return case


def _refuse_politely(act: Callable[[], Answer]) -> Answer:
    try:
        return act()
    except ConfigError as error:
        raise HTTPException(422, str(error)) from error
