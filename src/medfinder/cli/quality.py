"""How good CTs are, and what is wrong with them: quality."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from medfinder.cli.face import AsJson, app, examples, plain_console, print_json, progress_bar, remark

if TYPE_CHECKING:
    from medfinder.curation.quality.survey import Row


@app.command(
    epilog=examples(
        "medfinder quality chest.nii.gz",
        "medfinder quality /data/pacs_export /data/more --json",
        "medfinder quality chest.nii.gz --denoise-figure before_after.png",
    )
)
def quality(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="CT files, DICOM folders or whole sources.")],
    config: Annotated[Path | None, typer.Option(help="TOML file with quality settings.")] = None,
    min_dimension: Annotated[int | None, typer.Option(min=0, help="Fewest voxels on any axis; the paper: 96.")] = None,
    denoise_figure: Annotated[
        Path | None, typer.Option(help="Write a picture of one CT before and after denoising, and stop.")
    ] = None,
    denoise_method: Annotated[str, typer.Option(help="What that picture shows: diffusion or median.")] = "diffusion",
    as_json: AsJson = False,
) -> None:
    """Judge CTs: scale, spacing, slices, orientation, noise; a score, faults, doubts and their figures."""
    from medfinder.config import build_settings, merge, read_toml
    from medfinder.curation.quality.judge import QualitySettings
    from medfinder.curation.quality.survey import list_series, survey

    if denoise_figure is not None:
        _draw_denoising(paths, denoise_figure, denoise_method)
        return
    given: dict[str, Any] = {} if min_dimension is None else {"min_dimension": min_dimension}
    values = merge(read_toml(config) if config else {}, given)
    settings = build_settings(QualitySettings, values, where=str(config or "options"))
    series = list_series(paths)
    rows = []
    with progress_bar("judging") as progress:
        for row in survey(series, settings):
            rows.append(row)
            progress(len(rows), len(series))
    if as_json:
        print_json([row.as_plain() for row in rows])
        return
    plain_console().print(_table(rows))
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("fit", "doubtful", "unfit")}
    remark(f"{len(rows)} series: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


def _draw_denoising(paths: list[Path], out: Path, method: str) -> None:
    from medfinder.app.denoise_figure import write_denoise_figure
    from medfinder.errors import ConfigError

    if len(paths) != 1:
        raise ConfigError(f"{len(paths)} paths; --denoise-figure draws one CT")
    remark(write_denoise_figure(paths[0], out, method))


def _table(rows: "list[Row]") -> Table:
    table = Table()
    table.add_column("CT", overflow="fold")
    for column in ("verdict", "region"):
        table.add_column(column)
    table.add_column("score", justify="right")
    table.add_column("why", overflow="fold")
    for row in rows:
        why = [f"{row.reason}: {row.detail}"] if row.reason else []
        why += [f"{doubt.reason}{'' if doubt.holds else ' (to know)'}: {doubt.detail}" for doubt in row.doubts]
        is_alone = sum(one.path == row.path for one in rows) == 1
        name = row.path if is_alone else f"{row.path}\nseries {row.series_id}"
        table.add_row(name, row.verdict, row.region, f"{row.score:.2f}", "\n".join(why))
    return table
