"""Whole tables of labels, written here in the style of BIMCV's, counted name by name."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medfinder.cli import app
from medfinder.curation.keywords.label_table import LabelCount, count_labels
from medfinder.errors import ConfigError, DatasetError

ROWS = (
    ("S1", "derrame , sin mas .", "[' pleural effusion', 'nipple shadow', '']", "['loc left']", "[C0032227]"),
    ("S2", "nodulo .", "['Pleural effusion', 'pleural effusion', 'COVID 19 uncertain']", "['loc left']", "[]"),
    ("S3", "normal .", "['normal']", "[]", "[C9999999,C0032227]"),
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A tab-separated table whose reports hold commas."""
    lines = ("PatientID\tReport\tLabels\tLocalizations\tlabelCUIS", *("\t".join(row) for row in ROWS))
    path = tmp_path / "labels.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_every_name_is_counted_by_rows_with_its_keyword(table: Path) -> None:
    found = count_labels(table)
    assert found.rows == 3
    assert found.counts == (
        LabelCount("pleural effusion", "label", 2, "pleural effusion", "present"),
        LabelCount("covid 19 uncertain", "label", 1, "COVID-19", "uncertain"),
        LabelCount("nipple shadow", "label", 1),
        LabelCount("C0032227", "concept", 2, "pleural effusion", "present"),
        LabelCount("C9999999", "concept", 1),
        LabelCount("left", "place", 2),
        LabelCount("normal", "remark", 1),
    )
    assert [(one.name, one.rows) for one in found.unmapped] == [("nipple shadow", 1), ("C9999999", 1)]


def test_a_table_without_labels_is_refused_by_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    path.write_text("path,report\na.nii.gz,nodulo .\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"no table of labels: found 'path', 'report'; expected a column Labels"):
        count_labels(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(DatasetError, match="found nothing"):
        count_labels(path)


def test_the_command_takes_names_or_a_table(table: Path) -> None:
    told = json.loads(CliRunner().invoke(app, ["keywords", "--labels", str(table), "--json"]).stdout)
    assert (told["rows"], len(told["labels"])) == (3, 7)
    assert told["labels"][0] == {
        "name": "pleural effusion",
        "kind": "label",
        "rows": 2,
        "keyword": "pleural effusion",
        "status": "present",
    }
    assert told["unmapped"] == {"nipple shadow": 1, "C9999999": 1}
    shown = CliRunner().invoke(app, ["keywords", "--labels", str(table)])
    assert "no keyword for: nipple shadow 1, C9999999 1" in shown.stderr
    names = json.loads(CliRunner().invoke(app, ["keywords", "--labels", "goiter, nodule", "--json"]).stdout)
    assert [finding["name"] for finding in names] == ["goitre", "nodule"]


@pytest.mark.parametrize("name", ["absent.csv", "folder/labels.tsv"])
def test_a_table_that_is_not_there_is_not_taken_for_a_name(name: str, tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["keywords", "--labels", str(tmp_path / name)])
    assert isinstance(answer.exception, DatasetError)
    assert "no report table at" in str(answer.exception)


def test_a_folder_is_not_taken_for_a_name(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["keywords", "--labels", str(tmp_path)])
    assert isinstance(answer.exception, DatasetError)
    assert "Is a directory" in str(answer.exception)


def test_a_report_and_labels_are_not_asked_at_once() -> None:
    answer = CliRunner().invoke(app, ["keywords", "No nodule.", "--labels", "goiter"])
    assert isinstance(answer.exception, ConfigError)


def test_labels_without_a_keyword_end_in_words_not_in_an_empty_table() -> None:
    answer = CliRunner().invoke(app, ["keywords", "--labels", "nipple shadow"])
    assert (answer.stdout, answer.exit_code) == ("", 0)
    assert answer.stderr == "no keyword for: nipple shadow\nno finding is named there\n"
