"""Which series of each study would be read, and why: series."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from medfinder.cli.face import (
    AsJson,
    SourceKind,
    app,
    examples,
    plain_console,
    print_json,
    progress_bar,
    remark,
    show_dropped,
)
from medfinder.records import Dropped, Study

if TYPE_CHECKING:
    from medfinder.curation.series import Candidate


@app.command(
    epilog=examples(
        "medfinder series /data/covid19_posi",
        "medfinder series /data/pacs_export --no-voxels",
        "medfinder series /data/pacs_export --per-study 2 --json",
    )
)
def series(
    source: Annotated[Path, typer.Argument(help="Raw examinations, as curate takes them.")],
    kind: SourceKind = "auto",
    voxels: Annotated[
        bool, typer.Option("--voxels/--no-voxels", help="Read the best candidates, or rank by headers alone.")
    ] = True,
    per_study: Annotated[int, typer.Option(min=1, help="How many series of a study to choose at most.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Show the series of every study: score, choice and reason."""
    from medfinder.curation.series import SelectionSettings, as_row, rank_or_choose, read_look
    from medfinder.records import plural
    from medfinder.sources import find_reader, find_source

    settings = SelectionSettings(series_per_study=per_study)
    entries = list(find_reader(find_source(source) if kind == "auto" else kind)(source))
    studies = [entry for entry in entries if isinstance(entry, Study)]
    ranked = []
    with progress_bar("choosing") as progress:
        for one in rank_or_choose(studies, settings, look=read_look if voxels else None):
            ranked.append(one)
            progress(len(ranked), len(studies))
    if as_json:
        print_json([as_row(study, candidate) for study, candidates in ranked for candidate in candidates])
        return
    for study, candidates in ranked:
        plain_console().print(_table(study, candidates))
    chosen = sum(candidate.is_chosen for _, candidates in ranked for candidate in candidates)
    counted = sum(len(study.series) for study in studies)
    remark(f"{plural(len(studies), 'study')}, {counted} series, {chosen} chosen")
    show_dropped([entry for entry in entries if isinstance(entry, Dropped)])


def _table(study: Study, candidates: "tuple[Candidate, ...]") -> Table:
    table = Table(title=f"study {study.study_id}", title_justify="left")
    table.add_column("series")
    table.add_column("score", justify="right")
    for column in ("choice", "detail"):
        table.add_column(column, overflow="fold")
    for one in candidates:
        choice = "chosen" if one.is_chosen else one.reason or "in the running"
        table.add_row(one.series.series_id, f"{one.score:.2f}", choice, one.detail)
    return table
