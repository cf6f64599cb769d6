"""A dataset folder opens as records and mapped volumes, loads without our code, and is told from what is none."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from medfinder.curation.curate import curate
from medfinder.curation.dataset import Dataset
from medfinder.curation.statistics import describe, statistics_markdown
from medfinder.curation.study import CurationSettings
from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Finding


@pytest.fixture
def dataset(tmp_path: Path, make_phantoms: Callable[..., Path], settings: CurationSettings) -> Dataset:
    curate(make_phantoms(tmp_path / "phantoms", studies=10, faults=True), tmp_path / "dataset", settings)
    return Dataset.open(tmp_path / "dataset")


def test_cases_come_back_as_the_source_told_them(dataset: Dataset) -> None:
    case = next(case for case in dataset.cases if case.study_id == "phantom-0-s00004")
    assert case.patient_id == "phantom-0-p00002"
    assert case.report == "Chest CT shows a finding: pleural effusion."
    assert case.report_es == "tc torax sin contraste . hallazgos descritos ."
    assert case.findings == (Finding("pleural effusion", laterality="left"),)
    assert case.findings_from == "truth"
    assert (case.age_years, case.sex, case.source, case.is_synthetic) == (54, "F", "phantoms", True)
    assert case.shape == (32, 28, 30)
    assert case.spacing_mm == (10.0, 10.0, 10.0)
    assert case.region == "chest"
    assert dataset.is_synthetic


def test_volumes_are_mapped_and_lie_on_the_grid(dataset: Dataset) -> None:
    for case in dataset.cases:
        volume = dataset.volume(case)
        assert isinstance(volume, np.memmap)
        assert volume.shape == dataset.grid.shape
        assert volume.dtype == np.int16
        assert volume.min() < -500 < 0 < volume.max()


def test_every_fault_has_its_row(dataset: Dataset) -> None:
    told = {row.study_id: (row.stage, row.reason) for row in dataset.dropped}
    assert told == {
        "phantom-0-s00001": ("report", "no report"),
        "phantom-0-s00002": ("read", "not gzip"),
        "phantom-0-s00003": ("quality", "too small"),
    }
    assert len(dataset.cases) == 8


def test_a_patient_is_in_one_split_only(dataset: Dataset) -> None:
    by_patient: dict[str, set[str]] = {}
    for case in dataset.cases:
        by_patient.setdefault(case.patient_id, set()).add(case.split)
    assert all(len(splits) == 1 for splits in by_patient.values())
    assert sum(len(dataset.select(split)) for split in ("train", "val", "test")) == len(dataset.select("all")) == 8


def test_an_unknown_split_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="known: train, val, test, all"):
        dataset.select("valid")


def test_the_tables_are_plain_parquet(dataset: Dataset) -> None:
    table = pq.read_table(dataset.path / "cases.parquet")
    first = table.to_pylist()[0]
    assert first["findings"][0]["name"] == "mass"
    assert first["shape"] == [32, 28, 30]
    assert len(first["volume_sha256"]) == 64
    assert table.schema.metadata is None or b"pandas" not in table.schema.metadata


def test_the_digest_tells_datasets_apart(
    dataset: Dataset, tmp_path: Path, make_phantoms: Callable[..., Path], settings: CurationSettings
) -> None:
    again = Dataset.open(dataset.path)
    assert again.digest == dataset.digest
    curate(make_phantoms(tmp_path / "fewer", studies=9, faults=True), tmp_path / "other", settings)
    assert Dataset.open(tmp_path / "other").digest != dataset.digest


def test_nothing_in_the_folder_tells_where_or_when_it_was_made(dataset: Dataset, tmp_path: Path) -> None:
    texts = [file.read_bytes() for file in dataset.path.rglob("*") if file.is_file()]
    assert not any(str(tmp_path).encode() in text for text in texts)
    told = json.dumps(dataset.provenance).replace("timeout_s", "")
    assert "time" not in told


def test_the_card_says_synthetic_and_not_for_diagnosis(dataset: Dataset) -> None:
    card = (dataset.path / "README.md").read_text(encoding="utf-8")
    assert "**SYNTHETIC.**" in card
    assert "Not for diagnosis" in card
    assert "| pleural effusion |" in card
    assert "| quality: too small | 1 |" in card
    assert card.startswith("---\nconfigs:\n- config_name: cases\n")


def test_figures_are_right(dataset: Dataset) -> None:
    told = describe(dataset)
    assert (told["cases"], told["studies"], told["patients"], told["dropped"]) == (8, 7, 4, 3)
    assert told["table_1"]["width"] == {"average": 32, "median": 32, "min": 32, "max": 32}
    assert told["table_1"]["report words"]["max"] == 7
    # Studies 0 (two series), 6 and 9 have a mass: by the fixture, name number % 3.
    assert told["findings"]["mass"]["cases"] == 4
    assert told["findings"]["mass"]["base_rate"] == 0.5
    assert told["dropped_by_reason"] == {"quality: too small": 1, "read: not gzip": 1, "report: no report": 1}
    assert json.loads(json.dumps(told)) == told
    assert "| mass | 4 | 50.0% |" in statistics_markdown(told)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "does not exist; expected a dataset folder"),
        (lambda path: path.write_text("x"), "is a file"),
        (lambda path: path.mkdir(), "found nothing, expected provenance.json"),
        (lambda path: (path / "cts").mkdir(parents=True), "found cts, expected"),
        (lambda path: (path / ".work").mkdir(parents=True), "was not finished; run the same"),
        (lambda path: (path.mkdir(), (path / "provenance.json").write_text("[1]")), "is no dataset"),
        (
            lambda path: (path.mkdir(), (path / "provenance.json").write_text('{"kind": "medfinder dataset"}')),
            "has lost",
        ),
    ],
)
def test_what_is_no_dataset_is_told_from_one(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "x")
    with pytest.raises(DatasetError, match=message):
        Dataset.open(tmp_path / "x")


def test_a_damaged_table_and_a_lost_volume_are_told(dataset: Dataset) -> None:
    case = dataset.cases[0]
    (dataset.path / case.volume).write_bytes(b"short")
    with pytest.raises(DatasetError, match="gone or damaged"):
        dataset.volume(case)
    (dataset.path / "cases.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(DatasetError, match="damaged or of another kind"):
        _ = Dataset.open(dataset.path).cases
