"""How fast the index takes cases and answers, beside a NumPy matrix product: ``python benchmarks/index.py``.

Prints one table. Vectors are random, reports are made of the vocabulary's words; under a minute on one core.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medfinder.curation.keywords import KEYWORDS
from medfinder.records import Case, Finding, Query
from medfinder.retrieval.filters import parse_filter
from medfinder.retrieval.index import SearchIndex
from medfinder.retrieval.lexical import describe_case, describe_query
from medfinder.retrieval.search import Searcher
from medfinder.volume import Grid


class RandomModel:
    """Stands in for a model, so that the index alone is measured."""

    name = "random"
    digest = "0" * 64
    is_synthetic = True
    grid = Grid()

    def __init__(self, width: int) -> None:
        self.width = width
        self._rng = np.random.default_rng(1)

    def encode_volumes(self, hu: Sequence[np.ndarray]) -> np.ndarray:
        return unit(self._rng, len(hu), self.width)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return unit(self._rng, len(texts), self.width)

    def encode_sentences(self, texts: Sequence[str]) -> np.ndarray:
        return self.encode_texts(texts)


def unit(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    vectors = rng.normal(size=(rows, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def make_case(number: int, rng: np.random.Generator) -> Case:
    names = list(KEYWORDS)
    present, absent = rng.choice(names, 3, replace=False), rng.choice(names, 3, replace=False)
    report = " ".join([f"{name.capitalize()} is seen in the lung." for name in present] + [f"No {n}." for n in absent])
    return Case(
        case_id=f"case-{number:07}",
        study_id=f"study-{number}",
        patient_id=f"patient-{number // 2}",
        source="phantoms",
        split="test",
        volume=f"volumes/{number}.nii",
        report=report,
        report_es="",
        findings=tuple(Finding(str(name)) for name in present),
        findings_from="truth",
        age_years=int(rng.integers(18, 95)),
        sex="F" if rng.random() < 0.5 else "M",
        date_offset_days=0,
        spacing_mm=(0.7, 0.7, 1.5),
        shape=(512, 512, 275),
        region="chest",
        is_synthetic=True,
    )


def time_ms(run: Callable[[], object], times: int = 50) -> tuple[float, float]:
    """Median and 95th percentile, after one run that warms up."""
    run()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken), statistics.quantiles(taken, n=20)[-1]


def show(what: str, figures: tuple[float, float]) -> None:
    print(f"{what:<58} {figures[0]:9.2f} {figures[1]:9.2f}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, default=8_000)
    options.add_argument("--width", type=int, default=256)
    options.add_argument("--batch", type=int, default=100)
    given = options.parse_args()
    rng = np.random.default_rng(0)
    image, report = unit(rng, given.cases, given.width), unit(rng, given.cases, given.width)
    cases = [make_case(number, rng) for number in range(given.cases)]

    with tempfile.TemporaryDirectory() as folder:
        model = RandomModel(given.width)
        create = {"model_digest": model.digest, "width": model.width, "model_name": model.name}
        start = time.perf_counter()
        index = SearchIndex.create(Path(folder) / "index", **create)  # type: ignore[arg-type]  # plain keywords
        created_s = time.perf_counter() - start

        start = time.perf_counter()
        for case in cases[:500]:
            describe_case(case)
        words_ms = 1000 * (time.perf_counter() - start) / min(500, len(cases))

        start = time.perf_counter()
        for first in range(0, given.cases, given.batch):
            part = slice(first, first + given.batch)
            index.add(cases[part], image[part], report[part], Path(folder), model_digest=model.digest)
        added_s = time.perf_counter() - start

        start = time.perf_counter()
        index.close()
        index = SearchIndex.open(index.path)
        opened_s = time.perf_counter() - start
        searcher = Searcher(index, model)
        query = image[7]
        one_percent = parse_filter("findings = mass and age >= 60 and sex = F")
        half = parse_filter("sex = F")
        words = describe_query("left pleural effusion with emphysema").affirmed

        print(f"{given.cases} cases, width {given.width}, {index.info().size_bytes / 1e6:.0f} MB on disk")
        print(f"create {created_s:.2f} s; close and open {opened_s:.2f} s")
        print(f"add {given.cases / added_s:.0f} cases/s in batches of {given.batch}; words {words_ms:.2f} ms a case")
        print(f"filter shares: {index.count(one_percent) / len(cases):.1%}, {index.count(half) / len(cases):.1%}")
        print(f"{'top 10, ms':<58} {'p50':>9} {'p95':>9}")
        show("numpy, all scores and argpartition", time_ms(lambda: np.argpartition(-(image @ query), 10)[:10]))
        show("index, exact", time_ms(lambda: index.nearest("image", query, limit=10)))
        show(
            "index, exact, filter of the smaller share",
            time_ms(lambda: index.nearest("image", query, limit=10, where=one_percent)),
        )
        show(
            "index, exact, filter of the larger share",
            time_ms(lambda: index.nearest("image", query, limit=10, where=half)),
        )
        show("index, BM25", time_ms(lambda: index.nearest("affirmed", words, limit=10)))
        show(
            "search by text, without the text encoder",
            time_ms(lambda: searcher.search(Query(text="left pleural effusion", k=10))),
        )
        show("search by keyword", time_ms(lambda: searcher.search(Query(keyword="mass", k=10))))
        agreed = set(np.argsort(-(image @ query))[:10])
        found = {int(case_id[5:]) for case_id, _ in index.nearest("image", query, limit=10)[:10]}
        print(f"the index's top 10 and NumPy's: {len(agreed & found)} of 10 the same")
        index.close()
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
