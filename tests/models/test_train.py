"""Training: it learns, it goes on where it stopped, it refuses what cannot work."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medfinder.errors import ConfigError
from medfinder.models.checkpoint import digest_of, load_model
from medfinder.models.device import start_fabric
from medfinder.models.examples import Order
from medfinder.models.image_encoder import NORMS
from medfinder.models.learner import Batch
from medfinder.models.medfinder import MedFinder, MedFinderLearner
from medfinder.models.methods import as_module
from medfinder.models.step import compute_gradients
from medfinder.models.train import OptimizerSettings, TrainSettings, build_train_settings, recall, train
from medfinder.models.trained import TrainedEncoder
from medfinder.volume import Grid

from .conftest import PLACES, WordEncoder, ready, volume, write_dataset


def test_eight_pairs_can_be_memorised(dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder) -> None:
    train(dataset, tmp_path / "out", replace(tiny, epochs=60), text_encoder=words)
    model = load_model(tmp_path / "out", text_encoder=words)
    images = model.encode_volumes([volume(place) for place in range(8)])
    texts = model.encode_texts([f"mass at {place}. nothing else." for place in PLACES])
    assert ((texts @ images.T).argmax(1) == np.arange(8)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_killed_and_resumed_is_the_same_as_uninterrupted(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder, norm: str
) -> None:
    tiny = replace(tiny, model=replace(tiny.model, image=replace(tiny.model.image, norm=norm, finding_maps=True)))
    train(dataset, tmp_path / "whole", tiny, text_encoder=words)

    def kill(done: int, _total: int) -> None:
        if done == 2:
            signal.raise_signal(signal.SIGTERM)

    stopped = train(dataset, tmp_path / "parts", tiny, text_encoder=words, progress=kill)
    assert not stopped.is_finished
    assert train(dataset, tmp_path / "parts", tiny, text_encoder=words).is_finished
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert (tmp_path / "whole" / "log.csv").read_text() == (tmp_path / "parts" / "log.csv").read_text()
    assert not (tmp_path / "parts" / "resume").exists()


def test_a_stop_within_an_epoch_loses_no_step(tmp_path: Path, tiny: TrainSettings, words: WordEncoder) -> None:
    dataset = write_dataset(tmp_path / "more", train=24)
    train(dataset, tmp_path / "whole", tiny, text_encoder=words)
    for at in (2, 4, 99):

        def kill(done: int, _total: int, at: int = at) -> None:
            if done == at:
                signal.raise_signal(signal.SIGTERM)

        train(dataset, tmp_path / "parts", tiny, text_encoder=words, progress=kill)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_finished_run_is_not_trained_again(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    first = train(dataset, tmp_path / "out", tiny, text_encoder=words)
    steps: list[int] = []
    again = train(dataset, tmp_path / "out", tiny, text_encoder=words, progress=lambda done, _: steps.append(done))
    assert again == first
    assert steps == []


def test_a_folder_of_another_run_is_refused(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    train(dataset, tmp_path / "out", tiny, text_encoder=words)
    with pytest.raises(ConfigError, match="other settings"):
        train(dataset, tmp_path / "out", replace(tiny, seed=1), text_encoder=words)


def test_the_checkpoint_tells_where_it_comes_from_and_no_report(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    train(dataset, tmp_path / "out", tiny, text_encoder=words)
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert told["training_cases"] == 8
    assert "SYNTHETIC" in (tmp_path / "out" / "README.md").read_text()
    assert not any("nothing else" in (tmp_path / "out" / name).read_text() for name in ("train.log", "log.csv"))


def test_a_dataset_on_another_grid_is_refused(tmp_path: Path, tiny: TrainSettings, words: WordEncoder) -> None:
    dataset = write_dataset(tmp_path / "other", grid=Grid(spacing_mm=(10.0, 10.0, 10.0), shape=(16, 16, 16)))
    with pytest.raises(ConfigError, match=r"10\.0"):
        train(dataset, tmp_path / "out", tiny, text_encoder=words)


def test_a_batch_larger_than_the_dataset_is_refused(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    with pytest.raises(ConfigError, match="8 training and 8 validation"):
        train(dataset, tmp_path / "out", replace(tiny, batch=9), text_encoder=words)


def test_a_loss_that_is_not_finite_stops_the_run(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    with pytest.raises(ConfigError, match="lower optimizer"):
        train(
            dataset,
            tmp_path / "out",
            replace(tiny, optimizer=OptimizerSettings(learning_rate=1e30)),
            text_encoder=words,
        )


def test_training_moves_image_encoder_text_head_and_temperature_but_not_the_text_encoder(
    tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    task = ready(write_dataset(tmp_path / "more", train=24), tmp_path / "out", tiny, words)
    network = as_module(task.network)
    reading = next(Order(24, 8, seed=0).read(task.train_set, 0, 1))
    batch = Batch(0, reading.cases, task.train_set, task.table, 0)
    compute_gradients(task.learner, torch.from_numpy(reading.hu), batch, start_fabric(tiny.device, batch=8))
    without = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []
    # The frozen encoder hands over plain arrays: nothing of it can be reached by a gradient.
    assert not any(name.startswith("text_encoder") for name in network.state_dict())


def test_sentences_find_the_regions_that_they_name(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    local = replace(tiny, model=replace(tiny.model, region_width=8))
    task = ready(dataset, tmp_path / "out", local, words)
    labels = task.train_set.piece_labels
    assert labels is not None
    named = {piece: labels[number] for piece, number in task.table.number.items()}
    assert named["nothing else"] == frozenset()
    assert "mass" in named["mass at left upper"]
    network, learner = as_module(task.network), task.learner
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    reading = next(Order(8, 8, seed=0).read(task.train_set, 0, 1))
    losses = []
    for _ in range(40):
        batch = Batch(0, reading.cases, task.train_set, task.table, 0)
        optimizer.zero_grad()
        terms = compute_gradients(learner, torch.from_numpy(reading.hu), batch, start_fabric(tiny.device, batch=8))
        losses.append(float(terms["local"]))
        assert network.get_parameter("region_projection.weight").grad.any()
        assert network.get_parameter("sentence_projection.weight").grad.any()
        optimizer.step()
    assert losses[-1] < losses[0] / 2


def test_masks_teach_the_maps_where_a_finding_lies(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    mapped = replace(tiny, model=replace(tiny.model, image=replace(tiny.model.image, finding_maps=True)))
    task = ready(dataset, tmp_path / "out", mapped, words)
    # The block of case i lies in corner i: there, each of the eight cells of 4 voxels.
    corners = np.arange(64).reshape(2, 2, 2, 2, 2, 2).transpose(4, 2, 0, 1, 3, 5).reshape(8, 8)
    where = [np.array([(cell, 0) for cell in corner], np.int32) for corner in corners]
    examples = replace(task.train_set, maps=where)
    network = cast(MedFinder, task.network)
    # Without a folder of masks, preparing leaves the term out.
    learner = MedFinderLearner(network, replace(tiny.objective, region_weight=20.0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    reading = next(Order(8, 8, seed=0).read(task.train_set, 0, 1))
    for _ in range(130):
        optimizer.zero_grad()
        batch = Batch(0, reading.cases, examples, task.table, 0)
        compute_gradients(learner, torch.from_numpy(reading.hu), batch, start_fabric(tiny.device, batch=8))
        optimizer.step()
    model = TrainedEncoder(task.network, words, grid=mapped.grid, name="mapped", digest="0", is_synthetic=True)
    assert model.finding_names == ("mass",)
    maps = model.map_findings([task.train_set.hu(case) for case in range(8)])
    assert maps.shape == (8, 4, 4, 4, 1)
    highest = maps.reshape(8, -1).argmax(1)
    assert [int(cell) in corners[case] for case, cell in enumerate(highest)] == [True] * 8


def test_beliefs_bring_volumes_and_texts_with_the_same_labels_together(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    whole = replace(tiny, model=replace(tiny.model, belief_share=1.0))
    network = cast(MedFinder, ready(dataset, tmp_path / "out", whole, words).network).eval()
    believed = torch.eye(len(network.labels)) * 16 - 8
    images = network.project(torch.randn(len(believed), network.image.features), believed)
    texts = network._join(torch.randn(len(believed), 16), believed.sigmoid())
    assert network.width == 16 + len(network.labels)
    assert torch.allclose(images.norm(dim=1), torch.ones(len(believed)))
    assert (images @ texts.T).argmax(1).tolist() == list(range(len(believed)))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_contrastive_loss_reaches_what_is_believed_only_where_it_has_a_share(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder, share: float
) -> None:
    shared = replace(tiny, model=replace(tiny.model, belief_share=share))
    task = ready(dataset, tmp_path / "out", shared, words)
    network = cast(MedFinder, task.network)
    learner = MedFinderLearner(network, replace(tiny.objective, label_weight=0.0, query_weight=0.0, region_weight=0.0))
    reading = next(Order(8, 8, seed=0).read(task.train_set, 0, 1))
    batch = Batch(0, reading.cases, task.train_set, task.table, 0)
    terms = compute_gradients(learner, torch.from_numpy(reading.hu), batch, start_fabric(tiny.device, batch=8))
    assert set(terms) == {"contrastive", "loss"}
    gradient = network.text_labels.weight.grad
    assert (gradient is not None and bool(gradient.any())) == (share > 0)


def test_the_frozen_vectors_are_made_once(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ready(dataset, tmp_path / "out", tiny, words).table
    monkeypatch.setattr(words, "encode", lambda _: pytest.fail("embedded again"))
    again = ready(dataset, tmp_path / "out", tiny, words).table
    assert first.number == again.number
    assert all((a == b).all() for a, b in zip(first.vectors, again.vectors, strict=True))


def test_recall_counts_a_tie_against_us() -> None:
    scores = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [3.0, 0.0, 3.0]])
    assert recall(scores, np.eye(3, dtype=bool), k=1) == pytest.approx(1 / 3)


def test_an_unknown_setting_or_preset_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown key 'epoch'"):
        build_train_settings("medfinder", {"epoch": 3})
    with pytest.raises(ConfigError, match="unknown preset 'best'"):
        build_train_settings("best", {})
    assert build_train_settings("medfinder", {"epochs": 3}).epochs == 3


def test_training_goes_on_from_a_checkpoint_with_its_weights_and_labels(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    train(dataset, tmp_path / "first", replace(tiny, epochs=40), text_encoder=words)
    other = write_dataset(tmp_path / "other", train=24)
    still = replace(tiny, epochs=1, optimizer=OptimizerSettings(learning_rate=1e-9, weight_decay=0.0))
    train(other, tmp_path / "second", still, start=tmp_path / "first", text_encoder=words)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    learnt = [key for key in first if "running" not in key and "num_batches" not in key]
    assert all(torch.allclose(first[key], second[key], atol=1e-5) for key in learnt)
    told = json.loads((tmp_path / "second" / "provenance.json").read_text())
    assert told["start_digest"] == digest_of(tmp_path / "first")


def test_a_start_of_another_grid_is_refused_and_one_of_another_width_stays_as_it_is(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    train(dataset, tmp_path / "first", replace(tiny, epochs=1), text_encoder=words)
    wider = replace(tiny, epochs=1, model=replace(tiny.model, width=2 * tiny.model.width))
    train(dataset, tmp_path / "second", wider, start=tmp_path / "first", text_encoder=words)
    assert load_model(tmp_path / "second", text_encoder=words).width == tiny.model.width
    grid = replace(tiny.grid, spacing_mm=(10.0, 10.0, 10.0))
    other = write_dataset(tmp_path / "other", grid=grid)
    with pytest.raises(ConfigError, match="the settings expect"):
        train(other, tmp_path / "third", replace(tiny, grid=grid), start=tmp_path / "first", text_encoder=words)
