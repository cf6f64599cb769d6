"""Studies of a release, as ``medfinder release`` writes it: the way back to a dataset.

In: a folder with ``data/*.parquet`` and the volumes that it names. Out: one study for the rows that share a
``study_id``, in the order of the tables; ids stay as they are, for they are hashes or synthetic. Findings come along
where they are truth or an expert's label; what was read from a report is read again. Set aside: a row whose volume lies
outside the folder, rows of one study that contradict each other. Refused: a folder that is no release, a damaged table.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Dropped, Finding, Series, Study

KIND = "medfinder release"
_PROVENANCE = "provenance.json"
_COLUMNS = (
    "study_id",
    "patient_id",
    "case_id",
    "volume",
    "report",
    "report_es",
    "findings",
    "findings_from",
    "age_years",
    "sex",
    "date_offset_days",
    "is_synthetic",
)
# What must be the same in all rows of a study.
_SHARED = ("patient_id", "report", "report_es", "sex")


def is_release(path: Path) -> bool:
    """Tell whether a folder is a release, be it damaged: reading it then says what is the matter."""
    try:
        found = json.loads((path / _PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("kind") == KIND


def read(path: Path, *, table: Path | None = None) -> Iterator[Study | Dropped]:
    """Yield the studies of a release.

    Raises:
        ConfigError: a table is given (a release brings its reports), or the folder is no release.
        DatasetError: a table of the release is damaged or lacks columns.
    """
    if table is not None:
        raise ConfigError(f"a release brings its reports; run again without the table {table}")
    tables = sorted((path / "data").glob("*.parquet"))
    if not is_release(path) or not tables:
        raise ConfigError(f"{path} is no release: expected {_PROVENANCE} and data/*.parquet")
    return _studies(path, tables)


def _studies(root: Path, tables: Sequence[Path]) -> Iterator[Study | Dropped]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for table in tables:
        for row in _rows(table):
            groups.setdefault(row["study_id"], []).append(row)
    for study_id, rows in groups.items():
        yield _study(root, study_id, rows)


def _rows(table: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(table, columns=list(_COLUMNS)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{table} is damaged or of another kind; fetch the release again") from error
    if rows and (lacking := set(_COLUMNS) - rows[0].keys()):
        raise DatasetError(f"{table} lacks the columns {', '.join(sorted(lacking))}; fetch the release again")
    return rows


def _study(root: Path, study_id: str, rows: Sequence[dict[str, Any]]) -> Study | Dropped:
    for name in _SHARED:
        if len({row[name] for row in rows}) > 1:
            detail = f"the {len(rows)} volumes of this study differ in {name}; expected one value"
            return _refuse(study_id, "rows differ", detail)
    if not all(_is_inside(row["volume"]) for row in rows):
        return _refuse(study_id, "path outside", "a volume's path leaves the folder; expected a relative one")
    first = rows[0]
    # Without a Spanish original the report may be in either language: it is guessed again.
    report, report_en = (first["report_es"], first["report"]) if first["report_es"] else (first["report"], None)
    is_known = first["findings_from"] in ("truth", "label")
    return Study(
        study_id=study_id,
        patient_id=first["patient_id"],
        source="release",
        series=tuple(Series(row["case_id"], root / row["volume"]) for row in rows),
        report=report or None,
        report_language="es" if first["report_es"] else None,
        report_en=report_en if report_en != report else None,
        findings=tuple(Finding(**finding) for finding in first["findings"]) if is_known else (),
        age_years=first["age_years"],
        sex=first["sex"],
        date_offset_days=first["date_offset_days"],
        is_synthetic=first["is_synthetic"],
    )


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts


def _refuse(study_id: str, reason: str, detail: str) -> Dropped:
    return Dropped(study_id=study_id, series_id="", source="release", stage="read", reason=reason, detail=detail)
