"""Figures of a dataset: counts that add up, tables worked by hand, and the paper's numbers told apart."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medfinder.curation.card import write_card
from medfinder.curation.dataset import Dataset
from medfinder.curation.statistics import (
    Table,
    describe,
    describe_folder,
    describe_records,
    flow_table,
    lay_out,
    make_tables,
    statistics_markdown,
    statistics_text,
)
from medfinder.errors import DatasetError
from medfinder.records import Case, Doubt, Dropped, Finding


def make_case(number: int = 0, **changes: object) -> Case:
    case = Case(
        case_id=f"case{number}",
        study_id=f"study{number}",
        patient_id=f"patient{number}",
        source="nifti",
        split="train",
        volume=f"volumes/case{number}.nii",
        report="five words about a lung",
        report_es="",
        findings=(Finding("nodule"), Finding("mass", "absent"), Finding("cyst", "uncertain")),
        findings_from="report",
        age_years=61,
        sex="F",
        date_offset_days=None,
        spacing_mm=(0.7, 0.7, 1.25),
        shape=(512, 512, 300),
        region="chest",
        is_synthetic=False,
    )
    return replace(case, **changes)  # type: ignore[arg-type]


def drop(study: str, stage: str, reason: str, series: str = "") -> Dropped:
    return Dropped(study, series, "nifti", stage, reason, "a sentence with figures")


def test_every_study_ends_in_one_place_and_the_counts_add_up() -> None:
    dropped = [
        drop("study0", "series", "localizer", "s1"),
        drop("lost", "read", "truncated", "s1"),
        drop("lost", "quality", "too small", "s2"),
        drop("gone", "report", "no report"),
        drop("told", "table", "two reports"),
        drop("row", "table", "no image"),
        drop("row", "table", "no image"),
        drop("study1", "table", "duplicate row"),
        drop("study9", "review", "rejected: quality", "case9"),
    ]
    held = [make_case(8), make_case(9), make_case(7, study_id="study0")]
    negated = Doubt("translation", "negation differs", "two against one", True)
    date = Doubt("pairing", "date differs", "by 9 days", True)
    noise = Doubt("quality", "noise", "21 HU", False)
    doubts = {"case8": (noise, negated, date), "case7": (negated,), "case1": (noise,)}
    flow = describe_records([make_case(0), make_case(1)], dropped, held=held, doubts=doubts)["flow"]
    assert flow["found"] == 7
    assert [(step["stage"], step["studies"], step["reasons"]) for step in flow["steps"]] == [
        ("table", 1, {"two reports": 1}),
        ("quality", 1, {"too small": 1}),
        ("report", 1, {"no report": 1}),
        ("review", 1, {"rejected: quality": 1}),
    ]
    assert (flow["kept"], flow["waiting"], flow["series_aside"]) == (2, 1, 1)
    assert flow["rows_aside"] == {"no image": 2, "duplicate row": 1}
    assert flow["waiting_for"] == {"pairing: date differs": 1}
    assert flow["found"] == flow["kept"] + flow["waiting"] + sum(step["studies"] for step in flow["steps"])


def test_rows_of_an_alien_table_are_no_studies_that_were_found() -> None:
    alien = [drop(f"row{n}", "table", "no image") for n in range(21)]
    told = describe_records([make_case(n) for n in range(6)], alien)
    rows = flow_table(told["flow"], told["cases"]).rows
    assert rows[0][:2] == ("found", "6")
    assert rows[-1] == ("beside them: table rows set aside", "21", "no image 21")
    assert "table rows" not in str(flow_table(describe_records([make_case(0)], [])["flow"], 1).rows)


def test_findings_are_counted_by_what_is_said_of_them() -> None:
    cases = [make_case(0), make_case(1, split="test", findings=(Finding("nodule"), Finding("nodule", size_mm=4.0)))]
    findings = describe_records(cases, [])["findings"]
    assert list(findings) == ["nodule", "cyst", "mass"]
    assert (findings["nodule"]["cases"], findings["nodule"]["base_rate"], findings["nodule"]["test"]) == (2, 1.0, 1)
    assert (findings["mass"]["cases"], findings["mass"]["absent"], findings["cyst"]["uncertain"]) == (0, 1, 1)


def test_patients_are_counted_once_at_their_youngest_age_and_the_oldest_as_one_group() -> None:
    cases = [
        make_case(0, age_years=71),
        make_case(1, patient_id="patient0", age_years=68),
        make_case(2, age_years=97, sex="M"),
        make_case(3, age_years=None, sex=None),
    ]
    ages = describe_records(cases, [])["ages"]
    assert list(ages) == ["60-69", "70-79", "80-89", "90+", "unknown"]
    assert ages["60-69"] == {"F": 1, "M": 0, "unknown": 0}
    assert ages["70-79"] == ages["80-89"] == {"F": 0, "M": 0, "unknown": 0}
    assert (ages["90+"]["M"], ages["unknown"]["unknown"]) == (1, 1)


def test_shared_texts_are_told_and_two_volumes_of_a_study_share_nothing() -> None:
    long = " ".join(f"word{n}" for n in range(60))
    cases = [
        make_case(0),
        make_case(1, study_id="study0", patient_id="patient0"),
        make_case(2, report="Five  words about a LUNG"),
        make_case(3, patient_id="patient4", report="something else altogether is said"),
        make_case(4, report="something else altogether is said"),
        make_case(5, report=long),
        make_case(6, report=f"{long} more"),
        make_case(7, report="said once and never again"),
        make_case(8, report=""),
    ]
    assert describe_records(cases, [])["texts"] == {
        "reports": 7,
        "the same in several studies": 4,
        "nearly the same in several studies": 2,
        "of these in several patients": 4,
    }


@pytest.mark.parametrize(
    ("spacing", "bins"),
    [
        ([0.625, 1.25, 1.25, 2.0], [[0.5, 1.0, 1], [1.0, 1.5, 2], [1.5, 2.0, 0], [2.0, 2.5, 1]]),
        # Two cases bear twelve bins, a hundred bear twenty.
        ([1.0, 31.0], [[0.0, 4.0, 1], *([4.0 * n, 4.0 * n + 4, 0] for n in range(1, 7)), [28.0, 32.0, 1]]),
        ([1.0] * 99 + [31.0], [[0.0, 2.0, 99], *([2.0 * n, 2.0 * n + 2, 0] for n in range(1, 15)), [30.0, 32.0, 1]]),
    ],
)
def test_histograms_count_by_bin_and_widen_until_they_can_be_seen(
    spacing: list[float], bins: list[list[float]]
) -> None:
    cases = [make_case(n, spacing_mm=(0.3, 0.3, z)) for n, z in enumerate(spacing)]
    histograms = describe_records(cases, [])["histograms"]
    assert histograms["slice spacing (mm)"] == bins
    assert histograms["in-plane spacing (mm)"] == [[0.3, 0.35, len(spacing)]]


def test_the_papers_numbers_stand_beside_ours_and_are_told_apart() -> None:
    table = make_tables(describe_records([make_case(0), make_case(1, shape=(400, 512, 100))], []))[0]
    assert table.header[4:] == ("paper: average", "paper: median", "paper: range")
    rows = {row[0]: row[1:] for row in table.rows}
    # The paper's table 1, read from its page.
    assert rows["width"] == ("456", "456", "400 to 512", "529", "512", "514 to 710")
    assert rows["slices"][3:] == ("279", "224", "101 to 670")
    assert rows["report words"] == ("5", "5", "5 to 5", "104", "97", "7 to 260")
    assert rows["slice spacing (mm)"][3:] == ("", "", "")
    assert "no comparison" in table.note


def test_an_empty_dataset_has_tables_too() -> None:
    text = statistics_markdown(describe_records([], []))
    assert text.startswith("0 cases of 0 studies of 0 patients; set aside, be it study, series or table row: 0.")


def test_the_terminal_is_told_what_is_synthetic_and_gets_columns_of_even_width() -> None:
    text = statistics_text(describe_records([make_case(0, is_synthetic=True), make_case(1)], []))
    assert text.startswith("SYNTHETIC: 1 of 2 cases are computer-made phantoms.")
    lines = text[text.index("### Splits") :].splitlines()[2:6]
    assert [line.split() for line in lines[1:]] == [
        ["train", "2", "2", "2"],
        ["val", "0", "0", "0"],
        ["test", "0", "0", "0"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert lay_out(Table("", ("a",), (("b|c",),))).splitlines()[-1] == "| b\\|c |"


@pytest.fixture
def dataset(tmp_path: Path, make_dataset: Callable[..., Dataset]) -> Dataset:
    dropped = [drop("lost", "read", "truncated"), drop("gone", "report", "no report")]
    return make_dataset(tmp_path / "dataset", [make_case(n) for n in range(4)], dropped=dropped)


def test_a_folder_is_described_as_its_records_are(dataset: Dataset) -> None:
    told = describe(dataset)
    for key, value in describe_records(dataset.cases, dataset.dropped).items():
        if key not in ("doubts", "histograms", "table_1"):
            assert told[key] == value, key
    assert json.loads(json.dumps(told)) == told


def test_held_cases_and_candidates_of_series_are_read_where_there_are_some(dataset: Dataset) -> None:
    table = pq.read_table(dataset.path / "cases.parquet")
    first = {**table.slice(0, 1).to_pylist()[0], "case_id": "h", "study_id": "held one", "quality_score": 0.2}
    first["doubts"] = [{"stage": "pairing", "reason": "date differs", "detail": "by 9 days", "holds": True}]
    pq.write_table(pa.Table.from_pylist([first]), dataset.path / "held.parquet")
    series = [{"is_chosen": True, "reason": ""}, {"is_chosen": False, "reason": "localizer"}]
    pq.write_table(pa.Table.from_pylist(series), dataset.path / "series.parquet")
    told = describe_folder(dataset.path)
    assert (told["held"], told["flow"]["waiting"]) == (1, 1)
    assert told["doubts"]["pairing: date differs"] == {"cases": 1, "hold": 1}
    assert told["series"] == {"chosen": 1, "localizer": 1}
    card = write_card(told, dataset.provenance)
    assert "| `held.parquet` |" in card
    assert "| waiting for a person | 1 | pairing: date differs 1 |" in card


def test_a_damaged_table_is_told(dataset: Dataset) -> None:
    (dataset.path / "held.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(DatasetError, match="damaged"):
        describe_folder(dataset.path)


@pytest.mark.parametrize(
    ("audits", "told"),
    [
        ({}, "Pairing: not audited; deidentification: not audited."),
        ({"pairing": {"doubts": 0}}, "belong together; deidentification: not audited."),
        ({"pairing": True, "deidentification": True}, "belong together; texts were de-identified."),
    ],
)
def test_the_card_says_what_was_audited(dataset: Dataset, audits: dict[str, object], told: str) -> None:
    assert told in write_card(describe(dataset), {**dataset.provenance, "audits": audits})
