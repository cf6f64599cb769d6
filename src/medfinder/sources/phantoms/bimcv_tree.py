"""Write phantoms as the raw BIMCV COVID-19+ distribution lies on disk, faults included, with the truth beside it.

In: how many studies, a seed, a size. Out: ``covid19_posi`` with its subjects, sessions and tables, ``truth.jsonl``,
``provenance.json`` and ``README.md``. The same arguments give the same bytes on every machine and for any number of
workers; a session folder appears whole or not at all, so that a run that was stopped goes on where it was. Refused: a
folder that holds anything else.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import medfinder
from medfinder.errors import MedFinderError
from medfinder.sources.phantoms.bimcv_plan import (
    KINDS,
    FaultRates,
    SeriesPlan,
    SessionPlan,
    TreeSettings,
    abdomen_to_render,
    plan_sessions,
    volume_to_render,
)
from medfinder.sources.phantoms.bimcv_series import write_session
from medfinder.sources.phantoms.bimcv_tables import write_tables, write_text
from medfinder.sources.phantoms.render import render
from medfinder.sources.phantoms.tree_folder import PROVENANCE_FILE, claim, run
from medfinder.sources.phantoms.write import GENERATOR

__all__ = ["FaultRates", "TreeSettings", "write_bimcv_tree"]

ROOT = "covid19_posi"
TRUTH_FILE = "truth.jsonl"
_KIND = "raw BIMCV tree of phantoms"

_README = """# SYNTHETIC raw BIMCV tree

Everything here is SYNTHETIC: computer-drawn phantoms, invented reports, ids, dates and tests. No patient stands behind
any of it. NOT FOR DIAGNOSIS. It imitates how the BIMCV COVID-19+ distribution lies on disk, faults included, so that
curation can be tried where the right answer is known.

- `{root}/`: subjects (`sub-S#####/ses-E#####/mod-rx/`), tables and labels. CT is `*_ct.nii.gz` with a DICOM JSON side
  file of the same stem; radiographs are `*_cr.png` and `*_dx.png`.
- `{truth}`: the right answers; a curation must not look at them.
- `{provenance}`: the arguments that make this tree again.

HU = stored value x slope + intercept, **once**: where header and side file both tell the rescale, they mean the same.

## How to read {truth}

One JSON object a line, a session and then its series. `"record": "session"`:

| key | meaning |
|---|---|
| `session`, `subject`, `study_id` | the names in the tree, and the phantom behind them |
| `modality` | CT, or DX where there are radiographs only |
| `date`, `sex`, `age_years` | as in side files and tables |
| `findings` | what the images show |
| `report_es`, `report_en` | what was truly written about these images |
| `rows` | what the label table says of this session: none, one or two rows |
| `report_of` | whose report that is; empty when it is nobody's |
| `best` | paths of the series to read first; equals share the place, none is fit when empty |
| `faults`, `details` | codes, and the variant of those that have variants |

`"record": "series"`:

| key | meaning |
|---|---|
| `path`, `side_file` | relative to this folder; the side file is null when missing |
| `kind` | {kinds} |
| `kernel` | soft, lung, or empty where none applies |
| `axes` | where the stored axes point, as the header should be read |
| `rescale` | slope, intercept, and where they stand: header, side file, both or nowhere; null for colours |
| `usable` | HU and geometry can be had without a guess, and what they show is a chest (or a localizer of one) |
| `rank` | 1 = read first: thin before thick, then soft-tissue before lung kernel; null = not to be chosen |
| `is_best`, `faults`, `details` | rank 1; codes and variants |

A side file describes the series as it was scanned: NumberOfSlices-like counts (0020,1002) and SpacingBetweenSlices stay
right where slices were lost or the header's z spacing is wrong.
"""


def write_bimcv_tree(
    out: Path,
    *,
    studies: int,
    seed: int,
    size: int,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    settings: TreeSettings | None = None,
) -> None:
    """Write a raw BIMCV tree of phantoms.

    Args:
        out: a new or empty folder, or one that an earlier run with the same arguments left.
        size: voxels across a slice of the rendered volume.
        workers: processes that draw and write sessions.
        progress: told (sessions written, sessions in all), from (sessions found whole, all) on.

    Raises:
        ConfigError: ``out`` holds something else, or a tree of other arguments.
        MedFinderError: the disk refuses, or a worker died; what is whole is kept.
    """
    settings = settings or TreeSettings()
    try:
        _write_tree(out, studies, seed, size, workers, progress or _say_nothing, settings)
    except OSError as error:
        raise MedFinderError(f"the tree cannot be written: {error.strerror}; free the disk, then run again") from error
    except BrokenProcessPool:
        raise MedFinderError("a worker process died; run again with fewer workers: what is whole is kept") from None


def _say_nothing(done: int, total: int) -> None:
    del done, total


def _write_tree(
    out: Path,
    studies: int,
    seed: int,
    size: int,
    workers: int,
    progress: Callable[[int, int], None],
    settings: TreeSettings,
) -> None:
    readme = _README.format(root=ROOT, truth=TRUTH_FILE, provenance=PROVENANCE_FILE, kinds=", ".join(KINDS))
    claim(out, _provenance(studies=studies, seed=seed, size=size, settings=settings), readme)
    sessions = plan_sessions(studies=studies, seed=seed, size=size, settings=settings)
    wanted = [plan for plan in sessions if not _folder(out, plan).is_dir()]
    done = len(sessions) - len(wanted)
    progress(done, len(sessions))
    for _ in run(partial(_make_session, out), wanted, workers):
        done += 1
        progress(done, len(sessions))
    write_tables(out / ROOT, sessions, seed)
    write_text(out / TRUTH_FILE, "".join(f"{_spell(line)}\n" for line in _tell_truth(sessions)))


def _provenance(*, studies: int, seed: int, size: int, settings: TreeSettings) -> dict[str, Any]:
    return {
        "kind": _KIND,
        "is_synthetic": True,
        "generator": GENERATOR,
        "version": medfinder.__version__,
        "studies": studies,
        "seed": seed,
        "size": size,
        "settings": dataclasses.asdict(settings),
    }


def _folder(out: Path, plan: SessionPlan) -> Path:
    return out / ROOT / plan.subject / plan.session


def _make_session(out: Path, plan: SessionPlan) -> None:
    """Render one session and write it beside its place, then move it there."""
    folder = _folder(out, plan)
    beside = folder.with_name(f".writing-{plan.session}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    chest = render(plan.study, volume_to_render(plan.study)).volume
    tall = render(plan.study, abdomen_to_render(plan.study)).volume if plan.has_abdomen else chest
    write_session(plan, chest, tall, beside)
    beside.rename(folder)


def _spell(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False)


def _tell_truth(sessions: Sequence[SessionPlan]) -> Iterator[dict[str, Any]]:
    for plan in sessions:
        yield {
            "record": "session",
            "session": plan.session,
            "subject": plan.subject,
            "study_id": plan.study.study_id,
            "modality": plan.modality,
            "date": plan.date.isoformat(),
            "sex": plan.study.patient.sex,
            "age_years": plan.study.patient.age_years,
            "findings": [dataclasses.asdict(finding) for finding in plan.findings],
            "report_es": plan.report.spanish,
            "report_en": plan.report.english,
            "rows": [{"PatientID": row.patient, "ReportID": row.report_id, "Report": row.text} for row in plan.rows],
            "report_of": plan.report_of,
            "best": [_path(plan, series) for series in plan.series if series.rank == 1],
            "faults": list(plan.faults),
            "details": dict(plan.details),
        }
        for series in plan.series:
            yield _tell_series(plan, series)


def _tell_series(plan: SessionPlan, series: SeriesPlan) -> dict[str, Any]:
    path = _path(plan, series)
    has_side_file = "missing-side-file" not in series.faults
    return {
        "record": "series",
        "session": plan.session,
        "subject": plan.subject,
        "path": path,
        "side_file": path.replace(".nii.gz", ".json") if has_side_file else None,
        "kind": series.kind,
        "kernel": series.kernel,
        "axes": series.axes,
        "rescale": None if series.is_colour else _tell_rescale(series, has_side_file),
        "usable": series.is_usable,
        "rank": series.rank,
        "is_best": series.rank == 1,
        "faults": list(series.faults),
        "details": dict(series.details),
    }


def _tell_rescale(series: SeriesPlan, has_side_file: bool) -> dict[str, Any]:
    places = [] if "raw-values" in series.faults else ["header"]
    places += ["side file"] if has_side_file else []
    return {"slope": 1, "intercept": series.scanner.intercept, "where": " and ".join(places) or "nowhere"}


def _path(plan: SessionPlan, series: SeriesPlan) -> str:
    return f"{ROOT}/{plan.subject}/{plan.session}/mod-rx/{series.stem}.nii.gz"
