"""What is known of the cases beside their vectors, held in columns: conditions, counts and findings without the engine.

In: payloads of points; conditions. Out: which points pass, how many do, what they say of findings, whose they are. A
finding is a bit a case, a word of a few a small number: some 130 bytes a case in all, mapped from files and read where
they are needed. Columns are a copy and never a second truth: ``load`` gives none that was saved while the engine held
something else than it does now, and ``SearchIndex`` makes them anew from the payloads then.
"""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, Self

import numpy as np

from medfinder.retrieval.engine import flag
from medfinder.retrieval.filters import AllOf, AnyOf, Comparison, Condition, Not, Unknown

# Raised whenever older code would misread what newer code saves; columns are made anew then.
_FORMAT = 1

# Fields by how they are kept: any of some words, a bit each; one of some words; a number; a name, as a hash.
_FLAGS = ("findings", "negated")
_WORDS = ("is_synthetic", "region", "sex", "source", "split")
_NUMBERS = ("age_years", "date_offset_days", "spacing_z_mm")
_NAMES = ("patient_id", "study_id")

# What is read of a payload, and what can be counted by.
READ = ("case_id", *_FLAGS, *_WORDS, *_NUMBERS, *_NAMES)
COUNTED = (*_FLAGS, *_WORDS)

# Conditions whose answers are kept until something changes; ours: those of a few queries and of their facets.
_MOST_KEPT = 32

# How many points that came since the last sorting are looked up one by one: ours, beside an eighth of all.
_MOST_RECENT = 1_000

_SIGNS = {"=": np.equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}


@lru_cache(maxsize=200_000)
def point_of(name: str) -> int:
    """Name a point by a hash of its case id: the engine takes 64-bit integers and UUIDs.

    Integers, because the binding builds a Python UUID for every hit, which took longer than the search. Among a million
    cases two share a hash with a chance of 3e-8 (n^2 / 2^65).
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def points_of(names: Iterable[str]) -> np.ndarray:
    """Name the points of cases, in their order, as uint64."""
    return np.fromiter(map(point_of, names), np.uint64)


class Columns:
    """What is known of cases; threads may ask and change it at the same time.

    Every case has a place. Points are sorted beside their places, but for the recent ones; a place that a case has left
    is given to the next one.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._kept: dict[Condition, np.ndarray] = {}
        self._end = 0
        self._free: list[int] = []
        self._recent: dict[int, int] = {}
        self._numbered: dict[str, dict[str, int]] = {field: {} for field in COUNTED}
        kinds = (("i4", _WORDS), ("f8", _NUMBERS), ("u8", _NAMES))
        self._columns: dict[str, np.ndarray] = {
            "point": np.zeros(8, np.uint64),
            "case_id": np.zeros(8, "S16"),
            # Bits, a row for each word: one byte tells of eight places.
            "taken": np.zeros((1, 1), np.uint8),
            **{field: np.zeros((0, 1), np.uint8) for field in _FLAGS},
            **{field: np.zeros(8, kind) for kind, fields in kinds for field in fields},
        }
        self._sorted: dict[str, np.ndarray] = {"point": np.zeros(0, np.uint64), "place": np.zeros(0, np.uint32)}

    def __len__(self) -> int:
        return self._end - len(self._free)

    # ---- changing ----------------------------------------------------------------------------------------------------

    def put(self, payloads: Sequence[Mapping[str, Any]]) -> None:
        """Take cases in, in place of what was known of them."""
        new = {str(one["case_id"]): one for one in payloads}
        if not new:
            return
        with self._lock:
            self._kept.clear()
            places, names = self._take(points_of(new)), np.array([name.encode() for name in new])
            if names.dtype.itemsize > self._columns["case_id"].dtype.itemsize:
                self._columns["case_id"] = self._columns["case_id"].astype(names.dtype)
            self._columns["case_id"][places] = names
            for field in (*_WORDS, *_NUMBERS, *_NAMES):
                self._columns[field][places] = [self._stored(field, one.get(field)) for one in new.values()]
            for place, payload in zip(places.tolist(), new.values(), strict=True):
                for field in _FLAGS:
                    self._raise_flags(field, place, payload.get(field) or ())

    def remove(self, points: np.ndarray) -> None:
        """Forget cases; what is not there is passed over."""
        points = np.unique(points)
        with self._lock:
            self._kept.clear()
            for place, point in zip(self._find(points).tolist(), points.tolist(), strict=True):
                if place >= 0:
                    self._lower_flags(place)
                    self._recent.pop(point, None)
                    self._free.append(place)

    def _take(self, points: np.ndarray) -> np.ndarray:
        """Give each point a place, without flags but that it is taken."""
        places = self._find(points)
        for place in places[places >= 0].tolist():
            self._lower_flags(place)
        for at in np.flatnonzero(places < 0).tolist():
            if not self._free:
                self._free.append(self._end)
                self._end += 1
            places[at] = self._recent[int(points[at])] = self._free.pop()
        self._make_room()
        self._columns["point"][places] = points
        for place in places.tolist():
            self._columns["taken"][0, place >> 3] |= _bit(place)
        if len(self._recent) > max(_MOST_RECENT, self._end // 8):
            self._sort()
        return places

    def _make_room(self) -> None:
        room = len(self._columns["point"])
        if self._end > room:
            room = 8 * (self._end * 5 // 32 + 8)
            self._columns = {name: _widened(one, room) for name, one in self._columns.items()}

    def _sort(self) -> None:
        places = np.flatnonzero(_unpacked(self._columns["taken"][0])).astype(np.uint32)
        points = self._columns["point"][places]
        order = np.argsort(points)
        self._sorted = {"point": points[order], "place": places[order]}
        self._recent.clear()

    def _stored(self, field: str, value: Any) -> Any:
        if field in _NUMBERS:
            return np.nan if value is None else value
        if field in _NAMES:
            return point_of(value)
        return 0 if value is None else self._number(field, value)

    def _number(self, field: str, word: str) -> int:
        """Number the words of a field from 1 on, as they come; 0 is not known."""
        return self._numbered[field].setdefault(word, len(self._numbered[field]) + 1)

    def _raise_flags(self, field: str, place: int, words: Iterable[str]) -> None:
        rows = [self._number(field, word) - 1 for word in words]
        if (missing := len(self._numbered[field]) - len(self._columns[field])) > 0:
            # Some more than are needed, for each time all of them are copied.
            self._columns[field] = np.pad(self._columns[field], ((0, missing + 16), (0, 0)))
        self._columns[field][rows, place >> 3] |= _bit(place)

    def _lower_flags(self, place: int) -> None:
        for field in ("taken", *_FLAGS):
            self._columns[field][:, place >> 3] &= ~_bit(place)

    # ---- asking ------------------------------------------------------------------------------------------------------

    def passes(self, points: np.ndarray, where: Condition | None = None) -> np.ndarray:
        """Tell of each point whether it is there and passes."""
        with self._lock:
            places = self._find(points)
            return np.asarray((places >= 0) & _is_set(self._passing(where), places))

    def passing(self, where: Condition | None) -> np.ndarray:
        """List the points that pass, in no order."""
        with self._lock:
            return np.asarray(self._columns["point"][_unpacked(self._passing(where))])

    def count(self, where: Condition | None) -> int:
        """Count the cases that pass."""
        with self._lock:
            return int(np.bitwise_count(self._passing(where)).sum())

    def facet(self, field: str, where: Condition | None) -> dict[str, int]:
        """Count the cases that pass by the values of a field, one of ``COUNTED``."""
        with self._lock:
            passing, column, words = self._passing(where), self._columns[field], self._numbered[field]
            if field in _FLAGS:
                counts = [int(np.bitwise_count(row & passing).sum()) for row in column[: len(words)]]
            else:
                counts = np.bincount(column[_unpacked(passing)], minlength=len(words) + 1)[1:].tolist()
            return {word: count for word, count in zip(words, counts, strict=True) if count}

    def says(self, field: str, words: Sequence[str], points: np.ndarray) -> np.ndarray:
        """Tell which ``findings`` or ``negated`` each point has, (words, points); one that is not there has none."""
        with self._lock:
            places, rows = self._find(points), [self._numbered[field].get(word, 0) - 1 for word in words]
            none = np.zeros(len(points), bool)
            told = [none if row < 0 else (places >= 0) & _is_set(self._columns[field][row], places) for row in rows]
            return np.array(told, bool).reshape(len(words), len(points))

    def names(self, field: str, points: np.ndarray) -> np.ndarray:
        """Give the case ids, in UTF-8, or hashes of another name; of points that are there."""
        with self._lock:
            return np.asarray(self._columns[field][self._find(points)])

    def _find(self, points: np.ndarray) -> np.ndarray:
        """Look up the places of points; -1 where there is none."""
        places = np.full(len(points), -1)
        if len(self._sorted["point"]):
            at = np.minimum(np.searchsorted(self._sorted["point"], points), len(self._sorted["point"]) - 1)
            places = self._sorted["place"][at].astype(np.int64)
            is_right = (self._columns["point"][places] == points) & _is_set(self._columns["taken"][0], places)
            places[~is_right] = -1
        if self._recent:
            for one in np.flatnonzero(places < 0).tolist():
                places[one] = self._recent.get(int(points[one]), -1)
        return places

    # ---- conditions --------------------------------------------------------------------------------------------------

    def _passing(self, where: Condition | None) -> np.ndarray:
        if where is None:
            return np.asarray(self._columns["taken"][0])
        if where not in self._kept:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[where] = self._holds(where) & self._columns["taken"][0]
        return self._kept[where]

    def _holds(self, condition: Condition) -> np.ndarray:
        none = np.zeros_like(self._columns["taken"][0])
        match condition:
            case Comparison():
                return self._compare(condition)
            case Unknown(field=field):
                return self._is_unknown(field)
            case Not(part=part):
                return ~self._holds(part)
            case AllOf(parts=parts):
                return reduce(np.bitwise_and, [self._holds(part) for part in parts], ~none)
            case AnyOf(parts=parts):
                return reduce(np.bitwise_or, [self._holds(part) for part in parts], none)

    def _compare(self, comparison: Comparison) -> np.ndarray:
        field, values = comparison.field, comparison.values
        numbers: list[Any]
        column = self._columns["point" if field == "case_id" else field]
        if field in COUNTED:
            words = [flag(value) if isinstance(value, bool) else str(value) for value in values]
            numbers = [self._numbered[field].get(word, -1) for word in words]
            if field in _FLAGS:
                return _any_of(column[[number - 1 for number in numbers if number > 0]])
        else:
            numbers = list(values if field in _NUMBERS else points_of(map(str, values)))
        sign = _SIGNS[comparison.operator]
        return _packed(reduce(np.logical_or, [sign(column, number) for number in numbers]))

    def _is_unknown(self, field: str) -> np.ndarray:
        if field in _FLAGS:
            return ~_any_of(self._columns[field])
        column = self._columns["point" if field == "case_id" else field]
        return _packed(np.isnan(column) if field in _NUMBERS else column == 0)

    # ---- keeping -----------------------------------------------------------------------------------------------------

    def save(self, folder: Path, stamp: str) -> None:
        """Keep a copy in a folder, in place of what is there.

        Args:
            stamp: names the state of the engine that they agree with.

        Raises:
            OSError: the disk refuses; what was there before is gone or whole.
        """
        draft = folder.with_name(f"{folder.name}.tmp")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            with self._lock:
                self._sort()
                room = 8 * (self._end // 8 + 1)
                for name, column in self._columns.items():
                    rows = len(self._numbered[name]) if name in _FLAGS else None
                    trimmed = column[:rows, : room // 8] if column.dtype == np.uint8 else column[:room]
                    _write(draft / f"{name}.npy", trimmed)
                for name, column in self._sorted.items():
                    _write(draft / f"sorted_{name}.npy", column)
                about = {"format": _FORMAT, "stamp": stamp, "end": self._end, "words": self._numbered}
            (draft / "columns.json").write_text(json.dumps(about), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path, stamp: str) -> Self | None:
        """Map a copy that was saved with this stamp; None where there is none, or none that can be read."""
        columns = cls()
        try:
            about = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
            if (about["format"], about["stamp"]) != (_FORMAT, stamp):
                return None
            columns._columns = {name: _read(folder / f"{name}.npy") for name in columns._columns}
            columns._sorted = {name: _read(folder / f"sorted_{name}.npy") for name in columns._sorted}
            columns._end, columns._numbered = about["end"], about["words"]
            taken = _unpacked(columns._columns["taken"][0])
            columns._free = np.flatnonzero(~taken[: columns._end]).tolist()
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return columns if len(columns) == len(columns._sorted["point"]) else None


def _write(path: Path, column: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, column)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> np.ndarray:
    """Map a column so that what is changed in it is changed in memory only; what is empty cannot be mapped."""
    try:
        return np.asarray(np.load(path, mmap_mode="c"))
    except ValueError:
        return np.asarray(np.load(path))


def _widened(column: np.ndarray, places: int) -> np.ndarray:
    wide = np.zeros((*column.shape[:-1], places // 8 if column.dtype == np.uint8 else places), column.dtype)
    wide[..., : column.shape[-1]] = column
    return wide


def _bit(place: int) -> np.uint8:
    return np.uint8(1 << (place & 7))


def _is_set(bits: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Tell of each place whether its bit is set; for a place of -1 it says anything."""
    return np.asarray(bits[places >> 3] >> (places & 7).astype(np.uint8) & 1, bool)


def _any_of(rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.bitwise_or.reduce(rows, axis=0))


def _packed(column: np.ndarray) -> np.ndarray:
    return np.packbits(column, bitorder="little")


def _unpacked(bits: np.ndarray) -> np.ndarray:
    return np.unpackbits(bits, bitorder="little").view(bool)
