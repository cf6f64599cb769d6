"""Write phantoms as BIMCV-R is released: volumes by name, one table of both languages, its known faults, the truth.

In: how many studies, a seed, a size. Out: ``CT*/ct/*.nii.gz``, ``meta_1/curated_ct_report_path_En.csv`` and its two
halves, ``truth.jsonl``, ``provenance.json`` and ``README.md``. The same arguments give the same bytes on every machine
and for any number of workers; a volume appears whole or not at all, so that a run that was stopped goes on where it
was. Refused: a folder that holds anything else, rates outside 0 to 1.
"""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import medfinder
from medfinder.errors import ConfigError, MedFinderError
from medfinder.sources.phantoms.bimcv_plan import (
    XRAY_REPORTS,
    LabelRow,
    hash_number,
    volume_to_render,
    write_study_report,
)
from medfinder.sources.phantoms.bimcv_series import sharpen, turn_to, write_stored
from medfinder.sources.phantoms.bimcv_tables import LABEL_COLUMNS, label_cells, write_text
from medfinder.sources.phantoms.plan import StudyPlan, draw_studies
from medfinder.sources.phantoms.render import render
from medfinder.sources.phantoms.report import Report
from medfinder.sources.phantoms.tree_folder import claim, run
from medfinder.sources.phantoms.write import GENERATOR

TABLE = "curated_ct_report_path_En.csv"
TRUTH_FILE = "truth.jsonl"
_KIND = "released BIMCV-R folder of phantoms"
_VOLUMES_A_FOLDER = 500
_INTERCEPT = -1024

_ERROR_TEXT = "Something wrong with the data! ####"
_SHORT_TEXTS = ("Chest CT scan.", "See previous report.", "No changes seen.")
# What the release's translator left in Spanish, and what it took word for word.
_SPANISH_LEFT = (
    (r"\b(?:chest|thorax)\b", "torax"),
    (r"\b(lower|upper|middle) lobe\b", r"lobulo \1"),
    (r"\bpleural effusion\b", "derrame pleural"),
    (r"\bmediastinum\b", "mediastino"),
    (r"\bheart\b", "corazon"),
)
_LITERAL = (
    (r"\bpleural (?:effusion|fluid)\b", "pleural spill"),
    (r"\bground-glass\b", "tired glass"),
    (r"\bunremarkable\b", "without alterations of interest"),
    (r"\bairspace\b", "space of air"),
    (r"\bconsolidation\b", "condensation"),
)

_README = f"""# SYNTHETIC twin of BIMCV-R

Everything here is SYNTHETIC: computer-drawn phantoms, invented reports and ids. No patient stands behind any of it. NOT
FOR DIAGNOSIS. It imitates how BIMCV-R lies on disk once it is unpacked, faults included.

- `CT*/ct/*.nii.gz`: volumes. `meta_1/{TABLE}`: the table; `curated_pos_...` and `curated_neg_...` are its halves.
- `{TRUTH_FILE}`: the right answers, one JSON object a volume; a curation must not look at them. `is_mispaired`: the row
  holds another session's report, `report_of`; `faults`: of the row's English text, of the header and of the table;
  `report_es`, `report_en`, `findings`: what is true of the images.
"""


@dataclass(frozen=True, slots=True)
class ReleaseSettings:
    """How faulty a release is: shares from 0 to 1.

    Attributes:
        negative: studies of the negative half, all of whose rows are mispaired.
        xray: of the mispaired reports, those of radiographs.
        second_volume: studies with two volumes.
        corrupt_header: volumes whose z spacing is the field of view.
        failed, short, spanish_left, literal: faults of the English text, at most one a row.
        missing_volume: rows whose volume is not there.
        unlisted: volumes without a row.

    Source: 282 of 1,628 rows lie in the negative half, every one mispaired, a quarter of them X-rays; 115 of 1,513
    sessions have two volumes; 33 of 317 volumes have the field of view as z spacing. The rest are ours.
    """

    negative: float = 0.17
    xray: float = 0.25
    second_volume: float = 0.076
    corrupt_header: float = 0.10
    failed: float = 0.03
    short: float = 0.03
    spanish_left: float = 0.08
    literal: float = 0.08
    missing_volume: float = 0.01
    unlisted: float = 0.01

    def __post_init__(self) -> None:
        for one in fields(self):
            if not 0 <= (value := getattr(self, one.name)) <= 1:
                raise ConfigError(f"rate {one.name} = {value}, expected 0 to 1")


@dataclass(frozen=True, slots=True)
class _Session:
    study: StudyPlan
    subject: str
    session: str
    report: Report


@dataclass(frozen=True, slots=True)
class _Row:
    """One volume and its row of the table.

    Attributes:
        told: whose id and report the row holds.
        text: the Spanish and English of the row, faults included.
    """

    owner: _Session
    run: int
    folder: int
    half: str
    told: _Session
    text: Report
    faults: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"sub-{self.owner.subject}_ses-{self.owner.session}_run-{self.run}_bp-chest_ct.nii.gz"

    @property
    def path(self) -> str:
        return f"CT{self.folder}/ct/{self.name}"


def write_bimcv_r(
    out: Path,
    *,
    studies: int,
    seed: int,
    size: int,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    settings: ReleaseSettings | None = None,
) -> None:
    """Write phantoms in the layout of BIMCV-R.

    Args:
        out: a new or empty folder, or one that an earlier run with the same arguments left.
        size: voxels across a slice.
        workers: processes that draw and write volumes.
        progress: told (volumes written, volumes in all).

    Raises:
        ConfigError: ``out`` holds something else, or a release of other arguments.
        MedFinderError: the disk refuses, or a worker died; what is whole is kept.
    """
    settings = settings or ReleaseSettings()
    arguments = {"studies": studies, "seed": seed, "size": size, "settings": dataclasses.asdict(settings)}
    own = {"kind": _KIND, "is_synthetic": True, "generator": GENERATOR, "version": medfinder.__version__}
    try:
        claim(out, own | arguments, _README)
        rows = _plan(studies, seed, size, settings)
        wanted = [row for row in rows if "missing volume" not in row.faults and not (out / row.path).is_file()]
        for done, _ in enumerate(run(partial(_write_volume, out), wanted, workers), start=1 + len(rows) - len(wanted)):
            if progress is not None:
                progress(done, len(rows))
        _write_tables(out / "meta_1", rows, seed)
        write_text(out / TRUTH_FILE, "".join(json.dumps(_tell(row), ensure_ascii=False) + "\n" for row in rows))
    except OSError as error:
        raise MedFinderError(f"the folder cannot be written: {error.strerror}; free the disk, run again") from error
    except BrokenProcessPool:
        raise MedFinderError("a worker process died; run again with fewer workers: what is whole is kept") from None


def _plan(studies: int, seed: int, size: int, settings: ReleaseSettings) -> list[_Row]:
    """Plan every volume and its row; the last studies are the negative half."""
    sessions: list[_Session] = []
    subjects: dict[str, str] = {}
    for study in draw_studies(studies=studies, seed=seed, size=size):
        subject = subjects.setdefault(study.patient.patient_id, f"S{12001 + len(subjects)}")
        sessions.append(_Session(study, subject, f"E{26001 + len(sessions)}", write_study_report(study)))
    first_negative = studies - round(settings.negative * studies)
    rows: list[_Row] = []
    for place, owner in enumerate(sessions):
        rng = np.random.default_rng([seed, hash_number("bimcv-r"), place])
        is_negative = place >= first_negative
        told = _find_stranger(place, first_negative, sessions) if is_negative else owner
        report = told.report
        if told is not owner and rng.random() < settings.xray:
            report = XRAY_REPORTS[int(rng.integers(len(XRAY_REPORTS)))]
        english, faults = _spoil_text(report.english, rng, settings)
        text = Report(report.spanish, english)
        for number in range(1, 2 + int(rng.random() < settings.second_volume)):
            more = _draw_faults(rng, settings)
            folder = len(rows) // _VOLUMES_A_FOLDER
            half = "neg" if is_negative else "pos"
            rows.append(_Row(owner, number, folder, half, told, text, (*faults, *more)))
    return rows


def _find_stranger(place: int, first_negative: int, sessions: Sequence[_Session]) -> _Session:
    """Find the next session of another patient, in the negative half if it has one."""
    around = [*sessions[place + 1 :], *sessions[first_negative:place], *sessions[:first_negative]]
    others = (one for one in around if one.subject != sessions[place].subject)
    return next(others, sessions[place])


def _spoil_text(english: str, rng: np.random.Generator, settings: ReleaseSettings) -> tuple[str, tuple[str, ...]]:
    """Put at most one fault into a translation; one that finds no word to spoil is none."""
    at, pick = rng.random(), int(rng.integers(len(_SHORT_TEXTS)))
    spoilt = {
        "failed": _ERROR_TEXT,
        "short": _SHORT_TEXTS[pick],
        "spanish_left": _replace_words(english, _SPANISH_LEFT),
        "literal": _replace_words(english, _LITERAL),
    }
    for name, text in spoilt.items():
        rate = getattr(settings, name)
        if 0 <= at < rate and text != english:
            return text, (f"{name.replace('_', ' ')} translation",)
        at -= rate
    return english, ()


def _replace_words(text: str, words: Sequence[tuple[str, str]]) -> str:
    for pattern, other in words:
        text = re.sub(pattern, other, text, flags=re.IGNORECASE)
    return text


def _draw_faults(rng: np.random.Generator, settings: ReleaseSettings) -> list[str]:
    at, is_corrupt, is_width = rng.random(), rng.random() < settings.corrupt_header, rng.random() < 0.5
    faults = [f"z spacing is {'width' if is_width else 'height'}"] if is_corrupt else []
    if at < settings.missing_volume:
        return ["missing volume"]
    return [*faults, "unlisted"] if at < settings.missing_volume + settings.unlisted else faults


def _write_volume(out: Path, row: _Row) -> None:
    """Draw one volume and write it beside its place, then move it there."""
    volume = render(row.owner.study, volume_to_render(row.owner.study)).volume
    hu = sharpen(volume.hu) if row.run > 1 else np.asarray(volume.hu, np.int16)
    affine = volume.affine.copy()
    if any(fault.startswith("z spacing") for fault in row.faults):
        axis = 0 if "z spacing is width" in row.faults else 2
        affine[:3, 2] *= volume.spacing_mm[axis] * hu.shape[axis] / volume.spacing_mm[2]
    # Some converters keep stored values and tell the rescale, others store HU.
    keeps_stored = bool(hash_number(row.name) % 2)
    intercept = _INTERCEPT if keeps_stored else 0
    voxels, affine = turn_to("LAS", (hu.astype(np.int32) - intercept).astype(np.int16), affine)
    path = out / row.path
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".writing-{path.name}")
    write_stored(beside, voxels, voxels.shape, voxels.dtype, affine, slope=1, intercept=intercept)
    beside.replace(path)


def _write_tables(folder: Path, rows: Sequence[_Row], seed: int) -> None:
    folder.mkdir(exist_ok=True)
    cells: dict[str, list[tuple[str, ...]]] = {"": [], "pos": [], "neg": []}
    for number, row in enumerate(rows):
        if "unlisted" in row.faults:
            continue
        is_xray = row.text.spanish != row.told.report.spanish
        findings = () if is_xray else row.told.study.findings
        told = LabelRow(f"sub-{row.told.subject}", f"ses-{row.told.session}", row.text.spanish, findings)
        rng = np.random.default_rng([seed, hash_number("bimcv-r labels"), hash_number(row.told.session)])
        line = (*label_cells(told, rng), str(number), row.name, row.text.english, f"/data/{row.path}")
        cells[""].append(line)
        cells[row.half].append(line)
    for half, lines in cells.items():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow((*LABEL_COLUMNS, "num", "path", "Report_en", "ct_path"))
        writer.writerows(lines)
        name = TABLE.replace("curated_", f"curated_{half}_") if half else TABLE
        write_text(folder / name, text.getvalue())


def _tell(row: _Row) -> dict[str, Any]:
    return {
        "path": row.path,
        "subject": row.owner.subject,
        "session": row.owner.session,
        "study_id": row.owner.study.study_id,
        "half": row.half,
        "is_mispaired": row.told is not row.owner,
        "report_of": row.told.session,
        "is_xray_report": row.text.spanish != row.told.report.spanish,
        "faults": list(row.faults),
        "findings": [dataclasses.asdict(finding) for finding in row.owner.study.findings],
        "report_es": row.owner.report.spanish,
        "report_en": row.owner.report.english,
    }
