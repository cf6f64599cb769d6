"""The paper's equations are computed, and each claimed part is alive."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medfinder.errors import ConfigError
from medfinder.models.checkpoint import load_model
from medfinder.models.device import start_fabric
from medfinder.models.encoders import IMAGE_ENCODERS, Vit3d
from medfinder.models.examples import Order
from medfinder.models.learner import Batch
from medfinder.models.paper import (
    Paper,
    PaperLearner,
    PaperObjectiveSettings,
    PaperSettings,
    consistency_loss,
    fuse,
    similarity_loss,
)
from medfinder.models.step import compute_gradients
from medfinder.models.train import Task, TrainSettings, build_train_settings, train

from .conftest import WordEncoder, ready, tiny_settings, volume


@pytest.fixture
def settings() -> TrainSettings:
    """The paper's method on the tiny grid."""
    return replace(
        tiny_settings(),
        method="paper",
        model=PaperSettings(image_encoder="resnet10", words=4),
        objective=PaperObjectiveSettings(),
        queries=0,
    )


def first_step(task: Task) -> tuple[Paper, PaperLearner, Batch, torch.Tensor]:
    network, learner = task.network, task.learner
    assert isinstance(network, Paper)
    assert isinstance(learner, PaperLearner)
    network.train()
    reading = next(Order(len(task.train_set), 8, seed=0).read(task.train_set, 0, 1))
    batch = Batch(0, reading.cases, task.train_set, task.table, 0)
    return network, learner, batch, torch.from_numpy(reading.hu)


def test_the_two_views_differ_and_the_consistency_loss_is_positive(
    dataset: Path, tmp_path: Path, settings: TrainSettings, words: WordEncoder
) -> None:
    _, learner, batch, hu = first_step(ready(dataset, tmp_path / "out", settings, words))
    views = learner.views(hu, batch.draws(2))
    assert views.shape == (8, 2, 16, 16, 16)
    for case in range(8):
        assert (views[case, 0] - views[case, 1]).abs().mean() > 1.0
    terms = learner.terms(learner.encode(views), batch)
    assert terms["consistency"] > 1e-4


def test_as_released_both_views_are_one_and_the_consistency_loss_is_zero(
    dataset: Path, tmp_path: Path, settings: TrainSettings, words: WordEncoder
) -> None:
    released = build_train_settings("released", {})
    objective = replace(settings, objective=released.objective, model=replace(settings.model, is_fused=False))
    _, learner, batch, hu = first_step(ready(dataset, tmp_path / "out", objective, words))
    views = learner.views(hu, batch.draws(2))
    assert torch.equal(views[:, 0], views[:, 1])
    assert learner.terms(learner.encode(views), batch)["consistency"] == 0.0


def test_gradients_reach_both_views_through_the_fusion() -> None:
    first, second = (torch.randn(2, 5, 8, requires_grad=True) for _ in range(2))
    fuse(first, second).square().sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    assert first.grad is not None
    assert second.grad is not None
    assert (first.grad.abs().sum((1, 2)) > 0).all()
    assert (second.grad.abs().sum((1, 2)) > 0).all()


def test_fusion_by_hand() -> None:
    first = torch.tensor([[[3.0, 0.0]]])
    second = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    # Cosines 1 and 0 over sqrt(2): weights e^(1/sqrt 2) and 1. Attended: (w1, 2 w2); times (3, 0).
    weight = math.exp(1 / math.sqrt(2))
    expected = 3.0 * weight / (weight + 1.0)
    assert fuse(first, second).tolist()[0][0] == pytest.approx([expected, 0.0])


def test_the_order_of_the_second_views_tokens_does_not_matter_but_their_content_does() -> None:
    first, second = torch.randn(1, 4, 6), torch.randn(1, 4, 6)
    assert torch.allclose(fuse(first, second), fuse(first, second[:, [2, 0, 3, 1]]), atol=1e-6)
    assert not torch.allclose(fuse(first, second), fuse(first, second.flip(2)), atol=1e-3)


def test_consistency_is_half_the_squared_distance() -> None:
    assert consistency_loss(torch.zeros(1, 1, 2), torch.tensor([[[3.0, 4.0]]])).tolist() == [12.5]


def test_similarity_by_hand() -> None:
    texts, volumes = torch.tensor([[1.0, 0.0], [0.0, 5.0]]), torch.tensor([[2.0, 0.0], [3.0, 3.0]])
    # Cosines: volume 1 with both texts 1, 0; volume 2 with both 1 / sqrt(2).
    expected = (math.log(1 + math.exp(-1)) + math.log(2)) / 2
    assert float(similarity_loss(texts, volumes, PaperObjectiveSettings())) == pytest.approx(expected)
    other = PaperObjectiveSettings(direction="text_to_image", is_cosine=False, temperature=10.0)
    # Dot products / 10: text 1 with the volumes 0.2, 0.3; text 2 with them 0, 1.5.
    expected = (math.log(1 + math.exp(0.1)) + math.log(1 + math.exp(-1.5))) / 2
    assert float(similarity_loss(texts, volumes, other)) == pytest.approx(expected)


def test_training_moves_every_weight_but_no_text_encoder(
    dataset: Path, tmp_path: Path, settings: TrainSettings, words: WordEncoder
) -> None:
    alive = replace(settings, objective=replace(settings.objective, discrimination=1.0))
    network, learner, batch, hu = first_step(ready(dataset, tmp_path / "out", alive, words))
    terms = compute_gradients(learner, hu, batch, start_fabric(alive.device, batch=8))
    assert set(terms) == {"consistency", "similarity", "discrimination", "loss"}
    without = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []
    assert {name.split(".")[0] for name in network.state_dict()} <= {"image", "projection", "label_scores"}


def test_the_sampler_draws_other_runs_at_other_steps_and_none_when_left_out(
    dataset: Path, tmp_path: Path, settings: TrainSettings, words: WordEncoder
) -> None:
    task = ready(dataset, tmp_path / "out", replace(settings, model=replace(settings.model, words=2)), words)
    report = "mass at left upper. nothing else."
    runs = task.network.cut(report)
    assert runs == ("mass at", "at left", "left upper.", "upper. nothing", "nothing else.")
    _, learner, batch, hu = first_step(task)
    encoded = learner.encode(learner.views(hu, batch.draws(2)))
    losses = {float(learner.terms(encoded, replace(batch, step=step))["similarity"].detach()) for step in range(4)}
    assert len(losses) == 4
    whole = Paper(
        PaperSettings(image_encoder="resnet10", sampler="none"), grid=settings.grid, labels=("mass",), token_width=8
    )
    assert whole.cut(report) == (report,)


def test_retrieval_is_deterministic_and_sees_the_whole_report(
    dataset: Path, tmp_path: Path, settings: TrainSettings, words: WordEncoder
) -> None:
    train(dataset, tmp_path / "out", replace(settings, epochs=1), text_encoder=words)
    model = load_model(tmp_path / "out", text_encoder=words)
    assert np.array_equal(model.encode_volumes([volume(3)]), model.encode_volumes([volume(3)]))
    long = "mass at left upper and nothing else here"
    changed = long.replace("here", "there")
    assert not np.allclose(model.encode_texts([long]), model.encode_texts([changed]))


def test_eight_pairs_can_be_memorised(
    dataset: Path, tmp_path: Path, settings: TrainSettings, words: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(shape: tuple[int, int, int], channels: int) -> Vit3d:
        return Vit3d(shape, channels, patch=4, width=48, layers=2, heads=2, hidden=96)

    monkeypatch.setitem(IMAGE_ENCODERS, "small", small)
    learn = replace(
        settings,
        model=PaperSettings(image_encoder="small"),
        objective=PaperObjectiveSettings(temperature=0.05, rotation_rad=0.0, cutmix_share=0.0),
    )
    network, learner, batch, _ = first_step(ready(dataset, tmp_path / "out", learn, words))
    # Blocks of random density. Alike blocks in eight corners are not told apart in so few steps: the mean over the
    # tokens forgets where they lie, but for positions that begin near zero.
    blocks = torch.from_numpy(np.random.default_rng(0).uniform(-900, 900, (8, 4, 4, 4)))
    hu = blocks.to(torch.int16).repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    fabric = start_fabric(learn.device, batch=8)
    for step in range(80):
        optimizer.zero_grad()
        compute_gradients(learner, hu, replace(batch, step=step), fabric)
        optimizer.step()
    network.eval()
    with torch.no_grad():
        images = network.embed_volumes(hu)
        texts = network.embed_texts([batch.examples.pieces[case] for case in batch.cases], batch.table.vectors)
    # Eq. 7 is about this direction alone: which text a volume finds.
    assert (images @ texts.T).argmax(1).tolist() == list(range(8))


@pytest.mark.parametrize("name", ["paper_resnet50", "paper_vit_b", "released"])
def test_the_presets_name_what_the_supplementary_says(name: str) -> None:
    found = build_train_settings(name, {})
    assert found.method == "paper"
    assert found.grid.shape == (224, 224, 96)
    if name != "released":
        optimizer = found.optimizer
        assert (optimizer.kind, optimizer.learning_rate, optimizer.momentum) == ("sgd", 1e-6, 0.9)
        assert (optimizer.weight_decay, found.batch, found.epochs) == (1e-5, 96, 400)
        assert (found.objective.alpha, found.model.text_encoder) == (1.0, "biomedclip")


def test_unknown_parts_are_named() -> None:
    with pytest.raises(ConfigError, match="unknown image encoder 'resnet7'"):
        PaperSettings(image_encoder="resnet7")
    with pytest.raises(ConfigError, match="unknown direction"):
        PaperObjectiveSettings(direction="both")
    with pytest.raises(ConfigError, match=r"unknown key 'extra_texts' in settings\.objective"):
        build_train_settings("paper_vit_b", {"objective": {"extra_texts": 3}})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper_resnet50", "paper_vit_b", "released"])
def test_the_unshrunk_presets_take_steps(name: str, words: WordEncoder) -> None:
    # Two volumes of 224x224x96 take 24 GB in the released script's ResNet, whose stem keeps every voxel.
    shape = (112, 112, 48) if name == "released" else (224, 224, 96)
    preset = build_train_settings(name, {"grid": {"shape": shape}})
    network = Paper(preset.model, grid=preset.grid, labels=("mass",), token_width=words.width)
    learner = PaperLearner(network, preset.objective)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    hu = torch.randint(-1000, 400, (2, *preset.grid.shape), dtype=torch.int16)
    texts = torch.from_numpy(words.pool(["mass", "nothing"]))
    for step in range(2):
        volumes, distances, _ = learner.encode(learner.views(hu, np.random.default_rng(step)))
        seen = network.read_texts(texts.numpy())
        loss = distances.mean() + similarity_loss(seen, volumes, preset.objective)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
        assert torch.isfinite(loss)
        assert (distances == 0).all() if name == "released" else (distances > 0).all()
