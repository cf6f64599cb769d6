"""Tables as text, whoever wrote them: encoding and delimiter are found, rows come one at a time.

In: a CSV or TSV file, whatever its ending; comma, semicolon, tab or bar between cells; UTF-8 (with or without mark),
UTF-16, Windows-1252, or a mixture of the first and the last; any line ends. Out: numbered rows of cells, header first;
only one row is held at a time, so that a table of millions of rows costs no more memory than a small one. Refused: a
file that is absent, cannot be opened, is a workbook, or is no table.
"""

import codecs
import csv
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from medfinder.errors import DatasetError

_DELIMITERS = ",;\t|"
# One cell may be as long as the longest table that fits in memory; curation judges a report's length, not the parser.
_FIELD_LIMIT = 2**30
# Enough to see in which of two bytes UTF-16 keeps its zeros.
_HEAD_BYTES = 4096

Cells = Sequence[str]


def read_rows(path: Path, is_known: Callable[[str], bool]) -> Generator[tuple[int, list[str]], None, None]:
    """Yield the rows of a table with their numbers; the first one is the header.

    Empty rows and rows that begin with ``#`` are passed over, but counted.

    Args:
        is_known: tells whether a title of the header is one that the caller knows; the delimiter that yields the most
            of them is taken.

    Raises:
        DatasetError: the file is no table; the message says what it is instead.
    """
    limit = csv.field_size_limit(_FIELD_LIMIT)
    try:
        with _open(path) as file:
            delimiter = _find_delimiter(file, is_known)
            file.seek(0)
            lines: Iterator[str] = (line.replace("\0", "") for line in file)
            lines = _mend_quotes(lines) if delimiter == "\t" else lines
            for number, row in enumerate(csv.reader(lines, delimiter=delimiter), start=1):
                if any(row) and not _is_remark(row[0]):
                    yield number, row
    except csv.Error as error:
        raise DatasetError(f"{path} is not a table: {error}; save it as CSV (UTF-8)") from error
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is no text: it begins like UTF-16 and is not; save it as CSV (UTF-8)") from None
    except OSError as error:
        raise DatasetError(f"table {path} cannot be read: {error.strerror}; mend its permissions or disk") from error
    finally:
        csv.field_size_limit(limit)


def read_titles(path: Path, is_known: Callable[[str], bool]) -> list[str]:
    """Read the header of a table alone; empty where the file is empty or no table.

    Raises:
        DatasetError: the file cannot be opened, so that nobody can tell.
    """
    rows = read_rows(path, is_known)
    try:
        return next(rows, (0, []))[1]
    except DatasetError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return []
    finally:
        rows.close()


@dataclass(frozen=True)
class Header:
    """Where each known column stands, and how wide a row may be.

    Attributes:
        places: column name -> index of its cell.
    """

    places: Mapping[str, int]
    width: int

    @classmethod
    def read(cls, titles: Sequence[str], name_of: Callable[[str], str | None]) -> "Header":
        """Read a header; of two columns with one name the first counts.

        Args:
            name_of: the column that a title names, None where it names none.
        """
        places: dict[str, int] = {}
        for place, title in enumerate(titles):
            if (name := name_of(title)) is not None:
                places.setdefault(name, place)
        return cls(places, len(titles))

    def cell(self, cells: Cells, name: str) -> str:
        """Return the cell of a column, stripped; empty where the row or the header has none."""
        place = self.places.get(name)
        return cells[place].strip() if place is not None and place < len(cells) else ""

    def has_too_many(self, cells: Cells) -> bool:
        """Tell whether a row has more cells than the header names."""
        return any(cell.strip() for cell in cells[self.width :])


def _open(path: Path) -> TextIO:
    try:
        with path.open("rb") as raw:
            head = raw.read(_HEAD_BYTES)
    except FileNotFoundError:
        raise DatasetError(f"no report table at {path}; give a CSV or TSV file") from None
    if head[:4] in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
        raise DatasetError(f"{path} is an Excel workbook or archive, expected CSV or TSV; save it as CSV (UTF-8)")
    codecs.register_error("windows", _read_as_windows)
    encoding = _find_encoding(head)
    errors = "windows" if encoding == "utf-8-sig" else "strict"
    return path.open(encoding=encoding, errors=errors, newline="")


def _find_encoding(head: bytes) -> str:
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    # Text in the Latin alphabet has a zero in every second byte of UTF-16; without a mark this tells the order.
    for parity, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(head) >= 4 and head[parity::2].count(0) > 0.9 * len(head[parity::2]):
            return encoding
    return "utf-8-sig"


def _read_as_windows(error: UnicodeError) -> tuple[str, int]:
    """Read bytes that are no UTF-8 as Windows-1252; the five that it leaves undefined as Latin-1."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    signs = []
    for byte in error.object[error.start : error.end]:
        try:
            signs.append(bytes((byte,)).decode("cp1252"))
        except UnicodeDecodeError:
            signs.append(chr(byte))
    return "".join(signs), error.end


def _find_delimiter(file: TextIO, is_known: Callable[[str], bool]) -> str:
    first = next((line for line in file if line.strip() and not _is_remark(line)), "").replace("\0", "")
    headers = {delimiter: next(csv.reader([first], delimiter=delimiter), []) for delimiter in _DELIMITERS}
    return max(_DELIMITERS, key=lambda d: sum(is_known(title) for title in headers[d]))


def _mend_quotes(lines: Iterable[str]) -> Iterator[str]:
    """Take a stray quotation mark out of a tab-separated line, where it would swallow the rows below.

    A line is stray when it has all its cells and yet an odd number of marks, and none of them opens its last cell.
    """
    tabs = 0
    is_open = False
    for line in lines:
        tabs = tabs or line.count("\t")
        if line.count('"') % 2:
            is_whole = 0 < tabs == line.count("\t") and not line.rsplit("\t", 1)[-1].startswith('"')
            if is_whole and not is_open:
                line = line.replace('"', "")
            else:
                is_open = not is_open
        yield line


def _is_remark(text: str) -> bool:
    return text.lstrip(' "').startswith("#")
