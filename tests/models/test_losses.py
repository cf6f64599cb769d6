"""The losses, against values worked by hand."""

import math

import numpy as np
import pytest
import torch

from medfinder.models.examples import group_numbers
from medfinder.models.labels import choose_labels, draw_query, label_targets, labels_of
from medfinder.models.losses import contrastive_loss, label_loss, region_loss
from medfinder.records import Case, Finding


def test_one_right_answer_a_row_is_info_nce() -> None:
    scores = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 3.0]])
    right = torch.tensor([[True, False, False], [False, True, False]])
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1]))
    assert contrastive_loss(scores, right).item() == pytest.approx(expected.item(), abs=1e-6)


def test_right_answers_are_never_each_others_negatives() -> None:
    # By hand: e^s = 3, 1, 9 with the first and last right: -log(3/4) and -log(9/10), averaged.
    scores = torch.log(torch.tensor([[3.0, 1.0, 9.0]]))
    loss = contrastive_loss(scores, torch.tensor([[True, False, True]]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(10 / 9)) / 2, abs=1e-6)


def test_a_row_without_a_wrong_answer_costs_nothing() -> None:
    scores = torch.zeros(1, 2, requires_grad=True)
    loss = contrastive_loss(scores, torch.ones(1, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.isfinite(scores.grad).all()


def test_the_label_loss_is_a_tenth_of_the_summed_cross_entropy() -> None:
    assert label_loss(torch.zeros(2, 5), torch.zeros(2, 5)).item() == pytest.approx(5 * math.log(2) / 10)


def test_a_small_finding_weighs_as_much_as_a_large_one() -> None:
    scores = torch.zeros(1, 10, 2, requires_grad=True)
    regions = torch.zeros(1, 10, 2)
    regions[0, 0, 0] = 1.0
    regions[0, :, 1] = 1.0
    region_loss(scores, regions).backward()
    assert scores.grad[0, 0, 0].item() == pytest.approx(scores.grad[0, :, 1].sum().item())


def test_absent_findings_give_no_label_and_bilateral_ones_both_sides() -> None:
    findings = [Finding("mass", status="absent"), Finding("pleural effusion", laterality="bilateral")]
    expected = {"pleural effusion", *(f"pleural effusion | {side}" for side in ("left", "right", "bilateral"))}
    assert labels_of(findings) == expected


def test_only_frequent_labels_are_chosen() -> None:
    cases = [[Finding("mass")], [Finding("mass")], [Finding("nodule")]]
    assert choose_labels(cases, at_least=2) == ("mass",)
    assert label_targets(cases, ["mass", "nodule"]).tolist() == [[1, 0], [1, 0], [0, 1]]


def test_a_drawn_query_fits_the_case_it_was_drawn_from() -> None:
    findings = [Finding("mass", laterality="left", location="upper lobe"), Finding("cardiomegaly")]
    queries = [draw_query(findings, ["mass", "nodule"], np.random.default_rng(seed)) for seed in range(60)]
    assert all(query is not None and query.fits(labels_of(findings)) for query in queries)
    assert any(query is not None and query.present and query.absent == {"nodule"} for query in queries)
    assert not any(query is not None and query.present and query.fits(frozenset()) for query in queries)


def test_some_queries_name_only_what_is_not_there_and_ask_for_no_finding() -> None:
    findings = [Finding("mass")]
    drawn = [draw_query(findings, ["mass", "nodule"], np.random.default_rng(seed)) for seed in range(60)]
    alone = [query for query in drawn if query is not None and not query.present]
    assert alone
    assert {query.text for query in alone} <= {"no nodule", "without nodule", "no evidence of nodule"}
    assert all(query.absent == {"nodule"} and not query.wanted for query in alone)


def test_a_case_without_findings_is_asked_for_by_what_it_lacks() -> None:
    query = draw_query([], ["mass"], np.random.default_rng(0))
    assert query is not None
    assert (query.present, query.absent) == (frozenset(), frozenset({"mass"}))
    assert query.fits(frozenset({"nodule"}))
    assert not query.fits(frozenset({"mass"}))
    assert draw_query([], [], np.random.default_rng(0)) is None


def make_case(study: str, report: str) -> Case:
    return Case(
        case_id=f"{study}{report}", study_id=study, patient_id="p", source="phantoms", split="train", volume="",
        report=report, report_es="", findings=(), findings_from="truth", age_years=None, sex=None,
        date_offset_days=None, spacing_mm=(1, 1, 1), shape=(1, 1, 1), region="chest", is_synthetic=True,
    )  # fmt: skip


def test_cases_of_one_study_or_one_report_share_a_group() -> None:
    groups = group_numbers([make_case("s1", "a"), make_case("s2", "b"), make_case("s1", "c"), make_case("s3", "b")])
    assert groups[0] == groups[2] != groups[1] == groups[3]
