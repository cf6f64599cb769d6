"""From an index to answers: search, evaluate, embed, info, demo."""

import contextlib
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from medfinder.cli.face import (
    AsJson,
    IndexUrl,
    ModelPath,
    Server,
    Workers,
    app,
    examples,
    existing,
    print_json,
    progress_bar,
    read_text,
    remark,
    show_facts,
)
from medfinder.errors import ConfigError
from medfinder.records import Hit, Query

# An index is open in one process at a time: two searches queue for this long.
_WAIT_S = 10.0


@app.command(
    epilog=examples(
        'medfinder search my-index --text "left pleural effusion with passive atelectasis, no adenopathy"',
        "medfinder search my-index --keyword GGO -k 10 --where 'sex = F and age >= 60'",
        "medfinder search my-index --ct /data/ct/patient.nii.gz",
        "medfinder search my-index --report @report.txt --json",
        "medfinder search my-index --keyword 'effusion and (mass or nodule) not cardiomegaly'",
        "medfinder search my-index --case 3f2a91c07be4d615 --text 'with emphysema' --explain",
        "medfinder search my-index --ct patient.nii.gz --box '-80,-20,100 -40,20,140'",
        "medfinder search my-index --study 1.2.840.113619.2.55.1 --dicomweb pacs.toml",
        "medfinder search --server https://ct.hospital.example --text 'pneumothorax'",
    )
)
def search(
    index: Annotated[Path | None, typer.Argument(help="Index folder.")] = None,
    text: Annotated[
        str | None, typer.Option(help="A few words, English or Spanish; also with AND, OR, NOT, brackets, quotes.")
    ] = None,
    ct: Annotated[Path | None, typer.Option(help="A CT file, or a DICOM folder of one series.")] = None,
    report: Annotated[str | None, typer.Option(help="A whole report, or @FILE to read it from.")] = None,
    keyword: Annotated[
        str | None, typer.Option(help="A finding by any of its names, e.g. GGO, or several with and, or, not.")
    ] = None,
    case: Annotated[str | None, typer.Option(help="Id of a case of the index: more like this.")] = None,
    liked: Annotated[list[str] | None, typer.Option(help="Id of a case that is what you want; repeatable.")] = None,
    disliked: Annotated[list[str] | None, typer.Option(help="Id of a case that is not; repeatable.")] = None,
    box: Annotated[
        str | None, typer.Option(help="Part of --ct or --case: 'x,y,z x,y,z', lowest and highest corner, mm, RAS+.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 5,
    offset: Annotated[int, typer.Option(help="Hits to pass over, for the next page.")] = 0,
    group: Annotated[str, typer.Option(help="study or patient: the best hit of each only.")] = "",
    where: Annotated[str | None, typer.Option(help="Filter, e.g. 'sex = F and age >= 60'.")] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Also tell the sentences, the place in the volume, and what each part gave."),
    ] = False,
    study: Annotated[str | None, typer.Option(help="StudyInstanceUID of a CT study of the PACS to ask with.")] = None,
    dicomweb: Annotated[
        str | None, typer.Option(help="That PACS: address, or a TOML file as for curate; a server knows its own.")
    ] = None,
    server: Server = None,
    model: ModelPath = None,
    index_url: IndexUrl = None,
    as_json: AsJson = False,
) -> None:
    """Find the most similar examinations, by words, by a report or by a CT."""
    from medfinder.app.remote import open_client, search_server
    from medfinder.retrieval.asked import parse_box

    if (index is None) == (server is None):
        raise ConfigError("give INDEX or --server URL, one of the two")
    if study is not None and ct is not None:
        raise ConfigError("--study and --ct are both a CT to ask with; give one of them")
    if server is not None and (model, dicomweb, index_url) != (None, None, None):
        raise ConfigError("a server has its own index, model and PACS; leave out --model, --dicomweb and --index-url")
    if server is None and (study is None) != (dicomweb is None):
        raise ConfigError("--study and --dicomweb belong together: the study, and the PACS that has it")
    query = Query(
        text=text,
        report=read_text(report),
        keyword=keyword,
        ct=ct,
        case_id=case,
        liked=tuple(liked or ()),
        disliked=tuple(disliked or ()),
        box=None if box is None else parse_box(box),
        where=where,
        k=k,
        offset=offset,
        group=group,
    )
    if server is not None:
        hits, notes = search_server(open_client(server), query, study=study, explain=explain)
    else:
        assert index is not None
        hits, notes = _search_index(index, query, study, dicomweb, model, index_url=index_url, is_explained=explain)
    for note in notes:
        remark(note)
    if as_json:
        print_json([_hit_as_dict(hit) for hit in hits])
    else:
        _show_hits(hits, is_explained=explain)


@app.command(
    epilog=examples(
        "medfinder evaluate dataset",
        "medfinder evaluate dataset --split val --model checkpoint --json",
        "medfinder evaluate dataset --model new --out of-new --against of-old",
        "medfinder evaluate phantoms-dataset --oracle",
    )
)
def evaluate(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    model: ModelPath = None,
    split: Annotated[str, typer.Option(help="test, val, train or all.")] = "test",
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap; nothing else is random.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder to keep the result and the rank of each query in, for --against.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare with the evaluation kept there, by a paired bootstrap over patients.")
    ] = None,
    oracle: Annotated[
        bool, typer.Option("--oracle", help="No model: retrieve phantoms by their true findings, which is the ceiling.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the field's tables: captions both ways, keywords, findings, CT to CT; with N, chance and intervals."""
    from medfinder.curation.dataset import Dataset
    from medfinder.evaluation.evaluate import evaluate_fully
    from medfinder.evaluation.oracle import evaluate_oracle
    from medfinder.evaluation.report import as_markdown
    from medfinder.evaluation.significance import compare
    from medfinder.evaluation.store import read_evaluation, write_evaluation

    if oracle and model is not None:
        raise ConfigError("--oracle evaluates no model; leave out --model")
    opened = Dataset.open(dataset)
    other = read_evaluation(against) if against else None
    if oracle:
        found = evaluate_oracle(opened, split, seed=seed)
    else:
        from medfinder.models.checkpoint import load_model

        with progress_bar("embedding") as progress:
            found = evaluate_fully(opened, load_model(model), split, seed=seed, progress=progress)
    if out is not None:
        write_evaluation(out, found)
    differences = compare(found.answers, other.answers) if other else []
    if as_json:
        compared = {"against": [asdict(difference) for difference in differences]} if other else {}
        print_json({**found.result, **compared})
    else:
        named = other.result["model"] if other else ""
        sys.stdout.write(as_markdown(found.result, differences, against=named))


@app.command(
    epilog=examples("medfinder embed chest.nii.gz --json", "medfinder embed /data/dicom/series1 --out vector.npy")
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
    volume = standardise_file(existing(ct), encoder.grid)
    region = body_region(volume)
    vector = encoder.encode_volumes([volume.hu])[0]
    if out is not None:
        content = io.BytesIO()
        np.save(content, vector)
        write_whole(out, content.getvalue())
    if region.name != "chest":
        remark(f"caution: {region.reason}")
    if as_json:
        facts = {"model": encoder.name, "digest": encoder.digest, "region": region.name, "width": encoder.width}
        print_json({**facts, "embedding": [round(float(value), 7) for value in vector]})
    elif out is None:
        sys.stdout.write(" ".join(f"{value:.7f}" for value in vector) + "\n")


@app.command(epilog=examples("medfinder info chest.nii.gz", "medfinder info dataset", "medfinder info my-index --json"))
def info(
    path: Annotated[Path, typer.Argument(help="A volume, DICOM folder, dataset, checkpoint or index.")],
    index_url: IndexUrl = None,
    as_json: AsJson = False,
) -> None:
    """Say what a path holds."""
    from medfinder.app.info import dataset_facts, describe_collection, describe_path

    facts = describe_path(existing(path)) if index_url is None else describe_collection(path, index_url)
    if as_json:
        print_json(facts)
    elif facts["kind"] == "dataset":
        sys.stdout.write(dataset_facts(facts))
    else:
        show_facts(facts)


@app.command(epilog=examples("medfinder demo", "medfinder demo --out /tmp/demo --cases 100"))
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    cases: Annotated[int, typer.Option(min=20, help="How many phantom studies.")] = 300,
    workers: Workers = 2,
) -> None:
    """Run the main job: make, curate, index, search and evaluate phantoms and real sample CTs."""
    from medfinder.app.demo import run_demo

    run_demo(out, cases=cases, workers=workers, bar=progress_bar)


def _search_index(
    index: Path,
    query: Query,
    study: str | None,
    dicomweb: str | None,
    model: Path | None,
    *,
    index_url: str | None,
    is_explained: bool,
) -> tuple[tuple[Hit, ...], tuple[str, ...]]:
    from medfinder.models.checkpoint import load_model
    from medfinder.retrieval.cluster import cluster_at
    from medfinder.retrieval.index import SearchIndex
    from medfinder.retrieval.search import Searcher

    with contextlib.ExitStack() as opened:
        fetched: tuple[str, ...] = ()
        if study is not None and dicomweb is not None:
            from medfinder.app.pacs_study import fetched_study
            from medfinder.sources import pacs

            ct, fetched = opened.enter_context(fetched_study(study, pacs.read_settings(Path(dicomweb))))
            query = replace(query, ct=ct)
        held = SearchIndex.open(index, wait_s=_WAIT_S, cluster=cluster_at(index_url))
        searcher = Searcher(opened.enter_context(held), load_model(model))
        answer = searcher.answer(query)
        hits = searcher.explain(query, answer.hits) if is_explained else answer.hits
    return tuple(hits), (*answer.notes, *fetched)


def _hit_as_dict(hit: Hit) -> dict[str, Any]:
    facts = asdict(hit)
    facts["volume"] = None if hit.volume is None else str(hit.volume)
    return facts


def _show_hits(hits: Sequence[Hit], *, is_explained: bool) -> None:
    from medfinder.app.tables import hits_table, reasons_table

    console = Console(highlight=False, emoji=False)
    if not hits:
        console.print("no case passes the filter")
        return
    console.print(hits_table(hits))
    if is_explained:
        console.print(reasons_table(hits))
    for caution in dict.fromkeys(hit.caution for hit in hits if hit.caution):
        console.print(f"caution: {caution}", style="yellow", markup=False)
    console.print("Not for diagnosis.", style="dim")
