"""What a dataset holds, as tables and pictures: stats."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.face import AsJson, app, examples, print_json, progress_bar, remark
from medfinder.records import plural


@app.command(
    epilog=examples(
        "medfinder stats dataset", "medfinder stats dataset statistics --cards 8", "medfinder stats dataset --json"
    )
)
def stats(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[
        Path | None, typer.Argument(help="Folder for tables, pictures and a page; without it tables are printed.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many findings tables and pictures list.")] = 30,
    cards: Annotated[int, typer.Option(min=0, help="How many sample cards; they show reports.")] = 6,
    as_json: AsJson = False,
) -> None:
    """Print the paper's table 1 and more about a dataset; write it with pictures where OUT is given."""
    from medfinder.curation.dataset import Dataset
    from medfinder.curation.statistics import describe, statistics_text

    opened = Dataset.open(dataset)
    if out is None:
        description = describe(opened)
    else:
        from medfinder.app.statistics_page import write_statistics

        with progress_bar("sample cards") as progress:
            written = write_statistics(opened, out, top=top, cards=cards, progress=progress)
        description = dict(written.description)
        for trouble in written.troubles:
            remark(trouble)
    if as_json:
        print_json(description)
    else:
        sys.stdout.write(statistics_text(description, top=top))
    if out is not None:
        remark(f"wrote {plural(len(written.files), 'file')} to {out}; open {out / 'statistics.html'}")
