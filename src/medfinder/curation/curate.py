"""Curate a source: every study becomes cases or refusals, and all of them a dataset folder.

In: a folder of raw studies, settings. Out: the folder that ``medfinder.curation.dataset`` describes. Refused: an output
folder that holds something else, or a dataset of another source or other settings. Killed at any moment and run again,
the stage goes on where it was and ends in the same bytes: each study's outcome is noted in ``.work`` as soon as its
volumes are written, and the tables are made of the notes alone. Where studies came or went since, the dataset is made
again from what is there now.
"""

import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from medfinder.curation import dataset as folder
from medfinder.curation.card import write_card
from medfinder.curation.dataset import Dataset, Figures
from medfinder.curation.notes import Notes
from medfinder.curation.pool import Progress, count_from, curate_all
from medfinder.curation.recipe import is_done, write_recipe
from medfinder.curation.split import split_patients
from medfinder.curation.statistics import describe, describe_records, present_findings
from medfinder.curation.study import CuratedStudy, CurationSettings
from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Case, Dropped, Split, Study
from medfinder.sources import find_reader, find_source
from medfinder.sources.files import relative_name

__all__ = ["CurationSettings", "Summary", "curate"]

# Sources that bring no reports of their own: without a table there is none to require.
_WITHOUT_REPORTS = ("dicom", "nifti")


@dataclass(frozen=True)
class Summary:
    """What a curation came to; plain values, ready for JSON.

    Attributes:
        is_new: False when the folder was already complete and nothing had to be done.
        resumed: studies whose outcome stood from an earlier, interrupted run.
        dropped: studies, series and table rows that were set aside.
        reasons: how many for which reason, most frequent first.
        remarks: sentences the user must see.
    """

    is_new: bool
    resumed: int
    cases: int
    studies: int
    patients: int
    dropped: int
    splits: Mapping[str, int]
    regions: Mapping[str, int]
    reasons: Mapping[str, int]
    remarks: tuple[str, ...] = ()


def curate(
    source: Path,
    out: Path,
    settings: CurationSettings | None = None,
    *,
    source_kind: str = "auto",
    table: Path | None = None,
    links: Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Summary:
    """Turn a source into a dataset folder.

    Args:
        source: folder of studies, or one CT file.
        out: dataset folder; absent, empty, begun by the same call, or made by it of a source that has changed since.
        source_kind: a key of ``medfinder.sources.SOURCES``, or ``"auto"``.
        table: reports, for sources that bring none; see ``medfinder.sources.report_table``.
        links: a CSV to write, outside ``out``, that tells which file stands behind which hashed study id.
        workers: processes side by side; the result is the same for any number.

    Raises:
        ConfigError: the source or output folder cannot be what it is said to be.
        DatasetError: the table cannot be used, or the disk refuses (full, read-only).
    """
    settings = settings or CurationSettings()
    if folder.is_dataset(source):
        raise ConfigError(f"{source} is a dataset already; give the raw examinations that it was made of")
    kind = find_source(source) if source_kind == "auto" else source_kind
    read = find_reader(kind)
    remarks: list[str] = []
    if kind in _WITHOUT_REPORTS and table is None and settings.require_report:
        settings = replace(settings, require_report=False)
        remarks.append("no report table given: studies are kept without a report, to be found by their CT alone")
    _refuse_overlap(source, out, links)
    entries = list(read(source, table=table))
    if links is not None:
        _write_links(links, source, entries)
    recipe = write_recipe(kind, source, table, settings)
    if is_done(out, recipe, {entry.study_id for entry in entries}):
        return _summarise(describe(Dataset.open(out)), False, 0, remarks)
    with _disk_errors_told(out):
        notes = Notes.begin(out, recipe)
        studies, refused = _tell_apart(entries)
        todo = [study for study in studies if not notes.has(study.study_id)]
        curate_all(todo, out, settings, notes, workers, count_from(len(studies) - len(todo), len(studies), progress))
        description = _finish(out, recipe, settings, [notes.read(study.study_id) for study in studies], refused)
    return _summarise(description, True, len(studies) - len(todo), remarks)


def _summarise(description: Mapping[str, Any], is_new: bool, resumed: int, remarks: Sequence[str]) -> Summary:
    return Summary(
        is_new=is_new,
        resumed=resumed,
        splits={name: counts["cases"] for name, counts in description["splits"].items()},
        regions=description["regions"],
        reasons=description["dropped_by_reason"],
        remarks=tuple(remarks),
        **{key: description[key] for key in ("cases", "studies", "patients", "dropped")},
    )


def _refuse_overlap(source: Path, out: Path, links: Path | None) -> None:
    inside, outside = out.resolve(), source.resolve()
    if inside == outside or inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise ConfigError(f"{out} and {source} lie within each other; give an output folder beside the source")
    if links is not None and links.resolve().is_relative_to(inside):
        raise ConfigError(f"{links} lies in the dataset, which must hold no file names; put it elsewhere")


def _tell_apart(entries: Sequence[Study | Dropped]) -> tuple[list[Study], list[Dropped]]:
    """Part studies from refusals; a study id that comes twice is a refusal the second time."""
    studies: dict[str, Study] = {}
    refused: list[Dropped] = []
    for entry in entries:
        if isinstance(entry, Dropped):
            refused.append(entry)
        elif entry.study_id in studies:
            detail = "another study of the source has the same study_id; the first one stands"
            refused.append(Dropped(entry.study_id, "", entry.source, "read", "duplicate study", detail))
        else:
            studies[entry.study_id] = entry
    return list(studies.values()), refused


def _write_links(path: Path, source: Path, entries: Sequence[Study | Dropped]) -> None:
    try:
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["study_id", "series_id", "path"])
            for study in entries:
                if isinstance(study, Study):
                    rows = ((s.series_id, relative_name(s.path, source)) for s in study.series)
                    writer.writerows((study.study_id, *row) for row in rows)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror}") from error


def _finish(
    out: Path,
    recipe: Mapping[str, Any],
    settings: CurationSettings,
    outcomes: Sequence[CuratedStudy],
    refused: Sequence[Dropped],
) -> dict[str, Any]:
    """Settle the splits and write tables, card and, last of all, the provenance that makes the folder a dataset."""
    cases = _settle_splits(outcomes, settings)
    dropped = sorted(
        [*refused, *(row for outcome in outcomes for row in outcome.dropped)],
        key=lambda row: (row.study_id, row.series_id, row.stage, row.reason, row.detail),
    )
    kept = {Path(case.volume).name for case, _ in cases}
    for stray in (out / folder.VOLUMES).iterdir():
        if stray.name not in kept:
            stray.unlink()
    description = describe_records([case for case, _ in cases], dropped)
    libraries = {
        name: metadata.version(name) for name in ("numpy", "scipy", "nibabel", "pydicom", "SimpleITK", "pyarrow")
    }
    counts = {key: description[key] for key in ("cases", "studies", "patients", "synthetic", "dropped")}
    provenance = {**recipe, "libraries": libraries, "counts": counts}
    folder.write_cases(out / folder.CASES, cases)
    folder.write_dropped(out / folder.DROPPED, dropped)
    folder.write_text(out / folder.CARD, write_card(description, provenance))
    folder.write_text(out / folder.PROVENANCE, json.dumps(provenance, indent=2) + "\n")
    shutil.rmtree(out / folder.WORK)
    return description


def _settle_splits(outcomes: Sequence[CuratedStudy], settings: CurationSettings) -> list[tuple[Case, Figures]]:
    curated = [one for outcome in outcomes for one in outcome.cases]
    findings: dict[str, set[str]] = {}
    for one in curated:
        findings.setdefault(one.case.patient_id, set()).update(present_findings(one.case))
    splits: dict[str, Split] = split_patients(findings, settings.shares, seed=settings.seed)
    cases = [(replace(one.case, split=splits[one.case.patient_id]), one.figures) for one in curated]
    return sorted(cases, key=lambda pair: (pair[0].source, pair[0].study_id, pair[0].case_id))


@contextmanager
def _disk_errors_told(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"cannot write to {out}: {error.strerror or error}; what is done is kept: mend it and run the command again"
        ) from error
