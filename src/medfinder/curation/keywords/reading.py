"""What a report says of each keyword: that it is there, that it is not, that it may be.

In: a report and its language. Out: ``Finding`` records. A trigger of denial, doubt or memory reaches until a word that
ends it: NegEx (Chapman et al. 2001, doi:10.1006/jbin.2001.1029) with scopes cut as in ConText, for two languages and
for reports without commas. Refused: nothing.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from medfinder.curation.keywords.library import STOP_WORDS, Lexicon, load_keywords, load_lexicon
from medfinder.curation.keywords.matching import PUNCTUATION, Match, Sentence, find_matches, take_apart
from medfinder.curation.keywords.places import place_findings
from medfinder.curation.keywords.sentences import split_sentences
from medfinder.records import Finding, Language, Status

# Words; ours: far above any real sentence, so that a text without stops costs time in proportion to its length.
_LONGEST_SENTENCE = 200
_RANKS: dict[Status, int] = {"absent": 0, "uncertain": 1, "present": 2}
_VERBS = ("deny", "doubt", "memory")
# "A or B", said of two findings without a denial, leaves both open; words between A and "or", ours.
_NEAR = 5
_CONTRASTS = ("rather than", "instead of", "as opposed to", "en lugar de", "en vez de", "más que")
# "Sin poder descartar neumonía ni absceso": what goes on with a denial goes on with a doubt, too.
_GOING_ON = (*_CONTRASTS, "ni", "nor")
# "Nódulo dudoso en la base", "nódulo en la base, dudoso,": these speak of the finding before them.
_ADJECTIVES = ("dudoso", "cuestionable", "discutible", "questionable", "doubtful", "equivocal")
_OPERATIONS = ("lobectomy", "mastectomy", "lung transplant", "post-radiotherapy changes", "osteosynthesis material")
# "Pneumothorax after drain removal" denies the drain alone.
_OF_ONE = ("removal", "withdrawal", "explantation")
# Words between a comma and "resolved", or between the commas of ", less likely,"; ours.
_LONGEST_APPENDED = 3


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


def is_negated(sentence: str, language: Language = "en") -> bool:
    """Say whether a sentence does nothing but deny.

    Example:
        >>> is_negated("No pleural effusion or pneumothorax."), is_negated("No effusion but left pneumothorax.")
        (True, False)
    """
    findings = list(_read(sentence, language))
    if findings:
        return all(finding.status == "absent" for finding in findings)
    lexicon = load_lexicon(language)
    stems = lexicon.stems_of(sentence)[:_LONGEST_SENTENCE]
    return any(
        (match.kind == "deny_before" and match.first <= 2) or match.kind in ("deny_behind", "deny_either")
        for match in find_matches(stems, lexicon)
    )


def _read(report: str, language: Language) -> Iterator[Finding]:
    """Read every sentence; a text that has no stops is read in pieces, so that the time stays linear."""
    lexicon = load_lexicon(language)
    for sentence in split_sentences(_tell_questions(report, language)):
        stems = lexicon.stems_of(sentence)
        for start in range(0, len(stems), _LONGEST_SENTENCE):
            yield from _read_sentence(stems[start : start + _LONGEST_SENTENCE], lexicon)


def _tell_questions(report: str, language: Language) -> str:
    """Say in words what a question mark says of a finding: "?PE", "¿TEP?"; one inside a word is a broken letter."""
    if "?" not in report:
        return report
    before, behind = _QUERIES[language]
    return _ASKED_BEHIND.sub(f" {behind}.", _ASKED_BEFORE.sub(f" {before} ", report))


_QUERIES = {"en": ("query", "is questionable"), "es": ("posible", "es dudoso")}
_ASKED_BEFORE = re.compile(r"(?<![\w?])[?¿] ?(?=\w)")
_ASKED_BEHIND = re.compile(r"(?<=\w)\?(?!\w)")


def _read_sentence(stems: Sequence[str], lexicon: Lexicon) -> list[Finding]:
    sentence = take_apart(stems, lexicon)
    if not sentence.keywords:
        return []
    statuses = _judge(sentence)
    places = place_findings(sentence, lexicon.language)
    told = [
        place if status == place.status else replace(place, status=status)
        for status, place in zip(statuses, places, strict=True)
        if status is not None
    ]
    return [finding for at, finding in enumerate(told) if not _is_answered(finding, told[at + 1 :])]


def _is_answered(asked: Finding, after: Sequence[Finding]) -> bool:
    """Say whether a doubt is settled in its own sentence: "pneumonia was queried; CT shows no pneumonia"."""
    return asked.status == "uncertain" and any(
        other.name == asked.name and other.status == "absent" and other.laterality in (None, asked.laterality)
        for other in after
    )


def _judge(sentence: Sentence) -> list[Status | None]:
    """Give each keyword its status; None for what is history only."""
    reached: dict[str, set[int]] = {verb: set() for verb in _VERBS}
    for trigger in sorted(sentence.matches, key=lambda match: match.name in _GOING_ON):
        verb = trigger.kind.partition("_")[0]
        if verb in reached:
            # "Likely atelectasis rather than pneumonia" leaves both open.
            is_doubted = trigger.name in _GOING_ON and trigger.first in reached["doubt"]
            reached["doubt" if is_doubted else verb] |= _reach(trigger, sentence)
    statuses: list[Status | None] = []
    causes = _causes(sentence)
    for match in sentence.keywords:
        if match in causes:
            statuses.append(None)
        elif match.last in reached["deny"]:
            statuses.append("absent")
        elif match.last in reached["doubt"]:
            statuses.append("uncertain")
        elif match.last in reached["memory"] and not load_keywords()[match.name].persists:
            statuses.append(None)
        else:
            statuses.append("present")
    for before, after in reversed(list(_restatements(sentence))):
        if (statuses[before], statuses[after]) == ("present", "uncertain"):
            statuses[before] = "uncertain"
    for before, after in _alternatives(sentence):
        if statuses[before] == statuses[after] == "present":
            statuses[before] = statuses[after] = "uncertain"
    return statuses


def _causes(sentence: Sentence) -> list[Match]:
    """Find what an operation was for: "lobectomy for carcinoma" tells of the past."""
    return [
        after
        for before, after in pairwise(sentence.keywords)
        if before.name in _OPERATIONS
        and sentence.stems[before.last + 1] in ("for", "por")
        and not PUNCTUATION & set(sentence.stems[before.last + 1 : after.first])
    ]


def _restatements(sentence: Sentence) -> Iterator[tuple[int, int]]:
    """Go through the neighbours that say one keyword twice: "lytic lesion, worrisome for bone metastasis"."""
    joins = {match.first for match in sentence.matches if match.kind in ("and", "or")}
    for index, (before, after) in enumerate(pairwise(sentence.keywords)):
        is_joined = any(before.last < word < after.first for word in joins)
        if before.name == after.name and load_keywords()[before.name].doubted_as_one and not is_joined:
            yield index, index + 1


def _alternatives(sentence: Sentence) -> Iterator[tuple[int, int]]:
    """Go through the neighbours among the keywords that an "or" stands between."""
    ors = [match.first for match in sentence.matches if match.kind == "or" and match.name in ("or", "o", "u")]
    for index in range(len(sentence.keywords) - 1 if ors else 0):
        last, first = sentence.keywords[index].last, sentence.keywords[index + 1].first
        if any(last < word < first and word - last <= _NEAR for word in ors):
            yield index, index + 1


# ------------------------------------------------------------------------------------------------ how far words govern


def _reach(trigger: Match, sentence: Sentence) -> set[int]:
    """Find the words that a trigger governs: before it, behind it, or where a keyword is."""
    verb, _, where = trigger.kind.partition("_")
    if where == "behind":
        words = _reach_back(trigger, sentence)
        return set(_nearest(words, sentence) if verb == "memory" or trigger.name in _OF_ONE else words)
    if verb == "memory" and sentence.stems[trigger.last + 1 : trigger.last + 2] == [":"]:
        # "Antecedentes: EPOC, neumonía en 2015": a heading, so that all that follows is history.
        return set(range(trigger.last + 2, len(sentence.stems)))
    # "No se observan: nódulos, masas, derrame."
    is_opening = trigger.first == 0 and sentence.stems[trigger.last + 1 : trigger.last + 2] == [":"]
    if where == "on" or is_opening:
        # "Differential includes oedema, haemorrhage and drug reaction": the list ends with its sentence.
        return set(_reach_list(trigger, sentence))
    if trigger.name in _ADJECTIVES and (told := _just_told(trigger, sentence)):
        return told
    reach = set(_reach_on(trigger, sentence, ends_at_with=verb != "deny"))
    if where == "both":
        return reach | set(_nearest(_reach_back(trigger, sentence), sentence))
    if verb == "doubt" and where == "either" and not _closes(trigger, sentence):
        # "Consolidation likely infectious" doubts the cause; "infection likely" the infection.
        return reach
    # "Adenopatías: no" denies what stands before the colon.
    is_answer = trigger.first > 0 and sentence.stems[trigger.first - 1] == ":"
    if (where == "either" or (where == "before" and is_answer)) and not reach & sentence.heads:
        return set(_reach_back(trigger, sentence))
    return reach


def _just_told(trigger: Match, sentence: Sentence) -> set[int]:
    """Find the finding that an adjective follows, at once or behind a comma that sets the adjective apart."""
    before = trigger.first - 1
    if before in sentence.heads:
        return {before}
    if before < 1 or sentence.stems[before] != "," or not _closes(trigger, sentence):
        return set()
    apart = replace(trigger, at=(before, *trigger.at))
    return set(_nearest(_reach_back(apart, sentence), sentence)) & sentence.heads


def _nearest(words: Iterator[int], sentence: Sentence) -> Iterator[int]:
    """Go as far as the first keyword: "mass, thymoma versus lymphoma" leaves no doubt about the mass."""
    for word in words:
        yield word
        if word in sentence.heads:
            return


def _closes(trigger: Match, sentence: Sentence) -> bool:
    """Say whether a part of the sentence ends with the trigger."""
    after = trigger.last + 1
    return after >= len(sentence.stems) or sentence.stems[after] in PUNCTUATION or after in sentence.by_start


def _reach_on(trigger: Match, sentence: Sentence, *, ends_at_with: bool) -> Iterator[int]:
    """Go on from a trigger, word by word, as far as it governs."""
    stems, by_start = sentence.stems, sentence.by_start
    here = start = trigger.last + 1
    listed = 0
    while here < len(stems):
        match = by_start.get(here)
        kind = match.kind if match else ""
        # "Probably related to" doubts what it is related to; elsewhere "related to" ends a doubt.
        is_first = here == start or (here == start + 1 and stems[start] in STOP_WORDS)
        if (kind in ("end", "verb") and not is_first) or stems[here] in ";:":
            return
        if match is not None and kind == "and":
            after = by_start.get(match.last + 1)
            # "More consistent with oedema than with pneumonia" doubts both.
            ends_here = ends_at_with and match.name in ("with", "con") and stems[here - 1] not in ("than", "que")
            if ends_here or (after is not None and after.kind == "fresh"):
                return
        if stems[here] == "," and here >= listed and not _goes_on_listing(here, sentence):
            listed = max(_end_of_bare_list(here, sentence), _end_of_aside(here, sentence))
            if listed == here:
                return
        yield here
        here += 1


def _reach_list(trigger: Match, sentence: Sentence) -> Iterator[int]:
    """Go on from a trigger to the end of what it lists, over commas and "and"."""
    # "Differential: oedema, haemorrhage": the colon opens the list.
    start = trigger.last + 1 + (sentence.stems[trigger.last + 1 : trigger.last + 2] == [":"])
    for here in range(start, len(sentence.stems)):
        match = sentence.by_start.get(here)
        if (match is not None and match.kind in ("end", "verb")) or sentence.stems[here] in ";:":
            return
        yield here


def _end_of_bare_list(comma: int, sentence: Sentence) -> int:
    """Find the end of "no effusion, consolidation, pneumothorax"; the comma itself when it starts no such list.

    One bare finding behind a comma may well be there ("no effusion, cardiomegaly"); two are more of what is denied.
    """
    bare = {match.first: match.last + 1 for match in sentence.keywords}
    here, items = comma, 0
    while sentence.stems[here : here + 1] == [","] and here + 1 in bare:
        here, items = bare[here + 1], items + 1
    # "Negative for embolism, dissection and pneumonia".
    if items and sentence.stems[here : here + 1] in (["and"], ["y"], ["e"]) and here + 1 in bare:
        here, items = bare[here + 1], items + 1
    return here if items > 1 and (here == len(sentence.stems) or sentence.stems[here] in PUNCTUATION) else comma


def _end_of_aside(comma: int, sentence: Sentence) -> int:
    """Find the end of "or, less likely, pneumonia"; the comma itself when no "or" stands before it."""
    before = sentence.by_start.get(comma - 1)
    if before is None or before.kind not in ("or", "and"):
        return comma
    aside = sentence.stems[comma + 1 : comma + 2 + _LONGEST_APPENDED]
    return comma + 2 + aside.index(",") if "," in aside else comma


def _goes_on_listing(comma: int, sentence: Sentence) -> bool:
    """Say whether an "or" or "ni" follows a comma before anything ends: the list is still the same one."""
    for here in range(comma + 1, len(sentence.stems)):
        match = sentence.by_start.get(here)
        kind = match.kind if match else ""
        if kind == "or":
            return True
        if kind in ("end", "verb") or sentence.stems[here] in ";:":
            return False
    return False


def _reach_back(trigger: Match, sentence: Sentence) -> Iterator[int]:
    """Go back from a trigger as far as it governs."""
    ors = {match.first for match in sentence.matches if match.kind == "or"}
    stems = sentence.stems
    here = trigger.first - 1
    if here >= 0 and stems[here] == ":":
        here -= 1
    is_list = False
    # "Ascites and effusion, now both resolved": what a comma sets apart from all that it could deny.
    appended = trigger.first - 1 - _LONGEST_APPENDED if trigger.kind.startswith("deny") else len(stems)
    while here >= 0:
        is_list = is_list or here in ors
        is_over = here in sentence.ends or stems[here] in ";:"
        if is_over or (stems[here] == "," and not is_list and here < appended):
            return
        if here in sentence.heads:
            appended = len(stems)
        yield here
        here -= 1


# --------------------------------------------------------------------------------------------- several mentions of one


def _merge(mentions: Sequence[Finding]) -> list[Finding]:
    """Keep what is most certain of one keyword, each side and place once, the vaguer mentions dropped."""
    best = max(_RANKS[mention.status] for mention in mentions)
    kept: dict[tuple[str | None, str | None], Finding] = {}
    for mention in mentions:
        if _RANKS[mention.status] == best:
            key = (mention.laterality, mention.location)
            before = kept.get(key)
            kept[key] = replace(mention, size_mm=before.size_mm) if before and not mention.size_mm else mention
    return [
        finding
        for (side, location), finding in kept.items()
        if not any(key != (side, location) and side in (None, key[0]) and location in (None, key[1]) for key in kept)
    ]
