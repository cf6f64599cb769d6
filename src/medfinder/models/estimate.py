"""What a training run would take, before it is begun: weights, steps, memory, time, and what stands in its way.

In: the settings of a run and the dataset folder it is to learn from. Out: figures; nothing is written, nothing fetched.
Time and activations are measured on random volumes: on the run's own grid and number of volumes where that takes
seconds, else on a smaller grid, and scaled by the number of voxels. Refused: what no run could be made of.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from medfinder.curation.dataset import Dataset
from medfinder.errors import ConfigError
from medfinder.models.at_hand import missing_files, text_width, without_files
from medfinder.models.device import start_fabric
from medfinder.models.examples import Examples, cases_with_report
from medfinder.models.labels import choose_labels
from medfinder.models.learner import Batch, Learner
from medfinder.models.methods import as_module, build_network, method_of
from medfinder.models.texts import PieceTable
from medfinder.models.train import SETTLE_CASES, TrainSettings, make_optimizer

T = TypeVar("T")
Shape = tuple[int, int, int]

# Ours: a dry run answers within a minute, and fits where training does not.
LONGEST_STEP_S = 12.0
MOST_BYTES = 3 * 2**30
SMALL_VOXELS = 64**3
# Python, torch and what they load, measured on Linux.
PROGRAM_BYTES = 450 * 2**20
# Ours: convolutions work on copies of their own. Our network's step of 32 volumes rose by 1,050 MB and kept 680.
SCRATCH = 1.5
# Ours, as in the phantoms' reports: what the light part reads in a trial step.
PIECES_A_REPORT, TOKENS_A_PIECE = 8, 16


@dataclass(frozen=True)
class Trial:
    """What one trial step took.

    Attributes:
        volumes: that the heavy part saw at once.
        shape: of each.
        work: what the heavy part's cost grows with: slices of all volumes for a network that sees slices, else voxels.
        views_s: seconds to augment the volumes.
        forward_s: ... to encode their views.
        backward_s: ... for the way back.
        light_s: ... for the light part, of a whole batch.
        kept_bytes: what the way back needs of the way there, and twice the largest of it for what is under way.
        view_bytes: of the views.
    """

    volumes: int
    shape: Shape
    work: int
    views_s: float
    forward_s: float
    backward_s: float
    light_s: float
    kept_bytes: int
    view_bytes: int

    @property
    def voxels(self) -> int:
        """Give the voxels of all volumes."""
        return self.volumes * math.prod(self.shape)


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        weights_trained: numbers that training moves.
        weights_frozen: that it leaves, the text encoder's aside: it is gone before the first step.
        training_cases: with a report.
        steps: in all.
        memory_bytes: of each process, by purpose.
        seconds: by what they are spent on: a step, an epoch with its validation, the run.
        trial: what the figures were scaled from.
        obstacles: what the run would be refused for, or would have to fetch.
    """

    method: str
    device: str
    precision: str
    processes: int
    weights_trained: int
    weights_frozen: int
    training_cases: int
    validation_cases: int
    epochs: int
    steps: int
    memory_bytes: dict[str, int]
    seconds: dict[str, float]
    trial: Trial
    obstacles: tuple[str, ...]

    @property
    def all_bytes(self) -> int:
        """Give the memory of each process."""
        return sum(self.memory_bytes.values())

    def as_facts(self) -> dict[str, str]:
        """Say it in words, for people."""
        gigabytes = ", ".join(f"{name} {_as_gigabytes(count)}" for name, count in self.memory_bytes.items())
        shape = "x".join(map(str, self.trial.shape))
        return {
            "method": self.method,
            "where": f"{self.device}, {self.precision}, {self.processes} processes",
            "weights": f"{self.weights_trained:,} trained, {self.weights_frozen:,} frozen (text encoder aside)",
            "cases": f"{self.training_cases:,} to train, {self.validation_cases:,} to validate",
            "steps": f"{self.steps:,} in {self.epochs} epochs",
            "memory of a process": f"about {_as_gigabytes(self.all_bytes)}: {gigabytes}",
            "time": ", ".join(f"{name} {_as_time(spent)}" for name, spent in self.seconds.items()),
            "measured on": f"{self.trial.volumes} random volumes of {shape} voxels, scaled: an estimate",
        }


def estimate(dataset: Path, settings: TrainSettings) -> Estimate:
    """Say what training on a dataset folder would take.

    Raises:
        ConfigError: the settings fit no device, batch or network.
        DatasetError: the folder is no dataset.
    """
    fabric = start_fabric(settings.device, batch=settings.batch)
    data = Dataset.open(dataset)
    cases, labels, obstacles = _look_at(data, settings)
    method, model = method_of(settings.method), without_files(settings.model)
    width = text_width(model.text_encoder, is_pooled=method.pools_text)

    def learner(shape: Shape) -> Learner:
        grid = replace(settings.grid, shape=shape)
        network = build_network(settings.method, model, grid=grid, labels=labels, text_width=width)
        fabric.to_device(as_module(network)).train()
        return method.learner(network, settings.objective)

    trials = _try_sizes(learner, settings, width, fabric)
    whole = learner(settings.grid.shape)
    work = _work(whole, settings, settings.grid.shape)
    weights = [(weight.numel(), weight.requires_grad) for weight in whole.network.parameters()]
    trained = sum(count for count, is_trained in weights if is_trained)
    moments, move_s = _try_optimizer(whole.network, settings)
    share = settings.batch // fabric.world_size
    memory = _memory(settings, trials, share, work, 4 * sum(count for count, _ in weights), 4 * trained, moments)
    obstacles += _short_of_memory(sum(memory.values()), settings, share, fabric.device)
    return Estimate(
        method=settings.method,
        device=fabric.device.type,
        precision=str(fabric._precision.precision),
        processes=fabric.world_size,
        weights_trained=trained,
        weights_frozen=sum(count for count, _ in weights) - trained,
        training_cases=cases[0],
        validation_cases=cases[1],
        epochs=settings.epochs,
        steps=_steps(settings, cases[0]) * settings.epochs,
        memory_bytes=memory,
        seconds=_seconds(settings, trials, share, work, cases, move_s),
        trial=trials[-1],
        obstacles=tuple(obstacles),
    )


def _look_at(data: Dataset, settings: TrainSettings) -> tuple[tuple[int, int], tuple[str, ...], list[str]]:
    """Count the cases, choose the labels, and list what the run would be refused for."""
    obstacles = []
    if data.grid != settings.grid:
        obstacles.append(f"the dataset is on {data.grid}, the settings expect {settings.grid}; curate it on that grid")
    cases = cases_with_report(data, "train")
    counts = len(cases), len(cases_with_report(data, "val"))
    least = settings.batch * settings.accumulate
    if counts[0] < least or counts[1] < 2:
        obstacles.append(
            f"{counts[0]} training and {counts[1]} validation cases have a report; a step takes {least}, "
            "validation at least 2: lower the batch or curate more cases"
        )
    names = [settings.model.text_encoder, getattr(settings.model, "tower", "")]
    obstacles += dict.fromkeys(missing for name in names if name and (missing := missing_files(name)))
    return counts, choose_labels([case.findings for case in cases], at_least=settings.label_cases), obstacles


def _try_sizes(
    learner: Callable[[Shape], Learner], settings: TrainSettings, width: int, fabric: Any
) -> tuple[Trial, ...]:
    """Try steps of growing size, as long as the next one is expected to be quick and to fit; keep the last two."""
    at_once = min(settings.chunk or settings.batch, settings.batch // fabric.world_size)
    trials: tuple[Trial, ...] = ()
    for shape, volumes in _sizes(settings, at_once):
        try:
            made = learner(shape)
        except ConfigError:
            if shape == settings.grid.shape:
                raise
            continue  # the network cannot be built for a smaller grid
        work, voxels = volumes * _work(made, settings, shape), volumes * math.prod(shape)
        if trials and (
            _scaled(trials, "forward_s", work) + _scaled(trials, "backward_s", work) > LONGEST_STEP_S
            or _scaled(trials, "kept_bytes", work) + 4 * trials[-1].view_bytes * voxels / trials[-1].voxels > MOST_BYTES
        ):
            break
        trials = (*trials[-1:], try_step(made, settings, shape, volumes, width, fabric))
    return trials


def _sizes(settings: TrainSettings, at_once: int) -> Iterator[tuple[Shape, int]]:
    """List the sizes to try, the real one last; sides are multiples of 16, which every network here can halve."""
    x, y, _ = shape = settings.grid.shape
    sees_slices = hasattr(settings.model, "slices")
    for divisor in (4, 2.5, 2) if math.prod(shape) > SMALL_VOXELS else ():
        smaller = [min(side, max(32, int(side / divisor / 16) * 16)) for side in shape]
        yield (x, y, smaller[2]) if sees_slices else (smaller[0], smaller[1], smaller[2]), 1
    for volumes in sorted({1, min(4, at_once), at_once}):
        yield shape, volumes


def _work(learner: Learner, settings: TrainSettings, shape: Shape) -> int:
    """Give what the cost of one volume grows with; see ``Trial``."""
    slices = getattr(learner.network, "slices", None)
    return math.prod(shape) if slices is None else int(slices.count(replace(settings.grid, shape=shape)))


def _scaled(trials: Sequence[Trial], part: str, work: float) -> float:
    """Scale what a trial took to more work: along the line through two trials, else in proportion."""
    last = float(getattr(trials[-1], part))
    if len(trials) > 1 and trials[-1].work > trials[0].work:
        slope = (last - float(getattr(trials[0], part))) / (trials[-1].work - trials[0].work)
        if 0.0 <= slope * trials[-1].work <= last:
            return last + slope * (work - trials[-1].work)
    return last * work / trials[-1].work


def try_step(learner: Learner, settings: TrainSettings, shape: Shape, volumes: int, width: int, fabric: Any) -> Trial:
    """Do one step on random volumes, part by part, and see what each part takes."""
    rng = np.random.default_rng(settings.seed)
    hu = torch.from_numpy(rng.integers(-1024, 1500, (volumes, *shape), dtype=np.int16)).to(fabric.device)
    views, views_s = _timed(lambda: learner.views(hu, rng), fabric.device)

    def encode() -> tuple[Tensor, ...]:
        with fabric.autocast():
            return learner.encode(views)

    if hu.numel() <= SMALL_VOXELS:
        _go_back(encode())  # warms up
    with _kept(learner.network) as kept:
        rows, forward_s = _timed(encode, fabric.device)
    _, backward_s = _timed(lambda: _go_back(rows), fabric.device)
    return Trial(
        volumes=volumes,
        shape=shape,
        work=volumes * _work(learner, settings, shape),
        views_s=views_s,
        forward_s=forward_s,
        backward_s=backward_s,
        light_s=_light_s(learner, rows, settings, width, fabric.device),
        kept_bytes=sum(kept.values()) + 2 * max(kept.values(), default=0),
        view_bytes=views.numel() * views.element_size(),
    )


def _timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    start = time.perf_counter()
    found = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return found, time.perf_counter() - start


def _go_back(encoded: Sequence[Tensor]) -> None:
    rows = [row for row in encoded if row.requires_grad]
    torch.autograd.backward(rows, [torch.ones_like(row) for row in rows])


@contextmanager
def _kept(network: nn.Module) -> Iterator[dict[int, int]]:
    """Note the bytes of each memory block that the way back will need, weights aside."""
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    blocks: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            blocks[place] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield blocks


def _light_s(
    learner: Learner, rows: Sequence[Tensor], settings: TrainSettings, width: int, device: torch.device
) -> float:
    """Time the light part on a whole batch of random rows and texts, there and back."""
    rng = np.random.default_rng(settings.seed)
    tokens = 1 if method_of(settings.method).pools_text else TOKENS_A_PIECE
    vectors = [rng.normal(size=(tokens, width)).astype(np.float16) for _ in range(64)]
    table = PieceTable({str(number): number for number in range(64)}, vectors)
    cases = 4 * settings.batch
    examples = Examples(
        hu=lambda _: np.zeros((1, 1, 1), np.int16),
        pieces=[tuple(rng.integers(0, 64, PIECES_A_REPORT).tolist()) for _ in range(cases)],
        groups=np.arange(cases),
        findings=[()] * cases,
        queries=[[]] * cases,
    )
    batch = Batch(0, np.arange(settings.batch), examples, table, settings.seed)
    leaves = tuple(torch.randn(settings.batch, *row.shape[1:], device=device, requires_grad=True) for row in rows)
    start = time.perf_counter()
    terms = learner.terms(leaves, batch)
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - start


def _try_optimizer(network: nn.Module, settings: TrainSettings) -> tuple[int, float]:
    """Move the weights once, by nothing; give the bytes of the moments, and the seconds."""
    optimizer = make_optimizer(network, settings.optimizer)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    optimizer.step()
    start = time.perf_counter()
    optimizer.step()
    spent = time.perf_counter() - start
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(value.numel() * value.element_size() for value in states), spent


def _memory(
    settings: TrainSettings, trials: Sequence[Trial], share: int, work: int, weights: int, gradients: int, moments: int
) -> dict[str, int]:
    """Add up the memory of a process by purpose, in bytes."""
    voxels, last = math.prod(settings.grid.shape), trials[-1]
    view = last.view_bytes * voxels / last.voxels
    # While views are made: what turning and noise need, about three more of them.
    making = 4 * view * share
    encoding = view * share + SCRATCH * _scaled(trials, "kept_bytes", work * min(settings.chunk or share, share))
    return {
        "program": PROGRAM_BYTES,
        "weights": weights + (gradients if settings.optimizer.average else 0),
        "gradients": gradients,
        "optimizer": moments,
        "volumes": 4 * 2 * voxels * share,  # int16; read, two waiting, and one under way
        "activations": round(max(making, encoding)),
    }


def _seconds(
    settings: TrainSettings, trials: Sequence[Trial], share: int, work: int, cases: tuple[int, int], move_s: float
) -> dict[str, float]:
    """Add up the time of a step, of an epoch with its settling and validation, and of the run."""
    at_once, last = min(settings.chunk or share, share), trials[-1]
    steps = _steps(settings, cases[0])
    views_s = last.views_s * math.prod(settings.grid.shape) / last.voxels
    forward_s, backward_s = (_scaled(trials, part, work * at_once) / at_once for part in ("forward_s", "backward_s"))
    passes_s = forward_s * (2 if at_once < share else 1) + backward_s
    step_s = share * (views_s + passes_s) + last.light_s + move_s / settings.accumulate
    settled = min(SETTLE_CASES, steps * settings.batch) * share / settings.batch
    epoch_s = steps * step_s + settled * (views_s + forward_s) + cases[1] * forward_s
    return {"step": step_s, "epoch": epoch_s, "run": settings.epochs * epoch_s}


def _steps(settings: TrainSettings, cases: int) -> int:
    return cases // settings.batch // settings.accumulate * settings.accumulate


def _short_of_memory(needed: int, settings: TrainSettings, share: int, device: torch.device) -> list[str]:
    free = free_bytes(device)
    if free is None or needed <= free:
        return []
    at_once = settings.chunk or share
    return [
        f"a process needs about {needed / 2**30:.1f} GB, {free / 2**30:.1f} GB are free: lower chunk (now {at_once}), "
        "the batch or the grid"
    ]


def free_bytes(device: torch.device) -> int | None:
    """Give the memory that a process could have now; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None


def _as_gigabytes(count: int) -> str:
    return f"{count / 2**30:.2f} GB"


def _as_time(seconds: float) -> str:
    """Give a time in the unit that fits it.

    Example:
        >>> _as_time(8.16), _as_time(5400), _as_time(864000)
        ('8.2 s', '1.5 h', '10.0 days')
    """
    for unit, length in (("days", 172800.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / (86400.0 if unit == 'days' else length):.1f} {unit}"
    return f"{seconds:.1f} s"
