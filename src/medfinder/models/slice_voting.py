"""Slice voting: which cases own the slices that are nearest to a query.

In: the vectors of each query (one for a text, one a slice for a CT), the vectors of all slices of the gallery and whose
they are. Out: a score for each query and case, higher is better. Each vector of a query lets the ``top`` nearest slices
vote; a case is scored by its votes. No torch here.

Source: Ben Abacha et al. 2023 (3D-MIR, arXiv 2311.13752), section 4.1, and their published notebook on slice-based
retrieval: 20 slices for each vector; cases ranked by frequency, by highest score or by sum of scores. Ours, because
there it hangs on the order of a sort: slices that tie with the last one of the top vote too, and cases without any vote
are equal, below all others. So the order of the gallery changes nothing, and a constant model gains nothing.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import ConfigError

Floats = NDArray[np.floating]
Booleans = NDArray[np.bool_]

TOP = 20
# Dot products of equal vectors differ in float32's last bits by where they lie in the matrix: ties must stay ties.
_DECIMALS = 6


def vote(
    queries: Floats, slices: Floats, owners: NDArray[np.integer], *, rule: str = "frequency", top: int = TOP
) -> NDArray[np.float64]:
    """Score every case for every query by the votes of its slices.

    Args:
        queries: (queries, vectors, width), unit vectors.
        slices: (slices, width), unit vectors of the whole gallery, those of one case after the other.
        owners: (slices,) the case of each slice: 0, 0, ..., 1, 1, ...
        rule: key of ``RULES``.
        top: slices that vote for each vector of a query.

    Returns:
        (queries, cases).

    Raises:
        ConfigError: the rule is unknown, or the shapes do not fit.

    Example:
        >>> gallery = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> vote(np.array([[[1.0, 0.0]]]), gallery, np.array([0, 0, 1]), rule="sum", top=2)
        array([[1.6, 0.6]])
    """
    if rule not in RULES:
        raise ConfigError(f"unknown voting rule {rule!r}; known: {', '.join(RULES)}")
    starts = _starts(queries, slices, owners, top)
    scores = np.empty((len(queries), len(starts)))
    for number, vectors in enumerate(queries):
        cosines = np.round((vectors @ slices.T).astype(np.float64), _DECIMALS)
        last = -min(top, len(slices))
        has_vote = cosines >= np.partition(cosines, last)[:, last, None]
        given = RULES[rule](cosines, has_vote, starts)
        is_heard = np.logical_or.reduceat(has_vote.any(0), starts)
        scores[number] = np.where(is_heard, given, given[is_heard].min() - 1.0)
    return scores


def _starts(queries: Floats, slices: Floats, owners: NDArray[np.integer], top: int) -> NDArray[np.intp]:
    """Find where the slices of each case begin."""
    if queries.ndim != 3 or slices.ndim != 2 or queries.shape[2] != slices.shape[1] or top < 1:
        raise ConfigError(
            f"queries have shape {queries.shape}, slices {slices.shape}, {top} vote; expected (queries, vectors, "
            "width), (slices, width), 1 or more"
        )
    steps = np.diff(owners, prepend=-1)
    if len(owners) != len(slices) or len(slices) == 0 or not np.isin(steps, (0, 1)).all() or steps[0] != 1:
        raise ConfigError(f"{len(owners)} owners for {len(slices)} slices; expected one each, counting up from 0")
    return np.flatnonzero(steps)


def _frequency(_cosines: Floats, has_vote: Booleans, starts: NDArray[np.intp]) -> Floats:
    votes: Floats = np.add.reduceat(has_vote.sum(0, dtype=np.float64), starts)
    return votes


def _highest(cosines: Floats, has_vote: Booleans, starts: NDArray[np.intp]) -> Floats:
    # Only votes count; a case without any is set below the others afterwards.
    highest: Floats = np.maximum.reduceat(np.where(has_vote, cosines, -2.0).max(0), starts)
    return highest


def _sum(cosines: Floats, has_vote: Booleans, starts: NDArray[np.intp]) -> Floats:
    total: Floats = np.add.reduceat(np.where(has_vote, cosines, 0.0).sum(0), starts)
    return total


RULES: dict[str, Callable[[Floats, Booleans, NDArray[np.intp]], Floats]] = {
    "frequency": _frequency,
    "max": _highest,
    "sum": _sum,
}
