"""The pairing audit of a table alone, where no images are at hand: the names of the files say whose images they are.

In: tables with a header, as BIMCV-R releases them or as one writes one's own: a path with ``sub-`` and ``ses-`` in it,
the patient and session that the row names, a report. Out: a ``PairingAudit`` of rows, called by their numbers; no text,
no id. A table without a path cannot be mispaired by name: its texts are audited still. Refused: a file that is no
table, or a table that has neither a path nor a report.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from medfinder.curation.contradictions import find_contradictions
from medfinder.curation.pairing import (
    Audited,
    PairingAudit,
    PairingSettings,
    PairingVerdict,
    Progress,
    add_doubt,
    audit_claims,
    audit_studies,
    doubt_shared_texts,
    read_sex,
    sum_up,
)
from medfinder.curation.shared_texts import Told
from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Claim, Doubt
from medfinder.sources import find_reader, find_source
from medfinder.sources.bimcv_tables import bare_id
from medfinder.sources.files import hash_id
from medfinder.sources.report_table import read_age
from medfinder.sources.text_table import Header, read_rows

_TABLES = (".csv", ".tsv", ".txt")
# title, lower case, without blanks and underscores -> what stands in the column
_COLUMNS = {
    **dict.fromkeys(("patientid", "participant", "participantid", "patient", "subject", "subjectid"), "patient"),
    **dict.fromkeys(("reportid", "sessionid", "session"), "session"),
    **dict.fromkeys(("path", "file", "filename", "filepath", "image", "volume"), "path"),
    "ctpath": "ct_path",
    **dict.fromkeys(("report", "informe", "text", "reportes"), "report"),
    **dict.fromkeys(("reporten", "englishreport"), "report_en"),
    **dict.fromkeys(("sex", "gender"), "sex"),
    **dict.fromkeys(("age", "ageyears"), "age"),
    **dict.fromkeys(("studydate", "acquisitiondate"), "study_date"),
    **dict.fromkeys(("reportdate", "datereport"), "report_date"),
}
_SUBJECT, _SESSION = re.compile(r"sub-([A-Za-z0-9]+)"), re.compile(r"ses-([A-Za-z0-9]+)")
# Folders that say nothing of a half: those of one subject, and those that only tell what lies in them.
_PLAIN_FOLDER = re.compile(r"(?:sub|ses)-.*|mod-\w+|ct|\.|/")


def audit(
    paths: Sequence[Path],
    settings: PairingSettings | None = None,
    *,
    table: Path | None = None,
    with_texts: bool = True,
    progress: Progress | None = None,
) -> PairingAudit:
    """Audit tables, or the one source of studies that is named instead of them.

    Args:
        table: reports of a source that brings none.

    Raises:
        ConfigError: several paths, and not all of them tables; a table that belongs to no source.
        DatasetError: a file is no table.
    """
    if all(path.is_file() and path.suffix.lower() in _TABLES for path in paths):
        if table is not None:
            raise ConfigError(f"{table} belongs to a source of images; give tables, or a folder with --table")
        return audit_table(paths, settings, with_texts=with_texts, progress=progress)
    if len(paths) > 1:
        raise ConfigError(
            f"{len(paths)} paths that are not all tables; expected tables ({', '.join(_TABLES)}) or one folder"
        )
    entries = find_reader(find_source(paths[0]))(paths[0], table=table)
    return audit_studies(entries, settings, with_texts=with_texts, progress=progress)


def audit_table(
    paths: Sequence[Path],
    settings: PairingSettings | None = None,
    *,
    with_texts: bool = True,
    progress: Progress | None = None,
) -> PairingAudit:
    """Audit one table, or several that belong together.

    Args:
        with_texts: read the reports, too; without them a table of millions of rows takes minutes, not hours.
        progress: told (rows audited, rows read so far).

    Raises:
        DatasetError: a file is no table, or has neither a path nor a report.
    """
    settings = settings or PairingSettings()
    audited: list[Audited] = []
    seen = _Seen()
    for path in paths:
        for row in _read(path, is_alone=len(paths) == 1):
            audited.append(Audited(row.name, row.part, _audit_row(row, seen, settings, with_texts=with_texts)))
            if progress is not None and len(audited) % 100 == 0:
                progress(len(audited), len(audited))
    if progress is not None:
        progress(len(audited), len(audited))
    shared = doubt_shared_texts(seen.told, settings)
    audited = [replace(one, verdict=add_doubt(one.verdict, shared.get(one.name))) for one in audited]
    audit = sum_up(audited, unit="rows", settings=settings)
    return replace(audit, remarks=tuple(_tell_what_can_be_mended(audit, seen)))


@dataclass(frozen=True, slots=True)
class _Row:
    """One row: whose images and whose report it says it is; ids are hashed."""

    name: str
    part: str
    claims: tuple[Claim, ...]
    text: str
    sex: str
    age: str

    def id_of(self, what: str, side: str) -> str:
        return next((str(getattr(claim, side)) for claim in self.claims if claim.what == what), "")


@dataclass(slots=True)
class _Seen:
    """What must be remembered of a table's rows to compare them with one another."""

    told: list[Told] = field(default_factory=list)
    texts: dict[str, set[bytes]] = field(default_factory=dict)
    reported: set[str] = field(default_factory=set)
    looked_for: list[str] = field(default_factory=list)

    def add_text(self, row: _Row) -> Doubt | None:
        """Note a text; volumes of one session share theirs, and a session with two is in doubt."""
        whose = row.id_of("session", "image") or row.id_of("session", "report") or row.name
        known = self.texts.setdefault(whose, set())
        digest = hashlib.sha256(" ".join(row.text.lower().split()).encode("utf-8", "surrogateescape")).digest()[:16]
        if digest in known:
            return None
        known.add(digest)
        self.told.append(Told(row.name, row.id_of("patient", "report") or row.id_of("patient", "image"), row.text))
        if len(known) == 1:
            return None
        return Doubt("pairing", "two reports", f"{len(known)} different texts for one session, expected one", True)


def _read(path: Path, *, is_alone: bool) -> Iterator[_Row]:
    rows = read_rows(path, lambda title: _column_of(title) is not None)
    _, titles = next(rows, (0, []))
    header = Header.read(titles, _column_of)
    if not {"path", "ct_path", "report", "report_en"} & header.places.keys():
        found = ", ".join(repr(title.strip()[:40]) for title in titles[:20]) or "nothing"
        raise DatasetError(f"{path} cannot be audited: found columns {found}; expected a path or a report among them")
    for number, cells in rows:
        cell = {name: header.cell(cells, name) for name in header.places}
        image = cell.get("path") or cell.get("ct_path") or ""
        half = _find_half(cell.get("ct_path") or image)
        name = f"row {number}" if is_alone else f"{path.name} row {number}"
        part = f"{path.name}: {half}" if half else path.name
        text = cell.get("report") or cell.get("report_en") or ""
        yield _Row(name, part, tuple(_claims(image, cell)), text, cell.get("sex", ""), cell.get("age", ""))


def _column_of(title: str) -> str | None:
    return _COLUMNS.get(re.sub(r"[\s_]", "", title).lower())


def _claims(image: str, cell: dict[str, str]) -> Iterator[Claim]:
    for what, pattern in (("patient", _SUBJECT), ("session", _SESSION)):
        # The file's own name counts: folders may have been moved about.
        found = pattern.findall(image.replace("\\", "/"))
        yield Claim(what, _hash(what, found[-1] if found else ""), _hash(what, bare_id(cell.get(what, ""))))
    yield Claim("date", cell.get("study_date", ""), cell.get("report_date", ""))


def _hash(what: str, name: str) -> str:
    return hash_id(what, name.lower()) if name else ""


def _find_half(path: str) -> str:
    """Name the folder that parts a table into halves, e.g. ``covid19_neg``; empty where there is none."""
    folders = PurePosixPath(path.replace("\\", "/")).parent.parts
    return next((name for name in reversed(folders) if not _PLAIN_FOLDER.fullmatch(name.lower())), "")


def _audit_row(row: _Row, seen: _Seen, settings: PairingSettings, *, with_texts: bool) -> PairingVerdict:
    verdict = audit_claims(row.claims, settings)
    seen.reported.add(row.id_of("session", "report"))
    if verdict.fault is not None:
        seen.looked_for.append(row.id_of("session", "image"))
    if not with_texts or not row.text:
        return verdict
    told = find_contradictions(row.text, sex=read_sex(row.sex), age_years=read_age(row.age))
    return add_doubt(replace(verdict, doubts=(*verdict.doubts, *told)), seen.add_text(row))


def _tell_what_can_be_mended(audit: PairingAudit, seen: _Seen) -> Iterable[str]:
    found = sum(session in seen.reported for session in seen.looked_for if session)
    if found:
        yield (
            f"for {found:,} of the {len(audit.mispaired):,} mispaired rows another row names their images' session: "
            "the table was put together in the wrong order, and their own report can be found by it"
        )
