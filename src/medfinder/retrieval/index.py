"""The search index: one point a case in Qdrant Edge, kept in a folder that remembers its model.

In: cases with their image and report embeddings. Out: lists of case ids with scores, for a dense or a sparse vector and
a filter. A point holds the unit vectors ``image`` and ``report``, the sparse BM25 vectors ``affirmed`` and ``denied``,
and the case itself as payload. Refused with ``SearchIndexError``: folders that are no index, damaged ones, one that
another process has open, vectors of another model than the index was made with, and a disk that is nearly full.

    INDEX/index.json   format, engine, model name and digest, width; written once, at creation
    INDEX/lock         held while the index is open
    INDEX/shard/       the engine's own files

``add`` and ``remove`` return once the engine's write-ahead log is on disk; what they acknowledged survives kill -9. The
engine is imported here and nowhere else.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from medfinder.errors import MissingExtraError, SearchIndexError
from medfinder.records import Case, Finding
from medfinder.retrieval.filters import AllOf, AnyOf, Comparison, Condition, Not, Unknown, equals
from medfinder.retrieval.lexical import Terms, describe_case

Space = Literal["image", "report", "affirmed", "denied"]

# Raised whenever older code could not read what newer code writes.
FORMAT = 1

_DENSE: tuple[Space, ...] = ("image", "report")
_SPARSE: tuple[Space, ...] = ("affirmed", "denied")

# Payload fields with an index of their own, and its kind: those that filters often ask for or that are counted. Each
# costs ten files that every flush must write, so the others are left to be read from the payload.
_PAYLOAD_INDEXES = {
    "age_years": "Float",
    "findings": "Keyword",
    "is_synthetic": "Keyword",
    "negated": "Keyword",
    "region": "Keyword",
    "sex": "Keyword",
    "source": "Keyword",
    "spacing_z_mm": "Float",
    "split": "Keyword",
}

# Flushing writes every file of the shard; what it saves is the time to replay the log when the index is opened.
_FLUSH_EVERY_S = 30.0

_SCROLL_PAGE = 1_000

# The engine maps its files into memory, and the system ends a process that writes to a mapped file on a full disk
# (SIGBUS): there is no error to catch, so room is looked for beforehand. Ours: more than a batch and the log can take.
_ROOM_TO_WRITE = 128 * 2**20
_ROOM_TO_OPEN = 16 * 2**20

_STATED = ["case_id", "study_id", "patient_id", "findings", "negated"]

# What is remembered of cases met in searches, so that their payload is read once; about 100 MB at the most.
_MAX_REMEMBERED = 200_000

# Engine scores are float32; what differs by less than this is a tie.
_SCORE_DIGITS = 6


@dataclass(frozen=True, slots=True)
class IndexedCase:
    """A case as the index holds it.

    Attributes:
        volume: absolute path of the standardised volume, or None when it has gone.
        negated: canonical names that the report says are absent.
    """

    case: Case
    volume: Path | None
    negated: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statements:
    """Which findings a case is known to have, and which its report denies; canonical names, and whose case it is."""

    case_id: str
    study_id: str
    patient_id: str
    present: frozenset[str]
    negated: frozenset[str]


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What an index says of itself.

    Attributes:
        width: length of an embedding.
        counts: field to value to number of cases, for source, split, region and is_synthetic.
        size_bytes: on disk.
    """

    path: Path
    cases: int
    model_name: str
    model_digest: str
    width: int
    format: int
    engine: str
    size_bytes: int
    counts: Mapping[str, Mapping[str, int]]


class SearchIndex:
    """An open index. Get one from ``create`` or ``open``; close it, or use it as a context manager.

    Threads of one process may add, remove and search at the same time.
    """

    def __init__(self, path: Path, meta: dict[str, Any], shard: Any, lock: int) -> None:
        self.path = path
        self._meta = meta
        self._shard = shard
        self._lock = lock
        self._writing = threading.Lock()
        self._remembering = threading.Lock()
        self._flushed_at = time.monotonic()
        self._remembered: dict[int, Statements] = {}
        self._known_terms: dict[int, bool] = {}
        self._changes = 0

    # ---- life --------------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path, *, model_digest: str, width: int, model_name: str) -> Self:
        """Make an empty index for one model's vectors and open it; killed half-way, nothing stands at ``path``.

        Raises:
            SearchIndexError: something is there already, or it cannot be written.
        """
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise SearchIndexError(
                f"{path} exists and is not empty; choose another folder, or open it if it is an index"
            )
        meta = {
            "format": FORMAT,
            "engine": f"qdrant-edge-py {_engine_version()}",
            "model_name": model_name,
            "model_digest": model_digest,
            "width": width,
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _require_room(path.parent, _ROOM_TO_WRITE)
            draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        except OSError as error:
            raise SearchIndexError(f"no index can be made at {path}: {error.strerror}") from error
        try:
            _create_shard(draft / "shard", width)
            (draft / "index.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
            draft.chmod(0o755)
            draft.rename(path)
        except OSError as error:
            raise SearchIndexError(f"no index can be made at {path}: {error.strerror}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, *, wait_s: float = 0.0) -> Self:
        """Open an index for searching and changing.

        Args:
            wait_s: how long to wait for another process to let go of it.

        Raises:
            SearchIndexError: no index is there, it is damaged, or another process has it open.
        """
        meta = _read_meta(path)
        _require_room(path, _ROOM_TO_OPEN)
        lock = _take_lock(path, wait_s)
        try:
            with _engine_errors(f"index {path} cannot be loaded; make it anew"):
                shard = _engine().EdgeShard.load(str(path / "shard"))
        except BaseException:
            os.close(lock)
            raise
        return cls(path, meta, shard, lock)

    def flush(self) -> None:
        """Write everything to disk."""
        with _engine_errors(f"index {self.path} cannot be flushed"):
            self._shard.flush()

    def close(self) -> None:
        """Let go of the index; closing twice does nothing."""
        if self._lock < 0:
            return
        with _engine_errors(f"index {self.path} cannot be closed"):
            self._shard.close()
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- the model ---------------------------------------------------------------------------------------------------

    @property
    def model_digest(self) -> str:
        """Digest of the model whose vectors are kept."""
        return str(self._meta["model_digest"])

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return int(self._meta["width"])

    def require_model(self, digest: str, width: int) -> None:
        """Refuse another model than the one that this index was made with.

        Raises:
            SearchIndexError: digest or width differ; names both.
        """
        if digest != self.model_digest:
            raise SearchIndexError(
                f"index {self.path} holds vectors of model {self._meta['model_name']} ({self.model_digest}), "
                f"not of {digest}; search it with that model, or make a new index with this one"
            )
        if width != self.width:
            raise SearchIndexError(
                f"index {self.path} holds vectors of width {self.width}, not {width}; make a new index with this model"
            )

    # ---- changing ----------------------------------------------------------------------------------------------------

    def add(
        self,
        cases: Sequence[Case],
        image: np.ndarray,
        report: np.ndarray,
        volumes_root: Path,
        *,
        model_digest: str,
        digests: Sequence[str] | None = None,
    ) -> None:
        """Add cases, or replace those of the same id; when this returns, they are on disk.

        Args:
            image: (cases, width) embeddings of the volumes.
            report: (cases, width) embeddings of the reports; rows of cases without a report are not looked at.
            volumes_root: folder that ``Case.volume`` is relative to.
            model_digest: of the model that made the vectors.
            digests: of each case's content, for ``digests``; so that building can skip what is there.

        Raises:
            SearchIndexError: vectors of another model or shape, not finite, or a failure to write.
        """
        self.require_model(model_digest, self.width)
        vectors = {"image": image, "report": report}
        for name, matrix in vectors.items():
            if matrix.shape != (len(cases), self.width):
                raise SearchIndexError(
                    f"{name} vectors have shape {matrix.shape}; expected ({len(cases)}, {self.width}) in {self.path}"
                )
        points = []
        for row, case in enumerate(cases):
            payload = _to_payload(case, volumes_root.resolve(), self.path.resolve())
            payload["digest"] = digests[row] if digests else ""
            points.append(_to_point(case, payload, image[row], report[row]))
        if points:
            self._update(_engine().UpdateOperation.upsert_points(points), cases=[case.case_id for case in cases])

    def remove(self, case_ids: Sequence[str]) -> int:
        """Remove cases; ids that are not there are passed over.

        Returns:
            How many were there.
        """
        there = list(self.cases(case_ids))
        if there:
            points = [_point_id(case_id) for case_id in there]
            self._update(_engine().UpdateOperation.delete_points(points), cases=there)
        return len(there)

    def _update(self, operation: Any, *, cases: Sequence[str]) -> None:
        _require_room(self.path, _ROOM_TO_WRITE)
        with self._writing, _engine_errors(f"index {self.path} cannot be written"):
            self._shard.update(operation)
            with self._remembering:
                self._changes += 1
                self._known_terms.clear()
                for case_id in cases:
                    self._remembered.pop(_point_id(case_id), None)
            # The engine's log is in the page cache now, which outlives the process; on disk, it outlives the machine.
            # The engine replays it when the index is opened.
            for file in (self.path / "shard" / "wal").iterdir():
                _sync(file)
            if time.monotonic() - self._flushed_at > _FLUSH_EVERY_S:
                self._shard.flush()
                self._flushed_at = time.monotonic()

    # ---- looking -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.count()

    def count(self, where: Condition | None = None, among: Sequence[str] | None = None) -> int:
        """Count the cases that pass a filter, of all or among some."""
        with _engine_errors(f"index {self.path} cannot be read"):
            return int(self._shard.count(_engine().CountRequest(exact=True, filter=_to_filter(where, among))))

    def nearest(
        self,
        space: Space,
        query: np.ndarray | Terms,
        *,
        limit: int,
        where: Condition | None = None,
        among: Sequence[str] | None = None,
    ) -> list[tuple[str, float]]:
        """Rank the cases by one vector, exactly (no approximation).

        Args:
            query: an embedding for ``image`` and ``report`` (score: cosine), terms for ``affirmed`` and ``denied``
                (score: BM25; cases that share no term are left out).
            limit: how many at least, where there are so many: whatever ties with the last comes too, so that an answer
                never depends on the order in which cases were added.
            among: rank these cases only.

        Returns:
            Case ids with scores, best first, ties by id.
        """
        passing = _to_filter(where, among)
        while True:
            found = self._query(space, query, limit + 1, passing)
            if len(found) <= limit or found[-1][1] < found[limit - 1][1]:
                break
            limit *= 4
        return sorted(found[:limit], key=lambda one: (-one[1], one[0]))

    def _query(self, space: Space, query: np.ndarray | Terms, limit: int, passing: Any) -> list[tuple[str, float]]:
        engine = _engine()
        if isinstance(query, Terms):
            vector = engine.SparseVector(list(query.ids), list(query.weights))
        else:
            vector = np.asarray(query, dtype=np.float32).tolist()
        request = engine.QueryRequest(
            limit=limit,
            query=engine.Query.Nearest(vector, using=space),
            filter=passing,
            params=engine.SearchParams(exact=True),
            with_payload=False,
        )
        with _engine_errors(f"index {self.path} cannot be searched"):
            points = self._shard.query(request)
        known = self._recall([point.id for point in points])
        # A case may have been removed since it was found.
        return [
            (known[point.id].case_id, round(float(point.score), _SCORE_DIGITS)) for point in points if point.id in known
        ]

    def statements(self, case_ids: Sequence[str]) -> dict[str, Statements]:
        """Tell what cases are known to have and to deny; those that are not there are left out."""
        found = self._recall([_point_id(case_id) for case_id in case_ids])
        return {one.case_id: one for one in found.values()}

    def _recall(self, points: Sequence[int]) -> dict[int, Statements]:
        """Look up what points say, in memory first."""
        found = {point: self._remembered[point] for point in points if point in self._remembered}
        missing = [point for point in points if point not in found]
        if missing:
            changes = self._changes
            with _engine_errors(f"index {self.path} cannot be read"):
                records = self._shard.retrieve(missing, _STATED, False)
            read = {record.id: _to_statements(record.payload) for record in records}
            found |= read
            # What was read while something changed may be the old state: use it now, but do not keep it.
            with self._remembering:
                if changes == self._changes and len(self._remembered) < _MAX_REMEMBERED:
                    self._remembered |= read
        return found

    def cases(self, case_ids: Sequence[str]) -> dict[str, IndexedCase]:
        """Fetch cases by id; those that are not there are left out."""
        with _engine_errors(f"index {self.path} cannot be read"):
            records = self._shard.retrieve([_point_id(one) for one in dict.fromkeys(case_ids)], True, False)
        return {record.payload["case_id"]: _from_payload(record.payload, self.path) for record in records}

    def vectors(self, case_ids: Sequence[str]) -> dict[str, dict[Space, np.ndarray]]:
        """Fetch the embeddings of cases, ``report`` where there is one; cases that are not there are left out."""
        with _engine_errors(f"index {self.path} cannot be read"):
            records = self._shard.retrieve([_point_id(one) for one in dict.fromkeys(case_ids)], ["case_id"], True)
        return {
            record.payload["case_id"]: {
                space: np.asarray(record.vector[space], np.float32) for space in _DENSE if space in record.vector
            }
            for record in records
        }

    def knows(self, terms: Terms) -> frozenset[int]:
        """Tell which terms, by their ids, stand in some report."""
        return frozenset(term for term in terms.ids if self._is_known(term))

    def _is_known(self, term: int) -> bool:
        if (known := self._known_terms.get(term)) is not None:
            return known
        engine, changes = _engine(), self._changes
        one = engine.SparseVector([term], [1.0])
        requests = (engine.QueryRequest(limit=1, query=engine.Query.Nearest(one, using=space)) for space in _SPARSE)
        with _engine_errors(f"index {self.path} cannot be searched"):
            known = any(self._shard.query(request) for request in requests)
        with self._remembering:
            if changes == self._changes and len(self._known_terms) < _MAX_REMEMBERED:
                self._known_terms[term] = known
        return known

    def digests(self, volumes_root: Path | None = None) -> dict[str, str]:
        """Return the content digest of every case, or of those added from one folder."""
        where = None if volumes_root is None else equals("volumes_root", str(volumes_root.resolve()))
        return {payload["case_id"]: payload["digest"] for payload in self._scroll(["case_id", "digest"], where)}

    def _scroll(self, fields: list[str], where: Condition | None) -> Iterator[dict[str, Any]]:
        engine, offset = _engine(), None
        while True:
            request = engine.ScrollRequest(
                offset=offset, limit=_SCROLL_PAGE, filter=_to_filter(where), with_payload=fields
            )
            with _engine_errors(f"index {self.path} cannot be read"):
                records, offset = self._shard.scroll(request)
            yield from (record.payload for record in records)
            if offset is None:
                return

    def facet(self, field: str, where: Condition | None = None) -> dict[str, int]:
        """Count the cases by the values of a field, most frequent first."""
        request = _engine().FacetRequest(field, limit=1_000, exact=True, filter=_to_filter(where))
        with _engine_errors(f"index {self.path} cannot be read"):
            hits = [(str(hit.value), int(hit.count)) for hit in self._shard.facet(request)]
        return dict(sorted(hits, key=lambda one: (-one[1], one[0])))

    def info(self) -> IndexInfo:
        """Tell what is in the index, by which model, and how large it is."""
        files = [file for file in self.path.rglob("*") if file.is_file()]
        return IndexInfo(
            path=self.path,
            cases=len(self),
            model_name=str(self._meta["model_name"]),
            model_digest=self.model_digest,
            width=self.width,
            format=int(self._meta["format"]),
            engine=str(self._meta["engine"]),
            # Blocks, not lengths: the write-ahead log's files are sparse.
            size_bytes=sum(file.stat().st_blocks * 512 for file in files),
            counts={field: self.facet(field) for field in ("source", "split", "region", "is_synthetic")},
        )


def is_index(path: Path) -> bool:
    """Tell whether a folder looks like an index, without opening it."""
    return (path / "index.json").is_file() and (path / "shard").is_dir()


# ---- folder ----------------------------------------------------------------------------------------------------------


def _read_meta(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise SearchIndexError(f"no index at {path}; make one: medfinder index DATASET {path}")
    if not is_index(path):
        raise SearchIndexError(f"{path} is not an index (it has no index.json and shard); make one: medfinder index")
    try:
        meta = json.loads((path / "index.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SearchIndexError(f"{path / 'index.json'} is damaged ({error}); make the index anew") from error
    expected = {"format": int, "engine": str, "model_name": str, "model_digest": str, "width": int}
    if not isinstance(meta, dict) or any(not isinstance(meta.get(key), kind) for key, kind in expected.items()):
        raise SearchIndexError(f"{path / 'index.json'} is damaged: expected {', '.join(expected)}; make the index anew")
    if meta["format"] != FORMAT:
        raise SearchIndexError(f"index {path} has format {meta['format']}, this version reads {FORMAT}; make it anew")
    return meta


@contextmanager
def hold_index(path: Path) -> Iterator[Mapping[str, Any]]:
    """Keep everybody from opening an index while its files are copied; gives what ``index.json`` says.

    Raises:
        SearchIndexError: no index is there, or another process has it open.
    """
    meta = _read_meta(path)
    lock = _take_lock(path, 0.0)
    try:
        yield meta
    finally:
        os.close(lock)


def _take_lock(path: Path, wait_s: float) -> int:
    """Lock the index for this process; the lock goes with the process, however it ends."""
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SearchIndexError(f"index {path} cannot be locked: {error.strerror}") from error
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(lock)
                raise SearchIndexError(
                    f"index {path} is in use by another process; wait until it ends, or stop it"
                ) from None
            time.sleep(0.05)
        else:
            return lock


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SearchIndexError(
            f"{free // 2**20} MB free on the disk of {folder}, expected at least {needed // 2**20} MB; make room"
        )


def _sync(file: Path) -> None:
    """Wait until a file is on disk; one that the engine has just dropped needs no waiting."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- engine ----------------------------------------------------------------------------------------------------------


def _engine() -> Any:
    try:
        import qdrant_edge
    except ImportError:
        raise MissingExtraError("the index engine (qdrant-edge-py)", "index") from None
    return qdrant_edge


def _engine_version() -> str:
    _engine()
    return version("qdrant-edge-py")


@contextmanager
def _engine_errors(problem: str) -> Iterator[None]:
    """Turn the engine's failures into ours.

    The engine raises bare ``Exception``, and on damaged files a ``PanicException`` that derives from BaseException and
    cannot be imported.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:300]
        raise SearchIndexError(f"{problem}: {reason}") from error


def _create_shard(path: Path, width: int) -> None:
    engine = _engine()
    config = engine.EdgeConfig(
        vectors={name: engine.EdgeVectorParams(width, engine.Distance.Cosine) for name in _DENSE},
        sparse_vectors={name: engine.EdgeSparseVectorParams(modifier=engine.Modifier.Idf) for name in _SPARSE},
    )
    path.mkdir()
    with _engine_errors("no index can be made"):
        shard = engine.EdgeShard.create(str(path), config)
        for field, kind in _PAYLOAD_INDEXES.items():
            schema = getattr(engine.PayloadSchemaType, kind)
            shard.update(engine.UpdateOperation.create_field_index(field, schema))
        shard.close()


def _to_filter(condition: Condition | None, among: Sequence[str] | None = None) -> Any:
    must = [] if condition is None else [_to_condition(condition)]
    if among is not None:
        must.append(_engine().HasIdCondition({_point_id(case_id) for case_id in among}))
    return _engine().Filter(must=must) if must else None


def _to_condition(condition: Condition) -> Any:
    engine = _engine()
    match condition:
        case Comparison():
            return _compare(condition)
        case Unknown(field=field):
            return engine.IsEmptyCondition(field)
        case Not(part=part):
            return engine.Filter(must_not=[_to_condition(part)])
        case AllOf(parts=parts):
            return engine.Filter(must=[_to_condition(part) for part in parts])
        case AnyOf(parts=parts):
            return engine.Filter(should=[_to_condition(part) for part in parts])


def _compare(comparison: Comparison) -> Any:
    engine = _engine()
    bound = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
    if comparison.operator != "=":
        limits = engine.RangeFloat(**{bound[comparison.operator]: comparison.values[0]})
        return engine.FieldCondition(comparison.field, range=limits)
    choices = []
    for value in comparison.values:
        if isinstance(value, float):
            choices.append(engine.FieldCondition(comparison.field, range=engine.RangeFloat(gte=value, lte=value)))
        else:
            stored = _flag(value) if isinstance(value, bool) else value
            choices.append(engine.FieldCondition(comparison.field, match=engine.MatchValue(stored)))
    return engine.Filter(should=choices)


# ---- points ----------------------------------------------------------------------------------------------------------


def _point_id(case_id: str) -> int:
    """Name a point by a hash of its case id: the engine takes 64-bit integers and UUIDs.

    Integers, because the binding builds a Python UUID for every hit, which took longer than the search. Among a million
    cases two share a hash with a chance of 3e-8 (n^2 / 2^65).
    """
    return int.from_bytes(hashlib.blake2b(case_id.encode(), digest_size=8).digest(), "big")


def _to_statements(payload: Mapping[str, Any]) -> Statements:
    names = (payload["case_id"], payload["study_id"], payload["patient_id"])
    return Statements(*names, frozenset(payload["findings"]), frozenset(payload["negated"]))


def _to_point(case: Case, payload: dict[str, Any], image: np.ndarray, report: np.ndarray) -> Any:
    engine = _engine()
    words = describe_case(case)
    payload["negated"] = list(words.negated)
    vectors: dict[str, Any] = {"image": _unit(image, "image", case.case_id)}
    if case.report or case.report_es:
        vectors["report"] = _unit(report, "report", case.case_id)
    for name, terms in (("affirmed", words.affirmed), ("denied", words.denied)):
        if terms:
            vectors[name] = engine.SparseVector(list(terms.ids), list(terms.weights))
    return engine.Point(_point_id(case.case_id), vectors, payload)


def _flag(value: bool) -> str:
    """Write a flag as a word: the Python binding turns True into 1, which matches no stored true."""
    return "true" if value else "false"


def _unit(vector: np.ndarray, name: str, case_id: str) -> list[float]:
    vector = np.asarray(vector, dtype=np.float32)
    norm = float(np.linalg.norm(vector))
    # The engine stores NaN without a word and would never find the case again.
    if not np.isfinite(norm) or norm == 0:
        raise SearchIndexError(f"{name} vector of case {case_id} has length {norm}; expected a finite one above 0")
    return (vector / norm).tolist()  # type: ignore[no-any-return]  # numpy's tolist is Any


def _plain(record: Case | Finding) -> dict[str, Any]:
    """List a record's fields; ``asdict`` would copy each of them deeply, which took most of the time of adding."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _to_payload(case: Case, volumes_root: Path, index: Path) -> dict[str, Any]:
    """Flatten a case; absolute and relative places are both kept, so that index and dataset may move together."""
    present = [finding.name for finding in case.findings if finding.status == "present"]
    return {
        **_plain(case),
        "findings": list(dict.fromkeys(present)),
        "finding_records": [_plain(finding) for finding in case.findings],
        "is_synthetic": _flag(case.is_synthetic),
        "spacing_z_mm": case.spacing_mm[2],
        "volumes_root": str(volumes_root),
        "volumes_root_relative": os.path.relpath(volumes_root, index),
    }


def _from_payload(payload: Mapping[str, Any], index: Path) -> IndexedCase:
    names = Case.__dataclass_fields__
    values: dict[str, Any] = {name: payload.get(name) for name in names}
    values["findings"] = tuple(Finding(**record) for record in payload["finding_records"])
    values["spacing_mm"] = tuple(payload["spacing_mm"])
    values["is_synthetic"] = payload["is_synthetic"] == _flag(True)
    values["shape"] = tuple(payload["shape"])
    case = Case(**values)
    places = (Path(payload["volumes_root"]), index.resolve() / payload["volumes_root_relative"])
    volumes = (root / case.volume for root in places)
    volume = next((path.resolve() for path in volumes if path.is_file()), None)
    return IndexedCase(case, volume, tuple(payload["negated"]))
