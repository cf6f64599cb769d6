"""Whether images and reports belong together: pairing."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfinder.cli.face import AsJson, app, examples, plain_console, print_json, progress_bar, remark

if TYPE_CHECKING:
    from medfinder.curation.pairing import PairingAudit

# As grep and diff have it: 0 nothing found, 1 something found, 2 it could not be done.
FOUND = 1


@app.command(
    epilog=examples(
        "medfinder pairing curated_ct_report_path_En.csv",
        "medfinder pairing curated_pos.csv curated_neg.csv --out pairing.md",
        "medfinder pairing /data/bimcv_covid19 --json",
    )
)
def pairing(
    sources: Annotated[list[Path], typer.Argument(help="Tables of reports (CSV/TSV), or one SOURCE as curate has it.")],
    table: Annotated[Path | None, typer.Option(help="Report table of a SOURCE that brings none.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with pairing settings.")] = None,
    names_only: Annotated[bool, typer.Option("--names-only", help="Compare whose they are; read no report.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the summary here, too (Markdown).")] = None,
    as_json: AsJson = False,
) -> None:
    """Audit whether images and reports belong together. Exit code 1: mispaired ones were found."""
    from medfinder.config import build_settings, read_toml
    from medfinder.curation.pairing import PairingSettings, write_summary
    from medfinder.curation.pairing_table import audit
    from medfinder.sources.files import write_whole

    settings = build_settings(PairingSettings, read_toml(config) if config else {}, where=str(config))
    with progress_bar("auditing") as progress:
        found = audit(sources, settings, table=table, with_texts=not names_only, progress=progress)
    if out is not None:
        write_whole(out, write_summary(found).encode())
        remark(f"summary written to {out}")
    if as_json:
        print_json(asdict(found))
    else:
        _show(found)
    if not found.is_clean:
        raise typer.Exit(FOUND)


def _show(found: "PairingAudit") -> None:
    from rich.panel import Panel
    from rich.table import Table

    from medfinder.curation.pairing import tell_details, tell_verdict

    console = plain_console()
    style = "bold red" if found.mispaired else "bold yellow" if found.held or not found.comparable else "bold green"
    table = Table(box=None)
    for title in ("part", found.unit, "comparable", "mispaired", "share"):
        table.add_column(title, justify="left" if title == "part" else "right", overflow="fold")
    for part in found.parts:
        table.add_row(part.part, *(f"{n:,}" for n in (part.audited, part.comparable, part.mispaired)), part.share)
    console.print(table)
    for line in tell_details(found):
        console.print(f"- {line}", soft_wrap=True)
    # Last, where the eye rests when the command has ended.
    console.print(Panel(tell_verdict(found), style=style, expand=True))
