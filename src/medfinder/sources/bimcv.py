"""The raw distribution of BIMCV COVID-19+: subjects, sessions, many series each, tables and labels beside them.

In: ``covid19_posi`` or ``covid19_neg`` (or the folder above), maybe a label table of one's own. Out: one study a CT
session with all its CT series, their tags and rescale from the side files, its Spanish report and labels, and what
images, names and tables claim of the same things; ids are hashes. No volume is opened. Set aside, each with its reason:
sessions without a CT, with two reports or that cannot be opened; series of other modalities, misplaced, told twice,
listed but absent; rows that are written twice, cannot be used, or belong to nothing that is there.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import NamedTuple

from medfinder.errors import ConfigError, StudyError
from medfinder.records import Claim, Dropped, Series, Sex, Study, plural
from medfinder.sources.bimcv_tables import (
    BadRow,
    FileName,
    Participant,
    ReportRow,
    SessionRow,
    bare_id,
    is_label_table,
    is_participant_table,
    is_session_table,
    is_synthetic_tree,
    parse_file_name,
    read_columns,
    read_participants,
    read_report_rows,
    read_scans,
    read_sessions,
    sort_rows,
)
from medfinder.sources.files import (
    hash_id,
    is_volume_file,
    list_folders,
    name_without_suffix,
    relative_name,
    walk_files,
)
from medfinder.sources.report_table import RowReason, refuse_row, refuse_study
from medfinder.sources.side_file import SideFile, read_side_file

SOURCE = "bimcv"
MAX_ROWS_TOLD = 100_000
"""Ours: so many rows without an image are set aside one by one (40 MB), those beyond are counted in one."""

_TABLE_ENDINGS = (".tsv", ".txt", ".csv")
_RADIOGRAPH_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
# Last words of file names that tell a modality which is no CT.
_OTHER_MODALITIES = ("cr", "dx", "dr", "rx", "mr", "mri", "us", "pt", "nm", "mg", "xa")


def find_roots(path: Path) -> list[Path]:
    """Find the folders that hold BIMCV subjects (``sub-S#####/ses-E#####``): a folder itself, or some just below it."""
    return [folder for folder in (path, *list_folders(path)) if _holds_subjects(folder)]


def read(path: Path, *, table: Path | None = None) -> Iterator[Study | Dropped]:
    """Yield the CT sessions of a raw BIMCV tree, subject by subject.

    Args:
        table: the only label table to use; without it every table in the folder that has the columns of one.

    Raises:
        ConfigError: no BIMCV subject is there.
        DatasetError: a table cannot be opened, or the given one is no label table.
    """
    if not find_roots(path):
        raise ConfigError(
            f"no raw BIMCV tree in {path}; expected folders like sub-S#####/ses-E##### in it or in covid19_posi"
        )
    tree = _list_tree(path)
    reports = _read_reports([table] if table else tree.labels, tree)
    return _entries(tree, reports)


def _holds_subjects(folder: Path) -> bool:
    try:
        subjects = (child for child in folder.iterdir() if re.fullmatch(r"sub-S\d+", child.name))
        return any(re.fullmatch(r"ses-E\d+", child.name) for subject in subjects for child in subject.iterdir())
    except OSError:
        return False


class _Key(NamedTuple):
    """A session by the bare ids of its subject and its own."""

    subject: str
    session: str

    @property
    def study_id(self) -> str:
        return hash_id("study", *self)


@dataclass
class _Files:
    """The files of one session."""

    volumes: list[Path] = field(default_factory=list)
    scans: list[Path] = field(default_factory=list)
    radiographs: int = 0


@dataclass
class _Tree:
    """Names of all that lies in a tree; nothing but headers of tables was opened for it."""

    root: Path
    is_synthetic: bool
    sessions: dict[_Key, _Files] = field(default_factory=dict)
    session_tables: dict[str, list[Path]] = field(default_factory=dict)
    common_session_tables: list[Path] = field(default_factory=list)
    participants: list[Path] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)
    locked: list[Path] = field(default_factory=list)

    def has_ct(self, key: _Key) -> bool:
        return bool(self.sessions[key].volumes)


def _list_tree(root: Path) -> _Tree:
    tree = _Tree(root, is_synthetic_tree(root))
    for file in walk_files(root, locked=tree.locked):
        subject, session = _find_place(file, root)
        if subject is None:
            _list_common_table(tree, file)
        elif session is None:
            if _is_table(file, "sessions"):
                tree.session_tables.setdefault(subject, []).append(file)
        else:
            _list_file(tree, _Key(subject, session), file)
    return tree


def _find_place(file: Path, root: Path) -> tuple[str | None, str | None]:
    """Tell by the folders of a file to which subject and session it belongs; the innermost ones count."""
    folders = file.relative_to(root.parent).parts[:-1]
    if not any(folder.startswith("sub-") for folder in folders):
        # A link may lead to the middle of the tree from where no folder tells the subject.
        folders = file.resolve().parts[len(root.resolve().parts) - 1 : -1]
    names = {folder[:4]: bare_id(folder) for folder in folders if folder.startswith(("sub-", "ses-"))}
    return names.get("sub-"), names.get("ses-")


def _list_file(tree: _Tree, key: _Key, file: Path) -> None:
    files = tree.sessions.setdefault(key, _Files())
    if is_volume_file(file):
        files.volumes.append(file)
    elif _is_table(file, "scans"):
        files.scans.append(file)
    elif _is_table(file, "sessions"):
        tree.session_tables.setdefault(key.subject, []).append(file)
    elif file.name.lower().endswith(_RADIOGRAPH_ENDINGS):
        files.radiographs += 1


def _list_common_table(tree: _Tree, file: Path) -> None:
    """Sort a table that belongs to no subject by its header: names differ from release to release."""
    if not file.name.lower().endswith(_TABLE_ENDINGS):
        return
    columns = read_columns(file)
    if is_label_table(columns):
        tree.labels.append(file)
    elif is_session_table(columns):
        tree.common_session_tables.append(file)
    elif is_participant_table(columns):
        tree.participants.append(file)


def _is_table(file: Path, what: str) -> bool:
    return what in file.name.lower() and file.name.lower().endswith(_TABLE_ENDINGS)


@dataclass
class _Reports:
    """Rows of the label tables by bare session id, and what had to be set aside."""

    tables: int
    rows: dict[str, list[ReportRow]] = field(default_factory=dict)
    refused: list[Dropped] = field(default_factory=list)
    untold: int = 0

    def place(self, row: ReportRow | BadRow) -> str:
        of_many = f" {row.table + 1} of {self.tables}" if self.tables > 1 else ""
        return f"row {row.number} of label table{of_many}"

    def refuse(self, study_id: str, reason: RowReason, detail: str) -> None:
        if len(self.refused) < MAX_ROWS_TOLD:
            self.refused.append(refuse_row(study_id, SOURCE, reason, detail))
        else:
            self.untold += 1

    def leftovers(self) -> Iterator[Dropped]:
        yield from self.refused
        if self.untold:
            detail = (
                f"{plural(self.untold, 'more row')} of the label tables, unusable or without a session in the folder"
            )
            yield refuse_row(hash_id("rows", "untold"), SOURCE, "no image", detail)


def _read_reports(tables: Sequence[Path], tree: _Tree) -> _Reports:
    """Read the label tables row by row and keep the rows of sessions that are there."""
    reports = _Reports(len(tables))
    present = {key.session for key in tree.sessions}
    for number, path in enumerate(tables):
        for row in read_report_rows(path, number, present):
            if isinstance(row, BadRow):
                detail = f"{reports.place(row)} has {row.fault}"
                reports.refuse(hash_id("row", str(number), str(row.number)), "unreadable row", detail)
            elif row.session in present:
                reports.rows.setdefault(row.session, []).append(row)
            else:
                detail = f"{reports.place(row)} names a session that is not in the folder"
                reports.refuse(_Key(row.patient, row.session).study_id, "no image", detail)
    return reports


def _read_participants(tree: _Tree) -> Iterator[tuple[str, Participant] | Dropped]:
    """Yield the participants that are subjects of the tree, and a refusal for the other rows."""
    subjects = {key.subject for key in tree.sessions}
    for path in tree.participants:
        for number, subject, participant in read_participants(path):
            if subject in subjects:
                yield subject, participant
            elif re.fullmatch(r"[A-Z]+\d+", subject):
                detail = f"row {number} of the table of participants names a subject that is not in the folder"
                yield refuse_row(hash_id("patient", subject), SOURCE, "no image", detail)
            else:
                detail = f"row {number} of the table of participants names no participant; expected one like sub-S#####"
                yield refuse_row(hash_id("row", str(number)), SOURCE, "no participant", detail)


@dataclass
class _Session:
    """One CT session with all that was read of it."""

    key: _Key
    series: list[Series]
    sides: list[SideFile]
    parts: list[str]
    row: SessionRow

    @property
    def day(self) -> date | None:
        return next((side.day for side in self.sides if side.day), self.row.day)


def _entries(tree: _Tree, reports: _Reports) -> Iterator[Study | Dropped]:
    participants: dict[str, Participant] = {}
    for entry in _read_participants(tree):
        if isinstance(entry, Dropped):
            yield entry
        else:
            participants.setdefault(*entry)
    for folder in tree.locked:
        yield _refuse_locked(folder, tree.root)
    present = {key.session for key in tree.sessions}
    days = {name: row for path in tree.common_session_tables for name, row in read_sessions(path, present).items()}
    by_subject: dict[str, list[_Key]] = {}
    for key in tree.sessions:
        by_subject.setdefault(key.subject, []).append(key)
    for subject, keys in by_subject.items():
        yield from _subject(tree, sorted(keys), reports, participants.get(subject), days)
    yield from reports.leftovers()


def _refuse_locked(folder: Path, root: Path) -> Dropped:
    names = [bare_id(part) for part in folder.parts if part.startswith(("sub-", "ses-"))]
    study_id = _Key(*names).study_id if len(names) == 2 else hash_id("folder", relative_name(folder, root))
    detail = "a folder of the tree cannot be opened; mend its permissions: what lies in it is not known"
    return Dropped(study_id, "", SOURCE, "read", "unreadable folder", detail)


def _subject(
    tree: _Tree,
    keys: Sequence[_Key],
    reports: _Reports,
    participant: Participant | None,
    common: dict[str, SessionRow],
) -> Iterator[Study | Dropped]:
    """Yield the sessions of one subject; days count from the first of its CTs."""
    own = {key.session for key in keys}
    told: dict[str, SessionRow] = {}
    for path in tree.session_tables.get(keys[0].subject, []):
        told |= read_sessions(path, own)
    sessions = []
    for key in keys:
        row = told.get(key.session) or common.get(key.session, SessionRow(None, ()))
        session = _Session(key, [], [], [], row)
        yield from _read_series(tree.sessions[key], session)
        if session.series:
            sessions.append(session)
        elif not tree.has_ct(key):
            detail = f"{plural(tree.sessions[key].radiographs, 'radiograph')} and no CT volume"
            yield Dropped(key.study_id, "", SOURCE, "read", "no CT", detail)
    first = min((session.day for session in sessions if session.day), default=None)
    for session in sessions:
        yield from _study(session, reports, participant, first, tree.is_synthetic)


def _read_series(files: _Files, session: _Session) -> Iterator[Dropped]:
    """Fill in the CT series of a session, and yield a refusal for each volume that is none."""
    seen: set[str] = set()
    for path in files.volumes:
        stem = name_without_suffix(path)
        was_seen = stem in seen
        seen.add(stem)
        try:
            side = read_side_file(path.with_name(f"{stem}.json"))
        except StudyError as error:
            yield _refuse_series(session.key, stem, "unreadable side file", str(error))
            continue
        name = parse_file_name(stem)
        fault = _find_fault(stem, name, side, session.key, was_seen=was_seen)
        if fault is not None:
            yield _refuse_series(session.key, stem, *fault)
            continue
        session.series.append(Series(_series_id(stem), path, tags=side.tags, rescale=side.rescale))
        session.sides.append(side)
        session.parts.append(name.part if name else "")
    for listed in (listed for table in files.scans for listed in read_scans(table)):
        stem = name_without_suffix(Path(listed))
        if is_volume_file(Path(listed)) and stem not in seen:
            detail = "the session's table of scans lists this volume, but it is not in the folder; copy it again"
            yield _refuse_series(session.key, stem, "absent", detail)


def _series_id(stem: str) -> str:
    return hash_id("series", stem)


def _refuse_series(key: _Key, stem: str, reason: str, detail: str) -> Dropped:
    return Dropped(key.study_id, _series_id(stem), SOURCE, "read", reason, detail)


def _find_fault(
    stem: str, name: FileName | None, side: SideFile, key: _Key, *, was_seen: bool
) -> tuple[str, str] | None:
    """Tell why a volume is no CT series of its session; None when it is one."""
    if was_seen:
        return "duplicate file", "the session holds this volume twice; the first one stands"
    if name and (name.patient, name.session) != key:
        return "misplaced", "the file's name tells another session than its folder; move it where it belongs"
    word = stem.rsplit("_", 1)[-1].lower()
    modality = side.tags.modality or (word.upper() if word in _OTHER_MODALITIES else "CT")
    return None if modality == "CT" else ("not CT", f"modality {modality[:16]}, expected CT")


def _study(
    session: _Session,
    reports: _Reports,
    participant: Participant | None,
    first: date | None,
    is_synthetic: bool,
) -> Iterator[Study | Dropped]:
    study_id = session.key.study_id
    kept, spare, other = sort_rows(reports.rows.get(session.key.session, []))
    texts = (kept.report,) if kept and kept.report else session.row.texts
    if other or len(texts) > 1:
        places = ", ".join(reports.place(row) for row in (kept, *other)[:5] if row)
        where = places if other else f"{len(texts)} texts in the table of sessions"
        yield refuse_study(
            study_id, SOURCE, "two reports", f"reports for this session differ ({where}); keep one of them"
        )
        return
    for row in spare:
        detail = f"{reports.place(row)} says what another row says already; that one stands"
        yield refuse_row(study_id, SOURCE, "duplicate row", detail)
    yield Study(
        study_id=study_id,
        patient_id=hash_id("patient", session.key.subject),
        source=SOURCE,
        series=tuple(session.series),
        report=next(iter(texts), None),
        report_language="es",
        findings=kept.findings if kept else (),
        age_years=_choose_age(session, participant),
        sex=_choose_sex(session, participant),
        date_offset_days=(session.day - first).days if session.day and first else None,
        claims=_claims(session, kept, participant, first),
        is_synthetic=is_synthetic,
    )


def _choose_age(session: _Session, participant: Participant | None) -> int | None:
    """Take the age that the images tell, else that of the table where it tells one only."""
    told = participant.ages if participant and len(participant.ages) == 1 else ()
    return next((side.age_years for side in session.sides if side.age_years is not None), next(iter(told), None))


def _choose_sex(session: _Session, participant: Participant | None) -> Sex | None:
    """Take the sex that all images tell, else that of the table."""
    sexes = {side.sex for side in session.sides if side.sex is not None}
    return sexes.pop() if len(sexes) == 1 else participant.sex if participant else None


def _claims(
    session: _Session, row: ReportRow | None, participant: Participant | None, first: date | None
) -> tuple[Claim, ...]:
    """Put side by side what images and tables say: ids as hashes, days since the patient's first CT."""
    subject, name = session.key
    ages = sorted({side.age_years for side in session.sides if side.age_years is not None})
    told = participant.ages if participant else ()
    nearest = min(told, key=lambda age: abs(age - ages[0]), default=None) if ages else None
    parts = _join(side.tags.body_part_examined.lower() for side in session.sides)
    days = [None if day is None or first is None else (day - first).days for day in (session.day, session.row.day)]
    claims = (
        Claim("patient", hash_id("patient", subject), hash_id("patient", row.patient) if row and row.patient else ""),
        Claim("session", hash_id("session", name), hash_id("session", row.session) if row else ""),
        Claim("date", _spell(days[0]), _spell(days[1])),
        Claim("body part", parts, _join(session.parts)),
        Claim("sex", _join(side.sex or "" for side in session.sides), (participant and participant.sex) or ""),
        Claim("age", _join(str(age) for age in ages), _spell(nearest)),
    )
    return tuple(claim for claim in claims if claim.image)


def _join(words: Iterator[str] | Sequence[str]) -> str:
    return "/".join(sorted({word for word in words if word}))


def _spell(number: int | None) -> str:
    return "" if number is None else str(number)
