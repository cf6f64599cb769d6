"""The search service: an index served to browsers and programs."""

from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.face import IndexUrl, ModelPath, app, examples, remark


@app.command(
    epilog=examples(
        "medfinder serve my-index",
        "medfinder serve my-index --port 9000 --limit upload_mb=500 --limit ingest_s=1200",
        "medfinder serve my-index --host 0.0.0.0 --tls-certificate server.crt --tls-key server.key",
        "medfinder serve my-index --dicomweb pacs.toml",
        "medfinder serve my-index --viewer-link 'https://pacs.example/viewer?StudyInstanceUIDs={StudyInstanceUID}'",
    )
)
def serve(
    index: Annotated[Path, typer.Argument(help="Index folder.")],
    model: ModelPath = None,
    host: Annotated[str, typer.Option(help="To listen on; beyond this machine only once keys exist.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    index_url: IndexUrl = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder for uploads, jobs, keys and notes; INDEX.state if not given.")
    ] = None,
    database: Annotated[
        str | None, typer.Option(help="postgresql://... for what users keep; a file in the state folder if not given.")
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER, as often as needed, e.g. upload_mb=500.")
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file: serve https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file that belongs to it.")] = None,
    dicomweb: Annotated[
        str | None, typer.Option(help="PACS whose studies may be searched with: address, or a TOML file as for curate.")
    ] = None,
    viewer_link: Annotated[
        str | None, typer.Option(help="Address of the PACS's viewer, with {StudyInstanceUID}: hits link to it.")
    ] = None,
    study_map: Annotated[
        Path | None, typer.Option(help="As ingest wrote it, for these links; STATE/studies.jsonl if not given.")
    ] = None,
) -> None:
    """Serve an index: a web page to search with, and the same over HTTP for programs."""
    from medfinder.app.server.run import Archive, Listening
    from medfinder.app.server.run import serve as run
    from medfinder.app.server.settings import read_limits
    from medfinder.sources import pacs

    limits = read_limits(limit or [])
    listening = Listening(host, port, tls_certificate, tls_key)
    archive = Archive(pacs.read_settings(Path(dicomweb)) if dicomweb else None, viewer_link, study_map)
    folder = state or index.with_name(f"{index.name}.state")
    run(
        index,
        model,
        listening=listening,
        archive=archive,
        folder=folder,
        state=database,
        limits=limits,
        told=remark,
        index_url=index_url,
    )
