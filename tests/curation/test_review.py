"""The review queue: what waits, what a decision changes, and that none is ever lost."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from medfinder.curation.dataset import Figures
from medfinder.curation.review import DECISIONS, Decision, count_items, decide, list_items, read_decisions, settle
from medfinder.errors import ConfigError
from medfinder.records import Case, Doubt

LEFT = Doubt("translation", "laterality differs", "1 side word differs", holds=True)
NOISE = Doubt("quality", "noise", "58 HU, expected at most 40", holds=False)


def row(name: str, *doubts: Doubt, report: str = "Left pleural effusion.", spanish: str = "") -> tuple[Case, Figures]:
    case = Case(
        case_id=name,
        study_id=f"study-{name[0]}",
        patient_id="p",
        source="phantoms",
        split="train",
        volume=f"volumes/{name}.nii",
        report=report,
        report_es=spanish,
        findings=(),
        findings_from="report",
        age_years=50,
        sex="F",
        date_offset_days=0,
        spacing_mm=(1.0, 1.0, 1.0),
        shape=(100, 100, 100),
        region="chest",
        is_synthetic=True,
    )
    return case, Figures(3, 0.0, 4000.0, "", (), "0" * 64, 0.9, doubts)


def say(item: str, verdict: str, before: str = "", after: str = "") -> Decision:
    return Decision(item, verdict, "ab", "2026-01-01T00:00:00+00:00", before, after)  # type: ignore[arg-type]


def ids(rows: tuple[tuple[Case, Figures], ...]) -> list[str]:
    return [case.case_id for case, _ in rows]


def test_a_doubt_that_holds_keeps_the_case_out_until_somebody_accepts() -> None:
    rows = [row("a1", LEFT), row("b1", NOISE), row("c1")]
    before = settle(rows, [])
    assert (ids(before.cases), ids(before.held)) == (["b1", "c1"], ["a1"])
    after = settle(rows, [say("translation/study-a", "accept")])
    assert (ids(after.cases), ids(after.held), after.rejected) == (["a1", "b1", "c1"], [], ())


def test_volumes_of_one_study_share_the_item_of_their_text_but_not_that_of_quality() -> None:
    rows = [row("a1", LEFT, NOISE), row("a2", LEFT)]
    items = {item.key: item for item in list_items(rows, [])}
    assert set(items) == {"translation/study-a", "quality/a1"}
    assert items["translation/study-a"].case_ids == ("a1", "a2")
    assert ids(settle(rows, [say("translation/study-a", "accept")]).cases) == ["a1", "a2"]


def test_a_correction_replaces_the_text_and_what_was_read_from_it() -> None:
    decided = [say("translation/study-a", "correct", "Left pleural effusion.", "Right pleural effusion.")]
    ((case, figures),) = settle([row("a1", LEFT)], decided).cases
    assert case.report == "Right pleural effusion."
    assert [(one.name, one.laterality) for one in case.findings] == [("pleural effusion", "right")]
    assert figures.words == 3


def test_a_corrected_translation_leaves_what_was_read_from_the_spanish() -> None:
    decided = [say("translation/study-a", "correct", "Left pleural effusion.", "Right pleural effusion.")]
    ((case, _),) = settle([row("a1", LEFT, spanish="derrame pleural derecho .")], decided).cases
    assert (case.report, case.findings) == ("Right pleural effusion.", ())


def test_a_rejected_case_is_told_among_the_dropped_and_kept_apart() -> None:
    settled = settle([row("b1", NOISE)], [say("quality/b1", "reject")])
    assert (ids(settled.cases), ids(settled.held)) == ([], ["b1"])
    assert [(one.stage, one.reason) for one in settled.rejected] == [("review", "rejected: quality")]


def test_the_last_word_counts_and_a_decision_can_be_taken_back() -> None:
    rows = [row("a1", LEFT)]
    decided = [say("translation/study-a", "accept"), say("translation/study-a", "reject")]
    assert ids(settle(rows, decided).held) == ["a1"]
    assert ids(settle(rows, [*decided, say("translation/study-a", "accept")]).cases) == ["a1"]
    reopened = settle(rows, [*decided, say("translation/study-a", "reopen")])
    assert (ids(reopened.held), reopened.rejected) == (["a1"], ())
    assert list_items(rows, [*decided, say("translation/study-a", "reopen")])[0].decision is None


def test_what_holds_a_case_comes_first_and_what_is_decided_last() -> None:
    rows = [row("b1", NOISE), row("a1", LEFT), row("c1", replace(LEFT, stage="pairing"))]
    items = list_items(rows, [say("pairing/study-c", "accept")])
    assert [item.key for item in items] == ["translation/study-a", "quality/b1", "pairing/study-c"]
    assert {(one["reason"], one["undecided"], one["holding"]) for one in count_items(items)} == {
        ("laterality differs", 1, 1),
        ("noise", 1, 0),
        ("laterality differs", 0, 0),
    }


def test_a_decision_is_on_disk_with_who_when_before_and_after(tmp_path: Path) -> None:
    items = {item.key: item for item in list_items([row("a1", LEFT)], [])}
    decide(tmp_path, items, "translation/study-a", "correct", reader=" ab ", before="Left.", after="Right.")
    (line,) = (tmp_path / DECISIONS).read_text(encoding="utf-8").splitlines()
    told = json.loads(line)
    assert (told["reader"], told["before"], told["after"]) == ("ab", "Left.", "Right.")
    assert told["at"].endswith("+00:00")
    assert read_decisions(tmp_path) == [Decision(**told)]


@pytest.mark.parametrize(
    ("key", "verdict", "reader", "after", "message"),
    [
        ("quality/none", "accept", "ab", "", "no item"),
        ("translation/study-a", "maybe", "ab", "", "verdict"),
        ("translation/study-a", "accept", "  ", "", "reader"),
        ("translation/study-a", "correct", "ab", " ", "corrected text"),
    ],
)
def test_a_wrong_decision_is_refused_and_not_written(
    tmp_path: Path, key: str, verdict: str, reader: str, after: str, message: str
) -> None:
    items = {item.key: item for item in list_items([row("a1", LEFT)], [])}
    with pytest.raises(ConfigError, match=message):
        decide(tmp_path, items, key, verdict, reader=reader, after=after)
    assert not (tmp_path / DECISIONS).exists()


def test_a_line_torn_by_a_power_cut_costs_that_line_alone(tmp_path: Path) -> None:
    items = {item.key: item for item in list_items([row("a1", LEFT)], [])}
    first = decide(tmp_path, items, "translation/study-a", "accept", reader="ab")
    with (tmp_path / DECISIONS).open("ab") as file:
        file.write(b'{"item": "translation/stu')
    assert read_decisions(tmp_path) == [first]
    second = decide(tmp_path, items, "translation/study-a", "reject", reader="cd")
    assert read_decisions(tmp_path) == [first, second]


def test_a_damaged_line_among_others_is_named(tmp_path: Path) -> None:
    (tmp_path / DECISIONS).write_text("nonsense\n{}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 1"):
        read_decisions(tmp_path)
