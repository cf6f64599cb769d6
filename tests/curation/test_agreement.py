"""Kappa against worked tables and another tool, and intervals that mean what they say."""

import numpy as np
import pytest

from medfinder.curation.agreement import ALL, measure_agreement
from medfinder.curation.diagnoses import Diagnosis
from medfinder.errors import ConfigError
from medfinder.records import Status

STATUSES: tuple[Status, ...] = ("present", "absent", "uncertain")


def words_of(ratings: np.ndarray, finding: str = "mass") -> list[Diagnosis]:
    """Turn a table of cases x readers of status numbers into diagnoses; -1 is no word."""
    return [
        Diagnosis(f"c{case:04d}", finding, STATUSES[word], f"R{reader}")
        for case, row in enumerate(ratings)
        for reader, word in enumerate(row)
        if word >= 0
    ]


def measure(words: list[Diagnosis], draws: int = 200, **others: str):
    return measure_agreement(words, rng=np.random.default_rng(0), draws=draws, **others)


def test_cohen_of_a_table_worked_by_hand():
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, expected 0.5*0.6 + 0.5*0.4 = 0.5, kappa 0.4.
    ratings = np.array([[0, 0]] * 20 + [[0, 1]] * 5 + [[1, 0]] * 10 + [[1, 1]] * 15)
    row = measure(words_of(ratings))[0]
    assert (row.measure, row.readers, row.cases) == ("Cohen", 2, 50)
    assert row.observed == pytest.approx(0.7)
    assert row.kappa == pytest.approx(0.4)
    assert row.low is not None
    assert row.high is not None
    assert row.low < 0.4 < row.high


def test_fleiss_of_a_table_worked_by_hand():
    # Three readers: present x3, present x2 + absent, absent x3. Pairs agree 1, 1/3, 1: observed 7/9.
    # Shares 5/9 and 4/9: expected 41/81; kappa = (63/81 - 41/81) / (40/81) = 0.55.
    row = measure(words_of(np.array([[0, 0, 0], [0, 0, 1], [1, 1, 1]])))[0]
    assert (row.measure, row.readers, row.cases) == ("Fleiss", 3, 3)
    assert row.observed == pytest.approx(7 / 9)
    assert row.kappa == pytest.approx(0.55)


@pytest.mark.parametrize("seed", range(5))
def test_cohen_agrees_with_scikit_learn(seed: int):
    metrics = pytest.importorskip("sklearn.metrics")
    ratings = np.random.default_rng(seed).integers(0, 3, size=(40, 2))
    ratings[::2, 1] = ratings[::2, 0]
    assert measure(words_of(ratings), 1)[0].kappa == pytest.approx(metrics.cohen_kappa_score(*ratings.T))


def test_a_case_that_one_reader_did_not_see_counts_for_those_who_did():
    full = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 1]])
    some = np.vstack([full, [[2, -1, -1]]])  # nobody to agree with
    assert measure(words_of(some))[0].kappa == measure(words_of(full))[0].kappa
    assert measure(words_of(np.array([[0, 0, 0], [0, 1, -1], [1, 1, 1]])))[0].observed == pytest.approx(2 / 3)


def test_where_kappa_is_not_defined_it_is_none():
    same = measure(words_of(np.zeros((5, 2), int)))[0]
    assert (same.observed, same.kappa, same.low) == (1.0, None, None)
    alone = measure(words_of(np.zeros((5, 1), int)))[0]
    assert (alone.measure, alone.readers, alone.cases, alone.kappa) == ("", 1, 0, None)
    nobody = measure([])
    assert [(row.finding, row.kappa) for row in nobody] == [(ALL, None)]


def test_each_finding_has_its_row_and_all_come_last():
    words = [*words_of(np.array([[0, 0], [1, 1]])), *words_of(np.array([[0, 1], [1, 0]]), "nodule")]
    rows = measure(words)
    assert [(row.finding, row.kappa) for row in rows] == [("mass", 1.0), ("nodule", -1.0), (ALL, 0.0)]


def test_the_adjudicator_is_left_out():
    rows = measure(words_of(np.array([[0, 0, 1], [1, 1, 0]])), adjudicator="R2")
    assert (rows[0].measure, rows[0].kappa) == ("Cohen", 1.0)


def test_the_interval_covers_the_true_value_about_as_often_as_it_says():
    # Two readers who agree by design in 70% of cases and say either word equally often: true kappa 0.4.
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(100):
        first = rng.integers(0, 2, size=80)
        second = np.where(rng.random(80) < 0.7, first, 1 - first)
        row = measure_agreement(words_of(np.stack([first, second], 1)), rng=rng, draws=200)[0]
        assert row.low is not None
        assert row.high is not None
        covered += row.low <= 0.4 <= row.high
    assert 88 <= covered <= 100


def test_the_same_seed_gives_the_same_interval():
    words = words_of(np.random.default_rng(1).integers(0, 2, size=(30, 3)))
    assert measure(words) == measure(words)


def test_no_draws_are_refused():
    with pytest.raises(ConfigError, match="draws 0"):
        measure([], draws=0)
