"""A Qdrant cluster: the engine that keeps an index on servers, in one collection.

In: the URL of a cluster, points and conditions. Out: ids with scores. Refused with ``SearchIndexError``: a cluster that
cannot be reached or does not let us in, a collection that is not there or is none of ours. Vectors, payloads and
conditions are those of ``edge``. The client is imported here and nowhere else.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from medfinder.errors import ConfigError, MissingExtraError, SearchIndexError
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

# The secret, or in ..._FILE the file that holds it.
KEY_VARIABLE = "MEDFINDER_QDRANT_KEY"

_TIMEOUT_S = 60
_SCROLL_PAGE = 1_000
_POLL_S = 1.0

# Under which our own facts stand in the collection's metadata.
_ABOUT, _OPTIMISED = "medfinder", "medfinder_optimised"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where a cluster is, and how a new collection is spread over it.

    Attributes:
        url: as its servers are reached, e.g. ``http://qdrant:6333``; the key comes from ``MEDFINDER_QDRANT_KEY``.
        shards: parts, each on one server; as many as servers, or a multiple, so that all of them work.
        replicas: servers that hold each part; with 2 the loss of one server loses nothing.
    """

    url: str
    shards: int = 1
    replicas: int = 1

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            raise ConfigError(
                f"index URL {self.url[:60]!r}; expected http://HOST:PORT or https://HOST:PORT, and the key of the "
                f"cluster in {KEY_VARIABLE}"
            )
        for name in ("shards", "replicas"):
            if not 1 <= getattr(self, name) <= 1_000:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected 1 to 1000")

    def connect(self) -> Any:
        """Make a client; nothing is sent yet."""
        parts = urlsplit(self.url)
        client, _ = _qdrant()
        return client.QdrantClient(
            url=f"{parts.scheme}://{parts.hostname}",
            port=parts.port or (443 if parts.scheme == "https" else 6333),
            prefix=parts.path.strip("/") or None,
            api_key=_read_key(),
            timeout=_TIMEOUT_S,
            # It would warn, not fail; a request that a server does not know fails by itself.
            check_compatibility=False,
        )


def cluster_at(url: str | None, shards: int = 1, replicas: int = 1) -> Cluster | None:
    """Name a cluster by its URL; none is meant where none is given."""
    return None if url is None else Cluster(url, shards, replicas)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username and parts.port != 0
    except ValueError:
        return False


def _read_key() -> str | None:
    if (key := os.environ.get(KEY_VARIABLE)) is not None:
        return key
    if (file := os.environ.get(f"{KEY_VARIABLE}_FILE")) is None:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{KEY_VARIABLE}_FILE cannot be read: {error.strerror}") from error


class ClusterEngine:
    """A collection; ``create`` makes it."""

    is_shared = True

    def __init__(self, client: Any, collection: str, place: str) -> None:
        self._client = client
        self._collection = collection
        self._place = place
        self._optimised = Optimised(**self._metadata().get(_OPTIMISED, {}))

    @staticmethod
    def create(client: Any, collection: str, cluster: Cluster, meta: Mapping[str, Any]) -> None:
        """Make an empty collection that remembers what ``index.json`` does of a folder."""
        _, models = _qdrant()
        vector = models.VectorParams(size=meta["width"], distance=models.Distance.COSINE, on_disk=True)
        words = models.SparseVectorParams(modifier=models.Modifier.IDF, index=models.SparseIndexParams(on_disk=True))
        with _cluster_errors(f"no index {collection} can be made at {cluster.url}"):
            client.create_collection(
                collection,
                vectors_config=dict.fromkeys(DENSE, vector),
                sparse_vectors_config=dict.fromkeys(SPARSE, words),
                # No graph while cases come in: every search is exact until ``optimise``.
                hnsw_config=models.HnswConfigDiff(m=0, payload_m=0),
                shard_number=cluster.shards,
                replication_factor=cluster.replicas,
                on_disk_payload=True,
                metadata={_ABOUT: dict(meta)},
            )
            for field, kind in PAYLOAD_INDEXES.items():
                client.create_payload_index(collection, field, getattr(models.PayloadSchemaType, kind.upper()))

    @staticmethod
    def exists(client: Any, collection: str, place: str) -> bool:
        """Tell whether there is such a collection, ours or not."""
        with _cluster_errors(f"{place} cannot be reached"):
            return bool(client.collection_exists(collection))

    def about(self) -> Mapping[str, Any]:
        """Return what ``create`` was told; empty for a collection that is none of ours."""
        return dict(self._metadata().get(_ABOUT, {}))

    def _metadata(self) -> Mapping[str, Any]:
        with self._errors("read"):
            return dict(self._client.get_collection(self._collection).config.metadata or {})

    # ---- changing ----------------------------------------------------------------------------------------------------

    def upsert(self, points: Sequence[Point]) -> None:
        """Add points, or replace those of the same id; all replicas that live have them when this returns."""
        with self._errors("written"):
            self._client.upsert(self._collection, [_to_point(point) for point in points], wait=True)

    def delete(self, ids: Sequence[int]) -> None:
        """Remove points."""
        _, models = _qdrant()
        with self._errors("written"):
            self._client.delete(self._collection, models.PointIdsList(points=list(ids)), wait=True)

    def optimise(self, way: Way, settings: IndexSettings, progress: Progress | None) -> None:
        """Have the servers lay the vectors out for a way of searching, and wait for them."""
        _, models = _qdrant()
        cases = self.count(None, None)
        optimised = Optimised()
        with self._errors("optimised"):
            if way != "exact":
                links = settings.neighbours if way == "graph" else 0
                self._client.update_collection(
                    self._collection,
                    hnsw_config=models.HnswConfigDiff(m=links, ef_construct=settings.build_breadth, payload_m=0),
                    quantization_config=models.ScalarQuantization(
                        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
                    ),
                )
                self._wait(cases, progress)
                optimised = Optimised(way, cases, settings.breadth, settings.oversampling)
            metadata = {**self._metadata(), _OPTIMISED: asdict(optimised)}
            self._client.update_collection(self._collection, metadata=metadata)
        self._optimised = optimised

    def _wait(self, cases: int, progress: Progress | None) -> None:
        _, models = _qdrant()
        while True:
            found = self._client.get_collection(self._collection)
            done = (found.indexed_vectors_count or 0) // (len(DENSE) + len(SPARSE))
            if progress is not None:
                progress(min(done, cases), cases)
            if found.status == models.CollectionStatus.GREEN:
                break
            time.sleep(_POLL_S)
        if progress is not None:
            progress(cases, cases)

    def optimised(self) -> Optimised:
        """Tell how the index was last optimised."""
        return self._optimised

    def stamp(self) -> str:
        """Return nothing: others may change it at any time."""
        return ""

    def flush(self) -> None:
        """Do nothing: the servers flush."""

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

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
        with self._errors("searched"):
            found = self._client.query_points(
                self._collection,
                query=_to_vector(query),
                using=space,
                query_filter=_to_filter(where, among),
                search_params=self._params(limit),
                limit=limit,
                with_payload=False,
            )
        return Found.of(found.points)

    def retrieve(self, ids: Sequence[int], fields: Sequence[str] | None, *, with_vectors: bool = False) -> list[Record]:
        """Fetch points, with some fields of their payload or, for None, with all."""
        with self._errors("read"):
            found = self._client.retrieve(
                self._collection,
                list(ids),
                with_payload=True if fields is None else list(fields),
                with_vectors=list(DENSE) if with_vectors else False,
            )
        return [Record(int(one.id), one.payload or {}, _dense(one.vector or {})) for one in found]

    def scroll(self, fields: Sequence[str], where: Condition | None) -> Iterator[Mapping[str, Any]]:
        """Walk through the payloads of all points that pass."""
        offset, passing = None, _to_filter(where, None)
        while True:
            with self._errors("read"):
                records, offset = self._client.scroll(
                    self._collection, passing, limit=_SCROLL_PAGE, offset=offset, with_payload=list(fields)
                )
            yield from (record.payload for record in records)
            if offset is None:
                return

    def count(self, where: Condition | None, among: Sequence[int] | None) -> int:
        """Count the points that pass."""
        with self._errors("read"):
            return int(self._client.count(self._collection, _to_filter(where, among), exact=True).count)

    def facet(self, field: str, where: Condition | None) -> dict[str, int]:
        """Count the points that pass by the values of a field."""
        with self._errors("read"):
            found = self._client.facet(self._collection, field, _to_filter(where, None), limit=1_000, exact=True)
        return {str(hit.value): int(hit.count) for hit in found.hits if hit.count}

    def size_bytes(self) -> int:
        """Return 0: the servers do not tell."""
        return 0

    def _params(self, limit: int) -> Any:
        _, models = _qdrant()
        optimised = self._optimised
        if optimised.way == "exact":
            return models.SearchParams(exact=True)
        rescored = models.QuantizationSearchParams(rescore=True, oversampling=optimised.compared_anew(limit))
        return models.SearchParams(hnsw_ef=max(optimised.breadth, limit), quantization=rescored)

    def _errors(self, what: str) -> Any:
        return _cluster_errors(f"index {self._place} cannot be {what}")


# ---- the client ------------------------------------------------------------------------------------------------------


def _qdrant() -> tuple[Any, Any]:
    try:
        import qdrant_client
        from qdrant_client import models
    except ImportError:
        raise MissingExtraError("the client of Qdrant clusters (qdrant-client)", "cluster") from None
    return qdrant_client, models


@contextmanager
def _cluster_errors(problem: str) -> Iterator[None]:
    """Turn the client's failures into ours; what the servers answer may be long."""
    from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

    try:
        yield
    except ResponseHandlingException as error:
        raise SearchIndexError(
            f"{problem}: no answer; see that the cluster runs and that --index-url is right"
        ) from error
    except UnexpectedResponse as error:
        if error.status_code in (401, 403):
            raise SearchIndexError(f"{problem}: the cluster refuses us; give its API key in {KEY_VARIABLE}") from error
        if error.status_code == 404:
            raise SearchIndexError(f"{problem}: there is no such collection; make it: medfinder index") from error
        raise SearchIndexError(f"{problem}: the cluster answered {error.status_code}") from error
    except (ApiException, ValueError) as error:
        raise SearchIndexError(f"{problem}: {' '.join(str(error).split())[:200]}") from error


def _to_point(point: Point) -> Any:
    _, models = _qdrant()
    vectors: dict[str, Any] = {name: vector.tolist() for name, vector in point.dense.items()}
    for name, terms in point.sparse.items():
        vectors[name] = models.SparseVector(indices=list(terms.ids), values=list(terms.weights))
    return models.PointStruct(id=point.id, vector=vectors, payload=dict(point.payload))


def _to_vector(query: np.ndarray | Terms) -> Any:
    _, models = _qdrant()
    if isinstance(query, Terms):
        return models.SparseVector(indices=list(query.ids), values=list(query.weights))
    return np.asarray(query, dtype=np.float32).tolist()


def _dense(vectors: Mapping[str, Any]) -> dict[Space, np.ndarray]:
    return {space: np.asarray(vectors[space], np.float32) for space in DENSE if space in vectors}


def _to_filter(condition: Condition | None, among: Sequence[int] | None) -> Any:
    _, models = _qdrant()
    must = [] if condition is None else [_to_condition(condition)]
    if among is not None:
        must.append(models.HasIdCondition(has_id=list(among)))
    return models.Filter(must=must) if must else None


def _to_condition(condition: Condition) -> Any:
    _, models = _qdrant()
    match condition:
        case Comparison():
            return _compare(condition)
        case Unknown(field=field):
            return models.IsEmptyCondition(is_empty=models.PayloadField(key=field))
        case Not(part=part):
            return models.Filter(must_not=[_to_condition(part)])
        case AllOf(parts=parts):
            return models.Filter(must=[_to_condition(part) for part in parts])
        case AnyOf(parts=parts):
            return models.Filter(should=[_to_condition(part) for part in parts])


def _compare(comparison: Comparison) -> Any:
    _, models = _qdrant()

    def passes(one: str | dict[str, float]) -> Any:
        if isinstance(one, str):
            return models.FieldCondition(key=comparison.field, match=models.MatchValue(value=one))
        return models.FieldCondition(key=comparison.field, range=models.Range(**one))

    return models.Filter(should=[passes(one) for one in choices(comparison)])
