"""Tables as text: encodings, delimiters and line ends are found, rows stream."""

import csv
import os
import tracemalloc
from pathlib import Path

import pytest

from medfinder.errors import DatasetError
from medfinder.sources.text_table import Header, read_rows, read_titles


def is_known(title: str) -> bool:
    return title in ("PatientID", "Report")


def rows_of(path: Path, raw: bytes) -> list[list[str]]:
    path.write_bytes(raw)
    return [row for _, row in read_rows(path, is_known)]


TEXT = "PatientID{d}Report{n}P1{d}opacidad en lóbulo inferior{n}P2{d}señal{n}"
EXPECTED = [["PatientID", "Report"], ["P1", "opacidad en lóbulo inferior"], ["P2", "señal"]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_every_encoding_line_end_and_delimiter_is_read(tmp_path: Path, end: str, encoding: str, delimiter: str) -> None:
    assert rows_of(tmp_path / "t.txt", TEXT.format(d=delimiter, n=end).encode(encoding)) == EXPECTED


def test_encodings_and_line_ends_may_be_mixed_within_a_file(tmp_path: Path) -> None:
    raw = b"PatientID\tReport\r\n" + "P1\topacidad en lóbulo inferior\n".encode() + "P2\tseñal\r".encode("cp1252")
    assert rows_of(tmp_path / "t.tsv", raw) == EXPECTED


def test_blank_rows_remarks_and_zero_bytes_are_passed_over_but_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"# made by hand\nPatientID,Report\n\nP1,a\0b\n")
    assert list(read_rows(path, is_known)) == [(2, ["PatientID", "Report"]), (4, ["P1", "ab"])]


def test_a_file_that_cannot_be_opened_is_told_as_such_and_not_as_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("PatientID,Report\n")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DatasetError, match="cannot be read: Permission denied"):
        list(read_rows(path, is_known))
    with pytest.raises(DatasetError, match="Permission denied"):
        read_titles(path, is_known)


def test_what_is_no_table_has_no_titles(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"PK\x03\x04rest")
    (tmp_path / "b.csv").write_bytes(b"")
    assert [read_titles(tmp_path / name, is_known) for name in ("a.csv", "b.csv", "none.csv")] == [[], [], []]


def test_a_stray_quotation_mark_does_not_swallow_the_rows_below(tmp_path: Path) -> None:
    raw = b'PatientID\tReport\tx\nP1\t"vidrio deslustrado\t1\nP2\tnormal\t2\nP3\t"a\nb"\t3\nP4\tc\t"d\ne"\n'
    assert rows_of(tmp_path / "t.tsv", raw)[1:] == [
        ["P1", "vidrio deslustrado", "1"],
        ["P2", "normal", "2"],
        ["P3", "a\nb", "3"],
        ["P4", "c", "d\ne"],
    ]


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    with path.open("w", encoding="utf-8") as file:
        file.write("PatientID\tReport\n")
        file.writelines(f"P{n}\t{'texto ' * 20}\n" for n in range(20_000))
    tracemalloc.start()
    count = sum(1 for _ in read_rows(path, is_known))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_001
    assert path.stat().st_size > 2_000_000
    assert peak < 200_000


def test_the_parser_is_left_as_it_was_when_only_the_header_is_read(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    (tmp_path / "t.csv").write_text("PatientID,Report\nP1,x\n")
    assert read_titles(tmp_path / "t.csv", is_known) == ["PatientID", "Report"]
    assert csv.field_size_limit() == before


def test_a_row_shorter_than_its_header_has_empty_cells() -> None:
    header = Header.read(["Report", "x", "PatientID", "Report"], lambda title: title if is_known(title) else None)
    assert (header.cell(["a"], "Report"), header.cell(["a"], "PatientID"), header.cell(["a"], "none")) == ("a", "", "")
    assert not header.has_too_many(["a", "b", "c", "d", " "])
    assert header.has_too_many(["a", "b", "c", "d", "e"])
