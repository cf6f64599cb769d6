"""Volume files become studies by what the table says about them, never by their order."""

from collections.abc import Callable
from pathlib import Path

import pytest

from medfinder.errors import DatasetError
from medfinder.records import Dropped, Study
from medfinder.sources.nifti import read


def write_table(path: Path, *rows: str, header: str = "path,report") -> Path:
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def studies_of(entries: list[Study | Dropped]) -> dict[str, Study]:
    """Studies by the name of their first file."""
    return {entry.series[0].path.name: entry for entry in entries if isinstance(entry, Study)}


def reasons_of(entries: list[Study | Dropped]) -> list[str]:
    return [entry.reason for entry in entries if isinstance(entry, Dropped)]


@pytest.fixture
def folder(tmp_path: Path, write_volume: Callable[..., Path]) -> Path:
    for place, name in enumerate(("c/one.nii.gz", "a/two.nii.gz", "b/three.nii.gz")):
        write_volume(tmp_path / "cts" / name, seed=place)
    return tmp_path / "cts"


def test_without_a_table_each_file_is_a_study_of_a_patient_of_its_own(folder: Path) -> None:
    studies = studies_of(list(read(folder)))
    assert studies.keys() == {"one.nii.gz", "two.nii.gz", "three.nii.gz"}
    assert len({study.study_id for study in studies.values()}) == 3
    assert len({study.patient_id for study in studies.values()}) == 3
    assert all(study.report is None for study in studies.values())


def test_ids_tell_no_file_name_and_do_not_depend_on_where_the_folder_lies(folder: Path, tmp_path: Path) -> None:
    before = studies_of(list(read(folder)))
    moved = folder.rename(tmp_path / "elsewhere")
    after = studies_of(list(read(moved)))
    assert {n: s.study_id for n, s in before.items()} == {n: s.study_id for n, s in after.items()}
    assert not any("one" in study.study_id for study in before.values())


def test_equal_names_in_two_hospitals_are_two_studies(tmp_path: Path, write_volume: Callable[..., Path]) -> None:
    for seed, hospital in enumerate(("a", "b")):
        write_volume(tmp_path / hospital / "ct1.nii", seed=seed)
    (one,), (other,) = (list(read(tmp_path / hospital)) for hospital in "ab")
    assert one.study_id != other.study_id


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_reports_find_their_files_whatever_the_order_of_rows(folder: Path, tmp_path: Path, order: list[int]) -> None:
    rows = ["c/one.nii.gz,first", "two.nii.gz,second", "b/three.nii.gz,third"]
    table = write_table(tmp_path / "t.csv", *(rows[i] for i in order))
    studies = studies_of(list(read(folder, table=table)))
    found = {name: study.report for name, study in studies.items()}
    assert found == {"one.nii.gz": "first", "two.nii.gz": "second", "three.nii.gz": "third"}


def test_a_stem_names_a_file(folder: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", "two,second", header="study_id,report")
    assert studies_of(list(read(folder, table=table)))["two.nii.gz"].report == "second"


def test_a_base_name_that_two_folders_share_names_neither(tmp_path: Path, write_volume: Callable[..., Path]) -> None:
    for seed, place in enumerate("ab"):
        write_volume(tmp_path / "cts" / place / "ct.nii", seed=seed)
    table = write_table(tmp_path / "t.csv", "ct.nii,whose")
    entries = list(read(tmp_path / "cts", table=table))
    assert [entry.report for entry in entries if isinstance(entry, Study)] == [None, None]
    assert reasons_of(entries) == ["no image"]


def test_a_row_that_stands_twice_is_set_aside_the_second_time(folder: Path, tmp_path: Path) -> None:
    table = write_table(
        tmp_path / "t.csv", "c/one.nii.gz,text", "c/one.nii.gz,text", "gone.nii,text", "gone.nii,text", "gone.nii,other"
    )
    entries = list(read(folder, table=table))
    told = [(row.reason, row.detail) for row in entries if isinstance(row, Dropped)]
    assert told == [
        ("duplicate row", "row 3 says the same as row 2"),
        *(("no image", f"row {number} of the table names no CT of the source") for number in (4, 5, 6)),
    ]
    (repeated,) = (row.study_id for row in entries if isinstance(row, Dropped) and row.reason == "duplicate row")
    assert repeated in {entry.study_id for entry in entries if isinstance(entry, Study) and entry.report}


def test_files_of_one_study_id_are_one_study(folder: Path, tmp_path: Path) -> None:
    table = write_table(
        tmp_path / "t.csv",
        "c/one.nii.gz,E1,P1,same text",
        "a/two.nii.gz,E1,P1,same text",
        "b/three.nii.gz,E2,P1,other text",
        header="path,study_id,patient_id,report",
    )
    studies = [entry for entry in read(folder, table=table) if isinstance(entry, Study)]
    assert sorted(len(study.series) for study in studies) == [1, 2]
    assert len({study.patient_id for study in studies}) == 1
    assert "P1" not in repr([(study.patient_id, study.study_id) for study in studies])


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (("c/one.nii.gz,E1,P1,text", "a/two.nii.gz,E1,P1,another text"), "two reports"),
        (("c/one.nii.gz,E1,P1,text", "a/two.nii.gz,E1,P2,text"), "two patients"),
        (("c/one.nii.gz,E1,P1,text", "c/one.nii.gz,E1,P1,another"), "duplicate rows"),
    ],
)
def test_contradictions_set_the_study_aside_and_the_rest_goes_on(
    folder: Path, tmp_path: Path, rows: tuple[str, ...], reason: str
) -> None:
    table = write_table(
        tmp_path / "t.csv", *rows, "b/three.nii.gz,E3,P3,fine", header="path,study_id,patient_id,report"
    )
    entries = list(read(folder, table=table))
    assert reasons_of(entries) == [reason]
    assert studies_of(entries)["three.nii.gz"].report == "fine"


def test_rows_without_a_file_are_set_aside(folder: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", "c/one.nii.gz,x", "lost.nii.gz,y")
    assert reasons_of(list(read(folder, table=table))) == ["no image"]


def test_a_table_that_cannot_be_used_is_refused_before_any_study(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="lacks columns"):
        read(folder, table=write_table(tmp_path / "t.csv", header="a,b"))
