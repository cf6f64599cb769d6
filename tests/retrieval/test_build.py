"""Building an index from datasets: complete, resumable, in step with the dataset."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from medfinder.errors import ConfigError, SearchIndexError
from medfinder.records import Case, Query
from medfinder.retrieval.build import build_index
from medfinder.retrieval.index import SearchIndex
from medfinder.retrieval.search import Searcher
from medfinder.volume import Grid


@dataclass
class FakeDataset:
    """What building needs of a dataset."""

    path: Path
    grid: Grid
    cases: tuple[Case, ...]
    volumes: dict[str, int]

    def volume(self, case: Case) -> np.ndarray:
        hu = np.zeros(self.grid.shape, np.int16)
        hu[0, 0, 0] = self.volumes[case.case_id]
        return hu


@pytest.fixture
def dataset(tmp_path: Path, make_case: Callable[..., Case], model: object) -> FakeDataset:
    names = [f"case-{number:02}" for number in range(20)]
    cases = tuple(make_case(name, f"Report {name}.") for name in names)
    return FakeDataset(tmp_path / "dataset", model.grid, cases, {name: n for n, name in enumerate(names)})  # type: ignore[attr-defined]  # stand-in


def _counts(summary: object) -> tuple[int, ...]:
    return tuple(getattr(summary, name) for name in ("added", "replaced", "skipped", "removed", "cases"))


def test_every_case_is_indexed_and_found(dataset, model, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    summary = build_index(dataset, tmp_path / "index", model, progress=lambda *done: told.append(done))
    assert _counts(summary) == (20, 0, 0, 0, 20)
    assert told == [(0, 20), (16, 20), (20, 20)]
    with SearchIndex.open(tmp_path / "index") as index:
        assert Searcher(index, model).search(Query(text="report case-07", k=1))[0].case_id == "case-07"


def test_building_again_embeds_nothing(dataset, model, tmp_path: Path) -> None:
    build_index(dataset, tmp_path / "index", model)
    before = model.volumes_encoded
    assert _counts(build_index(dataset, tmp_path / "index", model)) == (0, 0, 20, 0, 20)
    assert model.volumes_encoded == before


def test_a_changed_volume_or_report_is_replaced(dataset, model, tmp_path: Path) -> None:
    build_index(dataset, tmp_path / "index", model)
    dataset.volumes["case-03"] = 777
    dataset.cases = (*dataset.cases[:-1], replace(dataset.cases[-1], report="Other."))
    assert _counts(build_index(dataset, tmp_path / "index", model)) == (0, 2, 18, 0, 20)


def test_cases_that_left_the_dataset_leave_the_index(dataset, model, tmp_path: Path) -> None:
    build_index(dataset, tmp_path / "index", model)
    dataset.cases = dataset.cases[:15]
    assert _counts(build_index(dataset, tmp_path / "index", model, keep_missing=True)) == (0, 0, 15, 0, 20)
    assert _counts(build_index(dataset, tmp_path / "index", model)) == (0, 0, 15, 5, 15)


def test_several_datasets_share_an_index(dataset, model, tmp_path: Path) -> None:
    build_index(replace(dataset, cases=dataset.cases[:12]), tmp_path / "index", model)
    other = replace(dataset, path=tmp_path / "other", cases=dataset.cases[12:])
    assert _counts(build_index(other, tmp_path / "index", model)) == (8, 0, 0, 0, 20)


def test_a_dataset_that_moved_is_indexed_where_it_is_now(dataset, model, tmp_path: Path) -> None:
    build_index(dataset, tmp_path / "index", model)
    moved = replace(dataset, path=tmp_path / "moved")
    assert _counts(build_index(moved, tmp_path / "index", model)) == (0, 20, 0, 0, 20)


def test_an_interrupted_build_goes_on_where_it_was(dataset, model, tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(done: int, total: int) -> None:
        if done:
            raise Interrupted

    with pytest.raises(Interrupted):
        build_index(dataset, tmp_path / "index", model, progress=interrupt)
    assert _counts(build_index(dataset, tmp_path / "index", model)) == (4, 0, 16, 0, 20)


def test_another_model_or_grid_is_refused(dataset, model, tmp_path: Path) -> None:
    build_index(dataset, tmp_path / "index", model)
    with pytest.raises(SearchIndexError, match="not of eeee"):
        build_index(dataset, tmp_path / "index", replace(model, digest="e" * 64))
    with pytest.raises(ConfigError, match="the model expects"):
        build_index(replace(dataset, grid=Grid()), tmp_path / "index", model)
    SearchIndex.open(tmp_path / "index").close()


def test_an_empty_dataset_makes_an_empty_index(dataset, model, tmp_path: Path) -> None:
    assert _counts(build_index(replace(dataset, cases=()), tmp_path / "index", model)) == (0, 0, 0, 0, 0)
