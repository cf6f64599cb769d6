"""Our Spanish-English glossary of radiology, laid upon a sentence before a rule-based translator sees it.

In: a Spanish sentence, accents or not. Out: the sentence with every known phrase replaced by a mark that no dictionary
knows, and what each mark stands for in English; and the way back. Adjectives beside a noun of the glossary come before
it in English. The phrases stand in ``glossary.toml``. Refused: nothing; what is not known stays as it was.
"""

import hashlib
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

# Letters only, and of no language: Apertium passes them through whole and in place.
_MARK = "Zq{}z"
_MARKS = re.compile(r"Zq([a-p]+)z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One phrase of the glossary; ``kind`` is "noun", "adjective" or "phrase"."""

    kind: str
    english: str
    plural: str
    head: str


@dataclass(frozen=True, slots=True)
class _Found:
    kind: str
    english: str
    stop: int


def glossary_version() -> str:
    """Name the words that are in use: any change of the glossary changes it."""
    return hashlib.sha256(_text().encode()).hexdigest()[:12]


def mask(sentence: str) -> tuple[str, tuple[str, ...]]:
    """Replace what the glossary knows by marks.

    Example:
        >>> mask("derrame pleural izquierdo en estadio avanzado")
        ('Zqaz Zqbz estadio avanzado', ('left pleural effusion', 'in'))
    """
    words = re.findall(r"\d+(?:[.,]\d+)?|[^\W\d_]+\d*|[^\w\s]", sentence)
    keys = [_key(word) for word in words]
    masked: list[str] = []
    english: list[str] = []
    here = 0
    while here < len(words):
        found = _noun_phrase(words, keys, here) or _longest(words, keys, here)
        if found is None:
            masked.append(_with_accent(words[here]))
            here += 1
            continue
        masked.append(_MARK.format(_letters(len(english))))
        english.append(found.english)
        here = found.stop
    return " ".join(masked), tuple(english)


def unmask(text: str, english: Sequence[str]) -> str:
    """Put the English phrases where their marks came out; a mark that nobody gave is left out.

    Example:
        >>> unmask("Zqaz Zqbz patient", ("left pleural effusion", "in"))
        'left pleural effusion in patient'
    """

    def fill(found: re.Match[str]) -> str:
        place = _number(found[1].lower())
        return english[place] if place < len(english) else ""

    return " ".join(_MARKS.sub(fill, text).split())


def has_words(masked: str) -> bool:
    """Tell whether anything is left for a translator to do."""
    return re.search(r"[^\W\d_]", _MARKS.sub(" ", masked)) is not None


def english_words(spanish: str) -> frozenset[str]:
    """Collect the English words that stand for one Spanish word; those of longer phrases where it has no own entry.

    Example:
        >>> sorted(english_words("mama")), sorted(english_words("deslustrado"))[:2]
        (['breast', 'breasts'], ['area', 'areas'])
    """
    key = _key(spanish)
    own = _entries().get((key,))
    found = [own] if own else [entry for words, entry in _entries().items() if key in words]
    return frozenset(word for e in found for word in re.findall(r"[a-z]+", f"{e.english} {e.plural}".lower()))


# ------------------------------------------------------------------------------------------------------- matching


def _noun_phrase(words: Sequence[str], keys: Sequence[str], start: int) -> _Found | None:
    """Read adjectives, a noun and adjectives as one phrase, all adjectives before the noun in English."""
    before, here = _adjectives(words, keys, start)
    noun = _longest(words, keys, here)
    if noun is None or noun.kind != "noun":
        return None
    behind, stop = _adjectives(words, keys, noun.stop)
    # "derrame pleural izquierdo moderado": English says the degree first, then the side.
    return _Found("noun", " ".join([*before, *reversed(behind), noun.english]), stop)


def _adjectives(words: Sequence[str], keys: Sequence[str], here: int) -> tuple[list[str], int]:
    found: list[str] = []
    while (entry := _longest(words, keys, here)) is not None and entry.kind == "adjective":
        found.append(entry.english)
        here = entry.stop
    return found, here


def _longest(words: Sequence[str], keys: Sequence[str], start: int) -> _Found | None:
    for length in range(min(_longest_phrase(), len(keys) - start), 0, -1):
        entry = _entries().get(tuple(keys[start : start + length]))
        if entry is not None:
            is_plural = _fold(words[start]).endswith("s") and not entry.head.endswith("s")
            return _Found(entry.kind, entry.plural if is_plural else entry.english, start + length)
    return None


# --------------------------------------------------------------------------------------------------------- the words


@cache
def _text() -> str:
    return resources.files(__package__).joinpath("glossary.toml").read_text(encoding="utf-8")


@cache
def _entries() -> Mapping[tuple[str, ...], _Entry]:
    entries: dict[tuple[str, ...], _Entry] = {}
    tables: dict[str, dict[str, Any]] = tomllib.loads(_text())
    for kind in ("noun", "adjective", "phrase"):
        for spanish, told in tables[kind].items():
            singular, bar, plural = told.partition("|")
            several = plural if bar else _plural(singular) if kind == "noun" else singular
            words = re.findall(r"[^\W_]+", spanish)
            entries[tuple(map(_key, words))] = _Entry(kind, singular, several, _fold(words[0]))
    return entries


@cache
def _longest_phrase() -> int:
    return max(map(len, _entries()))


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    if noun.endswith("is"):
        return noun
    return noun if noun.endswith("s") else f"{noun}s"


@cache
def _key(word: str) -> str:
    """Fold accents, plural and gender; the third person plural of a verb as well."""
    word = _fold(word)
    if len(word) > 3:
        word = re.sub(r"ces$", "z", word)
        word = re.sub(r"(?<=[lrndjz])es$|(?<=[aeiou])s$", "", word)
        word = re.sub(r"(?<=[ae])n$", "", word)
        word = re.sub(r"a$", "o", word)
    return word


def _fold(text: str) -> str:
    return "".join(sign for sign in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(sign))


def _with_accent(word: str) -> str:
    """Give a word back the accent that reports drop and a dictionary needs, where the ending alone tells it.

    Example:
        >>> _with_accent("infeccion"), _with_accent("infecciones")
        ('infección', 'infecciones')
    """
    return re.sub(r"(?<=[csx]i)on$", "ón", word)


def _letters(number: int) -> str:
    """Write a number in letters: 0 is a, 15 is p, 16 is ba."""
    return f"{number:x}".translate(str.maketrans("0123456789abcdef", "abcdefghijklmnop"))


def _number(letters: str) -> int:
    return int(letters.translate(str.maketrans("abcdefghijklmnop", "0123456789abcdef")), 16)
