"""The report of a phantom: what is there -> the same examination told in Spanish and in English.

In: the findings of a study, the patient's sex and age, whether contrast was given, and a generator. Out: a ``Report``
of two parallel texts, sentence by sentence made from the same facts with words drawn independently. Spanish as BIMCV
has it (lower case, no accents, telegraphic, sentences parted by `` . ``), English as plain radiology prose. Nothing
present is ever denied and nothing absent asserted. Findings given with status ``"absent"`` are denied for certain,
``"uncertain"`` ones told as possible. Only ``rng.random`` and ``rng.integers`` are drawn, so that a seed gives the
same bytes everywhere. Refused: names that are not in ``FINDINGS``.
"""

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from medfinder.errors import ConfigError
from medfinder.records import Finding, Language, Sex
from medfinder.sources.phantoms.phrases import Phrase, Told, adverb, describe, pick, wordings
from medfinder.sources.phantoms.vocabulary import FINDINGS

# English words: median and spread (of the logarithm) as in the public part of the BIMCV-R table (median 96, mean 110).
_MEDIAN_WORDS = 98
_SPREAD_WORDS = 0.42
_WORDS_RANGE = (34, 235)

# How often a fact that is there is told; ours, so that names and sides are nearly always said and the rest mostly.
_TELL_SIDE = 0.97
_TELL_LOCATION = 0.92
_TELL_SIZE = 0.75
_TELL_GRADE = 0.8
_TELL_COUNT = 0.7
_IN_CENTIMETRES = 0.3
_HEDGED = 0.05
_JOINED = 0.3
_GROUPED = 0.5
_CLAUSE = 0.4
T = TypeVar("T")

_SECTIONS = ("lung", "pleura", "heart", "mediastinum", "wall", "abdomen")


@dataclass(frozen=True, slots=True)
class Report:
    """One report in two languages that say the same."""

    spanish: str
    english: str


@dataclass(frozen=True, slots=True)
class _Sentence:
    """One sentence in both languages, neither capitalised nor closed."""

    english: str
    spanish: str


def write_report(
    *,
    findings: Sequence[Finding],
    sex: Sex | None,
    age_years: int | None,
    contrast: bool,
    rng: np.random.Generator,
) -> Report:
    """Write the report of one study in both languages.

    Args:
        findings: what is there; several of one name are told together or one by one.
        contrast: whether intravenous contrast was given; told in most reports, never wrongly.

    Raises:
        ConfigError: a finding is not one of ``FINDINGS``.
    """
    for finding in findings:
        if finding.name not in FINDINGS:
            raise ConfigError(f"no words for finding {finding.name!r}; known: {', '.join(FINDINGS)}")
    target = _draw_length(rng)
    told = [_choose_facts(finding, rng) for finding in findings if finding.status != "absent"]
    present = {finding.name for finding in told}
    denied = {finding.name for finding in findings if finding.status == "absent"} - present

    body = {section: _tell_section(section, told, rng) for section in _SECTIONS}
    opening = _open_report(sex, age_years, contrast, target, rng)
    closing = _close_report(told, target, rng)
    words = _count_words([*opening, *closing, *(sentence for part in body.values() for sentence in part)])
    for section, sentence in _draw_fillers(present, denied, contrast, rng):
        if words >= target:
            break
        body[section].append(sentence)
        words += _count_words([sentence])
    for name in sorted(denied):
        body[wordings()["finding"][name]["section"]].append(_deny([name], rng))

    sections = _shuffle(_SECTIONS, rng) if rng.random() < 0.6 else list(_SECTIONS)
    middle = [sentence for section in sections for sentence in _maybe_shuffle(body[section], rng)]
    sentences = [*opening, *middle, *closing]
    return Report(_join_spanish(sentences), _join_english(sentences))


# ------------------------------------------------------------------------------------------------------- which facts


def _choose_facts(finding: Finding, rng: np.random.Generator) -> Told:
    """Choose, once for both languages, which facts of a finding are told."""
    chances = [rng.random() for _ in range(7)]
    side = finding.laterality if chances[0] < _TELL_SIDE else None
    # A lobe or an axilla without its side would be a half-truth.
    place_stands_alone = finding.laterality is None or side is not None
    location = finding.location if place_stands_alone and chances[1] < _TELL_LOCATION else None
    if finding.location in ("middle lobe", "lingula") and location is None:
        side = finding.laterality
    size = ""
    if finding.size_mm is not None and chances[2] < _TELL_SIZE:
        size = _write_size(finding.size_mm, in_centimetres=chances[3] < _IN_CENTIMETRES)
    count = finding.count or 1 if FINDINGS[finding.name].max_count > 1 else 1
    return Told(
        name=finding.name,
        side=side,
        location=location,
        size=size,
        count=count if count == 1 or (chances[4] < _TELL_COUNT and count <= 6) else 0,
        grade=finding.grade if finding.grade in wordings()["degree"]["en"] and chances[5] < _TELL_GRADE else None,
        is_possible=finding.status == "uncertain" or chances[6] < _HEDGED,
    )


def _write_size(size_mm: float, *, in_centimetres: bool) -> str:
    return f"{size_mm / 10:.1f} cm" if in_centimetres else f"{size_mm:.0f} mm"


def _draw_length(rng: np.random.Generator) -> int:
    """Draw how many English words to aim at: log-normal, clipped."""
    normal = sum(rng.random() for _ in range(12)) - 6.0
    words = _MEDIAN_WORDS * math.exp(_SPREAD_WORDS * normal)
    return round(min(max(words, _WORDS_RANGE[0]), _WORDS_RANGE[1]))


# --------------------------------------------------------------------------------------------------- present findings


def _tell_section(section: str, told: Sequence[Told], rng: np.random.Generator) -> list[_Sentence]:
    """Tell the findings of one section, each in its own sentence or joined with a neighbour."""
    here = [fact for fact in told if _section(fact) == section]
    if section == "pleura":
        here += [fact for fact in told if _goes_with_effusion(fact, told)]
    elif section == "lung":
        here = [fact for fact in here if not _goes_with_effusion(fact, told)]
    left = _shuffle(here, rng)
    sentences = []
    while left:
        group = _take_group(left, rng)
        sentences.append(_tell_group(group, rng))
    return sentences


def _section(told: Told) -> str:
    return str(wordings()["finding"][told.name]["section"])


def _goes_with_effusion(told: Told, others: Sequence[Told]) -> bool:
    """Say whether this is the passive atelectasis beside an effusion: the two are told together."""
    return told.name == "atelectasis" and told.grade == "passive" and _effusion_beside(told, others) is not None


def _effusion_beside(told: Told, others: Sequence[Told]) -> Told | None:
    sides = (told.side, "bilateral")
    return next((fact for fact in others if fact.name == "pleural effusion" and told.side and fact.side in sides), None)


def _take_group(left: list[Told], rng: np.random.Generator) -> list[Told]:
    """Take from ``left`` what the next sentence tells."""
    first = left.pop()
    alike = [fact for fact in left if fact.name == first.name and fact.is_possible == first.is_possible]
    if alike and rng.random() < _GROUPED:
        group = [first, *alike][:4]
    else:
        effusion = _effusion_beside(first, left) if first.grade == "passive" else None
        passive = next((fact for fact in left if _goes_with_effusion(fact, [first])), None)
        if effusion is not None:
            group = [effusion, first]
        elif passive is not None:
            group = [first, passive]
        elif left and rng.random() < _JOINED and left[-1].is_possible == first.is_possible:
            group = [first, left[-1]]
        else:
            group = [first]
    # By identity: two findings told in the same words are still two.
    left[:] = [fact for fact in left if not any(fact is taken for taken in group)]
    return group


def _tell_group(group: Sequence[Told], rng: np.random.Generator) -> _Sentence:
    if len(group) == 1:
        return _Sentence(_tell_one(group[0], "en", rng), _tell_one(group[0], "es", rng))
    if all(fact.name == group[0].name for fact in group):
        return _Sentence(_tell_alike(group, "en", rng), _tell_alike(group, "es", rng))
    if _goes_with_effusion(group[1], group[:1]):
        return _Sentence(_tell_joined(group, "en", rng, "passive"), _tell_joined(group, "es", rng, "passive"))
    return _Sentence(_tell_joined(group, "en", rng, "join"), _tell_joined(group, "es", rng, "join"))


def _tell_one(told: Told, language: Language, rng: np.random.Generator) -> str:
    clauses = wordings()["finding"][told.name].get(f"clause_{language}")
    if clauses and not told.is_possible and rng.random() < _CLAUSE:
        return _squeeze(pick(rng, clauses).replace("{how}", adverb(told.grade, language, rng)))
    return _frame(describe(told, language, rng), told.is_possible, language, rng)


def _frame(phrase: Phrase, is_possible: bool, language: Language, rng: np.random.Generator) -> str:
    key = f"maybe_{language}" if is_possible else language
    pattern = pick(rng, wordings()["frame"][key])
    if language == "en":
        pattern = pattern.replace("{a}", phrase.article).replace("{is}", "are" if phrase.is_plural else "is")
    else:
        ending = "n" if phrase.is_plural else ""
        pattern = pattern.replace("{n}", ending).replace("{s}", "s" if phrase.is_plural else "")
    return _squeeze(pattern.replace("_", phrase.text))


def _tell_alike(group: Sequence[Told], language: Language, rng: np.random.Generator) -> str:
    """Tell several findings of one name in one sentence, each with its own facts."""
    phrases = [describe(fact, language, rng) for fact in group]
    ands = {"en": " and ", "es": " y "}[language]
    commas = {"en": ", ", "es": " "}[language]
    texts = [_with_article(phrase) for phrase in phrases]
    return _frame_text(commas.join(texts[:-1]) + ands + texts[-1], group[0].is_possible, language, rng)


def _tell_joined(group: Sequence[Told], language: Language, rng: np.random.Generator, kind: str) -> str:
    first, second = group
    if kind == "passive" and first.side == second.side and rng.random() < 0.5:
        second = replace(second, side=None)
    pattern = pick(rng, wordings()["frame"][f"{kind}_{language}"])
    before, _, after = pattern.rpartition("_")
    one, two = describe(first, language, rng), describe(second, language, rng)
    # Articles would stand between "adjacent" and its noun.
    other = two.text if kind == "passive" else _with_article(two)
    if language == "es" and before.endswith(" y ") and other.startswith(("i", "hi")):
        before = before.removesuffix("y ") + "e "
    text = f"{before}{other}{after}".replace("_", _with_article(one), 1)
    return _frame_text(text, first.is_possible, language, rng)


def _frame_text(text: str, is_possible: bool, language: Language, rng: np.random.Generator) -> str:
    """Frame words whose number is mixed: only frames without a verb that must agree."""
    key = f"maybe_{language}" if is_possible else language
    frames = [frame for frame in wordings()["frame"][key] if not any(slot in frame for slot in ("{is}", "{n}", "{s}"))]
    return _squeeze(pick(rng, frames).replace("{a}", "").replace("_", text))


def _with_article(phrase: Phrase) -> str:
    return _squeeze(f"{phrase.article} {phrase.text}")


# ------------------------------------------------------------------------------------------ what is absent or normal


def _draw_fillers(
    present: set[str], denied: set[str], contrast: bool, rng: np.random.Generator
) -> Iterable[tuple[str, _Sentence]]:
    """Draw true sentences about what is not there, in random order, until there is nothing left to say."""
    makers: list[tuple[str, Callable[[], _Sentence]]] = []
    absent = [name for name in FINDINGS if name not in denied and _may_deny(name, present)]
    for section in _SECTIONS:
        names = _shuffle([name for name in absent if wordings()["finding"][name]["section"] == section], rng)
        while names:
            size = 1 + int(rng.integers(3))
            group, names = names[:size], names[size:]
            makers.append((section, lambda group=group: _deny(group, rng)))  # type: ignore[misc]  # bound per turn
    for normal in wordings()["normal"]:
        if _is_true(normal["unless"], present) and (contrast or not normal.get("contrast")):
            makers.append((normal["section"], lambda normal=normal: _pair(normal, rng)))  # type: ignore[misc]  # ditto
    for section, make in _shuffle(makers, rng):
        yield section, make()


def _may_deny(name: str, present: set[str]) -> bool:
    entry = wordings()["finding"][name]
    return name not in present and "no_en" in entry and _is_true(entry.get("unless", ()), present)


def _is_true(unless: Iterable[str], present: set[str]) -> bool:
    """Say whether none of the findings, or sections in capitals, that would make a sentence false are present."""
    sections = {wordings()["finding"][name]["section"].upper() for name in present}
    return not any(name in present or name in sections for name in unless)


def _deny(names: Sequence[str], rng: np.random.Generator) -> _Sentence:
    """Deny some findings in one sentence."""
    english = [pick(rng, wordings()["finding"][name]["no_en"]) for name in names]
    spanish = [pick(rng, wordings()["finding"][name]["no_es"]) for name in names]
    frames = wordings()["frame"]
    listed = ", ".join(english[:-1]) + " or " + english[-1] if len(english) > 1 else english[0]
    first, last = ("are" if _looks_plural(nouns.split()[-1]) else "is" for nouns in (english[0], english[-1]))
    ending = "n" if _looks_plural(spanish[0].split()[0]) else ""
    return _Sentence(
        pick(rng, frames["no_en"]).replace("{is}", first).replace("{last_is}", last).replace("_", listed),
        pick(rng, frames["no_es"]).replace("{n}", ending).replace("_", " ni ".join(spanish)),
    )


def _looks_plural(word: str) -> bool:
    return word.endswith("s") and not word.endswith("sis")


def _pair(entry: dict[str, list[str]], rng: np.random.Generator) -> _Sentence:
    return _Sentence(pick(rng, entry["en"]), pick(rng, entry["es"]))


# --------------------------------------------------------------------------------------------------- opening, closing


def _open_report(
    sex: Sex | None, age_years: int | None, contrast: bool, target: int, rng: np.random.Generator
) -> list[_Sentence]:
    sentences = [_tell_technique(contrast, rng)] if rng.random() < 0.85 else []
    histories = _shuffle(wordings()["history"], rng)
    topics: set[str] = set()
    for entry in histories[: int(rng.integers(1 + min(target // 40, 3)))]:
        if entry.get("topic") in topics:
            continue
        topics |= {entry["topic"]} if "topic" in entry else set()
        sentence = _pair(entry, rng)
        if "{age}" in sentence.english or "{man_en}" in sentence.english:
            if sex is None or age_years is None:
                continue
            sentence = _Sentence(
                sentence.english.replace("{age}", str(age_years)).replace("{man_en}", _PERSON[sex][0]),
                sentence.spanish.replace("{age}", str(age_years)).replace("{man_es}", _PERSON[sex][1]),
            )
        sentences.append(sentence)
    return _maybe_shuffle(sentences, rng)


_PERSON: dict[Sex, tuple[str, str]] = {"F": ("woman", "mujer"), "M": ("man", "varón")}


def _tell_technique(contrast: bool, rng: np.random.Generator) -> _Sentence:
    kind = "untold" if rng.random() < 0.12 else "with" if contrast else "without"
    technique = wordings()["technique"]
    return _Sentence(pick(rng, technique[f"{kind}_en"]), pick(rng, technique[f"{kind}_es"]))


def _close_report(told: Sequence[Told], target: int, rng: np.random.Generator) -> list[_Sentence]:
    """Write an impression that repeats the main findings with fewer facts, or nothing."""
    frames = wordings()["frame"]
    sentences = []
    if target > 70 and rng.random() < 0.55:
        main = _shuffle(told, rng)[: 1 + int(rng.integers(4))]
        short = [replace(fact, size="", grade=fact.grade if rng.random() < 0.5 else None) for fact in main]
        says = [(_repeat(fact, "en", rng), _repeat(fact, "es", rng)) for fact in short]
        says = says or [(pick(rng, frames["nothing_en"]), pick(rng, frames["nothing_es"]))]
        first_en, first_es = says[0]
        heads = (pick(rng, frames["impression_en"]), pick(rng, frames["impression_es"]))
        sentences.append(_Sentence(f"{heads[0]} {first_en}", f"{heads[1]} {first_es}"))
        sentences += [_Sentence(*say) for say in says[1:]]
    elif not told and rng.random() < 0.5:
        sentences.append(_Sentence(pick(rng, frames["nothing_en"]), pick(rng, frames["nothing_es"])))
    if told and rng.random() < 0.25:
        sentences.append(_Sentence(pick(rng, frames["rest_en"]), pick(rng, frames["rest_es"])))
    return sentences


def _repeat(told: Told, language: Language, rng: np.random.Generator) -> str:
    phrase = describe(told, language, rng)
    return _frame(phrase, True, language, rng) if told.is_possible else phrase.text


# ----------------------------------------------------------------------------------------------------------- writing


def _join_english(sentences: Sequence[_Sentence]) -> str:
    return " ".join(f"{sentence.english[0].upper()}{sentence.english[1:]}." for sentence in sentences)


def _join_spanish(sentences: Sequence[_Sentence]) -> str:
    text = " . ".join(sentence.spanish for sentence in sentences).replace(",", "")
    return f"{_strip_accents(_squeeze(text)).lower()} ."


def _strip_accents(text: str) -> str:
    return "".join(sign for sign in unicodedata.normalize("NFD", text) if not unicodedata.combining(sign))


def _squeeze(text: str) -> str:
    return " ".join(text.split()).replace(" ,", ",")


def _count_words(sentences: Iterable[_Sentence]) -> int:
    return sum(len(sentence.english.split()) for sentence in sentences)


def _shuffle(items: Sequence[T], rng: np.random.Generator) -> list[T]:
    """Shuffle by sorting on drawn numbers; the same on every machine."""
    keys = [rng.random() for _ in items]
    return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]


def _maybe_shuffle(sentences: list[_Sentence], rng: np.random.Generator) -> list[_Sentence]:
    return _shuffle(sentences, rng) if rng.random() < 0.5 else sentences
