"""Slices vote for the cases they belong to. Expected values: worked by hand.

Cosines of the six slices with the query (1, 0) are .9 .1 | .8 .7 | .6 .5, those with (0, 1) are sqrt(1 - c^2), that is
.436 .995 | .6 .714 | .8 .866. With three votes for each vector, the first query hears .9 | .8 .7 | none; the second
none or .995 | none | .8 .866.
"""

import numpy as np
import pytest

from medfinder.errors import ConfigError
from medfinder.evaluation.metrics import ranks
from medfinder.models.slice_voting import RULES, TOP, vote

COSINES = np.array([0.9, 0.1, 0.8, 0.7, 0.6, 0.5])
SLICES = np.stack([COSINES, np.sqrt(1 - COSINES**2)], 1)
OWNERS = np.array([0, 0, 1, 1, 2, 2])
ALONG, ACROSS = [1.0, 0.0], [0.0, 1.0]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("frequency", [1, 2, 0]),
        # The third case has no vote: one below the lowest that has.
        ("max", [0.9, 0.8, 0.8 - 1]),
        ("sum", [0.9, 1.5, 0.9 - 1]),
    ],
)
def test_a_text_is_answered_by_the_votes_of_the_nearest_slices(rule: str, expected: list[float]) -> None:
    found = vote(np.array([[ALONG]]), SLICES, OWNERS, rule=rule, top=3)
    assert found[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("frequency", [2, 2, 2]),
        ("max", [np.sqrt(0.99), 0.8, np.sqrt(0.75)]),
        ("sum", [0.9 + np.sqrt(0.99), 1.5, 0.8 + np.sqrt(0.75)]),
    ],
)
def test_all_slices_of_a_query_ct_cast_their_votes_together(rule: str, expected: list[float]) -> None:
    found = vote(np.array([[ALONG, ACROSS]]), SLICES, OWNERS, rule=rule, top=3)
    assert found[0] == pytest.approx(expected, abs=1e-6)


def test_twenty_slices_vote_unless_told_otherwise() -> None:
    rng = np.random.default_rng(0)
    slices = rng.normal(size=(60, 4))
    slices /= np.linalg.norm(slices, axis=1, keepdims=True)
    found = vote(slices[None, :1], slices, np.repeat(np.arange(30), 2))
    assert TOP == 20
    assert found[found > 0].sum() == 20


@pytest.mark.parametrize("rule", RULES)
def test_cases_may_have_few_slices_or_many(rule: str) -> None:
    owners = np.array([0, 1, 1, 1, 1, 2])
    found = vote(np.array([[ALONG]]), SLICES, owners, rule=rule, top=100)
    assert found.shape == (1, 3)
    sums = {"frequency": [1, 4, 1], "max": [0.9, 0.8, 0.5], "sum": [0.9, 2.2, 0.5]}
    assert found[0] == pytest.approx(sums[rule], abs=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_a_constant_model_ranks_last(rule: str) -> None:
    constant = np.full((40, 3), 1 / np.sqrt(3), np.float32)
    found = vote(constant[:10, None], constant, np.repeat(np.arange(10), 4), rule=rule)
    assert (ranks(found, np.eye(10, dtype=bool)) == 10).all()


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_the_gallery_changes_nothing(rule: str) -> None:
    rng = np.random.default_rng(1)
    cases = rng.normal(size=(12, 5, 6))
    cases /= np.linalg.norm(cases, axis=2, keepdims=True)
    owners, order = np.repeat(np.arange(12), 5), rng.permutation(12)
    queries = cases[:, :2]
    found = vote(queries, cases.reshape(-1, 6), owners, rule=rule)
    turned = vote(queries, cases[order].reshape(-1, 6), owners, rule=rule)
    assert turned == pytest.approx(found[:, order], abs=1e-9)


def test_a_case_without_a_vote_is_below_all_others_even_with_negative_sums() -> None:
    slices = np.array([[-0.6, 0.8], [-0.8, 0.6], [-1.0, 0.0]])
    found = vote(np.array([[ALONG]]), slices, np.array([0, 1, 2]), rule="sum", top=2)
    assert found[0] == pytest.approx([-0.6, -0.8, -1.8])


@pytest.mark.parametrize(
    ("rule", "owners", "told"),
    [
        ("mean", OWNERS, "unknown voting rule 'mean'; known: frequency, max, sum"),
        ("max", OWNERS[::-1], "expected one each, counting up from 0"),
        ("max", OWNERS[1:], "5 owners for 6 slices"),
        ("max", OWNERS + 1, "expected one each, counting up from 0"),
    ],
)
def test_what_does_not_fit_is_named(rule: str, owners: np.ndarray, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        vote(np.array([[ALONG]]), SLICES, owners, rule=rule)


def test_queries_must_have_vectors_of_the_slices_length() -> None:
    with pytest.raises(ConfigError, match=r"queries have shape \(1, 2\), slices \(6, 2\)"):
        vote(np.array([ALONG]), SLICES, OWNERS)
