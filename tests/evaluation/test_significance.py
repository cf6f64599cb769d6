"""Paired bootstrap and Holm's correction, on answers whose law is known."""

from dataclasses import replace

import numpy as np
import pytest

from medfinder.errors import ConfigError
from medfinder.evaluation.answers import Answers
from medfinder.evaluation.significance import compare, holm, mean_intervals, p_value, paired_bootstrap

R10 = ("text_to_image", "R@10")


def make_answers(ranks: np.ndarray, patients: list[str] | None = None) -> Answers:
    ids = np.array([f"q{n}" for n in range(len(ranks))])
    owners = np.array(patients or ids, dtype=str)
    nothing = np.zeros((0, len(ranks)))
    return Answers(
        dataset="d",
        text_to_image_ids=ids,
        text_to_image_patients=owners,
        text_to_image_ranks=ranks,
        image_to_text_ids=ids,
        image_to_text_patients=owners,
        image_to_text_ranks=ranks,
        keyword_ids=ids,
        keyword_patients=owners,
        names=np.array([], dtype=str),
        is_averaged=np.array([], dtype=bool),
        status=nothing.astype(np.int8),
        scores=nothing,
        contrasts=nothing,
        similar_ids=np.array([], dtype=str),
        similar_patients=np.array([], dtype=str),
        similar_measures=np.array([], dtype=str),
        similar=np.zeros((0, 0)),
    )


def test_holm_agrees_with_the_example_of_its_textbook_form() -> None:
    # By hand: sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, made monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_a_model_does_not_differ_from_itself() -> None:
    answers = make_answers(np.random.default_rng(0).integers(1, 50, 80))
    for difference in compare(answers, answers):
        assert (difference.value, difference.low, difference.high, difference.p) == (0.0, 0.0, 0.0, 1.0)


def test_a_clear_difference_is_found_and_has_its_sign() -> None:
    rng = np.random.default_rng(1)
    worse = rng.integers(1, 60, 100)
    better = np.maximum(1, worse - 15)
    (found,) = paired_bootstrap([make_answers(better)], [make_answers(worse)], [R10])
    assert found.value == pytest.approx(100 * (np.mean(better <= 10) - np.mean(worse <= 10)))
    assert 0 < found.low <= found.value <= found.high
    assert found.p < 0.001
    (turned,) = paired_bootstrap([make_answers(worse)], [make_answers(better)], [R10])
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert turned.p == found.p


def test_pairing_finds_what_two_intervals_would_miss() -> None:
    # The same queries are hard for both; on 8 of 100 one is better, on none worse.
    one = np.where(np.arange(100) < 50, 1, 99)
    other = np.where(np.arange(100) < 42, 1, 99)
    (found,) = paired_bootstrap([make_answers(one)], [make_answers(other)], [R10])
    # Exact: no draw can turn the sign; those without any of the 8 patients have the chance .92 ** 100 = .0002.
    assert found.p < 0.01
    apart = [mean_intervals([make_answers(ranks)])[R10] for ranks in (one, other)]
    assert apart[0][0] < apart[1][1]


def test_p_is_small_as_often_as_it_says_when_nothing_differs() -> None:
    rng = np.random.default_rng(2)
    false = 0
    for _ in range(200):
        first, second = (make_answers(rng.integers(1, 21, 60)) for _ in range(2))
        false += paired_bootstrap([first], [second], [R10], samples=200)[0].p < 0.05
    # Binomial(200, .05) stays in 2..20 with 99.8%.
    assert 2 <= false <= 20


def test_draws_of_zero_count_on_both_sides() -> None:
    # Of 4 draws 1 is below 0 and 2 are 0: 2 * (3 + 1) / 5 is capped at 1. Of 99 none is at or below 0: 2 * 1 / 100.
    assert p_value(np.array([-1.0, 0.0, 0.0, 2.0])) == 1.0
    assert p_value(np.ones(99)) == pytest.approx(0.02)


def test_seeds_are_averaged_before_models_are_compared() -> None:
    good, bad = make_answers(np.full(40, 1)), make_answers(np.full(40, 99))
    (found,) = paired_bootstrap([good, bad], [bad, bad], [R10])
    assert found.value == 50.0
    assert mean_intervals([good, bad])[R10] == (50.0, 50.0)


def test_answers_of_different_trials_are_refused() -> None:
    answers = make_answers(np.arange(1, 41))
    with pytest.raises(ConfigError, match="dataset differ"):
        compare(answers, replace(answers, dataset="other"))
    with pytest.raises(ConfigError, match="text_to_image_ids"):
        compare(answers, make_answers(np.arange(1, 31)))
    with pytest.raises(ConfigError, match="keyword/mean/P@20 was not measured"):
        paired_bootstrap([answers], [answers], [("keyword", "mean", "P@20")])
