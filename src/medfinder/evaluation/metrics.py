"""The numbers of the field, in NumPy alone: R@K, MdR, MnR, P@K, AP@K, nDCG@K, AUROC, chance levels and intervals.

In: a matrix of scores (queries x gallery, higher is better) and a matrix of the same shape that says which answers are
right; for intervals the patient of each row. Out: ranks, percentages and intervals. A query may have several right
answers: the best-ranked one counts. A tie counts against us. Refused: scores that are not finite, a query without any
right answer, shapes that do not match.

Source: paper, section 4 (R@K, MdR, MnR, P@K); how ranks treat several right answers and ties is ours, because the
paper does not say and a strict ``>`` gives a constant model R@10 = 100%.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import ConfigError

Floats = NDArray[np.floating]
Booleans = NDArray[np.bool_]
Integers = NDArray[np.integer]

RECALL_AT = (1, 5, 10)
PRECISION_AT = (20, 50, 100)
SIMILAR_AT = (5, 10, 20)


def ranks(scores: Floats, relevant: Booleans) -> NDArray[np.int64]:
    """Rank the best right answer of each query, from 1.

    The rank is 1 plus the number of wrong answers that score at least as high as the best right one.

    Args:
        scores: queries x gallery.
        relevant: queries x gallery, True where the answer is right.

    Raises:
        ConfigError: a score is NaN or infinite, a query has no right answer, or the shapes differ.

    Example:
        >>> ranks(np.array([[0.9, 0.9, 0.1]]), np.array([[True, False, False]]))
        array([2])
    """
    _check(scores, relevant, dimensions=2)
    if not relevant.any(axis=1).all():
        lost = int((~relevant.any(axis=1)).sum())
        raise ConfigError(f"{lost} of {len(scores)} queries have no right answer in the gallery; leave them out")
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    above: NDArray[np.int64] = ((scores >= best) & ~relevant).sum(axis=1, dtype=np.int64)
    return above + 1


def recall_at_k(found: Integers, k: int) -> float:
    """Return the share of queries whose rank is at most ``k``, in percent."""
    return float(100.0 * np.mean(found <= k))


def summarise_ranks(found: Integers) -> dict[str, float]:
    """Return R@1, R@5, R@10 in percent, the median rank and the mean rank.

    Example:
        >>> summarise_ranks(np.array([1, 2, 30, 7]))
        {'R@1': 25.0, 'R@5': 50.0, 'R@10': 75.0, 'MdR': 4.5, 'MnR': 10.0}
    """
    recalls = {f"R@{k}": recall_at_k(found, k) for k in RECALL_AT}
    return {**recalls, "MdR": float(np.median(found)), "MnR": float(np.mean(found))}


def precision_at_k(scores: Floats, relevant: Booleans, k: int) -> float:
    """Return the share of relevant cases among the ``k`` highest scores of one query, from 0 to 1.

    Among equal scores the irrelevant ones come first. Where the gallery is smaller than ``k``, the places that it
    cannot fill count as wrong, as in trec_eval's P@K: the value then stays below 1 even for a perfect model.

    Raises:
        ConfigError: a score is not finite, the shapes differ, or ``k`` is below 1.
    """
    _check(scores, relevant, dimensions=1)
    if k < 1:
        raise ConfigError(f"k is {k} in P@K; give 1 or more")
    return float(relevant[_order(scores, relevant)[:k]].sum() / k)


def chance_ranks(right: Integers, gallery: int) -> dict[str, float]:
    """Return what a random order of the gallery reaches, in closed form.

    With m right answers among G, the first right one stands beyond place r with the hypergeometric probability
    C(G-m, r) / C(G, r), and at place (G+1)/(m+1) on average. R@K and MnR are exact expectations over the queries;
    MdR is the median of the mixture of their rank distributions.

    Args:
        right: number of right answers of each query.
        gallery: number of candidates, G.

    Example:
        >>> chance_ranks(np.ones(500, dtype=int), 500)
        {'R@1': 0.2, 'R@5': 1.0, 'R@10': 2.0, 'MdR': 250.5, 'MnR': 250.5}
    """
    if right.min() < 1 or right.max() > gallery:
        raise ConfigError(
            f"queries have {right.min()} to {right.max()} right answers; expected 1 to {gallery}, the gallery size"
        )
    counts, queries = np.unique(right, return_counts=True)
    places = np.arange(gallery)
    beyond = np.zeros(gallery)
    for m, share in zip(counts, queries / len(right), strict=True):
        beyond += share * np.cumprod(np.maximum(gallery - m - places, 0) / (gallery - places))
    reached = 1.0 - beyond
    recalls = {f"R@{k}": round(float(100.0 * reached[min(k, gallery) - 1]), 10) for k in RECALL_AT}
    # Rounding errors of the product must not move the median where exactly half the mass lies below a place.
    low = 1 + int(np.argmax(reached >= 0.5 - 1e-9))
    high = 1 + int(np.argmax(reached > 0.5 + 1e-9))
    return {**recalls, "MdR": (low + high) / 2, "MnR": float(np.mean((gallery + 1) / (right + 1)))}


def patient_weights(patients: Sequence[str], *, samples: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Draw patients with replacement and return how often each row then occurs.

    Patients are drawn, not rows: the volumes of one patient resemble each other, so that rows drawn singly would give
    intervals that are too narrow.

    Args:
        patients: the patient of each row.
        samples: number of draws.

    Returns:
        draws x rows.

    Raises:
        ConfigError: fewer than two patients, or fewer than one draw.
    """
    _, column = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    several = int(column.max(initial=-1)) + 1
    if several < 2:
        raise ConfigError(f"{several} patient in this split; an interval over patients needs at least 2")
    if samples < 1:
        raise ConfigError(f"{samples} bootstrap samples; give 1 or more")
    drawn = rng.multinomial(several, np.full(several, 1.0 / several), size=samples).astype(np.int32)
    return drawn[:, column]


def rank_draws(found: Integers, weights: NDArray[np.int32]) -> dict[str, NDArray[np.float64]]:
    """Return each number of :func:`summarise_ranks` for each draw of patients.

    Args:
        weights: draws x queries, from :func:`patient_weights`.
    """
    total = weights.sum(axis=1)
    recalls = {f"R@{k}": 100.0 * (weights @ (found <= k)) / total for k in RECALL_AT}
    return {**recalls, "MdR": weighted_medians(found, weights), "MnR": (weights @ found) / total}


def rank_intervals(found: Integers, weights: NDArray[np.int32]) -> dict[str, tuple[float, float]]:
    """Return the 95% percentile interval of each number of :func:`summarise_ranks`."""
    return {name: interval(draws) for name, draws in rank_draws(found, weights).items()}


def weighted_medians(found: Integers, weights: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the median rank of each draw, row i occurring ``weights[draw, i]`` times."""
    order = np.argsort(found, kind="stable")
    reached = np.cumsum(weights[:, order], axis=1)
    total = reached[:, -1:]
    lower = (reached < (total + 1) // 2).sum(axis=1)
    upper = (reached < (total + 2) // 2).sum(axis=1)
    ordered = found[order]
    return np.asarray((ordered[lower] + ordered[upper]) / 2, dtype=np.float64)


def precision_draws(scores: Floats, relevant: Booleans, k: int, weights: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return P@K of each draw, the gallery holding case i ``weights[draw, i]`` times."""
    order = _order(scores, relevant)
    # Only the head of the list matters, as far as every draw needs it to fill its k places.
    head = 2 * k
    while head < len(order) and (weights[:, order[:head]].sum(axis=1) < k).any():
        head *= 2
    order = order[:head]
    occurs = weights[:, order]
    before = np.cumsum(occurs, axis=1) - occurs
    taken = np.clip(k - before, 0, occurs)
    return np.asarray(taken @ relevant[order].astype(np.float64) / k)


def average_precision_at_k(scores: Floats, relevant: Booleans, k: int) -> float:
    """Return the mean precision at the relevant places among the first ``k``, divided by min(``k``, relevant cases).

    So 1 is reached when all the first places are relevant, however many relevant cases there are beyond them; trec_eval
    divides by all of these instead. Among equal scores the irrelevant ones come first.

    Example:
        >>> average_precision_at_k(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 3)
        0.8333333333333333
    """
    _check(scores, relevant, dimensions=1)
    top = relevant[_order(scores, relevant)[:k]]
    precisions = np.cumsum(top) / np.arange(1, len(top) + 1)
    return float(precisions[top].sum() / min(k, relevant.sum()))


def ndcg_at_k(scores: Floats, gains: Integers, k: int) -> float:
    """Return the discounted cumulative gain of the first ``k`` places, relative to that of the best order.

    The gain counts as it is, place r is divided by log2(r + 1), as trec_eval's ``ndcg_cut`` does. Among equal scores
    the smaller gains come first.

    Source: Järvelin and Kekäläinen, ACM Transactions on Information Systems 20 (2002), 422-446.
    """
    found = gains[np.lexsort((gains, -scores))[:k]]
    best = np.sort(gains)[::-1][:k]
    return float(found @ discounts(len(found)) / (best @ discounts(len(best))))


def discounts(places: int) -> NDArray[np.float64]:
    """Return what the first ``places`` places count in nDCG."""
    return 1.0 / np.log2(np.arange(2, places + 2))


def chance_average_precision(relevant: int, gallery: int, k: int) -> float:
    """Return the AP@K that a random order reaches on average, in closed form.

    Place r is relevant with probability R/G; given that, (r - 1)(R - 1)/(G - 1) of the places before it are, too.
    """
    place = np.arange(1, min(k, gallery) + 1)
    before = (place - 1) * (relevant - 1) / max(1, gallery - 1)
    return float((relevant / gallery * (1 + before) / place).sum() / min(k, relevant))


def chance_ndcg(gains: Integers, k: int) -> float:
    """Return the nDCG@K that a random order reaches on average: every place then holds the mean gain."""
    weights = discounts(min(k, len(gains)))
    return float(gains.mean() * weights.sum() / (np.sort(gains)[::-1][:k] @ weights))


def auroc(scores: Floats, positive: Booleans) -> float:
    """Return the chance that a positive case scores above a negative one; a tie counts half.

    Example:
        >>> auroc(np.array([0.9, 0.4, 0.4]), np.array([True, True, False]))
        0.75
    """
    _check(scores, positive, dimensions=1)
    if positive.all() or not positive.any():
        raise ConfigError(f"{int(positive.sum())} of {len(positive)} cases are positive; an AUROC needs both kinds")
    return float(auroc_draws(scores, positive, np.ones((1, len(scores)), dtype=np.int32))[0])


def auroc_draws(scores: Floats, positive: Booleans, weights: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the AUROC of each draw, case i occurring ``weights[draw, i]`` times; NaN where a draw lacks a kind.

    Source: Hanley and McNeil, Radiology 143 (1982), 29-36: AUROC as a Mann-Whitney statistic.
    """
    order = np.argsort(scores, kind="stable")
    first = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) != 0)
    high = np.add.reduceat(weights[:, order] * positive[order], first, axis=1).astype(np.float64)
    low = np.add.reduceat(weights[:, order] * ~positive[order], first, axis=1).astype(np.float64)
    below = np.cumsum(low, axis=1) - low
    pairs = high.sum(axis=1) * low.sum(axis=1)
    won = (high * (below + low / 2)).sum(axis=1)
    areas: NDArray[np.float64] = np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
    return areas


def interval(draws: Floats) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of the draws; those that are NaN are left out.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13, percentile interval.
    """
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _order(scores: Floats, relevant: Booleans) -> NDArray[np.intp]:
    return np.lexsort((relevant, -scores))


def _check(scores: Floats, relevant: Booleans, *, dimensions: int) -> None:
    if scores.shape != relevant.shape or scores.ndim != dimensions or scores.size == 0:
        raise ConfigError(
            f"scores have shape {scores.shape}, relevance {relevant.shape}; expected the same, with {dimensions} axes"
        )
    if relevant.dtype != np.bool_:
        raise ConfigError(f"relevance has type {relevant.dtype}; expected bool")
    if not np.isfinite(scores).all():
        lost = int((~np.isfinite(scores)).sum())
        raise ConfigError(f"{lost} of {scores.size} scores are NaN or infinite; a rank needs finite scores")
