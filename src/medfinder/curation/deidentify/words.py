"""The words that tell a name from a finding: names, places, eponyms and plain words, and tokens marked by them.

In: a text. Out: ``Token``s that know where they stand and what each may be. Case and accents are folded, since BIMCV's
reports have neither. Refused: nothing. The lists stand in ``words.toml``; the findings, places and abbreviations of
the keyword library are plain words, too.
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Literal

Shape = Literal["lower", "title", "upper"]

_WORD = re.compile(r"[^\W\d_]+(?:['’´-][^\W\d_]+)*")
PARTICLES = frozenset(
    (
        "de",
        "del",
        "la",
        "las",
        "los",
        "da",
        "do",
        "dos",
        "das",
        "van",
        "von",
        "der",
        "den",
        "di",
        "du",
        "le",
        "san",
        "santa",
        "della",
        "delle",
    )
)
# Endings of Spanish and English words that are made by rule and seldom close a surname; ours. They stop a name in a
# text without capitals; what stands in the lists of names is a name all the same.
_ENDINGS = re.compile(
    r"(?:ci[oó]n|ciones|siones|sion|mente|logia|logico|logica|grafia|grafico|grafica|scopia|tomia|plastia"
    r"|patia|patico|itis|iticas?|iticos?"
    r"|osis|oticos?|oticas?|omas?|omatos[oa]s?|emia|uria|algia|ectasias?|ectasicos?|megalia|iasis"
    r"|genic[oa]s?|genos?|ic[oa]s?"
    r"|ales|ares|os[oa]s?|ad[oa]s?|id[oa]s?|ivos?|ivas?|ando|endo|iendo|able|ables|ible|ibles|idad|idades"
    r"|torio|toria|nte|ntes"
    r"|tion|tions|sion|ology|ologic|graphy|ectomy|otomy|opathy|emic|ally|ously|ness|ated|ized|ised|ing|ous"
    r"|ular|ulare?s?|ment|ments|able|ible|osed|ened|eral)$"
)


@dataclass(frozen=True, slots=True)
class Token:
    """One word of a text.

    Attributes:
        word: case and accents folded.
        gap: what stands between it and the word before.
        is_plain: a word of reports or of the language; it may be a name as well.
        is_formed: on no list, but with an ending that names seldom have.
    """

    word: str
    start: int
    end: int
    gap: str
    shape: Shape
    is_given: bool
    is_surname: bool
    is_plain: bool
    is_formed: bool

    @property
    def is_name(self) -> bool:
        """Some list of names has it."""
        return self.is_given or self.is_surname

    @property
    def is_sure(self) -> bool:
        """It is a name and nothing else."""
        return self.is_name and not self.is_plain

    @property
    def is_unknown(self) -> bool:
        """No list has it, and no ending tells what it is."""
        return not (self.is_name or self.is_plain or self.is_formed or self.word in PARTICLES)


@lru_cache(maxsize=1)
def fold(text: str) -> str:
    """Fold case and accents and keep every letter's place.

    Example:
        >>> fold("Señor Muñoz")
        'senor munoz'
    """
    return "".join(_fold_letter(letter) for letter in text)


def _fold_letter(letter: str) -> str:
    if letter.isascii():
        return letter.lower()
    folded = unicodedata.normalize("NFD", letter.lower())[0]
    return folded if len(folded) == 1 else letter


@lru_cache(maxsize=1)
def tokens(text: str) -> tuple[Token, ...]:
    """Cut a text into words and mark each; the last text is remembered, since several recognisers ask for it."""
    return tuple(_tokens(text))


def _tokens(text: str) -> Iterator[Token]:
    given, family, plain = given_names(), surnames(), plain_words()
    folded, before = fold(text), 0
    for found in _WORD.finditer(text):
        word = folded[found.start() : found.end()].replace("’", "'").replace("´", "'")
        parts = word.split("-")
        is_plain = word in plain or all(part in plain for part in parts)
        is_name = word in given or word in family
        is_formed = not (is_plain or is_name) and len(word) > 5 and _ENDINGS.search(word) is not None
        yield Token(
            word=word,
            start=found.start(),
            end=found.end(),
            gap=text[before : found.start()],
            shape=_shape(found[0]),
            is_given=any(part in given for part in parts),
            is_surname=any(part in family for part in parts),
            is_plain=is_plain,
            is_formed=is_formed,
        )
        before = found.end()


def _shape(word: str) -> Shape:
    if not word[0].isupper():
        return "lower"
    return "upper" if len(word) > 1 and word.isupper() else "title"


@cache
def _tables() -> dict[str, dict[str, str]]:
    tables: dict[str, dict[str, str]] = tomllib.loads(
        resources.files(__package__).joinpath("words.toml").read_text(encoding="utf-8")
    )
    return tables


def _listed(*texts: str) -> frozenset[str]:
    return frozenset(fold(" ".join(texts)).split())


@cache
def given_names() -> frozenset[str]:
    """Given names, of both languages: patients and doctors move."""
    return _listed(*_tables()["given"].values())


@cache
def surnames() -> frozenset[str]:
    """Surnames, of both languages."""
    return _listed(*_tables()["surname"].values())


@cache
def places() -> frozenset[str]:
    """Towns, provinces and the proper names of hospitals."""
    return _listed(*_tables()["place"].values())


@cache
def eponyms() -> frozenset[str]:
    """People after whom a disease, sign, line or device is called."""
    return _listed(*_tables()["eponym"].values())


@cache
def plain_words() -> frozenset[str]:
    """Words of reports in both languages: English terms stand in Spanish reports, leftover Spanish in English ones."""
    from medfinder.curation.keywords import KEYWORDS

    names = (name for one in KEYWORDS.values() for name in (*one.names_en, *one.names_es, *one.abbreviations))
    library = _listed(*re.findall(r"[^\W\d_]+", " ".join(names)))
    return _listed(*_tables()["plain"].values()) | (library - given_names() - surnames() - eponyms())
