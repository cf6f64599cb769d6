"""Learn how the parts of a score are weighed: ``python benchmarks/fusion.py DATASET --model CHECKPOINT [--write]``.

Archives are made of a split in which some cases, by the hash of their ids, have no report: half of them, so that words
find half of what is there, and seven eighths, as where reports lie in another system. Of the others the index knows
what can be read in the report, not the truth. Queries are findings by their English and Spanish names, two findings
together, and one without another; the truth decides what is relevant, two for all that is asked, one for a part.
Weights and thresholds are learnt on ``val`` and told on ``test``:

- nDCG@10 of each part alone and of all together, all with the same filters and the same care for denials; the weights
  are learnt for the mean of both archives;
- the best cosine of a report, below which words have no good match: the lowest twentieth of queries with an answer, and
  how many sentences of everyday life fall below it;
- the same for CTs, the lowest hundredth, and how many CTs turned upside down fall below it.

``--write`` puts what was learnt into ``calibration.toml``, where searches find it; a threshold that lets more than half
of the strangers pass is not written.
"""

import argparse
import hashlib
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from medfinder.curation.dataset import Dataset
from medfinder.curation.keywords import KEYWORDS, extract_findings
from medfinder.models.checkpoint import load_model
from medfinder.records import Case, Query
from medfinder.retrieval.columns import points_of
from medfinder.retrieval.fusion import Tables, fuse, load_calibration
from medfinder.retrieval.index import SearchIndex
from medfinder.retrieval.search import Searcher

_GRID = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
_PARTS = ("image", "report", "affirmed", "denied")
_LEAST_RELEVANT = 3
_SHARES = (0.5, 0.125)
_EVERYDAY = """
    recipe for apple cake with cinnamon|second-hand bicycle with new brakes|train timetable to the coast
    how to prune roses in spring|football results of the weekend|interest rates of savings banks
    red wool jumper in large|la receta de la paella valenciana|alquiler de pisos en el centro
    weather forecast for the mountains|tuning a guitar by ear|history of the Roman aqueducts
    horario de la biblioteca municipal|planting tomatoes on a balcony|cheap flights in August
    chess openings for beginners|painting a wooden fence|entradas para el concierto de jazz
    repairing a dripping tap|dog training for puppies
"""


@dataclass(frozen=True)
class Question:
    """A query, the findings that it asks for and those that it excludes."""

    text: str
    asked: frozenset[str]
    denied: frozenset[str] = frozenset()

    def gain(self, findings: frozenset[str]) -> float:
        """Say how relevant a case is by what is truly there."""
        if findings & self.denied:
            return 0.0
        return 2.0 if findings >= self.asked else float(bool(findings & self.asked))


class Archive:
    """The cases of one split, a share of them with a report, embedded and indexed."""

    def __init__(
        self, hu: list[np.ndarray], cases: list[Case], image: np.ndarray, share: float, model: object, folder: Path
    ) -> None:
        self.hu, self.image = hu, image
        self.truth = {
            case.case_id: frozenset(one.name for one in case.findings if one.status == "present") for case in cases
        }
        known = [as_archived(case, share) for case in cases]
        report = model.encode_texts([case.report or "none" for case in known])  # type: ignore[attr-defined]  # a DualEncoder
        index = SearchIndex.create(folder, model_digest=model.digest, width=model.width, model_name=model.name)  # type: ignore[attr-defined]  # same
        index.add(known, image, report, folder, model_digest=model.digest)  # type: ignore[attr-defined]  # same
        self.patients = [case.patient_id for case in cases]
        self.searcher = Searcher(index, model)  # type: ignore[arg-type]  # same

    def questions(self) -> list[Question]:
        """Ask for what at least a few cases have."""
        count = {name: sum(name in one for one in self.truth.values()) for name in KEYWORDS}
        names = [name for name, cases in count.items() if cases >= _LEAST_RELEVANT]
        singles = [Question(name, frozenset([name])) for name in names]
        singles += [
            Question(KEYWORDS[name].names_es[0], frozenset([name])) for name in names if KEYWORDS[name].names_es
        ]
        pairs = [
            (one, other)
            for one, other in itertools.permutations(names, 2)
            if sum({one, other} <= case for case in self.truth.values()) >= _LEAST_RELEVANT
        ]
        both = [Question(f"{one} with {other}", frozenset([one, other])) for one, other in pairs if one < other]
        without = [Question(f"{one} without {other}", frozenset([one]), frozenset([other])) for one, other in pairs]
        asked = [*singles, *both[:40], *without[:40]]
        return [one for one in asked if any(one.gain(case) == 2 for case in self.truth.values())]


def as_archived(case: Case, share: float) -> Case:
    """Take a case's report away, or the truth behind it; a share of the cases keeps the report."""
    if hashlib.sha256(case.case_id.encode()).digest()[0] >= 256 * share:
        return replace(case, report="", report_es="", findings=(), findings_from="none")
    found = tuple(one for one in extract_findings(case.report, "en") if one.status == "present")
    return replace(case, findings=found, findings_from="report")


@dataclass(frozen=True)
class Ranking:
    """What a question's parts gave, and what each case is worth."""

    tables: Tables
    case_ids: Mapping[int, str]
    agreement: Mapping[str, float]
    gains: Mapping[str, float]
    ideal: Sequence[float]
    depth: int

    def ndcg(self, weights: Mapping[str, float]) -> float:
        """Fuse by some weights and score the first ten, ties by case id."""
        fused = fuse(self.tables, weights, depth=self.depth)  # type: ignore[arg-type]  # names of spaces
        case_ids = [self.case_ids[point] for point in fused.points.tolist()]
        scores = [score * self.agreement.get(one, 1.0) for one, score in zip(case_ids, fused.scores, strict=True)]
        order = sorted(zip([-round(score, 6) for score in scores], case_ids, strict=True))[:10]
        return dcg([self.gains[case_id] for _, case_id in order]) / dcg(self.ideal)


def dcg(gains: Sequence[float]) -> float:
    return float(sum(gain / np.log2(place + 2) for place, gain in enumerate(gains[:10])))


def rankings(archive: Archive) -> list[Ranking]:
    searcher, found = archive.searcher, []
    points = points_of(archive.truth)
    case_ids = dict(zip(points.tolist(), archive.truth, strict=True))
    for question in archive.questions():
        asked = searcher._reader.read(Query(text=question.text))
        tables = searcher._tables(asked, asked.possible, 500)
        agreement: dict[str, float] = {}
        if asked.words.present or asked.words.negated:
            agreement = dict(zip(archive.truth, searcher._agreement(points, asked.words).tolist(), strict=True))
        gains = {case_id: question.gain(findings) for case_id, findings in archive.truth.items()}
        found.append(Ranking(tables, case_ids, agreement, gains, sorted(gains.values(), reverse=True), 500))
    return found


def learn(found: Sequence[Ranking]) -> dict[str, float]:
    """Try every combination; the words' weight is 1, since only proportions count."""
    grid = [
        {"image": image, "report": report, "affirmed": 1.0, "denied": denied}
        for image, report, denied in itertools.product(_GRID, _GRID, (0.0, 0.25, 0.5))
    ]
    return max(grid, key=lambda weights: (mean(found, weights), -sum(weights.values())))


def mean(found: Sequence[Ranking], weights: Mapping[str, float]) -> float:
    return float(np.mean([one.ndcg(weights) for one in found]))


def best_reports(archive: Archive, texts: Sequence[str]) -> np.ndarray:
    """Tell the cosine of the nearest report to each text."""
    vectors = archive.searcher._model.encode_texts(texts)
    return np.array([archive.searcher.index.nearest("report", one, limit=1)[0][1] for one in vectors])


def best_images(archive: Archive, vectors: np.ndarray) -> np.ndarray:
    """Tell the cosine of the nearest case of another patient to each case."""
    cosines = vectors @ archive.image.T
    same = np.array([[one == other for other in archive.patients] for one in archive.patients])
    return np.asarray(np.where(same, -1.0, cosines).max(axis=1))


def tell(split: str, found: Sequence[Ranking], ways: Mapping[str, Mapping[Any, float]]) -> None:
    print(f"\nnDCG@10 on {split}, {len(found)} queries")
    for name, weights in ways.items():
        print(f"  {name:<12} {mean(found, weights):.3f}   {dict(weights)}")
    rng = np.random.default_rng(0)
    shuffled = [dcg(rng.permutation(list(one.gains.values())).tolist()) / dcg(one.ideal) for one in found]
    print(f"  {'chance':<12} {np.mean(shuffled):.3f}")


def write(
    weights: Mapping[str, float], least_text: float | None, least_ct: float | None, model: object, told: str
) -> None:
    """Write what was learnt; what was not stays."""
    path, old = Path(str(resources.files("medfinder.retrieval").joinpath("calibration.toml"))), load_calibration()
    tables: dict[str, Mapping[Any, float]] = {"text": old.text, "finding": weights, "ct": old.ct}
    lines = [
        "# How the parts of a score are weighed, and below what an answer is told to be no good match.",
        "# Written by `python benchmarks/fusion.py DATASET --model CHECKPOINT --write`: weights.finding and",
        "# no_good_match are learnt; weights.text and weights.ct are ours.",
        "",
        "[source]",
        f'model = "{model.name}"',  # type: ignore[attr-defined]  # a DualEncoder
        f'model_digest = "{model.digest}"',  # type: ignore[attr-defined]  # same
        f'told = "{told}"',
    ]
    for name, parts in tables.items():
        lines += ["", f"[weights.{name}]", *(f"{part} = {weight}" for part, weight in parts.items())]
    least = {"least_text": least_text, "least_ct": least_ct}
    lines += ["", "[no_good_match]", *(f"{name} = {value:.4f}" for name, value in least.items() if value is not None)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def thresholds(
    val: Archive, test: Archive, encode: Callable[[list[np.ndarray]], np.ndarray]
) -> tuple[float | None, float | None]:
    """Learn both thresholds on val and tell on test how often they are right; None where few strangers are held."""
    asked = [[question.text for question in archive.questions()] for archive in (val, test)]
    everyday = [one.strip() for line in _EVERYDAY.split("\n") for one in line.split("|") if one.strip()]
    least_text = float(np.quantile(best_reports(val, asked[0]), 0.05))
    least_ct = float(np.quantile(best_images(val, val.image), 0.01))
    turned = encode([np.ascontiguousarray(hu[:, :, ::-1]) for hu in test.hu[:50]]) @ test.image.T
    strange_texts = float(np.mean(best_reports(test, everyday) < least_text))
    strange_cts = float(np.mean(turned.max(axis=1) < least_ct))
    print(f"\nleast_text {least_text:.3f}: of {len(asked[1])} queries with an answer", end=" ")
    print(f"{np.mean(best_reports(test, asked[1]) < least_text):.2f} fall below, of {len(everyday)} others", end=" ")
    print(f"{strange_texts:.2f}")
    print(f"least_ct {least_ct:.3f}: of {len(test.hu)} CTs", end=" ")
    print(f"{np.mean(best_images(test, test.image) < least_ct):.2f} fall below,", end=" ")
    print(f"of {len(turned)} turned upside down {strange_cts:.2f}")
    return least_text if strange_texts > 0.5 else None, least_ct if strange_cts > 0.5 else None


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("dataset", type=Path)
    options.add_argument("--model", type=Path, default=None)
    options.add_argument("--cases", type=int, default=10**9, help="the first so many of each split")
    options.add_argument("--write", action="store_true")
    given = options.parse_args()
    dataset, model = Dataset.open(given.dataset), load_model(given.model)
    with tempfile.TemporaryDirectory() as folder:
        val, test = (archives(dataset, split, given.cases, model, Path(folder)) for split in ("val", "test"))
        found = {"val": [rankings(one) for one in val], "test": [rankings(one) for one in test]}
        learnt = learn([one for several in found["val"] for one in several])
        alone: dict[str, Mapping[str, float]] = {part: {part: 1.0} for part in _PARTS[:3]}
        ways: dict[str, Mapping[Any, float]] = {**alone, "as shipped": load_calibration().finding, "learnt": learnt}
        told = []
        for share, *both in zip(_SHARES, found["val"], found["test"], strict=True):
            for split, several in zip(found, both, strict=True):
                tell(f"{split}, {share:.1%} with reports", several, ways)
            best = max(mean(both[1], weights) for weights in alone.values())
            ours = mean(both[1], learnt)
            told.append(f"{share:.1%} with reports: {ours:.3f}, best part {best:.3f} ({ours / best - 1:+.1%})")
        print(f"\nnDCG@10 on {len(found['test'][0])} test queries: {'; '.join(told)}")
        least_text, least_ct = thresholds(val[0], test[0], model.encode_volumes)
        if given.write:
            write(learnt, least_text, least_ct, model, f"nDCG@10 on synthetic test queries, {'; '.join(told)}")


def archives(dataset: Dataset, split: str, most: int, model: Any, folder: Path) -> list[Archive]:
    """Make the archives of one split."""
    cases = [case for case in dataset.cases if case.split == split][:most]
    hu = [np.asarray(dataset.volume(case)) for case in cases]
    image = model.encode_volumes(hu)
    return [Archive(hu, cases, image, share, model, folder / f"{split}{share}") for share in _SHARES]


if __name__ == "__main__":
    main()
