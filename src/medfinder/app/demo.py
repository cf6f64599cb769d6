"""The demo: the main job from nothing to a page of answers, with the stages that everyone uses.

In: an output folder. Out: phantoms, datasets, an index, an evaluation and ``demo.html`` in it; every stage that finds
its work done is over in a moment. Refused: what the stages refuse.
"""

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rich.console import Console

from medfinder.app.page import Search, write_results_page
from medfinder.app.tables import hits_table
from medfinder.curation.curate import CurationSettings, curate
from medfinder.curation.dataset import Dataset
from medfinder.curation.quality import QualitySettings
from medfinder.curation.statistics import describe, statistics_markdown
from medfinder.evaluation.evaluate import evaluate
from medfinder.evaluation.report import as_markdown
from medfinder.models.checkpoint import load_model
from medfinder.models.protocol import DualEncoder
from medfinder.records import VIEW_MM, Query
from medfinder.retrieval.build import build_index
from medfinder.retrieval.index import SearchIndex
from medfinder.retrieval.search import Searcher
from medfinder.sources.phantoms.write import write_phantoms

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]

# Not the seed that the shipped checkpoint was trained on.
SEED = 2026
SIZE = 64

TEXT = "left pleural effusion with passive atelectasis, no adenopathy"
KEYWORD = "emphysema"
CT = "LIDC-IDRI-0314.nii.gz"


def run_demo(out: Path, *, cases: int, workers: int, bar: Bar) -> Path:
    """Run the whole path and return the page that it ends in.

    Args:
        cases: phantom studies to make.
        bar: shows the progress of one stage; gives the function that moves it.
    """
    say = Console(highlight=False).print
    model = load_model()
    phantoms, real = make_datasets(out, model, cases=cases, workers=workers, bar=bar)
    index_path = out / "index"
    for dataset in (phantoms, real):
        with bar("indexing") as progress:
            build_index(dataset, index_path, model, progress=progress)
    say(f"\n[bold]Phantom dataset[/bold] ({phantoms.path}): SYNTHETIC, no patient stands behind it\n")
    say(statistics_markdown(describe(phantoms), top=12), markup=False)
    say(f"[bold]Retrieval on all {len(phantoms.cases)} synthetic cases, none of them seen in training[/bold]\n")
    result = evaluate_once(phantoms, model, out / "evaluation.json", bar=bar)
    say(as_markdown(result), markup=False)
    searches = run_searches(index_path, model)
    for search in searches:
        say_search(search, say)
    page = out / "demo.html"
    write_results_page(page, title="medfinder demo", searches=searches, is_synthetic=True, evaluation=result)
    say(f"\nPage with slice montages of these hits: {page.resolve()}")
    say(f"To search them in a browser, with a viewer: {Path(sys.executable).parent / 'medfinder'} serve {index_path}")
    say("Not for diagnosis.")
    return page


def make_datasets(out: Path, model: DualEncoder, *, cases: int, workers: int, bar: Bar) -> tuple[Dataset, Dataset]:
    """Make the phantoms and curate them, and curate the real sample CTs beside them."""
    with bar("phantoms") as progress:
        write_phantoms(out / "phantoms", studies=cases, seed=SEED, size=SIZE, workers=workers, progress=progress)
    with bar("curating phantoms") as progress:
        settings = CurationSettings(grid=model.grid)
        curate(out / "phantoms", out / "dataset", settings, workers=workers, progress=progress)
    with as_file(files("medfinder") / "samples") as samples, bar("curating real CTs") as progress:
        quality = QualitySettings(min_dimension=10)
        settings = CurationSettings(
            grid=model.grid, quality=quality, require_report=False, deidentify=False, view_mm=VIEW_MM
        )
        curate(samples, out / "real", settings, workers=workers, progress=progress)
    return Dataset.open(out / "dataset"), Dataset.open(out / "real")


def evaluate_once(dataset: Dataset, model: DualEncoder, place: Path, *, bar: Bar) -> dict[str, Any]:
    """Evaluate, or read what stands in ``place`` if it is of the same model and dataset."""
    try:
        known: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if known.get("digest") == model.digest and known.get("dataset") == dataset.digest:
        return known
    with bar("evaluating") as progress:
        result = evaluate(dataset, model, "all", progress=progress)
    place.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def run_searches(index_path: Path, model: DualEncoder) -> list[Search]:
    """Ask the three questions of the demo: by text, by a real CT, by keyword."""
    with (
        as_file(files("medfinder") / "samples" / CT) as ct,
        SearchIndex.open(index_path) as index,
    ):
        searcher = Searcher(index, model)
        return [
            Search("By text", TEXT, tuple(searcher.search(Query(text=TEXT)))),
            Search("By CT", f"the real CT {CT} (LIDC-IDRI)", tuple(searcher.search(Query(ct=ct))), query_volume=ct),
            Search("By keyword", KEYWORD, tuple(searcher.search(Query(keyword=KEYWORD)))),
        ]


def say_search(search: Search, say: Callable[..., None]) -> None:
    """Print one search with its hits and what must be known of them."""
    say(f"\n[bold]{search.title}:[/bold] ", end="")
    say(search.query, markup=False)
    say(hits_table(search.hits))
    for caution in dict.fromkeys(hit.caution for hit in search.hits if hit.caution):
        say(f"* {caution}", markup=False, style="yellow")
