"""One examination under two names: held the second time, and never on both sides of a split."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from medfinder.curation.curate import curate
from medfinder.curation.dataset import Dataset, Figures
from medfinder.curation.same_voxels import doubt_same_voxels, join_patients
from medfinder.curation.study import CurationSettings
from medfinder.records import Case

FIGURES = Figures(words=3, missing_share=0.0, lung_ml=4000.0, region_reason="", notes=(), volume_sha256="")


def row(number: int, patient: str, study: str, checksum: str) -> tuple[Case, Figures]:
    case = Case(
        case_id=f"case{number}",
        study_id=study,
        patient_id=patient,
        source="nifti",
        split="train",
        volume=f"volumes/case{number}.nii",
        report="",
        report_es="",
        findings=(),
        findings_from="none",
        age_years=None,
        sex=None,
        date_offset_days=None,
        spacing_mm=(1, 1, 1),
        shape=(512, 512, 300),
        region="chest",
        is_synthetic=False,
    )
    return case, replace(FIGURES, volume_sha256=checksum)


def test_the_study_that_comes_first_stands_and_two_series_of_one_study_are_no_doubt() -> None:
    rows = [row(0, "p", "a", "x"), row(1, "p", "a", "x"), row(2, "q", "b", "x"), row(3, "q", "b", "y")]
    doubts = doubt_same_voxels(rows)
    assert doubts.keys() == {"case2"}
    assert doubts["case2"].holds
    assert "study a" in doubts["case2"].detail


def test_patients_are_joined_over_others_and_apart_without_a_shared_volume() -> None:
    rows = [
        row(0, "p", "a", "x"),
        row(1, "q", "b", "y"),
        row(2, "r", "c", "x"),
        row(3, "r", "d", "y"),
        row(4, "s", "e", "z"),
    ]
    assert join_patients(rows) == {"p": "p", "q": "p", "r": "p", "s": "s"}


def test_an_examination_that_comes_twice_is_held_once_and_shares_its_split(
    tmp_path: Path, make_chest: Callable[..., np.ndarray], save_volume: Callable[..., Path], settings: CurationSettings
) -> None:
    source = tmp_path / "source"
    for number in range(10):
        save_volume(source / f"ct{number}.nii.gz", make_chest(seed=number))
        save_volume(source / f"export {number}.nii", make_chest(seed=number))
    summary = curate(source, tmp_path / "out", settings)
    assert (summary.cases, summary.held, summary.dropped) == (10, 10, 0)
    assert summary.flow["waiting_for"] == {"pairing: same voxels as another study": 10}
    rows = Dataset.open(tmp_path / "out").all_rows()
    splits: dict[str, set[str]] = {}
    for case, figures in rows:
        splits.setdefault(figures.volume_sha256, set()).add(case.split)
    assert len({case.patient_id for case, _ in rows}) == 20
    assert [len(found) for found in splits.values()] == [1] * 10
    assert set().union(*splits.values()) == {"train", "val", "test"}
