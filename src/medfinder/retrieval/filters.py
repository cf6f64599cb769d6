"""The filter language of ``--where``: which cases may be an answer.

In: an expression such as ``sex = F and age >= 60 and findings = "pleural effusion" and not source = dicom``. Out: a
small tree of conditions that the index turns into its engine's filter. Refused with ``ConfigError``, which shows the
place and lists what is known: unknown fields, values that a field cannot have, bad syntax, expressions too long or too
deep.

    expression  = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation    = "not" negation | "(" expression ")" | comparison
    comparison  = FIELD ("=" | "!=" | "<" | "<=" | ">" | ">=") VALUE | FIELD [ "not" ] "in" "(" VALUE { "," VALUE } ")"

A value may have several words; it stands in quotes where it holds one of the words or signs above. ``none`` as a value
asks for what is not known: ``age = none``. Logic has two values: a comparison with something unknown is false, so ``not
age >= 60`` includes the cases of unknown age.
"""

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from medfinder.curation.keywords import KEYWORDS, resolve_keyword
from medfinder.errors import ConfigError
from medfinder.records import Sex, Split

Value = str | float | bool
Operator = Literal["=", "<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A field compared with a value; true for a field of several values when one of them passes.

    Attributes:
        field: canonical name, a key of ``FIELDS``.
        values: one, or several for ``in``, where any may match.
    """

    field: str
    operator: Operator
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """True where nothing is known of the field."""

    field: str


@dataclass(frozen=True, slots=True)
class Not:
    """True where its part is false."""

    part: "Condition"


@dataclass(frozen=True, slots=True)
class AllOf:
    """True where every part is; true for no parts."""

    parts: "tuple[Condition, ...]"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True where at least one part is."""

    parts: "tuple[Condition, ...]"


Condition = Comparison | Unknown | Not | AllOf | AnyOf


def parse_filter(expression: str) -> Condition:
    """Read a filter expression.

    Raises:
        ConfigError: the expression cannot be honoured; the message shows where, and what is known.

    Example:
        >>> parse_filter("sex = F and age >= 60")
        AllOf(parts=(Comparison(field='sex', operator='=', values=('F',)), \
Comparison(field='age_years', operator='>=', values=(60.0,))))
    """
    return _Parser(expression).parse()


def mentions(condition: Condition, field: str) -> bool:
    """Tell whether the condition asks about ``field`` anywhere."""
    match condition:
        case Comparison(field=name) | Unknown(field=name):
            return name == field
        case Not(part=part):
            return mentions(part, field)
        case AllOf(parts=parts) | AnyOf(parts=parts):
            return any(mentions(part, field) for part in parts)


def equals(field: str, value: Value) -> Condition:
    """Build ``field = value`` from values that need no reading."""
    return Comparison(field, "=", (value,))


# ---- what can be asked about -----------------------------------------------------------------------------------------


class _ValueError(ValueError):
    """A value that its field cannot have; the message says what it can."""


def _exact(text: str) -> Value:
    return text


def _lower(text: str) -> Value:
    return text.lower()


def _sex(text: str) -> Value:
    return _one_of(text.upper(), get_args(Sex))


def _split(text: str) -> Value:
    return _one_of(text.lower(), get_args(Split))


def _one_of(text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise _ValueError(f"is one of {', '.join(allowed)}")
    return text


def _number(text: str) -> Value:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _ValueError("is a number")
    return number


def _flag(text: str) -> Value:
    flags = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in flags:
        raise _ValueError("is true or false")
    return flags[text.lower()]


def _finding(text: str) -> Value:
    name = resolve_keyword(text)
    if name is None:
        near = difflib.get_close_matches(text.lower(), list(KEYWORDS), n=3, cutoff=0.5)
        raise _ValueError(f"is a finding; near: {', '.join(near)}" if near else f"is one of {', '.join(KEYWORDS)}")
    return name


@dataclass(frozen=True, slots=True)
class Field:
    """One thing that a filter can ask about.

    Attributes:
        read: turns the written value into the stored one.
        is_ordered: ``<`` and its like make sense.
    """

    read: Callable[[str], Value]
    meaning: str
    is_ordered: bool = False


FIELDS: dict[str, Field] = {
    "age_years": Field(_number, "age at the examination, years", is_ordered=True),
    "case_id": Field(_exact, "the case"),
    "date_offset_days": Field(_number, "days since the patient's first study", is_ordered=True),
    "findings": Field(_finding, "what is present; any synonym or abbreviation"),
    "is_synthetic": Field(_flag, "no real patient stands behind it"),
    "negated": Field(_finding, "what the report says is absent; any synonym or abbreviation"),
    "patient_id": Field(_exact, "the patient, hashed"),
    "region": Field(_lower, 'body region: "chest" or "not chest"'),
    "sex": Field(_sex, "F or M"),
    "source": Field(_lower, "what the case came from, e.g. phantoms, dicom"),
    "spacing_z_mm": Field(_number, "distance of the raw slices, mm", is_ordered=True),
    "split": Field(_split, "train, val or test"),
    "study_id": Field(_exact, "the study, hashed"),
}

ALIASES = {
    "age": "age_years",
    "date": "date_offset_days",
    "finding": "findings",
    "spacing": "spacing_z_mm",
    "synthetic": "is_synthetic",
}

# ---- reading ---------------------------------------------------------------------------------------------------------

# Far beyond what anybody types, well below Python's recursion limit.
_MAX_CHARACTERS = 4_000
_MAX_DEPTH = 50

_RESERVED = ("and", "or", "not", "in")

_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>"[^"]*"|'[^']*')|(?P<sign><=|>=|!=|==|[=<>(),])|(?P<word>[^\s=<>!(),"']+)|(?P<odd>\S))"""
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int

    def is_word(self, word: str) -> bool:
        return self.kind == "word" and self.text.lower() == word


class _Parser:
    """Recursive descent over the grammar of the module's docstring."""

    def __init__(self, expression: str) -> None:
        if len(expression) > _MAX_CHARACTERS:
            raise ConfigError(f"filter of {len(expression)} characters; at most {_MAX_CHARACTERS} are read")
        self._expression = expression
        self._tokens = self._split()
        self._at = 0
        self._depth = 0

    def _split(self) -> list[_Token]:
        tokens = []
        for match in _TOKEN.finditer(self._expression):
            kind = str(match.lastgroup)
            token = _Token(kind, match.group(kind), match.start(kind))
            if kind == "odd":
                quote = "; the quote has no end" if token.text in "\"'" else ""
                raise self._error(f"cannot read {token.text!r}{quote}", token)
            tokens.append(token)
        return [*tokens, _Token("end", "", len(self._expression.rstrip()))]

    def parse(self) -> Condition:
        condition = self._expression_of()
        if self._here.kind != "end":
            raise self._error("expected 'and', 'or' or the end")
        return condition

    @property
    def _here(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._here
        self._at += token.kind != "end"
        return token

    def _take_word(self, word: str) -> bool:
        found = self._here.is_word(word)
        self._at += found
        return found

    def _take_sign(self, sign: str) -> bool:
        found = self._here.kind == "sign" and self._here.text == sign
        self._at += found
        return found

    def _error(self, problem: str, token: _Token | None = None) -> ConfigError:
        at = (token or self._here).start
        shown = self._expression[max(0, at - 30) : at] + "▸" + self._expression[at : at + 30]
        return ConfigError(f"filter, character {at + 1} ({' '.join(shown.split())}): {problem}")

    def _expression_of(self) -> Condition:
        parts = [self._conjunction()]
        while self._take_word("or"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _conjunction(self) -> Condition:
        parts = [self._negation()]
        while self._take_word("and"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _negation(self) -> Condition:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error(f"nested deeper than {_MAX_DEPTH}")
        try:
            if self._take_word("not"):
                return Not(self._negation())
            if not self._take_sign("("):
                return self._comparison()
            inner = self._expression_of()
            if not self._take_sign(")"):
                raise self._error("expected ')'")
            return inner
        finally:
            self._depth -= 1

    def _comparison(self) -> Condition:
        field = self._field()
        if self._take_word("in"):
            return self._equal(field, self._several(field))
        if self._take_word("not"):
            if not self._take_word("in"):
                raise self._error("expected 'in' after 'not'")
            return Not(self._equal(field, self._several(field)))
        return self._compared(field)

    def _compared(self, field: str) -> Condition:
        sign = self._here
        for operator in ("<=", "<", ">=", ">"):
            if self._take_sign(operator):
                if not FIELDS[field].is_ordered:
                    raise self._error(f"{field} has no order; use =, != or in", sign)
                value = self._value(field)
                if value is None:
                    raise self._error(f"none has no order; write {field} = none", sign)
                return Comparison(field, operator, (value,))
        if self._take_sign("!="):
            return Not(self._equal(field, [self._value(field)]))
        if self._take_sign("=") or self._take_sign("=="):
            return self._equal(field, [self._value(field)])
        raise self._error("expected =, !=, <, <=, >, >= or in")

    def _field(self) -> str:
        token = self._take()
        name = ALIASES.get(token.text.lower(), token.text.lower())
        if token.kind != "word" or name not in FIELDS:
            found = f"unknown field {token.text!r}" if token.kind == "word" else "expected a field"
            raise self._error(f"{found}; known: {', '.join(sorted([*FIELDS, *ALIASES]))}", token)
        return name

    def _several(self, field: str) -> list[Value | None]:
        if not self._take_sign("("):
            raise self._error("expected '(' after 'in'")
        values = [self._value(field)]
        while self._take_sign(","):
            values.append(self._value(field))
        if not self._take_sign(")"):
            raise self._error("expected ',' or ')'")
        return values

    def _value(self, field: str) -> Value | None:
        """Take one value; None stands for the word ``none``."""
        token = self._take()
        if token.kind not in ("word", "quoted"):
            raise self._error(f"expected a value of {field}", token)
        text = token.text[1:-1].strip() if token.kind == "quoted" else self._words(token)
        if token.kind == "word" and text.lower() == "none":
            return None
        try:
            return FIELDS[field].read(text)
        except _ValueError as error:
            raise self._error(f"{field} {error}, got {text!r}", token) from None

    def _words(self, first: _Token) -> str:
        """Take the words that follow, up to one that has a meaning here."""
        words = [first.text]
        while self._here.kind == "word" and self._here.text.lower() not in _RESERVED:
            words.append(self._take().text)
        return " ".join(words)

    @staticmethod
    def _equal(field: str, values: list[Value | None]) -> Condition:
        known = tuple(dict.fromkeys(value for value in values if value is not None))
        parts: list[Condition] = [Comparison(field, "=", known)] if known else []
        if None in values:
            parts.append(Unknown(field))
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))
