"""Metrics against hand-worked numbers, ir_measures and brute force."""

import itertools
import tomllib
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from medfinder.errors import ConfigError
from medfinder.evaluation.metrics import (
    RECALL_AT,
    auroc,
    auroc_draws,
    average_precision_at_k,
    chance_average_precision,
    chance_ndcg,
    chance_ranks,
    interval,
    ndcg_at_k,
    patient_weights,
    precision_at_k,
    precision_draws,
    rank_intervals,
    ranks,
    recall_at_k,
    summarise_ranks,
    weighted_medians,
)

GOLD: dict[str, Any] = tomllib.loads((Path(__file__).parents[1] / "gold" / "metrics.toml").read_text(encoding="utf-8"))
SCORES = np.array(GOLD["scores"])
RELEVANT = np.array(GOLD["relevant"], dtype=bool)
WEIGHTS = np.array(GOLD["draws"]["weights"], dtype=np.int32)


def test_ranks_agree_with_the_example_worked_by_hand() -> None:
    assert ranks(SCORES, RELEVANT).tolist() == GOLD["ranks"]


def test_summaries_agree_with_the_example_worked_by_hand() -> None:
    assert summarise_ranks(np.array(GOLD["ranks"])) == pytest.approx(GOLD["summary"])
    for k, expected in GOLD["recall"].items():
        assert recall_at_k(np.array(GOLD["ranks"]), int(k)) == pytest.approx(expected)


def test_chance_agrees_with_the_example_worked_by_hand() -> None:
    assert chance_ranks(RELEVANT.sum(axis=1), 5) == pytest.approx(GOLD["chance"])
    single = GOLD["chance_single"]
    found = chance_ranks(np.ones(3, dtype=int), single["gallery"])
    assert [found[name] for name in ("R@1", "MdR", "MnR")] == [single[name] for name in ("R@1", "MdR", "MnR")]


def test_draws_agree_with_the_example_worked_by_hand() -> None:
    found = np.array(GOLD["ranks"])
    assert weighted_medians(found, WEIGHTS).tolist() == GOLD["draws"]["MdR"]
    intervals = rank_intervals(found, WEIGHTS)
    for name in ("R@1", "MnR", "MdR"):
        assert intervals[name] == pytest.approx(tuple(np.percentile(GOLD["draws"][name], [2.5, 97.5])))


def test_precision_agrees_with_the_example_worked_by_hand() -> None:
    keyword = GOLD["keyword"]
    scores, relevant = np.array(keyword["scores"]), np.array(keyword["relevant"], dtype=bool)
    for k, expected in keyword["precision"].items():
        assert precision_at_k(scores, relevant, int(k)) == pytest.approx(expected)
    for k, expected in keyword["draws"].items():
        assert precision_draws(scores, relevant, int(k), WEIGHTS) == pytest.approx(expected)


def test_a_tie_counts_against_us() -> None:
    assert ranks(np.array([[0.3, 0.3]]), np.array([[True, False]])).tolist() == [2]


def test_a_constant_model_ranks_last() -> None:
    relevant = np.eye(50, dtype=bool)
    assert ranks(np.zeros((50, 50)), relevant).tolist() == [50] * 50
    assert precision_at_k(np.zeros(50), np.arange(50) < 10, 20) == 0.0


def test_the_best_of_several_right_answers_counts() -> None:
    assert ranks(np.array([[0.1, 0.5, 0.9]]), np.array([[True, False, True]])).tolist() == [1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores = np.array([[0.1, bad]])
    with pytest.raises(ConfigError, match="1 of 2 scores"):
        ranks(scores, np.array([[True, False]]))
    with pytest.raises(ConfigError, match="1 of 2 scores"):
        precision_at_k(scores[0], np.array([True, False]), 1)


def test_a_query_without_a_right_answer_is_refused() -> None:
    with pytest.raises(ConfigError, match="1 of 2 queries have no right answer"):
        ranks(np.ones((2, 2)), np.array([[True, False], [False, False]]))


def test_shapes_and_types_that_do_not_match_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected the same"):
        ranks(np.ones((2, 3)), np.ones((3, 2), dtype=bool))
    with pytest.raises(ConfigError, match="expected bool"):
        ranks(np.ones((2, 2)), np.ones((2, 2), dtype=int))
    with pytest.raises(ConfigError, match="k is 0"):
        precision_at_k(np.ones(2), np.array([True, False]), 0)
    with pytest.raises(ConfigError, match="0 to 1 right answers"):
        chance_ranks(np.array([1, 0]), 4)


def test_recall_equals_success_of_ir_measures_where_one_answer_is_right() -> None:
    scores = np.random.default_rng(1).permutation(40 * 30).reshape(40, 30) / 1200
    relevant = np.zeros((40, 30), dtype=bool)
    relevant[np.arange(40), np.random.default_rng(2).integers(30, size=40)] = True
    expected = _ask_ir_measures(scores, relevant, [ir_measures.Success @ k for k in RECALL_AT])
    found = ranks(scores, relevant)
    for k in RECALL_AT:
        assert recall_at_k(found, k) == pytest.approx(100 * expected[ir_measures.Success @ k])


def test_recall_equals_success_of_ir_measures_where_several_are_right() -> None:
    scores = np.random.default_rng(3).permutation(30 * 30).reshape(30, 30) / 900
    relevant = np.random.default_rng(4).random((30, 30)) < 0.1
    relevant[:, 0] = True
    expected = _ask_ir_measures(scores, relevant, [ir_measures.Success @ k for k in RECALL_AT])
    for k in RECALL_AT:
        assert recall_at_k(ranks(scores, relevant), k) == pytest.approx(100 * expected[ir_measures.Success @ k])


def test_precision_equals_that_of_ir_measures() -> None:
    scores = np.random.default_rng(5).permutation(60).astype(float)
    relevant = np.random.default_rng(6).random(60) < 0.3
    measures = [ir_measures.P @ k for k in (20, 50, 100)]
    expected = _ask_ir_measures(scores[None], relevant[None], measures)
    for k in (20, 50, 100):
        assert precision_at_k(scores, relevant, k) == pytest.approx(expected[ir_measures.P @ k])


def _ask_ir_measures(scores: Any, relevant: Any, measures: list[Any]) -> dict[Any, float]:
    cells = list(np.ndindex(scores.shape))
    qrels = [ir_measures.Qrel(str(q), str(g), int(relevant[q, g])) for q, g in cells]
    run = [ir_measures.ScoredDoc(str(q), str(g), float(scores[q, g])) for q, g in cells]
    return dict(ir_measures.calc_aggregate(measures, qrels, run))


def test_chance_equals_the_mean_over_every_order() -> None:
    right, gallery = np.array([1, 2, 3]), 6
    first = {m: [1 + min(order[:m]) for order in itertools.permutations(range(gallery))] for m in right}
    every = np.array([first[m] for m in right])
    expected = {f"R@{k}": 100 * float(np.mean(every <= k)) for k in RECALL_AT}
    expected |= {"MdR": float(np.median(every)), "MnR": float(np.mean(every))}
    assert chance_ranks(right, gallery) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(2, 12))
def test_a_rank_is_the_place_in_a_list_that_puts_ties_last(seed: int, queries: int, gallery: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, size=(queries, gallery)).astype(np.float32)
    relevant = rng.random((queries, gallery)) < 0.4
    relevant[:, 0] = True
    for row, right, found in zip(scores, relevant, ranks(scores, relevant), strict=True):
        listed = sorted(zip(-row, right, strict=True))
        assert found == 1 + [is_right for _, is_right in listed].index(True)


def test_patients_are_drawn_whole() -> None:
    patients = ["a", "b", "a", "c", "b", "a"]
    weights = patient_weights(patients, samples=200, rng=np.random.default_rng(0))
    assert weights.shape == (200, 6)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] == weights[:, 5]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_intervals_widen_when_rows_belong_to_few_patients() -> None:
    found = np.repeat(np.arange(1, 41), 5)
    apart = [str(row) for row in range(200)]
    together = [str(row // 5) for row in range(200)]
    widths = []
    for patients in (apart, together):
        low, high = rank_intervals(found, patient_weights(patients, samples=500, rng=np.random.default_rng(0)))["MnR"]
        widths.append(high - low)
    assert widths[1] > 1.5 * widths[0]


def test_an_interval_of_a_mean_agrees_with_the_normal_law() -> None:
    found = np.random.default_rng(7).integers(1, 101, size=400)
    weights = patient_weights([str(row) for row in range(400)], samples=4000, rng=np.random.default_rng(0))
    low, high = rank_intervals(found, weights)["MnR"]
    half = 1.96 * found.std() / np.sqrt(400)
    assert low == pytest.approx(found.mean() - half, abs=0.2 * half)
    assert high == pytest.approx(found.mean() + half, abs=0.2 * half)


def test_draws_repeat_with_their_seed_and_differ_without() -> None:
    patients = [str(row) for row in range(30)]
    one, two, other = (patient_weights(patients, samples=5, rng=np.random.default_rng(s)) for s in (1, 1, 2))
    assert (one == two).all()
    assert (one != other).any()


def test_a_draw_has_the_precision_of_the_gallery_that_it_drew() -> None:
    rng = np.random.default_rng(8)
    scores, relevant = rng.random(300), rng.random(300) < 0.2
    weights = patient_weights([str(row // 3) for row in range(300)], samples=30, rng=rng)
    for k in (1, 20, 250, 400):
        drawn = [precision_at_k(np.repeat(scores, row), np.repeat(relevant, row), k) for row in weights]
        assert precision_draws(scores, relevant, k, weights) == pytest.approx(drawn)


def test_one_patient_gives_no_interval() -> None:
    with pytest.raises(ConfigError, match="1 patient in this split"):
        patient_weights(["a", "a"], samples=10, rng=np.random.default_rng(0))
    with pytest.raises(ConfigError, match="0 bootstrap samples"):
        patient_weights(["a", "b"], samples=0, rng=np.random.default_rng(0))


def test_an_interval_is_the_middle_95_percent() -> None:
    assert interval(np.arange(1001.0)) == (25.0, 975.0)


def test_similarity_agrees_with_the_example_worked_by_hand() -> None:
    similar = GOLD["similar"]
    scores, gains = np.array(similar["scores"]), np.array(similar["gains"])
    for k, expected in similar["AP"].items():
        assert average_precision_at_k(scores, gains > 0, int(k)) == pytest.approx(expected)
    for k, expected in similar["nDCG"].items():
        assert ndcg_at_k(scores, gains, int(k)) == pytest.approx(expected)


def test_average_precision_and_ndcg_equal_those_of_trec_eval() -> None:
    rng = np.random.default_rng(8)
    scores, gains = rng.permutation(60) / 60, rng.integers(0, 4, 60)
    gains[rng.random(60) < 0.5] = 0
    qrels = [ir_measures.Qrel("q", str(place), int(gain)) for place, gain in enumerate(gains)]
    run = [ir_measures.ScoredDoc("q", str(place), float(score)) for place, score in enumerate(scores)]
    for k in (5, 10, 20):
        found = ir_measures.pytrec_eval.calc_aggregate([ir_measures.AP @ k, ir_measures.nDCG @ k], qrels, run)
        relevant = int((gains > 0).sum())
        # trec_eval divides by all relevant ones, also where k places cannot hold them.
        expected = found[ir_measures.AP @ k] * relevant / min(k, relevant)
        assert average_precision_at_k(scores, gains > 0, k) == pytest.approx(expected)
        assert ndcg_at_k(scores, gains, k) == pytest.approx(found[ir_measures.nDCG @ k])


def test_chance_of_similarity_equals_the_mean_over_every_order() -> None:
    gains = np.array([0, 2, 0, 1, 1])
    orders = [np.array(order) for order in itertools.permutations(range(5))]
    for k in (1, 2, 3, 5, 8):
        precisions = [average_precision_at_k(-order.astype(float), gains > 0, k) for order in orders]
        assert chance_average_precision(3, 5, k) == pytest.approx(np.mean(precisions))
        found = [ndcg_at_k(-order.astype(float), gains, k) for order in orders]
        assert chance_ndcg(gains, k) == pytest.approx(np.mean(found))


def test_auroc_agrees_with_the_example_worked_by_hand() -> None:
    gold = GOLD["auroc"]
    assert auroc(np.array(gold["scores"]), np.array(gold["positive"], dtype=bool)) == pytest.approx(gold["value"])
    assert auroc(np.zeros(6), np.arange(6) < 2) == 0.5
    with pytest.raises(ConfigError, match="0 of 6 cases are positive"):
        auroc(np.zeros(6), np.zeros(6, dtype=bool))


def test_auroc_and_its_draws_equal_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(9)
    scores, positive = rng.integers(0, 12, 80) / 12, rng.random(80) < 0.3
    assert auroc(scores, positive) == pytest.approx(sklearn.metrics.roc_auc_score(positive, scores))
    weights = patient_weights([str(row // 2) for row in range(80)], samples=20, rng=rng)
    expected = [sklearn.metrics.roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    assert auroc_draws(scores, positive, weights) == pytest.approx(expected)


def test_a_draw_without_either_kind_has_no_auroc() -> None:
    drawn = auroc_draws(np.array([0.1, 0.9]), np.array([False, True]), np.array([[1, 1], [2, 0]]))
    assert drawn[0] == 1.0
    assert np.isnan(drawn[1])
