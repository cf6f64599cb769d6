"""The search index: one point a case in an engine, which remembers the model that its vectors came from.

In: cases with their image and report embeddings. Out: lists of case ids with scores, for a dense or a sparse vector and
a filter. A point holds the unit vectors ``image`` and ``report``, the sparse BM25 vectors ``affirmed`` and ``denied``,
and the case itself as payload; what is filtered by, counted and compared of it stands in ``columns``, too. Refused with
``SearchIndexError``: folders that are no index, damaged ones, one that another process has open, vectors of another
model than the index was made with, and a disk that is nearly full.

    INDEX/index.json   format, engine, model name and digest, width; written once, at creation
    INDEX/optimised.json   how many cases were there when it was last optimised
    INDEX/columns/     a copy of what the payloads say (``columns``); made anew when it is gone or behind
    INDEX/lock         held while the index is open
    INDEX/shard/       the engine's own files (``edge``)

``add`` and ``remove`` return once the engine's write-ahead log is on disk; what they acknowledged survives kill -9.
"""

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from medfinder.errors import SearchIndexError
from medfinder.records import Case
from medfinder.retrieval.cluster import Cluster, ClusterEngine
from medfinder.retrieval.columns import COUNTED, READ, Columns, point_of, points_of
from medfinder.retrieval.edge import ROOM_TO_WRITE, EdgeEngine, engine_name, require_room
from medfinder.retrieval.engine import DENSE, SPARSE, Engine, Found, IndexSettings, Progress, Space, Way
from medfinder.retrieval.filters import Condition, equals
from medfinder.retrieval.index_folder import check_meta, is_index_folder, make_meta, read_meta, take_lock
from medfinder.retrieval.lexical import Terms
from medfinder.retrieval.stored_case import IndexedCase, StoredCase, find_volume, from_payload, to_payload, to_point

# Cases of a cluster, and terms, that are remembered so that they are asked for once; about 50 MB at the most.
_MAX_REMEMBERED = 200_000

# Cases read at a time while columns are made.
_READ_AT_ONCE = 1_000

# Facets and counts that are remembered until something changes; ours: more than a page's filters ask in a minute.
_MAX_COUNTED = 500

# Cases of a folder that were read from the engine and are kept until something changes; about 10 MB.
_MAX_KEPT_CASES = 2_000

# Where so few cases pass a condition, the engine is told which; where so large a share does, it is asked without the
# condition for as many more, which costs less than to try it on each vector. By measurement (docs/index.md).
_FEW, _MOST = 1_000, 0.4

# For how long what is remembered is believed where other processes may change the index: ours, about a page's reading.
_BELIEVED_S = 60.0

# Engine scores are float32; what differs by less than this is a tie.
_SCORE_DIGITS = 6


# Share of the cases below which laying an index out anew pays: ours, because the others are only compared in turn.
_FRESH = 0.9

_USUAL = IndexSettings()


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What an index says of itself.

    Attributes:
        width: length of an embedding.
        counts: field to value to number of cases, for source, split, region and is_synthetic.
        size_bytes: on disk; 0 where that is not known.
        way: how vectors are searched.
        optimised: cases that were there when it was last laid out for that.
    """

    path: Path
    cases: int
    model_name: str
    model_digest: str
    width: int
    format: int
    engine: str
    size_bytes: int
    way: Way
    optimised: int
    counts: Mapping[str, Mapping[str, int]]


class SearchIndex:
    """An open index. Get one from ``create`` or ``open``; close it, or use it as a context manager.

    Threads of one process may add, remove and search at the same time.
    """

    def __init__(self, path: Path, meta: Mapping[str, Any], engine: Engine, release: Callable[[], None]) -> None:
        self.path = path
        self._meta = meta
        self._engine = engine
        self._release = release
        self._is_open = True
        self._remembering = threading.Lock()
        # Of a folder: what all cases say, once that is needed. Of a cluster: what those met in searches do.
        self._columns: Columns | None = None
        self._changing = threading.RLock()
        self._saved = ""
        self._known_terms: dict[int, bool] = {}
        self._counted: dict[Any, Any] = {}
        self._kept_cases: dict[str, StoredCase] = {}
        self._changes = 0
        self._believed_since = time.monotonic()

    # ---- life --------------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        model_digest: str,
        width: int,
        model_name: str,
        cluster: Cluster | None = None,
    ) -> Self:
        """Make an empty index for one model's vectors and open it; killed half-way, nothing stands at ``path``.

        Args:
            cluster: make it there, as the collection that is named as the last part of ``path``.

        Raises:
            SearchIndexError: something is there already, or it cannot be written.
        """
        if cluster is not None:
            _create_collection(path, cluster, make_meta("Qdrant cluster", model_digest, width, model_name))
            return cls.open(path, cluster=cluster)
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise SearchIndexError(
                f"{path} exists and is not empty; choose another folder, or open it if it is an index"
            )
        meta = make_meta(engine_name(), model_digest, width, model_name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            require_room(path.parent, ROOM_TO_WRITE)
            draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        except OSError as error:
            raise SearchIndexError(f"no index can be made at {path}: {error.strerror}") from error
        try:
            EdgeEngine.create(draft / "shard", width)
            (draft / "index.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
            draft.chmod(0o755)
            draft.rename(path)
        except OSError as error:
            raise SearchIndexError(f"no index can be made at {path}: {error.strerror}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, *, wait_s: float = 0.0, cluster: Cluster | None = None) -> Self:
        """Open an index for searching and changing.

        Args:
            wait_s: how long to wait for another process to let go of it; nobody waits for a cluster.
            cluster: where the index is, if it is not a folder; ``path`` names the collection.

        Raises:
            SearchIndexError: no index is there, it is damaged, or another process has it open.
        """
        if cluster is not None:
            return cls(path, *_open_collection(path, cluster), lambda: None)
        meta = read_meta(path)
        lock = take_lock(path, wait_s)
        try:
            engine = EdgeEngine(path / "shard", meta["width"])
        except BaseException:
            os.close(lock)
            raise
        index = cls(path, meta, engine, lambda: os.close(lock))
        index._load_columns()
        return index

    def flush(self) -> None:
        """Write everything to disk."""
        self._engine.flush()

    def close(self) -> None:
        """Let go of the index; closing twice does nothing."""
        if not self._is_open:
            return
        try:
            self._save_columns()
            self._engine.close()
        finally:
            self._is_open = False
            self._release()

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
            payload = to_payload(case, volumes_root.resolve(), self.path.resolve())
            payload["digest"] = digests[row] if digests else ""
            points.append(to_point(case, payload, image[row], report[row]))
        if points:
            with self._change() as columns:
                self._engine.upsert(points)
                if columns is not None:
                    columns.put([point.payload for point in points])

    def remove(self, case_ids: Sequence[str]) -> int:
        """Remove cases; ids that are not there are passed over.

        Returns:
            How many were there.
        """
        there = list(self.cases(case_ids))
        if there:
            points = points_of(there)
            with self._change() as columns:
                self._engine.delete(points.tolist())
                if columns is not None:
                    columns.remove(points)
        return len(there)

    @contextmanager
    def _change(self) -> Iterator[Columns | None]:
        """Change cases one after another, and remember nothing that a change has made wrong."""
        with self._changing:
            before = self._engine.stamp()
            try:
                yield self._columns
            except BaseException:
                # How far it came is not known.
                if self._engine.is_shared or self._engine.stamp() != before:
                    self._columns = None
                raise
            finally:
                with self._remembering:
                    self._changes += 1
                    self._known_terms.clear()
                    self._counted.clear()
                    self._kept_cases = {}

    def optimise(
        self, way: Way | None = None, settings: IndexSettings = _USUAL, progress: Progress | None = None
    ) -> Way:
        """Make searching quick where the index is large; call it after many cases were added.

        Cases that are added later are found as well. Killed, it leaves an index that is searched exactly.

        Args:
            way: how to search; by the number of cases if not given, and then only where it is worth the while.

        Returns:
            How it is searched from now on.
        """
        cases, before = len(self), self._engine.optimised()
        chosen = way or settings.way(cases)
        is_fresh = before.way == chosen and before.cases >= (cases if way else _FRESH * cases)
        if not is_fresh and (chosen, before.way) != ("exact", "exact"):
            with self._changing:
                self._engine.optimise(chosen, settings, progress)
        if not self._engine.is_shared:
            self._whole()
        return chosen

    # ---- looking -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._engine.count(None, None)

    def count(self, where: Condition | None = None, among: Sequence[str] | None = None) -> int:
        """Count the cases that pass a filter, of all or among some."""
        points = None if among is None else points_of(among)
        if not self._engine.is_shared:
            columns = self._whole()
            return columns.count(where) if points is None else int(columns.passes(points, where).sum())
        if points is not None:
            return self._engine.count(where, points.tolist())
        return int(self._remember_count(("count", where), lambda: self._engine.count(where, None)))

    def nearest(
        self,
        space: Space,
        query: np.ndarray | Terms,
        *,
        limit: int,
        where: Condition | None = None,
        among: Sequence[str] | None = None,
    ) -> list[tuple[str, float]]:
        """Rank the cases by one vector, as ``find`` does.

        Args:
            among: rank these cases only.

        Returns:
            Case ids with scores, best first, ties by id.
        """
        found = self.find(space, query, limit=limit, where=where, among=None if among is None else points_of(among))
        case_ids = [name.decode() for name in self.names("case_id", found.points).tolist()]
        return sorted(zip(case_ids, found.scores.tolist(), strict=True), key=lambda one: (-one[1], one[0]))

    def find(
        self,
        space: Space,
        query: np.ndarray | Terms,
        *,
        limit: int,
        where: Condition | None = None,
        among: np.ndarray | None = None,
    ) -> Found:
        """Find the points that are nearest to one vector; exactly, where the index was not optimised.

        Args:
            query: an embedding for ``image`` and ``report`` (score: cosine), terms for ``affirmed`` and ``denied``
                (score: BM25; cases that share no term are left out).
            limit: how many at least, where there are so many: whatever ties with the last comes too, so that an answer
                never depends on the order in which cases were added; not in an index that was optimised, where that
                could be most of it.
            among: look at these points only.

        Returns:
            Points, best first, ties in no order.
        """
        while True:
            found = self._best(space, query, limit + 1, where, among)
            is_exact = self._engine.optimised().way == "exact"
            if len(found) <= limit or found.scores[-1] < found.scores[limit - 1] or not is_exact:
                return found.only(slice(limit))
            limit *= 4

    def _best(
        self, space: Space, query: np.ndarray | Terms, limit: int, where: Condition | None, among: np.ndarray | None
    ) -> Found:
        """Find the best that pass; whatever ties with the last may be left out."""

        def ask(limit: int, where: Condition | None, among: np.ndarray | None) -> Found:
            ids = None if among is None else among.tolist()
            if ids == []:
                return Found.of([])
            found = self._engine.nearest(space, query, limit=limit, where=where, among=ids)
            return Found(found.points, np.round(found.scores, _SCORE_DIGITS))

        def passing(found: Found) -> Found:
            # A case may have been removed since it was found.
            return found.only(self._known(found.points).passes(found.points, where if is_whole else None))

        is_whole = not self._engine.is_shared
        if is_whole and where is not None and among is None:
            columns = self._whole()
            share = columns.count(where) / max(1, len(columns))
            if share * len(columns) <= _FEW:
                return passing(ask(limit, None, columns.passing(where)))
            if share == 1 or (share >= _MOST and space in DENSE):
                more = limit if share == 1 else int(1.2 * limit / share)
                found = ask(more, None, None)
                if len(kept := passing(found)) >= limit or len(found) < more:
                    return kept.only(slice(limit))
        return passing(ask(limit, where, among))

    # ---- what cases say ----------------------------------------------------------------------------------------------

    def says(self, field: str, words: Sequence[str], points: np.ndarray) -> np.ndarray:
        """Tell which of some words each point has among its ``findings`` or ``negated``, as (words, points)."""
        return self._known(points).says(field, words, points)

    def names(self, field: str, points: np.ndarray) -> np.ndarray:
        """Give the ``case_id`` of points, in UTF-8, or a hash of ``study_id`` or ``patient_id``."""
        return self._known(points).names(field, points)

    def _known(self, points: np.ndarray) -> Columns:
        """Give columns that hold these points, so far as the engine does."""
        if not self._engine.is_shared:
            return self._whole()
        self._doubt()
        changes, columns = self._changes, self._columns or Columns()
        missing = points[~columns.passes(points)]
        if len(missing):
            columns.put([record.payload for record in self._engine.retrieve(missing.tolist(), READ)])
        # What was read while something changed may be the old state: use it now, but do not keep it.
        self._columns = columns if changes == self._changes and len(columns) < _MAX_REMEMBERED else None
        return columns

    def _whole(self) -> Columns:
        """Give the columns of all cases; they are made where there are none, which takes a while once."""
        if (columns := self._columns) is not None:
            return columns
        with self._changing:
            if self._columns is None:
                columns, payloads = Columns(), self._engine.scroll(READ, None)
                while some := list(islice(payloads, _READ_AT_ONCE)):
                    columns.put(some)
                self._columns = columns
                self._save_columns()
            return self._columns

    def _load_columns(self) -> None:
        """Take the columns from the disk if they are those of what the engine holds."""
        stamp, cases = self._engine.stamp(), len(self)
        columns = Columns() if cases == 0 else Columns.load(self.path / "columns", stamp)
        if columns is not None and len(columns) == cases:
            self._columns, self._saved = columns, stamp

    def _save_columns(self) -> None:
        """Keep the columns on the disk if they have changed; without them the next one to open the index makes them."""
        stamp = self._engine.stamp()
        if self._columns and not self._engine.is_shared and stamp != self._saved:
            with contextlib.suppress(OSError):
                self._columns.save(self.path / "columns", stamp)
                self._saved = stamp

    def _doubt(self) -> None:
        """Forget now and then what others may have changed, where others can."""
        if self._engine.is_shared and time.monotonic() - self._believed_since > _BELIEVED_S:
            self._believed_since = time.monotonic()
            with self._remembering:
                self._changes += 1
                self._columns = None
                self._known_terms.clear()
                self._counted.clear()

    def _remember_count(self, asked: Any, count: Callable[[], Any]) -> Any:
        """Count once until something changes: the same filter is asked again with every page and every query."""
        self._doubt()
        if (known := self._counted.get(asked)) is not None:
            return known
        changes, counted = self._changes, count()
        with self._remembering:
            if changes == self._changes:
                if len(self._counted) >= _MAX_COUNTED:
                    self._counted.clear()
                self._counted[asked] = counted
        return counted

    def cases(self, case_ids: Sequence[str]) -> dict[str, IndexedCase]:
        """Fetch cases by id; those that are not there are left out."""
        kept, changes = self._kept_cases, self._changes
        found = {case_id: kept[case_id] for case_id in dict.fromkeys(case_ids) if case_id in kept}
        if missing := [case_id for case_id in case_ids if case_id not in found]:
            records = self._engine.retrieve(_points(missing), None)
            read = {record.payload["case_id"]: from_payload(record.payload, self.path) for record in records}
            found |= read
            self._keep_cases(read, changes)
        # A volume may go at any time.
        return {
            case_id: IndexedCase(case, find_volume(places), negated)
            for case_id, (case, places, negated) in found.items()
        }

    def _keep_cases(self, read: Mapping[str, StoredCase], changes: int) -> None:
        """Keep cases until something changes; those of a cluster are changed by others, too, and never kept."""
        if self._engine.is_shared:
            return
        with self._remembering:
            if changes == self._changes:
                if len(self._kept_cases) >= _MAX_KEPT_CASES:
                    self._kept_cases = {}
                self._kept_cases.update(read)

    def vectors(self, case_ids: Sequence[str]) -> dict[str, dict[Space, np.ndarray]]:
        """Fetch the embeddings of cases, ``report`` where there is one; cases that are not there are left out."""
        records = self._engine.retrieve(_points(case_ids), ["case_id"], with_vectors=True)
        return {record.payload["case_id"]: dict(record.dense) for record in records}

    def knows(self, terms: Terms) -> frozenset[int]:
        """Tell which terms, by their ids, stand in some report."""
        return frozenset(term for term in terms.ids if self._is_known(term))

    def _is_known(self, term: int) -> bool:
        self._doubt()
        if (known := self._known_terms.get(term)) is not None:
            return known
        changes, one = self._changes, Terms((term,), (1.0,))
        known = any(len(self._engine.nearest(space, one, limit=1, where=None, among=None)) for space in SPARSE)
        with self._remembering:
            if changes == self._changes and len(self._known_terms) < _MAX_REMEMBERED:
                self._known_terms[term] = known
        return known

    def digests(self, volumes_root: Path | None = None) -> dict[str, str]:
        """Return the content digest of every case, or of those added from one folder."""
        where = None if volumes_root is None else equals("volumes_root", str(volumes_root.resolve()))
        payloads = self._engine.scroll(["case_id", "digest"], where)
        return {payload["case_id"]: payload["digest"] for payload in payloads}

    def facet(self, field: str, where: Condition | None = None) -> dict[str, int]:
        """Count the cases by the values of a field, most frequent first."""

        def count() -> dict[str, int]:
            is_ours = not self._engine.is_shared and field in COUNTED
            counted = (self._whole() if is_ours else self._engine).facet(field, where)
            return dict(sorted(counted.items(), key=lambda one: (-one[1], one[0])))

        return dict(self._remember_count((field, where), count))

    def info(self) -> IndexInfo:
        """Tell what is in the index, by which model, and how large it is."""
        cases = len(self)
        return IndexInfo(
            path=self.path,
            cases=cases,
            model_name=str(self._meta["model_name"]),
            model_digest=self.model_digest,
            width=self.width,
            format=int(self._meta["format"]),
            engine=str(self._meta["engine"]),
            size_bytes=self._engine.size_bytes(),
            way=self._engine.optimised().way,
            optimised=self._engine.optimised().cases,
            counts={field: self.facet(field) for field in ("source", "split", "region", "is_synthetic")},
        )


def is_index(path: Path, cluster: Cluster | None = None) -> bool:
    """Tell whether a folder looks like an index, without opening it, or whether a cluster has such a collection.

    Raises:
        SearchIndexError: the cluster cannot be reached.
    """
    if cluster is not None:
        client = cluster.connect()
        try:
            return ClusterEngine.exists(client, path.name, cluster.url)
        finally:
            client.close()
    return is_index_folder(path)


# ---- cluster ---------------------------------------------------------------------------------------------------------


def _create_collection(path: Path, cluster: Cluster, meta: Mapping[str, Any]) -> None:
    if is_index(path, cluster):
        raise SearchIndexError(f"{cluster.url} has a collection {path.name} already; choose another name")
    client = cluster.connect()
    try:
        ClusterEngine.create(client, path.name, cluster, meta)
    finally:
        client.close()


def _open_collection(path: Path, cluster: Cluster) -> tuple[Mapping[str, Any], Engine]:
    client, place = cluster.connect(), f"{path.name} at {cluster.url}"
    try:
        engine = ClusterEngine(client, path.name, place)
        meta = check_meta(engine.about(), place)
    except BaseException:
        client.close()
        raise
    return meta, engine


def _points(case_ids: Iterable[str]) -> list[int]:
    return [point_of(case_id) for case_id in dict.fromkeys(case_ids)]
