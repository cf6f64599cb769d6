"""A table of reports that belongs to a folder of CTs: one row names one study (or one volume of it) and its report.

In: a CSV or TSV file with a header; comma, semicolon, tab or bar between cells; UTF-8 (with or without mark), UTF-16
or Windows-1252, each found by itself. Out: rows that are looked up by what they name, never by their place in the
file. Refused: a file that is no text table, a header without ``report`` or without ``path`` and ``study_id``. Set
aside one by one: rows that name nothing, have too many cells, contradict another row about the same study, or have no
image.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Dropped, Finding, Language, Sex, Study
from medfinder.sources.files import hash_id, write_whole
from medfinder.sources.text_table import Cells, Header, read_rows

RowReason = Literal["no image", "no participant", "unreadable row", "duplicate row"]
ROW_REASONS: frozenset[str] = frozenset(get_args(RowReason))
"""Reasons to set a row of a table aside; by any other reason of this stage a study goes."""

# name -> what stands in it; the template and the messages speak from here.
COLUMNS: dict[str, str] = {
    "path": "the volume file, or the folder of the DICOM study, relative to the source folder",
    "study_id": "instead of path: file name without suffix, StudyInstanceUID or AccessionNumber; "
    "beside path: rows with the same study_id are volumes of one study",
    "report": "the report as written, in Spanish or English; required",
    "report_en": "an English version of the report",
    "language": "of the report: es or en; guessed when empty",
    "patient_id": "whose study it is; studies of one patient are never split; stored as a hash",
    "age": "in years",
    "sex": "F or M",
    "findings": "what an expert saw, separated by semicolons; when empty they are read from the report",
}
SYNONYMS: dict[str, str] = {
    "file": "path",
    "filename": "path",
    "study": "study_id",
    "patient": "patient_id",
    "patientid": "patient_id",
    "age_years": "age",
    "gender": "sex",
    "lang": "language",
    "informe": "report",
    "text": "report",
}
_EXAMPLES = (
    ("# sub-01/ct.nii.gz", "E1", "derrame pleural izquierdo .", "Left pleural effusion.", "es", "P1", "71", "F", ""),
    ("# sub-02/ct.nii.gz", "E2", "Lung mass. No effusion.", "", "en", "P2", "58", "M", "mass; emphysema"),
)
_SEXES: dict[str, Sex] = {
    **dict.fromkeys(("f", "female", "woman", "mujer", "femenino"), "F"),
    **dict.fromkeys(("m", "male", "man", "hombre", "varon", "varón", "masculino", "h", "v"), "M"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a report table, its cells checked.

    Attributes:
        number: of the row in the file; the header is 1.
        repeats: numbers of the rows below that say the same.
    """

    number: int
    path: str
    study_id: str
    report: str
    report_en: str | None
    language: Language | None
    patient_id: str | None
    age_years: int | None
    sex: Sex | None
    findings: tuple[Finding, ...]
    repeats: tuple[int, ...] = ()

    def says_the_same_as(self, other: "Row") -> bool:
        """Tell whether two rows differ in nothing but their number."""
        mine = (self.path, self.study_id, self.report, self.report_en, self.patient_id, self.findings)
        return mine == (other.path, other.study_id, other.report, other.report_en, other.patient_id, other.findings)


class ReportTable:
    """The rows of a report table by what they name, with a record of the rows that were asked for."""

    def __init__(self, rows: Iterable[Row], refused: Iterable[Dropped], source: str) -> None:
        self._rows: dict[str, list[Row]] = {}
        self._refused = list(refused)
        self._asked: set[str] = set()
        self._source = source
        for row in rows:
            known = self._rows.setdefault(_key(row), [])
            place = next((place for place, other in enumerate(known) if row.says_the_same_as(other)), None)
            if place is None:
                known.append(row)
            else:
                known[place] = replace(known[place], repeats=(*known[place].repeats, row.number))

    def find(self, *, paths: Iterable[str] = (), ids: Iterable[str] = ()) -> Row | Dropped | None:
        """Look up the row that names a study, by the first of these names that the table knows.

        Returns:
            ``Dropped`` when several rows contradict each other, None when the table does not know the study.
        """
        names = [*(_path_key(path) for path in paths), *(_id_key(name) for name in ids)]
        for key in names:
            rows = self._rows.get(key, [])
            if rows:
                self._asked.add(key)
                return rows[0] if len(rows) == 1 else self._refuse_duplicates(rows)
        return None

    def leftovers(self) -> Iterator[Dropped]:
        """Yield a refusal for each row that could not be read and each that no image asked for."""
        yield from self._refused
        for key, rows in self._rows.items():
            if key not in self._asked:
                numbers = sorted(number for row in rows for number in (row.number, *row.repeats))
                for number in numbers:
                    detail = f"row {number} of the table names no CT of the source"
                    yield refuse_row(_study_id(rows[0]), self._source, "no image", detail)

    def _refuse_duplicates(self, rows: list[Row]) -> Dropped:
        numbers = ", ".join(str(row.number) for row in rows[:5])
        detail = f"{len(rows)} rows of the table name the same study and differ (rows {numbers}); keep one of them"
        return refuse_study(_study_id(rows[0]), self._source, "duplicate rows", detail)


def read_table(path: Path, *, source: str) -> ReportTable:
    """Read a report table.

    Args:
        source: the kind of source whose images it belongs to, for the rows that are set aside.

    Raises:
        DatasetError: the file is absent, no text, or lacks columns; the message names found and expected ones.
    """
    rows = list(read_rows(path, lambda title: _column_of(title) is not None))
    if not rows:
        raise DatasetError(f"{path} is empty; expected a header with these columns: {', '.join(COLUMNS)}")
    header = _read_header(rows[0][1], path)
    sexes = _read_sexes({header.cell(cells, "sex").lower() for _, cells in rows[1:]})
    good: list[Row] = []
    refused: list[Dropped] = []
    for number, cells in rows[1:]:
        fault = _find_fault(header, cells)
        if fault is None:
            good.append(_read_row(number, cells, header, sexes))
        else:
            detail = f"row {number} of the table has {fault}"
            refused.append(refuse_row(hash_id("row", str(number)), source, "unreadable row", detail))
    return ReportTable(good, refused, source)


def write_template(path: Path) -> None:
    """Write an empty report table with every column explained and two example rows.

    Raises:
        ConfigError: the file exists; nothing is overwritten.
    """
    if path.exists():
        raise ConfigError(f"{path} exists already; give a new name for the template")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["# Lines that begin with # are passed over. Delete columns that you do not need."])
    writer.writerows([f"# {name}: {meaning}"] for name, meaning in COLUMNS.items())
    writer.writerow(COLUMNS)
    writer.writerows(_EXAMPLES)
    write_whole(path, text.getvalue().encode())


def refuse_repeats(row: Row | Dropped | None, study_id: str, source: str) -> Iterator[Dropped]:
    """Yield a refusal for each row that says of a study what another row said before."""
    if isinstance(row, Row):
        for number in row.repeats:
            yield refuse_row(study_id, source, "duplicate row", f"row {number} says the same as row {row.number}")


def with_leftovers(entries: Iterator[Study | Dropped], reports: ReportTable | None) -> Iterator[Study | Dropped]:
    """Yield what a source found and, once it has asked for all its images, the rows that none of them asked for."""
    yield from entries
    if reports is not None:
        yield from reports.leftovers()


def refuse_row(study_id: str, source: str, reason: RowReason, detail: str) -> Dropped:
    """Make the refusal of a row; whatever study it may name stands or falls for itself."""
    return refuse_study(study_id, source, reason, detail)


def refuse_study(study_id: str, source: str, reason: str, detail: str) -> Dropped:
    """Make the refusal of a study for what the table says of it."""
    return Dropped(study_id=study_id, series_id="", source=source, stage="table", reason=reason, detail=detail)


def _column_of(title: str) -> str | None:
    name = title.strip().lower().replace(" ", "_")
    name = SYNONYMS.get(name, name)
    return name if name in COLUMNS else None


def _read_header(titles: Sequence[str], path: Path) -> Header:
    names = [name for title in titles if (name := _column_of(title)) is not None]
    for name in names:
        if names.count(name) > 1:
            raise DatasetError(f"{path} has two columns for {name!r}; keep one")
    if "report" not in names or not {"path", "study_id"} & set(names):
        found = ", ".join(repr(title.strip()[:40]) for title in titles[:20])
        raise DatasetError(
            f"{path} lacks columns: found {found}; expected 'report' and one of 'path', 'study_id'"
            f" (optional: {', '.join(list(COLUMNS)[3:])}); medfinder curate --template writes an example"
        )
    return Header.read(titles, _column_of)


def _find_fault(header: Header, cells: Cells) -> str | None:
    if header.has_too_many(cells):
        return f"{len(cells)} cells, expected {header.width}; put quotes around the report"
    if not header.cell(cells, "path") and not header.cell(cells, "study_id"):
        return "neither path nor study_id"
    return None


def _read_row(number: int, cells: Cells, header: Header, sexes: Mapping[str, Sex]) -> Row:
    language = header.cell(cells, "language").lower()[:2]
    return Row(
        number=number,
        path=_spell_path(header.cell(cells, "path")),
        study_id=unicodedata.normalize("NFC", header.cell(cells, "study_id")),
        report=header.cell(cells, "report"),
        report_en=header.cell(cells, "report_en") or None,
        language="es" if language == "es" else "en" if language == "en" else None,
        patient_id=header.cell(cells, "patient_id") or None,
        age_years=read_age(header.cell(cells, "age")),
        sex=sexes.get(header.cell(cells, "sex").lower()),
        findings=_read_findings(header.cell(cells, "findings")),
    )


def read_age(text: str) -> int | None:
    """Read an age in whole years; None when it is no age between 0 and 120.

    Understands plain numbers and the DICOM value representation AS (PS3.5, 6.2): ``071Y``, ``018M``, ``003W``.

    Example:
        >>> [read_age(text) for text in ("71", "071Y", "018M", "71.0", "0", "unknown", "999")]
        [71, 71, 1, 71, 0, None, None]
    """
    match = re.fullmatch(r"(\d{1,3})(?:\.0*)?\s*([yYmMwWdD]?)", text.strip())
    if match is None:
        return None
    per_year = {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[match[2].upper()]
    years = int(match[1]) // per_year
    return years if years <= 120 else None


def _read_sexes(values: set[str]) -> Mapping[str, Sex]:
    """Tell what a column's letters mean: beside H or V (hombre, varón) the letter M is mujer."""
    if values & {"h", "v"} and not values & {"f"}:
        return {**_SEXES, "m": "F"}
    return _SEXES


def _read_findings(text: str) -> tuple[Finding, ...]:
    names = (" ".join(name.lower().split()) for name in text.split(";"))
    return tuple(Finding(name) for name in dict.fromkeys(names) if name)


def _spell_path(text: str) -> str:
    spelt = unicodedata.normalize("NFC", text.replace("\\", "/")).strip("/")
    return spelt.removeprefix("./")


def _study_id(row: Row) -> str:
    return hash_id("study", row.study_id or row.path)


def _path_key(path: str) -> str:
    return f"path\0{path}"


def _id_key(study_id: str) -> str:
    return f"id\0{unicodedata.normalize('NFC', study_id)}"


def _key(row: Row) -> str:
    return _path_key(row.path) if row.path else _id_key(row.study_id)
