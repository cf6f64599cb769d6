"""Nobody to be recognised: deidentify, audit-phi."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from medfinder.cli.face import (
    AsJson,
    app,
    examples,
    existing,
    plain_console,
    print_json,
    progress_bar,
    remark,
    show_dropped,
    show_facts,
)

if TYPE_CHECKING:
    from medfinder.curation.deidentify.audit import Leak

_ROWS_SHOWN = 20


@app.command(
    epilog=examples(
        "medfinder deidentify /data/pacs_export clean --key-file ~/medfinder.key --make-key",
        "medfinder deidentify /data/pacs_export clean --key-file ~/medfinder.key --dry-run",
    )
)
def deidentify(
    source: Annotated[Path, typer.Argument(help="DICOM folder as it comes.")],
    out: Annotated[Path, typer.Argument(help="Folder to make; a run that was killed goes on there.")],
    key_file: Annotated[Path, typer.Option("--key-file", help="Secret key, outside of OUT.")],
    make_key: Annotated[bool, typer.Option("--make-key", help="Draw a new key and write it to the key file.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge everything, write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """De-identify CT series: DICOM PS3.15 Basic Profile, sex and age kept, dates moved, pixels untouched."""
    from medfinder.curation.deidentify.export import deidentify_folder
    from medfinder.curation.deidentify.keys import Key

    take = Key.make if make_key else Key.read
    key = take(key_file, outside=(out, existing(source)))
    with progress_bar("de-identifying") as progress:
        done = deidentify_folder(source, out, key, dry_run=dry_run, progress=progress)
    if as_json:
        print_json(asdict(done))
        return
    show_facts({name: value for name, value in asdict(done).items() if name != "dropped"})
    show_dropped(done.dropped)
    remark("nothing was written" if dry_run else f"{done.series} series in {out}; keep the key, and keep it apart")


@app.command(
    name="audit-phi",
    epilog=examples("medfinder audit-phi dataset", "medfinder audit-phi release --json"),
)
def audit_phi(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, ours or another's.")],
    as_json: AsJson = False,
) -> None:
    """Look through a dataset for what may tell who somebody is; exit code 1 when anything is found."""
    from medfinder.curation.deidentify.audit import audit_phi as run

    with progress_bar("looking through") as progress:
        audit = run(existing(dataset), progress=progress)
    if as_json:
        print_json({**asdict(audit), "is_clean": audit.is_clean})
    else:
        show_facts({"files": audit.files, "texts": audit.texts, "leaks": len(audit.leaks), "unread": len(audit.unread)})
        _show_leaks(audit.leaks)
        for place in audit.unread:
            remark(f"not looked into: {place}")
    if not audit.is_clean:
        raise typer.Exit(1)


def _show_leaks(leaks: Sequence["Leak"]) -> None:
    if not leaks:
        return
    table = Table(title=f"{len(leaks)} found", title_justify="left")
    for column in ("where", "kind", "count"):
        table.add_column(column, overflow="fold")
    for leak in leaks[:_ROWS_SHOWN]:
        table.add_row(leak.where, leak.kind, str(leak.count))
    plain_console().print(table)
    if len(leaks) > _ROWS_SHOWN:
        remark(f"... and {len(leaks) - _ROWS_SHOWN} more; --json lists all")
