"""A table alone is enough to find its mispaired rows: a twin of the released one, of its numbers, with made-up ids."""

import csv
import random
from pathlib import Path
from typing import Any

import pytest

from medfinder.curation.pairing import PairingAudit, write_summary
from medfinder.curation.pairing_table import audit, audit_table
from medfinder.errors import ConfigError, DatasetError

HEADER = (
    "PatientID", "ReportID", "Report", "Labels", "Localizations", "LabelsLocalizationsBySentence", "labelCUIS",
    "LocalizationsCUIS", "num", "path", "Report_en", "ct_path",
)  # fmt: skip
SESSIONS = {"pos": 1346, "neg": 282}


def make_rows(half: str, rng: random.Random, *, first: int) -> list[list[str]]:
    """Make rows of one half; in the negative one the reports are moved on by one, as if a list had lost a line."""
    sessions = [(f"S{first + n:05d}", f"E{20000 + first + n:05d}") for n in range(SESSIONS[half])]
    reports = sessions if half == "pos" else sessions[1:] + sessions[:1]
    rows = []
    for number, (own, said) in enumerate(zip(sessions, reports, strict=True)):
        acquisition = f"_acq-{rng.randrange(1, 4)}" if rng.random() < 0.5 else ""
        name = f"sub-{own[0]}_ses-{own[1]}{acquisition}_run-1_bp-chest_ct.nii.gz"
        text = f"tc torax . {' '.join(f'hallazgo{rng.randrange(9999)}' for _ in range(12))} ."
        if half == "neg" and number % 4 == 0:
            text = f"rx torax pa y lateral . {text.removeprefix('tc torax . ')}"
        # A quotation mark, a comma and a line break that the table must survive.
        english = f'Chest "CT", {number}.\nNo change.'
        path = f"CT{1 + number % 3}/ct/{name}" if half == "pos" else name
        rows.append([*said, text, "['normal']", "[]", "[]", "[C0034079]", "[]", str(number), name, english, path])
    return rows


def write_table(path: Path, rows: list[list[str]], *, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows([list(HEADER), *rows])
    return path


@pytest.fixture(scope="module")
def halves() -> dict[str, list[list[str]]]:
    rng = random.Random(17)
    return {"pos": make_rows("pos", rng, first=1), "neg": make_rows("neg", rng, first=12000)}


def counts(found: PairingAudit) -> dict[str, tuple[int, int, int]]:
    return {part.part: (part.audited, part.comparable, part.mispaired) for part in found.parts}


def test_all_282_of_the_negative_half_are_found_and_none_of_the_positive(
    tmp_path: Path, halves: dict[str, list[list[str]]]
) -> None:
    pos, neg = (write_table(tmp_path / f"curated_{half}.csv", rows) for half, rows in halves.items())
    found = audit_table([pos, neg])
    negative = counts(found)["curated_neg.csv"]
    positive = [part for name, part in counts(found).items() if name.startswith("curated_pos.csv")]
    assert negative == (282, 282, 282)
    assert [sum(column) for column in zip(*positive, strict=True)] == [1346, 1346, 0]
    assert len(found.mispaired) == 282
    assert "MISPAIRED: 282 of 1,628 rows (17.3%)" in write_summary(found)


def test_in_one_table_the_block_is_told_by_its_row_numbers(tmp_path: Path, halves: dict[str, list[list[str]]]) -> None:
    table = write_table(tmp_path / "curated_ct_report_path_En.csv", [*halves["pos"], *halves["neg"]])
    found = audit_table([table])
    # The texts are told only once for each, and the line breaks in the English ones do not count as rows.
    assert found.blocks == (("row 1348", "row 1629", 282),)
    assert found.mispaired == tuple(f"row {number}" for number in range(1348, 1630))
    assert "for 282 of the 282 mispaired rows another row names their images' session" in found.remarks[0]


def test_reports_of_radiographs_are_found_in_the_table_too(tmp_path: Path, halves: dict[str, list[list[str]]]) -> None:
    found = audit_table([write_table(tmp_path / "t.csv", halves["neg"])])
    assert len(found.doubts["report of an X-ray"]) == 71  # every fourth of 282, from the first


@pytest.mark.parametrize(("delimiter", "encoding"), [("\t", "utf-8"), (";", "utf-16"), ("|", "cp1252")])
def test_the_table_may_be_written_in_any_usual_way(
    tmp_path: Path, halves: dict[str, list[list[str]]], delimiter: str, encoding: str
) -> None:
    table = write_table(tmp_path / "t.tsv", halves["neg"][:40], delimiter=delimiter, encoding=encoding)
    assert len(audit_table([table], with_texts=False).mispaired) == 40


def test_names_alone_read_no_report(tmp_path: Path, halves: dict[str, list[list[str]]]) -> None:
    found = audit_table([write_table(tmp_path / "t.csv", halves["neg"])], with_texts=False)
    assert len(found.mispaired) == 282
    assert found.doubts == {}


def small(tmp_path: Path, *rows: dict[str, str]) -> PairingAudit:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return audit_table([path])


def test_ids_may_be_written_with_or_without_their_prefix(tmp_path: Path) -> None:
    path = "covid19_posi/sub-S1/ses-E1/mod-rx/sub-S1_ses-E1_ct.nii.gz"
    found = small(
        tmp_path,
        {"PatientID": "sub-S1", "ReportID": "ses-E1", "path": path, "Report": "tc torax ."},
        {"PatientID": "s1", "ReportID": "e1", "path": path.replace("/", "\\"), "Report": "tc torax ."},
        {"PatientID": "S1", "ReportID": "E2", "path": path, "Report": "tc torax ."},
    )
    assert found.mispaired == ("row 4",)
    assert {part.part for part in found.parts} == {"t.csv: covid19_posi"}


def test_a_file_in_the_wrong_folder_counts_by_its_own_name(tmp_path: Path) -> None:
    row = {"PatientID": "S2", "ReportID": "E2", "path": "sub-S1/ses-E1/sub-S2_ses-E2_ct.nii.gz", "Report": ""}
    assert small(tmp_path, row).is_clean


def test_two_texts_for_one_session_are_in_doubt_and_two_volumes_with_one_are_not(tmp_path: Path) -> None:
    def row(run: int, text: str) -> dict[str, str]:
        path = f"sub-S1_ses-E1_run-{run}_ct.nii.gz"
        return {"PatientID": "S1", "ReportID": "E1", "path": path, "Report": text}

    assert small(tmp_path, row(1, "tc torax normal ."), row(2, "tc torax  normal .")).doubts == {}
    assert small(tmp_path, row(1, "tc torax normal ."), row(2, "tc torax . tep .")).doubts == {
        "two reports": ("row 3",)
    }


def test_one_text_for_two_patients_is_in_doubt(tmp_path: Path) -> None:
    text = " ".join(f"palabra{n}" for n in range(40))
    rows: list[dict[str, Any]] = [
        {"PatientID": f"S{n}", "ReportID": f"E{n}", "path": f"sub-S{n}_ses-E{n}_ct.nii.gz", "Report": text}
        for n in (1, 2)
    ]
    found = small(tmp_path, *rows)
    assert found.doubts == {"same text": ("row 2", "row 3")}
    assert found.held == 2


def test_dates_sex_and_age_of_a_row_are_used_where_it_has_them(tmp_path: Path) -> None:
    row = {"path": "a.nii", "report": "Chest CT. 40-year-old man.", "sex": "F", "age": "71"}
    found = small(tmp_path, {**row, "study_date": "20200101", "report_date": "01.03.2020"})
    assert set(found.doubts) == {"sex differs", "age differs", "date differs"}


def test_neither_ids_nor_words_of_a_report_are_told(tmp_path: Path, halves: dict[str, list[list[str]]]) -> None:
    told = write_summary(audit_table([write_table(tmp_path / "t.csv", halves["neg"])]))
    assert "hallazgo" not in told
    assert "S12" not in told
    assert "E32" not in told


def test_what_cannot_be_audited_is_refused_with_a_reason(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(DatasetError, match="found columns 'a', 'b'; expected a path or a report"):
        audit_table([other])
    with pytest.raises(ConfigError, match="not all tables"):
        audit([tmp_path, other])
    with pytest.raises(ConfigError, match="belongs to a source"):
        audit([other], table=other)
    with pytest.raises(ConfigError, match="does not exist"):
        audit([tmp_path / "missing.csv"])


def test_a_folder_is_audited_as_the_source_that_it_is(samples: Path) -> None:
    found = audit([samples])
    assert found.unit == "studies"
    assert found.audited >= 2
    assert found.comparable == 0
