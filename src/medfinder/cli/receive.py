"""From scanners and PACS that send by themselves: receive."""

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from medfinder.cli.face import ModelPath, Server, app, examples, remark
from medfinder.cli.ingest import KeyFile, MakeKey, StudyMap, open_place
from medfinder.errors import ConfigError


@app.command(
    epilog=examples(
        "medfinder receive my-index --allow CT1@192.0.2.7 --host 192.0.2.20 --key-file ~/medfinder.key",
        "medfinder receive my-index --allow ORTHANC@127.0.0.1 --quiet 60 --key-file ~/medfinder.key --make-key",
        "medfinder receive --server http://127.0.0.1:8080 --inbox /data/inbox --allow PACS@192.0.2.8",
    )
)
def receive(
    index: Annotated[Path | None, typer.Argument(help="Index folder; made if it is not there.")] = None,
    allow: Annotated[list[str] | None, typer.Option(help="AET@HOST that may send, repeatable; nobody else.")] = None,
    aet: Annotated[str, typer.Option(help="AE title that partners call.")] = "MEDFINDER",
    host: Annotated[str, typer.Option(help="To listen on; only this machine if not given.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 11112,
    inbox: Annotated[
        Path | None, typer.Option(help="Folder for what has come; it holds patients' data. INDEX.inbox if not given.")
    ] = None,
    quiet: Annotated[float, typer.Option(help="Seconds without an image after which a study is taken in.")] = 30.0,
    keep: Annotated[float, typer.Option(help="Hours that images stay after that, for late ones to join.")] = 24.0,
    max_gb: Annotated[
        float, typer.Option(help="Of the inbox; beyond it partners are told that there is no room.")
    ] = 50.0,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file: speak TLS only.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file that belongs to it.")] = None,
    tls_partners: Annotated[
        Path | None, typer.Option(help="PEM file: partners must show a certificate that it signs.")
    ] = None,
    server: Server = None,
    key_file: KeyFile = None,
    make_key: MakeKey = False,
    study_map: StudyMap = None,
    model: ModelPath = None,
) -> None:
    """Receive CT images by DICOM C-STORE, and take each study into an index once it is quiet."""
    from medfinder.app.intake import receive as run
    from medfinder.sources.receive import Partner, ReceiveSettings

    settings = ReceiveSettings(
        allow=tuple(Partner.parse(word) for word in allow or ()),
        aet=aet,
        host=host,
        port=port,
        certificate=tls_certificate,
        key=tls_key,
        partners_ca=tls_partners,
        max_gb=max_gb,
        keep_h=keep,
    )
    folder = inbox or (index.with_name(f"{index.name}.inbox") if index else None)
    if folder is None:
        raise ConfigError("receive needs --inbox FOLDER beside --server: what is acknowledged must lie somewhere")
    place = open_place(index, server, folder, key_file, study_map, model, make_key=make_key)
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    run(place, folder, settings, quiet_s=quiet, told=remark, is_over=over.is_set)
