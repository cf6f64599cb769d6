"""The benchmark's runner: each row of a table trained, evaluated and stored, one after the other.

In: a dataset, a table, recipes, a function that trains. Out: a folder with ``rows/ROW/seedN/`` (``checkpoint/``,
``result.json``, ``answers.npz``), written as soon as each is known. Killed at any moment and run again, it goes on with
the row, and the step of training, where it was. A row that fails is told, and the others go on. Refused: a folder in
which a row was made by another recipe or on another dataset.
"""

import hashlib
import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from medfinder.curation.dataset import Dataset
from medfinder.errors import ConfigError, DatasetError, MedFinderError
from medfinder.evaluation.answers import Answers
from medfinder.evaluation.evaluate import Evaluation, evaluate_fully, measure
from medfinder.evaluation.oracle import evaluate_oracle
from medfinder.evaluation.rows import ROWS, Recipe, Size, recipe_of
from medfinder.evaluation.scorers import REGIONS, Scorer, embed_regions, embed_slices
from medfinder.evaluation.significance import SAMPLES
from medfinder.evaluation.store import read_evaluation, write_evaluation
from medfinder.evaluation.trial import set_trial
from medfinder.models.protocol import DualEncoder

Progress = Callable[[int, int], None]
Bar = Callable[[str], AbstractContextManager[Progress]]

SPLIT = "test"


class TrainRow(Protocol):
    """Trains one row; called again for what was killed, it goes on there.

    It raises KeyboardInterrupt when it was told to stop.
    """

    def __call__(
        self,
        dataset: Path,
        out: Path,
        preset: str,
        overrides: Mapping[str, Any],
        seed: int,
        progress: Progress,
        *,
        masks: Path | None,
    ) -> Path:
        """Return the folder of the finished checkpoint, which is ``out`` or lies in it."""
        ...


@dataclass(frozen=True)
class Bench:
    """What a benchmark is run with.

    Attributes:
        out: folder of the results.
        size: the recipes.
        size_name: how they are called, for the report.
        train: trains a row.
        load: opens a checkpoint.
        lacking: says what a recipe needs that is not at hand; None when nothing.
        bar: shows the progress of one step.
        say: tells the user something.
        seeds: how often each row is trained.
        epochs: overrules the recipes'.
        masks: of the phantoms that the dataset was curated from.
        taken: finished checkpoints by row, taken instead of training.
        draws: of patients, behind each interval and p value.
    """

    out: Path
    size: Size
    size_name: str
    train: TrainRow
    load: Callable[[Path], DualEncoder]
    lacking: Callable[[Recipe], str | None]
    bar: Bar
    say: Callable[[str], None]
    seeds: int = 3
    epochs: int | None = None
    masks: Path | None = None
    taken: Mapping[str, Path] = field(default_factory=dict)
    draws: int = SAMPLES


@dataclass(frozen=True)
class Step:
    """One row with one seed.

    Attributes:
        state: ``"done"``, ``"to do"`` or ``"not run"``.
        reason: why it is not run.
        folder: where its result lies.
        trained: row that it is trained as; empty where nothing is.
        made_by: what makes its result what it is; a stored one made otherwise is refused.
    """

    row: str
    seed: int
    state: str
    folder: Path
    trained: str = ""
    recipe: Recipe = field(default_factory=Recipe)
    made_by: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass
class Outcome:
    """What became of the rows.

    Attributes:
        evaluations: of each row, one a seed; rows that are chance are absent.
        unfinished: why a row has not all its seeds: it failed or was not run.
        failed: rows that failed.
    """

    evaluations: dict[str, list[Evaluation]] = field(default_factory=dict)
    unfinished: dict[str, str] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    def answers(self, row: str) -> list[Answers]:
        """Return what each query got, once a seed."""
        return [evaluation.answers for evaluation in self.evaluations.get(row, [])]


def plan_rows(dataset: Dataset, rows: Sequence[str], bench: Bench) -> list[Step]:
    """Say for each row and seed whether it is done, is to do, or cannot be run, and why.

    Raises:
        ConfigError: a row in the folder was made by another recipe or on another dataset.
    """
    steps = []
    for row in rows:
        if ROWS[row].kind == "chance":
            continue
        is_once = ROWS[row].kind == "oracle" or _source(row, bench) in bench.taken
        steps += [_plan(dataset, row, seed, bench) for seed in range(1 if is_once else bench.seeds)]
    return steps


def run_rows(dataset: Dataset, rows: Sequence[str], bench: Bench) -> Outcome:
    """Train and evaluate the rows that are not done yet, and read the others.

    Raises:
        ConfigError: a row in the folder was made by another recipe or on another dataset.
    """
    outcome = Outcome()
    broken: dict[tuple[str, int], str] = {}
    for step in plan_rows(dataset, rows, bench):
        reason = step.reason or broken.get((step.trained, step.seed), "")
        if not reason:
            try:
                found = read_evaluation(step.folder) if step.state == "done" else _run(dataset, step, bench)
                outcome.evaluations.setdefault(step.row, []).append(found)
                continue
            except Exception as error:  # one row, whatever its fault, must not stop a night's others
                reason = _tell_failure(step, error, bench)
                broken[step.trained or step.row, step.seed] = reason
        if step.state != "not run":
            outcome.failed.add(step.row)
        outcome.unfinished.setdefault(step.row, reason)
    return outcome


def _source(row: str, bench: Bench) -> str:
    """Name the row whose checkpoint serves."""
    return row if row in bench.taken else recipe_of(bench.size, row)[0] if ROWS[row].kind == "model" else row


def _plan(dataset: Dataset, row: str, seed: int, bench: Bench) -> Step:
    folder = bench.out / "rows" / row / f"seed{seed}"
    made_by: dict[str, Any] = {"dataset": dataset.digest, "split": SPLIT, "row": row}
    if ROWS[row].kind == "oracle":
        return _judge(Step(row, seed, "to do", folder, made_by=made_by), bench)
    trained = _source(row, bench)
    made_by |= {"seed": seed, "scoring": ROWS[row].scoring}
    if trained in bench.taken:
        made_by["taken"] = _digest_folder(bench.taken[trained])
        return _judge(Step(row, seed, "to do", folder, trained, made_by=made_by), bench)
    _, recipe = recipe_of(bench.size, row, epochs=bench.epochs)
    has_masks = recipe.masks and bench.masks is not None
    made_by |= {"preset": recipe.preset, "settings": dict(recipe.settings), "masks": has_masks}
    return _judge(Step(row, seed, "to do", folder, trained, recipe, made_by), bench)


def _judge(step: Step, bench: Bench) -> Step:
    """Look whether a step is done."""
    try:
        made_by = read_evaluation(step.folder).result.get("made_by")
    except DatasetError:
        # Nothing there, or cut short: it is evaluated again.
        lacking = bench.lacking(step.recipe) if step.recipe.preset else None
        return step if lacking is None else replace(step, state="not run", reason=lacking)
    if made_by != json.loads(json.dumps(dict(step.made_by))):
        differing = sorted(key for key in {*step.made_by, *(made_by or {})} if _differs(key, step.made_by, made_by))
        raise ConfigError(
            f"{step.folder} was made with another {', '.join(differing)}; give another folder with --out, or remove it"
        )
    return replace(step, state="done")


def _digest_folder(checkpoint: Path) -> str:
    """Tell one checkpoint from another, and from itself when it was trained on."""
    whole = hashlib.sha256()
    for file in sorted(checkpoint.glob("*.safetensors")) + sorted(checkpoint.glob("config.json")):
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def _differs(key: str, one: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    return bool(json.dumps(one.get(key), sort_keys=True) != json.dumps((other or {}).get(key), sort_keys=True))


def _run(dataset: Dataset, step: Step, bench: Bench) -> Evaluation:
    title = f"{step.row}, seed {step.seed}"
    if ROWS[step.row].kind == "oracle":
        found = evaluate_oracle(dataset, SPLIT, bootstrap=bench.draws)
    else:
        checkpoint = bench.taken.get(step.trained) or _train(dataset, step, bench, title)
        with bench.bar(f"evaluating {title}") as progress:
            found = _evaluate(dataset, bench.load(checkpoint), step, bench, progress)
    found.result["made_by"] = dict(step.made_by)
    write_evaluation(step.folder, found)
    (step.folder / "failed.txt").unlink(missing_ok=True)
    return found


def _train(dataset: Dataset, step: Step, bench: Bench, title: str) -> Path:
    out = bench.out / "rows" / step.trained / f"seed{step.seed}" / "checkpoint"
    out.parent.mkdir(parents=True, exist_ok=True)
    masks = bench.masks if step.recipe.masks else None
    with bench.bar(f"training {title}") as progress:
        return bench.train(
            dataset.path, out, step.recipe.preset, step.recipe.settings, step.seed, progress, masks=masks
        )


def _evaluate(dataset: Dataset, model: DualEncoder, step: Step, bench: Bench, progress: Progress) -> Evaluation:
    rule = ROWS[step.row].scoring
    if not rule:
        return evaluate_fully(dataset, model, SPLIT, bootstrap=bench.draws, progress=progress)
    trial = set_trial(dataset.select(SPLIT), SPLIT)
    scorer: Scorer
    if rule == REGIONS:
        scorer = embed_regions(dataset, model, trial, progress=progress)
    else:
        scorer = embed_slices(dataset, model, trial, rule=rule, progress=progress)
    return measure(trial, scorer, dataset=dataset.digest, split=SPLIT, bootstrap=bench.draws)


def _tell_failure(step: Step, error: Exception, bench: Bench) -> str:
    """Keep what went wrong beside the row and say it in one line."""
    step.folder.mkdir(parents=True, exist_ok=True)
    (step.folder / "failed.txt").write_text(traceback.format_exc(), encoding="utf-8")
    told = str(error) if isinstance(error, MedFinderError) else f"{type(error).__name__}: {error}"
    reason = " ".join(told.split())
    bench.say(f"{step.row}, seed {step.seed} failed: {reason}")
    return reason
