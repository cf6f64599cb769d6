"""Does a report tell of the examination that it stands beside: a chest CT of this sex and age?

In: the text of a report, Spanish or English or both mixed, and what is known of the patient. Out: doubts, each with a
short reason: the report of a radiograph, an ultrasound, an MR, a PET; of a head or an abdomen; anatomy of the other
sex; another age. Nothing is refused. An examination is known by its title ("rx torax pa y lateral"), never by a mere
mention: a CT report that compares with an earlier radiograph, or recommends an ultrasound, is no contradiction. A text
that says nothing of its examination raises no doubt: precision comes first, for each doubt costs a person's time. The
words themselves stand in ``contradictions.toml`` and can be read and mended there.
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Any

from medfinder.curation.keywords import split_sentences
from medfinder.records import Doubt, Sex, plural

# Ours: registries, side files and reports round ages differently and may be a birthday apart.
MAX_YEARS_APART = 2
# Ours: an abdominal report tells of the lung bases and of effusion; a chest report tells more of the chest than that.
_MAX_CHEST_SENTENCES = {"head": 1, "abdomen": 2, "limb": 1, "neck": 1, "spine": 1}
# Ours: without a title, so many sentences about another part of the body and none about the chest.
_MIN_OTHER_SENTENCES = 3
# Ours: without a title, so many expressions that only a radiograph calls for.
_MIN_XRAY_WORDS = 2
# Words; ours: far above any real sentence, below where the search for what stands before a mention is felt.
_LONGEST_SENTENCE = 100


def find_contradictions(text: str, *, sex: Sex | None = None, age_years: int | None = None) -> tuple[Doubt, ...]:
    """Find what in a report cannot be about a chest CT of this patient.

    Args:
        text: as written or translated; tidied or not.
        sex: of the patient, where it is known.
        age_years: at the examination, where it is known.

    Example:
        >>> [doubt.reason for doubt in find_contradictions("rx torax pa y lateral . sin condensaciones .")]
        ['report of an X-ray']
        >>> find_contradictions("tc torax . nodulo ya visible en la radiografia previa .")
        ()
        >>> [doubt.reason for doubt in find_contradictions("Chest CT. Enlarged prostate.", sex="F")]
        ['sex differs']
    """
    said = _Said(text)
    found = (
        _find_other_modality(said) or _find_other_part(said),
        _find_other_sex(said, sex),
        _find_age(said, age_years),
    )
    return tuple(doubt for doubt in found if doubt is not None)


def find_parts(words: str) -> frozenset[str]:
    """Name the parts of the body in a few words of a tag or file name; empty when none is known.

    Example:
        >>> sorted(find_parts("TORAX^ABDOMEN")), sorted(find_parts("unknown"))
        (['abdomen', 'chest'], [])
    """
    folded = re.sub(r"[\W_]+", " ", fold(words))
    return frozenset(name for name, pattern in _words().parts.items() if pattern.search(folded))


def fold(text: str) -> str:
    """Fold case and accents; a tilde goes, too.

    Example:
        >>> fold("Radiografía de TÓRAX")
        'radiografia de torax'
    """
    return "".join(sign for sign in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(sign))


# ----------------------------------------------------------------------------------------------------------- the words


@dataclass(frozen=True)
class _Words:
    """``contradictions.toml``, compiled."""

    mention: re.Pattern[str]
    modalities: tuple[str, ...]
    elsewhere: re.Pattern[str]
    of_another_day: re.Pattern[str]
    title: re.Pattern[str]
    signature: re.Pattern[str]
    xray: tuple[re.Pattern[str], ...]
    but_not: re.Pattern[str]
    parts: Mapping[str, re.Pattern[str]]
    by_the_way: re.Pattern[str]
    anatomy: Mapping[Sex, re.Pattern[str]]
    person: Mapping[Sex, re.Pattern[str]]
    age: re.Pattern[str]
    family: re.Pattern[str]


@cache
def _words() -> _Words:
    text = resources.files(__package__).joinpath("contradictions.toml").read_text(encoding="utf-8")
    tables: dict[str, Any] = tomllib.loads(text)
    named = [f"(?P<m{n}>{'|'.join(names)})" for n, names in enumerate(tables["examination"].values())]
    elsewhere, radiograph = tables["elsewhere"], tables["radiograph"]
    link = f"(?: (?:{'|'.join(elsewhere['link'])}))*"
    sexes: tuple[Sex, ...] = ("F", "M")
    return _Words(
        mention=_any_of(named),
        modalities=tuple(tables["examination"]),
        elsewhere=_any_of(elsewhere["before"]),
        of_another_day=re.compile(rf"{link}[ ,(]*{_any_of(elsewhere['behind']).pattern}"),
        title=_any_of(tables["title"]["words"]),
        signature=_any_of(radiograph["signature"]),
        xray=tuple(_any_of([words]) for words in radiograph["words"]),
        but_not=_any_of(radiograph["but_not"]),
        parts={name: _any_of(words) for name, words in tables["part"].items()},
        by_the_way=_any_of(tables["by_the_way"]["words"]),
        anatomy={sex: _any_of(tables["sex"][sex]["anatomy"]) for sex in sexes},
        person={sex: _any_of(tables["sex"][sex]["person"]) for sex in sexes},
        age=_any_of(tables["age"]["words"]),
        family=_any_of(tables["family"]["words"]),
    )


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(words)})\b")


# ------------------------------------------------------------------------------------------------- what a report says


@dataclass(frozen=True, slots=True)
class _Mention:
    """An examination that a sentence names: its own (a title), one at hand, or one of another day."""

    modality: str
    is_title: bool
    is_elsewhere: bool


class _Said:
    """A report cut into folded sentences, and the examinations that they name."""

    def __init__(self, text: str) -> None:
        self.sentences = tuple(piece for sentence in split_sentences(fold(text)) for piece in _cut(sentence))
        self.mentions = tuple(tuple(_find_mentions(sentence)) for sentence in self.sentences)

    @cached_property
    def titles(self) -> frozenset[str]:
        return frozenset(one.modality for sentence in self.mentions for one in sentence if one.is_title)

    @cached_property
    def has_ct(self) -> bool:
        return any(one.modality == "CT" and not one.is_elsewhere for sentence in self.mentions for one in sentence)

    @cached_property
    def described(self) -> tuple[str, ...]:
        """Sentences about this examination, without what they say by the way."""
        words = _words()
        here = (sentence for sentence in self.sentences if words.elsewhere.match(sentence) is None)
        return tuple(words.by_the_way.sub(" ", sentence) for sentence in here)

    def sentences_about(self, part: str) -> int:
        return sum(_words().parts[part].search(sentence) is not None for sentence in self.described)


def _cut(sentence: str) -> Iterator[str]:
    """Cut a text without stops into pieces."""
    words = sentence.split()
    for start in range(0, len(words), _LONGEST_SENTENCE):
        yield " ".join(words[start : start + _LONGEST_SENTENCE])


def _find_mentions(sentence: str) -> Iterator[_Mention]:
    words = _words()
    for match in words.mention.finditer(sentence):
        before, behind = sentence[: match.start()], sentence[match.end() :]
        is_elsewhere = bool(words.elsewhere.search(before) or words.of_another_day.match(behind))
        is_title = not is_elsewhere and all(words.title.fullmatch(word) for word in re.findall(r"\w+", before))
        number = next(n for n in range(len(words.modalities)) if match[f"m{n}"] is not None)
        yield _Mention(words.modalities[number], is_title, is_elsewhere)


def _find_other_modality(said: _Said) -> Doubt | None:
    if said.has_ct:
        return None
    words = _words()
    other = next((name for name in words.modalities if name in said.titles), None)
    if other is not None:
        return _doubt(f"report of {_with_article(other)}", "the report's title names another examination than a CT")
    if any(words.signature.search(sentence) and not words.elsewhere.search(sentence) for sentence in said.sentences):
        return _doubt("report of an X-ray", "the report names projections, and no CT")
    whole = " . ".join(said.sentences)
    found = sum(pattern.search(whole) is not None for pattern in words.xray)
    if found >= _MIN_XRAY_WORDS and not words.but_not.search(whole):
        return _doubt("report of an X-ray", f"{plural(found, 'expression')} of a radiograph's report, none of a CT's")
    return None


def _find_other_part(said: _Said) -> Doubt | None:
    titled = {
        part
        for sentence, mentions in zip(said.sentences, said.mentions, strict=True)
        if any(one.modality == "CT" and one.is_title for one in mentions)
        for part in find_parts(sentence)
    }
    chest = said.sentences_about("chest")
    for part, most in _MAX_CHEST_SENTENCES.items():
        about = said.sentences_about(part)
        is_title = part in titled and "chest" not in titled and chest <= most
        if is_title or (not titled and chest == 0 and about >= _MIN_OTHER_SENTENCES):
            detail = f"{plural(about, 'sentence')} of the report about the {part}, {chest} about the chest"
            return _doubt("report of another part", detail)
    return None


def _find_other_sex(said: _Said, sex: Sex | None) -> Doubt | None:
    if sex is None:
        return None
    words = _words()
    other: Sex = "M" if sex == "F" else "F"
    for sentence in said.sentences:
        if words.family.search(sentence):
            continue
        if words.person[other].search(sentence) and not words.person[sex].search(sentence):
            return _doubt("sex differs", f"the report calls the patient {other}, the study says {sex}")
        if words.anatomy[other].search(sentence):
            return _doubt("sex differs", f"the report tells of anatomy that only {other} has, the study says {sex}")
    return None


def _find_age(said: _Said, age_years: int | None) -> Doubt | None:
    words = _words()
    told = [
        int(next(filter(None, match.groups())))
        for sentence in said.sentences
        if not words.family.search(sentence)
        for match in words.age.finditer(sentence)
    ]
    if age_years is None or not told:
        return None
    apart = min(abs(years - age_years) for years in told)
    if apart <= MAX_YEARS_APART:
        return None
    return _doubt("age differs", f"report and study are {apart} years apart, expected at most {MAX_YEARS_APART}")


def _with_article(modality: str) -> str:
    return f"{'an' if modality in ('X-ray', 'ultrasound', 'MR') else 'a'} {modality}"


def _doubt(reason: str, detail: str) -> Doubt:
    return Doubt("pairing", reason, detail, holds=True)
