"""Curate a source: every study becomes cases or refusals, and all of them a dataset folder.

In: a folder of raw studies (or a DICOMweb server), settings, what readers decided. Out: the folder that
``medfinder.curation.dataset`` describes. Refused: an output folder that holds something else, or a dataset of another
source or other settings; real examinations without a key for their ids. Killed at any moment and run again, the stage
goes on where it was and ends in the same bytes: each study's outcome is noted in ``.work`` as soon as its volumes are
written, and the tables are made of the notes alone. Where studies came or went since, the dataset is made again from
what is there now; where only decisions were made, its tables are.
"""

import csv
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from medfinder.curation import dataset as folder
from medfinder.curation.card import write_card
from medfinder.curation.dataset import Dataset, Figures, SeriesRow
from medfinder.curation.deidentify.keys import Key, rekey, rekey_dropped
from medfinder.curation.diagnoses import STORE, apply_diagnoses, open_store, settle_diagnoses, settlements_by_case
from medfinder.curation.notes import Notes
from medfinder.curation.pairing import doubt_shared_texts
from medfinder.curation.pool import Progress, clear_cache, count_from, curate_all
from medfinder.curation.readings import READINGS
from medfinder.curation.recipe import is_done, write_recipe
from medfinder.curation.report import choose_text
from medfinder.curation.review import DECISIONS, read_decisions, settle
from medfinder.curation.same_voxels import doubt_same_voxels, join_patients
from medfinder.curation.shared_texts import Told
from medfinder.curation.split import split_patients
from medfinder.curation.statistics import describe, describe_folder, present_findings
from medfinder.curation.study import CuratedStudy, CurationSettings, Job, clean_study
from medfinder.curation.translate import digest_text, translate_all
from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Case, Dropped, Split, Study, plural
from medfinder.sources import find_reader, find_source, pacs
from medfinder.sources.files import relative_name

__all__ = ["CurationSettings", "Summary", "curate"]

# Sources that bring no reports of their own: without a table there is none to require.
_WITHOUT_REPORTS = ("dicom", "nifti", "mixed", "pacs")

# Kept when a dataset is made again, since they cost money or somebody's time: translations, decisions.
TRANSLATIONS = "translations.jsonl"

# Ours: from a tenth of the studies on, a limit decides what the dataset is, and the user has to know it.
_MANY = 0.1

_Row = tuple[Case, Figures]


@dataclass(frozen=True)
class Summary:
    """What a curation came to; plain values, ready for JSON.

    Attributes:
        is_new: False when the folder was already complete and nothing had to be done.
        resumed: studies whose outcome stood from an earlier, interrupted run.
        held: cases that are kept out until a person has decided.
        dropped: studies, series and table rows that were set aside.
        mispaired: studies whose report belongs to other images.
        reasons: how many for which reason, most frequent first.
        flow: where every study ended, as ``medfinder.curation.statistics.describe`` tells it.
        remarks: sentences the user must see.
    """

    is_new: bool
    resumed: int
    cases: int
    studies: int
    patients: int
    held: int
    dropped: int
    mispaired: int
    splits: Mapping[str, int]
    regions: Mapping[str, int]
    reasons: Mapping[str, int]
    flow: Mapping[str, Any]
    remarks: tuple[str, ...] = ()


def curate(
    source: Path,
    out: Path,
    settings: CurationSettings | None = None,
    *,
    source_kind: str = "auto",
    table: Path | None = None,
    links: Path | None = None,
    key: Path | None = None,
    workers: int = 1,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Turn a source into a dataset folder.

    Args:
        source: folder of studies, one CT file, or what ``medfinder.sources.pacs`` reads.
        out: dataset folder; absent, empty, begun by the same call, or made by it of a source that has changed since.
        source_kind: a key of ``medfinder.sources.SOURCES``, or ``"auto"``.
        table: reports, for sources that bring none; see ``medfinder.sources.report_table``.
        links: a CSV to write, outside ``out``, that tells which file stands behind which hashed study id.
        key: file of the key that turns ids into pseudonyms; it must lie outside ``out``. Phantoms need none.
        workers: processes side by side; the result is the same for any number.
        cluster: address of a Ray cluster to work on instead; every machine must see ``source`` and ``out``.
        progress: told (studies done, all); before that, where an engine translates, (texts done, all).

    Raises:
        ConfigError: the source or output folder cannot be what it is said to be, or a key is missing.
        DatasetError: the table cannot be used, or the disk refuses (full, read-only).
    """
    settings = settings or CurationSettings()
    if folder.is_dataset(source):
        raise ConfigError(f"{source} is a dataset already; give the raw examinations that it was made of")
    kind = find_source(source) if source_kind == "auto" else source_kind
    server = pacs.read_settings(source) if kind == "pacs" else None
    remarks: list[str] = []
    if kind in _WITHOUT_REPORTS and table is None and settings.require_report:
        settings = replace(settings, require_report=False)
        remarks.append("no report table given: studies are kept without a report, to be found by their CT alone")
    _refuse_overlap(source, out, links, key)
    # What a server holds is listed by its headers; voxels are fetched study by study, while they are curated.
    found = pacs.list_studies(server, table=table) if server else find_reader(kind)(source, table=table)
    entries = _pseudonymise(list(found), settings, key)
    if links is not None:
        _write_links(links, source, entries)
    ids = {entry.study_id for entry in entries}
    limit = _tell_limit(entries, settings)
    recipe = write_recipe(kind, source, table, settings, study_ids=ids, key=key)
    with folder.disk_errors_told(out):
        if is_done(out, recipe, ids):
            _clear_cache(entries, server)
            description, is_new = _take_up_decisions(out)
            return _summarise(description, is_new, 0, [*remarks, *_tell_small(description, limit)])
        notes = Notes.begin(out, recipe)
        studies, refused = _tell_apart(entries)
        # From here on outcomes take the place of studies, in memory too.
        del entries
        resumed = _curate_studies(studies, out, settings, notes, server, workers, cluster, progress)
        outcomes = [notes.read(studies.pop()) for _ in range(len(studies))][::-1]
        description = _finish(out, recipe, settings, outcomes, refused)
    return _summarise(description, True, resumed, [*remarks, *_tell_small(description, limit)])


def _curate_studies(
    studies: Sequence[Study],
    out: Path,
    settings: CurationSettings,
    notes: Notes,
    server: pacs.PacsSettings | None,
    workers: int,
    cluster: str | None,
    progress: Progress | None,
) -> int:
    """Note an outcome for every study, and say for how many there was one already."""
    done = [study for study in studies if notes.has(study)]
    _clear_cache(done, server)
    known = {study.study_id for study in done}
    todo = [study for study in studies if study.study_id not in known]
    jobs = [replace(job, server=server) for job in _translate(todo, settings, out, progress)]
    tell = count_from(len(done), len(studies), progress)
    if cluster is None:
        curate_all(jobs, out, settings, notes, workers, tell)
    else:
        from medfinder.curation.cluster import curate_on_ray

        curate_on_ray(jobs, out, settings, notes, cluster, tell)
    return len(done)


def _clear_cache(entries: Sequence[Study | Dropped], server: pacs.PacsSettings | None) -> None:
    """Forget what a run that was killed had fetched and curated, and not yet forgotten."""
    for entry in entries:
        if isinstance(entry, Study):
            clear_cache(Job(entry, server=server))


def _pseudonymise(
    entries: Sequence[Study | Dropped], settings: CurationSettings, key: Path | None
) -> list[Study | Dropped]:
    """Turn the ids of real patients into keyed pseudonyms; phantoms keep theirs."""
    is_real = any(isinstance(entry, Study) and not entry.is_synthetic for entry in entries)
    if not settings.deidentify or not is_real:
        return list(entries)
    if key is None:
        raise ConfigError(
            "ids of patients and studies become pseudonyms by a secret key, and none is given: pass --key-file FILE "
            "(with --make-key the first time), or --no-deidentify to keep texts as they are and ids as plain hashes"
        )
    secret = Key.read(key)
    return [rekey(one, secret) if isinstance(one, Study) else rekey_dropped(one, secret) for one in entries]


def _translate(studies: Sequence[Study], settings: CurationSettings, out: Path, progress: Progress | None) -> list[Job]:
    """Have Spanish reports translated that bring no English; each text goes out de-identified, once."""
    if settings.translation.engine == "none":
        return [Job(study) for study in studies]
    spanish: dict[str, str] = {}
    for study in studies:
        clean, _ = clean_study(study, settings)
        text = choose_text(clean)
        if text.spanish and not clean.report_en:
            spanish[study.study_id] = text.spanish
    done = translate_all(
        {digest_text(text): text for text in spanish.values()},
        settings.translation,
        out / TRANSLATIONS,
        progress,
        are_deidentified=settings.deidentify or all(study.is_synthetic for study in studies),
    )
    return [
        Job(study, done[digest_text(spanish[study.study_id])] if study.study_id in spanish else None)
        for study in studies
    ]


def _summarise(description: Mapping[str, Any], is_new: bool, resumed: int, remarks: Sequence[str]) -> Summary:
    reasons = description["dropped_by_reason"]
    mispaired = reasons.get("pairing: mispaired", 0)
    said = list(remarks)
    if mispaired:
        said.append(
            f"MISPAIRED: set aside {plural(mispaired, 'report')} of other patients or sessions than the images say. "
            "Look at how images and reports were joined before you trust the rest"
        )
    rejected = sum(count for reason, count in reasons.items() if reason.startswith("review: "))
    if waiting := description["held"] - rejected:
        cases = plural(waiting, "case")
        said.append(f"held until a person has looked: {cases}; run medfinder review, then curate again")
    if not description["cases"]:
        said.append("no case is left: everything was set aside or is held; dropped.parquet says why")
    return Summary(
        is_new=is_new,
        resumed=resumed,
        mispaired=mispaired,
        splits={name: counts["cases"] for name, counts in description["splits"].items()},
        regions=description["regions"],
        reasons=reasons,
        remarks=tuple(said),
        **{key: description[key] for key in ("cases", "studies", "patients", "held", "dropped", "flow")},
    )


def _tell_limit(entries: Sequence[Study | Dropped], settings: CurationSettings) -> str:
    """Say how small a volume may be, and what changes that: phantoms have a limit of their own."""
    quality = settings.quality
    if all(entry.is_synthetic for entry in entries if isinstance(entry, Study)):
        option = "min_dimension_synthetic under [quality] in the --config file"
        return f"{quality.min_dimension_synthetic} voxels on an axis; {option} sets another limit"
    return f"{quality.min_dimension} voxels on an axis; --min-dimension N sets another limit"


def _tell_small(description: Mapping[str, Any], limit: str) -> Iterator[str]:
    """Say where many studies were set aside for their size alone."""
    flow = description["flow"]
    small = sum(step["reasons"].get("too small", 0) for step in flow["steps"] if step["stage"] == "quality")
    if small and small >= _MANY * flow["found"]:
        has = "has" if small == 1 else "have"
        yield f"too small: {plural(small, 'study')} of {flow['found']} {has} fewer than {limit}"


def _refuse_overlap(source: Path, out: Path, links: Path | None, key: Path | None) -> None:
    inside = out.resolve()
    if key is not None and key.resolve().is_relative_to(inside):
        raise ConfigError(f"the key {key} lies in the dataset, which it must never leave with; put it elsewhere")
    outside = source.resolve()
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
                    rows = ((s.series_id, _told(s.path, source)) for s in study.series)
                    writer.writerows((study.study_id, *row) for row in rows)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror}") from error


def _told(path: Path, source: Path) -> str:
    # What came from a PACS lies in a cache.
    return relative_name(path, source) if path.is_relative_to(source) else path.name


def _finish(
    out: Path,
    recipe: Mapping[str, Any],
    settings: CurationSettings,
    outcomes: Sequence[CuratedStudy],
    refused: Sequence[Dropped],
) -> dict[str, Any]:
    """Settle the splits and write tables, card and, last of all, the provenance that makes the folder a dataset."""
    rows = _settle_splits(_with_common_doubts(outcomes, settings), settings)
    dropped = [*refused, *(row for outcome in outcomes for row in outcome.dropped)]
    kept = {Path(case.volume).name for case, _ in rows}
    for place in (out / folder.VOLUMES, out / folder.VIEWS):
        for stray in place.iterdir() if place.is_dir() else ():
            if stray.name not in kept:
                stray.unlink()
    candidates: list[SeriesRow] = [row for outcome in outcomes for row in outcome.series]
    folder.write_series(
        out / folder.SERIES, sorted(candidates, key=lambda row: (row.study_id, -row.score, row.series_id))
    )
    libraries = {
        name: metadata.version(name) for name in ("numpy", "scipy", "nibabel", "pydicom", "SimpleITK", "pyarrow")
    }
    audits = {"pairing": True, "deidentification": settings.deidentify}
    description = _write_tables(out, {**recipe, "libraries": libraries, "audits": audits}, rows, dropped)
    shutil.rmtree(out / folder.WORK)
    return description


def _write_tables(
    out: Path, provenance: Mapping[str, Any], rows: Sequence[_Row], dropped: Sequence[Dropped]
) -> dict[str, Any]:
    """Apply the decisions so far and write what follows from them.

    Args:
        rows: all that passed the filters, whatever was decided on it before.
        dropped: all that did not, without what readers rejected.
    """
    settled = settle(_lay_diagnoses(rows, out, provenance.get("settings", {})), read_decisions(out))
    aside = sorted(
        [*dropped, *settled.rejected],
        key=lambda row: (row.study_id, row.series_id, row.stage, row.reason, row.detail),
    )
    # A case that changes its table stands in both for a moment, never in neither.
    before = folder.read_cases(out / folder.HELD) if (out / folder.HELD).is_file() else []
    known = {case.case_id for case, _ in settled.held}
    leaving = [row for row in before if row[0].case_id not in known]
    folder.write_cases(out / folder.HELD, [*settled.held, *leaving])
    folder.write_cases(out / folder.CASES, settled.cases)
    folder.write_cases(out / folder.HELD, settled.held)
    folder.write_dropped(out / folder.DROPPED, aside)
    description = describe_folder(out)
    counts = {name: description[name] for name in ("cases", "studies", "patients", "synthetic", "held", "dropped")}
    told = {**provenance, "counts": counts, "decisions_digest": _digest_said(out)}
    folder.write_text(out / folder.CARD, write_card(description, told))
    folder.write_text(out / folder.PROVENANCE, json.dumps(told, indent=2) + "\n")
    return description


def _take_up_decisions(out: Path) -> tuple[dict[str, Any], bool]:
    """Bring a finished dataset in line with what readers have decided since; say whether anything changed."""
    dataset = Dataset.open(out)
    if dataset.provenance.get("decisions_digest") == _digest_said(out):
        return describe(dataset), False
    rows = sorted(dataset.all_rows(), key=_order)
    dropped = [row for row in dataset.dropped if row.stage != "review"]
    return _write_tables(out, dataset.provenance, rows, dropped), True


def _digest_said(out: Path) -> str | None:
    """Digest what persons have said about a dataset: decisions and diagnoses."""
    said = [(out / name).read_bytes() for name in (DECISIONS, STORE, READINGS) if (out / name).is_file()]
    return hashlib.sha256(b"\0".join(said)).hexdigest() if said else None


def _lay_diagnoses(rows: Sequence[_Row], out: Path, settings: Mapping[str, Any]) -> list[_Row]:
    """Lay what experts settled on upon the findings; where they differ the case is doubted, not changed."""
    settled = settlements_by_case(
        settle_diagnoses(open_store(out).diagnoses, adjudicator=settings.get("adjudicator") or None)
    )
    laid = []
    for case, figures in rows:
        found, known_from, doubts = apply_diagnoses(case.findings, case.findings_from, settled.get(case.case_id, ()))
        others = tuple(doubt for doubt in figures.doubts if doubt.stage != "diagnosis")
        laid.append(
            (replace(case, findings=found, findings_from=known_from), replace(figures, doubts=(*others, *doubts)))
        )
    return laid


def _with_common_doubts(outcomes: Sequence[CuratedStudy], settings: CurationSettings) -> list[_Row]:
    """Gather all cases, and doubt those whose text other patients have, or whose voxels another study has, too."""
    curated = [one for outcome in outcomes for one in outcome.cases]
    texts = {
        one.case.study_id: Told(one.case.study_id, one.case.patient_id, one.case.report_es or one.case.report)
        for one in curated
        if one.case.report
    }
    by_text = doubt_shared_texts(texts.values(), settings.pairing)
    by_voxels = doubt_same_voxels([(one.case, one.figures) for one in curated])
    rows = []
    for one in curated:
        found = (by_text.get(one.case.study_id), by_voxels.get(one.case.case_id))
        doubts = (*one.figures.doubts, *(doubt for doubt in found if doubt is not None))
        rows.append((one.case, replace(one.figures, doubts=doubts)))
    return rows


def _settle_splits(rows: Sequence[_Row], settings: CurationSettings) -> list[_Row]:
    """Give every patient a split, those of held cases too, so that no decision moves another patient.

    Patients who share a volume count as one: it may be one person under two names.
    """
    groups = join_patients(rows)
    findings: dict[str, set[str]] = {}
    for case, _ in rows:
        findings.setdefault(groups[case.patient_id], set()).update(present_findings(case))
    splits: dict[str, Split] = split_patients(findings, settings.shares, seed=settings.seed)
    return sorted(
        ((replace(case, split=splits[groups[case.patient_id]]), figures) for case, figures in rows), key=_order
    )


def _order(row: _Row) -> tuple[str, str, str]:
    return row[0].source, row[0].study_id, row[0].case_id
