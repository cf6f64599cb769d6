"""What a training run leaves on disk while it goes on: the state to resume from, the history, the log.

In: weights, moments and the place of a run. Out: one file that holds them all, so that they can never disagree.
Refused: a file that is truncated or of another run.
"""

import csv
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from medfinder.errors import CheckpointError, ConfigError
from medfinder.models.checkpoint import put_weights, read_weights, write_weights


@dataclass
class RunState:
    """What changes while a run goes on, besides the weights.

    Attributes:
        step: steps done.
        history: a row of figures for each epoch.
        sums: of the present epoch.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)

    def best(self) -> dict[str, float] | None:
        """Give the last epoch with the highest mean recall: of equals, the one trained longer."""
        return max(reversed(self.history), key=_merit, default=None)


def _merit(row: dict[str, float]) -> float:
    return row["text_to_image_R@10"] + row["image_to_text_R@10"]


def write_state(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: RunState,
    run: str,
    averages: Mapping[str, Tensor],
) -> None:
    """Write weights, moments, moving averages and place of a run in one file."""
    tensors = {f"model/{key}": tensor for key, tensor in network.state_dict().items()}
    tensors |= {f"average/{key}": tensor for key, tensor in averages.items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer/{number}/{key}": torch.as_tensor(value) for key, value in moments.items() if value is not None
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"run": run, "step": state.step, "history": state.history, "sums": state.sums}
    write_weights(path, tensors, {"state": json.dumps(told)})


def read_state(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, run: str, averages: dict[str, Tensor]
) -> RunState:
    """Put weights, moments and moving averages back, and say where the run was.

    Raises:
        CheckpointError: the file is truncated.
        ConfigError: it is of other settings, dataset or code.
    """
    with _open_tensors(path) as file:
        told = json.loads((file.metadata() or {}).get("state", "{}"))
    if told.get("run") != run:
        raise ConfigError(
            f"{path} is of other settings, dataset or code; give another folder, or train without resuming"
        )
    tensors = read_weights(path)
    put_weights(network, _under(tensors, "model/"), where=str(path))
    for key, tensor in _under(tensors, "average/").items():
        averages[key].copy_(tensor)
    weights_in_order = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _under(tensors, "optimizer/").items():
        number, name = key.split("/")
        if tensor.ndim:
            # The fused step reads raw memory: moments must lie in the order of their weights.
            tensor = torch.empty_like(weights_in_order[int(number)]).copy_(tensor)
        moments.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return RunState(told["step"], told["history"], told["sums"])


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _open_tensors(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated ({error}); remove it to start anew") from error


def write_history(out: Path, history: Sequence[dict[str, float]]) -> None:
    """Write ``log.csv``: a row an epoch."""
    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / "log.csv.tmp"
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in history for key in row)))
        writer.writeheader()
        writer.writerows(history)
    unfinished.replace(out / "log.csv")


def log(out: Path, line: str) -> None:
    """Add a line with the time to ``train.log``."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "train.log").open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
