"""Is one model better than another? A paired bootstrap over patients, and Holm's correction over a table.

In: the answers of two models, each trained with one or several seeds, on the same trial. Out: differences with their
intervals and p values. Refused: answers of different trials, a number that was not measured.

The same patients are drawn for both models, and the difference of their means over seeds is computed for each draw.
What varies is which patients are in the test split; the seeds are taken as they are, and their spread is told apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import ConfigError
from medfinder.evaluation.answers import DIRECTIONS, Answers, Draws, Name, Numbers
from medfinder.evaluation.metrics import interval

SAMPLES = 4000
"""Ours: the smallest p is then 0.0005, which stays below 0.05 when a table makes up to 100 comparisons."""

# What makes two trials the same; ranks and scores are what may differ.
_TRIAL = tuple(
    field.name for field in fields(Answers) if not field.name.endswith(("_ranks", "scores", "contrasts", "similar"))
)


@dataclass(frozen=True)
class Difference:
    """How far one model is from another in one number.

    Attributes:
        name: path of the number.
        value: the first model's number less the second's.
        low: lower end of its 95% interval.
        high: upper end.
        p: two-sided.
        p_holm: corrected for the comparisons of the table; the same as ``p`` before :func:`correct`.
    """

    name: Name
    value: float
    low: float
    high: float
    p: float
    p_holm: float


def paired_bootstrap(
    first: Sequence[Answers],
    second: Sequence[Answers],
    names: Sequence[Name],
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> list[Difference]:
    """Compare two models on the same trial.

    Args:
        first: answers of one model, one a training seed.
        second: answers of the other.
        names: numbers to compare, such as ``("text_to_image", "R@10")``.

    Raises:
        ConfigError: the answers are of different trials, or lack a number.
    """
    _require_one_trial([*first, *second])
    groups = {name[0] for name in names}
    drawn = [_means([a.draws(samples=samples, seed=seed, groups=groups) for a in side]) for side in (first, second)]
    values = [mean_numbers([a.numbers() for a in side]) for side in (first, second)]
    found = []
    for name in names:
        if any(name not in side for side in values):
            raise ConfigError(f"{'/'.join(name)} was not measured; compare numbers that both evaluations have")
        draws = drawn[0][name] - drawn[1][name]
        low, high = interval(draws)
        p = p_value(draws)
        found.append(Difference(name, values[0][name] - values[1][name], low, high, p, p))
    return found


def compare(first: Answers, second: Answers) -> list[Difference]:
    """Compare two evaluations in the numbers that both have, read together.

    Raises:
        ConfigError: they are of different trials.
    """
    wanted = [(direction, measure) for direction in DIRECTIONS for measure in ("R@1", "R@5", "R@10", "MdR")]
    more: list[Name] = [("keyword", "mean", "P@20"), ("finding", "mean", "AUROC"), ("similar", "MAP@10")]
    measured = first.numbers().keys() & second.numbers().keys()
    return correct(paired_bootstrap([first], [second], [*wanted, *(name for name in more if name in measured)]))


def correct(differences: Sequence[Difference]) -> list[Difference]:
    """Correct the p values of comparisons that are read together, e.g. those of a table."""
    corrected = holm([difference.p for difference in differences])
    return [replace(difference, p_holm=p) for difference, p in zip(differences, corrected, strict=True)]


def p_value(draws: NDArray[np.float64]) -> float:
    """Return twice the smaller share of draws on one side of 0, draws of exactly 0 counted on both.

    It is below 0.05 where the 95% percentile interval leaves out 0. The draw that was observed counts, too, so that no
    p is 0.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 15.4; Davison and Hinkley, Bootstrap
    Methods and their Application (1997), chapter 4, for the one added.
    """
    known = draws[~np.isnan(draws)]
    share = (min((known <= 0).sum(), (known >= 0).sum()) + 1) / (len(known) + 1)
    return float(min(1.0, 2 * share))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for place, number in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[number]))
        corrected[number] = highest
    return corrected


def mean_numbers(several: Sequence[Numbers]) -> Numbers:
    """Average numbers over seeds."""
    return {name: float(np.mean([numbers[name] for numbers in several])) for name in several[0]}


def _means(several: Sequence[Draws]) -> Mapping[Name, NDArray[np.float64]]:
    return {name: np.mean([draws[name] for draws in several], axis=0) for name in several[0]}


def mean_intervals(
    answers: Sequence[Answers], *, samples: int = 1000, seed: int = 0
) -> dict[Name, tuple[float, float]]:
    """Return the 95% interval over patients of each number's mean over seeds."""
    _require_one_trial(answers)
    drawn = _means([each.draws(samples=samples, seed=seed) for each in answers])
    return {name: interval(draws) for name, draws in drawn.items() if not np.isnan(draws).all()}


def _require_one_trial(answers: Sequence[Answers]) -> None:
    if not answers:
        raise ConfigError("no answers to compare; evaluate both models first")
    for other in answers[1:]:
        differing = [name for name in _TRIAL if not np.array_equal(getattr(answers[0], name), getattr(other, name))]
        if differing:
            raise ConfigError(
                f"answers of different trials cannot be compared: {', '.join(differing)} differ; "
                "evaluate both models on the same dataset and split"
            )
