"""A release loads elsewhere, is the same whenever it is made, and is refused where it may not be handed on."""

import hashlib
import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from medfinder.curation import release as module
from medfinder.curation.dataset import Dataset
from medfinder.curation.release import ReleaseSettings, find_personal_data, release
from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Case, Doubt, Dropped, Finding

MakeDataset = Callable[..., Dataset]
AUDITED = {"audits": {"pairing": {"doubts": 0}, "deidentification": {"removed": 3}}}


def make_case(number: int, **changes: object) -> Case:
    case = Case(
        case_id=f"{number:016x}",
        study_id=f"study{number // 2}",
        patient_id=f"patient{number // 4}",
        source="nifti",
        split=("train", "train", "test")[number // 4],  # type: ignore[arg-type]
        volume="",
        report=f'A "nodule": seen in {number} | slices\nof the right lung',
        report_es="nódulo en el pulmón derecho",
        findings=(Finding("nodule", laterality="right", size_mm=4.5),) if number % 2 else (),
        findings_from="report",
        age_years=89 + number,
        sex="F",
        date_offset_days=None,
        spacing_mm=(0.7, 0.7, 1.25),
        shape=(512, 512, 300),
        region="chest",
        is_synthetic=False,
    )
    return replace(case, **changes)  # type: ignore[arg-type]


CASES = [make_case(number) for number in range(10)]


def clean(dataset: Dataset) -> Sequence[str]:
    return []


@pytest.fixture
def dataset(tmp_path: Path, make_dataset: MakeDataset) -> Dataset:
    dropped = [Dropped("lost", "", "nifti", "read", "truncated", "100 of 200 bytes")]
    return make_dataset(tmp_path / "dataset", CASES, dropped=dropped, **AUDITED)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_release_loads_with_datasets(dataset: Dataset, tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    release(dataset, tmp_path / "out", ReleaseSettings(shard_cases=3), audit=clean)
    loaded = datasets.load_dataset(str(tmp_path / "out"), "cases", cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 8, "test": 2}
    rows = [row for split in ("train", "test") for row in loaded[split]]
    assert [row["case_id"] for row in rows] == [case.case_id for case in CASES]
    assert [row["report"] for row in rows] == [case.report for case in CASES]
    assert rows[1]["findings"][0]["size_mm"] == 4.5
    dropped = datasets.load_dataset(str(tmp_path / "out"), "dropped", cache_dir=str(tmp_path / "cache"))["train"]
    assert dropped["reason"] == ["truncated"]


def test_volumes_are_those_of_the_dataset_and_their_digests_are_told(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    release(dataset, out, audit=clean)
    for row in pq.read_table(out / "data").to_pylist():
        case = next(case for case in dataset.cases if case.case_id == row["case_id"])
        volume = nib.load(out / row["volume"])
        np.testing.assert_array_equal(np.asanyarray(volume.dataobj), dataset.volume(case))
        assert hashlib.sha256((out / row["volume"]).read_bytes()).hexdigest() == row["volume_sha256"]


def test_the_oldest_are_told_as_one_group(dataset: Dataset, tmp_path: Path) -> None:
    summary = release(dataset, tmp_path / "out", audit=clean)
    ages = pq.read_table(tmp_path / "out" / "data")["age_years"].to_pylist()
    assert sorted(ages) == [89] + [90] * 9
    assert any("ages above 90" in remark for remark in summary.remarks)


def test_checksums_hold_for_every_file(dataset: Dataset, tmp_path: Path) -> None:
    summary = release(dataset, tmp_path / "out", audit=clean)
    checked = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out", check=False)
    assert checked.returncode == 0
    listed = {line.split("  ")[1] for line in (tmp_path / "out" / "SHA256SUMS").read_text().splitlines()}
    assert listed | {"SHA256SUMS"} == contents(tmp_path / "out").keys() == set(summary.files)


def test_the_header_of_the_card_is_what_the_hub_reads(dataset: Dataset, tmp_path: Path) -> None:
    settings = ReleaseSettings(name='Chest "CT": a test', license="cc-by-4.0", shard_cases=3)
    release(dataset, tmp_path / "out", settings, audit=clean)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---\n")[1])
    assert (header["license"], header["pretty_name"]) == ("cc-by-4.0", 'Chest "CT": a test')
    assert header["size_categories"] == ["n<1K"]
    assert header["language"] == ["en", "es"]
    cases = header["configs"][0]
    assert cases["data_files"] == [
        {"split": "train", "path": "data/train-*.parquet"},
        {"split": "test", "path": "data/test-*.parquet"},
    ]
    assert [split["num_examples"] for split in header["dataset_info"][0]["splits"]] == [8, 2]
    assert "Not for diagnosis" in card
    tables = sorted(name for name in contents(tmp_path / "out") if name.startswith("data/"))
    assert tables == ["data/test-00000-of-00001.parquet", *(f"data/train-{n:05d}-of-00003.parquet" for n in range(3))]


def test_the_same_dataset_gives_the_same_bytes_and_a_second_run_changes_nothing(
    dataset: Dataset, tmp_path: Path
) -> None:
    pictures = {"flow.svg": "<svg/>"}
    first = release(dataset, tmp_path / "one", audit=clean, pictures=pictures)
    release(dataset, tmp_path / "two", audit=clean, pictures=pictures)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "one").rglob("*")}
    again = release(dataset, tmp_path / "one", audit=clean, pictures=pictures)
    assert (first.state, again.state) == ("written", "complete")
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "one").rglob("*")}


@pytest.mark.parametrize("at", [1, 4, 7, 10, 13])
def test_ended_anywhere_it_goes_on_and_ends_in_the_same_bytes(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    release(dataset, tmp_path / "whole", audit=clean)
    left = at

    def stop(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    def stopping(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **options: Any) -> Any:
            stop()
            return function(*words, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("write_whole", "_write_table", "_write_texts", "_write_checksums"):
            patch.setattr(module, name, stopping(getattr(module, name)))
        with pytest.raises(KeyboardInterrupt):
            release(dataset, tmp_path / "out", audit=clean)
    assert not (tmp_path / "out" / "SHA256SUMS").exists()
    written = {name for name in contents(tmp_path / "out") if name.startswith("volumes/")}
    assert len(written) == min(at - 1, 10)
    assert release(dataset, tmp_path / "out", audit=clean).state == "written"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_dry_run_writes_nothing_and_names_what_would_be_written(dataset: Dataset, tmp_path: Path) -> None:
    dry = release(dataset, tmp_path / "out", audit=clean, dry_run=True)
    assert not (tmp_path / "out").exists()
    wet = release(dataset, tmp_path / "out", audit=clean)
    assert (dry.files, dry.splits, dry.state) == (wet.files, wet.splits, "dry run")


@pytest.mark.parametrize(
    ("audits", "message"),
    [
        ({}, "pairing and deidentification not audited"),
        ({"audits": {"pairing": True}}, "deidentification not audited"),
        ({"audits": {"pairing": False, "deidentification": True}}, "pairing not audited"),
        ({"audits": "pairing"}, "pairing and deidentification not audited"),
    ],
)
def test_what_was_not_audited_is_refused(
    tmp_path: Path, make_dataset: MakeDataset, audits: dict[str, object], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        release(make_dataset(tmp_path / "d", CASES, **audits), tmp_path / "out", audit=clean, dry_run=True)
    assert not (tmp_path / "out").exists()


def test_personal_data_is_refused_and_never_repeated(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="found personal data in 2 places") as refusal:
        release(dataset, tmp_path / "out", audit=lambda _: ["Juana Pérez", "600 123 123"])
    assert "Juana" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_synthetic_cases_need_no_audit_for_personal_data_but_a_single_real_one_does(
    tmp_path: Path, make_dataset: MakeDataset
) -> None:
    def never(_: Dataset) -> list[str]:
        raise AssertionError("nobody is to be looked for in phantoms")

    made = [replace(case, is_synthetic=True) for case in CASES]
    phantoms = make_dataset(tmp_path / "made", made, audits=["pairing"])
    release(phantoms, tmp_path / "out", audit=never)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "**SYNTHETIC.**" in card
    assert "synthetic" in yaml.safe_load(card.split("---\n")[1])["tags"]
    mixed = make_dataset(tmp_path / "mixed", [*made[:9], CASES[9]], audits=["pairing"])
    with pytest.raises(DatasetError, match="deidentification not audited"):
        release(mixed, tmp_path / "other", audit=clean)


@pytest.mark.slow
def test_the_audit_looks_at_what_is_handed_on_and_not_at_what_stays(
    dataset: Dataset, tmp_path: Path, make_dataset: MakeDataset
) -> None:
    decision = {"item": "pairing/study9", "verdict": "accept", "reader": "Dra. Juana Pérez García"}
    (dataset.path / "decisions.jsonl").write_text(json.dumps(decision) + "\n", encoding="utf-8")
    assert find_personal_data(dataset) == []
    named = [replace(CASES[0], report="Informado por Dra. Juana Pérez García, tel. 612 345 678."), *CASES[1:]]
    leaking = make_dataset(tmp_path / "leaking", named, **AUDITED)
    with pytest.raises(DatasetError, match="found personal data"):
        release(leaking, tmp_path / "out")


@pytest.mark.parametrize(
    ("item", "verdict", "passes"),
    [
        ("pairing/study0", "accept", True),
        (f"pairing/{CASES[0].case_id}", "correct", True),
        ("pairing/study0", "reject", False),
        ("translation/study0", "accept", False),
        ("pairing/study1", "accept", False),
    ],
)
def test_a_case_that_waits_for_a_reader_is_refused_until_it_is_decided(
    tmp_path: Path, make_dataset: MakeDataset, item: str, verdict: str, passes: bool
) -> None:
    doubts = {CASES[0].case_id: {"doubts": (Doubt("pairing", "date differs", "by 9 days", True),)}}
    dataset = make_dataset(tmp_path / "d", CASES, figures=doubts, **AUDITED)
    with pytest.raises(DatasetError, match="1 of its cases"):
        release(dataset, tmp_path / "out", audit=clean, dry_run=True)
    (dataset.path / "decisions.jsonl").write_text(json.dumps({"item": item, "verdict": verdict}) + '\n{"item": "torn')
    if passes:
        assert release(dataset, tmp_path / "out", audit=clean).cases == 10
        assert not (tmp_path / "out" / "decisions.jsonl").exists()
    else:
        with pytest.raises(DatasetError, match="1 of its cases"):
            release(dataset, tmp_path / "out", audit=clean)


def test_a_doubt_that_does_not_hold_is_no_hindrance(tmp_path: Path, make_dataset: MakeDataset) -> None:
    doubts = {CASES[0].case_id: {"doubts": (Doubt("quality", "noise", "21 HU", False),)}}
    dataset = make_dataset(tmp_path / "d", CASES, figures=doubts, **AUDITED)
    assert release(dataset, tmp_path / "out", audit=clean).cases == 10


@pytest.mark.parametrize("source", ["bimcv", "bimcv_r"])
def test_what_may_not_be_redistributed_says_so(tmp_path: Path, make_dataset: MakeDataset, source: str) -> None:
    cases = [replace(case, source=source) for case in CASES]
    summary = release(make_dataset(tmp_path / "d", cases, **AUDITED), tmp_path / "out", audit=clean)
    assert any("may not be redistributed" in remark for remark in summary.remarks)
    assert "may not be redistributed" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_volume_that_is_not_the_curated_one_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    volume = dataset.path / dataset.cases[3].volume
    volume.write_bytes(volume.read_bytes()[:-2] + b"\x01\x02")
    with pytest.raises(DatasetError, match=f"{dataset.cases[3].case_id} is not the one that was curated"):
        release(dataset, tmp_path / "out", audit=clean)
    volume.unlink()
    with pytest.raises(DatasetError, match="is gone"):
        release(dataset, tmp_path / "out", audit=clean)


def test_a_folder_with_something_else_is_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        release(dataset, out, audit=clean)
    assert contents(out) == {"thesis.txt": b"mine"}
    with pytest.raises(ConfigError, match="within each other"):
        release(dataset, dataset.path / "release", audit=clean)


def test_another_dataset_is_not_laid_upon_a_release(
    dataset: Dataset, tmp_path: Path, make_dataset: MakeDataset
) -> None:
    release(dataset, tmp_path / "out", audit=clean)
    before = contents(tmp_path / "out")
    with pytest.raises(ConfigError, match="not empty"):
        release(make_dataset(tmp_path / "fewer", CASES[:9], **AUDITED), tmp_path / "out", audit=clean)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"license": "CC BY 4.0"}, "e.g. cc-by-4.0"),
        ({"license": "nonsense"}, "license 'nonsense'; expected a name as the hub writes it, e.g. cc-by-4.0"),
        ({"name": "two\nlines"}, "one line"),
        ({"shard_cases": 0}, "1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReleaseSettings(**values)
