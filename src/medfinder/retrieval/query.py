"""The query language: findings and words with AND, OR, NOT, brackets and quotes.

In: ``effusion AND (nodule OR mass) NOT "pleural plaque"``, or ``derrame y no masa`` where only findings can be meant.
Out: a small tree, the conditions that it puts on what is known of a case, and its words as sparse vectors. Refused with
``ConfigError``, which shows the place: bad syntax, expressions too long or too deep, and keywords that nothing is like.

    either = every { OR every }
    every  = part { [ AND ] part }
    part   = NOT part | "(" either ")" | WORDS | QUOTED

Operators are written in capitals in free text, where a small "and" or "o" is a word like others; among keywords they
may be small. Spanish ``Y``, ``O``, ``NO`` count in free text only when it is not all in capitals. What nothing is known
of is neither true nor false: such cases are possible answers. ``NOT`` asks that nothing is known of it. "Normal", or
"sin hallazgos", asks for cases of which findings are denied and none is known.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from medfinder.curation.keywords import KEYWORDS, kinds_of, resolve_keyword
from medfinder.errors import ConfigError
from medfinder.retrieval.filters import AllOf, AnyOf, Condition, Not, Unknown, equals
from medfinder.retrieval.lexical import Terms, Words, describe_finding, describe_query, fold

# Far beyond what anybody types, well below Python's recursion limit.
_MAX_CHARACTERS = 4_000
_MAX_DEPTH = 50

# How alike a slip and a name must be, by difflib's ratio. Ours: "plurel efusion" is 0.87 of "pleural effusion", another
# finding such as "pleural thickening" 0.65. Some findings differ in a syllable, so the second best must lie behind.
_ALIKE = 0.84
_CLEARLY = 0.03

_OPERATORS = {"and": "and", "y": "and", "or": "or", "o": "or", "not": "not", "no": "not"}
_KEYWORD_OPERATORS = {**_OPERATORS, "without": "not", "sin": "not", "but": "and", "pero": "and"}
_TOKEN = re.compile(r"""\s*(?:"(?P<quoted>[^"]*)"|(?P<sign>[()])|(?P<word>[^\s()"]+)|(?P<odd>\S))""")
_ENGLISH_OPERATOR = re.compile(r"\b(?:AND|OR|NOT)\b")
_SPANISH_OPERATOR = re.compile(r"\b(?:Y|O|NO)\b")
_CHEST = r"(?:chest|thorax|thoracic|torax|lung)"
_STUDY = rf"(?:{_CHEST}\s+)?(?:ct|tc|tac|scan|study|exam|examination|estudio|{_CHEST})(?:\s+(?:de|del)\s+torax)?"
_NORMAL = re.compile(
    rf"(?:(?:normal|unremarkable)(?:\s+{_STUDY})?"
    rf"|{_STUDY}\s+(?:normal|sin\s+hallazgos|sin\s+alteraciones|without\s+(?:findings|abnormalit(?:y|ies)))"
    r"|(?:no|without)(?:\s+(?:significant|relevant|acute|pathological))?\s+(?:findings?|abnormalit(?:y|ies))"
    r"|nothing\s+abnormal"
    r"|sin\s+(?:hallazgos|alteraciones)(?:\s+(?:patologic[oa]s|relevantes|significativ[oa]s))?)\W*"
)
_QUOTED = re.compile(r'"[^"]*\w[^"]*"')


@dataclass(frozen=True, slots=True)
class Term:
    """Words that belong together.

    Attributes:
        words: what they say; findings among them can be true or false of a case, other words only rank.
        is_exact: they stood in quotes: a report must hold them, and not only to deny them.
        is_normal: they ask for cases in which nothing was found.
    """

    text: str
    words: Words
    is_exact: bool = False
    is_normal: bool = False


@dataclass(frozen=True, slots=True)
class Without:
    """What must not be known."""

    part: "Expression"


@dataclass(frozen=True, slots=True)
class Every:
    """All of it."""

    parts: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Either:
    """At least one of it."""

    parts: "tuple[Expression, ...]"


Expression = Term | Without | Every | Either


def is_expression(text: str) -> bool:
    """Tell whether free text is written in the query language.

    Example:
        >>> [is_expression(text) for text in ("effusion and mass", "effusion AND mass", "derrame O masa", "NO MASA")]
        [False, True, True, False]
    """
    has_small = any(character.islower() for character in text)
    is_spanish = has_small and _SPANISH_OPERATOR.search(text)
    return bool(_ENGLISH_OPERATOR.search(text) or is_spanish or _QUOTED.search(text))


def parse_text(text: str) -> Expression:
    """Read free text that holds operators or quotes.

    Raises:
        ConfigError: it cannot be read; the message shows where.

    Example:
        >>> parse_text("effusion NOT mass").parts[1].part.words.present
        ('mass',)
    """
    return _Parser(text, _capital_operator, _term_of, "query").parse()


def parse_normal(text: str) -> Term | None:
    """Read words that ask for cases in which nothing was found; None where they ask for something else.

    Example:
        >>> [parse_normal(text) is not None for text in ("Normal chest CT", "TC de tórax normal", "normal heart")]
        [True, True, False]
    """
    if not _NORMAL.fullmatch(" ".join(fold(text).split())):
        return None
    return Term(text, describe_query(text), is_normal=True)


def _term_of(text: str) -> Term:
    return parse_normal(text) or Term(text, describe_query(text))


def parse_keywords(text: str) -> tuple[Expression, tuple[str, ...]]:
    """Read an expression of findings, by any of their names; slips are mended.

    Returns:
        The expression, and a remark for each name that was read as another.

    Raises:
        ConfigError: it cannot be read, or a name is none; the message shows where, and what is like it.
    """
    remarks: list[str] = []

    def finding(words: str) -> Term:
        if normal := parse_normal(words):
            return normal
        name = resolve_keyword(words) or _mend(words)
        if fold(words) not in _names() and resolve_keyword(words) is None:
            remarks.append(f"{words.strip()[:60]!r} was read as {name}")
        return Term(name, describe_finding(name))

    if resolve_keyword(text) is not None:
        return finding(text), ()
    expression = _Parser(text, lambda word: _KEYWORD_OPERATORS.get(word.lower(), ""), finding, "keyword").parse()
    return expression, tuple(remarks)


def known(expression: Expression) -> Condition | None:
    """Build the condition of being known to be right; None where the expression asks for no finding.

    Example:
        >>> known(parse_text("goitre OR spiculated"))
        Comparison(field='findings', operator='=', values=('goitre',))
    """
    match expression:
        case Term(is_normal=True):
            return AllOf((Unknown("findings"), Not(Unknown("negated"))))
        case Term(words=words):
            return _all([*map(is_there, words.present), *(Not(is_there(name)) for name in words.negated)])
        case Without(part=part):
            inner = known(part)
            return None if inner is None else Not(inner)
        case Every(parts=several):
            return _all(map(known, several))
        case Either(parts=several):
            return _any(map(known, several))


def possible(expression: Expression) -> Condition | None:
    """Build the condition of not being known to be wrong; None where it excludes nothing."""
    match expression:
        case Term(is_normal=True):
            return Unknown("findings")
        case Term(words=words):
            open_ = [AnyOf((is_there(name), Not(equals("negated", name)))) for name in words.present]
            return _all([*open_, *(Not(is_there(name)) for name in words.negated)])
        case Without():
            return known(expression)
        case Every(parts=several):
            return _all(map(possible, several))
        case Either(parts=several):
            return _any(map(possible, several)) if all(map(possible, several)) else None


def is_there(name: str) -> Condition:
    """Build the condition that a case is known to have a finding, or a kind of it.

    Example:
        >>> len(is_there("pulmonary fibrosis").parts)
        2
    """
    kinds = [equals("findings", kind) for kind in kinds_of(name)]
    return kinds[0] if len(kinds) == 1 else AnyOf(tuple(kinds))


def _all(conditions: Iterable[Condition | None]) -> Condition | None:
    parts = tuple(condition for condition in conditions if condition is not None)
    return parts[0] if len(parts) == 1 else AllOf(parts) if parts else None


def _any(conditions: Iterable[Condition | None]) -> Condition | None:
    parts = tuple(condition for condition in conditions if condition is not None)
    return parts[0] if len(parts) == 1 else AnyOf(parts) if parts else None


def must_be_read(expression: Expression) -> bool:
    """Tell whether only the text of a report can decide: something is quoted, or words that are no finding denied."""
    match expression:
        case Term(is_exact=is_exact):
            return is_exact
        case Without(part=part):
            return must_be_read(part) or known(part) is None
        case Every(parts=parts) | Either(parts=parts):
            return any(map(must_be_read, parts))


def holds(expression: Expression, present: frozenset[str], says: Callable[[str], bool]) -> bool:
    """Decide whether a case may be an answer, its report at hand.

    Args:
        present: findings that it is known to have.
        says: whether its report holds words other than to deny them.
    """
    match expression:
        case Term(is_exact=True, text=text):
            return says(text)
        case Term():
            return True
        case Without(part=Term(words=words, text=text)):
            has = all(not present.isdisjoint(kinds_of(name)) for name in words.present)
            return not (has if words.present else says(text))
        case Without(part=part):
            return not holds(part, present, says)
        case Every(parts=parts):
            return all(holds(part, present, says) for part in parts)
        case Either(parts=parts):
            return any(holds(part, present, says) for part in parts)


def terms_of(expression: Expression) -> Iterator[tuple[Term, bool]]:
    """Go through the terms in order, each with whether it is asked for (and not denied)."""
    match expression:
        case Term():
            yield expression, True
        case Without(part=part):
            yield from ((term, not is_asked) for term, is_asked in terms_of(part))
        case Every(parts=parts) | Either(parts=parts):
            for one in parts:
                yield from terms_of(one)


def words_of(expression: Expression) -> Words:
    """Gather the words of all terms; what is denied counts among the denied."""
    asked = [term.words for term, is_asked in terms_of(expression) if is_asked]
    denied = [term.words for term, is_asked in terms_of(expression) if not is_asked]
    present = {name for words in asked for name in words.present}
    negated = {name for words in asked for name in words.negated} | {name for words in denied for name in words.present}
    return Words(
        _union(words.affirmed for words in asked),
        _union([*(words.denied for words in asked), *(words.affirmed for words in denied)]),
        tuple(sorted(present)),
        tuple(sorted(negated - present)),
    )


def text_of(expression: Expression) -> str:
    """Write what is asked for as plain words for a text encoder; what is denied only where nothing else is said."""
    asked = [term.text for term, is_asked in terms_of(expression) if is_asked]
    return ", ".join(asked) or ", ".join(f"no {term.text}" for term, _ in terms_of(expression))


def _union(several: Iterable[Terms]) -> Terms:
    weights: dict[int, float] = {}
    for terms in several:
        for term, weight in zip(terms.ids, terms.weights, strict=True):
            weights[term] = max(weight, weights.get(term, 0.0))
    ordered = sorted(weights.items())
    return Terms(tuple(term for term, _ in ordered), tuple(weight for _, weight in ordered))


# ---- slips -----------------------------------------------------------------------------------------------------------


def _mend(words: str) -> str:
    """Find the finding whose name is nearly the one that was written."""
    written = fold(words).strip()[:100]
    scored: dict[str, float] = {}
    for near in difflib.get_close_matches(written, list(_names()), n=8, cutoff=0.5):
        name = _names()[near]
        scored.setdefault(name, difflib.SequenceMatcher(None, near, written).ratio())
    best = sorted(scored.items(), key=lambda one: -one[1])
    if best and best[0][1] >= _ALIKE and (len(best) == 1 or best[0][1] - best[1][1] >= _CLEARLY):
        return best[0][0]
    told = f"near: {', '.join(list(scored)[:3])}" if scored else f"known: {', '.join(KEYWORDS)}"
    raise ConfigError(f"unknown keyword {words.strip()[:60]!r}; {told}; or search by text")


@cache
def _names() -> dict[str, str]:
    """Map every name of every finding, folded, to the canonical one."""
    return {
        fold(name): keyword.name
        for keyword in KEYWORDS.values()
        for name in (*keyword.names_es, *keyword.abbreviations, *keyword.names_en)
        if ".." not in name
    }


@cache
def _single_words() -> tuple[str, ...]:
    return tuple(sorted({word for name in _names() for word in name.split() if len(word) >= SHORTEST_MENDED}))


# Shorter words are too often one letter from another one.
SHORTEST_MENDED = 6


@lru_cache(maxsize=10_000)
def mend_word(word: str) -> str | None:
    """Find the one word of the library that a long word is nearly; None when there is none.

    Example:
        >>> mend_word("emphysma"), mend_word("bicycle")
        ('emphysema', None)
    """
    if len(word) < SHORTEST_MENDED:
        return None
    written = fold(word)
    near = difflib.get_close_matches(written, _with_like_letters(written), n=1, cutoff=_ALIKE)
    return near[0] if near and near[0][0] == written[0] else None


def _with_like_letters(written: str) -> list[str]:
    """Leave out the words that cannot be alike by their letters alone, which difflib finds out one by one, slowly."""
    words, lengths, letters = _letter_counts()
    own = np.bincount([ord(letter) % _LETTERS for letter in written], minlength=_LETTERS)
    shared = np.minimum(letters, own).sum(axis=1)
    # Letters that share a place are counted as one, which leaves out less, never more.
    return [words[at] for at in np.flatnonzero(2 * shared >= _ALIKE * (lengths + len(written)) - 1e-9)]


_LETTERS = 32


@cache
def _letter_counts() -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    words = _single_words()
    counts = [np.bincount([ord(letter) % _LETTERS for letter in word], minlength=_LETTERS) for word in words]
    return words, np.array([len(word) for word in words]), np.array(counts)


# ---- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int


def _capital_operator(word: str) -> str:
    return _OPERATORS.get(word.lower(), "") if word.isupper() else ""


class _Parser:
    """Recursive descent over the grammar of the module's docstring.

    Args:
        operator: gives the operator that a word is, or nothing.
        term: makes a term of words.
        what: what the text is called in messages.
    """

    def __init__(self, text: str, operator: Callable[[str], str], term: Callable[[str], Term], what: str) -> None:
        if len(text) > _MAX_CHARACTERS:
            raise ConfigError(f"{what} expression of {len(text)} characters; at most {_MAX_CHARACTERS} are read")
        self._text, self._operator, self._term, self._what = text, operator, term, what
        self._tokens = list(self._split())
        self._at = 0
        self._depth = 0

    def _split(self) -> Iterator[_Token]:
        for match in _TOKEN.finditer(self._text):
            kind = str(match.lastgroup)
            token = _Token(kind, match.group(kind), match.start(kind))
            if kind == "odd":
                raise self._error("the quote has no end", token)
            operator = self._operator(token.text) if kind == "word" else ""
            yield _Token("operator", operator, token.start) if operator else token
        yield _Token("end", "", len(self._text.rstrip()))

    def parse(self) -> Expression:
        expression = self._either()
        if self._here.kind != "end":
            raise self._error("this bracket was never opened")
        return expression

    @property
    def _here(self) -> _Token:
        return self._tokens[self._at]

    def _takes(self, kind: str, text: str) -> bool:
        found = (self._here.kind, self._here.text) == (kind, text)
        self._at += found
        return found

    def _error(self, problem: str, token: _Token | None = None) -> ConfigError:
        at = (token or self._here).start
        shown = self._text[max(0, at - 30) : at] + "▸" + self._text[at : at + 30]
        return ConfigError(f"{self._what}, character {at + 1} ({' '.join(shown.split())}): {problem}")

    def _either(self) -> Expression:
        parts = [self._every()]
        while self._takes("operator", "or"):
            parts.append(self._every())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _every(self) -> Expression:
        parts = [self._part()]
        while self._takes("operator", "and") or self._goes_on():
            parts.append(self._part())
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def _goes_on(self) -> bool:
        token = self._here
        return token.kind in ("word", "quoted") or (token.kind, token.text) in (("sign", "("), ("operator", "not"))

    def _part(self) -> Expression:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error(f"nested deeper than {_MAX_DEPTH}")
        try:
            if self._takes("operator", "not"):
                return Without(self._part())
            if not self._takes("sign", "("):
                return self._words()
            inner = self._either()
            if not self._takes("sign", ")"):
                raise self._error("expected ')'")
            return inner
        finally:
            self._depth -= 1

    def _words(self) -> Term:
        first = self._here
        if first.kind == "quoted" and any(map(str.isalnum, first.text)):
            self._at += 1
            return self._exact(first.text)
        words = []
        while self._here.kind == "word":
            words.append(self._here.text)
            self._at += 1
        text = " ".join(words)
        if not any(map(str.isalnum, text)):
            raise self._error(f"expected {'a finding' if self._what == 'keyword' else 'words'}", first)
        return self._term(text)

    def _exact(self, text: str) -> Term:
        term = self._term(text)
        return term if self._what == "keyword" else Term(text, term.words, is_exact=True)
