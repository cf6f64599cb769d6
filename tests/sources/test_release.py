"""What was released comes back as the studies that it was made of."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medfinder.curation.dataset import Dataset
from medfinder.curation.release import release
from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Case, Dropped, Finding, Study
from medfinder.sources import find_reader, find_source
from medfinder.volume import read_volume

CASES = [
    Case(
        case_id=f"{number:016x}",
        study_id=f"study{number // 2}",
        patient_id="patient",
        source="nifti",
        split="train",
        volume="",
        report="A nodule is seen in the right lung." if number < 2 else "",
        report_es="nódulo en el pulmón derecho" if number < 2 else "",
        findings=(Finding("nodule", laterality="right"),),
        findings_from="label" if number < 2 else "report",
        age_years=61,
        sex="F",
        date_offset_days=12,
        spacing_mm=(0.7, 0.7, 1.25),
        shape=(512, 512, 300),
        region="chest",
        is_synthetic=True,
    )
    for number in range(3)
]


@pytest.fixture
def released(tmp_path: Path, make_dataset: Callable[..., Dataset]) -> Path:
    release(make_dataset(tmp_path / "dataset", CASES, audits=["pairing"]), tmp_path / "out", audit=None)
    return tmp_path / "out"


def rewrite(folder: Path, **values: object) -> None:
    """Change columns of the first row of the release's table."""
    path = folder / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0].update(values)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def test_a_release_is_recognised_and_its_studies_come_back(released: Path) -> None:
    assert find_source(released) == "release"
    one, two = find_reader("release")(released)
    assert isinstance(one, Study)
    assert isinstance(two, Study)
    assert (one.study_id, one.patient_id, one.source, len(one.series)) == ("study0", "patient", "release", 2)
    assert (one.report, one.report_language, one.report_en) == (CASES[0].report_es, "es", CASES[0].report)
    assert one.findings == (Finding("nodule", laterality="right"),)
    assert (one.age_years, one.sex, one.date_offset_days, one.is_synthetic) == (61, "F", 12, True)
    assert read_volume(one.series[1].path).shape == (32, 28, 32)


def test_findings_that_were_read_from_a_report_are_left_to_be_read_again(released: Path) -> None:
    _, two = find_reader("release")(released)
    assert isinstance(two, Study)
    assert (two.findings, two.report) == ((), None)


@pytest.mark.parametrize("volume", ["../elsewhere.nii", "/etc/passwd", ""])
def test_a_volume_outside_the_folder_is_set_aside(released: Path, volume: str) -> None:
    rewrite(released, volume=volume)
    assert [row.reason for row in find_reader("release")(released) if isinstance(row, Dropped)] == ["path outside"]


def test_volumes_of_one_study_with_two_reports_are_set_aside_without_their_text(released: Path) -> None:
    rewrite(released, report="Juana Pérez has a mass.")
    dropped = [row for row in find_reader("release")(released) if isinstance(row, Dropped)]
    assert [row.reason for row in dropped] == ["rows differ"]
    assert "Juana" not in repr(dropped)


def test_what_is_no_release_and_what_is_damaged_are_told(released: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="brings its reports"):
        find_reader("release")(released, table=tmp_path / "t.csv")
    (released / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(DatasetError, match="damaged"):
        list(find_reader("release")(released))
    (released / "provenance.json").write_text(json.dumps({"kind": "something else"}))
    with pytest.raises(ConfigError, match="is no release"):
        find_reader("release")(released)
