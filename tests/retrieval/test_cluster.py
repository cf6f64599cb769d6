"""An index on a Qdrant cluster. The client's local mode stands in for the servers: it keeps the same collections and
answers the same requests, but builds no graph, compresses nothing and has no shards. With MEDFINDER_QDRANT_URL set, the
same tests run against the cluster there, in collections that they make and remove.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfinder.errors import ConfigError, SearchIndexError
from medfinder.records import Case, Finding, Query
from medfinder.retrieval.build import build_index
from medfinder.retrieval.cluster import KEY_VARIABLE, Cluster
from medfinder.retrieval.columns import points_of
from medfinder.retrieval.engine import Point
from medfinder.retrieval.filters import parse_filter
from medfinder.retrieval.index import SearchIndex, is_index
from medfinder.retrieval.lexical import describe_query
from medfinder.retrieval.search import Searcher
from medfinder.retrieval.stored_case import to_payload, to_point

qdrant_client = pytest.importorskip("qdrant_client")

# What the stand-in says of itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]

REAL = os.environ.get("MEDFINDER_QDRANT_URL", "")
DIGEST = "d" * 64


@dataclass(frozen=True)
class StandIn(Cluster):
    """A cluster that is a folder."""

    url: str = "http://stand-in:6333"
    folder: Path = field(default_factory=Path)

    def connect(self) -> Any:
        return qdrant_client.QdrantClient(path=str(self.folder))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(REAL) if REAL else StandIn(folder=tmp_path / "cluster")


@pytest.fixture
def name(tmp_path: Path, cluster: Cluster) -> Iterator[Path]:
    """Path whose last part names the collection; nothing lies there."""
    path = tmp_path / f"test-{uuid.uuid4().hex}"
    yield path
    client = cluster.connect()
    client.delete_collection(path.name)
    client.close()


@pytest.fixture
def index(name: Path, cluster: Cluster) -> Iterator[SearchIndex]:
    with SearchIndex.create(name, model_digest=DIGEST, width=2, model_name="fake", cluster=cluster) as made:
        yield made


def _to_point(case: Case) -> Point:
    payload = to_payload(case, Path("/nowhere"), Path("/nowhere/index"))
    return to_point(case, payload, np.array([1, 0]), np.array([1, 0]))


def _add(index: SearchIndex, *rows: tuple[Case, tuple[float, float]]) -> None:
    vectors = np.array([vector for _, vector in rows], np.float32)
    index.add([case for case, _ in rows], vectors, vectors, index.path.parent, model_digest=index.model_digest)


def test_a_case_comes_back_as_it_went_in(index: SearchIndex, make_case: Callable[..., Case]) -> None:
    finding = Finding("pleural effusion", laterality="left", size_mm=12.5)
    case = make_case("a", "Left effusion. No mass.", findings=[finding], age_years=None, is_synthetic=False)
    _add(index, (case, (3, 4)))
    found = index.cases(["a", "unknown"])
    assert (list(found), found["a"].case, found["a"].negated) == (["a"], case, ("mass",))
    assert index.vectors(["a"])["a"]["image"] == pytest.approx([0.6, 0.8])
    assert set(index.vectors(["a"])["a"]) == {"image", "report"}


def test_vectors_and_words_are_ranked_as_in_a_folder(
    index: SearchIndex,
    make_case: Callable[..., Case],
    tmp_path: Path,
    empty_index: Callable[[Path, int], SearchIndex],
) -> None:
    rows = [
        (make_case("a", "Spiculated lesion.", sex="M", findings=["nodule"]), (1, 0)),
        (make_case("b", "Calcified lesion.", age_years=None), (1, 1)),
        (make_case("c", "Calcified lesion in a large and otherwise normal lung.", age_years=30), (-1, 0.5)),
        (make_case("d"), (1, 0)),
    ]
    words = describe_query("calcified lesion").affirmed
    filters = (
        None,
        "sex = F",
        "not age >= 60",
        "age = none or findings = nodule",
        "age > 29 and age <= 30",
        "age = 30",
    )
    with empty_index(tmp_path / "folder", 2) as folder:
        for one in (index, folder):
            _add(one, *rows)
        for expression in filters:
            where = parse_filter(expression) if expression else None
            for space, query in (("image", np.array([1, 0.1])), ("report", np.array([0, 1])), ("affirmed", words)):
                here, there = (one.nearest(space, query, limit=3, where=where) for one in (index, folder))
                assert [case_id for case_id, _ in here] == [case_id for case_id, _ in there]
                assert [score for _, score in here] == pytest.approx([score for _, score in there], abs=1e-4)
            assert index.count(where) == folder.count(where)
            assert index.facet("sex", where) == folder.facet("sex", where)
        assert index.count(None, ["a", "d", "x"]) == 2
        assert index.digests() == folder.digests()


def test_removed_and_replaced_cases_are_gone(index: SearchIndex, make_case: Callable[..., Case]) -> None:
    _add(index, (make_case("a", "Mass."), (1, 0)), (make_case("b"), (1, 0)))
    _add(index, (make_case("a", "Emphysema."), (0, 1)))
    assert (index.remove(["b", "never there"]), len(index)) == (1, 1)
    assert index.nearest("image", np.array([0, 1]), limit=5) == [("a", 1.0)]
    assert index.nearest("affirmed", describe_query("mass").affirmed, limit=5) == []


def test_what_was_optimised_is_remembered(index: SearchIndex, cluster: Cluster, make_case: Callable[..., Case]) -> None:
    _add(index, (make_case("a"), (1, 0)), (make_case("b"), (0, 1)))
    told: list[tuple[int, int]] = []
    assert index.optimise("graph", progress=lambda *done: told.append(done)) == "graph"
    assert told[-1] == (2, 2)
    index.close()
    with SearchIndex.open(index.path, cluster=cluster) as again:
        info = again.info()
        assert (info.way, info.optimised, info.cases, info.model_digest) == ("graph", 2, 2, DIGEST)
        assert again.nearest("image", np.array([0, 1]), limit=1) == [("b", 1.0)]


def test_a_dataset_is_built_and_searched_on_a_cluster(
    name: Path, cluster: Cluster, make_case: Callable[..., Case], model: Any, tmp_path: Path
) -> None:
    @dataclass
    class Dataset:
        path: Path
        grid: Any
        cases: tuple[Case, ...]

        def volume(self, case: Case) -> np.ndarray:
            return np.full(self.grid.shape, int(case.case_id), np.int16)

    cases = tuple(make_case(f"{number:02}", f"Report {number:02}.") for number in range(5))
    dataset: Any = Dataset(tmp_path / "dataset", model.grid, cases)
    assert build_index(dataset, name, model, cluster=cluster).added == 5
    assert build_index(dataset, name, model, cluster=cluster).skipped == 5
    with SearchIndex.open(name, cluster=cluster) as index:
        answer = Searcher(index, model).answer(Query(text="report 03", k=1))
    assert (answer.hits[0].case_id, answer.total, answer.facets["sex"]) == ("03", 5, {"F": 5})


def _denies_mass(index: SearchIndex) -> bool:
    return bool(index.says("negated", ["mass"], points_of(["a"])).all())


def test_what_another_process_changed_is_seen_after_a_while(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch, make_case: Callable[..., Case]
) -> None:
    _add(index, (make_case("a", sex="F"), (1, 0)))
    assert (index.facet("sex"), _denies_mass(index)) == ({"F": 1}, False)
    # The engine stands for the other process: what is remembered here does not hear of it.
    changed = _to_point(make_case("a", "No mass.", sex="M"))
    index._engine.upsert([changed])
    assert index.facet("sex") == {"F": 1}
    monkeypatch.setattr("medfinder.retrieval.index._BELIEVED_S", 0.0)
    assert (index.facet("sex"), _denies_mass(index)) == ({"M": 1}, True)


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_another_model_or_width_is_refused(index: SearchIndex, make_case: Callable[..., Case]) -> None:
    with pytest.raises(SearchIndexError, match=r"of model fake \(dddd+\), not of xyz"):
        index.require_model("xyz", 2)
    with pytest.raises(SearchIndexError, match="width 2, not 3"):
        index.require_model(DIGEST, 3)


def test_a_collection_is_not_made_twice(index: SearchIndex, cluster: Cluster) -> None:
    index.close()
    assert is_index(index.path, cluster)
    with pytest.raises(SearchIndexError, match="already; choose another name"):
        SearchIndex.create(index.path, model_digest=DIGEST, width=2, model_name="fake", cluster=cluster)


def test_a_collection_that_is_missing_or_none_of_ours_is_told(name: Path, cluster: Cluster) -> None:
    with pytest.raises(SearchIndexError, match=f"index {name.name} at .* cannot be read"):
        SearchIndex.open(name, cluster=cluster)
    client = cluster.connect()
    client.create_collection(name.name, qdrant_client.models.VectorParams(size=2, distance="Cosine"))
    client.close()
    with pytest.raises(SearchIndexError, match="damaged or none of ours"):
        SearchIndex.open(name, cluster=cluster)


def test_a_cluster_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SearchIndexError, match="cannot be reached: no answer; see that the cluster runs"):
        is_index(tmp_path / "name", Cluster("http://127.0.0.1:9"))


@pytest.mark.parametrize("url", ["", "qdrant:6333", "ftp://host", "http://", "http://me:secret@host", "http://host:x"])
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(ConfigError, match=r"expected http://HOST:PORT"):
        Cluster(url)
    with pytest.raises(ConfigError, match="shards = 0; expected 1 to 1000"):
        Cluster("http://host", shards=0)


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("qdrant_client.QdrantClient", lambda **options: given.update(options))
    (tmp_path / "key").write_text("from a file\n")
    monkeypatch.setenv(f"{KEY_VARIABLE}_FILE", str(tmp_path / "key"))
    Cluster("https://host/prefix").connect()
    assert (given["url"], given["port"], given["prefix"], given["api_key"]) == (
        "https://host",
        443,
        "prefix",
        "from a file",
    )
    monkeypatch.setenv(KEY_VARIABLE, "at hand")
    Cluster("http://host").connect()
    assert (given["port"], given["api_key"]) == (6333, "at hand")
    monkeypatch.delenv(KEY_VARIABLE)
    monkeypatch.setenv(f"{KEY_VARIABLE}_FILE", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="MEDFINDER_QDRANT_KEY_FILE cannot be read"):
        Cluster("http://host").connect()
