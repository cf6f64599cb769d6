"""The tables that BIMCV distributes: report labels, participants, sessions, and the lists that stand in them as text.

In: a table under any of its names, told by its header. Out: rows with bare ids (``S03001``, ``E10001``), lists and
dates as values, labels as findings under the names that BIMCV gives them. Nothing of a cell is evaluated. Refused: a
file that is no table. A row that cannot be used is yielded as such, with its number.
"""

import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple, cast

from medfinder.errors import DatasetError
from medfinder.records import Finding, Laterality, Sex
from medfinder.sources.report_table import read_age
from medfinder.sources.text_table import Cells, Header, read_rows, read_titles

# title, lower case, without blanks and underscores -> our name for the column
_COLUMNS: Mapping[str, str] = {
    "patientid": "patient",
    "participant": "patient",
    "participantid": "patient",
    "subject": "patient",
    "subjectid": "patient",
    "reportid": "session",
    "sessionid": "session",
    "session": "session",
    "report": "report",
    "reporten": "report_en",
    "labels": "labels",
    "labelslocalizationsbysentence": "by_sentence",
    "path": "path",
    "ctpath": "ct_path",
    "filename": "path",
    "age": "age",
    "gender": "sex",
    "sex": "sex",
    "studydate": "date",
    "medicalevaluation": "evaluation",
}
# Labels that say that there is nothing to label.
_NO_FINDING = ("", "exclude", "normal", "unchanged", "nan", "none")
_SIDES = ("left", "right", "bilateral")
# Between brackets: what stands in quotes that a comma or bracket follows, else what stands between commas.
_ENTRY = re.compile(
    r"""\s*(?:'(.*?)'(?=\s*(?:[,\]]|$))|"(.*?)"(?=\s*(?:[,\]]|$))|([^\[\],]+))\s*,?|[\[\]\s]""", re.DOTALL
)


def column_of(title: str) -> str | None:
    """Tell which column a title names; None where it names none that is read."""
    return _COLUMNS.get(re.sub(r"[\s_]", "", title).lower())


def is_known(title: str) -> bool:
    """Tell whether a title names a column that is read."""
    return column_of(title) is not None


def read_columns(path: Path) -> frozenset[str]:
    """Tell which columns a table has, by its header alone; none where it is no table."""
    return frozenset(name for title in read_titles(path, is_known) if (name := column_of(title)))


def is_label_table(columns: frozenset[str]) -> bool:
    """Tell whether these are the columns of a table of reports by session."""
    return columns >= {"session", "report"}


def is_release_table(columns: frozenset[str]) -> bool:
    """Tell whether these are the columns of the released table of reports by volume."""
    return "session" in columns and bool(columns & {"path", "ct_path"}) and bool(columns & {"report", "report_en"})


def is_session_table(columns: frozenset[str]) -> bool:
    """Tell whether these are the columns of a table of sessions."""
    return "session" in columns and bool(columns & {"date", "evaluation"}) and "report" not in columns


def is_participant_table(columns: frozenset[str]) -> bool:
    """Tell whether these are the columns of a table of participants."""
    return "patient" in columns and bool(columns & {"age", "sex"}) and not columns & {"session", "report"}


class ReportRow(NamedTuple):
    """One row of a table of reports, its cells stripped; only what is asked of it is parsed.

    Attributes:
        table: number of the table among those of a source.
        number: of the row in its file; the header is 1.
        path: the volume it names; empty in tables by session.
    """

    table: int
    number: int
    patient: str
    session: str
    report: str
    report_en: str = ""
    path: str = ""
    ct_path: str = ""
    labels: str = ""
    by_sentence: str = ""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the labels of the row say."""
        return parse_labels(self.labels, self.by_sentence)

    def says_the_same_as(self, other: "ReportRow") -> bool:
        """Tell whether two rows give one session or volume the same text of the same patient."""
        mine, others = ((r.patient, r.session, r.report.split(), r.report_en.split()) for r in (self, other))
        return mine == others


class BadRow(NamedTuple):
    """A row that cannot be used, and why."""

    table: int
    number: int
    fault: str


def read_report_rows(path: Path, table: int = 0, wanted: Container[str] | None = None) -> Iterator[ReportRow | BadRow]:
    """Yield the rows of a table of reports, one at a time.

    Args:
        table: number of the table, that the rows then bear.
        wanted: bare ids of sessions; rows of others come with their ids alone, which is quicker.

    Raises:
        DatasetError: the file is no table, or lacks the columns of one.
    """
    rows = read_rows(path, is_known)
    _, titles = next(rows, (0, []))
    header = Header.read(titles, column_of)
    columns = frozenset(header.places)
    if not (is_label_table(columns) or is_release_table(columns)):
        found = ", ".join(repr(title.strip()[:40]) for title in titles[:20]) or "nothing"
        raise DatasetError(
            f"{path} lacks columns: found {found}; expected PatientID, ReportID, Report and, for released volumes,"
            " path and Report_en"
        )
    for number, cells in rows:
        yield _report_row(table, number, cells, header, wanted)


def _report_row(
    table: int, number: int, cells: Cells, header: Header, wanted: Container[str] | None
) -> ReportRow | BadRow:
    if len(cells) > header.width and header.has_too_many(cells):
        return BadRow(table, number, f"{len(cells)} cells, expected {header.width}")
    patient, session = bare_id(header.cell(cells, "patient")), bare_id(header.cell(cells, "session"))
    if session and wanted is not None and session not in wanted:
        return ReportRow(table, number, patient, session, "")
    row = ReportRow(table, number, patient, session, *(header.cell(cells, name) for name in ReportRow._fields[4:]))
    if not (row.session or row.path or row.ct_path):
        return BadRow(table, number, "no ReportID and no path")
    return row


def sort_rows(rows: Sequence[ReportRow]) -> tuple[ReportRow | None, list[ReportRow], list[ReportRow]]:
    """Sort the rows of one session: the one that stands, those that say the same, and those that say otherwise.

    A row without a text says nothing beside one that has a text.
    """
    ordered = sorted(rows, key=lambda row: not row.report)
    if not ordered:
        return None, [], []
    kept = ordered[0]
    spare = [row for row in ordered[1:] if row.says_the_same_as(kept) or not row.report]
    return kept, spare, [row for row in ordered[1:] if row not in spare]


@dataclass(frozen=True, slots=True)
class Participant:
    """What the table of participants says of one of them."""

    ages: tuple[int, ...]
    sex: Sex | None


def read_participants(path: Path) -> Iterator[tuple[int, str, Participant]]:
    """Yield the rows of a table of participants: number, bare id, what it says."""
    rows = read_rows(path, is_known)
    header = Header.read(next(rows, (0, []))[1], column_of)
    for number, cells in rows:
        ages = (read_age(age) for age in parse_list(header.cell(cells, "age")))
        known = tuple(sorted({age for age in ages if age is not None}))
        yield number, bare_id(header.cell(cells, "patient")), Participant(known, parse_sex(header.cell(cells, "sex")))


@dataclass(frozen=True, slots=True)
class SessionRow:
    """What a subject's table of sessions says of one: its day, and the texts that stand for its report."""

    day: date | None
    texts: tuple[str, ...]


def read_sessions(path: Path, wanted: Container[str]) -> dict[str, SessionRow]:
    """Read what a table says of the wanted sessions, by bare id; of one that stands twice the last row counts."""
    rows = read_rows(path, is_known)
    header = Header.read(next(rows, (0, []))[1], column_of)
    sessions = {}
    for _, cells in rows:
        if (session := bare_id(header.cell(cells, "session"))) not in wanted:
            continue
        texts = tuple(dict.fromkeys(text for text in parse_list(header.cell(cells, "evaluation")) if text != "nan"))
        sessions[session] = SessionRow(parse_day(header.cell(cells, "date")), texts)
    return sessions


def read_scans(path: Path) -> list[str]:
    """Read the names of the files that a session's table of scans lists, without their folders."""
    rows = read_rows(path, is_known)
    header = Header.read(next(rows, (0, []))[1], column_of)
    return [header.cell(cells, "path").replace("\\", "/").rsplit("/", 1)[-1] for _, cells in rows]


def bare_id(text: str) -> str:
    """Strip what BIMCV writes before an id in names of files but not always in tables.

    Example:
        >>> [bare_id(text) for text in ("sub-S03001", "ses-E10001", " S03001 ")]
        ['S03001', 'E10001', 'S03001']
    """
    return text.strip().removeprefix("sub-").removeprefix("ses-").upper()


class FileName(NamedTuple):
    """What the name of a BIMCV file tells: bare ids in capitals, the body part in small letters."""

    patient: str
    session: str
    part: str


def parse_file_name(stem: str) -> FileName | None:
    """Read ``sub-S#####_ses-E#####[_acq-N][_run-N]_bp-chest_ct``; None where a name is not of this kind.

    Example:
        >>> parse_file_name("sub-S12791_ses-E26882_acq-2_run-1_bp-chest_ct")
        FileName(patient='S12791', session='E26882', part='chest')
    """
    match = re.match(r"sub-([a-z0-9]+)_ses-([a-z0-9]+)(?:_.*?bp-([a-z]+))?(?:_|$)", stem, re.IGNORECASE)
    return FileName(match[1].upper(), match[2].upper(), (match[3] or "").lower()) if match else None


def is_synthetic_tree(root: Path) -> bool:
    """Tell whether a folder, or the one above, says of itself that it is made of phantoms."""
    for folder in (root, root.parent):
        try:
            found = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and found.get("is_synthetic") is True:
            return True
    return False


def parse_list(text: str) -> list[str]:
    """Parse a list that stands as text in a cell, nested or not, quoted or not; empty entries are left out.

    Nothing is evaluated, and nothing is refused: of a broken list the entries come that can be told apart.

    Example:
        >>> parse_list("['pleural effusion', ' loc left', '', \\"crohn's disease\\"]")
        ['pleural effusion', 'loc left', "crohn's disease"]
        >>> [parse_list(text) for text in ("[C0034079,C0032227]", "[['chest'], ['chest']]", "[80.0]", "")]
        [['C0034079', 'C0032227'], ['chest', 'chest'], ['80.0'], []]
    """
    if not text.lstrip().startswith("["):
        return [text.strip()] if text.strip() else []
    entries = (next((part for part in match.groups() if part is not None), "") for match in _ENTRY.finditer(text))
    return [entry.strip() for entry in entries if entry.strip()]


def parse_labels(labels: str, by_sentence: str = "") -> tuple[Finding, ...]:
    """Turn the label columns of a row into findings under BIMCV's own names.

    A side or place counts for the label that it follows in its sentence.

    Example:
        >>> (finding,) = parse_labels("['normal', ' pleural effusion']", "['pleural effusion', 'loc left']")
        >>> finding.name, finding.laterality
        ('pleural effusion', 'left')
    """
    names = dict.fromkeys(" ".join(name.lower().split()) for name in parse_list(labels))
    places = _places_by_label(parse_list(by_sentence))
    return tuple(_finding(name, places.get(name, [])) for name in names if name not in _NO_FINDING)


def _places_by_label(entries: list[str]) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    label = ""
    for entry in (" ".join(entry.lower().split()) for entry in entries):
        if not entry.startswith("loc "):
            label = entry
        elif label not in _NO_FINDING:
            places.setdefault(label, []).append(entry.removeprefix("loc "))
    return places


def _finding(name: str, places: list[str]) -> Finding:
    sides = sorted({place for place in places if place in _SIDES})
    others = list(dict.fromkeys(place for place in places if place not in _SIDES))
    side = sides[0] if len(sides) == 1 else "bilateral" if sides else None
    # Two places of one label may be two findings: only a single one is told.
    return Finding(name, laterality=cast(Laterality | None, side), location=others[0] if len(others) == 1 else None)


def parse_sex(text: str) -> Sex | None:
    """Read a sex as BIMCV's tables and DICOM headers write it."""
    return cast(Sex, text.strip().upper()) if text.strip().upper() in ("F", "M") else None


def parse_day(text: str) -> date | None:
    """Read a day: yyyymmdd, also as a float or with dashes, or dd.mm.yyyy; None where it is none of these.

    Example:
        >>> {str(parse_day(text)) for text in ("20200527", "20200527.0", "2.0200527e7", "2020-05-27", "27.05.2020")}
        {'2020-05-27'}
        >>> parse_day("nan")
    """
    text = text.strip()
    if match := re.fullmatch(r"(\d{1,2})[./](\d{1,2})[./](\d{4})", text):
        text = f"{match[3]}{int(match[2]):02d}{int(match[1]):02d}"
    elif re.fullmatch(r"\d\.\d+[eE]\+?0?7|\d{8}\.0*", text):
        text = str(round(float(text)))
    digits = re.sub(r"^(\d{4})-(\d\d)-(\d\d).*", r"\1\2\3", text)[:8]
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return None
