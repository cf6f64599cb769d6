"""Search: from a query to ranked hits.

In: an open index, the model that it was made with, and a ``Query`` (text, report, keyword or CT, filter, k). Out: hits,
best first. Refused with ``ConfigError``: queries that are empty or ask for two things at once, k out of range, unknown
keywords, filters that cannot be read, a folder of several CT series; with ``SearchIndexError``: a model that the index
was not made with; with ``VolumeError``: a CT that cannot be read.

Every query ranks the cases by several parts (image vectors, report vectors, words affirmed, words denied), which are
then fused. Scores lie in 0..1 and can be compared within one answer only. Cases that are not chests are left
out unless the filter asks for a region; hits that need a caution carry one.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medfinder.curation.keywords import KEYWORDS, resolve_keyword
from medfinder.errors import ConfigError
from medfinder.records import Hit, Query
from medfinder.retrieval.filters import AllOf, AnyOf, Condition, Not, equals, mentions, parse_filter
from medfinder.retrieval.index import IndexedCase, SearchIndex, Space
from medfinder.retrieval.lexical import Terms, Words, describe_finding, describe_query
from medfinder.volume import Grid, Volume, body_region, standardise_file

if TYPE_CHECKING:
    from medfinder.models.protocol import DualEncoder

MAX_HITS = 1_000

# A long report has some 5,000 characters; ten times that is no question any more.
MAX_CHARACTERS = 50_000

# Ours: words and report vectors say what the radiologist wrote, the image vectors what the model believes to see, which
# is the weakest of the three for the shipped model. Words denied only break near-ties.
TEXT_WEIGHTS: Mapping[Space, float] = {"image": 0.5, "report": 1.0, "affirmed": 1.0, "denied": 0.25}

# Where the keyword library knows a finding in the query, words are nearly always right: on 400 phantom reports,
# 30 findings asked for by one English or Spanish name each, P@10 was 1.00 and 0.99 by words, 0.77 and 0.51 by MiniLM
# vectors of whole reports, and fused like this 1.00 and 1.00 with noise for image vectors; base rate 0.13. Elsewhere
# the best word may be a common one.
KNOWN_FINDING_WEIGHTS: Mapping[Space, float] = {**TEXT_WEIGHTS, "affirmed": 2.0}

# Ours: a CT is compared with CTs; the share of the reports is small enough that a CT finds itself.
CT_WEIGHTS: Mapping[Space, float] = {"image": 0.9, "report": 0.1}

# What a vector part gives to a case that is like most: ours, low, so that only what stands out counts.
_MIDDLE = 0.2

# Candidates that each part ranks before they are fused, at least; small indexes are ranked whole. Ours: reading what a
# thousand more say costs more time than ranking them, and what is that far down in every part is no good hit.
_MIN_DEPTH = 500

_NOT_CHEST = 'this case is not a chest CT ("{region}")'
_SYNTHETIC_MODEL = "the model has seen synthetic CTs only: its scores on real CTs are not to be relied on"
_QUERY_NOT_CHEST = "the CT that was asked with does not look like a chest: {reason}"


@dataclass(frozen=True, slots=True)
class _Ranked:
    """A case on its way to being a hit.

    Attributes:
        parts: what each part gave it: cosine of image and report, BM25 of the words; agreement with the findings asked.
    """

    case_id: str
    score: float
    parts: tuple[tuple[str, float], ...]


class Searcher:
    """Answers queries from one index with one model.

    Raises:
        SearchIndexError: the index was made with another model.
    """

    def __init__(self, index: SearchIndex, model: "DualEncoder") -> None:
        index.require_model(model.digest, model.width)
        self.index = index
        self._model = model
        self._is_synthetic = model.is_synthetic

    def search(self, query: Query) -> list[Hit]:
        """Answer a query with at most ``query.k`` hits, best first; equal scores are ordered by case id.

        - ``text``: a few words, English or Spanish. Image vectors, report vectors and BM25 are fused. What the
          words deny ("effusion without cardiomegaly") excludes the cases known to have it; reports that deny what is
          asked for come last.
        - ``report``: as text, for a whole report; what it denies lowers the cases that have it and excludes none.
        - ``keyword``: a finding by any of its names. Cases known to have it come before all others, then those that
          the model thinks nearest; cases whose report denies it are left out. Each group is ranked as text is.
        - ``ct``: a volume file or a DICOM folder of one series. Ranked by the likeness of the images, with a small
          share for the likeness of the reports to the CT.

        Raises:
            ConfigError: the query cannot be honoured; the message says why.
            VolumeError: the CT cannot be read.
        """
        _check_k(query.k)
        where = _region_default(parse_filter(query.where) if query.where is not None else None)
        _check_one_is_asked(query)
        if query.ct is not None:
            return self._by_ct(query.ct, where, query.k)
        if query.keyword is not None:
            return self._by_keyword(query.keyword, where, query.k)
        if query.report is not None:
            return self._by_report(query.report, where, query.k)
        return self._by_text(query.text or "", where, query.k)

    def _by_text(self, text: str, where: Condition, k: int) -> list[Hit]:
        words = describe_query(text)
        unwanted = [Not(equals("findings", name)) for name in words.negated]
        return self._hits(self._hybrid(text, words, AllOf((where, *unwanted)), k), "")

    def _by_report(self, report: str, where: Condition, k: int) -> list[Hit]:
        return self._hits(self._hybrid(report, describe_query(report), where, k), "")

    def _by_keyword(self, words: str, where: Condition, k: int) -> list[Hit]:
        name = _resolve(words)
        known, denied = equals("findings", name), equals("negated", name)
        first = self._hybrid(name, describe_finding(name), AllOf((where, known)), k)
        ranked = [_Ranked(one.case_id, (1 + one.score) / 2, (*one.parts, ("findings", 1.0))) for one in first]
        if len(ranked) < k:
            others = AllOf((where, Not(AnyOf((known, denied)))))
            rest = self._hybrid(name, describe_finding(name), others, k - len(ranked))
            ranked += [_Ranked(one.case_id, one.score / 2, (*one.parts, ("findings", 0.0))) for one in rest]
        return self._hits(ranked, "")

    def _by_ct(self, path: Path, where: Condition, k: int) -> list[Hit]:
        volume = _read_query_ct(path, self._model.grid)
        region = body_region(volume)
        vector = self._model.encode_volumes([volume.hu])[0]
        images = self.index.nearest("image", vector, limit=_depth(k), where=where)
        among = [case_id for case_id, _ in images]
        reports = self.index.nearest("report", vector, limit=len(among) + 1, where=where, among=among)
        tables = _tables({"image": images, "report": reports})
        ranked = _best(_fuse(tables, CT_WEIGHTS, depth=len(among) + 1), tables, k)
        cautions = [] if region.name == "chest" else [_QUERY_NOT_CHEST.format(reason=region.reason)]
        if self._is_synthetic:
            cautions.append(_SYNTHETIC_MODEL)
        return self._hits(ranked, "; ".join(cautions))

    def _hybrid(self, text: str, words: Words, where: Condition, k: int) -> list[_Ranked]:
        """Rank by the text's vector against images and reports, and by its words, and fuse."""
        vector = self._model.encode_texts([text])[0]
        queries: dict[Space, np.ndarray | Terms] = {"image": vector, "report": vector}
        if words.affirmed:
            queries["affirmed"] = words.affirmed
        if words.denied:
            queries["denied"] = words.denied
        depth = _depth(k)
        lists = {space: self.index.nearest(space, one, limit=depth, where=where) for space, one in queries.items()}
        tables = _tables(lists)
        scores = _fuse(tables, KNOWN_FINDING_WEIGHTS if words.present else TEXT_WEIGHTS, depth=depth)
        if words.present or words.negated:
            agreement = self._agreement(list(scores), words)
            scores = {case_id: scores[case_id] * share for case_id, share in agreement.items()}
            tables["agreement"] = agreement
        return _best(scores, tables, k)

    def _agreement(self, case_ids: Sequence[str], words: Words) -> dict[str, float]:
        """Tell for each case which share of the query's findings it does not contradict, by which its score is cut.

        Text encoders are nearly blind to negation: to them a report that says "no effusion" is a good match for
        "effusion". A case contradicts a finding that is asked for when its report denies it and nothing else says that
        it is there, and one that the query denies when it is known to have it.
        """
        asked, denied = frozenset(words.present), frozenset(words.negated)
        return {
            case_id: 1 - (len(asked & said.negated) + len(denied & said.present)) / len(asked | denied)
            for case_id, said in self.index.statements(case_ids).items()
        }

    def _hits(self, ranked: Sequence[_Ranked], caution: str) -> list[Hit]:
        cases = self.index.cases([one.case_id for one in ranked])
        # A case may have been removed since it was ranked.
        there = [one for one in ranked if one.case_id in cases]
        return [self._hit(rank, one, cases[one.case_id], caution) for rank, one in enumerate(there, start=1)]

    def _hit(self, rank: int, ranked: _Ranked, indexed: IndexedCase, caution: str) -> Hit:
        case = indexed.case
        cautions = [_NOT_CHEST.format(region=case.region)] if case.region != "chest" else []
        if self._is_synthetic and not case.is_synthetic and _SYNTHETIC_MODEL not in caution:
            cautions.append(_SYNTHETIC_MODEL)
        present = dict.fromkeys(finding.name for finding in case.findings if finding.status == "present")
        return Hit(
            rank=rank,
            case_id=case.case_id,
            study_id=case.study_id,
            score=round(ranked.score, 6),
            findings=tuple(present),
            report=case.report or case.report_es,
            source=case.source,
            split=case.split,
            age_years=case.age_years,
            sex=case.sex,
            region=case.region,
            is_synthetic=case.is_synthetic,
            volume=indexed.volume,
            caution="; ".join(filter(None, [*cautions, caution])),
            parts=ranked.parts,
        )


# ---- fusion ----------------------------------------------------------------------------------------------------------

# What a part gives the cases that it lists, by part and case id.
_Tables = dict[str, dict[str, float]]


def _depth(k: int) -> int:
    return max(_MIN_DEPTH, 4 * k)


def _tables(lists: Mapping[Space, Sequence[tuple[str, float]]]) -> _Tables:
    """Drop the parts that have nothing to say, e.g. words that stand in no report."""
    return {space: dict(found) for space, found in lists.items() if found}


def _fuse(tables: _Tables, weights: Mapping[Space, float], *, depth: int) -> dict[str, float]:
    """Fuse the parts by the weighted mean of their scores, each brought to 0..1; 1 is the best case in every part.

    Words give 1 to their best case and 0 to a case that shares none. Vectors give 1 to their best, 0 to their worst and
    ``_MIDDLE`` to their median, for a cosine has no zero of its own; so also to a case that they do not know because it
    has no report, which is neither praised nor blamed for it.

    Args:
        depth: how many cases were asked of each part; one that lists fewer has listed all.

    Source: convex combination of scaled scores, better than fusion by rank in Bruch, Gai and Ingber, "An Analysis of
    Fusion Functions for Hybrid Retrieval" (2023); the median is ours.
    """
    everyone = {case_id for table in tables.values() for case_id in table}
    total = dict.fromkeys(everyone, 0.0)
    parts = [(space, weight) for space, weight in weights.items() if space in tables]
    for space, weight in parts:
        table = tables[space]
        scores = np.fromiter(table.values(), float)
        # Ascending, where two coincide the better holds.
        scale = {scores.min(): 0.0, np.median(scores): _MIDDLE, scores.max(): 1.0}
        if space not in ("image", "report"):
            scale = {0.0: 0.0, scores.max(): 1.0}
        scaled = dict(zip(table, np.interp(scores, list(scale), list(scale.values())), strict=True))
        unlisted = _MIDDLE if space in ("image", "report") and len(table) < depth else 0.0
        share = weight / sum(weight for _, weight in parts)
        for case_id in everyone:
            total[case_id] += share * float(scaled.get(case_id, unlisted))
    return total


def _best(scores: Mapping[str, float], tables: _Tables, k: int) -> list[_Ranked]:
    """Keep the best k, ties by case id; what differs by less than rounding is a tie."""
    order = sorted((-round(score, 6), case_id) for case_id, score in scores.items())[:k]
    return [
        _Ranked(case_id, -score, tuple((part, table[case_id]) for part, table in tables.items() if case_id in table))
        for score, case_id in order
    ]


# ---- reading the query -----------------------------------------------------------------------------------------------


def _check_k(k: int) -> None:
    if not 1 <= k <= MAX_HITS:
        raise ConfigError(f"k = {k}; ask for 1 to {MAX_HITS} hits")


def _check_one_is_asked(query: Query) -> None:
    asked = {name: getattr(query, name) for name in ("text", "report", "keyword", "ct")}
    asked = {name: value for name, value in asked.items() if value is not None}
    if len(asked) != 1:
        found = " and ".join(asked) or "nothing"
        raise ConfigError(f"the query gives {found}; give exactly one of text, report, keyword and ct")
    [(name, value)] = asked.items()
    if isinstance(value, str):
        if len(value) > MAX_CHARACTERS:
            raise ConfigError(f"{name} of {len(value)} characters; at most {MAX_CHARACTERS} are searched with")
        if not any(character.isalnum() for character in value):
            raise ConfigError(f"{name} holds no words; say what to look for, e.g. pleural effusion")


def _region_default(where: Condition | None) -> Condition:
    """Keep to chests, unless the filter asks about the region itself."""
    if where is None:
        return equals("region", "chest")
    return where if mentions(where, "region") else AllOf((where, equals("region", "chest")))


def _resolve(words: str) -> str:
    name = resolve_keyword(words)
    if name is None:
        near = difflib.get_close_matches(words.strip().lower(), list(KEYWORDS), n=3, cutoff=0.5)
        known = f"near: {', '.join(near)}" if near else f"known: {', '.join(KEYWORDS)}"
        raise ConfigError(f"unknown keyword {words.strip()[:60]!r}; {known}; or search by text")
    return name


def _read_query_ct(path: Path, grid: Grid) -> Volume:
    if not path.exists():
        raise ConfigError(f"no CT at {path}; give a volume file or a folder of DICOM files")
    return standardise_file(path, grid)
