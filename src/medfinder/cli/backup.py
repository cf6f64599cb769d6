"""A server's state and index in one archive, and back: backup, restore."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfinder.cli.face import AsJson, app, examples, print_json, progress_bar, remark, show_facts
from medfinder.cli.keys import StateFolder

if TYPE_CHECKING:
    from medfinder.app.server.backup import Manifest


@app.command(
    epilog=examples(
        "medfinder backup my-index.state my-index /backup/2026-11-22.tar.gz",
        "medfinder backup my-index.state my-index /backup/state.tar.gz --without-index",
    )
)
def backup(
    state: StateFolder,
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="Index folder; no server may have it open.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Archive to write, .tar.gz.")],
    without_index: Annotated[
        bool, typer.Option("--without-index", help="The state alone, while the server runs.")
    ] = False,
    without_database: Annotated[
        bool, typer.Option("--without-database", help="It is in PostgreSQL: pg_dump copies it, afterwards.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a server's state and index into one archive with checksums."""
    from medfinder.app.server.backup import back_up

    with progress_bar("Copying") as bar:
        made = back_up(state, None if without_index else index, out, has_database=not without_database, progress=bar)
    _show(made, as_json)
    remark(
        f"{out} holds reports, keys' digests and the keys of pseudonyms and audit log: keep it as secret as {state}."
    )
    remark("Datasets that were indexed from outside of the state are not in it; back up their folders, too.")


@app.command(
    epilog=examples(
        "medfinder restore /backup/2026-11-22.tar.gz my-index.state my-index --dry-run",
        "medfinder restore /backup/2026-11-22.tar.gz my-index.state my-index",
    )
)
def restore(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="What backup wrote.")],
    state: Annotated[Path, typer.Argument(metavar="STATE", help="Where the state is to go; nothing may be there.")],
    index: Annotated[
        Path | None, typer.Argument(metavar="INDEX", help="Where the index is to go; nothing may be there.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the archive, write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check an archive, then put the state and the index that it holds where nothing is yet."""
    from medfinder.app.server.backup import check_archive
    from medfinder.app.server.backup import restore as unpack

    with progress_bar("Reading") as bar:
        found = check_archive(archive, bar) if dry_run else unpack(archive, state, index, progress=bar)
    _show(found, as_json)
    if dry_run:
        remark("The archive is sound; nothing was written.")
        return
    remark(
        "Keys and sessions are those of that day: one that was revoked since is good again; see medfinder keys list."
    )
    if found.head:
        remark(f"To check the audit log: medfinder audit-log verify {state} --head {found.head}")


def _show(manifest: "Manifest", as_json: bool) -> None:
    facts: dict[str, Any] = {
        "medfinder": manifest.medfinder,
        "made": manifest.made,
        "schema": manifest.schema or "no database in it",
        "model": manifest.model or "no index in it",
        "audit_head": manifest.head or "nothing logged",
        "files": sum(bool(entry.sha256) for entry in manifest.entries),
        "bytes": manifest.size,
    }
    print_json(facts) if as_json else show_facts(facts)
