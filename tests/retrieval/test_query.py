"""The query language: what is read, how it is decided, and where it is refused."""

import difflib

import pytest

from medfinder.errors import ConfigError
from medfinder.retrieval import query
from medfinder.retrieval.query import (
    Either,
    Every,
    Term,
    Without,
    holds,
    is_expression,
    mend_word,
    must_be_read,
    parse_keywords,
    parse_text,
    terms_of,
    words_of,
)


def _asked(text: str) -> list[tuple[str, bool]]:
    return [(term.text, is_asked) for term, is_asked in terms_of(parse_keywords(text)[0])]


@pytest.mark.parametrize(
    "text",
    [
        "effusion and mass not cardiomegaly",
        "Effusion AND mass NOT cardiomegaly",
        "derrame pleural y masa sin cardiomegalia",
        "(effusion mass) and not (cardiomegaly)".replace(" mass", " and mass"),
    ],
)
def test_operators_of_both_languages_mean_the_same(text: str) -> None:
    assert _asked(text) == [("pleural effusion", True), ("mass", True), ("cardiomegaly", False)]


def test_and_binds_closer_than_or() -> None:
    expression, _ = parse_keywords("mass and effusion or nodule")
    assert isinstance(expression, Either)
    assert isinstance(expression.parts[0], Every)


def test_two_denials_ask_again() -> None:
    assert _asked("not (not mass)") == [("mass", True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("effusion and mass", False),
        ("derrame o masa", False),
        ("nodule (8 mm) in the RUL", False),
        ("NO MASA Y SIN DERRAME", False),
        ('5" nodule', False),
        ("effusion AND mass", True),
        ("derrame Y masa", True),
        ('"tree in bud"', True),
    ],
)
def test_free_text_is_an_expression_only_when_it_says_so(text: str, expected: bool) -> None:
    assert is_expression(text) is expected


@pytest.mark.parametrize(
    ("written", "meant"), [("plurel efusion", "pleural effusion"), ("nodul", "nodule"), ("GGO", "ground-glass opacity")]
)
def test_slips_and_synonyms_are_understood(written: str, meant: str) -> None:
    expression, remarks = parse_keywords(written)
    assert isinstance(expression, Term)
    assert expression.text == meant
    assert bool(remarks) is (written != "GGO")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("effusion and", r"keyword, character 13 .*expected a finding"),
        ("and mass", r"character 1 .*expected a finding"),
        ("(effusion or mass", r"character 18 .*expected '\)'"),
        ("effusion or mass)", r"character 17 .*never opened"),
        ("effusion or ()", r"character 14 .*expected a finding"),
        ("not " * 60 + "mass", "nested deeper than 50"),
        ("mass and " * 600 + "mass", "at most 4000"),
        ("mass and sunburn", "unknown keyword 'sunburn'"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_keywords(text)


def test_a_quote_without_an_end_is_told() -> None:
    with pytest.raises(ConfigError, match=r"query, character 10 .*the quote has no end"):
        parse_text('mass AND "tree in bud')


def test_quoted_words_and_denied_words_must_be_read_in_the_report() -> None:
    assert must_be_read(parse_text('mass AND "spiculated margin"'))
    assert must_be_read(parse_text("mass NOT zebra"))
    assert not must_be_read(parse_text("mass NOT effusion"))


@pytest.mark.parametrize(
    ("text", "present", "said", "expected"),
    [
        ('mass AND "spiculated"', {"mass"}, {"spiculated"}, True),
        ('mass AND "spiculated"', {"mass"}, set(), False),
        ('mass NOT "spiculated"', {"mass"}, {"spiculated"}, False),
        ('"spiculated" OR "lobulated"', set(), {"lobulated"}, True),
        ('"spiculated" NOT effusion', {"pleural effusion"}, {"spiculated"}, False),
    ],
)
def test_an_expression_is_decided_by_findings_and_words(
    text: str, present: set[str], said: set[str], expected: bool
) -> None:
    assert holds(parse_text(text), frozenset(present), lambda words: words in said) is expected


def test_what_is_denied_counts_among_the_denied_words() -> None:
    words = words_of(parse_text("effusion NOT (mass OR nodule)"))
    assert (words.present, words.negated) == (("pleural effusion",), ("mass", "nodule"))


def test_a_tree_of_denials_is_kept() -> None:
    expression = parse_text("mass NOT (effusion AND nodule)")
    assert isinstance(expression, Every)
    assert isinstance(expression.parts[1], Without)


@pytest.mark.parametrize(
    "slip", ["emphysma", "cardiomegally", "effussion", "neumotorax", "bicycle", "xmphysema", "fbirosis"]
)
def test_a_word_is_mended_as_difflib_alone_would(slip: str) -> None:
    words = query._single_words()
    best = difflib.get_close_matches(slip, words, n=1, cutoff=0.84)
    assert mend_word(slip) == (best[0] if best and best[0][0] == slip[0] else None)
