"""From the PACS into an index or a running server: ingest."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfinder.cli.face import AsJson, ModelPath, Server, ViewMm, app, examples, print_json, progress_bar, remark
from medfinder.errors import ConfigError
from medfinder.records import VIEW_MM, plural

if TYPE_CHECKING:
    from medfinder.app.intake import IngestSummary, Place

KeyFile = Annotated[
    Path | None, typer.Option(help="Secret key by which ids become pseudonyms; keep it away from the index.")
]
MakeKey = Annotated[bool, typer.Option("--make-key", help="Draw the key now, if there is none yet.")]
StudyMap = Annotated[
    Path | None,
    typer.Option(help="File that remembers which StudyInstanceUID a pseudonym stands for; keep it beside the key."),
]


@app.command(
    epilog=examples(
        "medfinder ingest my-index --dicomweb https://pacs.example/dicom-web --key-file ~/medfinder.key --dry-run",
        "medfinder ingest my-index --dicomweb pacs.toml --query since=2020-03-01 --query limit=100 --key-file my.key",
        "medfinder ingest --server http://127.0.0.1:8080 --dicomweb pacs.toml --query patient=12345",
    )
)
def ingest(
    index: Annotated[Path | None, typer.Argument(help="Index folder; made if it is not there.")] = None,
    dicomweb: Annotated[str, typer.Option(help="Address of a DICOMweb server, or a TOML file as for curate.")] = "",
    query: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, repeatable: since, until, patient, study, limit.")
    ] = None,
    server: Server = None,
    key_file: KeyFile = None,
    make_key: MakeKey = False,
    study_map: StudyMap = None,
    model: ModelPath = None,
    view_mm: ViewMm = VIEW_MM,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be taken.")] = False,
    as_json: AsJson = False,
) -> None:
    """Pull CT studies from a PACS into an index, de-identified on the way; run again, it takes what is new."""
    from medfinder.app.intake import ingest as run
    from medfinder.app.intake import plan_ingest, read_query
    from medfinder.sources import pacs

    if not dicomweb:
        raise ConfigError("ingest needs --dicomweb, e.g.: medfinder ingest my-index --dicomweb http://HOST/dicom-web")
    settings = read_query(query or (), pacs.read_settings(Path(dicomweb)))
    place = open_place(index, server, settings.folder, key_file, study_map, model, make_key=make_key, view_mm=view_mm)
    plan = plan_ingest(settings, place)
    if dry_run:
        _show(plan.summary, as_json, is_done=False)
        return
    with progress_bar("studies") as progress:
        summary = run(settings, place, plan, progress=progress if plan.todo else None)
    _show(summary, as_json, is_done=True)


def open_place(
    index: Path | None,
    server: str | None,
    folder: Path,
    key_file: Path | None,
    study_map: Path | None,
    model: Path | None,
    *,
    make_key: bool,
    view_mm: float = VIEW_MM,
) -> "Place":
    """Open what studies go into: an index folder, or a running server."""
    from medfinder.app.intake import open_index_folder, open_server

    if (index is None) == (server is None):
        raise ConfigError("give INDEX or --server URL, one of the two")
    if server is not None:
        if key_file or study_map or model or make_key or view_mm != VIEW_MM:
            told = "leave out --key-file, --study-map, --model and --view-mm"
            raise ConfigError(f"a server has its own key, model and settings; {told}")
        return open_server(server, folder)
    assert index is not None
    return open_index_folder(index, model, key_file, study_map, make_key=make_key, view_mm=view_mm)


def _show(summary: "IngestSummary", as_json: bool, *, is_done: bool) -> None:
    if as_json:
        print_json(asdict(summary))
        return
    todo = summary.found - summary.there
    remark(f"{plural(summary.found, 'CT study')} in the PACS, {summary.there} taken before and not grown")
    if not is_done:
        remark(f"{plural(todo, 'study')} to take, with {plural(summary.images, 'image')} as far as the PACS says")
        return
    held = f", {summary.held} held until a person has looked" if summary.held else ""
    remark(f"{plural(summary.taken, 'study')} taken: {plural(summary.cases, 'case')} searchable{held}")
    for reason, count in sorted(summary.reasons.items(), key=lambda one: (-one[1], one[0])):
        remark(f"  set aside: {count} x {reason}")
    for name, reason in summary.not_fetched.items():
        remark(f"  not fetched: {name}: {reason}; asked for again next time")
