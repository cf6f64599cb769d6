"""The filter language: what it reads, what it refuses, and that the engine agrees with plain Python."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medfinder.errors import ConfigError
from medfinder.records import Case, Finding
from medfinder.retrieval.columns import points_of
from medfinder.retrieval.filters import (
    AllOf,
    AnyOf,
    Comparison,
    Not,
    Unknown,
    mentions,
    parse_filter,
)
from medfinder.retrieval.index import SearchIndex

NAMES = ("mass", "pleural effusion", "emphysema")


def test_and_binds_tighter_than_or() -> None:
    assert parse_filter("sex = F or sex = M and age > 3") == AnyOf(
        (
            Comparison("sex", "=", ("F",)),
            AllOf((Comparison("sex", "=", ("M",)), Comparison("age_years", ">", (3.0,)))),
        )
    )


def test_parentheses_bind_first() -> None:
    parsed = parse_filter("(sex = F or sex = M) and age > 3")
    assert isinstance(parsed, AllOf)
    assert isinstance(parsed.parts[0], AnyOf)


def test_not_holds_for_the_next_comparison_only() -> None:
    assert parse_filter("not source = dicom and sex = F") == AllOf(
        (Not(Comparison("source", "=", ("dicom",))), Comparison("sex", "=", ("F",)))
    )


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("AGE >= 60", "age_years>=60.0"),
        ("sex == f", "sex = F"),
        ("sex != F", "not sex = F"),
        ("split in (test, val)", "split in(test,val)"),
        ("split not in (test)", "not split = test"),
        ("findings = 'pleural effusion'", 'finding = "Pleural Effusion"'),
        ("findings = pleural effusion and sex = F", "findings = 'pleural effusion' and sex = F"),
        ("age in (1, 2)", "age in (1.0,2)"),
        ("findings = 'pleural efusion'", "findings = 'pleural effusion'"),
        ("findings = derrame", "findings = 'pleural effusion'"),
        ("synthetic = yes", "is_synthetic = true"),
        ("sex in (F, none)", "sex = F or sex = none"),
        ("sex = F", "\n sex\t=F "),
    ],
)
def test_two_ways_to_say_the_same(one: str, same: str) -> None:
    assert parse_filter(one) == parse_filter(same)


def test_none_asks_for_what_is_not_known() -> None:
    assert parse_filter("age = none") == Unknown("age_years")
    assert parse_filter("age != none") == Not(Unknown("age_years"))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("colour = red", r"character 1 .*unknown field 'colour'; known: age, age_years, case_id"),
        ("sex = F and colour = red", r"character 13 .*unknown field 'colour'"),
        ("sex = X", r"character 7 .*sex is one of F, M, got 'X'"),
        ("age >= old", r"age_years is a number, got 'old'"),
        ("age >= nan", r"is a number"),
        ("age >= 1e999", r"is a number"),
        ("split = holdout", r"one of train, val, test"),
        ("synthetic = perhaps", r"true or false"),
        ("sex > F", r"character 5 .*no order"),
        ("age > none", r"none has no order"),
        ("sex = F sex = M", r"character 7 .*sex is one of F, M, got 'F sex'"),
        ("findings = 'mass' or", r"expected a field"),
        ("findings = 'mass' mass", r"expected 'and', 'or' or the end"),
        ("findings = 'plurel efusion'", r"near: pleural effusion"),
        ("sex", r"character 4 .*expected =, !="),
        ("sex =", r"expected a value of sex"),
        ("sex = F and", r"expected a field"),
        ("", r"expected a field"),
        ("(sex = F", r"expected '\)'"),
        ("sex = F)", r"expected 'and', 'or' or the end"),
        ("sex in F", r"expected '\(' after 'in'"),
        ("sex in (F 'M')", r"expected ',' or '\)'"),
        ("sex not F", r"expected 'in' after 'not'"),
        ("sex = 'F", r"the quote has no end"),
        ("sex = F; drop table", r"expected 'and'|is one of F, M"),
        ("(" * 200 + "sex = F" + ")" * 200, r"nested deeper"),
        ("not " * 200 + "sex = F", r"nested deeper"),
        ("sex = F or " * 1000 + "sex = F", r"characters; at most"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(expression: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_filter(expression)
    assert "\n" not in str(error.value)


def test_mentions_looks_everywhere() -> None:
    condition = parse_filter("sex = F or not (age > 3 and region = none)")
    assert mentions(condition, "region")
    assert not mentions(condition, "source")


# ---- engine and columns agree with plain Python ----------------------------------------------------------------------

# An expression as (text, what it means); what it means is written here, apart from the code under test.
Meaning = tuple[str, Callable[[Case], bool]]


def _ordered(
    name: str, get: Callable[[Case], float | None], values: st.SearchStrategy[float]
) -> st.SearchStrategy[Meaning]:
    signs: dict[str, Callable[[float, float], bool]] = {
        "=": lambda a, b: a == b,
        "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        ">=": lambda a, b: a >= b,
    }

    def build(sign: str, value: float) -> Meaning:
        def holds(case: Case) -> bool:
            found = get(case)
            return found is not None and signs[sign](found, value)

        return f"{name} {sign} {value}", holds

    return st.builds(build, st.sampled_from(list(signs)), values)


def _sex(sign: str, value: str) -> Meaning:
    return f"sex {sign} {value}", lambda case: (case.sex == value) == (sign == "=")


def _finding(sign: str, value: str) -> Meaning:
    def holds(case: Case) -> bool:
        return (value in {finding.name for finding in case.findings}) == (sign == "=")

    return f"findings {sign} '{value}'", holds


def _findings_in(values: list[str]) -> Meaning:
    listed = ", ".join(f'"{value}"' for value in values)
    return f"findings in ({listed})", lambda case: any(finding.name in values for finding in case.findings)


UNKNOWN: list[Meaning] = [
    ("age = none", lambda case: case.age_years is None),
    ("sex != none", lambda case: case.sex is not None),
    ("findings = none", lambda case: not case.findings),
    ("synthetic = true", lambda case: case.is_synthetic),
    ("synthetic != true", lambda case: not case.is_synthetic),
    ("source in (phantoms, none)", lambda case: case.source == "phantoms"),
]

LEAVES = st.one_of(
    st.sampled_from(UNKNOWN),
    st.builds(_sex, st.sampled_from(["=", "!="]), st.sampled_from(["F", "M"])),
    st.builds(_finding, st.sampled_from(["=", "!="]), st.sampled_from(NAMES)),
    st.builds(_findings_in, st.lists(st.sampled_from(NAMES), min_size=1, max_size=3)),
    _ordered("age", lambda case: case.age_years, st.sampled_from([20.0, 50.0, 50.5, 80.0])),
    _ordered("spacing", lambda case: case.spacing_mm[2], st.sampled_from([1.0, 1.25, 5.0])),
    _ordered("date", lambda case: case.date_offset_days, st.sampled_from([0.0, 30.0])),
)


def _join(word: str, one: Meaning, other: Meaning) -> Meaning:
    def holds(case: Case) -> bool:
        left, right = one[1](case), other[1](case)
        return (left and right) if word == "and" else (left or right)

    return f"({one[0]}) {word} ({other[0]})", holds


def _negate(one: Meaning) -> Meaning:
    return f"not ({one[0]})", lambda case: not one[1](case)


EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(_join, st.sampled_from(["and", "or"]), inner, inner),
        st.builds(_negate, inner),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def cases(make_case: Callable[..., Case]) -> list[Case]:
    """Every combination of a few values, unknown ones among them."""
    made = []
    for age in (None, 20, 50, 80):
        for sex in (None, "F", "M"):
            for number, names in enumerate([(), ("mass",), ("mass", "emphysema"), ("pleural effusion",)]):
                made.append(
                    make_case(
                        f"{age}-{sex}-{number}",
                        age_years=age,
                        sex=sex,
                        findings=[Finding(name) for name in names],
                        spacing_mm=(1.0, 1.0, (1.0, 1.25, 5.0)[number % 3]),
                        date_offset_days=(None, 0, 30)[number % 3],
                        is_synthetic=number != 2,
                        source="phantoms" if number else "dicom",
                    )
                )
    return made


@pytest.fixture(scope="module")
def filled(
    tmp_path_factory: pytest.TempPathFactory, cases: list[Case], empty_index: Callable[[Path, int], SearchIndex]
) -> Iterator[SearchIndex]:
    path: Path = tmp_path_factory.mktemp("filters") / "index"
    vectors = np.ones((len(cases), 4), np.float32)
    with empty_index(path, 4) as index:
        index.add(cases, vectors, vectors, path.parent, model_digest=index.model_digest)
        yield index


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(meaning=EXPRESSIONS)
def test_engine_and_columns_find_what_plain_python_finds(
    meaning: Meaning, filled: SearchIndex, cases: list[Case]
) -> None:
    expression, holds = meaning
    expected = {case.case_id for case in cases if holds(case)}
    query = np.ones(4, np.float32)
    found = filled.nearest("image", query, limit=len(cases), where=parse_filter(expression))
    assert {case_id for case_id, _ in found} == expected
    assert filled.count(parse_filter(expression)) == len(expected)
    found_by_engine = filled._engine.nearest("image", query, limit=100, where=parse_filter(expression), among=None)
    assert set(found_by_engine.points.tolist()) == set(points_of(expected).tolist())
