"""Words made comparable: folded, stemmed, and mended where one letter slipped.

In: text. Out: words, and for each a key that its plural, its gender, its British spelling and its misspellings share.
Refused: nothing.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache

from medfinder.records import Language

# Letters; a shorter word is too often one letter away from another one ("nodal" and "modal", "cavidad" and "calidad").
_SHORTEST_MENDED = 7
_SHORTEST_MEANT = 8

_ACCENTS = re.compile("[\u0300-\u036f]")
_WORD = re.compile(r"\d+(?:[.,]\d+)?|[^\W\d_]+\d*|[,;:()]")
# "Koch's disease" is one with "Koch disease".
_POSSESSIVE = re.compile(r"(?<=[a-z])['’]s\b")

_IRREGULAR = {
    "pneumothoraces": "pneumothorax", "bullae": "bulla", "granulomata": "granuloma", "dilation": "dilatation",
    "vertebrae": "vertebra", "axillae": "axilla", "bronchi": "bronchus", "hila": "hilum", "emboli": "embolus",
    "thrombi": "thrombus", "septa": "septum", "apices": "apex", "bases": "base", "masses": "mass",
    "calculi": "calculus", "foci": "focus", "prostheses": "prosthesis",
}  # fmt: skip


def fold(text: str) -> str:
    """Fold case and accents."""
    lower = text.lower()
    return lower if lower.isascii() else _ACCENTS.sub("", unicodedata.normalize("NFD", lower))


def words_of(text: str) -> list[str]:
    """Take a text apart into folded words, figures and the signs that part them.

    Example:
        >>> words_of("Nódulo (LSD), de 1,5 cm")
        ['nodulo', '(', 'lsd', ')', ',', 'de', '1,5', 'cm']
    """
    folded = fold(text)
    return _WORD.findall(_POSSESSIVE.sub("", folded) if "'" in folded or "’" in folded else folded)


@cache
def stem(word: str, language: Language) -> str:
    """Fold plural, British spelling and Spanish gender of one folded word; not a linguist's stem, just a key."""
    if language == "en":
        word = _IRREGULAR.get(word, word)
        if len(word) > 3:
            word = re.sub(r"ies$", "y", word)
            word = re.sub(r"(tas|[a-z]{3}os)es$", r"\1is", word)
            word = re.sub(r"(?<=[cs]h)es$|(?<=ss)es$|(?<=x)es$|(?<=[^sui])s$", "", word)
            word = re.sub(r"(?<=[a-z]{3})is(e|ed|ing|ation)$", r"iz\1", word)
        word = word.replace("oe", "e").replace("ae", "e")
        return re.sub(r"our$", "or", re.sub(r"([^aeiou])re$", r"\1er", word)) if len(word) > 4 else word
    if len(word) > 3:
        word = re.sub(r"ces$", "z", word)
        # "Pulmones" has lost an -es, "libres" and "grandes" an -s.
        word = re.sub(r"(?<=[aeiou][lrndjz])es$|(?<=[aeiou])s$", "", word)
        # Verbs: "se observan" is "se observa".
        word = re.sub(r"(?<=[ae])n$", "", word)
        word = re.sub(r"a$", "o", word)
    return word


def plural(words: str) -> str:
    """Write the English or Spanish plural of a noun, as far as reports need it."""
    if words.endswith("y"):
        return f"{words[:-1]}ies"
    return words if words.endswith("s") else f"{words}s"


# ------------------------------------------------------------------------------------------------- one letter slipped


def shortened_forms(stems: Iterable[str]) -> dict[str, list[str]]:
    """Index stems by what is left of them when one letter is taken away, so that a slip is found without a search.

    The idea is SymSpell's (W. Garbe): two words that are one slip apart share a shortened form.
    """
    forms: dict[str, list[str]] = {}
    for word in stems:
        if len(word) >= _SHORTEST_MEANT:
            for form in _shorten(word):
                forms.setdefault(form, []).append(word)
    return forms


def mend(slipped: str, known: Mapping[str, list[str]]) -> str:
    """Return the one known stem that ``slipped`` is a slip of; itself when there is none or more than one.

    A slip is one letter too many, missing or wrong, or two letters swapped; the first letter is right.

    Example:
        >>> mend("ateletasia", shortened_forms(["atelectasia", "bronquiectasia"]))
        'atelectasia'
    """
    if len(slipped) < _SHORTEST_MENDED:
        return slipped
    near = {word for form in _shorten(slipped) for word in known.get(form, ()) if _is_one_slip(slipped, word)}
    return near.pop() if len(near) == 1 else slipped


def _shorten(word: str) -> set[str]:
    return {word} | {word[:at] + word[at + 1 :] for at in range(1, len(word))}


def _is_one_slip(one: str, other: str) -> bool:
    """Say whether one insertion, deletion, exchange or swap of neighbours makes one word the other."""
    if one[0] != other[0]:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    one, other = one[start:], other[start:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    return max(len(one), len(other)) <= 1 or (len(one) == 2 and one == other[::-1])
