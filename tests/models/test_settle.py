"""Batch norms are measured with the weights they are used with."""

from pathlib import Path

import pytest
import torch

from medfinder.models.device import start_fabric
from medfinder.models.examples import Order
from medfinder.models.learner import Batch
from medfinder.models.medfinder import MedFinder
from medfinder.models.step import compute_terms
from medfinder.models.train import TrainSettings, settled_norms

from .conftest import WordEncoder, ready


def test_settled_norms_hold_the_mean_of_what_they_are_used_on(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    task = ready(dataset, tmp_path / "out", tiny, words)
    model = task.network
    assert isinstance(model, MedFinder)
    model.train()
    fabric = start_fabric(tiny.device, batch=8)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    norm = model.image_projection[0]
    assert isinstance(norm, torch.nn.BatchNorm1d)
    norm.running_mean.fill_(99.0)
    with settled_norms(model):
        for reading in Order(8, 8, seed=0).read(task.train_set, 0, 2):
            batch = Batch(reading.step, reading.cases, task.train_set, task.table, 0)
            compute_terms(task.learner, torch.from_numpy(reading.hu), batch, fabric)
    with torch.no_grad():
        features = model.image(torch.stack([torch.tensor(task.train_set.hu(case)) for case in range(8)]))[0]
    # Both steps hold the same eight cases, unchanged: their mean is known.
    assert torch.allclose(norm.running_mean, features.mean(0), atol=1e-4)
    assert torch.allclose(norm.running_var, features.var(0), rtol=1e-2, atol=1e-6)
    assert norm.momentum == pytest.approx(0.1)
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
