"""Who may use the server, and what they did: keys, audit-log, upgrade-state."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from medfinder.cli.face import AsJson, app, examples, plain_console, print_json, remark
from medfinder.errors import ConfigError

if TYPE_CHECKING:
    from medfinder.app.server.schema import Key

StateFolder = Annotated[
    Path,
    typer.Argument(metavar="STATE", help="Folder of the server's state; MEDFINDER_DATABASE_URL may move its data."),
]
_BY = "command-line"

_keys = typer.Typer(help="Make, list and revoke keys to the server.", no_args_is_help=True)
_log = typer.Typer(help="Check the server's audit log.", no_args_is_help=True)
app.add_typer(_keys, name="keys")
app.add_typer(_log, name="audit-log")


@_keys.command(
    epilog=examples(
        "medfinder keys add state 'ward 3'",
        "medfinder keys add state 'Dr. Roentgen' --role curator --days 365",
        "medfinder keys add state admin --role admin > admin.key",
    )
)
def add(
    state: StateFolder,
    holder: Annotated[str, typer.Argument(help="Who gets it; the same name sees the same collections.")],
    role: Annotated[str, typer.Option(help="viewer, curator or admin.")] = "viewer",
    days: Annotated[float | None, typer.Option(help="After which it is good for nothing.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once."""
    from medfinder.app.server.access import add_key
    from medfinder.app.server.audit import open_audit
    from medfinder.app.server.state import open_state

    opened = open_state(state)
    log = open_audit(opened, state)
    kept, plain = add_key(opened, holder, role, days=days)
    log.write(_BY, "keys add", result=kept.id)
    if as_json:
        print_json({**_facts(kept), "key": plain})
        return
    remark(f"key {kept.id} for {kept.holder}, {kept.role}; it is printed this once:")
    sys.stdout.write(f"{plain}\n")


@_keys.command("list", epilog=examples("medfinder keys list state", "medfinder keys list state --json"))
def list_keys(state: StateFolder, as_json: AsJson = False) -> None:
    """List every key that was ever made, without its secret."""
    from medfinder.app.server.state import open_state

    rows = [_facts(key) for key in open_state(state, must_exist=True).list_keys()]
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("id", "holder", "role", "made", "expires", "revoked"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(value or "" for value in row.values()))
    plain_console().print(table)


@_keys.command(epilog=examples("medfinder keys revoke state 3f9a0c61b2d4"))
def revoke(
    state: StateFolder,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Of the key, as keys list shows it.")],
) -> None:
    """End a key and its sessions, at once, on every server that shares the state."""
    from medfinder.app.server.audit import open_audit
    from medfinder.app.server.state import open_state

    opened = open_state(state, must_exist=True)
    log = open_audit(opened, state)
    if not opened.revoke_key(key_id):
        raise ConfigError(f"no key {key_id!r} is in use; see medfinder keys list {state}")
    log.write(_BY, "keys revoke", result=key_id)
    remark(f"key {key_id} is revoked")


@_log.command(
    epilog=examples(
        "medfinder audit-log verify state", "medfinder audit-log verify state --head $(cat kept.head) --json"
    )
)
def verify(
    state: StateFolder,
    head: Annotated[str | None, typer.Option(help="What audit-log head printed some time ago.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look for rows that were changed, left out or cut off; exit code 1 if there are any."""
    from medfinder.app.server.audit import Head, open_audit
    from medfinder.app.server.state import open_state

    kept = None if head is None else Head.parse(head)
    verdict = open_audit(open_state(state, must_exist=True), state).verify(kept)
    if as_json:
        print_json({**asdict(verdict), "head": str(verdict.head or ""), "is_sound": verdict.is_sound})
    else:
        for fault in verdict.faults:
            plain_console().print(f"{fault.kind}: {fault.detail}", soft_wrap=True)
        plain_console().print(f"{verdict.rows} rows, {verdict.n_faults} faults", soft_wrap=True)
    if not verdict.is_sound:
        raise typer.Exit(1)


@_log.command("head", epilog=examples("medfinder audit-log head state > kept.head"))
def print_head(state: StateFolder) -> None:
    """Print how far the log goes: kept elsewhere, it proves later that nothing before it was changed."""
    from medfinder.app.server.audit import open_audit
    from medfinder.app.server.state import open_state

    head = open_audit(open_state(state, must_exist=True), state).head()
    if head is None:
        raise ConfigError(f"the audit log of {state} is empty; there is no head yet")
    sys.stdout.write(f"{head}\n")


@app.command("upgrade-state", epilog=examples("medfinder upgrade-state state"))
def upgrade_state(state: StateFolder) -> None:
    """Bring a state that an older medfinder made to this version; make a copy of it first."""
    from medfinder.app.server.database import upgrade_database

    was, now = upgrade_database(state)
    remark(f"the state has schema {now}" + ("" if was == now else f"; it had {was}"))


def _facts(key: "Key") -> dict[str, str | None]:
    times = (key.created_at, key.expires_at, key.revoked_at)
    made, expires, revoked = (None if time is None else time.isoformat(timespec="seconds") for time in times)
    return {
        "id": key.id,
        "holder": key.holder,
        "role": key.role,
        "made": made,
        "expires": expires,
        "revoked": revoked,
    }
