"""The benchmark as the command line runs it: rows trained by our own training, tables written with their pictures.

In: a dataset, the names of tables and rows, a size. Out: in the output folder ``TABLE.json``, ``TABLE.md`` and
``TABLE.svg`` beside the rows. Refused: what the stages refuse.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from medfinder.app.benchmark_figure import draw_benchmark
from medfinder.curation.dataset import Dataset
from medfinder.errors import CheckpointError, ConfigError, MissingExtraError
from medfinder.evaluation.benchmark import Bench, Outcome, Progress, plan_rows, run_rows
from medfinder.evaluation.benchmark_report import benchmark_markdown, summarise
from medfinder.evaluation.rows import ROWS, TABLES, Recipe, choose_rows
from medfinder.models.protocol import DualEncoder
from medfinder.sources.files import write_whole


def tables_of(what: str) -> list[str]:
    """Return the tables that a word stands for.

    Raises:
        ConfigError: it stands for none.
    """
    if what == "all":
        return list(TABLES)
    if what not in TABLES:
        raise ConfigError(f"unknown table {what!r}; known: {', '.join(TABLES)}, all, data")
    return [what]


def read_taken(words: Sequence[str]) -> dict[str, Path]:
    """Read which checkpoint stands for which row.

    Raises:
        ConfigError: a word is no ROW=FOLDER, or the row or folder is not there.
    """
    taken = {}
    for word in words:
        row, equals, folder = word.partition("=")
        trained = [name for name, plan in ROWS.items() if plan.kind == "model" and not plan.trained_as]
        if not equals or row not in trained or not Path(folder).is_dir():
            raise ConfigError(f"--take {word}: expected ROW=FOLDER of a checkpoint; rows: {', '.join(trained)}")
        taken[row] = Path(folder)
    return taken


def plan_tables(dataset: Dataset, tables: Sequence[str], rows: str | None, bench: Bench) -> list[dict[str, Any]]:
    """Say what is done and what would be run, each row once."""
    names = dict.fromkeys(row for table in _with_rows(tables, rows) for row in choose_rows(table, rows))
    return [
        {
            "row": step.row,
            "seed": step.seed,
            "state": step.state,
            "preset": step.recipe.preset,
            "trained_as": step.trained,
            "settings": dict(step.recipe.settings),
            "reason": step.reason,
        }
        for step in plan_rows(dataset, list(names), bench)
    ]


def run_tables(
    dataset: Dataset,
    tables: Sequence[str],
    rows: str | None,
    bench: Bench,
    *,
    tell: Callable[[str], object],
) -> tuple[list[dict[str, Any]], set[str]]:
    """Run tables one after the other and write each as soon as it is known.

    Args:
        tell: is given the Markdown of each table.

    Returns:
        What the tables say, and the rows that failed.
    """
    bench.out.mkdir(parents=True, exist_ok=True)
    summaries, failed = [], set()
    known: dict[str, Outcome] = {}
    for table in _with_rows(tables, rows):
        names = choose_rows(table, rows)
        new = [row for row in names if row not in known]
        for row in new:
            known[row] = run_rows(dataset, [row], bench)
        outcome = _join([known[row] for row in names])
        summary = summarise(dataset, table, names, outcome, bench)
        markdown = benchmark_markdown(summary)
        write_whole(bench.out / f"{table}.json", (json.dumps(summary, indent=2) + "\n").encode())
        write_whole(bench.out / f"{table}.md", markdown.encode())
        write_whole(bench.out / f"{table}.svg", draw_benchmark(summary).encode())
        tell(markdown)
        summaries.append(summary)
        failed |= outcome.failed
    return summaries, failed


def _with_rows(tables: Sequence[str], rows: str | None) -> list[str]:
    """Leave out the tables that have none of the rows."""
    return [table for table in tables if choose_rows(table, rows)]


def _join(outcomes: Sequence[Outcome]) -> Outcome:
    whole = Outcome()
    for outcome in outcomes:
        whole.evaluations |= outcome.evaluations
        whole.unfinished |= outcome.unfinished
        whole.failed |= outcome.failed
    return whole


def train_row(
    dataset: Path,
    out: Path,
    preset: str,
    overrides: Mapping[str, Any],
    seed: int,
    progress: Progress,
    *,
    masks: Path | None,
) -> Path:
    """Train a row as ``medfinder train`` does.

    Raises:
        KeyboardInterrupt: it was asked to stop; its state is kept.
    """
    from medfinder.models.train import build_train_settings, train

    settings = build_train_settings(preset, {**overrides, "seed": seed})
    if not train(dataset, out, settings, masks=masks, progress=progress).is_finished:
        raise KeyboardInterrupt
    return out


def load_row(checkpoint: Path) -> DualEncoder:
    """Open a checkpoint."""
    from medfinder.models.checkpoint import load_model

    return load_model(checkpoint)


def lacking_for(recipe: Recipe) -> str | None:
    """Say why a recipe's frozen text encoder is not at hand; what else may be wrong with it, training will tell."""
    from medfinder.models.train import build_train_settings

    try:
        name = build_train_settings(recipe.preset, recipe.settings).model.text_encoder
    except ConfigError:
        return None
    return _lacking_encoder(name)


@cache
def _lacking_encoder(name: str) -> str | None:
    from medfinder.models.text_encoders import load_text_encoder

    try:
        load_text_encoder(name)
    except (CheckpointError, ConfigError, MissingExtraError) as error:
        return str(error)
    return None
