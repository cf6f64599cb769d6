"""What a curation of many studies holds in memory beside the volumes at work: studies, outcomes and tables.

Lists N phantom studies with reports of the length of a real one and curates them, each to an outcome as it would have
been, but for the volumes, which are not read: what is left is what grows with the number of studies. Prints the
greatest resident memory of fresh processes for several N; the difference is what the studies cost.

    python benchmarks/many_studies.py [--studies 1000 10000]
"""

import argparse
import json
import resource
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from unittest import mock

from medfinder.curation import pool
from medfinder.curation.curate import CurationSettings, curate
from medfinder.curation.dataset import VOLUMES, Figures, SeriesRow
from medfinder.curation.study import CuratedCase, CuratedStudy, Job
from medfinder.records import Case, Doubt, Finding, Series, SeriesTags, Study
from medfinder.workers import open_pool

# Ours: of about 1,500 letters, the length of a long chest report; every one another.
_SENTENCE = "hallazgo {number} de tamano {size} mm en lobulo inferior derecho sin cambios . "


def write_studies(folder: Path, count: int) -> None:
    """Write the list of a phantoms folder: two studies a patient, two series a study, reports in both languages."""
    folder.mkdir()
    (folder / "ct.nii").write_bytes(b"never read")
    with (folder / "studies.jsonl").open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(json.dumps(asdict(_study(number)), default=str) + "\n")


def _study(number: int) -> Study:
    report = "".join(_SENTENCE.format(number=number, size=size) for size in range(20))
    return Study(
        study_id=f"phantom-0-s{number:05d}",
        patient_id=f"phantom-0-p{number // 2:05d}",
        source="phantoms",
        series=tuple(Series(str(one), Path("ct.nii"), tags=SeriesTags(modality="CT", slices=280)) for one in range(2)),
        report=report,
        report_language="es",
        report_en=report.replace("lobulo inferior derecho", "right lower lobe"),
        findings=tuple(Finding(name) for name in ("mass", "pleural effusion", "emphysema")),
        is_synthetic=True,
    )


def pretend(job: Job, out: Path, _settings: CurationSettings) -> CuratedStudy:
    """Make the outcome of a study as curation would, without a voxel."""
    study = job.study
    name = f"{VOLUMES}/{study.study_id}.nii"
    (out / name).touch()
    case = Case(
        study.study_id, study.study_id, study.patient_id, study.source, "train", name, study.report_en or "",
        study.report or "", study.findings, "truth", None, None, None, (0.7, 0.7, 1.0), (512, 512, 280), "chest", True,
    )  # fmt: skip
    doubts = tuple(
        Doubt("quality", "lungs cut at the top", "a sentence with the figures behind it", False) for _ in "ab"
    )
    figures = Figures(250, 0.0, 3500.0, "3500 ml of lung in 20000 ml of body (17%)", (), "0" * 64, doubts=doubts)
    rows = tuple(SeriesRow(study.study_id, one.series_id, 1.0, True, "", "the best by far") for one in study.series)
    return CuratedStudy(study.study_id, (CuratedCase(case, figures),), (), rows)


def measure(folder: Path, count: int) -> tuple[float, float, float]:
    """Give seconds, MB before and MB at most."""
    write_studies(folder / f"source{count}", count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    with mock.patch.object(pool, "curate_study", pretend):
        summary = curate(folder / f"source{count}", folder / f"out{count}", CurationSettings())
    if summary.studies + summary.held != count:
        raise SystemExit(f"{summary.studies} of {count} studies came through")
    return time.perf_counter() - start, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, nargs="+", default=[1000, 10_000])
    for count in parser.parse_args().studies:
        with tempfile.TemporaryDirectory() as place, open_pool(1) as fresh:
            seconds, before, peak = fresh.submit(measure, Path(place), count).result()
        print(f"{count:6d} studies: {seconds:6.1f} s, {before:5.0f} MB before, {peak:5.0f} MB at most")


if __name__ == "__main__":
    main()
