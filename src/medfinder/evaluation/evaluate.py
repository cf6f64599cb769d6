"""One model on one split: captions both ways, keywords, findings without training, CT to CT, with chance and intervals.

In: a curated dataset, a model, a split. Out: one plain dictionary, ready for JSON, and what each query got. Refused: a
split with fewer than two patients who have a report, a model whose grid is not the dataset's, an unknown keyword,
vectors that are not unit vectors. Who asks for whom: ``medfinder.evaluation.trial``. ``findings_from`` counts where the
knowledge of findings comes from: a phantom's truth, an expert's label, or the report.

A finding X is classified without training by score("X") - score("no X"), as CheXzero does (Tiu et al., Nature
Biomedical Engineering 6 (2022), 1399-1406; a softmax over the pair orders cases alike); the AUROC by "X" alone stands
beside it. What a label or a phantom's truth does not name, or a report does not mention, counts as absent.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfinder.curation.dataset import Dataset
from medfinder.errors import ConfigError
from medfinder.evaluation.answers import Answers, Name, Numbers, nest
from medfinder.evaluation.metrics import (
    PRECISION_AT,
    SIMILAR_AT,
    average_precision_at_k,
    chance_average_precision,
    chance_ndcg,
    chance_ranks,
    interval,
    ndcg_at_k,
    ranks,
)
from medfinder.evaluation.scorers import Progress, Scorer, embed
from medfinder.evaluation.trial import PAPER_KEYWORDS, Trial, set_trial
from medfinder.models.protocol import DualEncoder

__all__ = ["PAPER_KEYWORDS", "Evaluation", "chance_of", "evaluate", "evaluate_fully", "measure"]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        result: plain values, ready for JSON; see :func:`evaluate`.
        answers: what each query got.
    """

    result: dict[str, Any]
    answers: Answers


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
        ``n`` paired volumes; ``chance``, ``text_to_image``, ``image_to_text`` with recalls in percent; ``keyword`` with
        P@K and ``base_rate`` from 0 to 1 and their ``"mean"``; ``finding`` with the AUROC of each finding and its
        ``"mean"``; ``similar`` with MAP@K and nDCG@K of CT to CT; ``intervals`` shaped like these, each number a
        (low, high) pair; and what was measured: model, digest, dataset, split, seed, whether it is synthetic.

    Raises:
        ConfigError: the split, grid or a keyword cannot be honoured.
        CheckpointError: the model returns something other than unit vectors.
    """
    whole = evaluate_fully(dataset, model, split, seed=seed, bootstrap=bootstrap, keywords=keywords, progress=progress)
    return whole.result


def evaluate_fully(
    dataset: Dataset,
    model: DualEncoder,
    split: str,
    *,
    seed: int = 0,
    bootstrap: int = 1000,
    keywords: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure as :func:`evaluate` does and keep what each query got, so that models can be compared."""
    if model.grid != dataset.grid:
        raise ConfigError(
            f"model {model.name} wants volumes on {model.grid}, the dataset has {dataset.grid}; curate it on that grid"
        )
    trial = set_trial(dataset.select(split), split, keywords)
    scorer = embed(dataset, model, trial, progress)
    return measure(trial, scorer, dataset=dataset.digest, split=split, seed=seed, bootstrap=bootstrap)


def measure(
    trial: Trial, scorer: Scorer, *, dataset: str, split: str, seed: int = 0, bootstrap: int = 1000
) -> Evaluation:
    """Measure anything that can score the volumes and reports of a trial.

    Args:
        dataset: its digest.
    """
    answers = answer(trial, scorer, dataset=dataset)
    numbers = {**answers.numbers(), **base_rates(trial)}
    drawn = answers.draws(samples=bootstrap, seed=seed)
    intervals = {name: interval(draws) for name, draws in drawn.items() if not np.isnan(draws).all()}
    empty: dict[str, Any] = {"keyword": {}, "finding": {}, "similar": {}}
    return Evaluation(
        {
            "n": len(trial.paired),
            "chance": nest(chance_of(trial)),
            **empty,
            **nest(numbers),
            "intervals": {**empty, **nest(intervals)},
            "model": scorer.name,
            "digest": scorer.digest,
            "model_is_synthetic": scorer.is_synthetic,
            **describe_trial(trial, dataset=dataset, split=split),
            "bootstrap": {"samples": bootstrap, "seed": seed, "level": 95, "unit": "patient"},
        },
        answers,
    )


def describe_trial(trial: Trial, *, dataset: str, split: str) -> dict[str, Any]:
    """Say on what was measured."""
    return {
        "dataset": dataset,
        "split": split,
        "n": len(trial.paired),
        "n_reports": len(trial.reports),
        "n_patients": len({case.patient_id for case in trial.volumes}),
        "n_keyword": len(trial.known),
        "n_similar": len(_asking(trial)),
        "findings_from": dict(Counter(case.findings_from for case in trial.gallery)),
        "synthetic": all(case.is_synthetic for case in trial.cases),
        "n_synthetic": sum(case.is_synthetic for case in trial.cases),
    }


def answer(trial: Trial, scorer: Scorer, *, dataset: str) -> Answers:
    """Let a scorer answer every query of a trial."""
    volumes, gallery = trial.volumes, trial.gallery
    asking = _asking(trial)
    scores, contrasts = _score_findings(trial, scorer)
    return Answers(
        dataset=dataset,
        text_to_image_ids=np.array([case.study_id for case in trial.reports]),
        text_to_image_patients=np.array([case.patient_id for case in trial.reports]),
        text_to_image_ranks=_rank_volumes(trial, scorer),
        image_to_text_ids=np.array([case.case_id for case in volumes]),
        image_to_text_patients=np.array([case.patient_id for case in volumes]),
        image_to_text_ranks=_rank_reports(trial, scorer),
        keyword_ids=np.array([case.case_id for case in gallery], dtype=str),
        keyword_patients=np.array([case.patient_id for case in gallery], dtype=str),
        names=np.array(trial.names, dtype=str),
        is_averaged=trial.is_averaged if gallery else np.zeros(len(trial.names), dtype=bool),
        status=trial.status,
        scores=scores,
        contrasts=contrasts,
        similar_ids=np.array([gallery[place].case_id for place in asking], dtype=str),
        similar_patients=np.array([gallery[place].patient_id for place in asking], dtype=str),
        similar_measures=np.array([f"{measure}@{k}" for measure in ("MAP", "nDCG") for k in SIMILAR_AT]),
        similar=_judge_alike(trial, scorer, asking),
    )


def _rank_volumes(trial: Trial, scorer: Scorer) -> NDArray[np.int64]:
    return np.concatenate(
        [
            ranks(scorer.score_volumes(block)[:, trial.paired], right)
            for block, right in trial.right(trial.reports, trial.volumes)
        ]
    )


def _rank_reports(trial: Trial, scorer: Scorer) -> NDArray[np.int64]:
    return np.concatenate(
        [
            ranks(scorer.score_reports(trial.paired[block].tolist()), right)
            for block, right in trial.right(trial.volumes, trial.reports)
        ]
    )


def _score_findings(trial: Trial, scorer: Scorer) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score the gallery for each name, and for the name against its denial."""
    if not len(trial.known) or not trial.names:
        nothing = np.zeros((len(trial.names), len(trial.known)))
        return nothing, nothing
    by_name = scorer.score_prompts(trial.names)[:, trial.known]
    denied = scorer.score_prompts([f"no {name}" for name in trial.names])[:, trial.known]
    return by_name, by_name - denied


def _asking(trial: Trial) -> NDArray[np.intp]:
    """Find the places in the gallery of the CTs for which another patient's is relevant."""
    return np.flatnonzero(trial.shares.any(axis=1))


def _judge_alike(trial: Trial, scorer: Scorer, asking: NDArray[np.intp]) -> NDArray[np.float64]:
    """Judge the CTs found for each CT that asks: queries x measures."""
    judged = np.zeros((len(asking), 2 * len(SIMILAR_AT)))
    for row, place in enumerate(asking):
        others = ~trial.is_own[place]
        scores = scorer.score_alike([int(trial.known[place])])[0, trial.known][others]
        gains = trial.shares[place][others]
        precisions = [average_precision_at_k(scores, gains > 0, k) for k in SIMILAR_AT]
        judged[row] = [*precisions, *(ndcg_at_k(scores, gains, k) for k in SIMILAR_AT)]
    return judged


def base_rates(trial: Trial) -> dict[Name, float]:
    """Count what is relevant for each finding."""
    rates: dict[Name, float] = {}
    if not len(trial.known):
        return rates
    for row, name in enumerate(trial.names):
        told = int((trial.status[row] >= 0).sum())
        relevant = int((trial.status[row] == 1).sum())
        rates |= {("keyword", name, "base_rate"): relevant / len(trial.known), ("keyword", name, "relevant"): relevant}
        if 0 < relevant < told:
            rates |= {("finding", name, "base_rate"): relevant / told, ("finding", name, "relevant"): relevant}
    averaged = [rates["keyword", name, "base_rate"] for name in np.array(trial.names)[trial.is_averaged]]
    if averaged:
        rates["keyword", "mean", "base_rate"] = float(np.mean(averaged))
    return rates


def chance_of(trial: Trial) -> Numbers:
    """Compute what a random order reaches on average, in closed form."""
    numbers: Numbers = {}
    sides = (("text_to_image", trial.reports, trial.volumes), ("image_to_text", trial.volumes, trial.reports))
    for direction, askers, answers in sides:
        right = np.concatenate([block.sum(axis=1) for _, block in trial.right(askers, answers)])
        numbers |= {(direction, name): value for name, value in chance_ranks(right, len(answers)).items()}
    for name, rate in base_rates(trial).items():
        if name[-1] == "base_rate" and name[0] == "keyword":
            # Places beyond the gallery's end cannot be filled.
            places = len(trial.known)
            numbers |= {(*name[:-1], f"P@{k}"): rate * min(1.0, places / k) for k in PRECISION_AT}
        elif name[-1] == "base_rate":
            numbers[(*name[:-1], "AUROC")] = 0.5
    return {**numbers, **_chance_alike(trial)}


def _chance_alike(trial: Trial) -> Numbers:
    precision: dict[int, list[float]] = {k: [] for k in SIMILAR_AT}
    gain: dict[int, list[float]] = {k: [] for k in SIMILAR_AT}
    for place in _asking(trial):
        gains = trial.shares[place][~trial.is_own[place]]
        for k in SIMILAR_AT:
            precision[k].append(chance_average_precision(int((gains > 0).sum()), len(gains), k))
            gain[k].append(chance_ndcg(gains, k))
    if not precision[SIMILAR_AT[0]]:
        return {}
    means: Numbers = {("similar", f"MAP@{k}"): float(np.mean(precision[k])) for k in SIMILAR_AT}
    return means | {("similar", f"nDCG@{k}"): float(np.mean(gain[k])) for k in SIMILAR_AT}
