"""The dry run: its figures against a real run, and what it finds in the way."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medfinder.models.at_hand import TEXT_WIDTHS, missing_files, without_files
from medfinder.models.baselines import Clip4ClipSettings
from medfinder.models.estimate import Trial, _scaled, estimate
from medfinder.models.methods import as_module
from medfinder.models.paper import PaperObjectiveSettings, PaperSettings
from medfinder.models.text_encoders import TEXT_ENCODERS, load_text_encoder
from medfinder.models.train import TrainSettings

from .conftest import WordEncoder, ready, write_dataset


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TEXT_WIDTHS, "minilm", (WordEncoder.width, WordEncoder.pooled_width))


def test_weights_and_steps_are_those_of_the_run_and_nothing_is_written(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder, widths: None
) -> None:
    before = sorted(tmp_path.rglob("*"))
    found = estimate(dataset, tiny)
    assert sorted(tmp_path.rglob("*")) == before
    network = as_module(ready(dataset, tmp_path / "out", tiny, words).network)
    assert found.weights_trained == sum(weight.numel() for weight in network.parameters())
    assert found.weights_frozen == 0
    assert (found.training_cases, found.validation_cases, found.steps) == (8, 8, 3)
    assert found.obstacles == ()
    # AdamW holds two moments for each weight, and a few numbers more.
    assert found.memory_bytes["optimizer"] == pytest.approx(8 * found.weights_trained, rel=0.05)
    assert found.seconds["run"] == pytest.approx(3 * found.seconds["epoch"])


def test_activations_are_what_the_way_back_needs(dataset: Path, tiny: TrainSettings, widths: None) -> None:
    whole = estimate(dataset, tiny)
    fewer = estimate(dataset, replace(tiny, chunk=2))
    grown = whole.trial.kept_bytes / fewer.trial.kept_bytes
    assert grown == pytest.approx(4.0, rel=0.1)
    assert fewer.memory_bytes["activations"] < whole.memory_bytes["activations"]


def test_what_is_in_the_way_is_told_and_the_estimate_made_all_the_same(
    dataset: Path, tiny: TrainSettings, widths: None
) -> None:
    other = replace(tiny, grid=replace(tiny.grid, spacing_mm=(1.0, 1.0, 1.0)), batch=16)
    found = estimate(dataset, other)
    assert any("curate it on that grid" in obstacle for obstacle in found.obstacles)
    assert any("lower the batch" in obstacle for obstacle in found.obstacles)
    assert found.all_bytes > 0


def test_too_little_memory_is_in_the_way(
    dataset: Path, tiny: TrainSettings, widths: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medfinder.models.estimate.free_bytes", lambda _: 2**20)
    assert any("lower chunk (now 8)" in obstacle for obstacle in estimate(dataset, tiny).obstacles)


def test_the_papers_method_needs_no_files_of_its_text_encoder(
    tmp_path: Path, tiny: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    settings = replace(
        tiny,
        method="paper",
        model=PaperSettings(image_encoder="resnet10", text_encoder="biomedclip:is/not/there"),
        objective=PaperObjectiveSettings(),
    )
    found = estimate(write_dataset(tmp_path / "dataset"), settings)
    assert any("biomedclip" in obstacle for obstacle in found.obstacles)


def test_every_text_encoder_has_its_width_and_the_one_at_hand_really_has_it() -> None:
    assert TEXT_WIDTHS.keys() == TEXT_ENCODERS.keys()
    assert missing_files("minilm") == ""
    minilm = load_text_encoder("minilm")
    assert (minilm.width, minilm.pooled_width) == TEXT_WIDTHS["minilm"]


def test_a_published_tower_is_counted_without_its_files() -> None:
    shape = without_files(Clip4ClipSettings(tower="clip:is/not/there")).tower_shape
    from medfinder.models.image_tower import VisionTransformer

    with torch.device("meta"):
        tower = VisionTransformer(shape)
    # OpenAI's ViT-B/32: 87.85 million weights of the image tower (open_clip's table of profiles).
    assert sum(weight.numel() for weight in tower.parameters()) == pytest.approx(87.85e6, rel=1e-3)


def test_costs_are_scaled_along_the_line_through_two_trials() -> None:
    small = Trial(1, (1, 1, 1), work=10, views_s=0, forward_s=3.0, backward_s=0, light_s=0, kept_bytes=0, view_bytes=0)
    large = replace(small, work=20, forward_s=4.0)
    assert _scaled((small, large), "forward_s", 100) == pytest.approx(12.0)
    assert _scaled((large,), "forward_s", 100) == pytest.approx(20.0)
