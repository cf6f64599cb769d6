"""The released BIMCV-R layout: rows find volumes by name, studies carry both texts, mispaired rows can be seen."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Dropped, Study
from medfinder.sources import find_source
from medfinder.sources.bimcv_r import find_tables, read
from medfinder.sources.files import hash_id
from medfinder.sources.phantoms.bimcv_r_tree import ReleaseSettings, write_bimcv_r

HEADER = ("PatientID", "ReportID", "Report", "Labels", "path", "Report_en")


def split(entries: Any) -> tuple[list[Study], list[Dropped]]:
    entries = list(entries)
    return [e for e in entries if isinstance(e, Study)], [e for e in entries if isinstance(e, Dropped)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "BIMCV-R"


def add_volume(folder: Path, name: str) -> None:
    path = folder / "CT0" / "ct" / f"{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"never opened")


def add_rows(folder: Path, *rows: tuple[str, ...], name: str = "curated_ct_report_path_En.csv") -> None:
    path = folder / "meta_1" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows((HEADER, *rows))


def row(patient: str, session: str, text: str, name: str) -> tuple[str, ...]:
    return (f"sub-{patient}", f"ses-{session}", text, "['mass']", f"/old/{name}.nii.gz", f"English of {text}")


ONE, TWO = "sub-S1_ses-E1_run-1_bp-chest_ct", "sub-S1_ses-E1_acq-2_run-1_bp-chest_ct"
OTHER = "sub-S2_ses-E2_run-1_bp-chest_ct"


def test_two_volumes_of_a_session_are_one_study_with_two_series(folder: Path) -> None:
    add_volume(folder, ONE)
    add_volume(folder, TWO)
    add_rows(folder, row("S1", "E1", "masa .", TWO), row("S1", "E1", "masa .", ONE))
    (study,), dropped = split(read(folder))
    assert (study.report, study.report_language, study.report_en) == ("masa .", "es", "English of masa .")
    assert [one.path.name for one in study.series] == [f"{TWO}.nii.gz", f"{ONE}.nii.gz"]
    assert [finding.name for finding in study.findings] == ["mass"]
    assert study.patient_id == hash_id("patient", "S1")
    assert not dropped


def test_a_row_of_another_patient_shows_in_the_claims(folder: Path) -> None:
    add_volume(folder, ONE)
    add_volume(folder, OTHER)
    add_rows(folder, row("S2", "E2", "masa .", ONE), row("S2", "E2", "masa .", OTHER))
    studies, dropped = split(read(folder))
    by_patient = {study.patient_id: study for study in studies}
    wrong, right = by_patient[hash_id("patient", "S1")], by_patient[hash_id("patient", "S2")]
    assert {claim.what for claim in wrong.claims if claim.report and claim.image != claim.report} == {
        "patient",
        "session",
    }
    assert all(claim.image == claim.report for claim in right.claims if claim.report)
    assert wrong.study_id != right.study_id
    assert not dropped


def test_rows_and_volumes_without_each_other_and_those_told_twice_each_have_their_reason(folder: Path) -> None:
    for name in (ONE, TWO, OTHER, "sub-S3_ses-E3_run-1_bp-chest_ct"):
        add_volume(folder, name)
    add_rows(
        folder,
        row("S1", "E1", "masa .", ONE),
        row("S1", "E1", "nodulo .", TWO),
        row("S2", "E2", "derrame .", OTHER),
        row("S2", "E2", "derrame .", OTHER),
        row("S9", "E9", "sin imagen .", "sub-S9_ses-E9_run-1_bp-chest_ct"),
        ("", "", "de nadie", "", "", ""),
    )
    studies, dropped = split(read(folder))
    assert {study.report for study in studies} == {"derrame .", None}
    reasons = Counter(one.reason for one in dropped)
    assert reasons == {"two reports": 1, "duplicate row": 1, "no image": 1, "unreadable row": 1}
    assert not any(word in repr(dropped) for word in ("masa", "derrame", "sin imagen", "S9"))


def test_one_name_in_two_folders_is_told(folder: Path) -> None:
    add_volume(folder, ONE)
    (folder / "CT1").mkdir()
    (folder / "CT1" / f"{ONE}.nii.gz").write_bytes(b"again")
    add_rows(folder, row("S1", "E1", "masa .", ONE))
    (study,), dropped = split(read(folder))
    assert len(study.series) == 1
    assert [one.reason for one in dropped] == ["duplicate file"]


def test_the_whole_table_stands_for_its_halves_and_the_halves_for_an_absent_whole(folder: Path) -> None:
    add_volume(folder, ONE)
    add_volume(folder, OTHER)
    first, second = row("S1", "E1", "masa .", ONE), row("S2", "E2", "derrame .", OTHER)
    add_rows(folder, first, name="curated_pos_ct_report_path_En.csv")
    add_rows(folder, second, name="curated_neg_ct_report_path_En.csv")
    add_rows(folder, ("S1", "E1", "otra tabla", "", ONE, ""), name="BIMCV_meta.csv")
    assert {study.report for study in split(read(folder))[0]} == {"masa .", "derrame ."}
    add_rows(folder, first, second)
    assert [table.name for table in find_tables(folder)] == ["curated_ct_report_path_En.csv"]
    studies, dropped = split(read(folder))
    assert len(studies) == 2
    assert not dropped


def test_volumes_may_lie_flat_and_paths_may_be_those_of_another_system(folder: Path) -> None:
    folder.mkdir()
    (folder / f"{ONE}.nii").write_bytes(b"never opened")
    add_rows(folder, ("S1", "E1", "masa .", "", f"C:\\old\\{ONE}.nii.gz", "A mass."))
    (study,), dropped = split(read(folder))
    assert study.report == "masa ."
    assert not dropped


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    add_volume(folder, ONE)
    with pytest.raises(ConfigError, match="unpack meta_1"):
        read(folder)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DatasetError, match="expected PatientID, ReportID"):
        list(read(folder, table=tmp_path / "t.csv"))
    add_rows(tmp_path / "empty", row("S1", "E1", "masa .", ONE))
    with pytest.raises(ConfigError, match="no volume in"):
        read(tmp_path / "empty")


def test_the_twin_is_recognised_and_its_mispaired_rows_are_the_claims_that_differ(tmp_path: Path) -> None:
    out = tmp_path / "twin"
    rates = ReleaseSettings(negative=0.4, second_volume=0.3, missing_volume=0.1, unlisted=0.1)
    write_bimcv_r(out, studies=14, seed=31, size=48, settings=rates)
    assert find_source(out) == "bimcv_r"
    truth = [json.loads(line) for line in (out / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    studies, dropped = split(read(out))
    assert all(study.is_synthetic for study in studies)
    listed = [one for one in truth if not {"unlisted", "missing volume"} & set(one["faults"])]
    volumes = {series.path: study for study in studies for series in study.series}
    assert len(volumes) == sum("missing volume" not in one["faults"] for one in truth)
    assert sum(one.reason == "no image" for one in dropped) == len(truth) - len(volumes)
    assert any(one["is_mispaired"] for one in listed)
    assert any(not one["is_mispaired"] for one in listed)
    for one in listed:
        claims = volumes[out / one["path"]].claims
        differing = {claim.what for claim in claims if claim.report and claim.image != claim.report}
        assert differing == ({"patient", "session"} if one["is_mispaired"] else set())
