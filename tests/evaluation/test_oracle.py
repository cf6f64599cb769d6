"""The oracle: phantoms found by what is truly in them."""

from dataclasses import replace

import pytest

from medfinder.errors import ConfigError
from medfinder.evaluation.evaluate import measure
from medfinder.evaluation.oracle import OracleScorer, evaluate_oracle, list_facts
from medfinder.evaluation.trial import set_trial
from medfinder.records import Case, Finding

from .conftest import FakeDataset, make_case

SAYS = (
    (
        (Finding("nodule", laterality="left", location="upper lobe", size_mm=8.0),),
        "Nodule of 8 mm in the left upper lobe. No pleural effusion.",
    ),
    (
        (Finding("nodule", laterality="left", location="upper lobe", size_mm=21.4),),
        "There is a nodule in the left upper lobe measuring 2.1 cm.",
    ),
    (
        (Finding("nodule", laterality="right", location="lower lobe", size_mm=8.0),),
        "Nodule in the right lower lobe.",
    ),
    ((Finding("cardiomegaly", grade="severe"), Finding("pleural effusion")), "Marked cardiomegaly. Pleural effusion."),
    ((Finding("cardiomegaly", grade="mild"), Finding("pleural effusion")), "Mild cardiomegaly and pleural effusion."),
    ((Finding("emphysema"),), "Emphysema."),
)


def make_phantoms() -> tuple[Case, ...]:
    return tuple(replace(make_case(n, report=report), findings=findings) for n, (findings, report) in enumerate(SAYS))


def test_side_place_size_and_grade_tell_phantoms_apart() -> None:
    result = evaluate_oracle(FakeDataset(make_phantoms()), "test", bootstrap=20).result  # type: ignore[arg-type]
    # Report 4 names two findings in one sentence, so that "mild" might be of either: studies 3 and 4 tie for it.
    assert result["text_to_image"]["R@1"] == pytest.approx(100 * 5 / 6)
    assert result["text_to_image"]["R@5"] == 100.0
    assert result["similar"]["nDCG@5"] == 1.0
    assert result["finding"]["mean"]["AUROC"] == 1.0
    assert (result["model"], result["synthetic"]) == ("oracle", True)


def test_an_oracle_that_is_shown_the_wrong_truth_fails() -> None:
    cases = make_phantoms()
    turned = tuple(
        replace(case, findings=other.findings) for case, other in zip(cases, cases[3:] + cases[:3], strict=True)
    )
    result = evaluate_oracle(FakeDataset(turned), "test", bootstrap=20).result  # type: ignore[arg-type]
    assert result["text_to_image"]["R@1"] == 0.0


def test_a_keyword_finds_all_that_have_it_and_no_other() -> None:
    trial = set_trial(make_phantoms(), "test", ["nodule"])
    scores = OracleScorer(trial).score_prompts(["nodule", "no nodule"])
    assert (scores[0, :3] > scores[0, 3:].max()).all()
    assert (scores[1, :3] < scores[1, 3:].min()).all()
    result = measure(trial, OracleScorer(trial), dataset="d", split="test", bootstrap=20).result
    assert result["keyword"]["nodule"]["P@20"] == 3 / 20


def test_a_size_is_a_fact_to_the_millimetre() -> None:
    assert ("nodule", "size", "21 mm") in list_facts([Finding("nodule", size_mm=21.4)])


def test_cases_without_truth_are_refused() -> None:
    cases = tuple(replace(case, findings_from="report") for case in make_phantoms())
    with pytest.raises(ConfigError, match="6 of 6 cases have no known truth"):
        evaluate_oracle(FakeDataset(cases), "test")  # type: ignore[arg-type]
