"""One's own CTs as volume files: a folder of NIfTI, NRRD or MHA, with or without a table of reports.

In: one volume file or a folder (nested as it may be), maybe a report table. Out: one study a file, or one study for
the files that share a ``study_id`` in the table; ids are hashes, file names stay outside. Set aside: files that two
rows contradict, files of one study with two reports or two patients, rows without a file.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medfinder.errors import ConfigError
from medfinder.records import Dropped, Series, Study
from medfinder.sources.files import (
    VOLUME_SUFFIXES,
    fingerprint,
    hash_id,
    is_volume_file,
    name_without_suffix,
    relative_name,
    walk_files,
)
from medfinder.sources.report_table import ReportTable, Row, read_table, refuse_repeats, refuse_study, with_leftovers


def read(path: Path, *, table: Path | None = None) -> Iterator[Study | Dropped]:
    """Yield the studies of a volume file or a folder of them.

    Raises:
        ConfigError: no volume file is there.
        DatasetError: the table cannot be used.
    """
    reports = read_table(table, source="nifti") if table else None
    return with_leftovers(read_studies(path, reports), reports)


def read_studies(path: Path, reports: ReportTable | None) -> Iterator[Study | Dropped]:
    """Yield the studies of volume files with their rows of a table that may speak of other files, too.

    Raises:
        ConfigError: no volume file is there.
    """
    files = [file for file in walk_files(path) if is_volume_file(file)]
    if not files:
        raise ConfigError(f"no volume file in {path}; expected {', '.join(VOLUME_SUFFIXES)}")
    return _studies(path, files, reports)


@dataclass(frozen=True)
class _Named:
    """A volume file, the study that it belongs to and the row that says so."""

    file: Path
    name: str
    study_id: str
    row: Row | Dropped | None


def _studies(root: Path, files: list[Path], reports: ReportTable | None) -> Iterator[Study | Dropped]:
    groups: dict[str, list[_Named]] = {}
    for named in _name(root, files, reports):
        groups.setdefault(named.study_id, []).append(named)
    for study_id, members in groups.items():
        yield _study(study_id, members)
        for member in members:
            yield from refuse_repeats(member.row, study_id, "nifti")


def _name(root: Path, files: list[Path], reports: ReportTable | None) -> Iterator[_Named]:
    # A base name names a file only where no other folder has the same one.
    bases = Counter(relative_name(file, file) for file in files)
    stems = Counter(name_without_suffix(file) for file in files)
    for file in files:
        name, base, stem = relative_name(file, root), relative_name(file, file), name_without_suffix(file)
        row = None
        if reports is not None:
            paths = [name, base] if bases[base] == 1 else [name]
            row = reports.find(paths=paths, ids=[stem] if stems[stem] == 1 else [])
        if isinstance(row, Row) and row.study_id:
            study_id = hash_id("study", row.study_id)
        else:
            # Another hospital's folder may use the same file names: the content's fingerprint keeps the two apart.
            study_id = hash_id("study", name, _fingerprint(file))
        yield _Named(file, name, study_id, row)


def _fingerprint(file: Path) -> str:
    try:
        return fingerprint(file)
    except OSError:
        return ""


def _study(study_id: str, members: list[_Named]) -> Study | Dropped:
    for member in members:
        if isinstance(member.row, Dropped):
            return refuse_study(study_id, "nifti", member.row.reason, member.row.detail)
    rows = [member.row for member in members if isinstance(member.row, Row)]
    if len({row.report for row in rows}) > 1:
        detail = f"the {len(rows)} volumes of this study have different reports in the table; expected one report"
        return refuse_study(study_id, "nifti", "two reports", detail)
    if len({row.patient_id for row in rows}) > 1:
        detail = f"the {len(rows)} volumes of this study belong to different patients by the table; expected one"
        return refuse_study(study_id, "nifti", "two patients", detail)
    row = rows[0] if rows else None
    series = tuple(Series(hash_id("series", member.name)[:8], member.file) for member in members)
    patient = hash_id("patient", row.patient_id if row and row.patient_id else study_id)
    if row is None:
        return Study(study_id, patient, "nifti", series)
    return Study(
        study_id=study_id,
        patient_id=patient,
        source="nifti",
        series=series,
        report=row.report or None,
        report_language=row.language,
        report_en=row.report_en,
        findings=row.findings,
        age_years=row.age_years,
        sex=row.sex,
    )
