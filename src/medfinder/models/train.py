"""Training: a dataset folder to a checkpoint folder, in one straight loop on Lightning Fabric.

In: a dataset (DESIGN.md) with cases in ``train`` and ``val``, settings. Out: a checkpoint folder with the weights of
the epoch that ranked the validation cases best. Killed at any moment and run again, it goes on where it was and ends in
the same weights on a CPU. Refused: a dataset on another grid, too small for a batch; a loss that is not finite.

Several processes (``torchrun --nproc_per_node P``) share each batch; together they compute what one process would.
"""

import hashlib
import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import medfinder
from medfinder.config import build_settings, merge, read_toml
from medfinder.curation.dataset import Dataset
from medfinder.errors import ConfigError
from medfinder.models.checkpoint import (
    CONFIG,
    PROVENANCE,
    WEIGHTS,
    CheckpointConfig,
    digest_of,
    put_weights,
    read_config,
    read_weights,
    save_checkpoint,
)
from medfinder.models.device import Device, compile_heavy_part, enough_memory, keep_freed_memory, start_fabric
from medfinder.models.examples import (
    Examples,
    Order,
    Reading,
    cases_with_report,
    label_pieces,
    read_ahead,
    read_examples,
)
from medfinder.models.image_encoder import map_shape, token_shape
from medfinder.models.labels import choose_labels, names_of
from medfinder.models.learner import Batch, Learner, Network
from medfinder.models.medfinder import ModelSettings, ObjectiveSettings
from medfinder.models.methods import as_module, build_network, method_of
from medfinder.models.regions import read_regions
from medfinder.models.run_state import RunState, log, read_state, write_history, write_state
from medfinder.models.step import compute_gradients, compute_terms, sum_gradients
from medfinder.models.text_encoders import TextEncoder, load_text_encoder
from medfinder.models.texts import PieceTable, embed_pieces
from medfinder.models.tracking import check_trackers, tracked
from medfinder.records import Case
from medfinder.volume import Grid

STATE = "resume/state.safetensors"
PRESETS = Path(__file__).parent / "presets"
SETTLE_CASES = 256  # ours: enough for a mean, and 2% of the time of an epoch of 2,600 cases
FORMAT = 2  # of the state file and the order of random draws


@dataclass(frozen=True)
class OptimizerSettings:
    """How weights are moved.

    Attributes:
        kind: ``"adamw"`` (betas 0.9 and 0.98) or ``"sgd"``.
        learning_rate: its peak, after the warm-up; it falls along half a cosine to a hundredth.
        momentum: of ``"sgd"``.
        warm_up: share of the steps in which the learning rate rises.
        clip_norm: gradients longer than this are shortened; 0 leaves them.
        average: of the weights, moving: the share that stays at each step; validation and checkpoint take the average.
            0 takes the weights themselves.
        rates: factors on the learning rate by the beginning of a weight's name, e.g. for a tower trained before.
    """

    kind: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    warm_up: float = 0.05
    clip_norm: float = 1.0
    average: float = 0.0
    rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in ("adamw", "sgd"):
            raise ConfigError(f"unknown optimizer {self.kind!r}; known: adamw, sgd")
        if not 0.0 <= self.average < 1.0:
            raise ConfigError(f"moving average {self.average}; expected 0 (none) to less than 1, e.g. 0.999")


@dataclass(frozen=True)
class TrainSettings:
    """How a model is trained. Defaults: ours; docs/model_card.md says what was tried.

    Attributes:
        method: key of ``METHODS``.
        model: settings of the method's network.
        objective: settings of what it makes small.
        grid: that the dataset must have.
        epochs: passes over the training cases.
        batch: volumes whose gradients are taken together, over all processes.
        chunk: volumes in memory at once, in each process; 0 for the whole share of a batch. The result is the same,
            but for an image encoder with batch norms, which see a chunk.
        accumulate: batches for each move of the weights.
        label_cases: a finding with its attribute becomes a label when this many training cases have it.
        queries: short queries drawn for each training case.
        device: where the network runs.
        seed: of everything random.
    """

    method: str = "medfinder"
    model: Any = field(default_factory=ModelSettings)
    objective: Any = field(default_factory=ObjectiveSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    grid: Grid = field(default_factory=Grid)
    epochs: int = 20
    batch: int = 32
    chunk: int = 0
    accumulate: int = 1
    label_cases: int = 8
    queries: int = 4
    device: Device = field(default_factory=Device)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 2), ("chunk", 0), ("accumulate", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least {least}")


def learning_rate(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Rise linearly during the warm-up, then fall along half a cosine to a hundredth of the peak."""
    warm_up = max(1, round(settings.warm_up * steps))
    if step < warm_up:
        return settings.learning_rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def make_optimizer(network: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Make the optimizer of what can be trained."""
    parts: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            # Biases, norms, positions and the temperature are not decayed.
            decay = settings.weight_decay if weight.ndim > 1 else 0.0
            rate = next((factor for start, factor in settings.rates.items() if name.startswith(start)), 1.0)
            parts.setdefault((decay, rate), []).append(weight)
    groups = [{"params": some, "weight_decay": decay, "rate": rate} for (decay, rate), some in parts.items()]
    if settings.kind == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)


def recall(scores: np.ndarray, is_right: np.ndarray, *, k: int) -> float:
    """Share of rows whose best right column is among the first k; a tie counts against us."""
    best = np.where(is_right, scores, -np.inf).max(1, keepdims=True)
    ahead = ((scores >= best) & ~is_right).sum(1)
    return float((ahead < k).mean())


@contextmanager
def settled_norms(network: nn.Module) -> Iterator[None]:
    """Measure the means and variances of the batch norms anew over what passes through the network meanwhile.

    Their running averages lag behind the weights, while what differs from case to case is small beside what all share.
    On 227 phantoms after two epochs this alone took R@10 from 11% to 20% (text to CT) and from 10% to 13%.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all that follows
    with torch.no_grad():
        yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def validate(network: Network, examples: Examples, table: PieceTable, *, device: torch.device) -> dict[str, float]:
    """Rank the validation cases by whole reports, in both directions; recalls in per cent."""
    as_module(network).eval()
    images, texts = [], []
    with torch.inference_mode():
        for start in range(0, len(examples), 16):
            cases = range(start, min(start + 16, len(examples)))
            hu = torch.from_numpy(np.stack([np.asarray(examples.hu(case)) for case in cases]))
            images.append(network.embed_volumes(hu.to(device)).float().cpu().numpy())
            pieces = [examples.pieces[case] for case in cases]
            texts.append(network.embed_texts(pieces, table.vectors).float().cpu().numpy())
    as_module(network).train()
    scores = np.concatenate(texts) @ np.concatenate(images).T
    same = examples.groups[:, None] == examples.groups
    return {
        "text_to_image_R@10": 100 * recall(scores, same, k=10),
        "image_to_text_R@10": 100 * recall(scores.T, same.T, k=10),
    }


@dataclass(frozen=True)
class TrainSummary:
    """How a training run ended.

    Attributes:
        is_finished: False when it was asked to stop; run it again to go on.
        best_epoch: from 1, the one whose weights the checkpoint holds; 0 before the first.
        figures: of the best epoch: recalls on the validation cases in per cent.
    """

    checkpoint: Path
    is_finished: bool
    epochs: int
    best_epoch: int
    figures: dict[str, float]


@dataclass(frozen=True)
class Task:
    """All that a run works on, ready to be trained."""

    learner: Learner
    network: Network
    train_set: Examples
    val_set: Examples
    table: PieceTable
    settings: TrainSettings
    config: CheckpointConfig
    provenance: Mapping[str, Any]


def train(
    dataset: Path,
    out: Path,
    settings: TrainSettings,
    *,
    masks: Path | None = None,
    start: Path | None = None,
    resume: bool = True,
    progress: Callable[[int, int], None] | None = None,
    text_encoder: TextEncoder | None = None,
    trackers: Sequence[str] = (),
) -> TrainSummary:
    """Train a model on a dataset folder and write a checkpoint folder.

    Args:
        out: gets the checkpoint of the best epoch so far, ``log.csv``, ``train.log`` and, until the end, ``resume/``.
        masks: the phantoms folder that the dataset was curated from: its masks tell where the findings of training
            cases lie. None trains on volumes and reports alone.
        start: a checkpoint whose weights training begins with; how the model is built and its labels come from there.
        resume: go on where an earlier run of the same settings on the same dataset stopped.
        progress: called after each step with steps done and steps in all.
        text_encoder: the frozen encoder, if it is at hand; else it is found by ``settings.model.text_encoder``.
        trackers: keys of ``TRACKERS`` that follow the run, too.

    Raises:
        ConfigError: the dataset does not fit the settings, ``out`` holds another run, the loss is not finite, or a
            step does not fit into memory.
    """
    check_trackers(trackers)
    fabric = start_fabric(settings.device, batch=settings.batch)
    task = prepare(
        dataset, out, settings, masks=masks, start=start, resume=resume, text_encoder=text_encoder, fabric=fabric
    )
    if isinstance(task, TrainSummary):
        return task
    if fabric.device.type == "cpu":
        keep_freed_memory()
    with enough_memory(settings.chunk or settings.batch // fabric.world_size):
        return _fit(task, out, fabric, resume=resume, progress=progress, trackers=trackers)


def prepare(
    dataset: Path,
    out: Path,
    settings: TrainSettings,
    *,
    masks: Path | None,
    start: Path | None,
    resume: bool,
    text_encoder: TextEncoder | None,
    fabric: Any,
) -> Task | TrainSummary:
    """Read what a run needs; see ``train``. Gives the summary instead if the run has ended before."""
    data = Dataset.open(dataset)
    if data.grid != settings.grid:
        raise ConfigError(f"the dataset is on {data.grid}, the settings expect {settings.grid}; curate it on that grid")
    method = method_of(settings.method)
    encoder = load_text_encoder(settings.model.text_encoder) if text_encoder is None else text_encoder
    # "clip:FOLDER" is how a user says where the weights lie; a checkpoint holds no paths.
    settings = replace(settings, model=replace(settings.model, text_encoder=encoder.name))
    if masks is not None and not method.knows_regions:
        raise ConfigError(f"method {settings.method} makes no use of masks; leave them out")
    if masks is None and method.knows_regions:
        settings = replace(settings, objective=replace(settings.objective, region_weight=0.0))
    begun = None if start is None else _read_start(start, settings, encoder)
    if begun is not None:
        settings = replace(settings, model=begun.model)
    run = _run_digest(settings, data.digest, encoder.sha256, begun)
    finished = _finished(out, run, resume)
    if finished is not None:
        return finished
    cases = cases_with_report(data, "train")
    labels = begun.labels if begun else choose_labels([case.findings for case in cases], at_least=settings.label_cases)
    width = encoder.pooled_width if method.pools_text else encoder.width
    network = build_network(
        settings.method, settings.model, grid=settings.grid, labels=labels, text_width=width, seed=settings.seed
    )

    def embed(pieces: list[str]) -> PieceTable:
        origin = f"{encoder.sha256} {'pooled' if method.pools_text else 'tokens'}"
        return embed_pieces(pieces, lambda some: network.freeze(encoder, some), out / "resume", origin=origin)

    with fabric.rank_zero_first():
        train_set, val_set, table = read_examples(
            data, cut=network.cut, embed=embed, queries=settings.queries, seed=settings.seed
        )
    if len(train_set) < settings.batch * settings.accumulate or len(val_set) < 2:
        raise ConfigError(
            f"the dataset has {len(train_set)} training and {len(val_set)} validation cases with a report; "
            f"a step takes {settings.batch * settings.accumulate}, validation at least 2: "
            "lower the batch or curate more cases"
        )
    if masks is not None:
        train_set = _with_regions(train_set, data, cases, masks, labels, settings)
    if getattr(settings.model, "region_width", 0):
        train_set = replace(train_set, piece_labels=label_pieces(table, out / "resume"))
    config = CheckpointConfig(
        name=f"medfinder {out.name}",
        method=settings.method,
        model=network.settings,
        grid=settings.grid,
        labels=labels,
        text_encoder_sha256=encoder.sha256,
        token_width=width,
        is_synthetic=data.is_synthetic,
    )
    provenance = {
        "kind": "medfinder checkpoint",
        "run": run,
        "code_version": medfinder.__version__,
        "torch": torch.__version__,
        "settings": asdict(settings),
        "dataset_digest": data.digest,
        "start_digest": begun.digest if begun else None,
        "training_cases": len(train_set),
        "validation_cases": len(val_set),
    }
    if begun:
        put_weights(as_module(network), begun.weights, where=str(start))
    learner = method.learner(network, settings.objective)
    return Task(learner, network, train_set, val_set, table, settings, config, provenance)


def _with_regions(
    examples: Examples,
    data: Dataset,
    cases: Sequence[Case],
    masks: Path,
    labels: Sequence[str],
    settings: TrainSettings,
) -> Examples:
    """Add where the findings of the training cases lie."""
    image, shape = settings.model.image, settings.grid.shape
    examples = replace(examples, regions=read_regions(data, cases, masks, labels, token_shape(image, shape)))
    if not image.finding_maps:
        return examples
    return replace(examples, maps=read_regions(data, cases, masks, names_of(labels), map_shape(image, shape)))


@dataclass(frozen=True)
class _Start:
    """The checkpoint that a run begins with."""

    model: Any
    labels: tuple[str, ...]
    weights: Mapping[str, Tensor]
    digest: str


def _read_start(path: Path, settings: TrainSettings, encoder: TextEncoder) -> _Start:
    config = read_config(path)
    if config.method != settings.method:
        raise ConfigError(f"{path} was made by method {config.method}, the settings say {settings.method}")
    if config.grid != settings.grid:
        raise ConfigError(
            f"{path} is on {config.grid}, the settings expect {settings.grid}; give those of its {CONFIG}"
        )
    if config.text_encoder_sha256 != encoder.sha256:
        raise ConfigError(
            f"{path} has text encoder {config.model.text_encoder}, found {encoder.name}; give the one it was made with"
        )
    return _Start(config.model, config.labels, read_weights(path / WEIGHTS), digest_of(path))


def _run_digest(settings: TrainSettings, dataset_digest: str, encoder_sha256: str, begun: _Start | None) -> str:
    told = [asdict(settings), dataset_digest, encoder_sha256, FORMAT, *([begun.digest] if begun else [])]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _finished(out: Path, run: str, resume: bool) -> TrainSummary | None:
    """Give the summary of the same run when it has ended; refuse a folder that holds another."""
    try:
        found = json.loads((out / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not resume or not isinstance(found, dict):
        return None
    if found.get("run") != run:
        raise ConfigError(
            f"{out} holds a checkpoint of other settings, dataset or code; "
            "give another folder, or train without resuming"
        )
    if not found.get("is_finished"):
        return None
    best = found["best"]
    return TrainSummary(out, True, found["settings"]["epochs"], best["epoch"], best["figures"])


def _fit(
    task: Task,
    out: Path,
    fabric: Any,
    *,
    resume: bool,
    progress: Callable[[int, int], None] | None,
    trackers: Sequence[str],
) -> TrainSummary:
    settings, network, run = task.settings, as_module(task.network), task.provenance["run"]
    fabric.to_device(network)
    network.train()
    if settings.device.compile:
        compile_heavy_part(task.learner)
    if not fabric.is_global_zero:
        progress, trackers = None, ()
    optimizer = make_optimizer(network, settings.optimizer)
    averages = _begin_averages(network, settings.optimizer.average)
    share = (fabric.global_rank, fabric.world_size)
    order = Order(len(task.train_set), settings.batch, settings.seed, settings.accumulate, share)
    total = order.steps_per_epoch * settings.epochs
    state = RunState()
    if resume and (out / STATE).is_file():
        state = read_state(out / STATE, network, optimizer, run, averages)
    weights = sum(weight.numel() for weight in network.parameters())
    _tell(out, fabric, f"start at step {state.step} of {total}, {weights} weights, {fabric.world_size} processes")
    is_asked_to_stop = False
    clock = _Clock()
    told = task.provenance["settings"]
    with _Stop() as stop, tracked(trackers, out, run, told, state.step) as track:
        for reading in clock.watch(read_ahead(order.read(task.train_set, state.step, total))):
            batch = Batch(reading.step, reading.cases, task.train_set, task.table, settings.seed)
            hu, part = torch.from_numpy(reading.hu), 1 / settings.accumulate
            terms = compute_gradients(task.learner, hu, batch, fabric, chunk=settings.chunk, share=part)
            _require_finite(terms["loss"].item(), reading.step, out, fabric)
            state.step = reading.step + 1
            for name, value in terms.items():
                state.sums[name] = state.sums.get(name, 0.0) + value.item() / order.steps_per_epoch
            track(state.step, {f"train/{name}": value.item() for name, value in terms.items()})
            if progress is not None:
                progress(state.step, total)
            if state.step % settings.accumulate:
                continue
            sum_gradients(network, fabric)
            if settings.optimizer.clip_norm:
                torch.nn.utils.clip_grad_norm_(network.parameters(), settings.optimizer.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * learning_rate(reading.step, total, settings.optimizer)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            _move_averages(averages, network, settings.optimizer.average)
            is_epoch_end = state.step % order.steps_per_epoch == 0
            if is_epoch_end:
                with _averaged(network, averages):
                    _end_epoch(task, order, state, out, fabric, clock)
                track(state.step, {f"epoch/{name}": value for name, value in _last_row(state).items()})
            is_asked_to_stop = stop.is_asked_anywhere(fabric) and state.step < total
            if (is_epoch_end or is_asked_to_stop) and fabric.is_global_zero:
                write_state(out / STATE, network, optimizer, state, run, averages)
            if is_asked_to_stop:
                break
    fabric.barrier()
    return _end_run(task, state, out, fabric, is_finished=not is_asked_to_stop)


def _last_row(state: RunState) -> Mapping[str, float]:
    # Only the first process keeps a history.
    return state.history[-1] if state.history else {}


def _tell(out: Path, fabric: Any, line: str) -> None:
    if fabric.is_global_zero:
        log(out, line)


def _require_finite(loss: float, step: int, out: Path, fabric: Any) -> None:
    if not math.isfinite(loss):
        _tell(out, fabric, f"loss {loss} at step {step}: stopped")
        raise ConfigError(
            f"the loss became {loss} at step {step}; the last state is kept in {out / STATE}: "
            "start anew with a lower optimizer.learning_rate"
        )


def _end_epoch(task: Task, order: Order, state: RunState, out: Path, fabric: Any, clock: "_Clock") -> None:
    """Settle the norms, validate, and keep the weights if no epoch was better."""
    settings, network = task.settings, as_module(task.network)
    first = max(0, state.step - math.ceil(SETTLE_CASES / settings.batch))
    with settled_norms(network):
        for past in order.read(task.train_set, first, state.step):
            batch = Batch(past.step, past.cases, task.train_set, task.table, settings.seed)
            compute_terms(task.learner, torch.from_numpy(past.hu), batch, fabric, chunk=settings.chunk)
    sums, state.sums = state.sums, {}
    if not fabric.is_global_zero:
        return
    figures = validate(task.network, task.val_set, task.table, device=fabric.device)
    scale = {"scale": task.network.scale().item()} if hasattr(task.network, "scale") else {}
    row = {"epoch": state.step // order.steps_per_epoch, **sums, **scale, **figures}
    state.history.append(row)
    write_history(out, state.history)
    log(out, " ".join(f"{key} {value:.4g}" for key, value in row.items()) + f" {clock.end_epoch()}")
    if state.best() is row:
        best = {"epoch": row["epoch"], "figures": figures}
        told = {**task.provenance, "is_finished": False, "best": best}
        save_checkpoint(out, task.config, network.state_dict(), provenance=told)


def _end_run(task: Task, state: RunState, out: Path, fabric: Any, *, is_finished: bool) -> TrainSummary:
    best = state.best()
    figures = {} if best is None else {key: best[key] for key in ("text_to_image_R@10", "image_to_text_R@10")}
    epoch = 0 if best is None else int(best["epoch"])
    summary = TrainSummary(out, is_finished, len(state.history), epoch, figures)
    if not is_finished:
        _tell(out, fabric, f"asked to stop after step {state.step}; run again to go on")
    elif fabric.is_global_zero:
        told = {**task.provenance, "is_finished": True, "best": {"epoch": epoch, "figures": figures}}
        save_checkpoint(out, task.config, read_weights(out / WEIGHTS), provenance=told)
        shutil.rmtree(out / "resume", ignore_errors=True)
        log(out, f"finished; best epoch {epoch}")
    return summary


def _begin_averages(network: nn.Module, average: float) -> dict[str, Tensor]:
    return {key: weight.detach().clone() for key, weight in network.named_parameters()} if average else {}


def _move_averages(averages: dict[str, Tensor], network: nn.Module, average: float) -> None:
    with torch.no_grad():
        for key, weight in network.named_parameters() if averages else ():
            averages[key].lerp_(weight, 1 - average)


@contextmanager
def _averaged(network: nn.Module, averages: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the network have its averaged weights meanwhile, if there are any."""
    own = {key: weight.detach().clone() for key, weight in network.named_parameters()} if averages else {}
    with torch.no_grad():
        for key, weight in network.named_parameters() if averages else ():
            weight.copy_(averages[key])
        yield
        for key, weight in network.named_parameters() if averages else ():
            weight.copy_(own[key])


class _Clock:
    """Tells how long an epoch takes, and how much of that is waiting for volumes."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._waited = 0.0

    def watch(self, readings: Iterator[Reading]) -> Iterator[Reading]:
        while True:
            before = time.monotonic()
            reading = next(readings, None)
            self._waited += time.monotonic() - before
            if reading is None:
                return
            yield reading

    def end_epoch(self) -> str:
        spent, waited = time.monotonic() - self._start, self._waited
        self._start, self._waited = time.monotonic(), 0.0
        return f"in {spent:.0f} s, {100 * waited / spent:.1f}% of it waiting for volumes"


class _Stop:
    """Turns SIGTERM and SIGINT into a wish to stop after the present step; only the main thread may do so."""

    def __init__(self) -> None:
        self._is_asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Stop":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, _number: int, _frame: object) -> None:
        self._is_asked = True

    def is_asked_anywhere(self, fabric: Any) -> bool:
        """Say whether any process was asked: all must stop after the same step."""
        if fabric.world_size == 1:
            return self._is_asked
        return bool(fabric.all_reduce(torch.tensor(float(self._is_asked)), reduce_op="sum").item())

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def build_train_settings(preset: str, values: Mapping[str, Any]) -> TrainSettings:
    """Lay values, e.g. of a TOML file, upon a named preset.

    Raises:
        ConfigError: no preset has that name, or a value does not fit.
    """
    whole = merge(read_preset(preset), values)
    method = method_of(whole.get("method", "medfinder"))
    parts: dict[str, Any] = {
        "model": build_settings(method.model, whole.pop("model", {}), where="settings.model"),
        "objective": build_settings(method.objective, whole.pop("objective", {}), where="settings.objective"),
    }
    return replace(build_settings(TrainSettings, whole), **parts)


def read_preset(name: str) -> dict[str, Any]:
    """Read a preset: what differs from the defaults of ``TrainSettings`` and of its method's own settings.

    Raises:
        ConfigError: no preset has that name.
    """
    known = {path.stem: path for path in PRESETS.glob("*.toml")}
    if name not in known:
        raise ConfigError(f"unknown preset {name!r}; known: {', '.join(sorted(known))}")
    return read_toml(known[name])
