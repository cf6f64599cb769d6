"""Report tables of every encoding and delimiter are read; what cannot be trusted is set aside row by row."""

import csv
from pathlib import Path

import pytest

from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Dropped, Finding
from medfinder.sources.report_table import COLUMNS, Row, read_table, write_template

SPANISH = "neumonía bilateral . sin derrame . corazón de tamaño normal ."


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "latin-1", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_encoding_and_delimiter_are_found(tmp_path: Path, encoding: str, delimiter: str) -> None:
    lines = [["study_id", "report"], ["ñ1", f'"{SPANISH}"']]
    text = "\n".join(delimiter.join(cells) for cells in lines)
    row = read_table(write(tmp_path / "t.csv", text, encoding), source="nifti").find(ids=["ñ1"])
    assert isinstance(row, Row)
    assert row.report == SPANISH


def test_bytes_that_windows_leaves_undefined_are_still_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"study_id,report\n1,a\x81b \xf1\n")
    row = read_table(tmp_path / "t.csv", source="nifti").find(ids=["1"])
    assert isinstance(row, Row)
    assert row.report.endswith("ñ")


def test_every_column_is_read(tmp_path: Path) -> None:
    header = ",".join(COLUMNS)
    text = f"{header}\n a/b.nii ,E1,informe,report here,ES,P1,071Y,Mujer, Mass ; pleural  effusion;;mass\n"
    row = read_table(write(tmp_path / "t.csv", text), source="nifti").find(paths=["a/b.nii"])
    assert row == Row(
        number=2,
        path="a/b.nii",
        study_id="E1",
        report="informe",
        report_en="report here",
        language="es",
        patient_id="P1",
        age_years=71,
        sex="F",
        findings=(Finding("mass"), Finding("pleural effusion")),
    )


def test_beside_hombre_the_letter_m_is_mujer(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "study_id,report,sex\n1,a,M\n2,b,H\n"), source="nifti")
    rows = [table.find(ids=[name]) for name in "12"]
    assert [row.sex for row in rows if isinstance(row, Row)] == ["F", "M"]


def test_the_template_is_a_table_without_rows_that_explains_each_column(tmp_path: Path) -> None:
    path = tmp_path / "template.csv"
    write_template(path)
    assert list(read_table(path, source="nifti").leftovers()) == []
    text = path.read_text(encoding="utf-8")
    assert all(f"# {name}: " in text for name in COLUMNS)
    with path.open("a", encoding="utf-8") as file:
        file.write("x.nii,,Normal chest.,,,,,,\n")
    row = read_table(path, source="nifti").find(paths=["x.nii"])
    assert isinstance(row, Row)
    assert row.report == "Normal chest."


def test_a_template_never_overwrites(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", "mine")
    with pytest.raises(ConfigError, match="exists already"):
        write_template(tmp_path / "t.csv")


def test_the_example_rows_of_the_template_fit_its_columns(tmp_path: Path) -> None:
    write_template(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) > 1]
    assert {len(row) for row in rows} == {len(COLUMNS)}
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,texto\n1,x\n", "found 'id', 'texto'; expected 'report' and one of 'path', 'study_id'"),
        ("report\nx\n", "lacks columns: found 'report'"),
        ("study_id,report,Report\n1,a,b\n", "two columns for 'report'"),
        ("", "is empty; expected a header"),
        ("# only a remark\n\n", "is empty"),
    ],
)
def test_a_wrong_header_is_refused_with_what_was_found_and_expected(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_table(write(tmp_path / "t.csv", text), source="nifti")


def test_an_absent_table_and_a_workbook_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no report table"):
        read_table(tmp_path / "t.csv", source="nifti")
    (tmp_path / "t.xlsx").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(DatasetError, match="Excel workbook"):
        read_table(tmp_path / "t.xlsx", source="nifti")


def test_rows_that_contradict_each_other_are_set_aside(tmp_path: Path) -> None:
    text = "study_id,report\n1,normal chest\n2,mass\n1,large mass\n"
    table = read_table(write(tmp_path / "t.csv", text), source="nifti")
    answer = table.find(ids=["1"])
    assert isinstance(answer, Dropped)
    assert (answer.reason, answer.stage) == ("duplicate rows", "table")
    assert "rows 2, 4" in answer.detail
    assert isinstance(table.find(ids=["2"]), Row)


def test_a_row_written_twice_the_same_stands_once(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "study_id,report\n1,mass\n1,mass\n"), source="nifti")
    assert isinstance(table.find(ids=["1"]), Row)


def test_a_row_nobody_asks_for_is_left_over_with_its_reason_and_without_its_text(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "study_id,report\nPEREZ-1,secret text\n2,b\n"), source="nifti")
    table.find(ids=["2"])
    (row,) = table.leftovers()
    assert (row.reason, row.source) == ("no image", "nifti")
    assert "PEREZ" not in repr(row)
    assert "secret" not in repr(row)


def test_rows_without_a_name_or_with_too_many_cells_are_set_aside(tmp_path: Path) -> None:
    text = "study_id,report\n,orphan\n1,mass, in the left lung\n2,fine\n"
    table = read_table(write(tmp_path / "t.csv", text), source="nifti")
    assert table.find(ids=["1"]) is None
    assert isinstance(table.find(ids=["2"]), Row)
    details = [row.detail for row in table.leftovers()]
    assert details == [
        "row 2 of the table has neither path nor study_id",
        "row 3 of the table has 3 cells, expected 2; put quotes around the report",
    ]


def test_a_megabyte_in_one_cell_is_read_and_the_parser_is_left_as_it_was(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    table = read_table(write(tmp_path / "t.csv", f'study_id,report\n1,"{"mass " * 200_000}"\n2,b\n'), source="nifti")
    row = table.find(ids=["1"])
    assert isinstance(row, Row)
    assert len(row.report) == 999_999
    assert csv.field_size_limit() == before


def test_line_breaks_in_a_quoted_report_stay(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", 'study_id,report\r\n1,"FINDINGS:\r\nmass"\r\n'), source="nifti")
    row = table.find(ids=["1"])
    assert isinstance(row, Row)
    assert row.report.split() == ["FINDINGS:", "mass"]


def test_paths_agree_whatever_system_wrote_them(tmp_path: Path) -> None:
    decomposed = "an\u0303o\\ct.nii"
    table = read_table(write(tmp_path / "t.csv", f"path,report\n.\\{decomposed},x\n"), source="nifti")
    assert isinstance(table.find(paths=["año/ct.nii"]), Row)
