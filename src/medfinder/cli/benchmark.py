"""The paper's tables, run row by row: benchmark."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from medfinder.cli.face import (
    AsJson,
    Workers,
    app,
    examples,
    existing,
    plain_console,
    print_json,
    progress_bar,
    remark,
)
from medfinder.errors import ConfigError


@app.command(
    epilog=examples(
        "medfinder benchmark data bench --workers 2",
        "medfinder benchmark table2 --data bench/dataset --masks bench/phantoms --out runs --dry-run",
        "medfinder benchmark all --data bench/dataset --masks bench/phantoms --out runs --seeds 3",
        "medfinder benchmark table3 --data bench/dataset --out runs --rows medfinder,oracle,chance",
        "medfinder benchmark table2 --data bimcv --out runs --size paper --take medfinder=checkpoint",
    )
)
def benchmark(
    what: Annotated[
        str, typer.Argument(help="table2, table3, table4, ours or all; or data, which makes the phantoms.")
    ],
    folder: Annotated[Path | None, typer.Argument(help="Folder to make, for data only.")] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder; its test split is evaluated.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of rows and tables; what is there already is kept.")] = Path("runs"),
    seeds: Annotated[int, typer.Option(min=1, help="How often each row is trained.")] = 3,
    rows: Annotated[
        str | None, typer.Option(help="Only these rows, parted by commas; a wrong name lists them.")
    ] = None,
    size: Annotated[
        str, typer.Option(help="synthetic (small encoders for CPUs), paper (unshrunk), or a TOML file of recipes.")
    ] = "synthetic",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training split, for every row.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Phantoms folder behind DATA: rows that can learn where findings lie do.")
    ] = None,
    take: Annotated[
        list[str] | None, typer.Option(help="ROW=CHECKPOINT: evaluate that instead of training; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is done and what would be run.")] = False,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Run the paper's tables: train or take each row, evaluate it, print it beside chance and the paper's numbers."""
    from medfinder.app.benchmark import (
        lacking_for,
        load_row,
        plan_tables,
        read_taken,
        run_tables,
        tables_of,
        train_row,
    )
    from medfinder.curation.dataset import Dataset
    from medfinder.evaluation.benchmark import Bench
    from medfinder.evaluation.benchmark_data import make_benchmark_data
    from medfinder.evaluation.rows import read_size

    if what == "data":
        if folder is None:
            raise ConfigError("benchmark data needs a folder, e.g.: medfinder benchmark data bench")
        studies = make_benchmark_data(folder, read_size(size), workers=workers, bar=progress_bar)
        remark(f"studies in {folder / 'dataset'}: " + ", ".join(f"{n} {name}" for name, n in sorted(studies.items())))
        return
    tables = tables_of(what)
    if folder is not None or data is None:
        raise ConfigError(f"give the dataset by --data, e.g.: medfinder benchmark {what} --data bench/dataset")
    bench = Bench(
        out=out,
        size=read_size(size),
        size_name=size,
        train=train_row,
        load=load_row,
        lacking=lacking_for,
        bar=progress_bar,
        say=remark,
        seeds=seeds,
        epochs=epochs,
        masks=existing(masks) if masks else None,
        taken=read_taken(take or []),
    )
    opened = Dataset.open(data)
    if dry_run:
        steps = plan_tables(opened, tables, rows, bench)
        print_json(steps) if as_json else _show_plan(steps)
        return
    tell = (lambda _: None) if as_json else sys.stdout.write
    summaries, failed = run_tables(opened, tables, rows, bench, tell=tell)
    if as_json:
        print_json(summaries)
    remark(f"tables as Markdown, JSON and SVG in {out}")
    if failed:
        remark(f"failed: {', '.join(sorted(failed))}; run the same command again to try these once more")
        raise typer.Exit(1)


def _show_plan(steps: Sequence[Mapping[str, Any]]) -> None:
    table = Table()
    columns = ("row", "seed", "state", "preset", "trained_as")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for step in steps:
        table.add_row(*(str(step[column]) for column in columns))
    plain_console().print(table)
    for row, reason in {step["row"]: step["reason"] for step in steps if step["reason"]}.items():
        remark(f"{row}: {reason}")
    remark("--json shows the settings of each row")
