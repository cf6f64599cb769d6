"""How well readers agree beyond chance: Cohen's kappa for two of them, Fleiss' for more, with intervals.

In: diagnoses. Out: one ``Agreement`` a finding and one over all, with 95% intervals from a bootstrap over cases, so
that several findings of one case stay together. Refused: nothing; where kappa is not defined (nobody shares a case, or
everybody always says the same), it is None.

Sources: J. Cohen, Educ. Psychol. Meas. 20 (1960) 37; J. L. Fleiss, Psychol. Bull. 76 (1971) 378. Fleiss asks for as
many words on every case; where some readers did not see some, ours takes the pairs and the shares of those who did,
which is his formula again when all saw all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from medfinder.curation.diagnoses import Diagnosis
from medfinder.errors import ConfigError
from medfinder.records import Status

ALL = "all findings"
_STATUSES: tuple[Status, ...] = get_args(Status)
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well readers agree on one finding.

    Attributes:
        measure: ``"Cohen"`` for two readers, ``"Fleiss"`` for more, empty where fewer than two spoke of one case.
        cases: those of which at least two readers spoke.
        observed: share of pairs of words that agree.
        kappa: 1 is full agreement, 0 is chance; None where it is not defined.
        low, high: 95% interval; None where kappa is not defined in one of twenty redrawn samples or more.
    """

    finding: str
    measure: str
    readers: int
    cases: int
    observed: float | None
    kappa: float | None
    low: float | None
    high: float | None


def measure_agreement(
    diagnoses: Iterable[Diagnosis], *, rng: np.random.Generator, draws: int = 1000, adjudicator: str | None = None
) -> tuple[Agreement, ...]:
    """Measure agreement for each finding, and for all of them together (the last row).

    Args:
        draws: redrawn samples of the bootstrap.
        adjudicator: a reader who saw only what others differed on, and is left out for that, as are all words that
            settle a difference.

    Raises:
        ConfigError: fewer than one draw.
    """
    if draws < 1:
        raise ConfigError(f"draws {draws}; expected at least 1")
    words = [diagnosis for diagnosis in diagnoses if diagnosis.reader != adjudicator and not diagnosis.settles]
    names = sorted({diagnosis.finding for diagnosis in words})
    groups = [(name, [word for word in words if word.finding == name]) for name in names]
    return tuple(_measure(name, group, rng, draws) for name, group in (*groups, (ALL, words)))


def _measure(name: str, words: Sequence[Diagnosis], rng: np.random.Generator, draws: int) -> Agreement:
    units = _shared_units(words)
    readers = sorted({reader for unit in units.values() for reader in unit})
    if len(readers) < 2:
        return Agreement(name, "", len({word.reader for word in words}), 0, None, None, None, None)
    cases = sorted({case for case, _ in units})
    is_cohen = len(readers) == 2
    tally = np.zeros((len(cases), len(_STATUSES) ** 2 if is_cohen else len(_STATUSES) + 2))
    for (case, _), unit in sorted(units.items()):
        tally[cases.index(case)] += _pair(unit, readers) if is_cohen else _votes(unit)
    kappa_of = _cohen if is_cohen else _fleiss
    observed, kappa = (float(value) for value in kappa_of(tally.sum(axis=0, keepdims=True))[:, 0])
    weights = rng.multinomial(len(cases), np.full(len(cases), 1 / len(cases)), size=draws)
    low, high = _interval(kappa_of(weights @ tally)[1])
    known = None if np.isnan(kappa) else kappa
    measure = "Cohen" if is_cohen else "Fleiss"
    return Agreement(name, measure, len(readers), len(cases), observed, known, low, high)


def _shared_units(words: Iterable[Diagnosis]) -> dict[tuple[str, str], dict[str, int]]:
    """Collect the words on each finding of each case, by reader; what only one reader spoke of is left out."""
    units: dict[tuple[str, str], dict[str, int]] = {}
    for word in words:
        units.setdefault((word.case_id, word.finding), {})[word.reader] = _STATUSES.index(word.status)
    return {key: unit for key, unit in units.items() if len(unit) > 1}


def _interval(kappas: npt.NDArray[np.float64]) -> tuple[float | None, float | None]:
    defined = kappas[~np.isnan(kappas)]
    if len(defined) < 0.95 * len(kappas):
        return None, None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def _pair(unit: dict[str, int], readers: Sequence[str]) -> Matrix:
    """Put a pair of words into its cell of the table of two readers."""
    cell = np.zeros(len(_STATUSES) ** 2)
    cell[unit[readers[0]] * len(_STATUSES) + unit[readers[1]]] = 1
    return cell


def _votes(unit: dict[str, int]) -> Matrix:
    """Tell the agreement of the pairs, that it is one unit, and the share of each status: what Fleiss' kappa sums."""
    counts = np.bincount(list(unit.values()), minlength=len(_STATUSES))
    agreeing = (counts * (counts - 1)).sum() / (len(unit) * (len(unit) - 1))
    return np.concatenate([[agreeing, 1.0], counts / len(unit)])


def _cohen(tally: Matrix) -> Matrix:
    """Return observed agreement and kappa of each row: a flattened table of two readers."""
    table = tally.reshape(len(tally), len(_STATUSES), len(_STATUSES))
    total = table.sum(axis=(1, 2))
    observed = np.trace(table, axis1=1, axis2=2) / total
    expected = (table.sum(axis=1) * table.sum(axis=2)).sum(axis=1) / total**2
    return _beyond_chance(observed, expected)


def _fleiss(tally: Matrix) -> Matrix:
    """Return observed agreement and kappa of each row: sums of what ``_votes`` tells."""
    observed = tally[:, 0] / tally[:, 1]
    expected = ((tally[:, 2:] / tally[:, 1:2]) ** 2).sum(axis=1)
    return _beyond_chance(observed, expected)


def _beyond_chance(observed: Matrix, expected: Matrix) -> Matrix:
    is_defined = expected < 1
    kappa = np.where(is_defined, (observed - expected) / np.where(is_defined, 1 - expected, 1), np.nan)
    return np.stack([observed, kappa])
