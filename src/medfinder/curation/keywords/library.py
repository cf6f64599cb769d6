"""The library itself: the keywords with all their names, compiled into patterns of one language.

In: ``keywords.toml``. Out: ``Keyword`` records, the canonical name of any words that are one, and the ``Lexicon`` that
``matching`` works with. Refused: nothing; words that are not known have no keyword.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from medfinder.curation.keywords.words import fold, mend, plural, shortened_forms, stem, words_of
from medfinder.errors import ConfigError
from medfinder.records import Language

LANGUAGES: tuple[Language, ...] = ("en", "es")
# A gap ".." stands for a few other words; "..." may also cross "and" and "or": "pleural and pericardial effusion".
GAP, WIDE_GAP = "..", "..."
STOP_WORDS = frozenset(["a", "an", "the", "of", "in", "el", "la", "los", "las", "de", "del", "en", "lo"])


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
        snomed: SNOMED CT concept; None where it was not checked.
        persists: what is told as history is still there (a mastectomy, a pacemaker).
        is_midline: it has no side.
        doubted_as_one: of two of its names in a sentence, a doubt about the second is one about the first.
        means: what counts as it, where names in use overlap.
    """

    name: str
    names_en: tuple[str, ...]
    names_es: tuple[str, ...]
    abbreviations: tuple[str, ...] = ()
    parent: str | None = None
    cui: str | None = None
    snomed: str | None = None
    persists: bool = False
    is_midline: bool = False
    doubted_as_one: bool = False
    means: str | None = None


@dataclass(frozen=True, slots=True)
class Pattern:
    """A run of stems, perhaps with gaps, that means something.

    Attributes:
        kind: "keyword", "generic", "location", "side", "organ" or a trigger's.
        needed: its stems without the gaps.
    """

    stems: tuple[str, ...]
    kind: str
    name: str
    needed: frozenset[str]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The patterns of one language, and what is needed to bring a text into their form.

    Attributes:
        patterns: those of one word and those with a gap behind the first, by their first stem.
        gapped: those with a gap further on, by their first two stems.
        runs: those of several words without a gap, by all their stems.
        lengths: of the runs that start with two stems, the longest first.
        signs: the words of names that give way to the finding itself.
    """

    language: Language
    patterns: dict[str, list[Pattern]] = field(default_factory=dict)
    gapped: dict[tuple[str, str], list[Pattern]] = field(default_factory=dict)
    runs: dict[tuple[str, ...], list[Pattern]] = field(default_factory=dict)
    lengths: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    names: dict[tuple[str, ...], str] = field(default_factory=dict)
    abbreviations: dict[str, str] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    places: set[str] = field(default_factory=set)
    adjectives: set[str] = field(default_factory=set)
    signs: set[tuple[str, ...]] = field(default_factory=set)
    compounds: dict[str, list[str]] = field(default_factory=dict)
    halves: set[str] = field(default_factory=set)
    slips: dict[str, list[str]] = field(default_factory=dict)
    mended: dict[str, str] = field(default_factory=dict)

    def stems_of(self, text: str) -> list[str]:
        """Bring a sentence into the form of the patterns: abbreviations written out, words stemmed and mended."""
        words = self._join_words(words_of(expand_abbreviations(text, self.language)))
        return self._drop_commas([self._stem(word) for word in words])

    def _join_words(self, words: list[str]) -> list[str]:
        """Join "gall bladder" and "peri-bronchial", halves that mean nothing alone; part "hepatosplenomegaly"."""
        joined: list[str] = []
        for word in words:
            if joined and joined[-1] in self.halves and stem(joined[-1] + word, self.language) in self.known:
                joined[-1] += word
            else:
                joined.extend(self.compounds.get(word, (word,)))
        return joined

    def _drop_commas(self, stems: list[str]) -> list[str]:
        """Drop the commas of "mediastinal, hilar, or axillary nodes" and "tortuous, calcified aorta"."""
        if "," not in stems:
            return stems
        joined: list[str] = []
        for word, after in zip(stems, (*stems[1:], ""), strict=True):
            is_between = joined and joined[-1] in self.places and (after in self.places or after in _AND_OR)
            is_described = joined and {joined[-1], after} <= self.adjectives and not {"no", "not"} & set(joined[-3:])
            if not (word == "," and (is_between or is_described)):
                joined.append(word)
        return joined

    def _stem(self, word: str) -> str:
        found = self.mended.get(word)
        if found is None:
            found = stem(word, self.language)
            if found not in self.known:
                # "Emphysematuos": the slip may hide that the ending is no plural.
                found = next((whole for form in (found, word) if (whole := mend(form, self.slips)) != form), found)
            # A report has few different words; text made to have many must not fill the memory.
            if len(self.mended) < _MOST_REMEMBERED:
                self.mended[word] = found
        return found


_MOST_REMEMBERED = 50_000
# Letters; ours: below them a join is too often a chance ("a typical", "in duration").
_SHORTEST_HALF, _SHORTEST_JOINED = 3, 8
_AND_OR = ("and", "or", "y", "e", "o", "ni")


# ------------------------------------------------------------------------------------------------ what callers ask


def resolve_keyword(words: str) -> str | None:
    """Find the canonical keyword for any of its names in either language; None when it is not known.

    Example:
        >>> resolve_keyword("Derrames Pleurales"), resolve_keyword("GGO"), resolve_keyword("sunburn")
        ('pleural effusion', 'ground-glass opacity', None)
    """
    for language in LANGUAGES:
        lexicon = load_lexicon(language)
        for text in (words, expand_abbreviations(words, language)):
            plain = tuple(stem(word, language) for word in words_of(text))
            for stems in (plain, tuple(lexicon.stems_of(text))):
                bare = tuple(word for word in stems if word not in STOP_WORDS)
                found = lexicon.names.get(stems) or lexicon.names.get(bare)
                if found:
                    return found
    short = fold(words).strip()
    return next((name for language in LANGUAGES if (name := _short_names(language).get(short))), None)


def check_language(name: str) -> Language:
    """Take the code of a language that the library knows.

    Raises:
        ConfigError: another one.
    """
    for language in LANGUAGES:
        if name.lower() == language:
            return language
    raise ConfigError(f"language {name!r}; expected {' or '.join(LANGUAGES)}")


def expand_abbreviations(text: str, language: Language = "en") -> str:
    """Write abbreviations out, e.g. for a text encoder that does not know them.

    English ones are read in capitals, those of three letters and more also in lower case; Spanish ones in any case.

    Example:
        >>> expand_abbreviations("GGOs in the RUL, no PE")
        'ground-glass opacities in the right upper lobe, no pulmonary embolism'
        >>> expand_abbreviations("nodulo en lsd sin tep", "es")
        'nodulo en lóbulo superior derecho sin embolia pulmonar'
    """
    known = load_lexicon(language).abbreviations

    def write_out(found: re.Match[str]) -> str:
        short = found[0].lower()
        is_plural = short not in known and short.endswith("s")
        full = known.get(short[:-1] if is_plural else short)
        if full is None or (language == "en" and len(short) - is_plural < 3 and not found[0][:2].isupper()):
            return found[0]
        return plural(full) if is_plural else full

    return _SHORT_WORD.sub(write_out, text)


_SHORT_WORD = re.compile(r"(?<![\w-])[^\W\d_]{2,6}(?![\w-])")


# ------------------------------------------------------------------------------------------------------ the tables


@cache
def load_tables() -> Mapping[str, Any]:
    """Read ``keywords.toml``, once."""
    return tomllib.loads(resources.files(__package__).joinpath("keywords.toml").read_text(encoding="utf-8"))


@cache
def kinds_of(name: str) -> tuple[str, ...]:
    """List a keyword and all that it is the wider one of: who asks for pneumonia asks for COVID-19, too.

    Example:
        >>> kinds_of("pulmonary fibrosis"), kinds_of("goitre")
        (('pulmonary fibrosis', 'honeycombing'), ('goitre',))
    """
    narrower = (one for one, keyword in load_keywords().items() if keyword.parent == name)
    return (name, *(kind for one in narrower for kind in kinds_of(one)))


@cache
def load_keywords() -> Mapping[str, Keyword]:
    """Read the keywords, by canonical name."""
    keywords = {}
    for name, entry in load_tables()["keyword"].items():
        keywords[name] = Keyword(
            name=name,
            names_en=(name, *entry["en"]),
            names_es=(*entry["es"], *entry.get("typos_es", ())),
            abbreviations=(*entry.get("abbr_en", ()), *entry.get("abbr_es", ())),
            parent=entry.get("parent"),
            cui=entry.get("cui"),
            snomed=entry.get("snomed"),
            persists=entry.get("persists", False),
            is_midline=entry.get("midline", False),
            doubted_as_one=entry.get("doubted_as_one", False),
            means=entry.get("means"),
        )
    return keywords


@cache
def load_lexicon(language: Language) -> Lexicon:
    """Compile the patterns of one language, once."""
    lexicon = Lexicon(language)
    tables = load_tables()
    lexicon.abbreviations.update({short.lower(): full for short, full in tables["abbreviation"][language].items()})
    for keyword in load_keywords().values():
        for words in keyword.names_en if language == "en" else keyword.names_es:
            _add(lexicon, "keyword", keyword.name, words)
        for words in tables["keyword"][keyword.name].get(f"signs_{language}", ()):
            lexicon.signs.add(tuple(stem(word, language) for word in words_of(words.replace(GAP, " "))))
        full = keyword.name if language == "en" else keyword.names_es[0]
        for short in tables["keyword"][keyword.name].get(f"abbr_{language}", ()):
            lexicon.abbreviations[short.lower()] = full
            _add(lexicon, "keyword", keyword.name, short)
    for kind in ("location", "side", "organ"):
        for name, entry in tables[kind].items():
            for words in entry[language]:
                _add(lexicon, kind, name, words)
    for name, entry in tables["generic"].items():
        for words in entry[language]:
            _add(lexicon, "generic", name, words)
    _add_triggers(lexicon, tables["trigger"][language])
    for found in (*lexicon.patterns.values(), *lexicon.gapped.values()):
        found.sort(key=lambda pattern: -len(pattern.stems))
    lexicon.places.update(stems[0] for stems in _patterns_of(lexicon, "location") if len(stems) == 1)
    lexicon.adjectives.update(stem(fold(word), language) for word in tables["adjectives"][language])
    long = (word for word in lexicon.known if len(word) >= _SHORTEST_JOINED)
    lexicon.halves.update({word[:at] for word in long for at in range(_SHORTEST_HALF, len(word))} - lexicon.known)
    lexicon.compounds.update({word: words_of(parts) for word, parts in tables["compound"][language].items()})
    lexicon.slips.update(shortened_forms(_words_of_findings(language)))
    lexicon.known.update(stem(fold(word), language) for word in tables["no_slips"][language])
    return lexicon


def _words_of_findings(language: Language) -> set[str]:
    """Collect the stems that a slip may be mended to: those of findings, rightly spelled.

    Not those of triggers: "impresión" is no slip of "impresiona", which is a doubt.
    """
    names = (name for entry in load_tables()["keyword"].values() for name in entry[language])
    own = load_keywords() if language == "en" else ()
    return {stem(word, language) for name in (*names, *own) for word in words_of(name)}


def _patterns_of(lexicon: Lexicon, kind: str) -> Iterator[tuple[str, ...]]:
    return (pattern.stems for found in lexicon.patterns.values() for pattern in found if pattern.kind == kind)


def _add_triggers(lexicon: Lexicon, triggers: Mapping[str, Sequence[str]]) -> None:
    for kind, phrases in triggers.items():
        verb, _, where = kind.partition("_")
        other = set(triggers.get(f"{verb}_{'behind' if where == 'before' else 'before'}", ())) if where else set()
        for words in phrases:
            _add(lexicon, f"{verb}_either" if words in other else kind, words, words)


def _add(lexicon: Lexicon, kind: str, name: str, words: str) -> None:
    stems = tuple(
        word if word.startswith(GAP) else stem(word, lexicon.language)
        for part in re.split(r"(\.{2,3})", words)
        for word in ([part] if part.startswith(GAP) else words_of(part))
    )
    needed = frozenset(stems) - {GAP, WIDE_GAP}
    lexicon.known.update(needed)
    has_gap = bool({GAP, WIDE_GAP} & set(stems))
    pattern = Pattern(stems, kind, name, needed)
    if len(stems) > 1 and not has_gap:
        lexicon.runs.setdefault(stems, []).append(pattern)
        lengths = lexicon.lengths.setdefault((stems[0], stems[1]), [])
        lengths[:] = sorted({*lengths, len(stems)}, reverse=True)
    elif len(stems) == 1 or stems[1].startswith(GAP):
        lexicon.patterns.setdefault(stems[0], []).append(pattern)
    else:
        lexicon.gapped.setdefault((stems[0], stems[1]), []).append(pattern)
    if kind == "keyword" and not has_gap:
        lexicon.names.setdefault(stems, name)
        lexicon.names.setdefault(tuple(word for word in stems if word not in STOP_WORDS), name)


@cache
def _short_names(language: Language) -> dict[str, str]:
    """Map abbreviations of keywords to their names."""
    return {
        fold(short): name
        for name, entry in load_tables()["keyword"].items()
        for short in entry.get(f"abbr_{language}", ())
    }
