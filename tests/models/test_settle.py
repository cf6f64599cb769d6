"""Batch norms are measured with the weights they are used with."""

from pathlib import Path

import pytest
import torch

from medfinder.curation.dataset import Dataset
from medfinder.models import train as training
from medfinder.models.train import TrainSettings, settled_norms

from .conftest import WordEncoder


def test_settled_norms_hold_the_mean_of_what_they_are_used_on(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    read, _, table = training.read_examples(Dataset.open(dataset), tiny, words, tmp_path / "cache")
    model = training.build_model(tiny, grid=tiny.grid, labels=("mass",), token_width=words.width).train()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    norm = model.image_projection[0]
    assert isinstance(norm, torch.nn.BatchNorm1d)
    norm.running_mean.fill_(99.0)
    with settled_norms(model):
        for step in training._steps(read, tiny, 0, 2):
            training._loss(model, step, read, table, torch.zeros(8, 1), tiny)
    with torch.no_grad():
        features = model.image(torch.stack([torch.tensor(read.hu(case)) for case in range(8)]))[0]
    # Both steps hold the same eight cases, unchanged: their mean is known.
    assert torch.allclose(norm.running_mean, features.mean(0), atol=1e-4)
    assert torch.allclose(norm.running_var, features.var(0), rtol=1e-2, atol=1e-6)
    assert norm.momentum == pytest.approx(0.1)
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
