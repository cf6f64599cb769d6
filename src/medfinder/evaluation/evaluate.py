"""One model on one split: caption retrieval in both directions, keyword retrieval, chance and intervals.

In: a curated dataset, a model, a split. Out: one plain dictionary, ready for JSON. Refused: a split with fewer than two
patients who have a report, a model whose grid is not the dataset's, an unknown keyword, vectors that are not unit
vectors.

Who asks for whom (the paper leaves it open, so this is our reading):

- The gallery of text-to-image is every volume of the split that has a report; its queries are the reports, each once a
  study, whole. The gallery of image-to-text is those same reports; its queries are the volumes.
- Right answers are everything of the same study and everything with the same report text.
- A keyword is asked by its bare canonical name and answered by image alone. Its gallery is every volume whose findings
  are known; relevant are those where it is present, neither absent nor uncertain. ``findings_from`` counts where that
  knowledge comes from: a phantom's truth, an expert's label, or the report.
- Cases without a report take no part in caption retrieval, cases without known findings none in keyword retrieval.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder.curation.dataset import Dataset
from medfinder.curation.keywords import resolve_keyword
from medfinder.errors import CheckpointError, ConfigError
from medfinder.evaluation.metrics import (
    PRECISION_AT,
    chance_ranks,
    interval,
    patient_weights,
    precision_at_k,
    precision_draws,
    rank_intervals,
    ranks,
    summarise_ranks,
)
from medfinder.models.protocol import DualEncoder
from medfinder.records import Case

Progress = Callable[[int, int], None]
Vectors = NDArray[np.float32]
Pair = tuple[float, float]

PAPER_KEYWORDS = ("atelectasis", "consolidation", "adenopathy")
"""The three of the paper's table 3."""

MIN_BASE_RATE = 0.05
"""Ours: with fewer relevant cases than that, P@20 of a split of 400 cannot reach 1."""

SCORE_DECIMALS = 6
"""Ours: vectors are float32, so cosines nearer than 1e-6 differ by rounding alone; they count as ties, against us."""

_BLOCK = 256
_AT_ONCE = 16


def evaluate(
    dataset: Dataset,
    model: DualEncoder,
    split: str,
    *,
    seed: int = 0,
    bootstrap: int = 1000,
    keywords: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure ``model`` on one split of ``dataset``.

    Args:
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.
        seed: of the bootstrap; nothing else is random.
        bootstrap: draws of patients behind each interval.
        keywords: names, synonyms or abbreviations; None takes the paper's three and every finding that at least 5% of
            the split's cases have.
        progress: told (done, total) of volumes and reports.

    Returns:
        ``n`` paired volumes; ``chance``, ``text_to_image``, ``image_to_text`` with recalls in percent; ``keyword``
        with P@K and ``base_rate`` from 0 to 1 and their ``"mean"``; ``intervals`` shaped like these, each number a
        (low, high) pair; and what was measured: model, digest, dataset, split, seed, whether it is synthetic.

    Raises:
        ConfigError: the split, grid or a keyword cannot be honoured.
        CheckpointError: the model returns something other than unit vectors.
    """
    if model.grid != dataset.grid:
        raise ConfigError(
            f"model {model.name} wants volumes on {model.grid}, the dataset has {dataset.grid}; curate it on that grid"
        )
    cases = dataset.select(split)
    asked = None if keywords is None else resolve_keywords(keywords)
    paired = [case for case in cases if case.report.strip()]
    _require_patients(paired, f"split {split} with a report")
    reports = list({(case.study_id, case.report): case for case in paired}.values())
    images, texts = _embed(dataset, model, cases, reports, progress)
    captions = _measure_captions(paired, images, reports, texts, samples=bootstrap, seed=seed)
    found = _measure_keywords(model, cases, images, asked, samples=bootstrap, seed=seed)
    return {
        "n": len(paired),
        "chance": captions.chance,
        **captions.values,
        "keyword": found.values,
        "intervals": {**captions.intervals, "keyword": found.intervals},
        "model": model.name,
        "digest": model.digest,
        "dataset": dataset.digest,
        "split": split,
        "n_reports": len(reports),
        "n_patients": len({case.patient_id for case in paired}),
        "n_keyword": found.gallery,
        "findings_from": found.sources,
        "synthetic": all(case.is_synthetic for case in cases),
        "n_synthetic": sum(case.is_synthetic for case in cases),
        "model_is_synthetic": model.is_synthetic,
        "bootstrap": {"samples": bootstrap, "seed": seed, "level": 95, "unit": "patient"},
    }


def resolve_keywords(words: Sequence[str]) -> list[str]:
    """Return the canonical names that ``words`` stand for, each once, in their order.

    Raises:
        ConfigError: a word stands for no known finding, or there is none.
    """
    names = []
    for word in words:
        name = resolve_keyword(word)
        if name is None:
            raise ConfigError(f"unknown keyword {word!r}; give a finding such as {', '.join(PAPER_KEYWORDS)}")
        names.append(name)
    if not names:
        raise ConfigError("no keyword given; name at least one finding, or leave the choice to the default")
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class _Captions:
    values: dict[str, dict[str, float]]
    chance: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, Pair]]


def _measure_captions(
    paired: Sequence[Case],
    images: dict[str, Vectors],
    reports: Sequence[Case],
    texts: Vectors,
    *,
    samples: int,
    seed: int,
) -> _Captions:
    """Measure reports against volumes and volumes against reports."""
    volumes = np.stack([images[case.case_id] for case in paired])
    directions = {
        "text_to_image": (texts, reports, volumes, paired),
        "image_to_text": (volumes, paired, texts, reports),
    }
    values, chance, intervals = {}, {}, {}
    for name, (asking, askers, answering, answers) in directions.items():
        found, right = _rank_in_blocks(asking, askers, answering, answers)
        weights = patient_weights(
            [case.patient_id for case in askers], samples=samples, rng=np.random.default_rng(seed)
        )
        values[name] = summarise_ranks(found)
        chance[name] = chance_ranks(right, len(answers))
        intervals[name] = rank_intervals(found, weights)
    return _Captions(values, chance, intervals)


def _rank_in_blocks(
    asking: Vectors, askers: Sequence[Case], answering: Vectors, answers: Sequence[Case]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rank the best right answer of each query and count the right ones, without holding the whole score matrix."""
    study = {study_id: code for code, study_id in enumerate({case.study_id for case in answers})}
    text = {report: code for code, report in enumerate({case.report for case in answers})}

    def codes(cases: Sequence[Case]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return np.array([study[case.study_id] for case in cases]), np.array([text[case.report] for case in cases])

    asker_study, asker_text = codes(askers)
    answer_study, answer_text = codes(answers)
    found, right = [], []
    for start in range(0, len(askers), _BLOCK):
        block = slice(start, start + _BLOCK)
        relevant = asker_study[block, None] == answer_study
        relevant |= asker_text[block, None] == answer_text
        found.append(ranks(_cosines(asking[block], answering), relevant))
        right.append(relevant.sum(axis=1))
    return np.concatenate(found), np.concatenate(right)


@dataclass(frozen=True)
class _Keywords:
    values: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, Pair]]
    gallery: int
    sources: dict[str, int]


def _measure_keywords(
    model: DualEncoder,
    cases: Sequence[Case],
    images: dict[str, Vectors],
    asked: Sequence[str] | None,
    *,
    samples: int,
    seed: int,
) -> _Keywords:
    """Measure P@K of findings asked by name; the mean is over the findings that at least one case has."""
    known = [case for case in cases if case.findings_from != "none"]
    if len({case.patient_id for case in known}) < 2:
        if asked is not None:
            _require_patients(known, "this split with known findings")
        return _Keywords({}, {}, len(known), {})
    present = [{finding.name for finding in case.findings if finding.status == "present"} for case in known]
    names = list(asked) if asked is not None else _default_keywords(present)
    queries = _checked(model, model.encode_texts(names), len(names))
    scores = _cosines(queries, np.stack([images[case.case_id] for case in known]))
    weights = patient_weights([case.patient_id for case in known], samples=samples, rng=np.random.default_rng(seed))
    values: dict[str, dict[str, float]] = {}
    draws: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, row in zip(names, scores, strict=True):
        relevant = np.array([name in found for found in present])
        precisions = {f"P@{k}": precision_at_k(row, relevant, k) for k in PRECISION_AT}
        values[name] = {**precisions, "base_rate": float(relevant.mean()), "relevant": int(relevant.sum())}
        draws[name] = {f"P@{k}": precision_draws(row, relevant, k, weights) for k in PRECISION_AT}
    if seen := [name for name in names if values[name]["relevant"]]:
        measures = [f"P@{k}" for k in PRECISION_AT]
        values["mean"] = {m: float(np.mean([values[name][m] for name in seen])) for m in (*measures, "base_rate")}
        draws["mean"] = {m: np.mean([draws[name][m] for name in seen], axis=0) for m in measures}
    intervals = {name: {m: interval(drawn) for m, drawn in row.items()} for name, row in draws.items()}
    return _Keywords(values, intervals, len(known), dict(Counter(case.findings_from for case in known)))


def _default_keywords(present: Sequence[set[str]]) -> list[str]:
    counts = Counter(name for found in present for name in found)
    frequent = {name for name, count in counts.items() if count >= MIN_BASE_RATE * len(present)}
    return [*PAPER_KEYWORDS, *sorted(frequent - set(PAPER_KEYWORDS))]


def _embed(
    dataset: Dataset,
    model: DualEncoder,
    cases: Sequence[Case],
    reports: Sequence[Case],
    progress: Progress | None,
) -> tuple[dict[str, Vectors], Vectors]:
    """Embed volumes and reports a few at a time, so that memory does not grow with the split and progress shows.

    Returns:
        The vector of each case's volume by case id; the vectors of the reports in their order.
    """
    total = len(cases) + len(reports)
    images: dict[str, Vectors] = {}
    for some in _in_batches(cases):
        vectors = _checked(model, model.encode_volumes([dataset.volume(case) for case in some]), len(some))
        images.update(zip([case.case_id for case in some], vectors, strict=True))
        if progress:
            progress(len(images), total)
    texts: list[Vectors] = []
    for some in _in_batches(reports):
        texts.extend(_checked(model, model.encode_texts([case.report for case in some]), len(some)))
        if progress:
            progress(len(cases) + len(texts), total)
    return images, np.stack(texts)


def _in_batches(cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
    return (cases[start : start + _AT_ONCE] for start in range(0, len(cases), _AT_ONCE))


def _checked(model: DualEncoder, vectors: NDArray[Any], count: int) -> Vectors:
    if vectors.shape != (count, model.width):
        raise CheckpointError(
            f"model {model.name} returned vectors of shape {vectors.shape}; expected ({count}, {model.width})"
        )
    lengths = np.linalg.norm(vectors, axis=1)
    # A NaN length fails this comparison too.
    lost = int((~(np.abs(lengths - 1) < 1e-3)).sum())
    if lost:
        raise CheckpointError(f"model {model.name}: {lost} of {count} vectors are not of length 1; train it again")
    return np.asarray(vectors, dtype=np.float32)


def _cosines(queries: Vectors, gallery: Vectors) -> NDArray[np.float64]:
    return np.round(queries.astype(np.float64) @ gallery.astype(np.float64).T, SCORE_DECIMALS)


def _require_patients(cases: Sequence[Case], what: str) -> None:
    patients = len({case.patient_id for case in cases})
    if patients < 2:
        raise ConfigError(
            f"{what} holds {len(cases)} cases of {patients} patients; ranks and intervals need at least 2 patients"
        )
