"""Words: the traps that engines' analysers fall into, negation, and the weights worked by hand."""

from collections.abc import Callable

import pytest

from medfinder.records import Case, Finding
from medfinder.retrieval.lexical import (
    BM25_B,
    BM25_K1,
    MEAN_TERMS,
    Terms,
    describe_case,
    describe_finding,
    describe_query,
    plain_terms,
    read_clauses,
    tokenise,
)


def _score(query: Terms, document: Terms) -> float:
    weights = dict(zip(document.ids, document.weights, strict=True))
    return sum(weight * weights.get(term, 0.0) for term, weight in zip(query.ids, query.weights, strict=True))


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("nodulo", "nódulo"),
        ("nódulos", "nodulo"),
        ("neumonia", "Neumonía"),
        ("derrames", "derrame"),
        ("DERRAMES PLEURALES", "derrame pleural"),
        ("opacidades", "opacidad"),
        ("consolidación", "consolidaciones"),
        ("adenopatías", "adenopatia"),
        ("effusions", "effusion"),
        ("nodules", "Nodule"),
        ("calcifications", "calcification"),
        ("bronquiectasias", "bronquiectasia"),
    ],
)
def test_accents_case_and_number_do_not_matter(one: str, same: str) -> None:
    assert tokenise(one) == tokenise(same) != []


@pytest.mark.parametrize(("one", "other"), [("mass", "nodule"), ("left", "right"), ("derecho", "izquierdo")])
def test_different_words_stay_apart(one: str, other: str) -> None:
    assert set(tokenise(one)).isdisjoint(tokenise(other))


def test_function_words_are_no_terms() -> None:
    assert tokenise("there is a of the with se observa en la") == []


def test_no_effusion_is_no_match_for_effusion(make_case: Callable[..., Case]) -> None:
    denied = describe_case(make_case("a", "No pleural effusion. Emphysema."))
    affirmed = describe_case(make_case("b", "Pleural effusion. Emphysema.", findings=["pleural effusion"]))
    query = describe_query("pleural effusion")
    assert _score(query.affirmed, denied.affirmed) == 0
    assert _score(query.affirmed, affirmed.affirmed) > 0
    assert denied.negated == ("pleural effusion",)
    assert affirmed.negated == ()


def test_one_sentence_may_affirm_and_deny(make_case: Callable[..., Case]) -> None:
    words = describe_case(make_case("a", "Cardiomegaly without pleural effusion."))
    assert _score(describe_query("cardiomegaly").affirmed, words.affirmed) > 0
    assert _score(describe_query("pleural effusion").affirmed, words.affirmed) == 0
    assert words.negated == ("pleural effusion",)


def test_what_a_query_denies_is_kept_apart() -> None:
    words = describe_query("emphysema without cardiomegaly")
    assert words.negated == ("cardiomegaly",)
    assert _score(describe_query("cardiomegaly").affirmed, words.affirmed) == 0
    assert _score(describe_query("emphysema").affirmed, words.affirmed) > 0


def test_a_negation_in_spanish_is_understood_in_a_query() -> None:
    assert describe_query("enfisema sin fibrosis").negated == ("pulmonary fibrosis",)


@pytest.mark.parametrize("words", ["GGO", "ground-glass opacity", "vidrio deslustrado"])
def test_synonyms_abbreviations_and_languages_meet(words: str, make_case: Callable[..., Case]) -> None:
    document = describe_case(make_case("a", "Areas of ground glass in both lungs.", findings=["ground-glass opacity"]))
    assert _score(describe_query(words).affirmed, document.affirmed) > 0


def test_the_spanish_report_is_searched_too(make_case: Callable[..., Case]) -> None:
    words = describe_case(make_case("a", "", report_es="derrames pleurales bilaterales. no se observan nodulos."))
    assert _score(describe_query("derrame").affirmed, words.affirmed) > 0
    assert _score(describe_query("nódulo").affirmed, words.affirmed) == 0


def test_the_right_side_scores_higher(make_case: Callable[..., Case]) -> None:
    left = describe_case(make_case("a", "Effusion.", findings=[Finding("pleural effusion", laterality="left")]))
    right = describe_case(make_case("b", "Effusion.", findings=[Finding("pleural effusion", laterality="right")]))
    query = describe_query("left pleural effusion").affirmed
    assert _score(query, left.affirmed) > _score(query, right.affirmed)


def test_an_absent_finding_of_the_source_is_negated(make_case: Callable[..., Case]) -> None:
    assert describe_case(make_case("a", "", findings=[Finding("mass", "absent")])).negated == ("mass",)


def test_weights_are_bm25_by_hand(make_case: Callable[..., Case]) -> None:
    # Three terms: spiculated twice, lesion once. BM25: f (k1 + 1) / (f + k1 (1 - b + b |d| / mean)).
    document = describe_case(make_case("a", "Spiculated spiculated lesion.")).affirmed
    norm = 1.2 * (1 - 0.75 + 0.75 * 3 / MEAN_TERMS)
    assert (BM25_K1, BM25_B) == (1.2, 0.75)
    assert sorted(document.weights) == pytest.approx(sorted([2 * 2.2 / (2 + norm), 2.2 / (1 + norm)]))


def test_terms_are_unique_and_the_same_in_every_process(make_case: Callable[..., Case]) -> None:
    terms = describe_case(make_case("a", "Nodule. Nodule. Mass. Nodule.", findings=["nodule"])).affirmed
    assert list(terms.ids) == sorted(set(terms.ids))
    # blake2b("nodul", 4 bytes) by `printf nodul | b2sum -l 32`.
    assert 0x93117703 in describe_query("nodule").affirmed.ids


def test_a_finding_by_name_matches_its_cases(make_case: Callable[..., Case]) -> None:
    case = describe_case(make_case("a", "", findings=["mass"]))
    assert _score(describe_finding("mass").affirmed, case.affirmed) > 0


def test_clauses_split_where_denial_begins() -> None:
    text = "Small nodule, no mass; heart is not enlarged. Effusion is not seen. No emphysema but bullae."
    assert [(clause.text, clause.is_denied) for clause in read_clauses(text, "en")] == [
        ("Small nodule", False),
        ("no mass", True),
        ("heart is not enlarged", True),
        ("Effusion is not seen", True),
        ("No emphysema", True),
        ("but bullae", False),
    ]


def test_what_is_affirmed_once_is_not_negated(make_case: Callable[..., Case]) -> None:
    case = make_case("a", "No left effusion. Small right effusion.", findings=["pleural effusion"])
    assert describe_case(case).negated == ()
    assert describe_query("right effusion, no left effusion").negated == ()


@pytest.mark.parametrize("text", ["", "...", "🫁🫁", "\x00", "no", "без изменений"])
def test_odd_text_is_no_trouble(text: str, make_case: Callable[..., Case]) -> None:
    describe_query(text)
    describe_case(make_case("a", text))


def test_a_query_asks_for_the_kinds_of_a_finding_too() -> None:
    asked = set(describe_query("pulmonary fibrosis").affirmed.ids)
    kind = set(describe_finding("honeycombing").affirmed.ids) - set(plain_terms("honeycombing").ids)
    assert kind <= asked
    assert not kind & set(describe_query("pulmonary fibrosis without honeycombing").affirmed.ids)
