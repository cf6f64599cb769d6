"""What all commands share: the app itself, bars, tables, remarks, and how a refusal is told.

In: what a command wants said. Out: tables and JSON on standard output, progress and remarks on standard error. Refused:
whatever a room refuses, as one line and exit code 2.
"""

import contextlib
import errno
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
from rich.console import Console
from rich.table import Table

from medfinder import __version__
from medfinder.errors import ConfigError, MedFinderError, MissingExtraError
from medfinder.records import Dropped

_ROWS_SHOWN = 20

# Which extra brings a package that is not part of the base.
_EXTRA_OF = {
    "torch": "model",
    "safetensors": "model",
    "transformers": "model",
    "qdrant_client": "cluster",
    "qdrant_edge": "index",
    "jinja2": "page",
    "PIL": "page",
    "fastapi": "server",
    "uvicorn": "server",
    "ray": "ray",
}

# The exit code of a process that Ctrl-C ended; Typer turns KeyboardInterrupt into it, too.
INTERRUPTED = 130

# Root of what Typer says of wrong words and options; it has no public name.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="medfinder",
    help="Find 3-D CT examinations by what a radiologist would say about them, and reports by a CT.\n\n"
    "Research software: not for diagnosis.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of a table.")]
ModelPath = Annotated[
    Path | None,
    typer.Option(
        "--model", help="Checkpoint folder, or colipri, merlin, ct-clip:FOLDER; the shipped synthetic one if not given."
    ),
]
SourceKind = Annotated[
    str, typer.Option("--source", help="What SOURCE is; found out by itself. An unknown word lists the kinds.")
]
Server = Annotated[
    str | None, typer.Option(help="A running medfinder server instead of INDEX; its key in MEDFINDER_SERVER_KEY.")
]
IndexUrl = Annotated[
    str | None,
    typer.Option(
        "--index-url", help="Qdrant cluster, http://HOST:PORT, on which INDEX names a collection; not a folder then."
    ),
]
ViewMm = Annotated[
    float, typer.Option(min=0, help="Voxel size, mm, of a finer copy of each CT for the viewer; 0 for none.")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that work side by side.")]

Progress = Callable[[int, int], None]


def examples(*lines: str) -> str:
    """Lay out the examples that close a command's help."""
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(f"  $ {line}" for line in lines)


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """Show a bar on standard error and hand out the function that moves it: ``(done, total)``."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    # In a log it stands once, when the work is done; not beside the one line of a refusal.
    is_log = not console.is_terminal
    with Bar(*columns, TimeRemainingColumn(), console=console, disable=is_log) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
    if is_log and bar.tasks[task].total is not None:
        console.print(bar)


def print_json(value: Any) -> None:
    """Print one JSON value on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def remark(text: str) -> None:
    """Say something to the person at the keyboard, on standard error."""
    plain_console(stderr=True).print(text, soft_wrap=True)


def plain_console(*, stderr: bool = False) -> Console:
    """Open a console that shows names as they are: ``[b]`` and ``:cat:`` in a path are no markup."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"medfinder {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Find 3-D CT examinations by what a radiologist would say about them."""


def existing(path: Path) -> Path:
    """Return a path that is there; refuse it otherwise."""
    if not path.exists():
        raise ConfigError(f"no such path: {path}")
    return path


def read_text(text: str | None) -> str | None:
    """Take the text itself, or what stands in the file named after an ``@``, as curl does."""
    if text is None or not text.startswith("@"):
        return text
    path = Path(text[1:])
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"no text can be read from {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text; convert it") from error


def show_facts(facts: Mapping[str, Any]) -> None:
    """Print facts as a table of two columns."""
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in facts.items():
        table.add_row(key, _spell(value))
    plain_console().print(table)


def _spell(value: Any) -> str:
    """Write a fact out: a list of names or of facts a line each, a long one its beginning."""
    if isinstance(value, list) and value and isinstance(value[0], str | dict):
        more = [f"... and {len(value) - _ROWS_SHOWN} more; --json lists all"] if len(value) > _ROWS_SHOWN else []
        return "\n".join([*map(_spell, value[:_ROWS_SHOWN]), *more])
    if isinstance(value, dict):
        return ", ".join(f"{key} {_spell(one)}" for key, one in value.items()) or "none"
    if value is None:
        return "not known"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of words and figures on standard error, beside the remarks; figures stand to the right."""
    table = Table(box=None, pad_edge=False)
    for place, title in enumerate(header):
        is_figure = all(row[place].isdigit() for row in rows)
        table.add_column(title, justify="right" if is_figure else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    plain_console(stderr=True).print(table)


def show_dropped(dropped: Sequence[Dropped]) -> None:
    """Print what was set aside, the first rows of it."""
    if not dropped:
        return
    table = Table(title=f"{len(dropped)} set aside", title_justify="left")
    for column in ("study", "series", "stage", "reason", "detail"):
        table.add_column(column, overflow="fold")
    for row in dropped[:_ROWS_SHOWN]:
        table.add_row(row.study_id, row.series_id, row.stage, row.reason, row.detail)
    plain_console(stderr=True).print(table)
    if len(dropped) > _ROWS_SHOWN:
        remark(f"... and {len(dropped) - _ROWS_SHOWN} more in dropped.parquet")


def _stop(message: str) -> NoReturn:
    sys.stderr.write(f"medfinder: error: {message}\n")
    raise SystemExit(2)


def main() -> None:
    """Run the command line: our own errors become one line and exit code 2."""
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="medfinder", standalone_mode=False)
    except _UsageError as error:
        wrong = cast(typer.BadParameter, error)
        see = wrong.ctx.command_path if wrong.ctx else "medfinder"
        _stop(f"{wrong.format_message().rstrip('.')}; see {see} --help")
    except MedFinderError as error:
        _stop(" ".join(str(error).split()))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _stop("no space left on the disk; nothing half-written was kept: free some and run the same command again")
        _stop(f"{error.strerror}: {error.filename}" if error.filename is not None else error.strerror or str(error))
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        _stop(str(MissingExtraError(str(error.name), extra)))
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        sys.stderr.write("medfinder: stopped; run the same command again to go on\n")
    raise SystemExit(code)
