"""Training: a dataset folder to a checkpoint folder, in one straight loop.

In: a dataset (DESIGN.md) with cases in ``train`` and ``val``, settings. Out: a checkpoint folder with the weights of
the epoch that ranked the validation cases best. Killed at any moment and run again, it goes on where it was and ends in
the same weights on a CPU. Refused: a dataset on another grid, too small for a batch; a loss that is not finite.
"""

import csv
import hashlib
import json
import math
import queue
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import medfinder
from medfinder.config import build_settings, merge
from medfinder.curation.dataset import Dataset
from medfinder.errors import CheckpointError, ConfigError
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
    write_weights,
)
from medfinder.models.image_encoder import token_shape
from medfinder.models.labels import ShortQuery, choose_labels, draw_query, label_targets, labels_of
from medfinder.models.losses import contrastive_loss, label_loss, region_loss
from medfinder.models.medfinder import MedFinder, ModelSettings
from medfinder.models.regions import read_regions
from medfinder.models.text_encoders import TextEncoder, load_text_encoder
from medfinder.models.text_head import batch_sentences
from medfinder.models.texts import SentenceTable, embed_sentences, sentences_of
from medfinder.records import Case, Finding
from medfinder.volume import Grid

STATE = "resume/state.safetensors"
SETTLE_CASES = 256  # ours: enough for a mean, and 2% of the time of an epoch of 2,600 cases
FORMAT = 1  # of the state file and the order of random draws


@dataclass(frozen=True)
class TrainSettings:
    """How the model is trained. Defaults: ours; docs/model_card.md says what was tried.

    Attributes:
        grid: that the dataset must have.
        epochs: passes over the training cases.
        batch: volumes a step.
        extra_texts: reports of other cases that each image is told apart from, besides those of the batch.
        learning_rate: its peak, after the warm-up.
        warm_up: share of the steps in which the learning rate rises.
        label_weight: of the supervised term on the findings; 0 leaves it out.
        query_weight: of the contrastive term with short queries made of the case's findings; 0 leaves it out.
        region_weight: of the supervised term on where findings lie, if the dataset's masks are given.
        whole_report: share of the steps' texts that are whole reports; the others are a run of their sentences.
        label_cases: a finding with its attribute becomes a label when this many training cases have it.
        shift_voxels: volumes are moved by up to so many voxels on each axis.
        gain: volumes are multiplied by 1 +- this, spread evenly.
        offset_hu: ... and moved by +- this.
        noise_hu: standard deviation of added noise, at most.
        queries: short queries drawn for each training case.
        threads: that torch uses; 0 leaves its own choice. Resuming gives the same bytes on the same number only.
        seed: of everything random.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    grid: Grid = field(default_factory=Grid)
    epochs: int = 20
    batch: int = 32
    extra_texts: int = 96
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05
    clip_norm: float = 1.0
    label_weight: float = 1.0
    query_weight: float = 0.5
    region_weight: float = 1.0
    whole_report: float = 0.5
    label_cases: int = 8
    shift_voxels: int = 2
    gain: float = 0.04
    offset_hu: float = 15.0
    noise_hu: float = 25.0
    queries: int = 4
    threads: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Examples:
    """Cases as training reads them.

    Attributes:
        hu: gives the int16 volume of a case.
        sentences: numbers of each report's sentences in the sentence table.
        groups: cases with the same number are of one study or have one report text.
        findings: of each case.
        queries: for each case some short queries with the numbers of their sentences; may be empty.
        regions: for each case the (token, label) pairs where a finding's mask touches the token; None when unknown.
    """

    hu: Callable[[int], np.ndarray]
    sentences: Sequence[tuple[int, ...]]
    groups: np.ndarray
    findings: Sequence[tuple[Finding, ...]]
    queries: Sequence[Sequence[tuple[ShortQuery, tuple[int, ...]]]]
    regions: Sequence[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.sentences)


def _augmented(hu: Tensor, settings: TrainSettings, rng: np.random.Generator) -> Tensor:
    """Change gain, offset and noise of HU (n, x, y, z). Never flipped: left must stay left."""
    n = len(hu)
    shape = (n, 1, 1, 1)
    gain = torch.from_numpy(rng.uniform(1 - settings.gain, 1 + settings.gain, shape).astype(np.float32))
    offset = torch.from_numpy(rng.uniform(-settings.offset_hu, settings.offset_hu, shape).astype(np.float32))
    sigma = torch.from_numpy(rng.uniform(0, settings.noise_hu, shape).astype(np.float32))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    noise = torch.randn(hu.shape, generator=generator)
    return (hu.float() + 1000.0) * gain - 1000.0 + offset + noise * sigma


def _shifted(hu: np.ndarray, shift: Sequence[int], pad: int = -1024) -> np.ndarray:
    """Move a volume by whole voxels; what comes in is air."""
    moved = np.full_like(hu, pad)
    to = tuple(slice(max(s, 0), n + min(s, 0)) for s, n in zip(shift, hu.shape, strict=True))
    of = tuple(slice(max(-s, 0), n + min(-s, 0)) for s, n in zip(shift, hu.shape, strict=True))
    moved[to] = hu[of]
    return moved


@dataclass(frozen=True)
class _Step:
    number: int
    cases: np.ndarray
    hu: np.ndarray


def _steps(examples: Examples, settings: TrainSettings, first: int, last: int) -> Iterator[_Step]:
    """Give the batches of steps ``first`` to ``last``; each depends on the seed and its number alone."""
    per_epoch = len(examples) // settings.batch
    for number in range(first, last):
        epoch, place = divmod(number, per_epoch)
        order = np.random.default_rng([settings.seed, 1, epoch]).permutation(len(examples))
        cases = order[place * settings.batch : (place + 1) * settings.batch]
        rng = np.random.default_rng([settings.seed, 2, number])
        shifts = rng.integers(-settings.shift_voxels, settings.shift_voxels + 1, (len(cases), 3))
        yield _Step(number, cases, np.stack([_shifted(examples.hu(c), s) for c, s in zip(cases, shifts, strict=True)]))


def _ahead(steps: Iterator[_Step], depth: int = 2) -> Iterator[_Step]:
    """Read the coming batches in a thread while the present one is used."""
    box: queue.Queue[_Step | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: _Step | BaseException | None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                box.put(item, timeout=0.2)
                return

    def read() -> None:
        try:
            for step in steps:
                put(step)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # handed to the reader's side, raised there
            put(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (item := box.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _view(sentences: tuple[int, ...], settings: TrainSettings, rng: np.random.Generator) -> tuple[int, ...]:
    """Take the whole report or a contiguous run of its sentences (METHOD.md, text sampler)."""
    if len(sentences) < 2 or rng.random() < settings.whole_report:
        return sentences
    length = int(rng.integers(1, len(sentences)))
    start = int(rng.integers(0, len(sentences) - length + 1))
    return sentences[start : start + length]


def _loss(
    model: MedFinder, step: _Step, examples: Examples, table: SentenceTable, targets: Tensor, settings: TrainSettings
) -> dict[str, Tensor]:
    """Compute the terms of the loss of one step; ``"loss"`` is their weighted sum."""
    rng = np.random.default_rng([settings.seed, 3, step.number])
    images, image_labels, token_labels = model.embed_volumes(_augmented(torch.from_numpy(step.hu), settings, rng))
    own = step.cases
    others = rng.choice(len(examples), min(settings.extra_texts, len(examples)), replace=False)
    others = others[~np.isin(examples.groups[others], examples.groups[own])]
    asked = [examples.queries[c][int(rng.integers(len(examples.queries[c])))] for c in own if examples.queries[c]]
    texts = [_view(examples.sentences[c], settings, rng) for c in own]
    texts += [examples.sentences[c] for c in others]
    texts += [sentences for _, sentences in asked]
    vectors, text_labels = model.embed_texts(batch_sentences(texts, table.tokens))
    views, rest, queries = torch.split(vectors, [len(own), len(others), len(asked)])

    scale = model.scale()
    groups = examples.groups
    same = torch.from_numpy(groups[own][:, None] == groups[own])
    text_to_image = contrastive_loss(views @ images.T * scale, same)
    beside = torch.zeros(len(own), len(others), dtype=torch.bool)
    image_to_text = contrastive_loss(images @ torch.cat([views, rest]).T * scale, torch.cat([same, beside], 1))
    terms = {"contrastive": (text_to_image + image_to_text) / 2}
    if settings.query_weight and asked:
        labels = [labels_of(examples.findings[c]) for c in own]
        fits = torch.tensor([[query.fits(case) for case in labels] for query, _ in asked])
        terms["query"] = settings.query_weight * contrastive_loss(queries @ images.T * scale, fits)
    if settings.label_weight and targets.shape[1]:
        terms["image_labels"] = settings.label_weight * label_loss(image_labels, targets[own])
        if len(others):
            whole = text_labels[len(own) : len(own) + len(others)]
            terms["text_labels"] = settings.label_weight * label_loss(whole, targets[others]) / 2
    if settings.region_weight and examples.regions is not None:
        regions = torch.zeros_like(token_labels)
        for row, case in enumerate(own):
            pairs = torch.from_numpy(examples.regions[case].astype(np.int64))
            # The volume was shifted by fewer voxels than half a token, so its tokens still fit.
            regions[row, pairs[:, 0], pairs[:, 1]] = 1.0
        terms["regions"] = settings.region_weight * region_loss(token_labels, regions)
    terms["loss"] = torch.stack(list(terms.values())).sum()
    return terms


class _Stop:
    """Turns SIGTERM and SIGINT into a wish to stop after the present step; only the main thread may do so."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Stop":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, _number: int, _frame: object) -> None:
        self.asked = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """Rise linearly during the warm-up, then fall along half a cosine to a hundredth of the peak."""
    warm_up = max(1, round(settings.warm_up * steps))
    if step < warm_up:
        return settings.learning_rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def _optimizer(model: MedFinder, settings: TrainSettings) -> torch.optim.AdamW:
    # Biases, norms, positions and the temperature are not decayed.
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)


def build_model(settings: TrainSettings, *, grid: Grid, labels: Sequence[str], token_width: int) -> MedFinder:
    """Make a model with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return MedFinder(settings.model, grid=grid, labels=labels, token_width=token_width)


def recall(scores: np.ndarray, is_right: np.ndarray, *, k: int) -> float:
    """Share of rows whose best right column is among the first k; a tie counts against us."""
    best = np.where(is_right, scores, -np.inf).max(1, keepdims=True)
    ahead = ((scores >= best) & ~is_right).sum(1)
    return float((ahead < k).mean())


@contextmanager
def settled_norms(model: MedFinder) -> Iterator[None]:
    """Measure the means and variances of the batch norms anew over what passes through the model meanwhile.

    Their running averages lag behind the weights, while what differs from case to case is small beside what all share.
    On 227 phantoms after two epochs this alone took R@10 from 11% to 20% (text to CT) and from 10% to 13%.
    """
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all that follows
    with torch.no_grad():
        yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def validate(model: MedFinder, examples: Examples, table: SentenceTable) -> dict[str, float]:
    """Rank the validation cases by whole reports, in both directions; recalls in per cent."""
    model.eval()
    images, texts = [], []
    with torch.inference_mode():
        for start in range(0, len(examples), 16):
            cases = range(start, min(start + 16, len(examples)))
            hu = np.stack([np.asarray(examples.hu(c)) for c in cases])
            images.append(model.embed_volumes(torch.from_numpy(hu))[0].numpy())
            batch = batch_sentences([examples.sentences[c] for c in cases], table.tokens)
            texts.append(model.embed_texts(batch)[0].numpy())
    model.train()
    scores = np.concatenate(texts) @ np.concatenate(images).T
    same = examples.groups[:, None] == examples.groups
    return {
        "text_to_image_R@10": 100 * recall(scores, same, k=10),
        "image_to_text_R@10": 100 * recall(scores.T, same.T, k=10),
    }


def read_examples(
    dataset: Dataset, settings: TrainSettings, encoder: TextEncoder, cache: Path
) -> tuple[Examples, Examples, SentenceTable]:
    """Read the training and validation cases that have a report, and embed every sentence of theirs once."""
    parts = [_with_report(dataset, split) for split in ("train", "val")]
    rng = np.random.default_rng([settings.seed, 4])
    names = sorted({finding.name for case in parts[0] for finding in case.findings})
    drawn = [[draw_query(case.findings, names, rng) for _ in range(settings.queries)] for case in parts[0]]
    queries = [[query for query in some if query is not None] for some in drawn]
    texts = [case.report for part in parts for case in part] + [query.text for some in queries for query in some]
    table = embed_sentences([sentence for text in texts for sentence in sentences_of(text)], encoder, cache)
    none: list[list[ShortQuery]] = [[] for _ in parts[1]]
    return _examples(dataset, parts[0], queries, table), _examples(dataset, parts[1], none, table), table


def _with_report(dataset: Dataset, split: str) -> list[Case]:
    return [case for case in dataset.select(split) if case.report and case.region == "chest"]


def _examples(
    dataset: Dataset, cases: Sequence[Case], queries: Sequence[Sequence[ShortQuery]], table: SentenceTable
) -> Examples:
    return Examples(
        hu=lambda place: dataset.volume(cases[place]),
        sentences=[table.numbers(sentences_of(case.report)) for case in cases],
        groups=_groups(cases),
        findings=[case.findings for case in cases],
        queries=[[(query, table.numbers(sentences_of(query.text))) for query in some] for some in queries],
    )


def _groups(cases: Sequence[Case]) -> np.ndarray:
    """Number the cases so that those of one study, or with one report text, share a number."""
    number: dict[str, int] = {}
    groups = []
    for place, case in enumerate(cases):
        keys = (f"study {case.study_id}", f"report {case.report}")
        group = next((number[key] for key in keys if key in number), place)
        groups.append(group)
        for key in keys:
            number.setdefault(key, group)
    return np.array(groups)


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

    Raises:
        ConfigError: the dataset does not fit the settings, ``out`` holds another run, or the loss is not finite.
    """
    data = Dataset.open(dataset)
    if data.grid != settings.grid:
        raise ConfigError(f"the dataset is on {data.grid}, the settings expect {settings.grid}; curate it on that grid")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    encoder = load_text_encoder(settings.model.text_encoder) if text_encoder is None else text_encoder
    # "clip:FOLDER" is how a user says where the weights lie; a checkpoint holds no paths.
    settings = replace(settings, model=replace(settings.model, text_encoder=encoder.name))
    if masks is None:
        settings = replace(settings, region_weight=0.0)
    begun = None if start is None else _read_start(start, settings, encoder)
    if begun is not None:
        settings = replace(settings, model=begun.model)
    run = _run_digest(settings, data.digest, encoder.sha256, begun)
    finished = _finished(out, run, resume)
    if finished is not None:
        return finished
    train_set, val_set, table = read_examples(data, settings, encoder, out / "resume")
    if len(train_set) < settings.batch or len(val_set) < 2:
        raise ConfigError(
            f"the dataset has {len(train_set)} training and {len(val_set)} validation cases with a report; "
            f"a batch takes {settings.batch}, validation at least 2: lower the batch or curate more cases"
        )
    labels = begun.labels if begun else choose_labels(train_set.findings, at_least=settings.label_cases)
    if masks is not None:
        shape = token_shape(settings.model.image, settings.grid.shape)
        regions = read_regions(data, _with_report(data, "train"), masks, labels, shape)
        train_set = replace(train_set, regions=regions)
    config = CheckpointConfig(
        name=f"medfinder {out.name}",
        model=settings.model,
        grid=settings.grid,
        labels=labels,
        text_encoder_sha256=encoder.sha256,
        token_width=encoder.width,
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
    model = build_model(settings, grid=settings.grid, labels=labels, token_width=encoder.width)
    if begun:
        put_weights(model, begun.weights, where=str(start))
    return _fit(model, train_set, val_set, table, settings, config, provenance, out, resume=resume, progress=progress)


@dataclass(frozen=True)
class _Start:
    """The checkpoint that a run begins with."""

    model: ModelSettings
    labels: tuple[str, ...]
    weights: Mapping[str, Tensor]
    digest: str


def _read_start(path: Path, settings: TrainSettings, encoder: TextEncoder) -> _Start:
    config = read_config(path)
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


@dataclass
class _State:
    """What changes while a run goes on, besides the weights."""

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)

    def best(self) -> dict[str, float] | None:
        """Give the last epoch with the highest mean recall: of equals, the one trained longer."""
        return max(reversed(self.history), key=_merit, default=None)


def _merit(row: dict[str, float]) -> float:
    return row["text_to_image_R@10"] + row["image_to_text_R@10"]


def _fit(
    model: MedFinder,
    train_set: Examples,
    val_set: Examples,
    table: SentenceTable,
    settings: TrainSettings,
    config: CheckpointConfig,
    provenance: dict[str, Any],
    out: Path,
    *,
    resume: bool,
    progress: Callable[[int, int], None] | None,
) -> TrainSummary:
    model.train()
    optimizer = _optimizer(model, settings)
    targets = torch.from_numpy(label_targets(train_set.findings, config.labels))
    per_epoch = len(train_set) // settings.batch
    total = per_epoch * settings.epochs
    state = _State()
    if resume and (out / STATE).is_file():
        state = _read_state(out / STATE, model, optimizer, provenance["run"])
    _log(out, f"start at step {state.step} of {total}, {sum(p.numel() for p in model.parameters())} weights")
    is_asked_to_stop = False
    with _Stop() as stop:
        started = time.monotonic()
        for step in _ahead(_steps(train_set, settings, state.step, total)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step.number, total, settings)
            terms = _loss(model, step, train_set, table, targets, settings)
            loss = terms["loss"].item()
            if not math.isfinite(loss):
                _log(out, f"loss {loss} at step {step.number}: stopped")
                raise ConfigError(
                    f"the loss became {loss} at step {step.number}; the last state is kept in {out / STATE}: "
                    "start anew with a lower learning_rate"
                )
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimizer.step()

            state.step = step.number + 1
            for name, value in terms.items():
                state.sums[name] = state.sums.get(name, 0.0) + value.item() / per_epoch
            if progress is not None:
                progress(state.step, total)
            is_epoch_end = state.step % per_epoch == 0
            if is_epoch_end:
                first = max(0, state.step - math.ceil(SETTLE_CASES / settings.batch))
                recent = _steps(train_set, settings, first, state.step)
                with settled_norms(model):
                    for past in recent:
                        _loss(model, past, train_set, table, targets, settings)
                figures = validate(model, val_set, table)
                row = {"epoch": state.step // per_epoch, **state.sums, "scale": model.scale().item(), **figures}
                state.history.append(row)
                state.sums = {}
                _write_history(out, state.history)
                pace = (time.monotonic() - started) / max(1, len(state.history))
                _log(out, " ".join(f"{k} {v:.4g}" for k, v in row.items()) + f" pace {pace:.0f} s an epoch")
                if state.best() is row:
                    told = {**provenance, "is_finished": False, "best": {"epoch": row["epoch"], "figures": figures}}
                    save_checkpoint(out, config, model.state_dict(), provenance=told)
            is_asked_to_stop = stop.asked and state.step < total
            if is_epoch_end or is_asked_to_stop:
                _write_state(out / STATE, model, optimizer, state, provenance["run"])
            if is_asked_to_stop:
                break
    best = state.best()
    figures = {} if best is None else {key: best[key] for key in ("text_to_image_R@10", "image_to_text_R@10")}
    epoch = 0 if best is None else int(best["epoch"])
    if is_asked_to_stop:
        _log(out, f"asked to stop after step {state.step}; run again to go on")
        return TrainSummary(out, False, len(state.history), epoch, figures)
    told = {**provenance, "is_finished": True, "best": {"epoch": epoch, "figures": figures}}
    save_checkpoint(out, config, read_weights(out / "model.safetensors"), provenance=told)
    shutil.rmtree(out / "resume", ignore_errors=True)
    _log(out, f"finished; best epoch {epoch}")
    return TrainSummary(out, True, len(state.history), epoch, figures)


def _write_state(path: Path, model: MedFinder, optimizer: torch.optim.AdamW, state: _State, run: str) -> None:
    """Write weights, moments and place of a run in one file, so that they can never disagree."""
    tensors = {f"model/{key}": tensor for key, tensor in model.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{key}": torch.as_tensor(tensor) for key, tensor in moments.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"run": run, "step": state.step, "history": state.history, "sums": state.sums}
    write_weights(path, tensors, {"state": json.dumps(told)})


def _read_state(path: Path, model: MedFinder, optimizer: torch.optim.AdamW, run: str) -> _State:
    with _open_tensors(path) as file:
        told = json.loads((file.metadata() or {}).get("state", "{}"))
    if told.get("run") != run:
        raise ConfigError(
            f"{path} is of other settings, dataset or code; give another folder, or train without resuming"
        )
    tensors = read_weights(path)
    weights = {key.removeprefix("model/"): t for key, t in tensors.items() if key.startswith("model/")}
    put_weights(model, weights, where=str(path))
    weights_in_order = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer/"):
            _, number, name = key.split("/")
            if tensor.ndim:
                # The fused step reads raw memory: moments must lie in the order of their weights.
                tensor = torch.empty_like(weights_in_order[int(number)]).copy_(tensor)
            moments.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return _State(told["step"], told["history"], told["sums"])


def _open_tensors(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated ({error}); remove it to start anew") from error


def _write_history(out: Path, history: Sequence[dict[str, float]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / "log.csv.tmp"
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in history for key in row)))
        writer.writeheader()
        writer.writerows(history)
    unfinished.replace(out / "log.csv")


def _log(out: Path, line: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "train.log").open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def build_train_settings(preset: str, values: Mapping[str, Any]) -> TrainSettings:
    """Lay values, e.g. of a TOML file, upon a named preset.

    Raises:
        ConfigError: no preset has that name, or a value does not fit.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; known: {', '.join(sorted(PRESETS))}")
    return build_settings(TrainSettings, merge(PRESETS[preset], values))


# Only what differs from the defaults of TrainSettings.
PRESETS: dict[str, dict[str, Any]] = {"medfinder": {}}
