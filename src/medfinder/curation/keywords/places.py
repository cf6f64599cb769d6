"""Where a finding is and how large: side, place and size, told by the words of its part of the sentence.

In: a sentence taken apart. Out: one ``Finding`` a keyword, its status not judged yet. A side or place word belongs to
the nearest keyword of its part. Refused: nothing; what is not told stays None.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from medfinder.curation.keywords.library import load_keywords, load_tables
from medfinder.curation.keywords.matching import PUNCTUATION, Match, Sentence
from medfinder.records import Finding, Language, Laterality

# What parts a sentence. "Opacities are seen in both lungs, suggesting pneumonia" is parted at the comma: a verb parts
# only where nothing else does.
_CUTTING = ("and", "or", "end", "deny_before", "deny_either", "doubt_before", "doubt_either", "doubt_both")
_LEVEL = re.compile(r"[tdl](?:1[0-2]|[1-9])")


def place_findings(sentence: Sentence, language: Language) -> list[Finding]:
    """Tell side, place and size of each keyword from the words of its part of the sentence."""
    parts = _cut(sentence)
    own: dict[int, list[Match]] = {}
    for match in sentence.keywords:
        own.setdefault(parts[match.last].start, []).append(match)
    placing = [
        (_owner(match, own[parts[match.first].start], language), match)
        for match in sentence.matches
        if match.kind in ("side", "location")
    ]
    units = [word for word, stem in enumerate(sentence.stems) if stem in ("mm", "cm")]
    found: list[Finding] = []
    for match in sentence.keywords:
        near = parts[match.last]
        inside = [placed for owner, placed in placing if owner is match]
        before = next((other for other in reversed(found) if other.laterality and other.name != match.name), None)
        is_sideless = load_keywords()[match.name].is_midline or _is_in_both(match, inside)
        side = None if is_sideless else _side_of(inside, before)
        location = _location_of(inside) or _level(near, sentence.stems)
        sized = [unit for unit in units if unit in near]
        size_mm = _size_mm(sized, sentence.stems, match, own[near.start]) if sized else None
        found.append(Finding(match.name, laterality=side, location=location, size_mm=size_mm))
    _share_places(sentence, found)
    return found


def _cut(sentence: Sentence) -> dict[int, range]:
    """Cut the sentence once between neighbouring keywords: at the strongest break, the last one of its kind."""
    breaks = _breaks(sentence)
    inside = {word for match in sentence.keywords for word in range(match.first, match.last + 1)}
    edges = [0]
    for head, after in pairwise(sorted(sentence.heads)):
        between = [word for word in range(head + 1, after) if word in breaks and word not in inside]
        if between:
            strongest = min(breaks[word] for word in between)
            edges.append(max(word for word in between if breaks[word] == strongest))
    edges.append(len(sentence.stems))
    return {word: part for start, stop in pairwise(edges) for part in [range(start, stop)] for word in part}


def _breaks(sentence: Sentence) -> dict[int, int]:
    """Find the places where a sentence may be cut, and how strong each break is: 0 is the strongest."""
    breaks = {match.first: 2 for match in sentence.matches if match.kind == "verb"}
    breaks |= {match.first: 1 for match in sentence.matches if match.kind in _CUTTING}
    signs = ((word, stem) for word, stem in enumerate(sentence.stems) if stem in PUNCTUATION)
    return breaks | {word: 0 if stem in ";:" else 1 for word, stem in signs}


def _owner(placed: Match, own: Sequence[Match], language: Language) -> Match:
    """Choose among the keywords of one part the one that a side or place word belongs to: the nearest."""

    if len(own) == 1:
        return own[0]

    def distance(match: Match) -> tuple[int, bool]:
        inside = match.first <= placed.first <= match.last
        gap = 0 if inside else min(abs(placed.first - match.last), abs(match.first - placed.last))
        is_behind = placed.first > match.last
        # English puts the side before its noun, Spanish behind it.
        return gap, is_behind if language == "en" else not is_behind

    return min(own, key=distance)


def _is_in_both(match: Match, inside: Sequence[Match]) -> bool:
    """Say whether a side tells of some nodes only: "mediastinal and left hilar nodes"."""
    if "adenopathy" not in match.name:
        return False
    places = [place for place in inside if place.kind == "location"]
    sides = [side for side in inside if side.kind == "side"]
    names = {place.name for place in places}
    return bool(sides) and len(places) > 1 and "mediastinal" in names and places[0].first < sides[0].first


def _side_of(inside: Sequence[Match], before: Finding | None) -> Laterality | None:
    sides = {match.name for match in inside if match.kind == "side"} - {"none"}
    if sides == {"same"} and before:
        return before.laterality
    sides -= {"same"}
    # The lingula is left and the middle lobe right, whatever side stands beside them.
    places = (load_tables()["location"][match.name] for match in inside if match.kind == "location")
    sides |= {place["side"] for place in places if "side" in place}
    if not sides:
        return None
    if "bilateral" in sides or len(sides) > 1:
        return "bilateral"
    return "left" if "left" in sides else "right"


def _location_of(inside: Sequence[Match]) -> str | None:
    """Choose the place: a lobe rather than "subpleural" or "apical segment", else the first that is named."""
    names = [match.name for match in inside if match.kind == "location"]
    return next((name for name in names if name.endswith("lobe")), names[0] if names else None)


def _share_places(sentence: Sentence, found: list[Finding]) -> None:
    """Give "consolidation" its place in "consolidation and ground glass in the left lower lobe"."""
    keywords = sentence.keywords
    joining = {match.first for match in sentence.matches if match.name in _JOINING}
    last_place = max((match.first for match in sentence.matches if match.kind == "location"), default=-1)
    for index in range(len(found) - 2, -1, -1):
        here, after = found[index], found[index + 1]
        is_joined = keywords[index].last + 1 in joining
        is_behind = last_place > keywords[index + 1].last
        midline = load_keywords()[here.name].is_midline
        is_told = here.location is not None and here.location not in ("peripheral", "diffuse")
        if is_joined and is_behind and not midline and here.laterality is None and not is_told:
            found[index] = replace(here, laterality=after.laterality, location=here.location or after.location)
    for index, (before, here) in enumerate(pairwise(found), start=1):
        if here.name in _INSIDE and here.laterality is None and here.location is None:
            found[index] = replace(here, laterality=before.laterality, location=before.location)


_JOINING = ("and", "or", "nor", "y", "e", "o", "u", "ni", "versus", "vs", "with", "without", "con", "sin")
# What is inside of what stands before it: "consolidation in the left lower lobe with air bronchograms".
_INSIDE = ("air bronchogram", "tree-in-bud")


def _level(near: range, stems: Sequence[str]) -> str | None:
    """Read a vertebral level; Spanish d8 (dorsal) is T8."""
    for stem in stems[near.start : near.stop]:
        if stem[0] in "tdl" and _LEVEL.fullmatch(stem):
            return stem.upper().replace("D", "T")
    return None


def _size_mm(units: Sequence[int], stems: Sequence[str], match: Match, own: Sequence[Match]) -> float | None:
    """Read the greatest size in mm; where several keywords share the words, only the nearest one takes it."""
    sizes = []
    for unit in units:
        if min(own, key=lambda other: abs(other.last - unit)) is not match:
            continue
        # "23 x 18 mm": both figures share the unit.
        figure = unit - 1
        while figure >= 0 and stems[figure][0].isdigit():
            sizes.append(float(stems[figure].replace(",", ".")) * (10 if stems[unit] == "cm" else 1))
            figure -= 2 if figure >= 2 and stems[figure - 1] in ("x", "by", "por") else len(stems)
    return max(sizes, default=None)
