"""The index on disk: what it keeps, what it refuses, and that what it acknowledged outlives kill -9."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import compress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medfinder.errors import SearchIndexError
from medfinder.records import Case, Finding
from medfinder.retrieval.columns import points_of
from medfinder.retrieval.engine import Way
from medfinder.retrieval.filters import parse_filter
from medfinder.retrieval.index import SearchIndex, is_index
from medfinder.retrieval.lexical import describe_query

DIGEST = "d" * 64


def _unit(*values: float) -> np.ndarray:
    vector = np.array(values, np.float32)
    return vector / np.linalg.norm(vector)


@pytest.fixture
def small(tmp_path: Path, empty_index: Callable[[Path, int], SearchIndex]) -> Iterator[SearchIndex]:
    with empty_index(tmp_path / "small", 2) as index:
        yield index


def _add(index: SearchIndex, *rows: tuple[Case, np.ndarray]) -> None:
    vectors = np.stack([vector for _, vector in rows])
    index.add([case for case, _ in rows], vectors, vectors, index.path.parent, model_digest=index.model_digest)


def test_a_case_comes_back_as_it_went_in(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    case = make_case(
        "a",
        "Left effusion. No mass.",
        report_es="derrame izquierdo",
        findings=[Finding("pleural effusion", laterality="left", size_mm=12.5), Finding("emphysema", "uncertain")],
        age_years=None,
        is_synthetic=False,
    )
    (small.path.parent / "volumes").mkdir()
    (small.path.parent / "volumes" / "a.nii").write_bytes(b"")
    _add(small, (case, _unit(1, 0)))
    found = small.cases(["a", "unknown"])
    assert list(found) == ["a"]
    assert found["a"].case == case
    assert found["a"].volume == (small.path.parent / "volumes" / "a.nii").resolve()
    assert found["a"].negated == ("mass",)


def test_a_volume_that_has_gone_is_none(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    _add(small, (make_case("a"), _unit(1, 0)))
    assert small.cases(["a"])["a"].volume is None


def test_volumes_are_found_after_index_and_dataset_moved_together(
    tmp_path: Path, make_case: Callable[..., Case], empty_index: Callable[[Path, int], SearchIndex]
) -> None:
    old = tmp_path / "old"
    (old / "volumes").mkdir(parents=True)
    (old / "volumes" / "a.nii").write_bytes(b"")
    with empty_index(old / "index", 2) as index:
        _add(index, (make_case("a"), _unit(1, 0)))
    new = old.rename(tmp_path / "new")
    with SearchIndex.open(new / "index") as index:
        assert index.cases(["a"])["a"].volume == (new / "volumes" / "a.nii").resolve()


def test_scores_are_cosines(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    _add(small, (make_case("a"), _unit(1, 0)), (make_case("b"), _unit(1, 1)), (make_case("c"), _unit(-1, 0)))
    found = small.nearest("image", _unit(1, 0), limit=3)
    assert [case_id for case_id, _ in found] == ["a", "b", "c"]
    assert [score for _, score in found] == pytest.approx([1, 0.5**0.5, -1], abs=1e-6)


def test_ties_are_ordered_by_id_whatever_the_order_of_adding(
    small: SearchIndex, make_case: Callable[..., Case]
) -> None:
    for name in "qfzbxa":
        _add(small, (make_case(name), _unit(1, 0)))
    assert [case_id for case_id, _ in small.nearest("image", _unit(1, 0), limit=2)][:3] == ["a", "b", "f"]


def test_a_case_without_a_report_is_found_by_its_image_only(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    _add(small, (make_case("silent"), _unit(1, 0)), (make_case("told", "Mass."), _unit(1, 0)))
    assert [case_id for case_id, _ in small.nearest("report", _unit(1, 0), limit=5)] == ["told"]
    assert [case_id for case_id, _ in small.nearest("image", _unit(1, 0), limit=5)] == ["silent", "told"]


def test_words_are_searched_with_inverse_document_frequency(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    reports = {"a": "Spiculated lesion.", "b": "Calcified lesion.", "c": "Calcified lesion."}
    for name, report in reports.items():
        _add(small, (make_case(name, report), _unit(1, 0)))
    rare = small.nearest("affirmed", describe_query("spiculated").affirmed, limit=5)
    common = small.nearest("affirmed", describe_query("calcified").affirmed, limit=5)
    assert [case_id for case_id, _ in rare] == ["a"]
    assert [case_id for case_id, _ in common] == ["b", "c"]
    assert rare[0][1] > common[0][1]


def test_adding_the_same_id_replaces(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    _add(small, (make_case("a", "Mass.", sex="F"), _unit(1, 0)))
    _add(small, (make_case("a", "Emphysema.", sex="M"), _unit(0, 1)))
    assert len(small) == 1
    assert small.cases(["a"])["a"].case.sex == "M"
    assert small.nearest("image", _unit(0, 1), limit=1) == [("a", 1.0)]
    assert small.nearest("affirmed", describe_query("mass").affirmed, limit=1) == []


def test_a_case_that_was_looked_at_follows_its_changes(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    for sex in ("F", "M"):
        _add(small, (make_case("a", sex=sex), _unit(1, 0)))
        assert [small.cases(["a"])["a"].case.sex for _ in range(2)] == [sex, sex]
    small.remove(["a"])
    assert small.cases(["a"]) == {}


def test_a_volume_that_goes_after_it_was_looked_at_is_none(
    small: SearchIndex, make_case: Callable[..., Case], tmp_path: Path
) -> None:
    volume = tmp_path / make_case("a").volume
    volume.parent.mkdir(parents=True, exist_ok=True)
    volume.write_bytes(b"")
    small.add([make_case("a")], _unit(1, 0)[None], _unit(1, 0)[None], tmp_path, model_digest=small.model_digest)
    assert small.cases(["a"])["a"].volume == volume.resolve()
    volume.unlink()
    assert small.cases(["a"])["a"].volume is None


def test_removed_cases_are_gone(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    _add(small, (make_case("a", "Mass."), _unit(1, 0)), (make_case("b", "Mass."), _unit(1, 0)))
    assert small.remove(["a", "a", "never there"]) == 1
    assert len(small) == 1
    assert [case_id for case_id, _ in small.nearest("image", _unit(1, 0), limit=5)] == ["b"]
    assert small.remove([]) == 0


def test_an_index_survives_closing(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    _add(small, (make_case("a"), _unit(1, 0)))
    small.close()
    small.close()
    with SearchIndex.open(small.path) as index:
        assert index.nearest("image", _unit(1, 0), limit=1) == [("a", 1.0)]


def _said(index: SearchIndex, case_id: str) -> tuple[set[str], set[str]]:
    names, points = ["emphysema", "mass"], points_of([case_id])
    present, negated = (index.says(field, names, points)[:, 0] for field in ("findings", "negated"))
    return set(compress(names, present)), set(compress(names, negated))


def test_what_a_case_says_follows_its_replacement(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    for report, findings, said in (
        ("No mass.", ["emphysema"], ({"emphysema"}, {"mass"})),
        ("Mass.", ["mass"], ({"mass"}, set())),
    ):
        _add(small, (make_case("a", report, findings=findings), _unit(1, 0)))
        small.nearest("image", _unit(1, 0), limit=1)
        assert _said(small, "a") == said
        assert _said(small, "unknown") == (set(), set())
    small.remove(["a"])
    assert _said(small, "a") == (set(), set())


def test_info_counts(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    _add(
        small,
        (make_case("a"), _unit(1, 0)),
        (make_case("b", source="dicom", region="not chest", is_synthetic=False), _unit(1, 0)),
    )
    info = small.info()
    assert (info.cases, info.width, info.model_name, info.model_digest) == (2, 2, "fake", DIGEST)
    assert info.counts["source"] == {"dicom": 1, "phantoms": 1}
    assert info.counts["region"] == {"chest": 1, "not chest": 1}
    assert info.counts["is_synthetic"] == {"false": 1, "true": 1}
    assert info.size_bytes > 0


def test_count_takes_a_filter(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    _add(small, (make_case("a", sex="F"), _unit(1, 0)), (make_case("b", sex="M"), _unit(1, 0)))
    assert small.count(parse_filter("sex = M")) == 1


def test_content_digests_are_kept_by_folder(small: SearchIndex, make_case: Callable[..., Case], tmp_path: Path) -> None:
    vector = _unit(1, 0)[None]
    small.add([make_case("a")], vector, vector, tmp_path / "one", model_digest=DIGEST, digests=["x"])
    small.add([make_case("b")], vector, vector, tmp_path / "two", model_digest=DIGEST, digests=["y"])
    assert small.digests() == {"a": "x", "b": "y"}
    assert small.digests(tmp_path / "two") == {"b": "y"}


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_another_models_vectors_are_refused(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    vector = _unit(1, 0)[None]
    with pytest.raises(SearchIndexError, match=r"model fake \(dddd+\), not of xyz; search it with that model"):
        small.add([make_case("a")], vector, vector, small.path, model_digest="xyz")
    with pytest.raises(SearchIndexError, match=r"width 2, not 3"):
        small.require_model(DIGEST, 3)
    assert len(small) == 0


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.zeros((1, 2), np.float32), "length 0"),
        (np.full((1, 2), np.nan, np.float32), "length nan"),
        (np.ones((1, 3), np.float32), r"shape \(1, 3\); expected \(1, 2\)"),
        (np.ones((2, 2), np.float32), r"shape \(2, 2\); expected \(1, 2\)"),
    ],
)
def test_vectors_that_cannot_be_searched_are_refused(
    vector: np.ndarray, message: str, small: SearchIndex, make_case: Callable[..., Case]
) -> None:
    with pytest.raises(SearchIndexError, match=message):
        small.add([make_case("a")], vector, vector, small.path, model_digest=DIGEST)
    assert len(small) == 0


def test_a_nearly_full_disk_is_refused_before_anything_is_written(
    small: SearchIndex, make_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(SearchIndexError, match=r"1 MB free on the disk.*expected at least 128 MB"):
        _add(small, (make_case("a"), _unit(1, 0)))
    assert len(small) == 0
    with pytest.raises(SearchIndexError, match="1 MB free"):
        SearchIndex.create(tmp_path / "new", model_digest=DIGEST, width=2, model_name="fake")
    assert not (tmp_path / "new").exists()
    small.close()
    with pytest.raises(SearchIndexError, match=r"1 MB free.*at least 16 MB"):
        SearchIndex.open(small.path)


def test_a_path_that_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SearchIndexError, match="no index at"):
        SearchIndex.open(tmp_path / "nothing")
    with pytest.raises(SearchIndexError, match="is not an index"):
        SearchIndex.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(SearchIndexError, match="is not an index"):
        SearchIndex.open(tmp_path / "file")
    assert not is_index(tmp_path)


def test_a_folder_with_files_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(SearchIndexError, match="not empty"):
        SearchIndex.create(tmp_path, model_digest=DIGEST, width=2, model_name="two")
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_creation_leaves_nothing_else_behind(tmp_path: Path) -> None:
    SearchIndex.create(tmp_path / "deep" / "in dex ñ", model_digest=DIGEST, width=2, model_name="two").close()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["in dex ñ"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ("[]", "damaged or none of ours: expected format"),
        ('{"format": 1}', "damaged or none of ours: expected format"),
        ("future", r"format 99, this version reads 1"),
    ],
)
def test_a_damaged_meta_file_is_told(small: SearchIndex, content: str, message: str) -> None:
    small.close()
    meta = json.loads((small.path / "index.json").read_text())
    text = json.dumps({**meta, "format": 99}) if content == "future" else content
    (small.path / "index.json").write_text(text)
    with pytest.raises(SearchIndexError, match=message):
        SearchIndex.open(small.path)


def test_a_damaged_shard_is_told(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    _add(small, (make_case("a"), _unit(1, 0)))
    small.close()
    (small.path / "shard" / "edge_config.json").write_text("{")
    with pytest.raises(SearchIndexError, match="cannot be loaded") as error:
        SearchIndex.open(small.path)
    assert "\n" not in str(error.value)


def test_an_index_in_use_is_refused_and_free_after_closing(small: SearchIndex) -> None:
    script = "import sys; from pathlib import Path; from medfinder.retrieval.index import SearchIndex\n"
    script += "from medfinder.errors import SearchIndexError\n"
    script += "try: SearchIndex.open(Path(sys.argv[1])).close()\nexcept SearchIndexError as error: print(error)"
    other = subprocess.run([sys.executable, "-c", script, str(small.path)], capture_output=True, text=True, check=True)
    assert "in use by another process" in other.stdout
    small.close()
    other = subprocess.run([sys.executable, "-c", script, str(small.path)], capture_output=True, text=True, check=True)
    assert other.stdout == ""


def test_opening_can_wait_for_another_to_close(small: SearchIndex) -> None:
    timer = threading.Timer(0.2, small.close)
    timer.start()
    SearchIndex.open(small.path, wait_s=20).close()
    timer.join()


def test_searching_needs_no_torch() -> None:
    script = "import sys, medfinder.retrieval.search, medfinder.retrieval.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# ---- living through it all -------------------------------------------------------------------------------------------

_ADDER = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from medfinder.records import Case
from medfinder.retrieval.index import SearchIndex

index = SearchIndex.open(Path(sys.argv[1]))
first = Case(
    "x", "s", "p", "phantoms", "test", "v", "Mass.", "", (), "truth", 1, "F", 0, (1., 1., 1.), (1, 1, 1), "chest", True
)
vectors = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
print("ready", flush=True)
for number in range(100_000):
    cases = [replace(first, case_id=f"{number}-{part}") for part in range(3)]
    index.add(cases, vectors, vectors, Path("/nowhere"), model_digest="d" * 64, digests=["d"] * 3)
    index.remove([f"{number}-0"])
    print(number, flush=True)
"""


@pytest.mark.parametrize("acknowledgements", [1, 7, 40])
def test_kill_9_loses_nothing_acknowledged(
    tmp_path: Path, acknowledgements: int, empty_index: Callable[[Path, int], SearchIndex]
) -> None:
    path = tmp_path / "index"
    empty_index(path, 64).close()
    with subprocess.Popen([sys.executable, "-c", _ADDER, str(path)], stdout=subprocess.PIPE, text=True) as adder:
        assert adder.stdout is not None
        assert adder.stdout.readline() == "ready\n"
        acknowledged = [int(adder.stdout.readline()) for _ in range(acknowledgements)]
        os.kill(adder.pid, signal.SIGKILL)
        acknowledged += [int(line) for line in adder.stdout]
    with SearchIndex.open(path) as index:
        assert index.facet("sex") == index._engine.facet("sex", None)
        there = set(index.digests())
        expected = {f"{number}-{part}" for number in acknowledged for part in (1, 2)}
        assert expected <= there
        assert there.isdisjoint(f"{number}-0" for number in acknowledged)
        # At most the one batch that was under way stands beside what was acknowledged, whole.
        assert len(there - expected) in (0, 2, 3)
        hits = index.nearest("image", np.ones(64, np.float32), limit=len(there))
        assert {case_id for case_id, _ in hits} == there
        assert len(index.nearest("affirmed", describe_query("mass").affirmed, limit=len(there))) == len(there)


def test_adding_searching_and_removing_at_the_same_time(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    _add(small, (make_case("stays", "Mass."), _unit(1, 0)))
    stop, troubles = threading.Event(), []

    def search() -> None:
        try:
            while not stop.is_set():
                found = small.nearest("image", _unit(1, 0), limit=50)
                assert found[0] == ("stays", 1.0)
                assert small.cases(["stays"])["stays"].case.report == "Mass."
        except BaseException as error:
            troubles.append(error)

    searchers = [threading.Thread(target=search) for _ in range(2)]
    for searcher in searchers:
        searcher.start()
    for number in range(15):
        _add(small, *((make_case(f"{number}-{part}", "Mass."), _unit(0.1, 1)) for part in range(3)))
        small.remove([f"{number}-0", f"{number}-1"])
    stop.set()
    for searcher in searchers:
        searcher.join()
    assert troubles == []
    assert len(small) == 16


# ---- at size ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["compressed", "graph"])
def test_an_optimised_index_finds_what_numpy_finds(
    way: Way, tmp_path: Path, empty_index: Callable[[Path, int], SearchIndex], make_case: Callable[..., Case]
) -> None:
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(40, 64))
    vectors = centres[rng.integers(0, 40, 2_100)] + 0.7 * rng.normal(size=(2_100, 64))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    asked, kept = vectors[:100], vectors[100:]
    cases = [make_case(f"{row:04}", sex="F" if row % 10 else "M") for row in range(len(kept))]
    told: list[tuple[int, int]] = []
    with empty_index(tmp_path / "large", 64) as index:
        index.add(cases, kept, kept, tmp_path, model_digest=DIGEST)
        assert index.info().optimised == 0
        assert index.optimise(way, progress=lambda *done: told.append(done)) == way
    assert (told[0], told[-1]) == ((0, 2_000), (2_000, 2_000))
    with SearchIndex.open(tmp_path / "large") as index:
        assert (index.info().way, index.info().optimised, len(index)) == (way, 2_000, 2_000)
        men = parse_filter("sex = M")
        for where, rows in ((None, np.arange(2_000)), (men, np.arange(0, 2_000, 10))):
            right = rows[np.argsort(-(asked @ kept[rows].T), axis=1)[:, :10]]
            found = [{int(one) for one, _ in index.nearest("image", query, limit=10, where=where)} for query in asked]
            recall = np.mean([len(set(best.tolist()) & ids) / 10 for best, ids in zip(right, found, strict=True)])
            assert recall >= 0.99
        scores = [score for _, score in index.nearest("image", asked[0], limit=5)]
        assert scores == pytest.approx(np.sort(asked[0] @ kept.T)[::-1][:5], abs=1e-5)


def test_cases_added_after_optimising_are_found(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    _add(small, (make_case("a"), _unit(1, 0)), (make_case("b"), _unit(1, 1)))
    assert small.optimise() == "exact"
    small.optimise("graph")
    _add(small, (make_case("c", "Mass."), _unit(0, 1)))
    small.remove(["b"])
    assert [case_id for case_id, _ in small.nearest("image", _unit(0, 1), limit=2)] == ["c", "a"]
    assert small.info().optimised == 2
    small.optimise("compressed")
    assert (small.info().way, small.info().optimised) == ("compressed", 2)
    assert small.nearest("affirmed", describe_query("mass").affirmed, limit=5)[0][0] == "c"
    small.optimise()
    assert small.info().way == "exact"
    assert [case_id for case_id, _ in small.nearest("image", _unit(0, 1), limit=2)] == ["c", "a"]


def test_counts_follow_changes(small: SearchIndex, make_case: Callable[..., Case]) -> None:
    men = parse_filter("sex = M")
    _add(small, (make_case("a", sex="M"), _unit(1, 0)))
    assert (small.count(men), small.facet("sex", men), small.facet("sex")) == (1, {"M": 1}, {"M": 1})
    _add(small, (make_case("b", sex="M"), _unit(1, 0)))
    assert (small.count(men), small.facet("sex", men), small.facet("sex")) == (2, {"M": 2}, {"M": 2})
    small.remove(["a", "b"])
    assert (small.count(men), small.facet("sex", men), small.facet("sex")) == (0, {}, {})
