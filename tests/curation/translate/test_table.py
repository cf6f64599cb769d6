"""Tables of reports, translated and audited."""

import csv
from pathlib import Path

import pytest

from medfinder.curation.translate import TranslationSettings
from medfinder.curation.translate.table import audit_table, estimate_table, translate_table
from medfinder.errors import ConfigError, DatasetError

TABLE = """path,report,report_en,age
a,derrame pleural izquierdo .,,71
b,no se observan nodulos .,There are nodules.,60
c,Left pleural effusion with the usual findings.,,50
d,masa en lsd .,,
e,,,
"""
RECORDED = "spanish,english\nderrame pleural izquierdo .,Right pleural effusion.\n"


@pytest.fixture
def settings(tmp_path: Path) -> TranslationSettings:
    (tmp_path / "reports.csv").write_text(TABLE)
    (tmp_path / "made.csv").write_text(RECORDED)
    return TranslationSettings(engine="recorded", path=tmp_path / "made.csv")


def test_a_table_keeps_its_rows_and_gets_what_was_made_of_them(settings: TranslationSettings, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    _, audit = translate_table(tmp_path / "reports.csv", out, settings, tmp_path / "cache.jsonl")
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["a", "b", "c", "d", "e"]
    assert [row["age"] for row in rows] == ["71", "60", "50", "", ""]
    assert [row["report_en"] for row in rows] == ["Right pleural effusion.", "There are nodules.", "", "", ""]
    assert [row["translation_doubts"] for row in rows[:2]] == ["laterality differs", "negation differs"]
    assert rows[3]["translation_fault"] == "not recorded"
    assert (audit.rows, audit.untranslated, list(audit.held)) == (2, 1, [2, 3])


def test_a_table_may_be_translated_again(settings: TranslationSettings, tmp_path: Path) -> None:
    for source, out in (("reports.csv", "one.csv"), ("one.csv", "two.csv")):
        translate_table(tmp_path / source, tmp_path / out, settings, tmp_path / "cache.jsonl")
    with (tmp_path / "two.csv").open(newline="") as file:
        assert [row["report_en"] for row in csv.DictReader(file)][:2] == [
            "Right pleural effusion.",
            "There are nodules.",
        ]


def test_translations_that_stand_in_a_table_are_audited(tmp_path: Path) -> None:
    (tmp_path / "release.tsv").write_text(
        "Report\tReport_en\nderrame .\tEffusion.\nmasa .\tSomething wrong with the data!\n"
    )
    audit = audit_table(tmp_path / "release.tsv")
    assert list(audit.held) == [3]
    assert "error text" in audit.reasons


def test_an_estimate_writes_nothing(settings: TranslationSettings, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    assert estimate_table(tmp_path / "reports.csv", settings, tmp_path / "cache.jsonl").texts == 2
    assert sorted(tmp_path.iterdir()) == before


def test_tables_that_cannot_serve_are_refused(settings: TranslationSettings, tmp_path: Path) -> None:
    table = tmp_path / "reports.csv"
    with pytest.raises(ConfigError, match="overwrite"):
        translate_table(table, table, settings, tmp_path / "cache.jsonl")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DatasetError, match="expected 'report'"):
        audit_table(tmp_path / "other.csv")
    (tmp_path / "one.csv").write_text("report\nderrame .\n")
    with pytest.raises(DatasetError, match="no translation to audit"):
        audit_table(tmp_path / "one.csv")
