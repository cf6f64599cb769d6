"""The audit of a finished dataset: is there anything left that may tell who somebody is.

In: a dataset folder, ours or another's. Out: where something was found and of which kind, never the text itself.
Looked through: every text column of every Parquet file and its metadata; JSON, Markdown, CSV and other text files;
NIfTI headers (description, auxiliary file, names, extensions); the names of files and folders. What cannot be looked
into is told, not passed over. Refused: what is no folder, or an empty one, which would pass for clean.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import pyarrow as pa
import pyarrow.parquet as pq

from medfinder.curation.deidentify.text import find_phi
from medfinder.curation.report import guess_language
from medfinder.errors import ConfigError
from medfinder.records import Language
from medfinder.sources.files import walk_files

Progress = Callable[[int, int], None]

# Our own ids and digests: hexadecimal digits of these lengths, perhaps with a volume's folder and suffix.
_OURS = re.compile(r"(?:(?:volumes|views)/)?(?:[0-9a-f]{16}|[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})(?:\.nii(?:\.gz)?)?")
_TEXTS = frozenset(
    (".json", ".jsonl", ".md", ".txt", ".csv", ".tsv", ".yaml", ".yml", ".toml", ".html", ".xml", ".log")
)
_NIFTI = (".nii", ".nii.gz")
_NIFTI_TEXTS = ("descrip", "aux_file", "db_name", "intent_name")
_ROW_NAMES = ("case_id", "study_id", "series_id")


@dataclass(frozen=True, slots=True)
class Leak:
    """Something that may tell who somebody is.

    Attributes:
        where: file, and case or row, and column or field; a file whose name is the leak goes by its number.
        kind: ``"NAME"``, ``"DATE"`` ..., or ``"EXTENSION"`` for a NIfTI extension.
        count: how many of this kind there.
    """

    where: str
    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Attributes:
        files: looked through.
        texts: different texts looked through.
        unread: files that could not be looked into, with the reason.
    """

    files: int
    texts: int
    leaks: tuple[Leak, ...]
    unread: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Nothing was found and everything was looked into."""
        return not self.leaks and not self.unread


def audit_phi(dataset: Path, *, progress: Progress | None = None) -> Audit:
    """Look through a whole dataset folder.

    Args:
        progress: told (done, total) files.

    Raises:
        ConfigError: there is no such folder, or nothing in it.
        MissingExtraError: Presidio is not installed.
    """
    if not dataset.is_dir():
        raise ConfigError(f"{dataset} is no folder; expected a dataset, made by: medfinder curate SOURCE OUT")
    files = list(_all_files(dataset))
    if not files:
        raise ConfigError(f"{dataset} holds no file; expected a dataset, made by: medfinder curate SOURCE OUT")
    looked = _Looked({})
    leaks: list[Leak] = []
    unread: list[str] = []
    for done, file in enumerate(files, 1):
        name = file.relative_to(dataset).as_posix()
        named = looked.count(_as_words(name))
        shown = f"file {done} of the folder" if named else name
        leaks += [Leak(f"{shown}: its name", kind, count) for kind, count in named.items()]
        try:
            for place, text in _texts_of(file):
                found = {"EXTENSION": 1} if place.endswith("extension") else looked.count(text)
                if file.suffix.lower() in _TEXTS:
                    # An endpoint in the settings, a link in the card.
                    found = {kind: count for kind, count in found.items() if kind != "URL"}
                leaks += [Leak(f"{shown}: {place}", kind, count) for kind, count in found.items()]
        except (OSError, ValueError, pa.ArrowException, nib.filebasedimages.ImageFileError) as error:
            unread.append(f"{shown}: {type(error).__name__}")
        if progress:
            progress(done, len(files))
    return Audit(len(files), len(looked.known), tuple(leaks), tuple(unread))


def _all_files(dataset: Path) -> Iterator[Path]:
    """Yield every file; hidden ones, which sources pass over, are given away, too."""
    seen = set(walk_files(dataset))
    hidden = {path for path in dataset.rglob("*") if path.is_file()}
    yield from sorted(seen | hidden)


@dataclass(frozen=True)
class _Looked:
    """Texts that were looked through, so that none is twice."""

    known: dict[str, dict[str, int]]

    def count(self, text: str) -> dict[str, int]:
        """Count what a text holds, by kind."""
        if text not in self.known:
            self.known[text] = {} if _OURS.fullmatch(text) or not re.search(r"\w{2}", text) else _count(text)
        return self.known[text]


def _count(text: str) -> dict[str, int]:
    # A language without its own words is read as both.
    languages: tuple[Language, ...] = ("es", "en") if len(text) < 60 else (guess_language(text),)
    counts: dict[str, int] = {}
    for language in languages:
        found: dict[str, int] = {}
        for span in find_phi(text, language):
            found[span.kind] = found.get(span.kind, 0) + 1
        counts = {kind: max(counts.get(kind, 0), found.get(kind, 0)) for kind in counts | found}
    return counts


def _as_words(name: str) -> str:
    """Read a path as words: "garcia_lopez-20190312.nii" names somebody."""
    parts = [part for part in re.split(r"[/\\]", name) if not _OURS.fullmatch(part)]
    return " ".join(re.sub(r"[_+]|(?<=[a-zA-Z])[.-](?=[a-zA-Z])", " ", part) for part in parts)


def _texts_of(file: Path) -> Iterator[tuple[str, str]]:
    """Yield each text of a file with its place."""
    name = file.name.lower()
    if name.endswith(".parquet"):
        yield from _parquet_texts(file)
    elif name.endswith(_NIFTI):
        yield from _nifti_texts(file)
    elif file.suffix.lower() in (".json", ".jsonl"):
        yield from _json_texts(file)
    elif file.suffix.lower() in _TEXTS or not file.suffix:
        lines = file.read_text(encoding="utf-8").splitlines()
        yield from ((f"line {number}", line) for number, line in enumerate(lines, 1))
    else:
        raise ValueError(f"{file.suffix} is not a kind of file that can be looked into")


def _parquet_texts(file: Path) -> Iterator[tuple[str, str]]:
    table = pq.ParquetFile(file)
    for key, value in (table.schema_arrow.metadata or {}).items():
        if key != b"ARROW:schema":
            yield "metadata", f"{key.decode(errors='replace')}: {value.decode(errors='replace')}"
    for key, value in (table.metadata.metadata or {}).items():
        if key != b"ARROW:schema":
            yield "metadata", f"{key.decode(errors='replace')}: {value.decode(errors='replace')}"
    for column in table.schema_arrow.names:
        yield "column names", column.replace("_", " ")
    number = 0
    for batch in table.iter_batches(256):
        for row in batch.to_pylist():
            number += 1
            named = next((row[key] for key in _ROW_NAMES if _is_ours(row.get(key))), f"row {number}")
            for column, value in row.items():
                yield from ((f"{named}, {column}", text) for text in _strings(value))


def _is_ours(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and _OURS.fullmatch(value) is not None


def _json_texts(file: Path) -> Iterator[tuple[str, str]]:
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines() if file.suffix.lower() == ".jsonl" else [text]
    for number, line in enumerate(lines, 1):
        yield from ((f"line {number}" if len(lines) > 1 else "values", found) for found in _strings(json.loads(line)))


def _strings(value: Any) -> Iterator[str]:
    """Yield every text within lists and tables, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "replace")
    elif isinstance(value, dict):
        for key, inside in value.items():
            yield str(key).replace("_", " ")
            yield from _strings(inside)
    elif isinstance(value, (list, tuple)):
        for inside in value:
            yield from _strings(inside)


def _nifti_texts(file: Path) -> Iterator[tuple[str, str]]:
    image: Any = nib.load(file)
    for field in _NIFTI_TEXTS:
        if field in image.header:
            text = bytes(image.header[field].tobytes()).rstrip(b"\0 ").decode("utf-8", "replace")
            if text:
                yield f"header {field}", text
    for _ in getattr(image.header, "extensions", ()):
        yield "extension", ""
