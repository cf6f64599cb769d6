"""Answering queries: words, whole reports, CTs, cases and boxes, over a search index.

In: a ``Query``. Out: ranked hits, or an ``Answer`` with counts and notes around them, each hit with what its score was
made of and why it matched. Refused with ``ConfigError``: see ``medfinder.retrieval.asked``. Cases that are not chests
are left out unless the filter asks for a region; hits that need a caution carry one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medfinder.curation.keywords import kinds_of, resolve_keyword
from medfinder.records import Answer, Hit, Query
from medfinder.retrieval.asked import MAX_CHARACTERS, MAX_HITS, Asked, QueryReader
from medfinder.retrieval.columns import points_of
from medfinder.retrieval.engine import Found, Space
from medfinder.retrieval.evidence import EvidenceFinder, HeatMap, evidence_in
from medfinder.retrieval.explain import best_sentences, compare_findings, likest_sentences, says
from medfinder.retrieval.filters import AllOf, Condition, Not, parse_filter
from medfinder.retrieval.fusion import Calibration, Tables, fuse, load_calibration
from medfinder.retrieval.index import SearchIndex
from medfinder.retrieval.lexical import Terms, Words
from medfinder.retrieval.query import holds, is_there, must_be_read
from medfinder.retrieval.stored_case import IndexedCase

if TYPE_CHECKING:
    from medfinder.models.protocol import DualEncoder

__all__ = ["MAX_CHARACTERS", "MAX_HITS", "Searcher"]

# Candidates that each part ranks before they are fused; small indexes are ranked whole. Ours: reading what a thousand
# more say costs more time than ranking them, and what is that far down in every part is no good hit. Whoever pages
# further gets more candidates behind the first, so that no page ever changes.
_SHALLOW, _DEEP = 500, 4 * MAX_HITS

# Hits whose regions are compared with a box. Ours: each costs the encoding of a volume the first time.
_COMPARED = 200

# Findings that are asked for together; ours: whoever names more of them gives a report.
_TOGETHER = 4

_NOT_CHEST = 'this case is not a chest CT ("{region}")'
_SYNTHETIC_MODEL = "the model has seen synthetic CTs only: its scores on real CTs are not to be relied on"
_NO_CASE = "no case is known to have {asked}; these are the nearest"
_NOT_TOGETHER = "no case is known to have {asked} together; cases with some of it are shown"
_NO_WORD = "no report holds {words}"
_NO_GOOD_TEXT = "no good match: the nearest report ({best:.2f}) is less like the words than reports that answer a query"
_NO_GOOD_CT = "no good match: the nearest CT ({best:.2f}) is less like this one than CTs of the index are like others"

# What answers are counted by: fields of few values, and bands of numbers.
_FACETS = ("findings", "negated", "sex", "source", "split", "region", "is_synthetic")
_BANDS = {
    "age_years": (
        "age < 18",
        "age >= 18 and age < 40",
        "age >= 40 and age < 60",
        "age >= 60 and age < 80",
        "age >= 80",
    ),
    "spacing_z_mm": ("spacing <= 1.5", "spacing > 1.5 and spacing <= 3", "spacing > 3"),
}


@dataclass(frozen=True, slots=True)
class _Ranked:
    """A case on its way to being a hit.

    Attributes:
        parts: what each part gave it: cosine of image and report, BM25 of the words; agreement with the findings asked.
        shares: what each part gave to the score.
    """

    case_id: str
    score: float
    parts: tuple[tuple[str, float], ...]
    shares: tuple[tuple[str, float], ...] = ()


class Searcher:
    """Answers queries from one index with one model.

    Raises:
        SearchIndexError: the index was made with another model.
    """

    def __init__(self, index: SearchIndex, model: "DualEncoder", calibration: Calibration | None = None) -> None:
        index.require_model(model.digest, model.width)
        self.index = index
        self._model = model
        self._is_synthetic = model.is_synthetic
        self._calibration = calibration or load_calibration()
        self._evidence = EvidenceFinder(model)
        self._reader = QueryReader(index, model, self._evidence, self._calibration)

    def search(self, query: Query) -> list[Hit]:
        """Answer a query with at most ``query.k`` hits, best first; equal scores are ordered by case id.

        - ``text``: a few words, English or Spanish. Image vectors, report vectors and BM25 are fused. What the
          words deny ("effusion without cardiomegaly") excludes the cases known to have it; reports that deny what is
          asked for come last. With AND, OR, NOT, brackets or quotes it is read as an expression.
        - ``report``: as text, for a whole report; what it denies lowers the cases that have it and excludes none.
        - ``keyword``: a finding by any of its names, or an expression of findings. Cases known to be right come before
          all others, then those that the model thinks nearest; cases whose report denies it are left out. Each group is
          ranked as text is.
        - ``ct``: a volume file or a DICOM folder of one series. Ranked by the likeness of the images, with a small
          share for the likeness of the reports to the CT. ``case_id``: the same for a case of the index.
        - ``liked``, ``disliked``: move whatever else is asked for towards the ones and away from the others.
        - ``box``: the first hits are ranked anew by their region that is most like the box.

        Raises:
            ConfigError: the query cannot be honoured; the message says why.
            VolumeError: the CT cannot be read.
        """
        asked = self._reader.read(query)
        page = self._page(self._rank(asked, query), query)
        return self._hits(page, self._cases(page), query, asked)

    def answer(self, query: Query, *, facets: bool = True) -> Answer:
        """Answer a query with hits, the sentences that match, counts, and what should be known of the whole answer.

        Args:
            facets: whether cases are counted by what people filter by, which takes a tenth of the time.

        Raises:
            ConfigError: the query cannot be honoured; the message says why.
            VolumeError: the CT cannot be read.
        """
        asked = self._reader.read(query)
        ranked = self._rank(asked, query)
        page = self._page(ranked, query)
        cases = self._cases(page)
        hits = self._hits(page, cases, query, asked)
        passing = asked.possible
        is_read = asked.expression is not None and must_be_read(asked.expression)
        total = len(ranked) if is_read else self.index.count(passing) - self._judged(asked, passing)
        doubts = self._doubts(asked, ranked)
        return Answer(
            hits=tuple(_with_sentences(hits, cases, asked)),
            total=total,
            notes=(*asked.notes, *(doubts or self._not_together(asked, ranked))),
            has_good_match=bool(ranked) and not doubts,
            facets=self.facets(passing) if facets else {},
        )

    def explain(self, query: Query, hits: Sequence[Hit]) -> list[Hit]:
        """Add to hits of a query what takes time to find: where in the volume, and sentences by their meaning.

        A volume that was not looked at before is encoded, which takes some tenths of a second.
        """
        asked = self._reader.read(query)
        return [self._explained(hit, asked) for hit in _with_sentences(hits, self._cases(hits), asked)]

    def heat_map(self, query: Query, hit: Hit) -> HeatMap | None:
        """Show where in a hit's volume the model sees what was asked for; None when it cannot tell."""
        return self._heat(self._reader.read(query), hit)

    def look_for(self, asked: str, volume: Path | None) -> HeatMap | None:
        """Show where the model sees words in a volume; a finding, by any of its names, is looked for as such.

        The map tells where it is likest, not whether it is there. None when the model cannot tell.
        """
        name = resolve_keyword(asked)
        return self._evidence.of_finding(volume, name, asked) if name else self._evidence.of_text(volume, asked)

    def facets(self, where: Condition) -> Mapping[str, Mapping[str, int]]:
        """Count the cases that pass a condition by the values of the fields that people filter by."""
        counted = {field: self.index.facet(field, where) for field in _FACETS}
        for field, bands in _BANDS.items():
            counts = {band: self.index.count(AllOf((where, parse_filter(band)))) for band in bands}
            counted[field] = {band: count for band, count in counts.items() if count}
        return counted

    # ---- ranking -----------------------------------------------------------------------------------------------------

    def _rank(self, asked: Asked, query: Query) -> list[_Ranked]:
        """Rank far enough for the page; a longer ranking always begins with the shorter one."""
        through = query.offset + query.k
        # Those that a region query compares must all be there, whatever the page.
        least = _COMPARED if asked.region is not None else 0
        ranked = self._grouped(self._ranked(asked, max(through, least)), query.group)
        if query.group and len(ranked) < through:
            ranked = self._grouped(self._ranked(asked, MAX_HITS), query.group)
        return ranked

    def _ranked(self, asked: Asked, through: int) -> list[_Ranked]:
        if asked.known is None:
            ranked = self._through(asked, asked.possible, through)
        else:
            ranked = self._known_first(asked, asked.known, through)
        return ranked if asked.region is None else self._by_region(asked.region, ranked)

    def _known_first(self, asked: Asked, known: Condition, through: int) -> list[_Ranked]:
        """Rank the cases known to be right, and behind them those that may be."""
        first = self._through(asked, AllOf((asked.where, known)), through)
        ranked = [replace(one, score=(1 + one.score) / 2, parts=(*one.parts, ("findings", 1.0))) for one in first]
        if len(ranked) < through:
            rest = self._through(asked, AllOf((asked.possible, Not(known))), through - len(ranked))
            ranked += [replace(one, score=one.score / 2, parts=(*one.parts, ("findings", 0.0))) for one in rest]
        return ranked

    def _through(self, asked: Asked, where: Condition, through: int) -> list[_Ranked]:
        found, is_all = self._fused(asked, where, _SHALLOW, through)
        if not is_all:
            found = found[:_SHALLOW]
            if len(found) < through:
                seen = {one.case_id for one in found}
                lowest = found[-1].score if found else 1.0
                deeper = (one for one in self._fused(asked, where, _DEEP, through)[0] if one.case_id not in seen)
                found += [replace(one, score=min(one.score, lowest)) for one in deeper]
        return found[:through]

    def _fused(self, asked: Asked, where: Condition, depth: int, through: int) -> tuple[list[_Ranked], bool]:
        """Rank by every part and fuse.

        Returns:
            The best cases in order, and whether no more than these parts' candidates pass at all.
        """
        tables = self._tables(asked, where, depth)
        if not tables:
            return [], True
        # A CT's candidates are those of the images; of all others, a part that lists fewer than asked has listed all.
        asked_of_each = depth if asked.text else len(tables.get("image", ())) + 1
        fused = fuse(tables, asked.weights, depth=asked_of_each)
        scores, parts = fused.scores, {str(part): found.at(fused.points) for part, found in tables.items()}
        if asked.text and asked.expression is None and (asked.words.present or asked.words.negated):
            parts["agreement"] = self._agreement(fused.points, asked.words)
            scores = scores * parts["agreement"]
        scores, case_ids = np.round(scores, 6), self.index.names("case_id", fused.points)
        order = np.lexsort((case_ids, -scores))
        order = order[~np.isin(fused.points[order], points_of(asked.judged))]
        is_read = asked.expression is not None and must_be_read(asked.expression)
        ranked = [
            _Ranked(
                case_ids[at].decode(),
                float(scores[at]),
                tuple((part, float(given[at])) for part, given in parts.items() if not np.isnan(given[at])),
                tuple((part, round(float(share[at]), 6)) for part, share in fused.shares.items()),
            )
            for at in (order if is_read else order[:through])
        ]
        return self._read_through(asked, ranked), all(len(found) < depth for found in tables.values())

    def _tables(self, asked: Asked, where: Condition, depth: int) -> Tables:
        """Let each part rank; parts that have nothing to say, e.g. words that stand in no report, are left out."""
        if not asked.text:
            images = self.index.find("image", asked.vectors["image"], limit=depth, where=where)
            tables: dict[Space, Found] = {"image": images}
            if "report" in asked.vectors:
                vector, among = asked.vectors["report"], images.points
                tables["report"] = self.index.find("report", vector, limit=len(among) + 1, among=among)
            return {space: found for space, found in tables.items() if found}
        queries: dict[Space, np.ndarray | Terms] = dict(asked.vectors)
        if asked.words.affirmed:
            queries["affirmed"] = asked.words.affirmed
        if asked.words.denied:
            queries["denied"] = asked.words.denied
        tables = {space: self.index.find(space, one, limit=depth, where=where) for space, one in queries.items()}
        return {space: found for space, found in tables.items() if found}

    def _agreement(self, points: np.ndarray, words: Words) -> np.ndarray:
        """Tell for each point which share of the query's findings it does not contradict, by which its score is cut.

        Text encoders are nearly blind to negation: to them a report that says "no effusion" is a good match for
        "effusion". A case contradicts a finding that is asked for when its report denies it and nothing else says that
        it is there, and one that the query denies when it is known to have it.
        """
        contradicted = self.index.says("negated", words.present, points).sum(axis=0)
        if words.negated:
            contradicted += self._has(words.negated, points).sum(axis=0)
        return np.asarray(1 - contradicted / len({*words.present, *words.negated}))

    def _read_through(self, asked: Asked, ranked: list[_Ranked]) -> list[_Ranked]:
        """Leave out the cases whose report does not hold what was quoted, where anything was."""
        expression = asked.expression
        if expression is None or not must_be_read(expression):
            return ranked
        cases = self.index.cases([one.case_id for one in ranked])

        def may_be(indexed: IndexedCase) -> bool:
            report = f"{indexed.case.report}\n\n{indexed.case.report_es}"
            present = frozenset(finding.name for finding in indexed.case.findings if finding.status == "present")
            return holds(expression, present, lambda words: says(report, words))

        return [one for one in ranked if one.case_id in cases and may_be(cases[one.case_id])]

    def _by_region(self, region: np.ndarray, ranked: Sequence[_Ranked]) -> list[_Ranked]:
        """Rank the first hits anew by their region that is most like the one asked for."""
        first, rest = ranked[:_COMPARED], ranked[_COMPARED:]
        cases = self.index.cases([one.case_id for one in first])
        volumes = {case_id: indexed.volume for case_id, indexed in cases.items()}
        likeness = {one.case_id: self._evidence.likeness(volumes.get(one.case_id), region) for one in first}
        told = [
            replace(
                one,
                score=round(cosine, 6),
                parts=(*one.parts, ("region", round(cosine, 6))),
                shares=(("region", cosine),),
            )
            for one in first
            if (cosine := likeness[one.case_id]) is not None
        ]
        told.sort(key=lambda one: (-one.score, one.case_id))
        lowest = told[-1].score if told else 1.0
        untold = [one for one in first if likeness[one.case_id] is None]
        return [*told, *(replace(one, score=min(one.score, lowest)) for one in (*untold, *rest))]

    def _grouped(self, ranked: list[_Ranked], group: str) -> list[_Ranked]:
        """Keep the best case of each study or patient."""
        if not group:
            return ranked
        best: dict[int, _Ranked] = {}
        owners = self.index.names(f"{group}_id", points_of(one.case_id for one in ranked))
        for one, owner in zip(ranked, owners.tolist(), strict=True):
            best.setdefault(owner, one)
        return list(best.values())

    def _page(self, ranked: Sequence[_Ranked], query: Query) -> Sequence[_Ranked]:
        return ranked[query.offset : query.offset + query.k]

    def _judged(self, asked: Asked, passing: Condition) -> int:
        return self.index.count(passing, sorted(asked.judged)) if asked.judged else 0

    # ---- telling -----------------------------------------------------------------------------------------------------

    def _doubts(self, asked: Asked, ranked: Sequence[_Ranked]) -> tuple[str, ...]:
        """Say why nothing in the index seems to be what was asked for; nothing when something does."""
        if not ranked:
            return ()
        names = asked.words.present
        if asked.text and names:
            points = points_of(one.case_id for one in ranked[:_COMPARED])
            return () if self._has(names, points).any() else (_NO_CASE.format(asked=" or ".join(names)),)
        if asked.unknown and not self.index.knows(asked.words.affirmed):
            return (_NO_WORD.format(words=", ".join(word[:60] for word in asked.unknown[:5])),)
        return self._unlike(asked, ranked)

    def _not_together(self, asked: Asked, ranked: Sequence[_Ranked]) -> tuple[str, ...]:
        """Say that findings which were asked for stand in no case together; nothing of a whole report's many."""
        names = asked.words.present
        if not asked.text or not 2 <= len(names) <= _TOGETHER or asked.known is not None:
            return ()
        points = points_of(one.case_id for one in ranked[:_COMPARED])
        if self._has(names, points).all(axis=0).any():
            return ()
        is_anywhere = self.index.count(AllOf((asked.where, *map(is_there, names))))
        return () if is_anywhere else (_NOT_TOGETHER.format(asked=" and ".join(names)),)

    def _has(self, names: Sequence[str], points: np.ndarray) -> np.ndarray:
        """Tell which cases are known to have each finding, or a kind of it; (names, points)."""
        return np.array([self.index.says("findings", kinds_of(name), points).any(axis=0) for name in names])

    def _unlike(self, asked: Asked, ranked: Sequence[_Ranked]) -> tuple[str, ...]:
        """Compare the best cosine with what it is for queries that have answers, where that was measured."""
        if not self._calibration.is_for(self._model.digest):
            return ()
        part, least, told = "report", self._calibration.least_text, _NO_GOOD_TEXT
        if asked.is_ct:
            part, least, told = "image", self._calibration.least_ct, _NO_GOOD_CT
        best = max((value for one in ranked for name, value in one.parts if name == part), default=None)
        if best is None or least is None or best >= least or not (asked.text or asked.is_ct):
            return ()
        return (told.format(best=best),)

    def _cases(self, page: Sequence[_Ranked] | Sequence[Hit]) -> dict[str, IndexedCase]:
        return self.index.cases([one.case_id for one in page])

    def _hits(
        self, ranked: Sequence[_Ranked], cases: Mapping[str, IndexedCase], query: Query, asked: Asked
    ) -> list[Hit]:
        # A case may have been removed since it was ranked.
        there = [one for one in ranked if one.case_id in cases]
        return [
            self._hit(rank, one, cases[one.case_id], asked) for rank, one in enumerate(there, start=query.offset + 1)
        ]

    def _hit(self, rank: int, ranked: _Ranked, indexed: IndexedCase, asked: Asked) -> Hit:
        case = indexed.case
        present = dict.fromkeys(finding.name for finding in case.findings if finding.status == "present")
        matched, negated, missing = compare_findings(asked.words.present, present.keys(), set(indexed.negated))
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
            caution="; ".join(self._cautions(indexed, asked)),
            parts=ranked.parts,
            shares=ranked.shares,
            matched=matched,
            negated=negated,
            missing=missing,
        )

    def _cautions(self, indexed: IndexedCase, asked: Asked) -> list[str]:
        case = indexed.case
        cautions = [_NOT_CHEST.format(region=case.region)] if case.region != "chest" else []
        cautions += asked.cautions
        if self._is_synthetic and (asked.is_ct or not case.is_synthetic):
            cautions.append(_SYNTHETIC_MODEL)
        return cautions

    def _explained(self, told: Hit, asked: Asked) -> Hit:
        if asked.text:
            more = likest_sentences(told.report, asked.text, self._model, besides=told.sentences)
            told = replace(told, sentences=(*told.sentences, *more))
        heat = self._heat(asked, told)
        return replace(told, evidence=None if heat is None else evidence_in(heat))

    def _heat(self, asked: Asked, hit: Hit) -> HeatMap | None:
        if asked.region is not None:
            return self._evidence.of_region(hit.volume, asked.region)
        name = next(iter((*hit.matched, *hit.missing)), None)
        if name is not None:
            is_alone = len(asked.words.present) == 1 and not asked.words.negated and asked.text
            return self._evidence.of_finding(hit.volume, name, asked.text if is_alone else "")
        return self._evidence.of_text(hit.volume, asked.text) if asked.text and not asked.words.present else None


def _with_sentences(hits: Sequence[Hit], cases: Mapping[str, IndexedCase], asked: Asked) -> list[Hit]:
    told = []
    for hit in hits:
        is_english = hit.case_id in cases and cases[hit.case_id].case.report
        sentences = best_sentences(hit.report, "en" if is_english else "es", asked.text, asked.words)
        told.append(replace(hit, sentences=sentences))
    return told
