"""A dataset folder: its tables, its volumes, and who made it of what.

In: a folder with ``cases.parquet``, ``held.parquet`` (cases that wait for a person), ``dropped.parquet``,
``series.parquet`` (what was chosen among, with scores), ``volumes/``, ``provenance.json`` and ``README.md``. Out: the
cases as records, their volumes mapped from disk. Refused: a folder that is no dataset, an unfinished or damaged one.
The tables are plain Parquet: pandas, polars and ``datasets`` read them without this module.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from medfinder.config import build_settings
from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Case, Doubt, Dropped, Finding
from medfinder.volume import Grid, Volume

KIND = "medfinder dataset"
FORMAT = 2
CASES, HELD, DROPPED, SERIES, VOLUMES, VIEWS, PROVENANCE, CARD, WORK = (
    "cases.parquet",
    "held.parquet",
    "dropped.parquet",
    "series.parquet",
    "volumes",
    "views",
    "provenance.json",
    "README.md",
    ".work",
)


def view_beside(volume: Path) -> Path:
    """Tell where the finer copy of a standardised volume lies; the volume itself where there is none."""
    view = volume.parent.with_name(VIEWS) / volume.name
    return view if view.is_file() else volume


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured on a case, stored beside it in ``cases.parquet``.

    Attributes:
        words: of the searched report.
        missing_share: of the raw voxels, 0 to 1.
        lung_ml: aerated lung in the raw volume.
        region_reason: the sentence behind ``Case.region``.
        notes: what the reader had to mend.
        volume_sha256: of the standardised volume's file.
        quality_score: 0 to 1, of the raw volume; see ``medfinder.curation.quality``.
        doubts: what a person should look at; those that hold keep a case in ``held.parquet`` until decided.
        translated_by: engine that made ``report`` of ``report_es``; empty when the source brought the English.
        phi_removed: names, dates and the like that were replaced in the texts.
    """

    words: int
    missing_share: float
    lung_ml: float
    region_reason: str
    notes: tuple[str, ...]
    volume_sha256: str
    quality_score: float = 1.0
    doubts: tuple[Doubt, ...] = ()
    translated_by: str = ""
    phi_removed: int = 0


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """One candidate of series selection: one row of ``series.parquet``.

    Attributes:
        score: higher is better; comparable within one study only.
        reason: why it was not chosen, a short stable code; empty for the chosen.
        detail: one sentence with the figures behind it.
    """

    study_id: str
    series_id: str
    score: float
    is_chosen: bool
    reason: str
    detail: str


_TEXT, _FLAG, _WHOLE, _REAL = pa.string(), pa.bool_(), pa.int64(), pa.float64()
_FINDING = pa.struct(
    [
        ("name", _TEXT),
        ("status", _TEXT),
        ("laterality", _TEXT),
        ("location", _TEXT),
        ("size_mm", _REAL),
        ("count", _WHOLE),
        ("grade", _TEXT),
    ]
)
_DOUBT = pa.struct([("stage", _TEXT), ("reason", _TEXT), ("detail", _TEXT), ("holds", _FLAG)])
CASE_SCHEMA = pa.schema(
    [
        ("case_id", _TEXT),
        ("study_id", _TEXT),
        ("patient_id", _TEXT),
        ("source", _TEXT),
        ("split", _TEXT),
        ("volume", _TEXT),
        ("report", _TEXT),
        ("report_es", _TEXT),
        ("findings", pa.list_(_FINDING)),
        ("findings_from", _TEXT),
        ("age_years", _WHOLE),
        ("sex", _TEXT),
        ("date_offset_days", _WHOLE),
        ("spacing_mm", pa.list_(_REAL)),
        ("shape", pa.list_(_WHOLE)),
        ("region", _TEXT),
        ("is_synthetic", _FLAG),
        ("words", _WHOLE),
        ("missing_share", _REAL),
        ("lung_ml", _REAL),
        ("region_reason", _TEXT),
        ("notes", pa.list_(_TEXT)),
        ("volume_sha256", _TEXT),
        ("quality_score", _REAL),
        ("doubts", pa.list_(_DOUBT)),
        ("translated_by", _TEXT),
        ("phi_removed", _WHOLE),
    ]
)
DROPPED_SCHEMA = pa.schema([(field.name, _TEXT) for field in fields(Dropped)])
SERIES_SCHEMA = pa.schema(
    [
        ("study_id", _TEXT),
        ("series_id", _TEXT),
        ("score", _REAL),
        ("is_chosen", _FLAG),
        ("reason", _TEXT),
        ("detail", _TEXT),
    ]
)


class Dataset:
    """A curated dataset, opened for reading; open it with ``Dataset.open``."""

    def __init__(self, path: Path, provenance: dict[str, Any]) -> None:
        self.path = path
        self.provenance = provenance

    @classmethod
    def open(cls, path: Path) -> "Dataset":
        """Open a dataset folder.

        Raises:
            DatasetError: the folder is absent, unfinished or something else; the message says what was found.
        """
        provenance = read_provenance(path)
        if provenance is None:
            raise DatasetError(_say_what_lies_at(path))
        for name in (CASES, DROPPED):
            if not (path / name).is_file():
                raise DatasetError(f"{path} has lost {name}; curate it again into a new folder")
        return cls(path, provenance)

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """All cases, in the order of the table."""
        names = [field.name for field in fields(Case)]
        return tuple(_case(row) for row in _read(self.path / CASES, names))

    @cached_property
    def held(self) -> tuple[tuple[Case, Figures], ...]:
        """Cases that are kept out until a person has decided, with the doubts about them."""
        return tuple(read_cases(self.path / HELD)) if (self.path / HELD).is_file() else ()

    def all_rows(self) -> tuple[tuple[Case, Figures], ...]:
        """Return every case that passed the filters, those that are held among them, each once."""
        rows = {case.case_id: (case, figures) for case, figures in self.held}
        rows |= {case.case_id: (case, figures) for case, figures in read_cases(self.path / CASES)}
        return tuple(rows.values())

    @cached_property
    def dropped(self) -> tuple[Dropped, ...]:
        """All that curation set aside."""
        return tuple(Dropped(**row) for row in _read(self.path / DROPPED, DROPPED_SCHEMA.names))

    @cached_property
    def grid(self) -> Grid:
        """The grid of every volume."""
        try:
            return build_settings(Grid, self.provenance["settings"]["grid"])
        except (KeyError, TypeError, ConfigError) as error:
            raise DatasetError(
                f"{self.path / PROVENANCE} names no valid grid; curate again into a new folder"
            ) from error

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the case table, which holds each volume's own, and the grid."""
        whole = hashlib.sha256((self.path / CASES).read_bytes())
        whole.update(json.dumps(asdict(self.grid), sort_keys=True).encode())
        return whole.hexdigest()

    @property
    def is_synthetic(self) -> bool:
        """Whether every case is synthetic; an empty dataset is not."""
        return bool(self.cases) and all(case.is_synthetic for case in self.cases)

    def select(self, split: str) -> tuple[Case, ...]:
        """Return the cases of one split, or of all.

        Raises:
            ConfigError: there is no such split.
        """
        if split not in ("train", "val", "test", "all"):
            raise ConfigError(f"unknown split {split!r}; known: train, val, test, all")
        return tuple(case for case in self.cases if split in (case.split, "all"))

    def view(self, case: Case) -> Volume:
        """Map what people look at of a case: its finer copy, or else its standardised volume.

        Raises:
            DatasetError: its file is gone or damaged.
        """
        path = view_beside(self.path / case.volume)
        if path == self.path / case.volume:
            return Volume(self.volume(case), np.diag([*self.grid.spacing_mm, 1.0]))
        try:
            image: Any = nib.load(path, mmap="r")
            return Volume(np.asanyarray(image.dataobj), np.asarray(image.affine, np.float64))
        except (OSError, ValueError, nib.filebasedimages.ImageFileError) as error:
            raise DatasetError(f"the view of case {case.case_id} is damaged; delete it, or curate again") from error

    def volume(self, case: Case) -> npt.NDArray[Any]:
        """Map a case's standardised volume from disk: HU (x, y, z), RAS+, on the dataset's grid and of its type.

        Raises:
            DatasetError: its file is gone, damaged or of another shape.
        """
        try:
            hu: npt.NDArray[Any] = np.asanyarray(nib.load(self.path / case.volume, mmap="r").dataobj)  # type: ignore[attr-defined]
        except (OSError, ValueError, nib.filebasedimages.ImageFileError) as error:
            raise DatasetError(f"volume of case {case.case_id} is gone or damaged; curate again") from error
        if hu.shape != self.grid.shape or hu.dtype != self.grid.dtype:
            expected = f"{self.grid.shape} {np.dtype(self.grid.dtype)}"
            raise DatasetError(
                f"volume of case {case.case_id}: {hu.shape} {hu.dtype}, expected {expected}; curate again"
            )
        return hu


def read_provenance(path: Path) -> dict[str, Any] | None:
    """Read who made a dataset of what; None when the folder is no finished dataset."""
    try:
        found = json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("kind") == KIND else None


def is_dataset(path: Path) -> bool:
    """Tell whether a folder is a dataset, be it unfinished or damaged: opening it then says what is the matter."""
    return read_provenance(path) is not None or (path / CASES).is_file() or (path / WORK).is_dir()


def _say_what_lies_at(path: Path) -> str:
    if not path.exists():
        return f"{path} does not exist; expected a dataset folder, made by: medfinder curate SOURCE {path}"
    if not path.is_dir():
        return f"{path} is a file; expected a dataset folder, made by: medfinder curate SOURCE OUT"
    if (path / WORK).is_dir():
        return f"{path} is a dataset that was not finished; run the same medfinder curate command again"
    found = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
    return (
        f"{path} is no dataset: found {found}, expected {PROVENANCE} and {CASES}; make one: medfinder curate {path} OUT"
    )


def _read(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=list(names)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} is damaged or of another kind; curate again into a new folder") from error
    if rows and rows[0].keys() != set(names):
        lacking = ", ".join(sorted(set(names) - rows[0].keys()))
        raise DatasetError(f"{path} lacks the columns {lacking}; curate again into a new folder")
    return rows


def read_cases(path: Path) -> list[tuple[Case, Figures]]:
    """Read a table of cases with the figures beside them.

    Raises:
        DatasetError: the table is damaged.
    """
    names = [field.name for field in fields(Case)]
    cases = (_case(row) for row in _read(path, names))
    figures = (_figures(row) for row in _read(path, [field.name for field in fields(Figures)]))
    return list(zip(cases, figures, strict=True))


def _figures(row: dict[str, Any]) -> Figures:
    row["notes"], row["doubts"] = tuple(row["notes"]), tuple(Doubt(**doubt) for doubt in row["doubts"])
    return Figures(**row)


def _case(row: dict[str, Any]) -> Case:
    row["findings"] = tuple(Finding(**finding) for finding in row["findings"])
    row["spacing_mm"], row["shape"] = tuple(row["spacing_mm"]), tuple(row["shape"])
    return Case(**row)


def write_cases(path: Path, cases: Sequence[tuple[Case, Figures]]) -> None:
    """Write ``cases.parquet`` or ``held.parquet``: one row a case, its figures behind it."""
    write_table(path, [{**asdict(case), **asdict(figures)} for case, figures in cases], CASE_SCHEMA)


def write_dropped(path: Path, dropped: Sequence[Dropped]) -> None:
    """Write ``dropped.parquet``."""
    write_table(path, [asdict(row) for row in dropped], DROPPED_SCHEMA)


def write_series(path: Path, series: Sequence[SeriesRow]) -> None:
    """Write ``series.parquet``."""
    write_table(path, [asdict(row) for row in series], SERIES_SCHEMA)


def write_table(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Write rows as Parquet, whole or not at all; the same rows give the same bytes."""
    temporary = path.with_name(f".writing-{path.name}")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary, compression="zstd")
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    temporary = path.with_name(f".writing-{path.name}")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)


@contextmanager
def disk_errors_told(out: Path) -> Iterator[None]:
    """Turn what the disk refuses (full, read-only) into one clear error."""
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"cannot write to {out}: {error.strerror or error}; what is done is kept: mend it and run the command again"
        ) from error
