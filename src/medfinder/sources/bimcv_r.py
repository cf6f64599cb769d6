"""BIMCV-R as it is released: volumes, and a table that gives each of them a Spanish and an English report.

In: the unpacked folder (``CT*/ct/*.nii.gz`` and ``curated_ct_report_path_En.csv``, or any other nesting), maybe a table
of one's own. Out: one study a session, two volumes of a session being its two series, with both texts, the labels, and
what the file's name and the row each claim to be the patient and session. Rows find volumes by base name, never by
order; no volume is opened. Set aside, each with its reason: rows without a volume, rows that are written twice or
cannot be used, volumes told twice, sessions whose volumes have different reports. Nothing is judged of the texts.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Claim, Dropped, Series, Study
from medfinder.sources.bimcv_tables import (
    BadRow,
    ReportRow,
    is_release_table,
    is_synthetic_tree,
    parse_file_name,
    read_columns,
    read_report_rows,
    sort_rows,
)
from medfinder.sources.files import hash_id, is_volume_file, list_folders, name_without_suffix, walk_files
from medfinder.sources.report_table import refuse_row, refuse_study

SOURCE = "bimcv_r"
_ENDINGS = (".csv", ".tsv", ".txt")
# The release holds its table whole, and again in two halves.
_HALF = re.compile(r"(?:^|[_\W])(?:pos|neg)(?:[_\W]|$)", re.IGNORECASE)


def find_tables(path: Path) -> list[Path]:
    """Find the released tables in a folder or in the folders just below it, by their columns.

    Returns:
        The curated whole table where there is one, else its halves, else whatever other table has the columns; sorted.
    """
    files = (file for folder in (path, *list_folders(path)) for file in _files_of(folder))
    tables = [file for file in files if file.name.lower().endswith(_ENDINGS) and _is_release_table(file)]
    curated = [file for file in tables if file.name.lower().startswith("curated")]
    whole = [file for file in curated if not _HALF.search(file.stem)]
    return whole or curated or tables


def read(path: Path, *, table: Path | None = None) -> Iterator[Study | Dropped]:
    """Yield the sessions of a BIMCV-R folder.

    Args:
        table: the only table to use; without it the folder's own.

    Raises:
        ConfigError: there is no table, or no volume.
        DatasetError: a table cannot be opened, or the given one lacks the columns of the release.
    """
    tables = [table] if table else find_tables(path)
    if not tables:
        raise ConfigError(
            f"no BIMCV-R table in {path}; expected curated_ct_report_path_En.csv (unpack meta_1.zip), or give --table"
        )
    locked: list[Path] = []
    volumes: dict[str, list[Path]] = {}
    for file in walk_files(path, locked=locked):
        if is_volume_file(file):
            volumes.setdefault(_stem(file.name), []).append(file)
    if not volumes:
        raise ConfigError(f"no volume in {path}; expected CT*/ct/*.nii.gz: unpack the CT archives beside the table")
    return _entries(volumes, tables, locked, is_synthetic_tree(path))


def _is_release_table(file: Path) -> bool:
    try:
        return is_release_table(read_columns(file))
    except DatasetError:
        # Any other text that cannot be opened is no concern of ours.
        if file.name.lower().startswith("curated"):
            raise
        return False


def _files_of(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file())
    except OSError:
        return []


def _stem(name: str) -> str:
    return name_without_suffix(Path(name.replace("\\", "/").rsplit("/", 1)[-1])).lower()


def _entries(
    volumes: dict[str, list[Path]], tables: Sequence[Path], locked: Sequence[Path], is_synthetic: bool
) -> Iterator[Study | Dropped]:
    for folder in locked:
        detail = "a folder cannot be opened; mend its permissions: what lies in it is not known"
        yield Dropped(hash_id("folder", folder.name), "", SOURCE, "read", "unreadable folder", detail)
    rows: dict[str, list[ReportRow]] = {}
    for number, path in enumerate(tables):
        for row in read_report_rows(path, number):
            if isinstance(row, BadRow):
                row_id = hash_id("row", str(number), str(row.number))
                yield refuse_row(row_id, SOURCE, "unreadable row", f"row {row.number} of the table has {row.fault}")
            elif stem := next((stem for name in (row.path, row.ct_path) if (stem := _stem(name)) in volumes), ""):
                rows.setdefault(stem, []).append(row)
            else:
                study_id = hash_id("study", row.patient, row.session)
                detail = f"row {row.number} of the table names a volume that is not in the folder"
                yield refuse_row(study_id, SOURCE, "no image", detail)
    groups: dict[tuple[str, str], list[_Volume]] = {}
    for stem in sorted(volumes):
        volume = _Volume(stem, volumes[stem], rows.get(stem, []))
        groups.setdefault(volume.key, []).append(volume)
    for members in groups.values():
        yield from _study(members, is_synthetic)


class _Volume:
    """A base name, the files that have it and the rows that name it."""

    def __init__(self, stem: str, files: Sequence[Path], rows: Sequence[ReportRow]) -> None:
        self.stem, self.files = stem, files
        self.row, self.spare, self.other = sort_rows(rows)
        name = parse_file_name(stem)
        self.patient, self.session, self.part = name or ("", "", "")

    @property
    def key(self) -> tuple[str, str]:
        """Name the study: the session, and the one whose report the row gives where that is another."""
        told = f"{self.row.patient}\0{self.row.session}" if self.row else f"{self.patient}\0{self.session}"
        own = f"{self.patient}\0{self.session}" if self.session else self.stem
        return own, told.upper()

    @property
    def study_id(self) -> str:
        own, told = self.key
        is_own = not self.session or told == own.upper()
        return hash_id("study", *own.split("\0")) if is_own else hash_id("study", *own.split("\0"), told)


def _study(members: list[_Volume], is_synthetic: bool) -> Iterator[Study | Dropped]:
    first, study_id = members[0], members[0].study_id
    for member in members:
        for row in member.spare:
            detail = f"row {row.number} of the table says what another row says already; that one stands"
            yield refuse_row(study_id, SOURCE, "duplicate row", detail)
        if len(member.files) > 1:
            detail = f"{len(member.files)} files have the name of this volume; the first one by path stands"
            yield Dropped(study_id, _series_id(member.stem), SOURCE, "read", "duplicate file", detail)
    told = [row for member in members for row in (member.row, *member.other) if row is not None]
    _, _, other = sort_rows(told)
    if other:
        numbers = ", ".join(str(row.number) for row in told[:5])
        detail = f"rows for the volumes of this session differ (rows {numbers}); expected one report a session"
        yield refuse_study(study_id, SOURCE, "two reports", detail)
        return
    kept = next((member.row for member in members if member.row), None)
    patient = first.patient or (kept.patient if kept else "") or first.stem
    yield Study(
        study_id=study_id,
        patient_id=hash_id("patient", patient),
        source=SOURCE,
        series=tuple(Series(_series_id(member.stem), member.files[0]) for member in members),
        report=(kept.report if kept else None) or None,
        report_language="es",
        report_en=(kept.report_en if kept else None) or None,
        findings=kept.findings if kept else (),
        claims=_claims(first, kept),
        is_synthetic=is_synthetic,
    )


def _series_id(stem: str) -> str:
    return hash_id("series", stem)


def _claims(volume: _Volume, row: ReportRow | None) -> tuple[Claim, ...]:
    told = {"patient": row.patient, "session": row.session} if row else {}
    named = {"patient": volume.patient, "session": volume.session}
    ids = (Claim(what, _hash(what, named[what]), _hash(what, told.get(what, ""))) for what in named if volume.session)
    return (*ids, *((Claim("body part", volume.part, ""),) if volume.part else ()))


def _hash(what: str, name: str) -> str:
    return hash_id(what, name) if name else ""
