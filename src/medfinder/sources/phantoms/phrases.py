"""Noun phrases of a phantom's report: told facts -> one wording of them in English or Spanish.

In: ``Told``, the facts of one finding that a report chose to tell, and a generator. Out: a ``Phrase`` that knows its
number and gender, so that articles, verbs and adjectives around it agree. All words come from ``phrases.toml`` beside
this module. Refused: names that are not in ``FINDINGS``.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, TypeVar

import numpy as np

from medfinder.records import Language, Laterality

T = TypeVar("T")

_SPANISH_LOBES = {"upper lobe": "lóbulo superior", "middle lobe": "lóbulo medio", "lower lobe": "lóbulo inferior"}
_SIDE_ES = {"left": "izquierdo", "right": "derecho"}
_LOBES = ("upper lobe", "lower lobe")


@dataclass(frozen=True, slots=True)
class Told:
    """What a report tells of one finding (or of several alike); both languages say exactly this.

    Attributes:
        size: figure and unit, e.g. ``"12 mm"`` or ``"1.2 cm"``; empty when it is not told.
        count: how many; 0 for "several".
        is_possible: told as a possibility only.
    """

    name: str
    side: Laterality | None = None
    location: str | None = None
    size: str = ""
    count: int = 1
    grade: str | None = None
    is_possible: bool = False


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun phrase and what the words around it must agree with.

    Attributes:
        article: ``"a"``, ``"an"`` or empty; English only.
    """

    text: str
    is_plural: bool
    article: str = ""


@dataclass(frozen=True, slots=True)
class _Noun:
    text: str
    is_plural: bool
    is_counted: bool = False
    gender: str = ""
    keeps_place_behind: bool = False


@cache
def wordings() -> dict[str, Any]:
    """Load the tables of ``phrases.toml``, once."""
    return tomllib.loads(resources.files(__package__).joinpath("phrases.toml").read_text(encoding="utf-8"))


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """Draw one of ``choices``, each as likely."""
    return choices[int(rng.integers(len(choices)))]


def describe(told: Told, language: Language, rng: np.random.Generator) -> Phrase:
    """Put the facts of a finding into a noun phrase, with words and order drawn anew.

    Example:
        >>> told = Told("pleural effusion", side="left")
        >>> describe(told, "es", np.random.default_rng(11)).text
        'derrame pleural izquierdo'
    """
    noun = _draw_noun(told, language, rng)
    patterns = [] if _has_place(noun.text) else [_place_pattern(told, noun, language, rng)]
    if told.size:
        patterns.append(_size_pattern(told, language, rng))
    if told.grade:
        patterns.insert(int(rng.integers(2)), _degree_pattern(told, language, rng))
    text = noun.text
    for pattern in patterns:
        text = pattern.replace("_", text)
    if told.count != 1:
        text = f"{_many(told.count, noun, language, rng)} {text}"
    text = _fill(text, told, noun, language)
    return Phrase(text, noun.is_plural, _article(text) if noun.is_counted and not noun.is_plural else "")


def adverb(grade: str | None, language: Language, rng: np.random.Generator) -> str:
    """Say a degree as an adverb; empty when there is none."""
    return pick(rng, wordings()["adverb"][language][grade]) if grade else ""


def inflect(adjective: str, gender: str, is_plural: bool) -> str:
    """Make a Spanish adjective, given as masculine singular, agree.

    Example:
        >>> inflect("izquierdo", "f", True), inflect("bilateral", "m", True), inflect("leve", "f", False)
        ('izquierdas', 'bilaterales', 'leve')
    """
    if adjective.endswith("o"):
        adjective = adjective[:-1] + ("a" if gender == "f" else "o")
    if not is_plural:
        return adjective
    if adjective == "gran":
        return "grandes"
    return adjective + ("s" if adjective[-1] in "aeo" else "es")


# ------------------------------------------------------------------------------------------------------------ nouns


def _draw_noun(told: Told, language: Language, rng: np.random.Generator) -> _Noun:
    parse = _english_noun if language == "en" else _spanish_noun
    nouns = [parse(text, told.count != 1) for text in wordings()["finding"][told.name][language]]
    fitting = [noun for noun in nouns if noun and (told.side in _SIDE_ES or "{s" not in noun.text)]
    return pick(rng, fitting)


def _english_noun(text: str, is_plural: bool) -> _Noun | None:
    behind = text.startswith("<")
    text = text.removeprefix("<")
    if text.startswith("+"):
        return _Noun(text[1:], True, keeps_place_behind=behind)
    singular, bar, plural = text.partition("|")
    if is_plural and not bar:
        return None
    return _Noun(plural if is_plural else singular, is_plural, bool(bar), keeps_place_behind=behind)


def _spanish_noun(text: str, is_plural: bool) -> _Noun | None:
    kind, _, words = text.partition(" ")
    if kind.endswith("p"):
        return _Noun(words, True, gender=kind[0])
    singular, bar, plural = words.partition("|")
    if is_plural and not bar:
        return None
    return _Noun(plural if is_plural else singular, is_plural, gender=kind)


def _many(count: int, noun: _Noun, language: Language, rng: np.random.Generator) -> str:
    numbers = wordings()["number"]
    if count:
        return str(numbers[language][count])
    many: Sequence[str] = numbers["many_en" if language == "en" else f"many_es_{noun.gender}"]
    return pick(rng, many)


def _article(text: str) -> str:
    # "an 8 mm nodule", "an 11 mm", "an 18 mm": the figure is read aloud.
    return "an" if re.match(r"(?:[aeio]|8|11 |18 |u(?!ni)|LN|RML|RUL|RLL|LUL|LLL)", text) else "a"


# ----------------------------------------------------------------------------------------------------------- places


def _place_pattern(told: Told, noun: _Noun, language: Language, rng: np.random.Generator) -> str:
    table = wordings()["place"].get(wordings()["finding"][told.name]["place"], {})
    patterns: list[str] = next((table[key][language] for key in _place_keys(told) if key in table), ["_"])
    if noun.keeps_place_behind and language == "en":
        patterns = [pattern for pattern in patterns if pattern.startswith("_")] or patterns
    return pick(rng, patterns)


def _place_keys(told: Told) -> tuple[str, ...]:
    """Name the place tables that fit, best first."""
    many = "no" if told.side is None else "both" if told.side == "bilateral" else "one"
    location = told.location or ""
    keys = [f"{many} {location}", f"{many} {_kind_of_location(location)}", many]
    return tuple(key.strip() for key in keys)


def _kind_of_location(location: str) -> str:
    if location.removesuffix("s") in _LOBES:
        return "lobe"
    return "level" if re.fullmatch(r"[CTL]\d+", location) else location


def _has_place(text: str) -> bool:
    return "{s" in text or "{loc}" in text


# ------------------------------------------------------------------------------------------------- sizes and degrees


def _size_pattern(told: Told, language: Language, rng: np.random.Generator) -> str:
    kind = wordings()["finding"][told.name].get("size", "one") if told.count == 1 else "many"
    return str(pick(rng, wordings()["size"][kind][language]))


def _degree_pattern(told: Told, language: Language, rng: np.random.Generator) -> str:
    own = wordings()["finding"][told.name].get(f"{told.grade}_{language}")
    word = pick(rng, own or wordings()["degree"][language][told.grade])
    if language == "en":
        return f"{word} _"
    bare = word.strip("_")
    agreeing = bare if bare.startswith(("de ", "por ")) else f"{bare}+"
    return f"{agreeing} _" if word.endswith("_") else f"_ {agreeing}"


# ---------------------------------------------------------------------------------------------------------- filling


def _fill(text: str, told: Told, noun: _Noun, language: Language) -> str:
    words = _english_words(told) if language == "en" else _spanish_words(told)
    text = re.sub(r"\{(\w+)\}", lambda slot: words.get(slot[1], ""), text)
    text = re.sub(r"([^\W\d_]+)\+", lambda found: inflect(found[1], noun.gender, noun.is_plural), text)
    return " ".join(text.split())


def _english_words(told: Told) -> dict[str, str]:
    lobe = (told.location or "").removesuffix("s")
    words = {"s": told.side or "", "z": told.size, "loc": told.location or "", "lobe": lobe}
    if told.side in _SIDE_ES and lobe in _LOBES:
        words["abbr"] = f"{told.side[0]}{lobe[0]}L".upper()
    return words


def _spanish_words(told: Told) -> dict[str, str]:
    side = _SIDE_ES.get(told.side or "", "")
    lobe = (told.location or "").removesuffix("s")
    spanish = _SPANISH_LOBES.get(lobe, "")
    words = {
        "s": f"{side}+" if side else "",
        "sm": side,
        "sf": inflect(side, "f", False) if side else "",
        "z": told.size,
        # Spanish reports call the thoracic vertebrae dorsal: T8 is d8.
        "loc": (told.location or "").replace("T", "d"),
        "lobe": spanish,
        "lobes": spanish.replace("lóbulo", "lóbulos").replace("or", "ores"),
    }
    if side and spanish:
        words["abbr"] = f"l{'s' if lobe == 'upper lobe' else 'i'}{side[0]}"
    return words
