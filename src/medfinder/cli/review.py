"""The review queue: served to a browser, or counted in the terminal."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from medfinder.cli.face import AsJson, app, examples, plain_console, print_json, remark


@app.command(
    epilog=examples(
        "medfinder review dataset",
        "medfinder review dataset --port 8765",
        "medfinder review dataset --report never",
        "medfinder review dataset --list",
    )
)
def review(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, made by curate.")],
    port: Annotated[int, typer.Option(min=1024, max=65535, help="Of the page, on this machine alone.")] = 8471,
    report: Annotated[
        str, typer.Option(help="Whether readers who diagnose see the report: asked (when they ask), always or never.")
    ] = "asked",
    list_only: Annotated[bool, typer.Option("--list", help="Count what waits, and serve nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at what curation doubts, diagnose, settle what readers differ on; curate takes all of it up."""
    if list_only or as_json:
        _count(dataset, as_json)
        return
    from medfinder.app.diagnose_page import check_report_rule
    from medfinder.app.review_page import serve_review

    serve_review(dataset, port=port, report=check_report_rule(report), told=remark)


def _count(path: Path, as_json: bool) -> None:
    from medfinder.curation.dataset import Dataset
    from medfinder.curation.review import count_items, list_items, read_decisions

    rows = count_items(list_items(Dataset.open(path).all_rows(), read_decisions(path)))
    if as_json:
        print_json(rows)
        return
    table = Table("stage", "reason", "items", "undecided", "holding a case back")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    plain_console().print(table)
