"""What a user may get wrong, or a machine lack, before and while a model is trained: one clear line each."""

import errno
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from medfinder.errors import CheckpointError, ConfigError
from medfinder.models import checkpoint
from medfinder.models.checkpoint import load_model
from medfinder.models.device import Device, enough_memory, start_fabric
from medfinder.models.medfinder import MedFinderLearner
from medfinder.models.train import TrainSettings, train

from .conftest import WordEncoder, write_dataset


def test_a_lack_of_memory_says_which_setting_to_lower() -> None:
    with pytest.raises(ConfigError, match="set chunk below 32"), enough_memory(32):
        torch.empty(2**55)  # torch's own error


def test_another_error_is_no_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shape"), enough_memory(32):
        torch.zeros(2).view(3)


def test_a_step_that_does_not_fit_stops_the_run_with_advice(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MedFinderLearner, "encode", lambda *_: torch.empty(2**55))
    with pytest.raises(ConfigError, match="set chunk below 4"):
        train(dataset, tmp_path / "out", replace(tiny, chunk=4), text_encoder=words)


@pytest.mark.parametrize(("train_cases", "val_cases"), [(1, 8), (8, 1)])
def test_a_split_of_one_case_is_refused(
    tmp_path: Path, tiny: TrainSettings, words: WordEncoder, train_cases: int, val_cases: int
) -> None:
    dataset = write_dataset(tmp_path / "dataset", train=train_cases, val=val_cases)
    with pytest.raises(ConfigError, match=f"{train_cases} training and {val_cases} validation"):
        train(dataset, tmp_path / "out", replace(tiny, batch=2), text_encoder=words)


def test_a_start_that_was_cut_short_is_refused(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    train(dataset, tmp_path / "first", replace(tiny, epochs=1), text_encoder=words)
    weights = tmp_path / "first" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        train(dataset, tmp_path / "second", tiny, start=tmp_path / "first", text_encoder=words)


def test_a_state_that_was_cut_short_is_refused(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    state = tmp_path / "out" / "resume" / "state.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"\x10\x00\x00\x00")
    with pytest.raises(CheckpointError, match="truncated"):
        train(dataset, tmp_path / "out", tiny, text_encoder=words)


def test_a_full_disk_leaves_the_old_weights_and_the_run_goes_on_when_there_is_room(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(dataset, tmp_path / "whole", tiny, text_encoder=words)
    out, before = tmp_path / "out", tmp_path / "before.safetensors"
    save = checkpoint.save_file

    def fill_up(tensors: Any, path: Path, metadata: Any) -> None:
        # The first checkpoint and the first state fit, what comes then does not.
        if (out / "resume" / "state.safetensors").is_file():
            shutil.copy(out / "model.safetensors", before)
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", fill_up)
    with pytest.raises(CheckpointError, match="the older file, if any, is untouched"):
        train(dataset, out, tiny, text_encoder=words)
    assert (out / "model.safetensors").read_bytes() == before.read_bytes()
    assert not list(out.rglob("*.tmp"))
    load_model(out, text_encoder=words)
    monkeypatch.setattr(checkpoint, "save_file", save)
    assert train(dataset, out, tiny, text_encoder=words).is_finished
    whole, again = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", out))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_a_report_longer_than_any_window_is_trained_on(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    table = pq.read_table(dataset / "cases.parquet")
    reports = table["report"].to_pylist()
    reports[0] = "mass and " * 1500
    place = table.schema.get_field_index("report")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(reports)), dataset / "cases.parquet")
    assert train(dataset, tmp_path / "out", replace(tiny, epochs=1), text_encoder=words).is_finished


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medfinder.models.device.shutil.which", lambda _: None)
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        start_fabric(Device(kind="cpu", compile=True), batch=2)
