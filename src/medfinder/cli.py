"""The command line: every stage is one command, folder in, folder out.

In: words typed by a person. Out: a table for people or, with ``--json``, one JSON value on standard output; progress
and remarks go to standard error. Refused: whatever a room refuses, as one line and exit code 2. No logic lives here.
"""

import contextlib
import errno
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer
from rich.console import Console
from rich.table import Table

from medfinder import __version__
from medfinder.errors import ConfigError, MedFinderError, MissingExtraError
from medfinder.records import Dropped, Hit

if TYPE_CHECKING:
    from medfinder.curation.curate import Summary

_ROWS_SHOWN = 20

# Which extra brings a package that is not part of the base.
_EXTRA_OF = {
    "torch": "model",
    "safetensors": "model",
    "transformers": "model",
    "qdrant_edge": "index",
    "jinja2": "page",
    "PIL": "page",
}

# An index is open in one process at a time: two searches queue for this long.
_WAIT_S = 10.0

# The exit code of a process that Ctrl-C ended; Typer turns KeyboardInterrupt into it, too.
_INTERRUPTED = 130

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
    Path | None, typer.Option("--model", help="Checkpoint folder; without it the shipped synthetic checkpoint serves.")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that work side by side.")]

Progress = Callable[[int, int], None]


def _examples(*lines: str) -> str:
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(f"  $ {line}" for line in lines)


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Progress]:
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
    if is_log:
        console.print(bar)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def _remark(text: str) -> None:
    _plain_console(stderr=True).print(text, soft_wrap=True)


def _plain_console(*, stderr: bool = False) -> Console:
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


@app.command(
    epilog=_examples(
        "medfinder phantoms phantoms --cases 300 --seed 7",
        "medfinder phantoms big --cases 2 --seed 1 --size 256",
        "medfinder phantoms raw --cases 50 --seed 3 --raw-bimcv",
    )
)
def phantoms(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    cases: Annotated[int, typer.Option(min=1, help="How many studies.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes, on every machine.")] = 0,
    size: Annotated[int, typer.Option(min=48, max=512, help="Voxels along each axis.")] = 64,
    raw_bimcv: Annotated[
        bool, typer.Option("--raw-bimcv", help="Write the raw BIMCV COVID-19+ tree, faults included.")
    ] = False,
    workers: Workers = 1,
) -> None:
    """Make synthetic chest CT studies with Spanish and English reports."""
    from medfinder.sources.phantoms.bimcv_tree import write_bimcv_tree
    from medfinder.sources.phantoms.write import write_phantoms

    write = write_bimcv_tree if raw_bimcv else write_phantoms
    with _progress("phantoms") as progress:
        write(out, studies=cases, seed=seed, size=size, workers=workers, progress=progress)
    _remark(f"{cases} synthetic studies in {out}")


@app.command(
    epilog=_examples(
        "medfinder curate phantoms dataset",
        "medfinder curate /data/pacs_export dataset --table reports.csv --workers 2",
        "medfinder curate scans dataset --no-report-needed",
        "medfinder curate --template reports.csv",
    )
)
def curate(
    source: Annotated[Path | None, typer.Argument(help="Raw examinations: phantoms, DICOM or NIfTI/NRRD/MHA.")] = None,
    out: Annotated[Path | None, typer.Argument(help="Dataset folder to make.")] = None,
    table: Annotated[Path | None, typer.Option(help="Report table (CSV/TSV); --template writes an example.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with curation settings.")] = None,
    kind: Annotated[str, typer.Option("--source", help="What SOURCE is; found out by itself.")] = "auto",
    no_report_needed: Annotated[
        bool, typer.Option("--no-report-needed", help="Keep studies without a report (to index one's own CTs).")
    ] = False,
    min_dimension: Annotated[
        int | None, typer.Option(min=1, help="Fewest voxels on any axis. The paper: 96; phantoms: their own size.")
    ] = None,
    template: Annotated[Path | None, typer.Option(help="Write an example report table here and stop.")] = None,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Turn raw examinations into a dataset: every study becomes a case, or is set aside with its reason."""
    from medfinder.config import build_settings, merge, read_toml
    from medfinder.curation.curate import CurationSettings
    from medfinder.curation.curate import curate as run
    from medfinder.sources.report_table import write_template

    if template is not None:
        write_template(template)
        _remark(f"wrote {template}: fill it in, then pass it with --table")
        return
    if source is None or out is None:
        raise ConfigError("curate needs SOURCE and OUT, e.g.: medfinder curate phantoms dataset")
    given: dict[str, Any] = {}
    if no_report_needed:
        given["require_report"] = False
    if min_dimension is not None:
        given["min_dimension"] = min_dimension
    values = merge(read_toml(config) if config else {}, given)
    settings = build_settings(CurationSettings, values, where=str(config or "options"))
    with _progress("curating") as progress:
        summary = run(source, out, settings, source_kind=kind, table=table, workers=workers, progress=progress)
    _show_summary(summary, out, as_json)


@app.command(
    epilog=_examples(
        "medfinder train dataset checkpoint --preset medfinder",
        "medfinder train dataset checkpoint --config my.toml --epochs 5",
        "medfinder train dataset checkpoint --masks phantoms",
    )
)
def train(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, made by curate.")],
    out: Annotated[Path, typer.Argument(help="Checkpoint folder to make; a run that was killed goes on there.")],
    preset: Annotated[str, typer.Option(help="Named settings; an unknown name lists them.")] = "medfinder",
    config: Annotated[Path | None, typer.Option(help="TOML file laid upon the preset.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Phantoms folder that DATASET was curated from: learn where findings lie, too.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training split.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, order and augmentation.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew even if a killed run could go on.")] = False,
) -> None:
    """Train a dual encoder on a dataset."""
    from medfinder.config import merge, read_toml
    from medfinder.models.train import build_train_settings
    from medfinder.models.train import train as run

    given = {name: value for name, value in (("epochs", epochs), ("seed", seed)) if value is not None}
    values = merge(read_toml(config) if config else {}, given)
    settings = build_train_settings(preset, values)
    with _progress("training") as progress:
        summary = run(dataset, out, settings, masks=masks, resume=not fresh, progress=progress)
    if not summary.is_finished:
        _remark(f"{summary.epochs} epochs are done")
        raise typer.Exit(_INTERRUPTED)
    best = f"epoch {summary.best_epoch} of {summary.epochs} was best"
    _remark(f"checkpoint in {out}: {best}, {_as_figures(summary.figures)}")


@app.command(
    epilog=_examples(
        "medfinder index dataset my-index",
        "medfinder index /data/pacs_export my-index",
        "medfinder index dataset my-index --model checkpoint",
    )
)
def index(
    source: Annotated[Path, typer.Argument(help="Dataset folder, or a folder of CTs as they come.")],
    out: Annotated[Path, typer.Argument(help="Index folder; what is there already is kept.")],
    model: ModelPath = None,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Embed every case and put it into a search index; a folder of CTs is curated first."""
    from medfinder.app.ingest import open_or_curate
    from medfinder.models.checkpoint import load_model
    from medfinder.retrieval.build import build_index

    encoder = load_model(model)
    with _progress("curating") as progress:
        dataset = open_or_curate(source, beside=out, grid=encoder.grid, workers=workers, progress=progress)
    with _progress("indexing") as progress:
        summary = build_index(dataset, out, encoder, progress=progress)
    if as_json:
        _print_json({**asdict(summary), "dropped": [asdict(row) for row in dataset.dropped]})
        return
    told = f"{summary.added} cases added to {out}, {summary.replaced} replaced, {summary.removed} removed"
    _remark(f"{told}, {summary.skipped} were there already; {summary.cases} in all")
    _show_dropped(dataset.dropped)


@app.command(
    epilog=_examples(
        'medfinder search my-index --text "left pleural effusion with passive atelectasis, no adenopathy"',
        "medfinder search my-index --keyword GGO -k 10 --where 'sex = F and age >= 60'",
        "medfinder search my-index --ct /data/ct/patient.nii.gz",
        "medfinder search my-index --report @report.txt --json",
    )
)
def search(
    index: Annotated[Path, typer.Argument(help="Index folder.")],
    text: Annotated[str | None, typer.Option(help="A few words, English or Spanish.")] = None,
    ct: Annotated[Path | None, typer.Option(help="A CT file, or a DICOM folder of one series.")] = None,
    report: Annotated[str | None, typer.Option(help="A whole report, or @FILE to read it from.")] = None,
    keyword: Annotated[str | None, typer.Option(help="A finding by any of its names, e.g. GGO.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 5,
    where: Annotated[str | None, typer.Option(help="Filter, e.g. 'sex = F and age >= 60'.")] = None,
    model: ModelPath = None,
    as_json: AsJson = False,
) -> None:
    """Find the most similar examinations, by words, by a report or by a CT."""
    from medfinder.models.checkpoint import load_model
    from medfinder.records import Query
    from medfinder.retrieval.index import SearchIndex
    from medfinder.retrieval.search import Searcher

    query = Query(text=text, report=_read_text(report), keyword=keyword, ct=ct, where=where, k=k)
    with SearchIndex.open(index, wait_s=_WAIT_S) as opened:
        hits = Searcher(opened, load_model(model)).search(query)
    if as_json:
        _print_json([_hit_as_dict(hit) for hit in hits])
    else:
        _show_hits(hits)


@app.command(
    epilog=_examples("medfinder evaluate dataset", "medfinder evaluate dataset --split val --model checkpoint --json")
)
def evaluate(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    model: ModelPath = None,
    split: Annotated[str, typer.Option(help="test, val, train or all.")] = "test",
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap; nothing else is random.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Print the field's tables: R@K, MdR and MnR in both directions, keyword P@K, with N, chance and intervals."""
    from medfinder.curation.dataset import Dataset
    from medfinder.evaluation.evaluate import evaluate as run
    from medfinder.evaluation.report import as_markdown
    from medfinder.models.checkpoint import load_model

    with _progress("embedding") as progress:
        result = run(Dataset.open(dataset), load_model(model), split, seed=seed, progress=progress)
    if as_json:
        _print_json(result)
    else:
        sys.stdout.write(as_markdown(result))


@app.command(
    epilog=_examples("medfinder embed chest.nii.gz --json", "medfinder embed /data/dicom/series1 --out vector.npy")
)
def embed(
    ct: Annotated[Path, typer.Argument(help="A CT file, or a DICOM folder of one series.")],
    model: ModelPath = None,
    out: Annotated[Path | None, typer.Option(help="Write the vector as a NumPy file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give the embedding of one CT: a unit vector, nearer means more alike."""
    import numpy as np

    from medfinder.models.checkpoint import load_model
    from medfinder.sources.files import write_whole
    from medfinder.volume import body_region, standardise_file

    encoder = load_model(model)
    volume = standardise_file(_existing(ct), encoder.grid)
    region = body_region(volume)
    vector = encoder.encode_volumes([volume.hu])[0]
    if out is not None:
        content = io.BytesIO()
        np.save(content, vector)
        write_whole(out, content.getvalue())
    if region.name != "chest":
        _remark(f"caution: {region.reason}")
    if as_json:
        facts = {"model": encoder.name, "digest": encoder.digest, "region": region.name, "width": encoder.width}
        _print_json({**facts, "embedding": [round(float(value), 7) for value in vector]})
    elif out is None:
        sys.stdout.write(" ".join(f"{value:.7f}" for value in vector) + "\n")


@app.command(
    epilog=_examples("medfinder info chest.nii.gz", "medfinder info dataset", "medfinder info my-index --json")
)
def info(
    path: Annotated[Path, typer.Argument(help="A volume, DICOM folder, dataset, checkpoint or index.")],
    as_json: AsJson = False,
) -> None:
    """Say what a path holds."""
    from medfinder.app.info import describe_path

    facts = describe_path(_existing(path))
    if as_json:
        _print_json(facts)
    else:
        _show_facts(facts)


@app.command(epilog=_examples("medfinder demo", "medfinder demo --out /tmp/demo --cases 100"))
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    cases: Annotated[int, typer.Option(min=20, help="How many phantom studies.")] = 300,
    workers: Workers = 2,
) -> None:
    """Run the main job: make, curate, index, search and evaluate phantoms and real sample CTs."""
    from medfinder.app.demo import run_demo

    run_demo(out, cases=cases, workers=workers, bar=_progress)


def _as_figures(figures: Mapping[str, float]) -> str:
    told = ", ".join(f"{name} {value:.1f}%" for name, value in figures.items() if "@" in name)
    return f"on validation {told}"


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ConfigError(f"no such path: {path}")
    return path


def _read_text(text: str | None) -> str | None:
    """Take the text itself, or what stands in the file named after an ``@``, as curl does."""
    if text is None or not text.startswith("@"):
        return text
    path = Path(text[1:])
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"no UTF-8 text can be read from {path}: {error}") from error


def _show_summary(summary: "Summary", out: Path, as_json: bool) -> None:
    for remark in summary.remarks:
        _remark(remark)
    if as_json:
        _print_json({"out": str(out), **asdict(summary)})
        return
    _remark(f"{summary.cases} cases in {out}, {summary.dropped} set aside (dropped.parquet says why)")
    for reason, count in summary.reasons.items():
        _remark(f"  {count} x {reason}")


def _show_dropped(dropped: Sequence[Dropped]) -> None:
    if not dropped:
        return
    table = Table(title=f"{len(dropped)} set aside", title_justify="left")
    for column in ("study", "series", "stage", "reason", "detail"):
        table.add_column(column, overflow="fold")
    for row in dropped[:_ROWS_SHOWN]:
        table.add_row(row.study_id, row.series_id, row.stage, row.reason, row.detail)
    _plain_console(stderr=True).print(table)
    if len(dropped) > _ROWS_SHOWN:
        _remark(f"... and {len(dropped) - _ROWS_SHOWN} more in dropped.parquet")


def _hit_as_dict(hit: Hit) -> dict[str, Any]:
    facts = asdict(hit)
    facts["volume"] = None if hit.volume is None else str(hit.volume)
    return facts


def _show_hits(hits: Sequence[Hit]) -> None:
    from medfinder.app.tables import hits_table

    console = Console(highlight=False, emoji=False)
    if not hits:
        console.print("no case passes the filter")
        return
    console.print(hits_table(hits))
    for caution in dict.fromkeys(hit.caution for hit in hits if hit.caution):
        console.print(f"caution: {caution}", style="yellow", markup=False)
    console.print("Not for diagnosis.", style="dim")


def _show_facts(facts: Mapping[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in facts.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        table.add_row(key, shown)
    _plain_console().print(table)


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
        _stop(f"{error.strerror}: {error.filename}" if error.filename is not None else str(error))
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        _stop(str(MissingExtraError(str(error.name), extra)))
    except KeyboardInterrupt:
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        sys.stderr.write("medfinder: stopped; run the same command again to go on\n")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
