"""From raw studies to a searchable index: phantoms, curate, train, index."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfinder.cli.face import (
    INTERRUPTED,
    AsJson,
    IndexUrl,
    ModelPath,
    SourceKind,
    ViewMm,
    Workers,
    app,
    examples,
    print_json,
    progress_bar,
    remark,
    show_dropped,
    show_facts,
    show_table,
)
from medfinder.errors import ConfigError
from medfinder.records import VIEW_MM, plural

if TYPE_CHECKING:
    from medfinder.curation.curate import Summary
    from medfinder.models.train import TrainSettings

# Ours: an index is freed in moments when its holder ends.
_WAIT_S = 5.0

_WAYS = {"exact": "exactly", "compressed": "in compressed form", "graph": "along a graph"}


@app.command(
    epilog=examples(
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
    released_bimcv_r: Annotated[
        bool, typer.Option("--released-bimcv-r", help="Write the released BIMCV-R layout, faults included.")
    ] = False,
    workers: Workers = 1,
) -> None:
    """Make synthetic chest CT studies with Spanish and English reports."""
    from medfinder.sources.phantoms.bimcv_r_tree import write_bimcv_r
    from medfinder.sources.phantoms.bimcv_tree import write_bimcv_tree
    from medfinder.sources.phantoms.write import write_phantoms

    if raw_bimcv and released_bimcv_r:
        raise ConfigError("--raw-bimcv and --released-bimcv-r are two layouts; give one of them")
    write = write_bimcv_tree if raw_bimcv else write_bimcv_r if released_bimcv_r else write_phantoms
    with progress_bar("phantoms") as progress:
        write(out, studies=cases, seed=seed, size=size, workers=workers, progress=progress)
    remark(f"{plural(cases, 'synthetic study')} in {out}")


@app.command(
    epilog=examples(
        "medfinder curate phantoms dataset",
        "medfinder curate /data/pacs_export dataset --table reports.csv --key-file ~/medfinder.key --make-key",
        "medfinder curate covid19_posi dataset --key-file ~/medfinder.key --translate apertium",
        "medfinder curate https://pacs.example/dicom-web dataset --key-file ~/medfinder.key",
        "medfinder curate scans dataset --no-report-needed --no-deidentify",
        "medfinder curate --template reports.csv",
    )
)
def curate(
    source: Annotated[
        str | None,
        typer.Argument(help="Raw examinations: phantoms, BIMCV, DICOM, NIfTI/NRRD/MHA, or a DICOMweb server's URL."),
    ] = None,
    out: Annotated[Path | None, typer.Argument(help="Dataset folder to make.")] = None,
    table: Annotated[Path | None, typer.Option(help="Report table (CSV/TSV); --template writes an example.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with curation settings.")] = None,
    kind: SourceKind = "auto",
    key_file: Annotated[
        Path | None, typer.Option(help="Secret key by which ids become pseudonyms; keep it away from the dataset.")
    ] = None,
    make_key: Annotated[bool, typer.Option("--make-key", help="Draw a new key and write it to the key file.")] = False,
    no_deidentify: Annotated[
        bool, typer.Option("--no-deidentify", help="Keep texts as they are and ids as plain hashes.")
    ] = False,
    translate: Annotated[
        str | None, typer.Option(help="Engine for Spanish reports; an unknown word lists them. [translation] has more.")
    ] = None,
    no_report_needed: Annotated[
        bool, typer.Option("--no-report-needed", help="Keep studies without a report (to index one's own CTs).")
    ] = False,
    min_dimension: Annotated[
        int | None,
        typer.Option(min=1, help="Fewest voxels on any axis, 96 as in the paper if not given; phantoms: 32."),
    ] = None,
    view_mm: ViewMm = 0.0,
    cluster: Annotated[str | None, typer.Option(help="Work on the Ray cluster at this address.")] = None,
    template: Annotated[Path | None, typer.Option(help="Write an example report table here and stop.")] = None,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Turn raw examinations into a dataset: every study becomes a case, or is set aside with its reason."""
    from medfinder.config import build_settings, merge, read_toml
    from medfinder.curation.curate import CurationSettings
    from medfinder.curation.curate import curate as run
    from medfinder.curation.deidentify.keys import Key
    from medfinder.sources.report_table import write_template

    if template is not None:
        write_template(template)
        remark(f"wrote {template}: fill it in, then pass it with --table")
        return
    if source is None or out is None:
        raise ConfigError("curate needs SOURCE and OUT, e.g.: medfinder curate phantoms dataset")
    given: dict[str, Any] = {}
    if no_report_needed:
        given["require_report"] = False
    if min_dimension is not None:
        given["quality"] = {"min_dimension": min_dimension}
    if no_deidentify:
        given["deidentify"] = False
    if view_mm:
        given["view_mm"] = view_mm
    if translate is not None:
        given["translation"] = {"engine": translate}
    values = merge(read_toml(config) if config else {}, given)
    settings = build_settings(CurationSettings, values, where=str(config or "options"))
    if make_key:
        if key_file is None:
            raise ConfigError("--make-key needs --key-file FILE: where the new key is to lie")
        Key.make(key_file, outside=(out,))
    with progress_bar("curating") as progress:
        summary = run(
            Path(source),
            out,
            settings,
            source_kind=kind,
            table=table,
            key=key_file,
            workers=workers,
            cluster=cluster,
            progress=progress,
        )
    _show_summary(summary, out, as_json)


@app.command(
    epilog=examples(
        "medfinder train dataset checkpoint --preset medfinder",
        "medfinder train dataset checkpoint --config my.toml --epochs 5",
        "medfinder train dataset checkpoint --masks phantoms",
        "medfinder train own-dataset checkpoint --start shipped --epochs 3",
        "medfinder train dataset checkpoint --preset paper_resnet50 --dry-run",
        "medfinder train dataset checkpoint --log tensorboard",
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
    start: Annotated[
        str | None, typer.Option(help="Checkpoint folder to go on from with new data; 'shipped' names ours.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training split.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, order and augmentation.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew even if a killed run could go on.")] = False,
    log: Annotated[
        list[str] | None, typer.Option(help="Follow the run in this, too; repeatable. An unknown word lists them.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take - weights, memory, time - and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a dual encoder on a dataset."""
    from medfinder.config import merge, read_toml
    from medfinder.models.checkpoint import SHIPPED
    from medfinder.models.train import build_train_settings
    from medfinder.models.train import train as run

    given = {name: value for name, value in (("epochs", epochs), ("seed", seed)) if value is not None}
    values = merge(read_toml(config) if config else {}, given)
    settings = build_train_settings(preset, values)
    if dry_run:
        _show_estimate(dataset, settings, as_json)
        return
    begin = SHIPPED if start == "shipped" else Path(start) if start else None
    with progress_bar("training") as progress:
        summary = run(
            dataset,
            out,
            settings,
            masks=masks,
            start=begin,
            resume=not fresh,
            progress=progress,
            trackers=tuple(log or ()),
        )
    if as_json:
        print_json({**asdict(summary), "checkpoint": str(out)})
    if not summary.is_finished:
        remark(f"done: {plural(summary.epochs, 'epoch')}")
        raise typer.Exit(INTERRUPTED)
    best = f"epoch {summary.best_epoch} of {summary.epochs} was best"
    remark(f"checkpoint in {out}: {best}, {_as_figures(summary.figures)}")


@app.command(
    epilog=examples(
        "medfinder index dataset my-index",
        "medfinder index /data/pacs_export my-index",
        "medfinder index dataset my-index --model checkpoint",
        "medfinder index /data/disk my-index --source nifti",
        "medfinder index dataset chest --index-url http://qdrant:6333 --shards 3 --replicas 2",
    )
)
def index(
    source: Annotated[Path, typer.Argument(help="Dataset folder, or a folder of CTs as they come.")],
    out: Annotated[Path, typer.Argument(help="Index folder; what is there already is kept.")],
    model: ModelPath = None,
    kind: SourceKind = "auto",
    way: Annotated[
        str | None,
        typer.Option(
            "--search", help="How it is searched: exact, compressed or graph; by the number of cases if not given."
        ),
    ] = None,
    index_url: IndexUrl = None,
    view_mm: ViewMm = VIEW_MM,
    shards: Annotated[int, typer.Option(min=1, help="Parts of a new collection on a cluster.")] = 1,
    replicas: Annotated[int, typer.Option(min=1, help="Servers that hold each part.")] = 1,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Embed every case and put it into a search index; a folder of CTs is curated first."""
    from medfinder.app.ingest import open_or_curate
    from medfinder.models.checkpoint import load_model
    from medfinder.retrieval.build import build_index
    from medfinder.retrieval.cluster import cluster_at
    from medfinder.retrieval.engine import parse_way
    from medfinder.retrieval.index import SearchIndex

    cluster = cluster_at(index_url, shards, replicas)
    wanted = parse_way(way) if way is not None else None
    encoder = load_model(model)
    with progress_bar("curating") as progress:
        dataset = open_or_curate(
            source,
            beside=out,
            grid=encoder.grid,
            source_kind=kind,
            view_mm=view_mm,
            workers=workers,
            progress=progress,
        )
    with progress_bar("indexing") as progress:
        summary = build_index(dataset, out, encoder, progress=progress, cluster=cluster)
    with progress_bar("optimising") as progress, SearchIndex.open(out, wait_s=_WAIT_S, cluster=cluster) as opened:
        chosen = opened.optimise(wanted, progress=progress)
    if as_json:
        print_json({**asdict(summary), "search": chosen, "dropped": [asdict(row) for row in dataset.dropped]})
        return
    told = f"{plural(summary.added, 'case')} added to {out}, {summary.replaced} replaced, {summary.removed} removed"
    remark(f"{told}, {summary.skipped} were there already; {summary.cases} in all, searched {_WAYS[chosen]}")
    show_dropped(dataset.dropped)


def _show_estimate(dataset: Path, settings: "TrainSettings", as_json: bool) -> None:
    from medfinder.models.estimate import estimate

    found = estimate(dataset, settings)
    if as_json:
        print_json({**asdict(found), "all_bytes": found.all_bytes})
        return
    show_facts(found.as_facts())
    for obstacle in found.obstacles:
        remark(f"in the way: {obstacle}")


def _as_figures(figures: Mapping[str, float]) -> str:
    told = ", ".join(f"{name} {value:.1f}%" for name, value in figures.items() if "@" in name)
    return f"on validation {told}"


def _show_summary(summary: "Summary", out: Path, as_json: bool) -> None:
    if as_json:
        print_json({"out": str(out), **asdict(summary)})
    else:
        _show_flow(summary, out)
    # Last, where they are seen.
    for sentence in summary.remarks:
        remark(sentence)


def _show_flow(summary: "Summary", out: Path) -> None:
    from medfinder.curation.statistics import flow_table

    cases = plural(summary.cases, "case")
    remark(f"{cases} in {out}" if summary.is_new else f"{cases} in {out}; it was complete already")
    table = flow_table(summary.flow, summary.cases)
    show_table(table.header, table.rows)
    if summary.reasons:
        remark(f"set aside, each named in dropped.parquet: {summary.dropped}")
    for reason, count in summary.reasons.items():
        remark(f"  {count} x {reason}")
