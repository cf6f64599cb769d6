"""A file of what persons said: one JSON object a line, only ever added to.

In: records, one at a time, from any number of processes on one machine. Out: the records in the order in which they
came. A record is on the disk before ``append`` returns; a last line that was torn when the power went is passed over
and goes with the next record. Refused: a whole line that is no record.
"""

import fcntl
import json
import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from medfinder.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")
_STEP_BYTES = 1 << 16


class Journal(Generic[Record]):
    """The records of one file; when it has grown only what is new is read."""

    def __init__(self, path: Path, kind: type[Record]) -> None:
        self._path = path
        self._name = kind.__name__.lower()
        self._adapter: TypeAdapter[Record] = TypeAdapter(kind)
        self._records: list[Record] = []
        self._read_to = 0
        self._lock = threading.Lock()

    def read(self) -> list[Record]:
        """Return every record so far, those of other processes among them.

        Raises:
            ConfigError: a line is no record.
        """
        with self._lock:
            try:
                with self._path.open("rb") as file:
                    self._read_on(file)
            except FileNotFoundError:
                self._records, self._read_to = [], 0
            return list(self._records)

    def append(self, record: Record) -> None:
        """Add a record, so that it outlives the process and the power."""
        line = f"{json.dumps(asdict(record), ensure_ascii=False)}\n".encode()
        with self._path.open("ab+") as file:
            # Two processes that mend one torn line at once would cut off what the other wrote.
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(_end_of_last_line(file))
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _read_on(self, file: IO[bytes]) -> None:
        if os.fstat(file.fileno()).st_size < self._read_to:
            self._records, self._read_to = [], 0
        file.seek(self._read_to)
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                self._records.append(self._adapter.validate_json(line))
            except ValidationError as error:
                number = len(self._records) + 1
                raise ConfigError(
                    f"line {number} of {self._path} is no {self._name}; mend it or take it out"
                ) from error
            self._read_to += len(line)


def _end_of_last_line(file: IO[bytes]) -> int:
    """Find where the last whole line ends; from behind, since the file may be long."""
    at = file.seek(0, os.SEEK_END)
    while at > 0:
        start = max(0, at - _STEP_BYTES)
        file.seek(start)
        found = file.read(at - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return 0
