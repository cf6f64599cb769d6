"""The keyword library: what a report, in English or Spanish, says is there, is not there, or may be there.

In: words. Out: canonical keywords and ``Finding`` records. The words themselves, the triggers of denial and doubt, the
places and the sides stand in ``keywords.toml`` and can be read and mended there. Sentence by sentence, the text is
folded (case, accents, plural, Spanish gender), keywords and triggers are found as runs of words, and a trigger reaches
until a word that ends it: NegEx (Chapman et al. 2001, doi:10.1006/jbin.2001.1029) with scopes cut as in ConText, for
two languages and for reports without commas. Refused: nothing; words that are not known are passed over.
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Any

from medfinder.records import Finding, Language, Laterality, Status

KEYWORDS: Mapping[str, "Keyword"]

# A gap ".." stands for at most this many words; ours: "fractures of the left sixth and seventh ribs" needs six.
_GAP = ".."
# This one may also cross "and" and "or": "pleural and pericardial effusion".
_WIDE_GAP = "..."
_LONGEST_GAP = 6
# Words; ours: far above any real sentence, below where the quadratic scope search is felt.
_LONGEST_SENTENCE = 200
_PUNCTUATION = frozenset(",;:()")
_STOP_WORDS = frozenset(["a", "an", "the", "of", "in", "el", "la", "los", "las", "de", "del", "en"])
_RANKS: dict[Status, int] = {"absent": 0, "uncertain": 1, "present": 2}


@dataclass(frozen=True, slots=True)
class Keyword:
    """One entry of the library.

    Attributes:
        name: canonical, in English.
        names_en: English names and turns of speech; ``..`` stands for other words between.
        names_es: Spanish ones, misspellings included.
        abbreviations: in either language.
        parent: the wider keyword; None at the top.
        cui: UMLS concept; None where it was not checked.
        persists: what is told as history is still there (a mastectomy, a pacemaker).
        is_midline: it has no side.
    """

    name: str
    names_en: tuple[str, ...]
    names_es: tuple[str, ...]
    abbreviations: tuple[str, ...] = ()
    parent: str | None = None
    cui: str | None = None
    persists: bool = False
    is_midline: bool = False


@dataclass(frozen=True, slots=True)
class _Match:
    """A run of words that means something: ``kind`` is "keyword", "location", "side" or a trigger's."""

    kind: str
    name: str
    at: tuple[int, ...]

    @property
    def first(self) -> int:
        return self.at[0]

    @property
    def last(self) -> int:
        return self.at[-1]


@dataclass(frozen=True, slots=True)
class _Lexicon:
    """The patterns of one language by their first word, and its abbreviations."""

    language: Language
    patterns: dict[str, list[tuple[tuple[str, ...], str, str]]] = field(default_factory=dict)
    names: dict[tuple[str, ...], str] = field(default_factory=dict)
    abbreviations: dict[str, str] = field(default_factory=dict)


def __getattr__(name: str) -> Any:
    """Load ``KEYWORDS`` on first use, so that importing this module reads no file."""
    if name == "KEYWORDS":
        return _load_keywords()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# ------------------------------------------------------------------------------------------------ what callers ask


def resolve_keyword(words: str) -> str | None:
    """Find the canonical keyword for any of its names in either language; None when it is not known.

    Example:
        >>> resolve_keyword("Derrames Pleurales"), resolve_keyword("GGO"), resolve_keyword("sunburn")
        ('pleural effusion', 'ground-glass opacity', None)
    """
    languages: tuple[Language, ...] = ("en", "es")
    for language in languages:
        lexicon = _lexicon(language)
        for text in (words, expand_abbreviations(words, language)):
            stems = tuple(_stem(word, language) for word in _words(text))
            bare = tuple(stem for stem in stems if stem not in _STOP_WORDS)
            found = lexicon.names.get(stems) or lexicon.names.get(bare)
            if found:
                return found
    short = _fold(words).strip()
    return next((name for language in languages if (name := _short_names(language).get(short))), None)


def extract_findings(report: str, language: Language) -> tuple[Finding, ...]:
    """Read off what a report says about each keyword.

    A keyword that is present in one sentence and denied in another counts as present. Each finding carries side, place
    and size where the words around it tell them. What is told as history only is left out, unless the keyword persists.

    Example:
        >>> [(f.name, f.status, f.laterality) for f in extract_findings("sin derrame . nodulo en lsd de 8 mm .", "es")]
        [('pleural effusion', 'absent', None), ('nodule', 'present', 'right')]
    """
    said: dict[str, list[Finding]] = {}
    for finding in _read(report, language):
        said.setdefault(finding.name, []).append(finding)
    return tuple(finding for mentions in said.values() for finding in _merge(mentions))


def split_sentences(report: str) -> tuple[str, ...]:
    """Split a report into sentences, without their closing stop.

    Knows BIMCV's `` . ``, decimals (``3.5 cm``, also ``3 . 5 cm``), titles, numbered lists and headings.

    Example:
        >>> split_sentences("nodulo de 3.5 cm en lid . sin derrame .")
        ('nodulo de 3.5 cm en lid', 'sin derrame')
    """
    text = _SPLIT_DECIMAL.sub(r"\1.\2 ", report.replace("\r\n", "\n"))
    text = _LINE_START.sub(_STOP, text)
    text = " ".join(text.replace("\n", " ").split(" "))
    text = _DOTTED.sub(lambda found: found[0].replace(".", _DOT), text)
    parts = re.split(rf"{_STOP}|(?<=[^\s])[.!?]+(?=[\s\"')\]]|$)|(?:^|\s)[.!?]+(?=\s|$)|;\s*$", text)
    cleaned = (" ".join(part.replace(_DOT, ".").split()).strip(" -•*").rstrip(".!? ") for part in parts)
    return tuple(part for part in cleaned if re.search(r"[^\W\d_]", part))


def is_negated(sentence: str, language: Language = "en") -> bool:
    """Say whether a sentence does nothing but deny.

    Example:
        >>> is_negated("No pleural effusion or pneumothorax."), is_negated("No effusion but left pneumothorax.")
        (True, False)
    """
    findings = list(_read(sentence, language))
    if findings:
        return all(finding.status == "absent" for finding in findings)
    lexicon = _lexicon(language)
    stems = _stems(sentence, lexicon)[:_LONGEST_SENTENCE]
    return any(
        (match.kind == "deny_before" and match.first <= 2) or match.kind in ("deny_behind", "deny_either")
        for match in _find(stems, lexicon)
    )


def expand_abbreviations(text: str, language: Language = "en") -> str:
    """Write abbreviations out, e.g. for a text encoder that does not know them.

    English ones are read in capitals, those of three letters and more also in lower case; Spanish ones in any case.

    Example:
        >>> expand_abbreviations("GGOs in the RUL, no PE")
        'ground-glass opacities in the right upper lobe, no pulmonary embolism'
        >>> expand_abbreviations("nodulo en lsd sin tep", "es")
        'nodulo en lóbulo superior derecho sin embolia pulmonar'
    """
    lexicon = _lexicon(language)

    def write_out(found: re.Match[str]) -> str:
        short, plural = found[1], found[2]
        full = lexicon.abbreviations[short.lower()]
        if language == "en" and len(short) < 3 and not short.isupper():
            return found[0]
        return _plural(full) if plural else full

    return _abbreviation_pattern(language).sub(write_out, text)


# ------------------------------------------------------------------------------------------------------ the tables


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath("keywords.toml").read_text(encoding="utf-8"))


@cache
def _load_keywords() -> dict[str, Keyword]:
    keywords = {}
    for name, entry in _tables()["keyword"].items():
        keywords[name] = Keyword(
            name=name,
            names_en=(name, *entry["en"]),
            names_es=(*entry["es"], *entry.get("typos_es", ())),
            abbreviations=(*entry.get("abbr_en", ()), *entry.get("abbr_es", ())),
            parent=entry.get("parent"),
            cui=entry.get("cui"),
            persists=entry.get("persists", False),
            is_midline=entry.get("midline", False),
        )
    return keywords


@cache
def _lexicon(language: Language) -> _Lexicon:
    """Compile the patterns of one language, once."""
    lexicon = _Lexicon(language)
    tables = _tables()
    lexicon.abbreviations.update({short.lower(): full for short, full in tables["abbreviation"][language].items()})
    for keyword in _load_keywords().values():
        for words in keyword.names_en if language == "en" else keyword.names_es:
            _add(lexicon, "keyword", keyword.name, words)
        full = keyword.name if language == "en" else keyword.names_es[0]
        for short in tables["keyword"][keyword.name].get(f"abbr_{language}", ()):
            lexicon.abbreviations[short.lower()] = full
            _add(lexicon, "keyword", keyword.name, short)
    for kind in ("location", "side"):
        for name, entry in tables[kind].items():
            for words in entry[language]:
                _add(lexicon, kind, name, words)
    _add_triggers(lexicon, tables["trigger"][language])
    for found in lexicon.patterns.values():
        found.sort(key=lambda pattern: -len(pattern[0]))
    return lexicon


def _add_triggers(lexicon: _Lexicon, triggers: Mapping[str, Sequence[str]]) -> None:
    for kind, phrases in triggers.items():
        verb, _, where = kind.partition("_")
        other = set(triggers.get(f"{verb}_{'behind' if where == 'before' else 'before'}", ())) if where else set()
        for words in phrases:
            _add(lexicon, f"{verb}_either" if words in other else kind, words, words)


def _add(lexicon: _Lexicon, kind: str, name: str, words: str) -> None:
    pattern = tuple(
        word if word.startswith(_GAP) else _stem(word, lexicon.language)
        for part in re.split(r"(\.{2,3})", words)
        for word in ([part] if part.startswith(_GAP) else _words(part))
    )
    lexicon.patterns.setdefault(pattern[0], []).append((pattern, kind, name))
    if kind == "keyword" and not {_GAP, _WIDE_GAP} & set(pattern):
        lexicon.names.setdefault(pattern, name)
        lexicon.names.setdefault(tuple(stem for stem in pattern if stem not in _STOP_WORDS), name)


@cache
def _short_names(language: Language) -> dict[str, str]:
    """Map abbreviations of keywords to their names."""
    return {
        _fold(short): name
        for name, entry in _tables()["keyword"].items()
        for short in entry.get(f"abbr_{language}", ())
    }


@cache
def _abbreviation_pattern(language: Language) -> re.Pattern[str]:
    shorts = sorted(_lexicon(language).abbreviations, key=len, reverse=True)
    return re.compile(rf"(?i)(?<![\w-])({'|'.join(map(re.escape, shorts))})(s?)(?![\w-])")


# -------------------------------------------------------------------------------------------------- words and stems


def _fold(text: str) -> str:
    """Fold case and accents."""
    return "".join(sign for sign in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(sign))


def _words(text: str) -> list[str]:
    return re.findall(r"\d+(?:[.,]\d+)?|[^\W\d_]+\d*|[,;:()]", _fold(text))


_IRREGULAR = {
    "atelectases": "atelectasis", "metastases": "metastasis", "pneumothoraces": "pneumothorax", "bullae": "bulla",
    "vertebrae": "vertebra", "axillae": "axilla", "bronchi": "bronchus", "hila": "hilum", "emboli": "embolus",
    "thrombi": "thrombus", "septa": "septum", "apices": "apex", "bases": "base", "masses": "mass",
    "calculi": "calculus", "foci": "focus", "prostheses": "prosthesis",
}  # fmt: skip


@cache
def _stem(word: str, language: Language) -> str:
    """Fold plural, British spelling and Spanish gender of one folded word; not a linguist's stem, just a key."""
    if language == "en":
        word = _IRREGULAR.get(word, word)
        if len(word) > 3:
            word = re.sub(r"ies$", "y", word)
            word = re.sub(r"(?<=[cs]h)es$|(?<=x)es$|(?<=[^sui])s$", "", word)
        word = word.replace("oe", "e").replace("ae", "e")
        return re.sub(r"our$", "or", re.sub(r"([^aeiou])re$", r"\1er", word)) if len(word) > 4 else word
    if len(word) > 3:
        word = re.sub(r"ces$", "z", word)
        word = re.sub(r"(?<=[lrndjz])es$|(?<=[aeiou])s$", "", word)
        # Verbs: "se observan" is "se observa".
        word = re.sub(r"(?<=[ae])n$", "", word)
        word = re.sub(r"a$", "o", word)
    return word


def _plural(words: str) -> str:
    if words.endswith("y"):
        return f"{words[:-1]}ies"
    return words if words.endswith("s") else f"{words}s"


def _stems(sentence: str, lexicon: _Lexicon) -> list[str]:
    expanded = expand_abbreviations(sentence, lexicon.language)
    return [_stem(word, lexicon.language) for word in _words(expanded)]


# ----------------------------------------------------------------------------------------------------- the matching


def _find(stems: Sequence[str], lexicon: _Lexicon) -> list[_Match]:
    """Find all that means something; what is part of something longer is dropped."""
    matches = [
        _Match(kind, name, at)
        for start, stem in enumerate(stems)
        for pattern, kind, name in lexicon.patterns.get(stem, ())
        if (at := _match(pattern, stems, start))
    ]
    placed = [match for match in matches if match.kind in ("location", "side")]
    others = _unmask([match for match in matches if match.kind not in ("location", "side")])
    return sorted([*_drop_parts(placed), *_drop_parts(others)], key=lambda match: match.at)


def _match(pattern: Sequence[str], stems: Sequence[str], start: int) -> tuple[int, ...]:
    """Match a pattern at ``start``; empty when it does not fit."""
    at = [start]
    gap = 0
    never = _NEVER_IN_GAP
    for wanted in pattern[1:]:
        if wanted.startswith(_GAP):
            gap, never = _LONGEST_GAP, _NEVER_IN_GAP if wanted == _GAP else _NEVER_IN_WIDE_GAP
            continue
        here = at[-1] + 1
        while gap and here < len(stems) and stems[here] != wanted and stems[here] not in never:
            here, gap = here + 1, gap - 1
        if here >= len(stems) or stems[here] != wanted:
            return ()
        at.append(here)
        gap = 0
    return tuple(at)


_NEVER_IN_WIDE_GAP = _PUNCTUATION | {"with", "con", "but", "pero", "there", "hay"}
_NEVER_IN_GAP = _NEVER_IN_WIDE_GAP | {"and", "or", "nor", "y", "e", "o", "u", "ni"}


def _unmask(matches: list[_Match]) -> list[_Match]:
    """Drop keywords that an ignored phrase hides, and harmless phrases ("no increase") that run into a keyword."""
    words = {
        kind: [frozenset(match.at) for match in matches if match.kind == kind] for kind in ("ignore", "free", "keyword")
    }

    def is_hidden(match: _Match) -> bool:
        at = frozenset(match.at)
        if match.kind == "keyword":
            return any(at & other and not at > other for other in words["ignore"])
        return match.kind == "free" and any(at & other for other in words["keyword"])

    return [match for match in matches if not is_hidden(match)]


def _drop_parts(matches: Sequence[_Match]) -> Iterator[_Match]:
    """Keep the matches whose words are not all part of a longer one: "effusion" in "pericardial effusion"."""
    sets = [frozenset(match.at) for match in matches]
    for index, match in enumerate(matches):
        is_part = any(
            sets[index] < other or (sets[index] == other and before < index and matches[before].kind == match.kind)
            for before, other in enumerate(sets)
        )
        if not is_part:
            yield match


# ----------------------------------------------------------------------------------------------- reading a sentence


def _read(report: str, language: Language) -> Iterator[Finding]:
    """Read every sentence; a text that has no stops is read in pieces, so that the time stays linear."""
    lexicon = _lexicon(language)
    for sentence in split_sentences(report):
        stems = _stems(sentence, lexicon)
        for start in range(0, len(stems), _LONGEST_SENTENCE):
            yield from _read_sentence(stems[start : start + _LONGEST_SENTENCE], language)


def _read_sentence(stems: Sequence[str], language: Language) -> list[Finding]:
    lexicon = _lexicon(language)
    matches = _find(stems, lexicon)
    keywords = [match for match in matches if match.kind == "keyword"]
    if not keywords:
        return []
    statuses = _judge(keywords, matches, stems)
    places = _place(keywords, matches, stems, language)
    return [
        replace(place, name=match.name, status=status)
        for match, status, place in zip(keywords, statuses, places, strict=True)
        if status is not None
    ]


def _judge(keywords: Sequence[_Match], matches: Sequence[_Match], stems: Sequence[str]) -> list[Status | None]:
    """Give each keyword its status; None for what is history only."""
    reached: dict[str, set[int]] = {"deny": set(), "doubt": set(), "memory": set()}
    heads = {match.last for match in keywords}
    for trigger in matches:
        verb, _, where = trigger.kind.partition("_")
        if verb not in reached:
            continue
        reach = set() if where == "behind" else set(_reach_on(trigger, matches, stems))
        if where == "behind" or (where == "either" and not reach & heads):
            reach = set(_reach_back(trigger, matches, stems))
        reached[verb] |= reach
    statuses: list[Status | None] = []
    for match in keywords:
        if match.last in reached["deny"]:
            statuses.append("absent")
        elif match.last in reached["doubt"]:
            statuses.append("uncertain")
        elif match.last in reached["memory"] and not _load_keywords()[match.name].persists:
            statuses.append(None)
        else:
            statuses.append("present")
    return statuses


def _reach_on(trigger: _Match, matches: Sequence[_Match], stems: Sequence[str]) -> Iterator[int]:
    """Go on from a trigger, word by word, as far as it governs."""
    by_start = {match.first: match for match in matches if match.kind in ("end", "and", "or", "fresh")}
    here = trigger.last + 1
    while here < len(stems):
        kind = by_start[here].kind if here in by_start else ""
        if kind == "end" or stems[here] in ";:":
            return
        after = by_start.get(by_start[here].last + 1) if kind == "and" else None
        if after is not None and after.kind == "fresh":
            return
        if stems[here] == "," and not _goes_on_listing(here, by_start, stems):
            return
        yield here
        here += 1


def _goes_on_listing(comma: int, by_start: Mapping[int, _Match], stems: Sequence[str]) -> bool:
    """Say whether an "or" or "ni" follows a comma before anything ends: the list is still the same one."""
    for here in range(comma + 1, len(stems)):
        kind = by_start[here].kind if here in by_start else ""
        if kind == "or":
            return True
        if kind == "end" or stems[here] in ";:":
            return False
    return False


def _reach_back(trigger: _Match, matches: Sequence[_Match], stems: Sequence[str]) -> Iterator[int]:
    """Go back from a trigger as far as it governs."""
    ends = {match.last for match in matches if match.kind == "end"}
    is_list = False
    for here in range(trigger.first - 1, -1, -1):
        is_list = is_list or any(match.kind == "or" and match.first == here for match in matches)
        if here in ends or stems[here] in ";:" or (stems[here] == "," and not is_list):
            return
        yield here


# ------------------------------------------------------------------------------------------------- side, place, size


def _place(
    keywords: Sequence[_Match], matches: Sequence[_Match], stems: Sequence[str], language: Language
) -> list[Finding]:
    """Tell side, place and size of each keyword from the words of its part of the sentence."""
    parts = _cut(keywords, matches, stems)
    found: list[Finding] = []
    for index, match in enumerate(keywords):
        near = [word for word in parts[match.last] if word < len(stems)]
        own = [other for other in keywords if other.last in near]
        inside = [other for other in matches if other.kind in ("side", "location") and other.first in near]
        inside = [other for other in inside if _owner(other, own, language) is match]
        side = None if _load_keywords()[match.name].is_midline else _side_of(inside, found[index - 1 : index])
        location = _location_of(inside) or _level(near, stems)
        found.append(Finding(match.name, "present", side, location, _size_mm(near, stems, match, own)))
    _share_places(keywords, matches, found)
    return found


def _cut(keywords: Sequence[_Match], matches: Sequence[_Match], stems: Sequence[str]) -> dict[int, range]:
    """Cut the sentence at "and", "with", commas and ends; parts without a keyword join the one before (or after)."""
    inside = {word for match in keywords for word in range(match.first, match.last + 1)}
    breaks = {match.first for match in matches if match.kind in _CUTS}
    breaks |= {index for index, stem in enumerate(stems) if stem in _PUNCTUATION}
    heads = {match.last for match in keywords}
    edges = [0]
    seen_head = False
    for index in range(len(stems)):
        if index in breaks - inside and seen_head and any(head > index for head in heads):
            edges.append(index)
            seen_head = False
        seen_head = seen_head or index in heads
    edges.append(len(stems))
    parts = [range(start, stop) for start, stop in pairwise(edges)]
    return {word: part for part in parts for word in part}


_CUTS = ("and", "or", "end", "deny_before", "deny_either", "doubt_before")


def _owner(placed: _Match, own: Sequence[_Match], language: Language) -> _Match:
    """Choose among the keywords of one part the one that a side or place word belongs to: the nearest."""

    def distance(match: _Match) -> tuple[int, bool]:
        inside = match.first <= placed.first <= match.last
        gap = 0 if inside else min(abs(placed.first - match.last), abs(match.first - placed.last))
        is_behind = placed.first > match.last
        # English puts the side before its noun, Spanish behind it.
        return gap, is_behind if language == "en" else not is_behind

    return min(own, key=distance)


def _side_of(inside: Sequence[_Match], before: Sequence[Finding]) -> Laterality | None:
    sides = {match.name for match in inside if match.kind == "side"}
    if "same" in sides and len(sides) == 1 and before:
        return before[0].laterality
    sides -= {"same"}
    if not sides:
        implied = (_tables()["location"][match.name].get("side") for match in inside if match.kind == "location")
        sides = {side for side in implied if side}
    if not sides:
        return None
    if "bilateral" in sides or len(sides) > 1:
        return "bilateral"
    return "left" if "left" in sides else "right"


def _location_of(inside: Sequence[_Match]) -> str | None:
    """Choose the place: a lobe rather than "subpleural" or "apical segment", else the first that is named."""
    names = [match.name for match in inside if match.kind == "location"]
    return next((name for name in names if name.endswith("lobe")), names[0] if names else None)


def _share_places(keywords: Sequence[_Match], matches: Sequence[_Match], found: list[Finding]) -> None:
    """Give "consolidation" its place in "consolidation and ground glass in the left lower lobe"."""
    ands = {match.first for match in matches if match.kind == "and" and match.name in ("and", "y", "e")}
    for index in range(len(found) - 2, -1, -1):
        here, after = found[index], found[index + 1]
        is_joined = keywords[index].last + 1 in ands
        is_behind = any(m.kind == "location" and m.first > keywords[index + 1].last for m in matches)
        midline = _load_keywords()[here.name].is_midline
        if is_joined and is_behind and not midline and here.laterality is None and here.location is None:
            found[index] = replace(here, laterality=after.laterality, location=after.location)


def _level(near: Iterable[int], stems: Sequence[str]) -> str | None:
    """Read a vertebral level; Spanish d8 (dorsal) is T8."""
    for word in near:
        if re.fullmatch(r"[tdl](?:1[0-2]|[1-9])", stems[word]):
            return stems[word].upper().replace("D", "T")
    return None


def _size_mm(near: Sequence[int], stems: Sequence[str], match: _Match, own: Sequence[_Match]) -> float | None:
    """Read the greatest size in mm; where several keywords share the words, only the nearest one takes it."""
    sizes = []
    for unit in near:
        if stems[unit] not in ("mm", "cm") or min(own, key=lambda other: abs(other.last - unit)) is not match:
            continue
        # "23 x 18 mm": both figures share the unit.
        figure = unit - 1
        while figure >= 0 and stems[figure][0].isdigit():
            sizes.append(float(stems[figure].replace(",", ".")) * (10 if stems[unit] == "cm" else 1))
            figure -= 2 if figure >= 2 and stems[figure - 1] in ("x", "by", "por") else len(stems)
    return max(sizes, default=None)


def _merge(mentions: Sequence[Finding]) -> list[Finding]:
    """Keep what is most certain of one keyword, each side and place once, the vaguer mentions dropped."""
    best = max(_RANKS[mention.status] for mention in mentions)
    kept: dict[tuple[str | None, str | None], Finding] = {}
    for mention in mentions:
        if _RANKS[mention.status] == best:
            key = (mention.laterality, mention.location)
            kept[key] = replace(mention, size_mm=mention.size_mm or (kept[key].size_mm if key in kept else None))
    return [
        finding
        for (side, location), finding in kept.items()
        if not any(key != (side, location) and side in (None, key[0]) and location in (None, key[1]) for key in kept)
    ]


# ----------------------------------------------------------------------------------------------- cutting into sentences

_STOP, _DOT = "\x00", "\x01"
_SPLIT_DECIMAL = re.compile(r"(\d) \. (\d+) (?=[mc]m\b)")
# A blank line, a bullet, a numbered item or a line after a heading starts a sentence; a plain line break does not.
_LINE_START = re.compile(
    r"\n\s*\n\s*|\n\s*(?=[-•*]\s)|(?:(?<=\n)|^)\s*\d{1,2}[.)]\s+(?=[^\W\d])|(?<=[:.])\s*\n"
    r"|(?<=\. )\d{1,2}[.)]\s+(?=[A-ZÁÉÍÓÚ])"
)
_TITLES = "dr|dra|mr|mrs|sr|sra|prof"
_SHORTENED = "p\\.? ?ej|approx|aprox|vs|cf|fig|num|max|máx|min|mín|izq|izqdo|izqda|dcho|dcha|inf|sup|st"
# Stops that end no sentence: decimals, titles, shortened words before a small letter, a unit before a preposition.
_DOTTED = re.compile(
    rf"(?i:\d\.(?=\d)|\b(?:{_TITLES})\.(?=\s)|\b(?:e\.g|i\.e)\.?"
    r"|\b[mc]m\.(?=\s+(?:en|de|del|a|in|of|at|x|y|and|which|que)\b))"
    rf"|\b(?i:{_SHORTENED})\.(?=\s+[^A-ZÁÉÍÓÚ\s])"
)
