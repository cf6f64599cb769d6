"""Expert diagnoses: read whole or told row by row, settled, laid upon findings."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medfinder.curation.diagnoses import (
    STORE,
    Diagnosis,
    apply_diagnoses,
    count_settlements,
    import_diagnoses,
    open_store,
    read_diagnoses,
    settle_diagnoses,
    settlements_by_case,
    write_diagnoses,
)
from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Finding

HEADER = "case_id,finding,status,reader,date\n"


def table(folder: Path, rows: str, header: str = HEADER) -> Path:
    path = folder / "readers.csv"
    path.write_text(header + rows, encoding="utf-8")
    return path


def test_a_table_is_read_in_the_words_that_readers_use(tmp_path: Path):
    rows = "a;derrame pleural;sí;R1;2024-05-31\na;GGO;0;R2;2024-05-31T10:00:00\nb;nodule;uncertain;R1;\n"
    read = read_diagnoses(table(tmp_path, rows, "Case;Diagnosis;Status;Radiologist;Fecha\n"))
    assert read.refused == ()
    assert read.diagnoses == (
        Diagnosis("a", "pleural effusion", "present", "R1", "2024-05-31"),
        Diagnosis("a", "ground-glass opacity", "absent", "R2", "2024-05-31T10:00:00"),
        Diagnosis("b", "nodule", "uncertain", "R1", ""),
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",nodule,present,R1,2024-05-31", "no case"),
        ("z,nodule,present,R1,2024-05-31", "unknown case"),
        ("a,sunburn,present,R1,2024-05-31", "unknown finding"),
        ("a,normal,present,R1,2024-05-31", "unknown finding"),
        ("a,nodule,maybe so,R1,2024-05-31", "unknown status"),
        ("a,nodule,,R1,2024-05-31", "unknown status"),
        ("a,nodule,present,,2024-05-31", "no reader"),
        ("a,nodule,present,R1,31/05/2024", "unknown date"),
        ("a", "unknown finding"),
    ],
)
def test_a_row_that_cannot_count_is_told_by_number_and_reason(tmp_path: Path, row: str, reason: str):
    path = table(tmp_path, f"a,mass,present,R1,2024-05-31\n{row}\n")
    read = read_diagnoses(path, case_ids={"a", "b"})
    assert [(refusal.row, refusal.reason) for refusal in read.refused] == [(3, reason)]
    assert len(read.diagnoses) == 1
    assert "R1" not in read.refused[0].detail


def test_repeated_words_count_once_the_later_one_counts_and_contradictions_do_not(tmp_path: Path):
    rows = (
        "a,nodule,present,R1,2024-05-01\na,nodule,present,R1,2024-05-01\n"  # the same twice
        "a,mass,present,R1,2024-05-01\na,mass,absent,R1,2024-06-01\n"  # a word that was changed
        "b,mass,present,R1,2024-05-01\nb,mass,absent,R1,2024-05-01\n"  # two words on one day
    )
    read = read_diagnoses(table(tmp_path, rows))
    assert [(d.case_id, d.finding, d.status) for d in read.diagnoses] == [
        ("a", "nodule", "present"),
        ("a", "mass", "absent"),
    ]
    assert [(refusal.row, refusal.reason) for refusal in read.refused] == [
        (3, "duplicate"),
        (4, "superseded"),
        (6, "contradiction"),
        (7, "contradiction"),
    ]


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_what_is_written_is_read_back(tmp_path: Path, name: str):
    words = [
        Diagnosis("b", "mass", "absent", 'R "one", é', "2024-05-31"),
        Diagnosis("a", "nodule", "present", "R2", ""),
    ]
    write_diagnoses(words, tmp_path / name)
    assert set(read_diagnoses(tmp_path / name).diagnoses) == set(words)
    before = (tmp_path / name).read_bytes()
    write_diagnoses(reversed(words), tmp_path / name)
    assert (tmp_path / name).read_bytes() == before


def test_another_ending_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="xlsx"):
        write_diagnoses([], tmp_path / "out.xlsx")


def test_a_file_that_is_no_table_of_diagnoses_is_refused(tmp_path: Path):
    with pytest.raises(DatasetError, match="no column finding, reader"):
        read_diagnoses(table(tmp_path, "a,1\n", "case_id,status\n"))
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 no")
    with pytest.raises(DatasetError, match="cannot be read as Parquet"):
        read_diagnoses(damaged)
    with pytest.raises(DatasetError, match="no column"):
        read_diagnoses(table(tmp_path, "", ""))


def test_a_parquet_table_may_hold_dates_and_numbers(tmp_path: Path):
    import datetime

    columns = {"case_id": [7], "finding": ["mass"], "status": [1], "reader": [3], "date": [datetime.date(2024, 5, 31)]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert read_diagnoses(tmp_path / "t.parquet").diagnoses == (Diagnosis("7", "mass", "present", "3", "2024-05-31"),)


def test_an_import_says_what_became_of_every_row(tmp_path: Path):
    first = "a,mass,present,R1,2024-05-01\na,nodule,present,R1,2024-05-01\nb,mass,absent,R1,2024-05-01\n"
    import_diagnoses(table(tmp_path, first), tmp_path, case_ids={"a", "b"})
    second = (
        "a,mass,absent,R1,2024-06-01\na,nodule,absent,R1,2024-04-01\nb,mass,absent,R1,2024-05-01\n"
        "b,nodule,present,R2,2024-05-01\nc,mass,present,R1,2024-05-01\n"
    )
    told = import_diagnoses(table(tmp_path, second), tmp_path, case_ids={"a", "b"})
    assert (told.added, told.changed, told.unchanged, told.older, len(told.refused)) == (1, 1, 1, 1, 1)
    kept = {(d.case_id, d.finding, d.reader): d.status for d in open_store(tmp_path).diagnoses}
    assert kept == {
        ("a", "mass", "R1"): "absent",
        ("a", "nodule", "R1"): "present",
        ("b", "mass", "R1"): "absent",
        ("b", "nodule", "R2"): "present",
    }
    assert (tmp_path / STORE).exists()


WORDS = [
    Diagnosis("a", "mass", "present", "R1"),
    Diagnosis("a", "mass", "present", "R2"),
    Diagnosis("a", "mass", "absent", "R3"),
    Diagnosis("b", "mass", "present", "R1"),
    Diagnosis("b", "mass", "absent", "R2"),
    Diagnosis("c", "mass", "absent", "R1"),
    Diagnosis("d", "mass", "present", "R1"),
    Diagnosis("d", "mass", "present", "R2"),
    Diagnosis("a", "mass", "absent", "S"),
    Diagnosis("b", "mass", "absent", "S"),
]


def test_the_majority_settles_else_the_adjudicator_else_nobody():
    settled = {s.case_id: (s.status, s.how) for s in settle_diagnoses(WORDS, adjudicator="S")}
    assert settled == {
        "a": ("present", "majority"),
        "b": ("absent", "adjudicator"),
        "c": ("absent", "one reader"),
        "d": ("present", "all agree"),
    }
    without = [word for word in WORDS if word.reader != "S"]
    assert {s.case_id: s.how for s in settle_diagnoses(without)}["b"] == "open"
    assert count_settlements(without) == {
        "one reader": 1,
        "all agree": 1,
        "majority": 1,
        "adjudicator": 0,
        "open": 1,
    }


def test_experts_stand_above_the_report_and_below_the_truth():
    said = (Finding("mass", "present", "left", "upper lobe", 41.0), Finding("nodule"), Finding("emphysema"))
    words = [
        Diagnosis("a", "mass", "present", "R1"),
        Diagnosis("a", "nodule", "absent", "R1"),
        Diagnosis("a", "cavity", "uncertain", "R1"),
    ]
    settled = settlements_by_case(settle_diagnoses(words))["a"]
    findings, origin, doubts = apply_diagnoses(said, "report", settled)
    assert origin == "label"
    assert doubts == ()
    assert set(findings) == {said[0], Finding("nodule", "absent"), Finding("emphysema"), Finding("cavity", "uncertain")}
    assert apply_diagnoses(said, "truth", settled) == (said, "truth", ())


def test_what_is_open_changes_nothing_and_is_a_doubt():
    words = [Diagnosis("b", "mass", "present", "R1"), Diagnosis("b", "mass", "absent", "R2")]
    said = (Finding("mass", "present", "left"),)
    findings, origin, doubts = apply_diagnoses(said, "report", settle_diagnoses(words))
    assert (findings, origin) == (said, "report")
    assert [(doubt.stage, doubt.reason, doubt.holds) for doubt in doubts] == [("diagnosis", "readers differ", False)]
    assert "R1" not in doubts[0].detail
