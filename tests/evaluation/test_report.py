"""The tables as text."""

import pytest

from medfinder.evaluation.evaluate import evaluate, evaluate_fully
from medfinder.evaluation.report import as_markdown
from medfinder.evaluation.significance import compare

from .conftest import FakeDataset, FakeModel


@pytest.fixture
def text(perfect: tuple[FakeDataset, FakeModel]) -> str:
    return as_markdown(evaluate(*perfect, "test", bootstrap=20))


def row(text: str, start: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {start} ")]
    assert lines, start
    return [cell.strip() for cell in lines[0].strip("|").split("|")]


def test_our_numbers_stand_with_n_and_interval(text: str) -> None:
    assert row(text, "this model") == ["this model", "40", *["100.0 [100.0, 100.0]"] * 3, *["1.0 [1.0, 1.0]"] * 2]


def test_chance_stands_below_ours(text: str) -> None:
    assert row(text, "chance") == ["chance", "40", "2.5", "12.5", "25.0", "20.5", "20.5"]


def test_the_papers_numbers_are_marked_as_its_own(text: str) -> None:
    assert row(text, "paper: MedFinder, ResNet-50") == [
        "paper: MedFinder, ResNet-50", "?", "2.8", "8.7", "20.3", "68.9", "81.3",
    ]  # fmt: skip
    assert "other data, gallery size not stated" in text


def test_keywords_stand_with_base_rate_and_source(text: str) -> None:
    cells = row(text, "atelectasis")
    assert cells[1:3] == ["10", "0.25"]
    assert cells[3].startswith("0.50 [")
    assert cells[-1] == "0.75 / 0.72 / 0.69"
    assert "known from: truth 40" in text
    assert "Places beyond N count as wrong" in text


def test_synthetic_cases_are_called_so(perfect: tuple[FakeDataset, FakeModel]) -> None:
    result = evaluate(*perfect, "test", bootstrap=20)
    assert as_markdown(result).startswith("SYNTHETIC phantoms")
    partly = as_markdown({**result, "synthetic": False, "n_synthetic": 7})
    assert partly.startswith("7 of the cases are SYNTHETIC phantoms")
    assert "SYNTHETIC" not in as_markdown({**result, "synthetic": False, "n_synthetic": 0})


def test_a_model_that_saw_only_synthetic_cts_is_called_so(perfect: tuple[FakeDataset, FakeModel]) -> None:
    result = {**evaluate(*perfect, "test", bootstrap=20), "model_is_synthetic": True}
    assert "trained on synthetic CTs only" in as_markdown(result)


def test_the_columns_of_each_table_are_even(text: str) -> None:
    for block in text.split("\n\n"):
        widths = {len(line) for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1


def test_findings_and_ct_to_ct_stand_with_their_chance(text: str) -> None:
    assert row(text, "CT -> CT")[1:3] == ["N", "MAP@5"]
    assert [line for line in text.splitlines() if line.startswith("| atelectasis ") and "1.00 [1.00, 1.00]" in line]
    assert "Chance is 0.5" in text


def test_a_comparison_names_the_other_model(perfect: tuple[FakeDataset, FakeModel]) -> None:
    whole = evaluate_fully(*perfect, "test", bootstrap=20)
    text = as_markdown(whole.result, compare(whole.answers, whole.answers), against="the old one")
    assert "difference from the old one" in text
    assert row(text, "text -> image R@10")[1:] == ["+0.0 [+0.0, +0.0]", "1.0000", "1.0000"]


def test_a_result_of_an_earlier_version_still_reads(perfect: tuple[FakeDataset, FakeModel]) -> None:
    result = evaluate(*perfect, "test", bootstrap=20)
    del result["finding"], result["similar"]
    assert "CT -> CT" not in as_markdown(result)
