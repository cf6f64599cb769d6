"""A step in chunks, or shared by processes, is the same step."""

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medfinder.errors import ConfigError
from medfinder.models.device import Device, start_fabric
from medfinder.models.examples import Order
from medfinder.models.learner import Batch
from medfinder.models.methods import as_module
from medfinder.models.step import compute_gradients
from medfinder.models.train import OptimizerSettings, Task, TrainSettings, train

from .conftest import WordEncoder, ready, write_dataset


def gradients(task: Task, chunk: int, share: float = 1.0) -> dict[str, torch.Tensor]:
    network = as_module(task.network).train()
    network.zero_grad()
    reading = next(Order(8, 8, seed=0).read(task.train_set, 0, 1))
    batch = Batch(0, reading.cases, task.train_set, task.table, 0)
    fabric = start_fabric(task.settings.device, batch=8)
    compute_gradients(task.learner, torch.from_numpy(reading.hu), batch, fabric, chunk=chunk, share=share)
    return {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}


def far(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The greatest difference, as a share of the greatest gradient of all (some are 0 but for rounding)."""
    assert found.keys() == expected.keys()
    greatest = max(gradient.abs().max() for gradient in expected.values())
    return float(max((found[name] - expected[name]).abs().max() for name in expected) / greatest)


def test_chunks_give_the_gradients_of_the_whole_batch(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    task = ready(dataset, tmp_path / "out", tiny, words)
    whole = gradients(task, 0)
    assert any(gradient.abs().max() > 1e-4 for gradient in whole.values())
    for chunk in (1, 3, 8):
        assert far(gradients(task, chunk), whole) < 1e-4


def test_the_gradients_are_those_of_a_plain_backward_pass(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    task = ready(dataset, tmp_path / "out", tiny, words)
    ours = gradients(task, 0)
    network = as_module(task.network)
    network.zero_grad()
    reading = next(Order(8, 8, seed=0).read(task.train_set, 0, 1))
    batch = Batch(0, reading.cases, task.train_set, task.table, 0)
    views = task.learner.views(torch.from_numpy(reading.hu), batch.draws(2))
    terms = task.learner.terms(task.learner.encode(views), batch)
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    plain = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    assert far(ours, plain) < 1e-5


def test_accumulated_batches_move_the_weights_once(tmp_path: Path, tiny: TrainSettings, words: WordEncoder) -> None:
    dataset = write_dataset(tmp_path / "more", train=16)
    summary = train(dataset, tmp_path / "out", replace(tiny, accumulate=2, epochs=1), text_encoder=words)
    assert summary.is_finished
    with pytest.raises(ConfigError, match="a step takes 24"):
        train(dataset, tmp_path / "other", replace(tiny, accumulate=3, epochs=1), text_encoder=words)


def test_averaged_weights_lag_behind_and_survive_a_stop(
    dataset: Path, tmp_path: Path, tiny: TrainSettings, words: WordEncoder
) -> None:
    import signal

    still = replace(tiny, epochs=2, optimizer=OptimizerSettings(learning_rate=3e-3, average=0.5))
    train(dataset, tmp_path / "whole", still, text_encoder=words)

    def kill(done: int, _total: int) -> None:
        if done == 1:
            signal.raise_signal(signal.SIGTERM)

    train(dataset, tmp_path / "parts", still, text_encoder=words, progress=kill)
    train(dataset, tmp_path / "parts", still, text_encoder=words)
    plain = replace(tiny, epochs=2)
    train(dataset, tmp_path / "plain", plain, text_encoder=words)
    whole, parts, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts", "plain"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert not torch.equal(whole["log_scale"], other["log_scale"])


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from dataclasses import replace
from tests.models.conftest import WordEncoder
from tests.models.test_step import shared_settings
from medfinder.models.train import train
train(Path({dataset!r}), Path({out!r}), shared_settings(), text_encoder=WordEncoder())
"""


def shared_settings() -> TrainSettings:
    """Settings without augmentation: what processes draw for themselves differs."""
    from .conftest import tiny_settings

    return replace(tiny_settings(), epochs=2, optimizer=OptimizerSettings(learning_rate=1e-3))


def test_two_processes_are_one_process_with_the_same_batch(dataset: Path, tmp_path: Path, words: WordEncoder) -> None:
    train(dataset, tmp_path / "one", shared_settings(), text_encoder=words)
    here = Path(__file__).parents[2]
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(here=str(here), dataset=str(dataset), out=str(tmp_path / "two")))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1"]
    command += ["--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0", str(script)]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key in one:
        assert torch.allclose(one[key].float(), two[key].float(), rtol=1e-2, atol=2e-4), key


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="cannot be shared by 3 processes"):
        start_fabric(Device(), batch=8)


def test_cuda_asked_for_and_absent_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigError, match="no GPU"):
        start_fabric(Device(kind="cuda"), batch=8)
    with pytest.raises(ConfigError, match="needs a GPU"):
        start_fabric(Device(kind="cpu", precision="16"), batch=8)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_memory_is_not_cleared_again() -> None:
    script = """
import resource, torch
from medfinder.models.device import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8): torch.empty(16_000_000).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
usual = faults(); keep_freed_memory(); faults(); print(usual, faults())
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    usual, kept = map(int, told.stdout.split())
    assert kept < usual / 10
