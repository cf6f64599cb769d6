"""The index at 8,000 to a million cases, beside NumPy and faiss: ``python benchmarks/index_at_size.py --cases 8000``.

In: sizes. Out: a table a size in Markdown, on standard output, and everything as JSON with ``--out``. Vectors are made
up: several hundred centres, noise around them, unit length, which is easier to search than random vectors and about
what embeddings of CTs look like, for many cases look alike. A report's vector is its image's with more noise. Every row
is measured in a process of its own, so that its memory is its own; "memory" is VmRSS after the queries, of which
"anonymous" cannot be dropped by the system while the rest, mapped files, can.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from medfinder.curation.keywords import KEYWORDS
from medfinder.records import Case, Finding, Query
from medfinder.retrieval import stored_case
from medfinder.retrieval.engine import IndexSettings, Way
from medfinder.retrieval.filters import Condition, parse_filter
from medfinder.retrieval.index import SearchIndex
from medfinder.retrieval.lexical import Terms, Words, describe_case
from medfinder.retrieval.search import Searcher
from medfinder.volume import Grid

CENTRES, NOISE, REPORT_NOISE = 400, 0.8, 0.5
QUERIES, BATCH, REPORTS = 200, 1_000, 2_000
DIGEST = "0" * 64
WAYS: tuple[Way, ...] = ("exact", "compressed", "graph")
# Shares of the cases that pass; the age is drawn from 0 to 99.
FILTERS = {"1%": "age = 7", "10%": "age < 10", "50%": "age < 50"}
TEXTS = ("left pleural effusion", "ground-glass opacity in both lungs", "emphysema without effusion", "spiculated mass")


class Standing:
    """Stands in for a model: gives the vectors of the queries, one after another."""

    name, digest, is_synthetic, grid = "standing in", DIGEST, True, Grid()

    def __init__(self, queries: np.ndarray) -> None:
        self.width, self._queries, self._next = queries.shape[1], queries, 0

    def encode_volumes(self, hu: Sequence[np.ndarray]) -> np.ndarray:
        return self.encode_texts([""] * len(hu))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self._next += len(texts)
        rows = np.arange(self._next - len(texts), self._next) % len(self._queries)
        return np.asarray(self._queries[rows])

    def encode_sentences(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode_texts(texts)


# ---- what is searched ------------------------------------------------------------------------------------------------


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def noise(rng: np.random.Generator, rows: int, width: int, length: float) -> np.ndarray:
    return rng.standard_normal((rows, width), np.float32) * np.float32(length / np.sqrt(width))


def make_vectors(folder: Path, cases: int, width: int) -> None:
    """Write image.npy, report.npy and queries.npy, in parts that fit into memory."""
    rng = np.random.default_rng(0)
    centres = unit(noise(rng, CENTRES, width, 1))
    made = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (cases, width))
        for name in ("image", "report")
    }
    for start in range(0, cases, 50_000):
        rows = min(50_000, cases - start)
        image = unit(centres[rng.integers(0, CENTRES, rows)] + noise(rng, rows, width, NOISE))
        made["image"][start : start + rows] = image
        made["report"][start : start + rows] = unit(image + noise(rng, rows, width, REPORT_NOISE))
    drawn = centres[rng.integers(0, CENTRES, BATCH)] + noise(rng, BATCH, width, NOISE)
    np.save(folder / "queries.npy", unit(drawn))


def make_reports() -> list[tuple[str, tuple[Finding, ...]]]:
    rng = np.random.default_rng(1)
    reports = []
    for _ in range(REPORTS):
        present, absent = np.split(rng.choice(list(KEYWORDS), 6, replace=False), 2)
        sentences = [f"{name.capitalize()} is seen in the lung." for name in present] + [f"No {one}." for one in absent]
        reports.append((" ".join(sentences), tuple(Finding(str(name)) for name in present)))
    return reports


def make_case(number: int, report: str, findings: tuple[Finding, ...], age: int) -> Case:
    return Case(
        case_id=f"{number:016x}",
        study_id=f"{number:016x}",
        patient_id=f"{number // 2:016x}",
        source="made up",
        split="test",
        volume=f"volumes/{number}.nii",
        report=report,
        report_es="",
        findings=findings,
        findings_from="truth",
        age_years=age,
        sex="F" if number % 2 else "M",
        date_offset_days=0,
        spacing_mm=(0.7, 0.7, 1.5),
        shape=(512, 512, 275),
        region="chest",
        is_synthetic=True,
    )


def stretched(words: Words, case_id: str) -> Words:
    """Weigh the words as in a shorter or longer report, so that cases with the same findings do not tie."""
    factor = 0.7 + 0.6 * (int(case_id, 16) * 0.6180339887 % 1)
    affirmed, denied = (
        Terms(terms.ids, tuple(factor * one for one in terms.weights)) for terms in (words.affirmed, words.denied)
    )
    return Words(affirmed, denied, words.present, words.negated)


def build(folder: Path, cases: int, width: int) -> dict[str, Any]:
    """Add all cases to an index, through ``SearchIndex.add``; a killed run goes on where it was.

    Words are read once for each of the different reports, and told apart: at 2 ms they cost more than all the rest.
    """
    path, reports = folder / "index", make_reports()
    start = time.perf_counter()
    words: dict[str, Words] = {report: describe_case(make_case(0, report, findings, 0)) for report, findings in reports}
    words_ms = 1000 * (time.perf_counter() - start) / len(reports)
    image, report = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "report"))
    ages = np.random.default_rng(2).integers(0, 100, cases)
    if not path.exists():
        SearchIndex.create(path, model_digest=DIGEST, width=width, model_name=Standing.name).close()
    start = time.perf_counter()
    with (
        SearchIndex.open(path) as index,
        mock.patch.object(stored_case, "describe_case", lambda case: stretched(words[case.report], case.case_id)),
    ):
        before = len(index)
        for first in range(before, cases, 500):
            rows = range(first, min(cases, first + 500))
            part = [make_case(row, *reports[row % REPORTS], age=int(ages[row])) for row in rows]
            block = slice(rows.start, rows.stop)
            index.add(part, image[block], report[block], folder, model_digest=DIGEST)
    return {"added": cases - before, "added_s": time.perf_counter() - start, "words_ms_a_case": words_ms}


def optimise(folder: Path, way: Way) -> dict[str, Any]:
    start = time.perf_counter()
    with SearchIndex.open(folder / "index") as index:
        index.optimise(way)
    return {"built_s": time.perf_counter() - start}


# ---- measuring -------------------------------------------------------------------------------------------------------


def memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    held = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines if line.startswith(("VmRSS", "RssAnon"))}
    return {"memory_mb": held["VmRSS"], "anonymous_mb": held["RssAnon"]}


def percentiles(
    run: Callable[[int], object], times: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Milliseconds, median and 99th percentile, after three runs that warm up.

    Args:
        clock: ``time.process_time`` tells what all threads worked, which others on the machine touch less.
    """
    for number in range(3):
        run(number)
    taken = []
    for number in range(times):
        start = clock()
        run(number)
        taken.append(1000 * (clock() - start))
    return round(statistics.median(taken), 2), round(statistics.quantiles(taken, n=100)[-1], 2)


def recall(found: Sequence[Sequence[int]], right: np.ndarray) -> float:
    shares = [len(set(one) & set(best.tolist())) / len(best) for one, best in zip(found, right, strict=True)]
    return round(float(np.mean(shares)), 4)


def best_rows(vectors: np.ndarray, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Find the ten best rows of each query exactly, a block at a time."""
    scores, ids = np.full((len(queries), 10), -2.0, np.float32), np.zeros((len(queries), 10), np.int64)
    for start in range(0, len(rows), 100_000):
        block = rows[start : start + 100_000]
        both = np.concatenate([scores, queries @ np.asarray(vectors[block]).T], axis=1)
        names = np.concatenate([ids, np.broadcast_to(block, (len(queries), len(block)))], axis=1)
        top = np.argpartition(-both, 10, axis=1)[:, :10]
        scores, ids = np.take_along_axis(both, top, 1), np.take_along_axis(names, top, 1)
    return ids


def find_truth(folder: Path, cases: int) -> None:
    image, queries = np.load(folder / "image.npy", mmap_mode="r"), np.load(folder / "queries.npy")[:QUERIES]
    ages = np.random.default_rng(2).integers(0, 100, cases)
    passing = {"all": np.arange(cases), "1%": np.flatnonzero(ages == 7)}
    passing |= {"10%": np.flatnonzero(ages < 10), "50%": np.flatnonzero(ages < 50)}
    right: dict[str, Any] = {name: best_rows(image, queries, rows) for name, rows in passing.items()}
    np.savez(folder / "truth.npz", **right)


def measure_ours(folder: Path, _: int, way: Way) -> dict[str, Any]:
    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npz")
    start = time.perf_counter()
    with SearchIndex.open(folder / "index") as index:
        row: dict[str, Any] = {"row": f"medfinder, {way}", "opened_s": time.perf_counter() - start}
        assert index.info().way == way

        def ask(number: int, where: Condition | None = None) -> list[int]:
            found = index.nearest("image", queries[number % QUERIES], limit=10, where=where)
            return [int(case_id, 16) for case_id, _ in found[:10]]

        row["recall"] = recall([ask(number) for number in range(QUERIES)], truth["all"])
        row["ms"] = percentiles(ask, QUERIES)
        for name, expression in FILTERS.items():
            where = parse_filter(expression)
            row[f"ms, {name}"] = percentiles(partial(ask, where=where), 50)
            row[f"recall, {name}"] = recall([ask(number, where) for number in range(QUERIES)], truth[name])
        start = time.perf_counter()
        for number in range(BATCH):
            index.nearest("image", queries[number], limit=10)
        row["batch_s"] = time.perf_counter() - start
        row |= _measure_answers(index, Standing(queries))
        columns = sum(file.stat().st_size for file in (folder / "index" / "columns").iterdir())
        return (
            row | memory() | {"columns_bytes_a_case": columns / len(index), "disk_mb": index.info().size_bytes // 2**20}
        )


def _measure_answers(index: SearchIndex, model: Standing) -> dict[str, Any]:
    """Measure the whole way from a text to ranked hits, without the text encoder."""
    searcher = Searcher(index, model)

    def ask(number: int) -> Query:
        return Query(text=TEXTS[number % len(TEXTS)], k=10)

    first = time.perf_counter()
    searcher.search(ask(0))
    found = {"first_hits_ms": 1000 * (time.perf_counter() - first)}
    hits, answer = (
        percentiles(lambda n: searcher.search(ask(n)), 100),
        percentiles(lambda n: searcher.answer(ask(n)), 100),
    )
    cpu = percentiles(lambda n: searcher.search(ask(n)), 100, time.process_time)
    return found | {"hits_ms": hits, "hits_cpu_ms": cpu, "answer_ms": answer}


def measure_numpy(folder: Path, _: int) -> dict[str, Any]:
    image, queries = np.load(folder / "image.npy"), np.load(folder / "queries.npy")
    ages = np.random.default_rng(2).integers(0, 100, len(image))

    def ask(number: int, rows: np.ndarray | None = None) -> np.ndarray:
        scores = image @ queries[number % QUERIES]
        if rows is not None:
            scores[~rows] = -2
        top = np.argpartition(-scores, 10)[:10]
        return top[np.argsort(-scores[top])]

    row: dict[str, Any] = {"row": "numpy, all scores", "ms": percentiles(ask, 50), "recall": 1.0}
    for name, rows in {"1%": ages == 7, "10%": ages < 10, "50%": ages < 50}.items():
        row[f"ms, {name}"] = percentiles(partial(ask, rows=rows), 20)
    start = time.perf_counter()
    for first in range(0, BATCH, 50):
        np.argpartition(-(queries[first : first + 50] @ image.T), 10, axis=1)
    return row | {"batch_s": time.perf_counter() - start} | memory()


def measure_faiss(folder: Path, threads: int, kind: str) -> dict[str, Any]:
    try:
        import faiss
    except ImportError:
        return {"row": f"faiss, {kind}: not installed (pip install 'medfinder[bench]')"}
    faiss.omp_set_num_threads(threads)
    image, queries, truth = (
        np.load(folder / "image.npy"),
        np.load(folder / "queries.npy"),
        np.load(folder / "truth.npz"),
    )
    start, width = time.perf_counter(), image.shape[1]
    lists = int(4 * np.sqrt(len(image)))
    spell = {"flat": "Flat", "HNSW": "HNSW16", "IVF": f"IVF{lists},Flat"}[kind]
    made: Any = faiss.index_factory(width, spell, faiss.METRIC_INNER_PRODUCT)
    if kind == "HNSW":
        made.hnsw.efConstruction, made.hnsw.efSearch = 100, 128
    made.train(image[:: max(1, len(image) // (40 * lists))])
    made.add(image)
    if kind == "IVF":
        made.nprobe = 16
    built_s = time.perf_counter() - start
    del image

    def ask(number: int) -> np.ndarray:
        return np.asarray(made.search(queries[number % QUERIES][None], 10)[1][0])

    right = recall([ask(number).tolist() for number in range(QUERIES)], truth["all"])
    row: dict[str, Any] = {
        "row": f"faiss, {kind}",
        "ms": percentiles(ask, QUERIES),
        "recall": right,
        "built_s": built_s,
    }
    start = time.perf_counter()
    made.search(queries, 10)
    return row | {"batch_s": time.perf_counter() - start} | memory()


# ---- running ---------------------------------------------------------------------------------------------------------


def apart(work: Callable[..., Any], *given: Any) -> Any:
    """Run in a fresh process, so that its memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


@contextmanager
def scratch(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def run(folder: Path, cases: int, width: int, given: argparse.Namespace) -> dict[str, Any]:
    if not (folder / "truth.npz").exists():
        apart(make_vectors, folder, cases, width)
        apart(find_truth, folder, cases)
    result: dict[str, Any] = {"cases": cases, "width": width, **apart(build, folder, cases, width)}
    rows = []
    for way in given.ways:
        built = apart(optimise, folder, way)
        rows.append({**apart(measure_ours, folder, given.threads, way), **built})
        print_row(rows[-1])
    if not given.ours_only:
        rows.append(apart(measure_numpy, folder, given.threads))
        print_row(rows[-1])
        for kind in ("flat", "HNSW", "IVF"):
            rows.append(apart(measure_faiss, folder, given.threads, kind))
            print_row(rows[-1])
    return result | {"rows": rows, "load": os.getloadavg(), "settings": asdict(IndexSettings())}


COLUMNS = {
    "row": "",
    "recall": "recall@10",
    "ms": "one query, ms",
    "ms, 1%": "1% pass",
    "ms, 10%": "10%",
    "ms, 50%": "50%",
    "batch_s": "1,000 queries, s",
    "hits_ms": "text to hits",
    "hits_cpu_ms": "of which work",
    "answer_ms": "with counts",
    "memory_mb": "memory, MB",
    "anonymous_mb": "anonymous",
    "built_s": "built, s",
    "disk_mb": "disk, MB",
}


def print_row(row: dict[str, Any]) -> None:
    def spell(value: Any) -> str:
        if isinstance(value, tuple | list):
            return " / ".join(f"{one:.1f}" for one in value)
        return (
            f"{value:.3f}"
            if isinstance(value, float) and value <= 1
            else f"{value:.1f}"
            if isinstance(value, float)
            else str(value)
        )

    print("| " + " | ".join(spell(row.get(column, "")) for column in COLUMNS) + " |", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, nargs="+", default=[8_000])
    options.add_argument("--dim", type=int, default=512)
    options.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options.add_argument("--threads", type=int, default=2, help="of faiss; the other rows use what they use")
    options.add_argument("--ours-only", action="store_true")
    options.add_argument("--keep", type=Path, help="folder for vectors and index, so that a killed run goes on")
    options.add_argument("--out", type=Path, help="JSON file")
    given = options.parse_args()
    results = []
    for cases in given.cases:
        with scratch(given.keep / str(cases) if given.keep else None) as folder:
            print(f"\n{cases:,} cases of width {given.dim}; times are p50 / p99\n")
            print("| " + " | ".join(COLUMNS.values()) + " |\n|" + "---|" * len(COLUMNS), flush=True)
            results.append(run(folder, cases, given.dim, given))
            told = results[-1]
            print(f"\nadded {told['added']} in {told['added_s']:.0f} s, words {told['words_ms_a_case']:.2f} ms a case")
            if given.keep is None:
                shutil.rmtree(folder / "index")
    if given.out:
        given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
