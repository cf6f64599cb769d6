"""The whole way of a study: raw folder, table and key to cases, doubts, decisions and back."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from medfinder.curation.curate import curate
from medfinder.curation.dataset import Dataset
from medfinder.curation.deidentify.keys import Key
from medfinder.curation.diagnoses import Diagnosis, write_diagnoses
from medfinder.curation.review import decide, list_items, read_decisions
from medfinder.curation.study import CurationSettings
from medfinder.curation.translate import TranslationSettings
from medfinder.errors import ConfigError
from medfinder.sources.phantoms.bimcv_plan import FaultRates, TreeSettings
from medfinder.sources.phantoms.bimcv_tree import write_bimcv_tree

SPANISH = "derrame pleural izquierdo de 12 mm . no se observan adenopatias . paciente maria garcia lopez ."
FAITHFUL = "Left pleural effusion of 12 mm. No adenopathy is seen. Patient maria garcia lopez."
MIRRORED = FAITHFUL.replace("Left", "Right")


@pytest.fixture
def source(tmp_path: Path, make_chest: Callable[..., np.ndarray], save_volume: Callable[..., Path]) -> Path:
    """Two NIfTI chests that nobody calls synthetic, and a table of their Spanish reports."""
    folder = tmp_path / "source"
    for number in range(2):
        save_volume(folder / f"ct{number}.nii.gz", make_chest(seed=number))
    with (tmp_path / "reports.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "report", "language", "patient_id"])
        writer.writerow(["ct0.nii.gz", SPANISH, "es", "NHC 123456"])
        writer.writerow(["ct1.nii.gz", f"<p>{SPANISH.replace('12', '31')}</p>", "es", "NHC 999999"])
    return folder


@pytest.fixture
def key(tmp_path: Path) -> Path:
    Key.make(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def real(settings: CurationSettings) -> CurationSettings:
    """Settings as for real data."""
    return replace(settings, deidentify=True)


def record(tmp_path: Path, english: dict[str, str]) -> TranslationSettings:
    """Write translations down as the engine ``recorded`` reads them."""
    path = tmp_path / "recorded.jsonl"
    rows = (json.dumps({"spanish": spanish, "english": text}) for spanish, text in english.items())
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return TranslationSettings(engine="recorded", path=path)


def test_real_examinations_need_a_key_or_an_explicit_no(source: Path, tmp_path: Path, real: CurationSettings) -> None:
    table = tmp_path / "reports.csv"
    with pytest.raises(ConfigError, match="--key-file"):
        curate(source, tmp_path / "out", real, table=table)
    assert not (tmp_path / "out").exists()
    summary = curate(source, tmp_path / "out", replace(real, deidentify=False), table=table)
    assert summary.cases == 2


def test_a_key_within_the_dataset_is_refused(source: Path, tmp_path: Path, real: CurationSettings) -> None:
    (tmp_path / "out").mkdir()
    Key.make(tmp_path / "out" / "key")
    with pytest.raises(ConfigError, match="lies in the dataset"):
        curate(source, tmp_path / "out", real, table=tmp_path / "reports.csv", key=tmp_path / "out" / "key")


def test_nothing_of_the_dataset_names_the_patient(
    source: Path, tmp_path: Path, real: CurationSettings, key: Path
) -> None:
    curate(source, tmp_path / "out", real, table=tmp_path / "reports.csv", key=key)
    dataset = Dataset.open(tmp_path / "out")
    assert len(dataset.cases) == 2
    assert all("derrame pleural izquierdo" in case.report_es and "<p>" not in case.report for case in dataset.cases)
    everything = b"".join(file.read_bytes() for file in dataset.path.rglob("*") if file.is_file()).lower()
    assert not any(word in everything for word in (b"maria", b"garcia", b"lopez", b"123456", b"ct0.nii"))
    other = tmp_path / "other key"
    Key.make(other)
    curate(source, tmp_path / "again", real, table=tmp_path / "reports.csv", key=other)
    known = {case.patient_id for case in dataset.cases}
    assert not known & {case.patient_id for case in Dataset.open(tmp_path / "again").cases}


def test_a_translation_that_changes_the_side_is_held_until_a_reader_corrects_it(
    source: Path, tmp_path: Path, settings: CurationSettings
) -> None:
    table = tmp_path / "reports.csv"
    plain = SPANISH.replace("12", "31")
    engine = record(tmp_path, {SPANISH: MIRRORED, plain: FAITHFUL.replace("12", "31")})
    translated = replace(settings, translation=engine)
    out = tmp_path / "out"
    before = curate(source, out, translated, table=table)
    assert (before.cases, before.held) == (1, 1)
    rows = Dataset.open(out).all_rows()
    items = {item.key: item for item in list_items(rows, read_decisions(out)) if item.holds}
    ((name, item),) = items.items()
    assert item.stage == "translation"
    decide(out, items, name, "correct", reader="ab", before=MIRRORED, after=FAITHFUL)
    volumes = {file: file.stat().st_mtime_ns for file in (out / "volumes").iterdir()}
    after = curate(source, out, translated, table=table)
    assert (after.cases, after.held, after.is_new) == (2, 0, True)
    assert FAITHFUL in {case.report for case in Dataset.open(out).cases}
    assert volumes == {file: file.stat().st_mtime_ns for file in (out / "volumes").iterdir()}
    assert not curate(source, out, translated, table=table).is_new
    decide(out, {item.key: item}, name, "reopen", reader="ab")
    again = curate(source, out, translated, table=table)
    assert (again.cases, again.held) == (1, 1)
    assert MIRRORED in {case.report for case, _ in Dataset.open(out).held}


def test_a_recorded_file_that_changed_under_its_name_is_taken_up(
    source: Path, tmp_path: Path, settings: CurationSettings, folder_bytes: Callable[[Path], dict[str, bytes]]
) -> None:
    table, out, plain = tmp_path / "reports.csv", tmp_path / "out", SPANISH.replace("12", "31")
    english = {SPANISH: FAITHFUL, plain: FAITHFUL.replace("12", "31")}
    translated = replace(settings, translation=record(tmp_path, english))
    curate(source, out, translated, table=table)
    assert not curate(source, out, translated, table=table).is_new
    better = FAITHFUL.replace("No adenopathy is seen", "There is no adenopathy")
    record(tmp_path, english | {SPANISH: better})
    assert curate(source, out, translated, table=table).is_new
    assert better in {case.report for case in Dataset.open(out).cases}
    curate(source, tmp_path / "fresh", translated, table=table)
    tables = [
        {n: b for n, b in folder_bytes(one).items() if n != "translations.jsonl"} for one in (out, tmp_path / "fresh")
    ]
    assert tables[0] == tables[1]
    (tmp_path / "recorded.jsonl").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        curate(source, out, translated, table=table)
    assert len(Dataset.open(out).cases) == 2


def test_a_rejected_case_is_told_among_the_dropped(source: Path, tmp_path: Path, settings: CurationSettings) -> None:
    out = tmp_path / "out"
    engine = record(tmp_path, {SPANISH: MIRRORED, SPANISH.replace("12", "31"): MIRRORED.replace("12", "31")})
    translated = replace(settings, translation=engine)
    curate(source, out, translated, table=tmp_path / "reports.csv")
    items = {item.key: item for item in list_items(Dataset.open(out).all_rows(), []) if item.holds}
    for name in items:
        decide(out, items, name, "reject", reader="ab")
    summary = curate(source, out, translated, table=tmp_path / "reports.csv")
    assert (summary.cases, summary.reasons) == (0, {"review: rejected: translation": 2})
    assert "no case is left" in " ".join(summary.remarks)


def test_what_experts_settled_on_replaces_what_was_read(
    source: Path, tmp_path: Path, settings: CurationSettings
) -> None:
    out = tmp_path / "out"
    curate(source, out, settings, table=tmp_path / "reports.csv")
    case = Dataset.open(out).cases[0]
    assert ("pleural effusion", "present") in [(one.name, one.status) for one in case.findings]
    words = [Diagnosis(case.case_id, "pleural effusion", "absent", reader) for reader in ("ab", "cd")]
    write_diagnoses(words, out / "diagnoses.parquet")
    assert curate(source, out, settings, table=tmp_path / "reports.csv").is_new
    found = next(one for one in Dataset.open(out).cases if one.case_id == case.case_id)
    assert ("pleural effusion", "absent") in [(one.name, one.status) for one in found.findings]
    assert found.findings_from == "label"


def test_of_a_raw_tree_the_best_series_become_cases_and_mispaired_reports_are_told(
    tmp_path: Path, settings: CurationSettings
) -> None:
    raw, links = tmp_path / "raw", tmp_path / "links.csv"
    faults = replace(FaultRates.none(), mispaired=0.5)
    write_bimcv_tree(raw, studies=6, seed=7, size=48, settings=TreeSettings(mean_series=4, faults=faults))
    summary = curate(raw, tmp_path / "out", settings, links=links)
    truth = [json.loads(line) for line in (raw / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    sessions = [line for line in truth if line["record"] == "session" and line["modality"] == "CT"]
    assert summary.cases + summary.held + summary.mispaired == len(sessions)
    assert 0 < summary.mispaired <= sum("mispaired" in line["faults"] for line in sessions)
    assert "MISPAIRED" in " ".join(summary.remarks)
    with links.open(encoding="utf-8", newline="") as file:
        paths = {row["series_id"]: Path(row["path"]).name for row in csv.DictReader(file)}
    chosen = [row for row in pq.read_table(tmp_path / "out" / "series.parquet").to_pylist() if row["is_chosen"]]
    best = {Path(path).name for line in sessions for path in line["best"]}
    assert len(chosen) == summary.cases + summary.held
    assert {paths[row["series_id"]] for row in chosen} <= best
