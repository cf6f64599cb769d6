"""Following a run from outside: TensorBoard, Weights & Biases, MLflow. ``log.csv`` is written in any case.

In: names of trackers; then numbers as training goes on: the terms of the loss at each step, the figures of each epoch.
Out: what each tracker writes: TensorBoard into the checkpoint folder, W&B and MLflow where their own settings say. Only
numbers, settings and names of methods are told: no text, id or path. Refused: a tracker that is unknown, not installed
or does not know where to write.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from medfinder.errors import ConfigError, MissingExtraError


class Tracker(Protocol):
    """Takes the numbers of a run."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name, e.g. ``train/loss``."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...


class TensorBoard:
    """Writes event files into ``tensorboard/`` of the checkpoint folder; a ``Tracker``."""

    def __init__(self, out: Path, run: str, settings: Mapping[str, Any], first_step: int) -> None:  # noqa: ARG002  # as all are made
        from torch.utils.tensorboard import SummaryWriter

        # What a killed run wrote after its last saved state comes again.
        self._writer = SummaryWriter(out / "tensorboard", purge_step=first_step or None)
        told = "\n".join(f"    {name} = {value}" for name, value in flat(settings).items())
        self._writer.add_text("settings", told, first_step)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()


class WeightsAndBiases:
    """Tells W&B, whose own settings (``WANDB_MODE=offline`` for none) say where it goes; a ``Tracker``."""

    def __init__(self, out: Path, run: str, settings: Mapping[str, Any], first_step: int) -> None:  # noqa: ARG002  # as all are made
        out.mkdir(parents=True, exist_ok=True)
        self._run = import_module("wandb").init(
            project="medfinder", id=run[:16], resume="allow", dir=str(out), config=flat(settings)
        )

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is not written yet."""
        self._run.finish()


class MLflow:
    """Tells the MLflow server or database that ``MLFLOW_TRACKING_URI`` names; a ``Tracker``."""

    def __init__(self, out: Path, run: str, settings: Mapping[str, Any], first_step: int) -> None:  # noqa: ARG002  # as all are made
        mlflow = import_module("mlflow")
        self._client = mlflow.MlflowClient()
        experiment = self._client.get_experiment_by_name("medfinder")
        number = self._client.create_experiment("medfinder") if experiment is None else experiment.experiment_id
        told = f"tags.medfinder_run = '{run[:16]}'"
        earlier = self._client.search_runs([number], told, max_results=1) if first_step else []
        made = earlier[0] if earlier else self._client.create_run(number, tags={"medfinder_run": run[:16]})
        self._id = made.info.run_id
        for name, value in {} if earlier else flat(settings).items():
            self._client.log_param(self._id, name, value)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name."""
        for name, value in values.items():
            self._client.log_metric(self._id, name.replace("@", "_at_"), value, step=step)

    def close(self) -> None:
        """Write what is not written yet."""
        self._client.set_terminated(self._id)


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Lay nested settings flat.

    Example:
        >>> flat({"batch": 8, "grid": {"shape": (2, 2)}})
        {'batch': 8, 'grid.shape': '(2, 2)'}
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}.")
        else:
            found[above + key] = value if isinstance(value, int | float | str) else str(value)
    return found


def check_trackers(names: Sequence[str]) -> None:
    """Refuse what is unknown or not installed.

    Raises:
        ConfigError: no tracker has that name.
        MissingExtraError: its package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(
                f"unknown tracker {name!r}; known: {', '.join(sorted(TRACKERS))} (log.csv is always there)"
            )
        if find_spec(name) is None:  # each is named after its package
            raise MissingExtraError(name, "track")
    if "mlflow" in names and not os.environ.get("MLFLOW_TRACKING_URI"):
        # Its own default, a folder, is refused by MLflow from version 3 on.
        raise ConfigError(
            "mlflow does not know where to write; set MLFLOW_TRACKING_URI to a server, e.g. http://localhost:5000"
        )


@contextmanager
def tracked(
    names: Sequence[str], out: Path, run: str, settings: Mapping[str, Any], first_step: int
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Open the trackers of a run, hand out what takes its numbers, and close them, however it ends.

    Args:
        run: digest of settings, dataset and code: a run that goes on is told by it.
        first_step: that comes now; not 0 when a killed run goes on.
    """
    check_trackers(names)
    with ExitStack() as stack:
        opened = []
        for name in dict.fromkeys(names):
            tracker = TRACKERS[name](out, run, settings, first_step)
            stack.callback(tracker.close)
            opened.append(tracker)

        def add(step: int, values: Mapping[str, float]) -> None:
            for tracker in opened:
                tracker.add(step, values)

        yield add


TRACKERS: dict[str, Callable[[Path, str, Mapping[str, Any], int], Tracker]] = {
    "mlflow": MLflow,
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}
