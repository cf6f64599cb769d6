"""The columns: that they say what the payloads say, whatever was added, replaced, removed, saved or lost on the way."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfinder.errors import SearchIndexError
from medfinder.records import Case, Finding, Query
from medfinder.retrieval import columns as columns_room
from medfinder.retrieval import index as index_room
from medfinder.retrieval.columns import Columns, points_of
from medfinder.retrieval.filters import Condition, parse_filter
from medfinder.retrieval.index import SearchIndex
from medfinder.retrieval.search import Searcher

DIGEST = "d" * 64
NAMES = ("cardiomegaly", "emphysema", "mass", "nodule", "pleural effusion")


def _payload(rng: np.random.Generator, case_id: str) -> dict[str, Any]:
    present, negated = (rng.choice(NAMES, rng.integers(0, 4), replace=False).tolist() for _ in range(2))
    return {
        "case_id": case_id,
        "study_id": f"s{case_id[:2]}",
        "patient_id": f"p{case_id[:1]}",
        "findings": present,
        "negated": [name for name in negated if name not in present],
        "region": str(rng.choice(["chest", "not chest"])),
        "sex": rng.choice(np.array(["F", "M", None])),
        "source": "phantoms",
        "split": "test",
        "is_synthetic": str(rng.choice(["true", "false"])),
        "age_years": None if rng.random() < 0.2 else int(rng.integers(0, 100)),
        "date_offset_days": 0,
        "spacing_z_mm": float(rng.choice([0.7, 1.25, 5.0])),
    }


def _agrees(columns: Columns, truth: dict[str, dict[str, Any]], asked: list[str]) -> None:
    """Compare with a dictionary of payloads."""
    points = points_of(asked)
    assert len(columns) == len(truth)
    assert columns.passes(points).tolist() == [one in truth for one in asked]
    there = [one for one in asked if one in truth]
    assert columns.names("case_id", points_of(there)).tolist() == [one.encode() for one in there]
    for field in ("findings", "negated"):
        right = [[one in truth and name in truth[one][field] for one in asked] for name in NAMES]
        assert columns.says(field, NAMES, points).tolist() == right
    old = {one for one in asked if one in truth and (truth[one]["age_years"] or 0) >= 60}
    where = parse_filter("age >= 60")
    assert columns.passes(points, where).tolist() == [one in old for one in asked]
    assert columns.count(where) == sum((one["age_years"] or 0) >= 60 for one in truth.values())
    sexes = [truth[one]["sex"] for one in truth]
    assert columns.facet("sex", None) == {sex: sexes.count(sex) for sex in ("F", "M") if sex in sexes}
    masses = sum("mass" in one["findings"] for one in truth.values())
    assert columns.facet("findings", None).get("mass", 0) == masses


@pytest.mark.parametrize("seed", range(6))
def test_columns_follow_every_change(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns_room, "_MOST_RECENT", 5)
    rng = np.random.default_rng(seed)
    columns, truth = Columns(), dict[str, dict[str, Any]]()
    every = [f"{number:02}" for number in range(80)] + ["a much longer name than all the others, ñandú"]
    for step in range(40):
        some = rng.choice(every, rng.integers(1, 9)).tolist()
        if rng.random() < 0.6:
            payloads = [_payload(rng, one) for one in some]
            columns.put(payloads)
            truth |= {one["case_id"]: one for one in payloads}
        else:
            columns.remove(points_of(some))
            truth = {name: one for name, one in truth.items() if name not in some}
        _agrees(columns, truth, every)
        if step % 10 == 9:
            columns.save(tmp_path / "columns", f"step {step}")
            loaded = Columns.load(tmp_path / "columns", f"step {step}")
            assert loaded is not None
            columns = loaded
            _agrees(columns, truth, every)


def test_a_copy_of_another_state_or_a_damaged_one_is_not_believed(tmp_path: Path) -> None:
    columns, folder = Columns(), tmp_path / "columns"
    columns.put([_payload(np.random.default_rng(0), str(number)) for number in range(20)])
    columns.save(folder, "now")
    assert Columns.load(folder, "later") is None
    assert Columns.load(tmp_path / "nowhere", "now") is None
    (folder / "point.npy").write_bytes((folder / "point.npy").read_bytes()[:150])
    assert Columns.load(folder, "now") is None
    columns.save(folder, "now")
    (folder / "columns.json").write_text(json.dumps({"format": 1, "stamp": "now"}))
    assert Columns.load(folder, "now") is None


def test_what_is_changed_in_memory_does_not_reach_the_saved_copy(tmp_path: Path) -> None:
    columns = Columns()
    columns.put([_payload(np.random.default_rng(0), "a")])
    columns.save(tmp_path / "columns", "one")
    loaded = Columns.load(tmp_path / "columns", "one")
    assert loaded is not None
    loaded.remove(points_of("a"))
    again = Columns.load(tmp_path / "columns", "one")
    assert again is not None
    assert (len(loaded), len(again)) == (0, 1)


# ---- in an index -----------------------------------------------------------------------------------------------------


def _fill(index: SearchIndex, make_case: Callable[..., Case], cases: int) -> None:
    rng = np.random.default_rng(3)
    made = []
    for number in range(cases):
        one = _payload(rng, f"{number:04}")
        told = [f"{name.capitalize()} in the lung." for name in one["findings"]]
        report = " ".join([*told, *(f"No {name}." for name in one["negated"])]) if number % 7 else ""
        kept = {key: one[key] for key in ("study_id", "patient_id", "sex", "age_years", "region")}
        findings = [Finding(name) for name in one["findings"]]
        made.append(make_case(one["case_id"], report, findings=findings, **kept))
    image, report = rng.normal(size=(2, cases, index.width)).astype(np.float32)
    index.add(made, image, report, index.path.parent, model_digest=index.model_digest)


QUERIES = (
    Query(text="left pleural effusion", k=20),
    Query(text="mass without emphysema", k=20, where="age >= 20"),
    Query(text="spiculated nodule", k=7, offset=5, where="sex = none"),
    Query(text="mass AND nodule NOT emphysema", k=20),
    Query(text="lung", k=20, group="patient", where="region in (chest, 'not chest')"),
    Query(report="Mass in the lung. No pleural effusion.", k=20),
    Query(keyword="effusion or cardiomegaly", k=200),
    Query(keyword="not mass", where="age < 30 or synthetic = true"),
    Query(case_id="0004", k=20, where="not findings = nodule"),
    Query(text="emphysema", liked=("0001", "0002"), disliked=("0003",), k=20, where="study_id = s00"),
    Query(text="mass", where="age > 200"),
)


@pytest.mark.parametrize(("few", "most"), [(1_000, 0.5), (0, 0.5), (0, 0.01), (0, 1.1)])
def test_an_answer_is_the_same_from_columns_and_from_the_engine_alone(
    few: int,
    most: float,
    index: SearchIndex,
    model: Any,
    make_case: Callable[..., Case],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _fill(index, make_case, 300)
    searcher = Searcher(index, model)
    monkeypatch.setattr(index_room, "_FEW", few)
    monkeypatch.setattr(index_room, "_MOST", most)
    by_columns = [searcher.answer(query) for query in QUERIES]
    # An engine that others may change is asked for everything, and what it says is kept for a while only.
    monkeypatch.setattr(type(index._engine), "is_shared", True)
    index._columns = None
    index._counted.clear()
    for query, answer in zip(QUERIES, by_columns, strict=True):
        assert searcher.answer(query) == answer
    index._columns = None
    assert sum(len(answer.hits) > 0 for answer in by_columns) == len(QUERIES) - 1


def _counts(index: SearchIndex) -> dict[str, int]:
    return index.facet("findings")


def _count_by_engine(index: SearchIndex, where: Condition | None = None) -> dict[str, int]:
    return dict(sorted(index._engine.facet("findings", where).items(), key=lambda one: (-one[1], one[0])))


def test_columns_are_mapped_when_an_index_is_opened_and_made_anew_when_they_are_behind(
    index: SearchIndex, make_case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(index, make_case, 30)
    index.close()
    old = tmp_path / "old"
    shutil.copytree(index.path / "columns", old)
    read: list[int] = []
    put = Columns.put

    def watched(columns: Columns, payloads: Sequence[Any]) -> None:
        read.append(len(payloads))
        put(columns, payloads)

    monkeypatch.setattr(Columns, "put", watched)
    with SearchIndex.open(index.path) as opened:
        assert _counts(opened) == _count_by_engine(opened)
        assert read == []
        # The number of cases stays the same, what one of them says does not.
        vectors = np.ones((1, opened.width), np.float32)
        opened.add([make_case("0001", "Mass.", findings=["mass"])], vectors, vectors, tmp_path, model_digest=DIGEST)
        assert _counts(opened) == _count_by_engine(opened)
        assert read == [1]
    for is_behind in (False, True):
        read.clear()
        shutil.rmtree(index.path / "columns")
        if is_behind:
            shutil.copytree(old, index.path / "columns")
        with SearchIndex.open(index.path) as opened:
            assert _counts(opened) == _count_by_engine(opened)
            assert read == [30]


def test_an_index_without_room_for_its_columns_is_searched_all_the_same(
    index: SearchIndex, make_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no space left on device")

    _fill(index, make_case, 10)
    monkeypatch.setattr(columns_room, "_write", refuse)
    index.close()
    assert sorted(path.name for path in index.path.iterdir() if path.name.startswith("columns")) == []
    with SearchIndex.open(index.path) as opened:
        assert _counts(opened) == _count_by_engine(opened)


def test_after_a_change_that_failed_columns_say_what_the_engine_does(
    index: SearchIndex, make_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(index, make_case, 10)
    upsert = index._engine.upsert

    def fail_after(points: Sequence[Any]) -> None:
        upsert(points)
        raise SearchIndexError("the disk has gone")

    vectors = np.ones((1, index.width), np.float32)
    monkeypatch.setattr(index._engine, "upsert", fail_after)
    with pytest.raises(SearchIndexError):
        index.add([make_case("new", "Mass.")], vectors, vectors, index.path, model_digest=DIGEST)
    # It came further than it said.
    assert index.count(parse_filter("case_id = new")) == index._engine.count(None, None) - 10 == 1
