"""Reports of another examination are told from reports of a chest CT, by their words alone."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from medfinder.curation.contradictions import find_contradictions, find_parts

FIRST, SECOND = (
    tomllib.loads((Path(__file__).parent / f"contradictions_{name}.toml").read_text(encoding="utf-8"))
    for name in ("first", "second")
)


def others(texts: dict[str, Any]) -> list[tuple[str, str]]:
    return [(reason, text) for reason, told in texts["other"].items() if reason != "sex" for text in told]


@pytest.mark.parametrize("texts", [FIRST, SECOND], ids=["first", "second"])
def test_each_report_of_another_examination_is_doubted_for_what_it_is(texts: dict[str, Any]) -> None:
    wrong = [(reason, text) for reason, text in others(texts) if reason not in reasons_of(text)]
    assert wrong == []


@pytest.mark.parametrize("texts", [FIRST, SECOND], ids=["first", "second"])
def test_no_report_of_a_chest_ct_is_doubted(texts: dict[str, Any]) -> None:
    assert [text for language in ("es", "en") for text in texts["own"][language] if reasons_of(text)] == []


@pytest.mark.parametrize("texts", [FIRST, SECOND], ids=["first", "second"])
def test_the_other_sex_is_known_by_words_and_anatomy(texts: dict[str, Any]) -> None:
    for sex in ("F", "M"):
        assert [t for t in texts["other"]["sex"][sex] if reasons_of(t, sex=sex) != ["sex differs"]] == []
        assert [t for t in texts["own"]["sex"][sex] if reasons_of(t, sex=sex)] == []


def test_there_are_sentences_enough_to_speak_of_rates() -> None:
    assert len(others(SECOND)) >= 60
    assert len(SECOND["own"]["es"]) + len(SECOND["own"]["en"]) >= 60


def test_every_doubt_holds_the_case_and_quotes_nothing() -> None:
    for reason, text in others(SECOND):
        doubts = find_contradictions(text)
        assert all(doubt.holds and doubt.stage == "pairing" for doubt in doubts), reason
        long_words = {word for word in text.lower().split() if len(word) > 8}
        shared = long_words & {word for doubt in doubts for word in doubt.detail.split()}
        assert shared <= {"projections", "abdominal", "radiograph"}


@pytest.mark.parametrize(
    ("text", "age", "doubted"),
    [
        ("tc torax . mujer de 54 anos .", 54, False),
        ("tc torax . mujer de 54 años .", 56, False),
        ("tc torax . mujer de 54 anos .", 57, True),
        ("Chest CT. 54-year-old woman.", 71, True),
        ("Chest CT. 54 y/o woman.", 71, True),
        ("tc torax . padre de 80 anos con epoc . nodulo de 6 mm .", 40, False),
        ("tc torax . fumador de 40 cigarrillos desde hace 20 anos .", 71, False),
        ("tc torax . mujer de 54 anos .", None, False),
    ],
)
def test_an_age_that_the_report_tells_is_compared(text: str, age: int | None, doubted: bool) -> None:
    assert ("age differs" in reasons_of(text, age_years=age)) is doubted


def test_the_sex_is_not_judged_where_it_is_unknown() -> None:
    assert reasons_of("tc torax . prostata aumentada .") == []


@pytest.mark.parametrize("text", ["", " . . ", "###", "a" * 5000, "rx " * 2000, "con " * 5000 + "tc"])
def test_odd_texts_are_read_without_an_error_and_in_no_time(text: str) -> None:
    find_contradictions(text, sex="F", age_years=50)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("CHEST", {"chest"}),
        ("Tórax", {"chest"}),
        ("bp-chest", {"chest"}),
        ("CABEZA", {"head"}),
        ("CHEST_ABDOMEN", {"chest", "abdomen"}),
        ("C SPINE", {"spine"}),
        ("HIP", {"limb"}),
        ("UNDEFINED", set()),
        ("", set()),
    ],
)
def test_parts_of_the_body_are_known_by_what_scanners_write(words: str, parts: set[str]) -> None:
    assert find_parts(words) == parts


def reasons_of(text: str, **known: Any) -> list[str]:
    return [doubt.reason for doubt in find_contradictions(text, **known)]
