"""Checkpoints: what was saved comes back, what is damaged is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medfinder.errors import CheckpointError, VolumeError
from medfinder.models import checkpoint as checkpoints
from medfinder.models.checkpoint import CheckpointConfig, load_model, read_config, save_checkpoint, write_weights
from medfinder.models.methods import as_module, build_network
from medfinder.models.train import TrainSettings

from .conftest import WordEncoder, volume


@pytest.fixture
def saved(tmp_path: Path, tiny: TrainSettings, words: WordEncoder) -> Path:
    labels = ("mass", "mass | left")
    network = build_network("medfinder", tiny.model, grid=tiny.grid, labels=labels, text_width=words.width)
    config = CheckpointConfig(
        name="tiny", model=tiny.model, grid=tiny.grid, labels=labels, text_encoder_sha256=words.sha256,
        token_width=words.width, is_synthetic=True,
    )  # fmt: skip
    save_checkpoint(tmp_path / "saved", config, as_module(network).state_dict(), provenance={"best": {"epoch": 1}})
    return tmp_path / "saved"


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_vectors_have_length_one_and_the_model_says_what_it_is(saved: Path, words: WordEncoder) -> None:
    model = load_model(saved, text_encoder=words)
    images = model.encode_volumes([volume(0), volume(1)])
    texts = model.encode_texts(["mass at left upper.", "no mass", ""])
    assert images.shape == (2, 16)
    assert texts.shape == (3, 16)
    assert images.dtype == texts.dtype == np.float32
    for rows in (images, texts, model.encode_sentences(["mass"])):
        assert np.linalg.norm(rows, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert (model.name, model.width, model.grid.shape) == ("tiny", 16, (16, 16, 16))


def test_a_vector_depends_on_its_own_input_alone(saved: Path, words: WordEncoder) -> None:
    model = load_model(saved, text_encoder=words)
    volumes = [volume(place) for place in range(4)]
    texts = ["mass at left upper.", "nothing. nothing else.", "a much longer sentence about something else"]
    assert np.array_equal(model.encode_volumes(volumes)[2:3], model.encode_volumes(volumes[2:3]))
    assert np.array_equal(model.encode_texts(texts)[:1], load_model(saved, text_encoder=words).encode_texts(texts[:1]))


def test_nothing_to_encode_gives_no_rows(saved: Path, words: WordEncoder) -> None:
    model = load_model(saved, text_encoder=words)
    assert model.encode_volumes([]).shape == model.encode_texts([]).shape == (0, 16)


def test_a_volume_of_another_shape_is_refused(saved: Path, words: WordEncoder) -> None:
    with pytest.raises(VolumeError, match="8x16x16 voxels, the model expects 16x16x16"):
        load_model(saved, text_encoder=words).encode_volumes([volume(0), volume(0)[:8]])


def test_a_missing_and_an_unknown_key_are_named(saved: Path, words: WordEncoder) -> None:
    change_weights(saved, lambda weights: weights.update(extra=weights.pop("log_scale")))
    with pytest.raises(CheckpointError, match="missing log_scale; unknown extra"):
        load_model(saved, text_encoder=words)


def test_a_wrong_shape_is_named(saved: Path, words: WordEncoder) -> None:
    change_weights(saved, lambda weights: weights.update({"text_labels.bias": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=r"text_labels.bias is \(3,\), expected \(2,\)"):
        load_model(saved, text_encoder=words)


def test_truncated_weights_are_refused(saved: Path, words: WordEncoder) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        load_model(saved, text_encoder=words)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_missing_file_is_named(saved: Path, words: WordEncoder, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"no {name}"):
        load_model(saved, text_encoder=words)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"kind": "other"}'])
def test_a_damaged_configuration_is_refused(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(saved)


def test_an_unknown_key_of_the_configuration_is_named(saved: Path) -> None:
    values = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**values, "colour": 1}))
    with pytest.raises(CheckpointError, match="unknown key 'colour'"):
        read_config(saved)


def test_another_text_encoder_than_in_training_is_refused(saved: Path) -> None:
    other = WordEncoder()
    other.sha256 = "1" * 64
    with pytest.raises(CheckpointError, match=r"000000000000\.\.\., found 111111111111"):
        load_model(saved, text_encoder=other)


def test_the_digest_follows_weights_and_configuration(saved: Path, words: WordEncoder) -> None:
    first = load_model(saved, text_encoder=words).digest
    assert load_model(saved, text_encoder=words).digest == first
    change_weights(saved, lambda weights: weights["log_scale"].add_(1e-3))
    assert load_model(saved, text_encoder=words).digest != first


def test_a_failed_write_leaves_the_old_weights(
    saved: Path, words: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_model(saved, text_encoder=words).digest

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        write_weights(saved / "model.safetensors", {"a": torch.zeros(1)})
    assert load_model(saved, text_encoder=words).digest == before


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load_model(tmp_path / "nowhere")


def test_settings_survive_the_way_through_json(saved: Path, tiny: TrainSettings) -> None:
    assert read_config(saved).model == replace(tiny).model
