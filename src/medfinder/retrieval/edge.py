"""Qdrant Edge: the engine that keeps an index in a folder, inside our process.

In: points and conditions. Out: ids with scores. Refused with ``SearchIndexError``: files that are damaged, and a disk
that is nearly full. What ``upsert`` and ``delete`` acknowledge survives kill -9. Edge is imported here alone.
"""

import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from medfinder.errors import MissingExtraError, SearchIndexError
from medfinder.retrieval.engine import (
    DENSE,
    PAYLOAD_INDEXES,
    SPARSE,
    Found,
    IndexSettings,
    Optimised,
    Point,
    Progress,
    Record,
    Space,
    Way,
    choices,
)
from medfinder.retrieval.filters import AllOf, AnyOf, Comparison, Condition, Not, Unknown
from medfinder.retrieval.lexical import Terms
from medfinder.sources.files import write_whole

# Flushing writes every file of the shard; what it saves is the time to replay the log when the index is opened.
_FLUSH_EVERY_S = 30.0

_SCROLL_PAGE = 1_000

_NEVER = Optimised()

# What passes a filter is compared one by one where that is less than this; the engine's own figure.
_SCANNED_KB = 10_000

# The engine maps its files into memory, and the system ends a process that writes to a mapped file on a full disk
# (SIGBUS): there is no error to catch, so room is looked for beforehand. Ours: more than a batch and the log can take.
ROOM_TO_WRITE = 128 * 2**20
ROOM_TO_OPEN = 16 * 2**20

_BLOCK = 2**16
_ZEROS = bytes(_BLOCK)


class EdgeEngine:
    """An open shard; ``create`` makes its files."""

    is_shared = False

    def __init__(self, path: Path, width: int) -> None:
        self._path = path
        self._width = width
        self._note = path.with_name("optimised.json")
        self._writing = threading.Lock()
        self._flushed_at = time.monotonic()
        require_room(path, ROOM_TO_OPEN)
        with _engine_errors(f"index {path.parent} cannot be loaded; make it anew"):
            self._shard = _edge().EdgeShard.load(str(path))
        self._optimised = _read_note(self._note)

    @staticmethod
    def create(path: Path, width: int) -> None:
        """Write the files of an empty shard."""
        edge = _edge()
        path.mkdir()
        with _engine_errors("no index can be made"):
            shard = edge.EdgeShard.create(str(path), edge.EdgeConfig(**_vectors(width)))
            for field, kind in PAYLOAD_INDEXES.items():
                schema = getattr(edge.PayloadSchemaType, kind)
                shard.update(edge.UpdateOperation.create_field_index(field, schema))
            shard.close()
        _part(path / "segments")

    # ---- changing ----------------------------------------------------------------------------------------------------

    def upsert(self, points: Sequence[Point]) -> None:
        """Add points, or replace those of the same id."""
        self._update(_edge().UpdateOperation.upsert_points([_to_point(point) for point in points]))

    def delete(self, ids: Sequence[int]) -> None:
        """Remove points."""
        self._update(_edge().UpdateOperation.delete_points(list(ids)))

    def _update(self, operation: Any) -> None:
        require_room(self._path, ROOM_TO_WRITE)
        with self._writing, self._errors("written"):
            self._shard.update(operation)
            # The engine's log is in the page cache now, which outlives the process; on disk, it outlives the machine.
            # The engine replays it when the index is opened.
            for file in (self._path / "wal").iterdir():
                _sync(file)
            if time.monotonic() - self._flushed_at > _FLUSH_EVERY_S:
                self._shard.flush()
                self._flushed_at = time.monotonic()

    def optimise(self, way: Way, settings: IndexSettings, progress: Progress | None) -> None:
        """Lay the vectors out for a way of searching.

        Killed, it leaves an index that is searched exactly. Searches of other threads may fail meanwhile.
        """
        cases = self.count(None, None)
        with self._writing, self._errors("optimised"):
            self._note.unlink(missing_ok=True)
            self._optimised = _NEVER
            if way == "exact":
                return
            # The engine writes a second copy and drops the first one then.
            require_room(self._path, ROOM_TO_WRITE + 2 * self.size_bytes())
            self._shard.close()
            self._shard = _edge().EdgeShard.load(str(self._path), _config(way, self._width, settings))
            with _watched(self._indexed, cases, progress):
                self._shard.optimize()
                self._shard.flush()
            optimised = Optimised(way, cases, settings.breadth, settings.oversampling)
            write_whole(self._note, json.dumps(asdict(optimised)).encode())
            self._optimised = optimised

    def optimised(self) -> Optimised:
        """Tell how the index was last optimised."""
        return self._optimised

    def _indexed(self) -> int:
        # Vectors without words are counted as well, so that this is how far it is, about.
        return int(self._shard.info().indexed_vectors_count) // (len(DENSE) + len(SPARSE))

    def stamp(self) -> str:
        """Name the state of what is kept: each segment with the last operation that it has seen."""
        with self._errors("read"):
            segments = self._shard.snapshot_manifest()
        return " ".join(f"{name}:{one['segment_version']}" for name, one in sorted(segments.items()))

    def flush(self) -> None:
        """Write everything to disk."""
        with self._errors("flushed"):
            self._shard.flush()

    def close(self) -> None:
        """Let go of the files."""
        with self._errors("closed"):
            self._shard.close()

    # ---- looking -----------------------------------------------------------------------------------------------------

    def nearest(
        self,
        space: Space,
        query: np.ndarray | Terms,
        *,
        limit: int,
        where: Condition | None,
        among: Sequence[int] | None,
    ) -> Found:
        """List the best points with their scores, best first."""
        edge = _edge()
        request = edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(_to_vector(query), using=space),
            filter=_to_filter(where, among),
            params=self._params(limit),
            with_payload=False,
        )
        with self._errors("searched"):
            return Found.of(self._shard.query(request))

    def retrieve(self, ids: Sequence[int], fields: Sequence[str] | None, *, with_vectors: bool = False) -> list[Record]:
        """Fetch points, with some fields of their payload or, for None, with all."""
        with self._errors("read"):
            found = self._shard.retrieve(list(ids), True if fields is None else list(fields), with_vectors)
        return [Record(one.id, one.payload, _dense(one.vector) if with_vectors else {}) for one in found]

    def scroll(self, fields: Sequence[str], where: Condition | None) -> Iterator[Mapping[str, Any]]:
        """Walk through the payloads of all points that pass."""
        edge, offset, passing = _edge(), None, _to_filter(where, None)
        while True:
            request = edge.ScrollRequest(offset=offset, limit=_SCROLL_PAGE, filter=passing, with_payload=list(fields))
            with self._errors("read"):
                records, offset = self._shard.scroll(request)
            yield from (record.payload for record in records)
            if offset is None:
                return

    def count(self, where: Condition | None, among: Sequence[int] | None) -> int:
        """Count the points that pass."""
        with self._errors("read"):
            return int(self._shard.count(_edge().CountRequest(exact=True, filter=_to_filter(where, among))))

    def facet(self, field: str, where: Condition | None) -> dict[str, int]:
        """Count the points that pass by the values of a field."""
        request = _edge().FacetRequest(field, limit=1_000, exact=True, filter=_to_filter(where, None))
        with self._errors("read"):
            return {str(hit.value): int(hit.count) for hit in self._shard.facet(request) if hit.count}

    def size_bytes(self) -> int:
        """Tell what it takes on disk: blocks, not lengths, for the log's files are sparse."""
        return sum(file.stat().st_blocks * 512 for file in self._path.rglob("*") if file.is_file())

    def _params(self, limit: int) -> Any:
        edge, optimised = _edge(), self._optimised
        if optimised.way == "exact":
            return edge.SearchParams(exact=True)
        rescored = edge.QuantizationSearchParams(rescore=True, oversampling=optimised.compared_anew(limit))
        return edge.SearchParams(hnsw_ef=max(optimised.breadth, limit), quantization=rescored)

    def _errors(self, what: str) -> Any:
        return _engine_errors(f"index {self._path.parent} cannot be {what}")


def engine_name() -> str:
    """Name the engine and its version."""
    _edge()
    return f"qdrant-edge-py {version('qdrant-edge-py')}"


def require_room(folder: Path, needed: int) -> None:
    """Refuse to go on when the disk is nearly full.

    Raises:
        SearchIndexError: says how much is free and how much is needed.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SearchIndexError(
            f"{free // 2**20} MB free on the disk of {folder}, expected at least {needed // 2**20} MB; make room"
        )


@contextmanager
def _watched(done: Any, total: int, progress: Progress | None) -> Iterator[None]:
    """Tell how far the engine is while it works; it has no word for that itself."""
    if progress is None:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            progress(min(done(), total), total)

    watcher = threading.Thread(target=watch, daemon=True)
    progress(0, total)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
    progress(total, total)


def _read_note(note: Path) -> Optimised:
    """Read how the index was optimised; a note that cannot be read costs time in searches and nothing else."""
    try:
        return Optimised(**json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return _NEVER


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


# ---- the binding -----------------------------------------------------------------------------------------------------


def _edge() -> Any:
    try:
        import qdrant_edge
    except ImportError:
        raise MissingExtraError("the index engine (qdrant-edge-py)", "index") from None
    return qdrant_edge


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


def _vectors(width: int) -> dict[str, Any]:
    """Name the vectors; the whole ones and the words stay on disk until they are asked for."""
    edge = _edge()
    cold = edge.Memory.Cold
    return {
        "vectors": {name: edge.EdgeVectorParams(width, edge.Distance.Cosine, memory=cold) for name in DENSE},
        "sparse_vectors": {
            name: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf, memory=cold) for name in SPARSE
        },
    }


def _config(way: Way, width: int, settings: IndexSettings) -> Any:
    edge = _edge()
    # No links of their own for the values of payload fields: with nine fields they took most of the time of building.
    links = settings.neighbours if way == "graph" else 0
    bits = edge.TurboQuantBitSize.Bits4
    return edge.EdgeConfig(
        **_vectors(width),
        hnsw_config=edge.HnswIndexConfig(
            links, settings.build_breadth, _SCANNED_KB, payload_m=0, memory=edge.Memory.Cached
        ),
        quantization_config=edge.TurboQuantQuantizationConfig(bits=bits, memory=edge.Memory.Cached),
        optimizers=edge.EdgeOptimizersConfig(
            # Two more than the large ones, for cases that come later: else the engine would merge the large ones.
            indexing_threshold=1,
            default_segment_number=settings.segments + 2,
            max_segment_size=2**40,
        ),
    )


def _part(segments: Path) -> None:
    """Give an empty shard several segments.

    The engine searches segments side by side, and fills the smallest first; but it makes one and never parts it.
    """
    (first,) = segments.iterdir()
    for _ in range(IndexSettings().segments - 1):
        shutil.copytree(first, first.with_name(str(uuid.uuid4())), copy_function=_copy_with_holes)


def _copy_with_holes(source: str, target: str) -> None:
    """Copy what is in a file and leave out the zeros: the files of an empty segment are 160 MB of nothing."""
    with Path(source).open("rb") as read, Path(target).open("wb") as write:
        for number, block in enumerate(iter(partial(read.read, _BLOCK), b"")):
            if block != _ZEROS[: len(block)]:
                write.seek(number * _BLOCK)
                write.write(block)
        write.truncate(read.tell())


def _to_point(point: Point) -> Any:
    edge = _edge()
    vectors: dict[str, Any] = {name: vector.tolist() for name, vector in point.dense.items()}
    for name, terms in point.sparse.items():
        vectors[name] = edge.SparseVector(list(terms.ids), list(terms.weights))
    return edge.Point(point.id, vectors, dict(point.payload))


def _to_vector(query: np.ndarray | Terms) -> Any:
    if isinstance(query, Terms):
        return _edge().SparseVector(list(query.ids), list(query.weights))
    return np.asarray(query, dtype=np.float32).tolist()


def _dense(vectors: Mapping[str, Any]) -> dict[Space, np.ndarray]:
    return {space: np.asarray(vectors[space], np.float32) for space in DENSE if space in vectors}


# ---- conditions ------------------------------------------------------------------------------------------------------


def _to_filter(condition: Condition | None, among: Sequence[int] | None) -> Any:
    must = [] if condition is None else [_to_condition(condition)]
    if among is not None:
        must.append(_edge().HasIdCondition(set(among)))
    return _edge().Filter(must=must) if must else None


def _to_condition(condition: Condition) -> Any:
    edge = _edge()
    match condition:
        case Comparison():
            return _compare(condition)
        case Unknown(field=field):
            return edge.IsEmptyCondition(field)
        case Not(part=part):
            return edge.Filter(must_not=[_to_condition(part)])
        case AllOf(parts=parts):
            return edge.Filter(must=[_to_condition(part) for part in parts])
        case AnyOf(parts=parts):
            return edge.Filter(should=[_to_condition(part) for part in parts])


def _compare(comparison: Comparison) -> Any:
    edge, field = _edge(), comparison.field

    def passes(one: str | dict[str, float]) -> Any:
        if isinstance(one, str):
            return edge.FieldCondition(field, match=edge.MatchValue(one))
        return edge.FieldCondition(field, range=edge.RangeFloat(**one))

    return edge.Filter(should=[passes(one) for one in choices(comparison)])
