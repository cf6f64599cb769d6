"""Is the English of a report what its Spanish says: doubts about one translation, found without any model.

In: the Spanish text and its English version. Out: doubts, each with a stable reason and the figures behind it; none for
a translation that says the same in other words. The sentences of both are laid side by side, and pair by pair the
numbers, sides, denials and findings must agree; the whole is looked over for error texts, refusals, chatter, Spanish
words, a text cut short, and for orders that a report gives to a machine. Words stand in ``translation_audit.toml``.
Refused: nothing; a text that is no translation at all is a doubt like any other. No report text is ever repeated.
"""

import math
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from medfinder.curation.keywords import KEYWORDS, extract_findings, split_sentences
from medfinder.curation.translate.glossary import english_words
from medfinder.records import Doubt, Finding, Language, plural

# English words for each Spanish one; ours: from 0.8 to 1.4 in faithful pairs, which leave out articles or add them.
_LENGTH_RATIO = (0.6, 1.8)
# Below so many words a ratio says nothing.
_FEWEST_WORDS = 12
# Ours: far above any report (the longest in the public part of BIMCV-R has 582 words), for the work is quadratic.
_MOST_SENTENCES = 250


def audit_translation(spanish: str, english: str) -> tuple[Doubt, ...]:
    """Find what keeps a translation from being trusted; every doubt holds the case for a person to decide.

    Example:
        >>> audit_translation("derrame pleural izquierdo . no nodulos .", "Left pleural effusion. No nodules.")
        ()
        >>> [d.reason for d in audit_translation("derrame pleural izquierdo .", "Right pleural effusion.")]
        ['laterality differs']
        >>> [d.reason for d in audit_translation("no nodulos . masa de 3 cm .", "Nodules. A 3 mm mass.")]
        ['numbers differ', 'negation differs']
    """
    if not english.strip():
        return (_doubt("no translation", "the English text is empty"),)
    pieces = _sentences(spanish, "es"), _sentences(english, "en")
    if max(map(len, pieces)) > _MOST_SENTENCES:
        detail = f"{max(map(len, pieces))} sentences, expected at most {_MOST_SENTENCES}; a person has to compare them"
        return (_doubt("too long to audit", detail),)
    doubts = [*_judge_wording(spanish, english), *_judge_length(spanish, english)]
    beads = _lay_side_by_side([_read(piece, "es") for piece in pieces[0]], [_read(piece, "en") for piece in pieces[1]])
    return (*doubts, *_judge_beads(beads))


def _sentences(text: str, language: Language) -> list[str]:
    """Split a text, without the sentences that only announce others."""
    told = ((sentence, " ".join(re.findall(r"[^\W\d_]+", _fold(sentence)))) for sentence in split_sentences(text))
    return [
        sentence for sentence, words in told if words not in _tables()["heading"][language] and not _is_blank(words)
    ]


def _is_blank(words: str) -> bool:
    """Tell whether nothing but placeholders is left of a sentence that named a person or a date."""
    return set(words.split()) <= set(_tables()["heading"]["placeholders"])


def _doubt(reason: str, detail: str) -> Doubt:
    return Doubt("translation", reason, detail, holds=True)


# ------------------------------------------------------------------------------------------------- the text as a whole


def _judge_wording(spanish: str, english: str) -> Iterator[Doubt]:
    """Find what no translation of a report says, and what no report says."""
    told = {
        "error": ("error text", "the English text reads like the message of a program"),
        "refusal": ("refusal", "the English text reads like a translator that declines"),
        "chatter": ("not a translation", "the English text speaks about itself or to its reader"),
    }
    for kind, (reason, detail) in told.items():
        # What the report itself says may stand in its translation.
        if _says(english, _patterns("answer", kind)) and not _says(spanish, _patterns("answer", kind)):
            yield _doubt(reason, detail)
    told_machine = _patterns("instruction", "patterns")
    if _says(english, told_machine) and not _says(spanish, told_machine):
        yield _doubt("not a translation", "the English text speaks to a machine, the Spanish one does not")
    if _says(spanish, told_machine):
        yield _doubt(
            "instruction in report", "the report holds words meant for a machine; its translation may obey them"
        )
    left = sum(_is_spanish(word) for word in re.findall(r"[^\W\d_]+", english) if not word.isupper())
    if left:
        yield _doubt("Spanish left", f"{plural(left, 'Spanish word')} in the English text, expected none")


def _judge_length(spanish: str, english: str) -> Iterator[Doubt]:
    before, after = (len(re.findall(r"[^\W_]+", text)) for text in (spanish, english))
    low, high = _LENGTH_RATIO
    if before >= _FEWEST_WORDS and not low <= after / before <= high:
        expected = f"expected {low:g} to {high:g} for each Spanish word"
        yield _doubt("length differs", f"{plural(after, 'English word')} for {before} in Spanish; {expected}")
    if re.search(r"[.]\W*$", spanish) and not re.search(r"[.!?\])\"']\s*$", english):
        yield _doubt("cut short", "the Spanish text ends in a full stop, the English one does not")


def _says(text: str, pattern: re.Pattern[str]) -> bool:
    return pattern.search(_fold(text)) is not None


@cache
def _patterns(table: str, kind: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in _tables()[table][kind]), re.MULTILINE)


def _is_spanish(word: str) -> bool:
    folded = _fold(word)
    if folded in _english_words():
        return False
    return folded in _spanish_words() or folded.endswith(tuple(_tables()["spanish"]["endings"]))


@cache
def _spanish_words() -> frozenset[str]:
    names = (name for keyword in KEYWORDS.values() for name in keyword.names_es)
    # Shorter words of names are of both languages too often: "tos", "base", "area".
    known = {word for name in names for word in re.findall(r"[a-z]{5,}", _fold(name))}
    return frozenset(known | {_fold(word) for word in _tables()["spanish"]["words"]}) - _english_words()


@cache
def _english_words() -> frozenset[str]:
    names = (name for keyword in KEYWORDS.values() for name in keyword.names_en)
    known = {word for name in names for word in re.findall(r"[a-z]+", _fold(name))}
    return frozenset(known | set(_tables()["spanish"]["allowed"]))


# -------------------------------------------------------------------------------------- what one or two sentences say


@dataclass(frozen=True)
class _Facts:
    """What some sentences say that must be the same in both languages.

    Attributes:
        numbers: lengths in mm, all else as it stands; counts and ranks in words, vertebral levels as ``"t8"``.
        strong: words that deny.
        weak: words that say the same as a denial the other way round.
    """

    sentences: tuple[str, ...]
    words: int
    findings: tuple[Finding, ...]
    numbers: Counter[str]
    left: int
    right: int
    both: int
    strong: int
    weak: int

    @property
    def anchors(self) -> frozenset[str]:
        """What tells which sentences belong together; sides and denials are what must be compared afterwards."""
        return frozenset(map(_root, self.said("present", "uncertain"))) | frozenset(self.numbers)

    @property
    def names(self) -> frozenset[str]:
        """What is named at all, if only to be denied."""
        return self.anchors | frozenset(map(_root, self.said("absent")))

    @property
    def sides(self) -> frozenset[str]:
        left, right = self.left + self.both > 0, self.right + self.both > 0
        return frozenset(name for name, told in (("left", left), ("right", right)) if told)

    def said(self, *statuses: str) -> frozenset[str]:
        return frozenset(finding.name for finding in self.findings if finding.status in statuses)

    @property
    def asserted(self) -> frozenset[str]:
        """What is there or may be; "no signs suggestive of pneumonia" doubts inside a denial and asserts nothing."""
        return self.said("present") if self.strong else self.said("present", "uncertain")


# A text is often judged again, beside a mended translation; the readings of one long report.
@lru_cache(maxsize=4096)
def _read(sentence: str, language: Language) -> _Facts:
    """Read one sentence."""
    words = _words(re.sub(*_BOTH[language], sentence, flags=re.IGNORECASE))
    denials = _tables()["denial"][language]
    denying = re.sub("|".join(denials["harmless"]), " ", " ".join(words)).split()
    return _Facts(
        sentences=(sentence,),
        words=len(words),
        findings=extract_findings(sentence, language),
        numbers=_count_numbers(words, language),
        **_count_sides(words, language),
        strong=_count(denying, denials["strong"]),
        weak=_count(denying, denials["weak"]),
    )


# "los dos pulmones" is "both lungs", not two of them.
_BOTH: dict[Language, tuple[str, str]] = {
    "es": (r"\b(?:los|las) dos\b|\b(?:uno|una) y otr[oa]\b", "ambos"),
    "en": (r"\bthe two\b", "both"),
}


def _count(words: Sequence[str], wanted: Iterable[str]) -> int:
    whole, starts = _compile(tuple(wanted))
    return sum(word in whole or word.startswith(starts) for word in words)


@cache
def _compile(wanted: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    starts = tuple(word[:-1] for word in wanted if word.endswith("*"))
    return frozenset(word for word in wanted if not word.endswith("*")), starts


def _count_sides(words: Sequence[str], language: Language) -> dict[str, int]:
    """Count side words; a middle lobe and a lingula have theirs whether it is said or not."""
    tables = _tables()["side"][language]
    text = " ".join(words)
    sided: Counter[str] = Counter()
    for phrase, side in tables["sided"].items():
        text, times = re.subn(rf"\b{phrase}(?:e?s)?\b(?: derech[oa])?", " ", text)
        sided[side] += times
    rest = text.split()
    return {
        "left": _count(rest, tables["left"]) + sided["left"],
        "right": _count(rest, tables["right"]) + sided["right"],
        "both": _count(rest, tables["both"]),
    }


_LENGTHS_MM = {"mm": 1.0, "cm": 10.0}
# A virus and an illness, not figures.
_NAMES_WITH_NUMBERS = re.compile(r"\bcovid ?-? ?19\b|\bsars ?-? ?cov ?-? ?2\b")


def _count_numbers(words: Sequence[str], language: Language) -> Counter[str]:
    text = _NAMES_WITH_NUMBERS.sub(" ", " ".join(words))
    named = {word: value for value, names in _tables()["number"][language].items() for word in names}
    kept = text.split()
    found: Counter[str] = Counter()
    factor = 1.0
    for word in reversed(kept):
        if word in _LENGTHS_MM:
            factor = _LENGTHS_MM[word]
        elif re.fullmatch(r"\d+(?:[.,]\d+)?", word):
            found[f"{float(word.replace(',', '.')) * factor:g}"] += 1
        elif word not in ("x", "por", "by", "y", "and", "a", "to", "-"):
            factor = 1.0
            if word in named:
                found[named[word]] += 1
            elif level := re.fullmatch(r"[dt](1[0-2]|[1-9])|([lc][1-7])", word):
                found[f"t{level[1]}" if level[1] else level[2]] += 1
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\d+(?:[.,]\d+)?|[^\W\d_]+\d+|n't\b|[^\W\d_]+|-", re.sub(r"(?<=\w)n't", " n't", _fold(text)))


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFD", text.lower().replace("’", "'"))
    return "".join(sign for sign in folded if not unicodedata.combining(sign))


@cache
def _tables() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("translation_audit.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


# -------------------------------------------------------------------------------------------- sentences side by side

_Bead = tuple[_Facts, _Facts]
# One sentence for one, none, or two: dearer the less usual it is. Ours, in the spirit of Gale and Church (1993): their
# prior makes 1-1 the rule as well, and what the sentences say weighs more here than how long they are.
_STEPS = {(1, 1): 0.0, (1, 2): 1.0, (2, 1): 1.0, (1, 0): 1.0, (0, 1): 1.0, (2, 2): 1.6}


def _lay_side_by_side(spanish: Sequence[_Facts], english: Sequence[_Facts]) -> list[_Bead]:
    """Pair the sentences of both texts in order, at the least cost in all."""
    best: dict[tuple[int, int], tuple[float, tuple[int, int]]] = {(0, 0): (0.0, (0, 0))}
    for i in range(len(spanish) + 1):
        for j in range(len(english) + 1):
            options = [
                (best[i - a, j - b][0] + cost + _distance(_join(spanish[i - a : i]), _join(english[j - b : j])), (a, b))
                for (a, b), cost in _STEPS.items()
                if a <= i and b <= j
            ]
            if options:
                best[i, j] = min(options)
    beads: list[_Bead] = []
    i, j = len(spanish), len(english)
    while i or j:
        a, b = best[i, j][1]
        beads.append((_join(spanish[i - a : i]), _join(english[j - b : j])))
        i, j = i - a, j - b
    return beads[::-1]


def _join(parts: Sequence[_Facts]) -> _Facts:
    if len(parts) == 1:
        return parts[0]
    numbers: Counter[str] = sum((part.numbers for part in parts), Counter())
    return _Facts(
        sentences=tuple(sentence for part in parts for sentence in part.sentences),
        words=sum(part.words for part in parts),
        findings=tuple(finding for part in parts for finding in part.findings),
        numbers=numbers,
        left=sum(part.left for part in parts),
        right=sum(part.right for part in parts),
        both=sum(part.both for part in parts),
        strong=sum(part.strong for part in parts),
        weak=sum(part.weak for part in parts),
    )


def _distance(spanish: _Facts, english: _Facts) -> float:
    """Tell how unlike two runs of sentences are: 0 for alike."""
    if not spanish.words or not english.words:
        return 0.0
    length = min(1.0, abs(math.log(english.words / spanish.words)))
    union = spanish.names | english.names
    shared = len(spanish.names & english.names) / len(union) if union else 0.0
    if not spanish.anchors or not english.anchors:
        # A sentence that asserts nothing may belong to any other such: "bazo normal" to "no splenomegaly".
        shared = 0.5 + shared / 2
    return 1.2 * (1 - shared) + 0.4 * length


@cache
def _root(name: str) -> str:
    """Go up to the widest keyword: a micronodule is a nodule."""
    return _line(name)[-1]


@cache
def _are_kin(one: str, other: str) -> bool:
    """Tell whether another wording may say one finding instead of the other."""
    # A wider name has fewer words: "mass" for "pleural mass", "fracture" for "rib fracture".
    words, others = set(one.split()), set(other.split())
    is_wider = words <= others or words >= others or one in _line(other) or other in _line(one)
    return is_wider or any({one, other} <= set(group) for group in _tables()["companions"]["groups"])


def _line(name: str) -> list[str]:
    """List a keyword and all that it is a kind of."""
    parent = KEYWORDS[name].parent if name in KEYWORDS else None
    return [name, *(_line(parent) if parent else [])]


# ------------------------------------------------------------------------------------------------- pair by pair


def _judge_beads(beads: Sequence[_Bead]) -> Iterator[Doubt]:
    """Compare what stands side by side; one doubt a reason, with how often."""
    missing = [bead for bead in beads if not bead[1].sentences]
    added = [bead for bead in beads if not bead[0].sentences]
    pairs = [bead for bead in beads if bead[0].sentences and bead[1].sentences]
    for reason, lonely in (("sentence missing", missing), ("sentence added", added)):
        if lonely:
            yield _doubt(reason, f"{plural(len(lonely), 'sentence')} without a counterpart in the other language")
    for reason, differs in _COMPARISONS.items():
        count = sum(differs(*pair) for pair in pairs)
        if count:
            yield _doubt(reason, f"in {count} of {plural(len(pairs), 'pair')} of sentences side by side")


def _numbers_differ(spanish: _Facts, english: _Facts) -> bool:
    return spanish.numbers != english.numbers


def _sides_differ(spanish: _Facts, english: _Facts) -> bool:
    """Compare which sides are told, whether one turned into the other, and the side of each finding."""
    turned = spanish.left - english.left
    swapped = turned != 0 and turned == english.right - spanish.right
    return spanish.sides != english.sides or swapped or _finding_changed_side(spanish, english)


def _finding_changed_side(spanish: _Facts, english: _Facts) -> bool:
    for name in spanish.said("present", "uncertain") & english.said("present", "uncertain"):
        before, after = ({f.laterality for f in facts.findings if f.name == name} for facts in (spanish, english))
        if None not in before | after and before != after and "bilateral" not in before | after:
            return True
    return False


def _negation_differs(spanish: _Facts, english: _Facts) -> bool:
    """Look for a denial that went or came, among the words and among the findings."""
    went = spanish.strong > 0 and english.strong == 0 and english.weak <= spanish.weak
    came = english.strong > 0 and spanish.strong == 0 and spanish.weak <= english.weak
    # "Esófago normal" may be "without abnormalities", and "with abnormalities" by a slip.
    turned = spanish.weak > 0 and english.strong == 0 and english.weak == 0
    return went or came or turned or _denied(english, spanish) or _denied(spanish, english)


def _denied(denying: _Facts, asserting: _Facts) -> bool:
    return bool((asserting.asserted - denying.said("present", "uncertain")) & denying.said("absent"))


def _findings_differ(spanish: _Facts, english: _Facts) -> bool:
    """Look for a finding that one side tells and the other does not know in any form."""
    missed, new = _unmatched(spanish, english), _unmatched(english, spanish)
    if missed and new:
        return True
    # What is only denied may be said without its name ("normal spleen"), but not left out of a list of denials.
    is_list = bool(english.said("absent")) and not english.weak
    missed = missed if is_list else missed & spanish.asserted
    lost = any(not _is_worded(name, spanish, english, "es") for name in missed)
    return lost or any(not _is_worded(name, spanish, english, "en") for name in new & english.asserted)


def _unmatched(telling: _Facts, other: _Facts) -> frozenset[str]:
    names, others = ({finding.name for finding in facts.findings} for facts in (telling, other))
    unknown = {name for name in names if not any(_are_kin(name, one) for one in others)}
    return frozenset(name for name in unknown if not _is_mentioned(name, other))


def _is_mentioned(name: str, other: _Facts) -> bool:
    mentions = _tables()["mentions"]
    starts = tuple(mentions.get(name) or mentions.get(_root(name), ()))
    words = _fold(" ".join(other.sentences)).split()
    return bool(starts) and any(word.startswith(starts) for word in words)


def _is_worded(name: str, spanish: _Facts, english: _Facts, language: Language) -> bool:
    """Tell whether the words by which one side tells a finding stand on the other, though no name is known there.

    "Elevated left hemidiaphragm" is "elevación del hemidiafragma izquierdo" to whoever knows the words one by one.
    """
    here, there = (spanish, english) if language == "es" else (english, spanish)
    names = KEYWORDS[name].names_es if language == "es" else KEYWORDS[name].names_en
    known = {word for spelling in names for word in _content(spelling)}
    own = {word for word in _content(" ".join(here.sentences)) if word in known}
    others = _content(" ".join(there.sentences))
    met = {word for word in own if any(_means_the_same(word, other, language) for other in others)}
    return bool(own) and met == own


def _content(text: str) -> list[str]:
    return re.findall(r"[a-z]{4,}", _fold(text))


def _means_the_same(word: str, other: str, language: Language) -> bool:
    spanish, english = (word, other) if language == "es" else (other, word)
    return english in english_words(spanish) or _stem(spanish) == _stem(english)


def _stem(word: str) -> str:
    """Spell a Latin or Greek word as both languages would, and keep its first five letters."""
    for learned, plain in (("ph", "f"), ("th", "t"), ("y", "i"), ("ae", "e"), ("oe", "e"), ("au", "a"), ("bs", "s")):
        word = word.replace(learned, plain)
    return re.sub(r"(.)\1", r"\1", word)[:5]


def _is_untranslated(spanish: _Facts, english: _Facts) -> bool:
    """Find a sentence that stands in both texts word for word."""
    before, after = (_words(" ".join(facts.sentences)) for facts in (spanish, english))
    return before == after and len(_content(" ".join(before))) > 1


_COMPARISONS: dict[str, Callable[[_Facts, _Facts], bool]] = {
    "sentence untranslated": _is_untranslated,
    "numbers differ": _numbers_differ,
    "laterality differs": _sides_differ,
    "negation differs": _negation_differs,
    "findings differ": _findings_differ,
}
