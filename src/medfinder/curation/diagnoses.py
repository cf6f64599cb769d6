"""Expert diagnoses: read from a table and written to one, settled where readers differ, laid upon what is known.

In: a CSV or Parquet table with a row for each reader's word on one finding of one case: ``case_id, finding, status,
reader, date``, and, where known, ``report_shown`` and ``settles``; what was said in the review page (``readings``).
Out: ``Diagnosis`` records and, told apart by reason, the rows that cannot count; what the readers
settled on (``settle_diagnoses``); and the findings of a case with that laid upon them (``apply_diagnoses``). How well
readers agree is measured in ``agreement``. Refused: a file that is no table of diagnoses; a row whose case, finding,
status, reader or date is not known is set aside, never guessed.
"""

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from medfinder.curation.dataset import write_table, write_text
from medfinder.curation.keywords import read_label
from medfinder.curation.readings import Reading, open_readings, standing
from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Doubt, Finding, Status
from medfinder.sources.text_table import Header, read_rows

COLUMNS = ("case_id", "finding", "status", "reader", "date", "report_shown", "settles")
_NEEDED = COLUMNS[:4]
_SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
# In the dataset folder, what tables brought; what experts said outlives every run of curation.
STORE = "diagnoses.parquet"
_TITLES = {
    "case_id": ("case", "caseid", "id"),
    "finding": ("diagnosis", "keyword", "label", "hallazgo", "diagnostico"),
    "status": ("value", "present", "estado"),
    "reader": ("annotator", "radiologist", "rater", "lector", "radiologo"),
    "date": ("day", "when", "at", "fecha"),
    "report_shown": ("reportshown",),
    "settles": (),
}
_STATUSES: Mapping[str, Status] = {
    **dict.fromkeys(("present", "yes", "y", "1", "true", "positive", "presente", "si", "sí"), "present"),
    **dict.fromkeys(("absent", "no", "n", "0", "false", "negative", "ausente"), "absent"),
    **dict.fromkeys(("uncertain", "possible", "probable", "?", "-1", "dudoso", "incierto", "posible"), "uncertain"),
}

How = Literal["one reader", "all agree", "majority", "adjudicator", "open"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One reader's word on one finding of one case.

    Attributes:
        finding: canonical keyword.
        reader: who; as the readers of a project call each other, no patient data.
        date: when, ISO 8601; empty when the table does not say.
        report_shown: whether the reader had seen the report; None when the table does not say.
        settles: said to settle a difference, in sight of all readers' words: it decides, and does not count as a vote.
    """

    case_id: str
    finding: str
    status: Status
    reader: str
    date: str = ""
    report_shown: bool | None = None
    settles: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that cannot count, and why.

    Attributes:
        row: its number in the table, the header being 1.
        reason: short stable code, e.g. ``"unknown finding"``.
        detail: one sentence; it names columns and rows, never a reader.
    """

    row: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class DiagnosisTable:
    """What a table holds: every row is in exactly one of the two."""

    diagnoses: tuple[Diagnosis, ...]
    refused: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the readers settled on for one finding of one case.

    Attributes:
        status: None while it is open.
        readers: how many spoke, the adjudicator not counted.
    """

    case_id: str
    finding: str
    status: Status | None
    how: How
    readers: int


# ---------------------------------------------------------------------------------------------------- reading, writing


def read_diagnoses(path: Path, *, case_ids: Collection[str] | None = None) -> DiagnosisTable:
    """Read a table of diagnoses, CSV or Parquet by its ending.

    A reader who says the same twice counts once; who changes the word on another date is taken at the later one; who
    says two things on one date is not counted at all.

    Args:
        case_ids: the cases that there are; None takes any.

    Raises:
        DatasetError: the file is no table of diagnoses.
    """
    rows = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_text(path)
    read: list[tuple[int, Diagnosis]] = []
    refused: list[Refusal] = []
    for number, cells in rows:
        row = _read_row(number, cells, case_ids)
        if isinstance(row, Refusal):
            refused.append(row)
        else:
            read.append((number, row))
    kept, repeated = _drop_repeated(read)
    return DiagnosisTable(kept, tuple(sorted((*refused, *repeated), key=lambda refusal: refusal.row)))


def write_diagnoses(diagnoses: Iterable[Diagnosis], path: Path) -> None:
    """Write diagnoses as CSV or Parquet by the file's ending, whole or not at all; the same rows give the same bytes.

    Raises:
        ConfigError: another ending.
    """
    rows = [_as_row(diagnosis) for diagnosis in sorted(diagnoses, key=_order)]
    if path.suffix.lower() == ".parquet":
        write_table(path, rows, _SCHEMA)
    elif path.suffix.lower() == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
    else:
        raise ConfigError(f"diagnoses are written as .csv or .parquet; {path.name} is neither")


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of the rows of an imported table: each is in exactly one of these.

    Attributes:
        added: words that nobody had said yet.
        changed: later words that took the place of the same reader's earlier ones.
        unchanged: words that were known.
        older: words that were said before those already known, and do not count.
    """

    added: int
    changed: int
    unchanged: int
    older: int
    refused: tuple[Refusal, ...]


def open_store(dataset: Path) -> DiagnosisTable:
    """Read the diagnoses that a dataset folder keeps, imported or said in the review page; none where it has none yet.

    Of a reader's imported word and the one said in the page the later counts. What a reader who finished a case in the
    page did not name there, and another did, is absent.
    """
    imported = read_imported(dataset)
    diagnoses = merge_readings(imported.diagnoses, open_readings(dataset).read())
    return DiagnosisTable(diagnoses, imported.refused)


def read_imported(dataset: Path) -> DiagnosisTable:
    """Read what tables brought into a dataset folder."""
    store = dataset / STORE
    return read_diagnoses(store) if store.exists() else DiagnosisTable((), ())


def merge_readings(imported: Iterable[Diagnosis], readings: Iterable[Reading]) -> tuple[Diagnosis, ...]:
    """Lay what was said in the review page upon what tables brought; see ``open_store``."""
    words = {_word(diagnosis): diagnosis for diagnosis in imported}
    stands = standing(readings)
    for said in map(_diagnosis_of, (reading for reading in stands if reading.act == "say")):
        if said.date >= words.get(_word(said), said).date:
            words[_word(said)] = said
    named: dict[str, set[str]] = {}
    for diagnosis in words.values():
        named.setdefault(diagnosis.case_id, set()).add(diagnosis.finding)
    return deny_unnamed(words.values(), stands, named)


def deny_unnamed(
    diagnoses: Iterable[Diagnosis], readings: Iterable[Reading], named: Mapping[str, Collection[str]]
) -> tuple[Diagnosis, ...]:
    """Add an absent wherever a reader has finished a case and said nothing of a finding.

    Args:
        named: by case, the findings that count as asked for.
    """
    words = tuple(diagnoses)
    known = {_word(diagnosis) for diagnosis in words}
    finished = [reading for reading in standing(readings) if reading.act == "finish"]
    unnamed = (
        Diagnosis(one.case_id, finding, "absent", one.reader, one.at, one.report_shown)
        for one in finished
        for finding in sorted(named.get(one.case_id, ()))
    )
    return (*words, *(diagnosis for diagnosis in unnamed if _word(diagnosis) not in known))


def list_for_agreement(dataset: Path) -> tuple[Diagnosis, ...]:
    """Read the diagnoses of a dataset with every finished case spelled out, for measures of agreement.

    A finding that nobody named in a case is a case on which those who finished it agree: kappa asks for these too. The
    findings are those that anybody named anywhere in the dataset.
    """
    readings, diagnoses = open_readings(dataset).read(), open_store(dataset).diagnoses
    names = {diagnosis.finding for diagnosis in diagnoses}
    return deny_unnamed(diagnoses, readings, {reading.case_id: names for reading in readings})


def _diagnosis_of(said: Reading) -> Diagnosis:
    status = next(status for status in get_args(Status) if status == said.after)
    return Diagnosis(said.case_id, said.finding, status, said.reader, said.at, said.report_shown, said.settles)


def import_diagnoses(table: Path, dataset: Path, *, case_ids: Collection[str]) -> Imported:
    """Lay a table of diagnoses upon those that a dataset folder keeps; a reader's later word on a finding counts.

    Raises:
        DatasetError: the file is no table of diagnoses.
    """
    read = read_diagnoses(table, case_ids=case_ids)
    # What was said in the page is known too, and stays there: only there can it be taken back.
    known = {_word(diagnosis): diagnosis for diagnosis in open_store(dataset).diagnoses}
    kept = {_word(diagnosis): diagnosis for diagnosis in read_imported(dataset).diagnoses}
    counts: Counter[str] = Counter()
    for diagnosis in read.diagnoses:
        before = known.get(_word(diagnosis))
        kind = "added" if before is None else _compare(before, diagnosis)
        counts[kind] += 1
        if kind in ("added", "changed"):
            known[_word(diagnosis)] = kept[_word(diagnosis)] = diagnosis
    write_diagnoses(kept.values(), dataset / STORE)
    return Imported(counts["added"], counts["changed"], counts["unchanged"], counts["older"], read.refused)


def _word(diagnosis: Diagnosis) -> tuple[str, str, str, bool]:
    return (diagnosis.case_id, diagnosis.finding, diagnosis.reader, diagnosis.settles)


def _compare(before: Diagnosis, after: Diagnosis) -> str:
    if before == after:
        return "unchanged"
    return "changed" if after.date >= before.date else "older"


def _order(diagnosis: Diagnosis) -> tuple[str | bool, ...]:
    return (*_word(diagnosis), diagnosis.date, diagnosis.status)


def _as_row(diagnosis: Diagnosis) -> dict[str, str]:
    said = {None: "", True: "yes", False: "no"}
    row = asdict(diagnosis)
    return {**row, "report_shown": said[diagnosis.report_shown], "settles": said[diagnosis.settles or None]}


def _read_text(path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    rows = read_rows(path, lambda title: _column_of(title) is not None)
    _, titles = next(rows, (0, []))
    header = Header.read(titles, _column_of)
    _check_columns(path, header.places)
    for number, cells in rows:
        yield number, {name: header.cell(cells, name) for name in COLUMNS}


def _read_parquet(path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read as Parquet: {type(error).__name__}; expected {_EXPECTED}") from error
    titles = Header.read(table.column_names, _column_of)
    _check_columns(path, titles.places)
    columns = {name: table.column(place).to_pylist() for name, place in titles.places.items()}
    for index in range(table.num_rows):
        yield index + 2, {name: _as_text(columns[name][index]) if name in columns else "" for name in COLUMNS}


_EXPECTED = f"a table with the columns {', '.join(COLUMNS[:5])}"


def _as_text(value: Any) -> str:
    return "" if value is None else value.isoformat() if isinstance(value, date) else str(value).strip()


def _column_of(title: str) -> str | None:
    plain = title.strip().lower().replace(" ", "_")
    names = (name for name, others in _TITLES.items() if plain == name or plain.replace("_", "") in others)
    return next(names, None)


def _check_columns(path: Path, places: Collection[str]) -> None:
    missing = [name for name in _NEEDED if name not in places]
    if missing:
        raise DatasetError(f"{path.name} has no column {', '.join(missing)}; expected {_EXPECTED}")


# ------------------------------------------------------------------------------------------------------- judging rows


def _read_row(number: int, cells: Mapping[str, str], case_ids: Collection[str] | None) -> Diagnosis | Refusal:
    status = _STATUSES.get(cells["status"].lower())
    label = read_label(cells["finding"])
    day = _read_date(cells["date"])
    if not cells["case_id"]:
        return Refusal(number, "no case", "the cell of case_id is empty")
    if case_ids is not None and cells["case_id"] not in case_ids:
        return Refusal(number, "unknown case", "no case of the dataset has this case_id")
    if label is None:
        return Refusal(number, "unknown finding", "no keyword has this name; `medfinder keywords` lists them")
    if status is None:
        return Refusal(number, "unknown status", "expected present, absent or uncertain")
    if not cells["reader"]:
        return Refusal(number, "no reader", "the cell of reader is empty")
    if day is None:
        return Refusal(number, "unknown date", "expected year-month-day, e.g. 2024-05-31")
    shown, settles = _STATUSES.get(cells["report_shown"].lower()), _STATUSES.get(cells["settles"].lower())
    was_shown = None if shown is None else shown == "present"
    return Diagnosis(cells["case_id"], label.name, status, cells["reader"], day, was_shown, settles == "present")


def _read_date(text: str) -> str | None:
    """Bring a date or time into ISO 8601; None when it is neither. 03/04/2024 is not guessed at."""
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return text if "T" in text or " " in text else moment.date().isoformat()


def _drop_repeated(read: Sequence[tuple[int, Diagnosis]]) -> tuple[tuple[Diagnosis, ...], list[Refusal]]:
    """Keep one word of each reader on each finding of each case, and tell what becomes of the others."""
    said: dict[tuple[str, str, str, bool], list[tuple[int, Diagnosis]]] = {}
    for number, diagnosis in read:
        said.setdefault(_word(diagnosis), []).append((number, diagnosis))
    kept: list[Diagnosis] = []
    refused: list[Refusal] = []
    for words in said.values():
        latest = max(diagnosis.date for _, diagnosis in words)
        final = [(number, diagnosis) for number, diagnosis in words if diagnosis.date == latest]
        is_clear = len({diagnosis.status for _, diagnosis in final}) == 1
        if is_clear:
            kept.append(final[0][1])
        for number, diagnosis in words:
            if is_clear and number == final[0][0]:
                continue
            refused.append(_tell_repeated(number, diagnosis, final, is_clear=is_clear))
    return tuple(kept), refused


def _tell_repeated(
    number: int, diagnosis: Diagnosis, final: Sequence[tuple[int, Diagnosis]], *, is_clear: bool
) -> Refusal:
    first, last = final[0]
    if diagnosis.date != last.date:
        return Refusal(number, "superseded", f"row {first} has the same reader's later word")
    if is_clear:
        return Refusal(number, "duplicate", f"row {first} says the same")
    others = ", ".join(str(other) for other, _ in final if other != number)
    return Refusal(number, "contradiction", f"row {others}: the same reader on the same date, another status")


# ----------------------------------------------------------------------------------------- what readers settle on


def settle_diagnoses(diagnoses: Iterable[Diagnosis], *, adjudicator: str | None = None) -> tuple[Settlement, ...]:
    """Settle each finding of each case: what more than half of the readers say, else what the adjudicator says.

    A word that ``settles`` was said in sight of the others and stands above a majority; the latest does where several
    were said.

    Args:
        adjudicator: the reader whose word decides where there is no majority; it does not count towards one.

    Example:
        >>> words = [Diagnosis("a", "mass", "present", "R1"), Diagnosis("a", "mass", "absent", "R2")]
        >>> [(s.status, s.how) for s in settle_diagnoses(words)]
        [(None, 'open')]
        >>> words.append(Diagnosis("a", "mass", "present", "senior"))
        >>> [(s.status, s.how) for s in settle_diagnoses(words, adjudicator="senior")]
        [('present', 'adjudicator')]
    """
    said: dict[tuple[str, str], list[Diagnosis]] = {}
    for diagnosis in diagnoses:
        said.setdefault((diagnosis.case_id, diagnosis.finding), []).append(diagnosis)
    return tuple(_settle(key, words, adjudicator) for key, words in sorted(said.items()))


def _settle(key: tuple[str, str], words: Sequence[Diagnosis], adjudicator: str | None) -> Settlement:
    votes = Counter(word.status for word in words if word.reader != adjudicator and not word.settles)
    total = votes.total()
    status, most = votes.most_common(1)[0] if votes else (None, 0)
    how: How = "one reader" if total == 1 else "all agree" if most == total else "majority"
    decided = max((word for word in words if word.settles), key=lambda word: word.date, default=None)
    if decided is None and 2 * most <= total:
        decided = next((word for word in words if word.reader == adjudicator), None)
        status, how = None, "open"
    if decided is not None:
        status, how = decided.status, "adjudicator"
    return Settlement(*key, status, how, total)


def count_settlements(diagnoses: Iterable[Diagnosis], *, adjudicator: str | None = None) -> dict[str, int]:
    """Count how the findings were settled, in the order of certainty."""
    counts = Counter(settlement.how for settlement in settle_diagnoses(diagnoses, adjudicator=adjudicator))
    return {how: counts[how] for how in get_args(How)}


def apply_diagnoses(
    findings: Sequence[Finding], findings_from: str, settlements: Iterable[Settlement]
) -> tuple[tuple[Finding, ...], str, tuple[Doubt, ...]]:
    """Lay what experts settled on upon the findings of one case.

    An expert's word replaces whatever was said of that finding; side, place and size stay where the status does. What
    no expert spoke of stays as it was. Truth stands above experts: findings of a phantom are handed back untouched.

    Args:
        settlements: those of this case alone.

    Returns:
        The findings; ``"label"`` where an expert's word is among them, else ``findings_from``; a doubt for each finding
        that is open.
    """
    if findings_from == "truth":
        return tuple(findings), findings_from, ()
    settled = list(settlements)
    words = {settlement.finding: settlement.status for settlement in settled if settlement.status is not None}
    kept = [finding for finding in findings if words.get(finding.name, finding.status) == finding.status]
    known = {finding.name for finding in kept}
    added = [Finding(name, status) for name, status in words.items() if name not in known]
    doubts = tuple(_doubt(settlement) for settlement in settled if settlement.status is None)
    return (*kept, *added), "label" if words else findings_from, doubts


def _doubt(settlement: Settlement) -> Doubt:
    detail = f"{settlement.readers} readers differ on {settlement.finding} and nobody has decided"
    return Doubt("diagnosis", "readers differ", detail, holds=False)


def settlements_by_case(settlements: Iterable[Settlement]) -> Mapping[str, tuple[Settlement, ...]]:
    """Group settlements by case, for curation that sees one case at a time."""
    grouped: dict[str, list[Settlement]] = {}
    for settlement in settlements:
        grouped.setdefault(settlement.case_id, []).append(settlement)
    return {case_id: tuple(found) for case_id, found in grouped.items()}
