"""From a dataset to what is handed on: release."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.face import AsJson, app, examples, print_json, progress_bar, remark
from medfinder.records import plural


@app.command(
    epilog=examples(
        "medfinder release dataset release --license cc-by-4.0 --name 'Chest CT with reports'",
        "medfinder release dataset release --dry-run",
    )
)
def release(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, made by curate.")],
    out: Annotated[Path, typer.Argument(help="Folder to make; a release that was killed goes on there.")],
    license_: Annotated[str, typer.Option("--license", help="As the hub names it, e.g. cc-by-4.0.")] = "other",
    name: Annotated[str, typer.Option(help="Title of the dataset card.")] = "CT dataset",
    uncompressed: Annotated[bool, typer.Option("--uncompressed", help="Volumes as .nii instead of .nii.gz.")] = False,
    shard: Annotated[int, typer.Option(min=1, help="Cases in one Parquet file.")] = 5000,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Put the pictures of stats beside the card; they show no reports.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Run the audits, say what would be written.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a dataset as a folder ready for the Hugging Face hub, if its audits are clean."""
    from medfinder.curation.dataset import Dataset
    from medfinder.curation.release import ReleaseSettings
    from medfinder.curation.release import release as run

    opened = Dataset.open(dataset)
    settings = ReleaseSettings(name=name, license=license_, compress=not uncompressed, shard_cases=shard)
    # A dry run has nothing to move a bar with.
    with nullcontext() if dry_run else progress_bar("releasing") as progress:
        summary = run(
            opened,
            out,
            settings,
            pictures=_draw(dataset) if pictures else None,
            dry_run=dry_run,
            progress=progress,
        )
    for sentence in summary.remarks:
        remark(sentence)
    if as_json:
        print_json({"out": str(out), **asdict(summary)})
        return
    told = {"written": "wrote", "complete": "was there already:", "dry run": "would write"}[summary.state]
    splits = ", ".join(f"{split} {count}" for split, count in summary.splits.items())
    remark(f"{told} {plural(len(summary.files), 'file')} in {out}: {plural(summary.cases, 'case')} ({splits})")


def _draw(dataset: Path) -> dict[str, str]:
    from medfinder.app.figures import draw_figures
    from medfinder.curation.statistics import describe_folder

    return draw_figures(describe_folder(dataset))
