"""A table of reports, translated and audited row by row.

In: a CSV or TSV file with a report column, Spanish or mixed, perhaps with an English column beside it. Out: the same
rows with the English text, what made it, why it is missing, and the audit's doubts; or the doubts alone. Rows whose
report is English, or that have an English text already, are not sent anywhere. Refused: a table without reports, and
an output that is the input.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medfinder.curation.report import guess_language, tidy
from medfinder.curation.translate.run import Estimate, Progress, estimate, translate_all
from medfinder.curation.translate.settings import Translation, TranslationSettings, digest_text
from medfinder.curation.translation_audit import audit_translation
from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Doubt
from medfinder.sources.files import write_whole
from medfinder.sources.text_table import Header, read_rows

_ADDED = ("report_en", "translation_engine", "translation_fault", "translation_doubts")
_NAMES = {
    "report": "report",
    "informe": "report",
    "text": "report",
    "report_es": "report",
    "spanish": "report",
    "report_en": "report_en",
    "english": "report_en",
    "language": "language",
    "lang": "language",
}


@dataclass(frozen=True)
class TableAudit:
    """What the audit says of a table.

    Attributes:
        rows: with a Spanish report and an English text.
        held: numbers of the rows in the file with their doubts; the header is row 1.
        untranslated: rows with a Spanish report and no English text.
    """

    rows: int
    untranslated: int
    held: Mapping[int, tuple[Doubt, ...]] = field(default_factory=dict)

    @property
    def reasons(self) -> Mapping[str, int]:
        """Count the rows held by each reason, most frequent first."""
        counts = Counter(doubt.reason for doubts in self.held.values() for doubt in doubts)
        return dict(counts.most_common())


@dataclass(frozen=True)
class _Row:
    number: int
    cells: tuple[str, ...]
    spanish: str
    english: str


@dataclass(frozen=True)
class _Table:
    titles: tuple[str, ...]
    english_place: int | None
    rows: tuple[_Row, ...]

    def texts(self) -> dict[str, str]:
        """Collect what is to be translated, each text once."""
        return {digest_text(row.spanish): row.spanish for row in self.rows if row.spanish and not row.english}


def translate_table(
    table: Path,
    out: Path,
    settings: TranslationSettings,
    cache: Path,
    progress: Progress | None = None,
    *,
    are_deidentified: bool = False,
) -> tuple[Mapping[str, Translation], TableAudit]:
    """Translate the Spanish reports of a table and write it anew, audited.

    Raises:
        ConfigError: ``out`` is ``table`` or the cache, or the settings cannot be honoured.
        DatasetError: the table has no reports.
    """
    if out.resolve() in (table.resolve(), cache.resolve()):
        raise ConfigError(f"{out} would overwrite what is read; give another name for the output")
    read = _read(table)
    made = translate_all(read.texts(), settings, cache, progress, are_deidentified=are_deidentified)
    held: dict[int, tuple[Doubt, ...]] = {}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([title for place, title in enumerate(read.titles) if place != read.english_place] + [*_ADDED])
    for row in read.rows:
        translation = made.get(digest_text(row.spanish)) if row.spanish and not row.english else None
        english = translation.english if translation else row.english
        doubts = audit_translation(row.spanish, english) if row.spanish and english else ()
        if doubts:
            held[row.number] = doubts
        kept = [cell for place, cell in enumerate(row.cells) if place != read.english_place]
        told = (translation.engine, translation.fault) if translation else ("", "")
        writer.writerow([*kept, english, *told, "; ".join(doubt.reason for doubt in doubts)])
    write_whole(out, text.getvalue().encode())
    return made, _count(read, made, held)


def estimate_table(table: Path, settings: TranslationSettings, cache: Path) -> Estimate:
    """Tell what ``translate_table`` would do and cost; nothing is sent, nothing is written."""
    return estimate(_read(table).texts(), settings, cache)


def audit_table(table: Path, progress: Progress | None = None) -> TableAudit:
    """Audit the translations that stand in a table."""
    read = _read(table)
    if read.english_place is None:
        raise DatasetError(f"{table} has no column report_en (or english); there is no translation to audit")
    held = {}
    for done, row in enumerate(read.rows, start=1):
        if row.spanish and row.english and (doubts := audit_translation(row.spanish, row.english)):
            held[row.number] = doubts
        if progress is not None:
            progress(done, len(read.rows))
    return _count(read, {}, held)


def _count(read: _Table, made: Mapping[str, Translation], held: Mapping[int, tuple[Doubt, ...]]) -> TableAudit:
    spanish = [row for row in read.rows if row.spanish]
    missing = [row for row in spanish if not row.english and not _english_of(row, made)]
    return TableAudit(len(spanish) - len(missing), len(missing), held)


def _english_of(row: _Row, made: Mapping[str, Translation]) -> str:
    translation = made.get(digest_text(row.spanish))
    return translation.english if translation else ""


def _read(table: Path) -> _Table:
    numbered = list(read_rows(table, lambda title: _name_of(title) is not None))
    if not numbered:
        raise DatasetError(f"{table} is empty; expected a header with a column report")
    titles = tuple(numbered[0][1])
    header = Header.read(titles, _name_of)
    if "report" not in header.places:
        found = ", ".join(repr(title.strip()[:40]) for title in titles[:20])
        raise DatasetError(f"{table} lacks a column: found {found}; expected 'report' (or 'informe', 'report_es')")
    rows = tuple(_read_row(number, cells, header) for number, cells in numbered[1:])
    return _Table(titles, header.places.get("report_en"), rows)


def _read_row(number: int, cells: Sequence[str], header: Header) -> _Row:
    report = tidy(header.cell(cells, "report"))
    # One Spanish word more: a report of three words, none of them telling, is Spanish here.
    language = header.cell(cells, "language").lower()[:2] or guess_language(f"{report} el")
    padded = (*cells, *[""] * (header.width - len(cells)))[: header.width]
    return _Row(number, padded, report if language == "es" else "", tidy(header.cell(cells, "report_en")))


def _name_of(title: str) -> str | None:
    name = title.strip().lower().replace(" ", "_")
    return None if name in _ADDED[1:] else _NAMES.get(name)
