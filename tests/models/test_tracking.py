"""Following a run: what arrives at each tracker, and what must never."""

import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medfinder.errors import ConfigError, MissingExtraError
from medfinder.models.train import TrainSettings, train

from .conftest import WordEncoder


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read TensorBoard's event files with TensorBoard's own reader."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_shows_each_step_and_each_epoch(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    summary = train(dataset, tmp_path / "out", tiny, text_encoder=words, trackers=("tensorboard",))
    found = scalars(tmp_path / "out" / "tensorboard")
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3]
    assert [value for _, value in found["epoch/epoch"]] == [1, 2, 3]
    best = found["epoch/text_to_image_R@10"][summary.best_epoch - 1][1]
    assert best == pytest.approx(summary.figures["text_to_image_R@10"])


def test_a_tracked_run_has_the_same_weights_and_tells_no_report_or_case(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    train(dataset, tmp_path / "plain", tiny, text_encoder=words)
    train(dataset, tmp_path / "seen", tiny, text_encoder=words, trackers=("tensorboard",))
    plain, seen = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "seen"))
    assert plain == seen
    written = b"".join(path.read_bytes() for path in (tmp_path / "seen" / "tensorboard").iterdir())
    assert b"batch" in written
    assert not any(word in written for word in (b"mass at", b"nothing else", b"volumes/", str(tmp_path).encode()))


class Notebook(types.ModuleType):
    """Stands in for wandb: notes what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.begun: dict[str, Any] = {}
        self.told: list[tuple[int, dict[str, float]]] = []
        self.is_finished = False

    def init(self, **values: Any) -> "Notebook":
        self.begun = values
        return self

    def log(self, values: dict[str, float], *, step: int) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.is_finished = True


def test_wandb_is_told_in_order_and_closed_even_when_the_run_fails(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Notebook()
    book.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]  # that it is found is all that counts
    monkeypatch.setitem(sys.modules, "wandb", book)
    wild = replace(tiny, optimizer=replace(tiny.optimizer, learning_rate=1e30))
    with pytest.raises(ConfigError, match="lower optimizer"):
        train(dataset, tmp_path / "out", wild, text_encoder=words, trackers=("wandb",))
    assert book.begun["config"]["batch"] == 8
    assert [step for step, _ in book.told] == sorted(step for step, _ in book.told)
    assert "train/loss" in book.told[0][1]
    assert book.is_finished


def test_mlflow_gets_numbers_and_settings(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    train(dataset, tmp_path / "out", tiny, text_encoder=words, trackers=("mlflow",))
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("medfinder").experiment_id])
    assert run.data.params["batch"] == "8"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3]


def test_mlflow_without_a_place_is_told_where_to_name_one(
    tmp_path: Path, tiny: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("medfinder.models.tracking.find_spec", lambda _: object())
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        train(tmp_path / "nothing", tmp_path / "out", tiny, trackers=("mlflow",))


def test_an_unknown_tracker_and_one_that_is_not_installed_are_refused_before_anything_is_read(
    tmp_path: Path, tiny: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="known: mlflow, tensorboard, wandb"):
        train(tmp_path / "nothing", tmp_path / "out", tiny, trackers=("visdom",))
    monkeypatch.setattr("medfinder.models.tracking.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="track"):
        train(tmp_path / "nothing", tmp_path / "out", tiny, trackers=("wandb",))
