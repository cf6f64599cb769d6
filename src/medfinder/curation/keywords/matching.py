"""What means something in a sentence: keywords, triggers, places, sides and organs, each with its words.

In: the stems of a sentence. Out: matches in order, without those that are only part of a longer one. Refused: nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise

from medfinder.curation.keywords.library import GAP, STOP_WORDS, Lexicon, load_tables

# Words, little ones not counted; ours: "fractures of the left sixth and seventh ribs" needs four.
_LONGEST_GAP = 6
PUNCTUATION = frozenset(",;:()")
_JOINING = frozenset(["and", "or", "nor", "y", "e", "o", "u", "ni"])
_NEVER_IN_WIDE_GAP = PUNCTUATION | {
    "with", "con", "without", "but", "pero", "there", "hay", "given", "versus", "vs", "abutting", "near", "suggest",
    "suggesting", "suggestive", "represent", "representing", "reflect", "reflecting", "suspicious", "concerning",
    "worrisome",
}  # fmt: skip
_NEVER_IN_GAP = _NEVER_IN_WIDE_GAP | _JOINING
# "Dilated bowel anterior to the aorta": what lies beside is not what is dilated.
_BESIDE = frozenset(["adjacent", "anterior", "posterior", "lateral", "medial", "superior", "inferior", "next", "close"])
# What may stand between "and" and the noun that both sides share: "fractures of the fifth and sixth ribs".
_LIGHT = STOP_WORDS | {
    "left", "right", "both", "upper", "lower", "main", "great", "thoracic", "abdominal", "ascending", "descending",
    "anterior", "posterior", "lateral", "mediastinal", "hilar", "axillary", "subcarinal", "paratracheal",
    "prevascular", "supraclavicular", "lymph", "artery", "th", "third", "fourth", "fifth", "sixth", "seventh", "eighth",
    "ninth", "tenth", "eleventh", "izquierdo", "derecho", "ambo", "toracico", "ascendente", "descendente",
    "mediastinico", "hiliar", "axilar", "arco", "arterio", "tercer", "cuarto", "quinto", "sexto", "septimo", "octavo",
    "noveno", "decimo",
}  # fmt: skip
# Nouns that "and" parts from what follows: "coronary calcification and dilated aorta".
_THINGS = frozenset([
    "calcification", "calcium", "plaque", "atheroma", "atheromatosis", "atherosclerosis", "arteriosclerosis",
    "fracture", "fibrosis", "reticulation",
])  # fmt: skip
# Behind a finding, these say that nobody has it: "referred to the lung nodule clinic".
_SERVICES = frozenset([
    "clinic", "protocol", "detection", "screening", "mdt", "pathway", "service", "guideline", "program", "programme",
    "vaccine", "vaccination", "algorithm", "registry", "nurse", "specialist", "team", "trial",
])  # fmt: skip
_OPENING = frozenset("(,:")
_UNCOUNTED = STOP_WORDS | {"th"}
# Words between two signs that say a measure: "pulmonary artery, measuring 34 mm, is enlarged"; ours.
_LONGEST_ASIDE = 8
_PLACING = ("location", "side")


@dataclass(frozen=True, slots=True)
class Match:
    """A run of words that means something: ``kind`` is "keyword", "location", "side", "organ" or a trigger's."""

    kind: str
    name: str
    at: tuple[int, ...]

    @property
    def first(self) -> int:
        """The place of its first word."""
        return self.at[0]

    @property
    def last(self) -> int:
        """The place of its last word, which stands for it: a trigger that reaches this word governs the match."""
        return self.at[-1]


def find_matches(stems: Sequence[str], lexicon: Lexicon) -> list[Match]:
    """Find all that means something; what is part of something longer is dropped."""
    present = frozenset(stems)
    words = tuple(stems)
    matches: list[Match] = []
    for start, pair in enumerate(zip(words, (*words[1:], ""), strict=False)):
        for length in lexicon.lengths.get(pair, ()):
            run = words[start : start + length]
            # Near the end of the sentence a slice is shorter than asked for.
            if len(run) == length:
                at = tuple(range(start, start + length))
                matches += (Match(pattern.kind, pattern.name, at) for pattern in lexicon.runs.get(run, ()))
        for found in (lexicon.gapped.get(pair, ()), lexicon.patterns.get(pair[0], ())):
            for pattern in found:
                if pattern.stems[-1] in present and pattern.needed <= present:
                    at = _fit(pattern.stems, words, start)
                    if at:
                        matches.append(Match(pattern.kind, pattern.name, at))
    placing = [match for match in matches if match.kind in _PLACING]
    organs = [match for match in matches if match.kind == "organ"]
    others = _drop_stretched(
        _unmask([match for match in matches if match.kind not in (*_PLACING, "organ")]), stems, lexicon
    )
    kept = (match for group in (placing, organs, others) for match in _drop_parts(group))
    return sorted(kept, key=lambda match: match.at)


def _fit(pattern: tuple[str, ...], stems: tuple[str, ...], start: int) -> tuple[int, ...]:
    """Fit a pattern to the words from ``start`` on; empty when it does not."""
    at = [start]
    gap = 0
    never = _NEVER_IN_GAP
    for wanted in pattern[1:]:
        if wanted.startswith(GAP):
            gap, never = _LONGEST_GAP, _NEVER_IN_GAP if wanted == GAP else _NEVER_IN_WIDE_GAP
            continue
        here = at[-1] + 1
        while gap and here < len(stems) and stems[here] != wanted:
            word = stems[here]
            behind = _pass_aside(stems, here) if word in _OPENING else here
            if behind == here and (word in never or (word == "to" and stems[here - 1] in _BESIDE)):
                break
            gap -= behind == here and word not in _UNCOUNTED and not word[0].isdigit()
            here = max(behind, here + 1)
        if here >= len(stems) or stems[here] != wanted:
            return ()
        if never is not _NEVER_IN_GAP and not _belongs_together(stems[at[-1]], stems[at[-1] + 1 : here]):
            return ()
        at.append(here)
        gap, never = 0, _NEVER_IN_GAP
    return tuple(at)


def _pass_aside(stems: tuple[str, ...], here: int) -> int:
    """Go past a measure between two signs, "(34 mm)", past ", however," and the sign before "not"; else stay."""
    if stems[here] != "(" and stems[here + 1 : here + 2] in (("not",), ("none",)):
        return here + 1
    close = {"(": ")", ",": ","}.get(stems[here])
    for end in range(here + 2, min(here + 2 + _LONGEST_ASIDE, len(stems))):
        if stems[end] == close:
            aside = stems[here + 1 : end]
            return end + 1 if "mm" in aside or "cm" in aside or aside == ("however",) else here
    return here


def _belongs_together(first: str, between: Sequence[str]) -> bool:
    """Say whether an "and" in a wide gap joins what shares the last word.

    "Pleural and pericardial effusion" does, and "fractures of the fifth and sixth ribs"; "pleural effusion and
    bronchial thickening" does not.
    """
    joins = [index for index, word in enumerate(between) if word in _JOINING]
    if not joins:
        return True
    behind = between[joins[-1] + 1 :]
    if joins[0] == 0:
        is_shared = first not in _THINGS or "of" in behind or "in" in behind
        return bool(behind) and is_shared and behind[0] not in ("a", "an")
    return all(word in _LIGHT or word[0].isdigit() for word in behind)


def _unmask(matches: list[Match]) -> list[Match]:
    """Drop keywords that an ignored phrase hides, and harmless phrases ("no increase") that run into a keyword."""
    if not any(match.kind in ("ignore", "free") for match in matches):
        return matches
    ignored = _by_word(match for match in matches if match.kind == "ignore")
    keywords = _by_word(match for match in matches if match.kind == "keyword")

    def is_hidden(match: Match) -> bool:
        if match.kind == "keyword":
            return any(not set(match.at) > set(other.at) for word in match.at for other in ignored.get(word, ()))
        return match.kind == "free" and any(word in keywords for word in match.at)

    return [match for match in matches if not is_hidden(match)]


def _drop_stretched(matches: list[Match], stems: Sequence[str], lexicon: Lexicon) -> list[Match]:
    """Drop names with a gap where a nearer one takes their word: "enlarged nodes along the aorta" is no large aorta."""
    stretched = [match for match in matches if match.kind == "keyword" and match.last - match.first >= len(match.at)]
    if not stretched:
        return matches
    by_word = _by_word(match for match in matches if match.kind == "keyword")

    def is_taken(match: Match) -> bool:
        if any(word in _JOINING for word in stems[match.first : match.last]):
            return False
        return any(
            other.name not in (match.name, *_PLAIN)
            and match.first <= other.first
            and other.last <= match.last
            and other.last - other.first < match.last - match.first
            and not set(other.at) < set(match.at)
            for word in ((match.first, match.last) if stems[match.last] in lexicon.adjectives else (match.first,))
            for other in by_word[word]
        )

    taken = [match for match in stretched if is_taken(match)]
    return [match for match in matches if match not in taken]


def _drop_parts(matches: Sequence[Match]) -> list[Match]:
    """Keep the matches whose words are not all part of a longer one: "effusion" in "pericardial effusion"."""
    if len(matches) < 2:
        return list(matches)
    by_word = _by_word(matches)
    kept: dict[tuple[str, tuple[int, ...]], Match] = {}
    for match in matches:
        longer = [other.at for other in by_word[match.first] if len(other.at) > len(match.at)]
        if not longer or not any(set(match.at).issubset(at) for at in longer):
            kept.setdefault((match.kind, match.at), match)
    return list(kept.values())


def _by_word(matches: Iterable[Match]) -> dict[int, list[Match]]:
    found: dict[int, list[Match]] = {}
    for match in matches:
        for word in match.at:
            found.setdefault(word, []).append(match)
    return found


@dataclass(frozen=True)
class Sentence:
    """One sentence taken apart: its stems, all matches in order, and the keywords among them."""

    stems: Sequence[str]
    matches: Sequence[Match]
    keywords: Sequence[Match]

    @cached_property
    def by_start(self) -> dict[int, Match]:
        """The words that a denial or a doubt may end at, by the place where they start."""
        return {match.first: match for match in self.matches if match.kind in ("end", "verb", "and", "or", "fresh")}

    @cached_property
    def ends(self) -> set[int]:
        """The places where what no denial or doubt crosses has its last word."""
        return {match.last for match in self.matches if match.kind in ("end", "verb")}

    @cached_property
    def heads(self) -> set[int]:
        """The places of the words that stand for the keywords."""
        return {match.last for match in self.keywords}


def take_apart(stems: Sequence[str], lexicon: Lexicon) -> Sentence:
    """Find what means something in a sentence, each keyword read as one of the organ that it stands by."""
    matches = find_matches(stems, lexicon)
    keywords = [
        match for match in matches if match.kind in ("keyword", "generic") and not _is_of_a_service(match, stems)
    ]
    told = _drop_signs(_drop_plain(keywords), stems, lexicon)
    return Sentence(stems, matches, _settle_organs(told, matches, stems))


def _is_of_a_service(match: Match, stems: Sequence[str]) -> bool:
    """Say whether a keyword only names a clinic, a protocol or a guideline: "referred to the lung nodule clinic"."""
    return match.last + 1 < len(stems) and stems[match.last + 1] in _SERVICES


def _drop_signs(keywords: Sequence[Match], stems: Sequence[str], lexicon: Lexicon) -> list[Match]:
    """Drop a sign beside the name of what it is a sign of: "mosaic attenuation, likely air trapping"."""
    if len(keywords) < 2:
        return list(keywords)
    signs = [match for match in keywords if tuple(stems[word] for word in match.at) in lexicon.signs]
    named = {match.name for match in keywords if match not in signs}
    return [match for match in keywords if match not in signs or match.name not in named]


def _drop_plain(keywords: Sequence[Match]) -> list[Match]:
    """Drop "soft tissue mass" where "pleural ... mass" reads the same noun: plain names give way to an organ's."""
    told = {match.last for match in keywords if match.name not in _PLAIN}
    kept = [match for match in keywords if match.name not in _PLAIN or match.last not in told]
    # "Lámina de derrame" and "derrame pleural" are one mention.
    twice = [
        one for one, other in pairwise(kept) if one.name == other.name and other.first <= one.last == other.last - 1
    ]
    kept = [match for match in kept if match not in twice] if twice else kept
    return [match for match in kept if match.name not in _ENLARGED or not _speaks_of_other(match, kept)]


def _speaks_of_other(enlarged: Match, keywords: Sequence[Match]) -> bool:
    """Say whether what is enlarged is a finding between: "liver metastases have increased in size"."""
    return any(
        other.name not in _ENLARGED and enlarged.first < other.last < enlarged.last and other.last not in enlarged.at
        for other in keywords
    )


_ENLARGED = ("enlarged", "hepatomegaly", "splenomegaly", "goitre", "cardiomegaly")


_PLAIN = ("mass", "nodule")


def _settle_organs(keywords: Sequence[Match], matches: Sequence[Match], stems: Sequence[str]) -> list[Match]:
    """Read the nodule of a thyroid as a thyroid nodule, and drop that of a pancreas: plain names mean the lung's."""
    organs = [match for match in matches if match.kind == "organ"]
    settled: list[Match] = []
    for keyword in keywords:
        organ = _organ_of(keyword, organs, matches, stems) if organs and keyword.name in _made_names() else None
        made = load_tables()["organ"][organ.name]["makes"] if organ else {}
        meant = made.get(keyword.name, "" if keyword.kind == "generic" else keyword.name)
        is_told = organ is not None and (keyword.name in made or keyword.name != "metastasis")
        name = meant if is_told or not settled else _as_before(keyword, settled[-1], stems) or meant
        if name:
            settled.append(keyword if name == keyword.name else replace(keyword, name=name))
    return settled


def _as_before(keyword: Match, before: Match, stems: Sequence[str]) -> str | None:
    """Read what points back to the finding before: "a small one", "likely cysts", "known metastases"."""
    if keyword.name == "one":
        return before.name
    if (keyword.name, before.name) == ("metastasis", "bone metastasis"):
        between = stems[max(before.last, keyword.first - _NEAR) : keyword.first]
        return None if any(word in _JOINING or word == "with" for word in between) else before.name
    return _of_same_organ(keyword.name, before.name)


@cache
def _of_same_organ(name: str, before: str) -> str | None:
    """Read "cysts" in "liver lesions, likely cysts" as the organ's whose finding stands before."""
    for organ in load_tables()["organ"].values():
        made = organ["makes"].get(name)
        if made and made != before and before in organ["makes"].values() and name in _SAME_ORGAN:
            return str(made)
    return None


# Words; ours: "T4 and T9, known prostate metastases" says the same thing twice.
_NEAR = 4
_SAME_ORGAN = ("cyst", "lesion", "stone", "metastasis")


@cache
def _made_names() -> frozenset[str]:
    """Collect the keywords and generic words that an organ makes something else of."""
    return frozenset(name for organ in load_tables()["organ"].values() for name in organ["makes"])


# "Esophagus with diffuse thickening": these tell how far, not where.
_SPREAD = ("diffuse", "peripheral")


def _organ_of(keyword: Match, organs: Sequence[Match], matches: Sequence[Match], stems: Sequence[str]) -> Match | None:
    """Choose the organ a keyword stands by: the nearest of organs and places, with nothing between that parts them."""
    spots = [*organs, *(match for match in matches if match.kind == "location" and match.name not in _SPREAD)]
    organ = min(spots, key=lambda spot: min(abs(spot.first - keyword.last), abs(keyword.first - spot.last)))
    if organ.kind != "organ" or organ.first in keyword.at:
        return None
    others = (match for match in matches if match.kind == "keyword")
    if keyword.name == "enlarged" and any(organ.first in match.at for match in others):
        return None
    between = (
        range(organ.last + 1, keyword.first) if organ.last < keyword.first else range(keyword.last + 1, organ.first)
    )
    closed = {match.first for match in matches if match.kind in ("end", "verb")}
    # "Adrenals: normal, no nodule": a heading reaches on, and so does a denial or "with" behind a comma.
    carried = {organ.last + 1} if organ.last < keyword.first else set()
    if carried and stems[organ.last + 1] == ":":
        carried |= set(range(organ.last + 1, keyword.first))
    if carried:
        carrying = (match for match in matches if match.kind == "deny_before" or match.name in ("with", "con"))
        carried |= {match.first - 1 for match in carrying}
    # "Spleen of 15 cm, enlarged": an adjective that ends its part speaks of the organ before the comma.
    if carried and keyword.name == "enlarged" and (keyword.last + 1 == len(stems) or stems[keyword.last + 1] in ",;:)"):
        carried.add(keyword.first - 1)
    for word in between:
        if word in closed or (stems[word] in PUNCTUATION and not (word in carried and stems[word] in ",:")):
            return None
    return organ
