"""Reading a query: from words, CTs and cases to vectors, terms and conditions.

In: a ``Query``. Out: ``Asked``, all that ranking needs to know. Refused with ``ConfigError``: queries that ask for
nothing or for too much, cases that the index does not hold, numbers out of range. CTs that cannot be read are refused
with ``VolumeError``.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medfinder.curation.keywords import resolve_keyword
from medfinder.errors import ConfigError
from medfinder.records import Box, Query
from medfinder.retrieval.engine import Space
from medfinder.retrieval.evidence import EvidenceFinder
from medfinder.retrieval.filters import AllOf, Condition, Not, equals, mentions, parse_filter
from medfinder.retrieval.fusion import Calibration, Weights
from medfinder.retrieval.index import SearchIndex
from medfinder.retrieval.lexical import Terms, Words, describe_finding, describe_query, plain_terms, tokenise
from medfinder.retrieval.patient import read_patient
from medfinder.retrieval.query import (
    SHORTEST_MENDED,
    Expression,
    is_expression,
    is_there,
    known,
    mend_word,
    parse_keywords,
    parse_normal,
    parse_text,
    possible,
    text_of,
    words_of,
)
from medfinder.volume import Grid, Volume, body_region, read_volume, standardise_file

if TYPE_CHECKING:
    from medfinder.models.protocol import DualEncoder

# How deep an answer may be paged.
MAX_HITS = 1_000

# A long report has some 5,000 characters; ten times that is no question any more.
MAX_CHARACTERS = 50_000

# Ours: far more than anybody judges by hand.
MAX_JUDGED = 200

# Rocchio's weights, as Manning, Raghavan and Schuetze give them ("Introduction to Information Retrieval", 2008, 9.1.1);
# that of the query itself is 1.
_LIKED, _DISLIKED = 0.75, 0.15

GROUPS = ("", "study", "patient")

_QUERY_NOT_CHEST = "the CT that was asked with does not look like a chest: {reason}"
_NORMAL = "read as: nothing was found; cases that are known to show something are left out"
_PATIENT = "whose examination it is does not rank; to keep to these patients, filter by: {filter}"
_NO_REGIONS = "this model has no vectors of regions: the box was not looked at, cases are ranked by the whole CT"

_NOTHING = Words(Terms((), ()), Terms((), ()))
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, eq=False)
class Asked:
    """A query that was read.

    Attributes:
        text: what is asked for in plain words, for a text encoder; empty without words.
        expression: what was written with operators, or as a keyword.
        vectors: what the embeddings of image and report are compared with.
        weights: of the parts of a score.
        where: what every hit must pass.
        region: vector of the box; None without one.
        judged: cases that are not shown again.
        unknown: words that stand in no report and that the library does not know.
        notes: remarks for the reader; ``cautions`` are those that every hit must carry.
        is_ct: asked with a CT from outside the index, and nothing else.
    """

    text: str
    words: Words
    expression: Expression | None
    vectors: dict[Space, np.ndarray]
    weights: Weights
    where: Condition
    region: np.ndarray | None = None
    judged: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    is_ct: bool = False

    @property
    def known(self) -> Condition | None:
        """What is known to be an answer; None when nothing is a known answer."""
        return None if self.expression is None else known(self.expression)

    @property
    def possible(self) -> Condition:
        """What may be an answer."""
        more = None if self.expression is None else possible(self.expression)
        return self.where if more is None else AllOf((self.where, more))


class _Said(NamedTuple):
    """What the words of a query say."""

    text: str = ""
    words: Words = _NOTHING
    expression: Expression | None = None
    notes: tuple[str, ...] = ()


class _Shown(NamedTuple):
    """What a CT or a case shows."""

    vectors: dict[Space, np.ndarray]
    region: np.ndarray | None = None
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


class QueryReader:
    """Reads queries for one index and one model."""

    def __init__(
        self, index: SearchIndex, model: "DualEncoder", evidence: EvidenceFinder, calibration: Calibration
    ) -> None:
        self._index = index
        self._model = model
        self._evidence = evidence
        self._calibration = calibration

    def read(self, query: Query) -> Asked:
        """Read a query.

        Raises:
            ConfigError: it cannot be honoured; the message says why.
            VolumeError: the CT cannot be read.
        """
        _check(query)
        where = _region_default(parse_filter(query.where) if query.where is not None else None)
        said = self._said(query)
        shown = self._shown(query)
        judged = [*query.liked, *query.disliked]
        vectors = self._moved(self._base(said, shown), query)
        words = said.words if said.text else replace(_NOTHING, present=shown.findings)
        if query.text is not None and said.expression is None:
            where = AllOf((where, *(Not(is_there(name)) for name in words.negated)))
        return Asked(
            text=said.text,
            words=words,
            expression=said.expression,
            vectors=vectors,
            weights=self._weights(said),
            where=where,
            region=shown.region,
            judged=frozenset([*judged, *([query.case_id] if query.case_id else [])]),
            unknown=self._unknown(said),
            notes=(*said.notes, *shown.notes, *shown.cautions),
            cautions=shown.cautions,
            is_ct=query.ct is not None and not said.text,
        )

    def _weights(self, said: _Said) -> Weights:
        if not said.text:
            return self._calibration.ct
        return self._calibration.finding if said.words.present else self._calibration.text

    # ---- words -------------------------------------------------------------------------------------------------------

    def _said(self, query: Query) -> _Said:
        if query.keyword is not None:
            expression, remarks = parse_keywords(query.keyword)
            return _said_by(expression, remarks)
        if query.text is not None and is_expression(query.text):
            return _said_by(parse_text(query.text))
        if query.report is not None:
            return _Said(query.report, describe_query(query.report))
        if query.text is not None:
            text, patient = read_patient(query.text)
            told = (_PATIENT.format(filter=patient),) if patient and query.where is None else ()
            if normal := parse_normal(text):
                return _said_by(normal, (*told, _NORMAL))
            text, remarks = self._mended(text)
            return _Said(text, describe_query(text), None, (*told, *remarks))
        return _Said()

    def _mended(self, text: str) -> tuple[str, tuple[str, ...]]:
        """Put the library's words in the place of long words that no report holds and that are nearly one of them."""
        remarks = []
        for word in dict.fromkeys(_WORD.findall(text)):
            if (
                len(word) >= SHORTEST_MENDED
                and not self._stands_somewhere(word)
                and (meant := mend_word(word))
                and meant != word.lower()
            ):
                text = re.sub(rf"\b{word}\b", meant, text)
                remarks.append(f"{word!r} was read as {meant}")
        return text, tuple(remarks)

    def _stands_somewhere(self, word: str) -> bool:
        terms = plain_terms(word)
        return not terms or bool(self._index.knows(terms)) or resolve_keyword(word) is not None

    def _unknown(self, said: _Said) -> tuple[str, ...]:
        """List the words that stand in no report; none where the library knows what is meant."""
        if not said.text or said.words.present or said.words.negated:
            return ()
        words = [word for word in dict.fromkeys(_WORD.findall(said.text)) if tokenise(word)]
        return tuple(word for word in words if not self._stands_somewhere(word))

    # ---- CTs and cases -----------------------------------------------------------------------------------------------

    def _shown(self, query: Query) -> _Shown:
        if query.ct is not None:
            return self._shown_by_ct(query.ct, query)
        if query.case_id is not None:
            return self._shown_by_case(query.case_id, query)
        return _Shown({})

    def _shown_by_ct(self, path: Path, query: Query) -> _Shown:
        volume = _read_query_ct(path, self._model.grid)
        looks = body_region(volume)
        vector = self._model.encode_volumes([volume.hu])[0]
        cautions = () if looks.name == "chest" else (_QUERY_NOT_CHEST.format(reason=looks.reason),)
        region, notes = self._region(query, volume)
        return _Shown({"image": vector, "report": vector}, region, (), notes, cautions)

    def _shown_by_case(self, case_id: str, query: Query) -> _Shown:
        vectors = self._vectors([case_id])[case_id]
        indexed = self._index.cases([case_id])[case_id]
        if query.box is not None and indexed.volume is None:
            raise ConfigError(f"the volume of case {case_id} has gone; a box cannot be looked at")
        region, notes = None, tuple[str, ...]()
        if query.box is not None and indexed.volume is not None:
            region, notes = self._region(query, read_volume(indexed.volume))
        present = (finding.name for finding in indexed.case.findings if finding.status == "present")
        return _Shown({"report": vectors["image"], **vectors}, region, tuple(dict.fromkeys(present)), notes)

    def _region(self, query: Query, volume: Volume) -> tuple[np.ndarray | None, tuple[str, ...]]:
        if query.box is None:
            return None, ()
        if not self._evidence.can_compare:
            return None, (_NO_REGIONS,)
        region = self._evidence.vector_of(volume.hu, volume.affine, query.box)
        if region is None:
            ends = np.array([[0, 0, 0, 1], [*volume.shape, 1]]) @ volume.affine.T
            raise ConfigError(
                f"box from {query.box.lo_mm} to {query.box.hi_mm} mm lies outside of the CT, "
                f"which reaches from {ends[0, :3].round(1).tolist()} to {ends[1, :3].round(1).tolist()} mm (RAS+)"
            )
        return region, ()

    # ---- vectors -----------------------------------------------------------------------------------------------------

    def _base(self, said: _Said, shown: _Shown) -> dict[Space, np.ndarray]:
        """Add up what words and CT ask for; a CT and words have an equal say."""
        vectors = dict(shown.vectors)
        if said.text:
            text = self._model.encode_texts([said.text])[0]
            for space in ("image", "report"):
                vectors[space] = vectors[space] + text if space in vectors else text
        return vectors

    def _moved(self, base: dict[Space, np.ndarray], query: Query) -> dict[Space, np.ndarray]:
        """Move the query towards what was liked and away from what was not (Rocchio)."""
        liked, disliked = self._vectors(query.liked), self._vectors(query.disliked)
        moved: dict[Space, np.ndarray] = {}
        spaces: tuple[Space, Space] = ("image", "report")
        for space in spaces:
            parts = [base[space]] if space in base else []
            parts += _mean_times(_LIKED, [one[space] for one in liked.values() if space in one])
            parts += _mean_times(-_DISLIKED, [one[space] for one in disliked.values() if space in one])
            total = np.sum(parts, axis=0) if parts else np.zeros(1)
            if (length := float(np.linalg.norm(total))) > 0:
                moved[space] = (total / length).astype(np.float32)
        return moved

    def _vectors(self, case_ids: Sequence[str]) -> dict[str, dict[Space, np.ndarray]]:
        found = self._index.vectors(case_ids) if case_ids else {}
        for case_id in case_ids:
            if case_id not in found:
                raise ConfigError(f"no case {case_id[:60]!r} in index {self._index.path}; take the id of a hit")
        return found


def _said_by(expression: Expression, remarks: tuple[str, ...] = ()) -> _Said:
    words = words_of(expression)
    text = text_of(expression)
    return _Said(text, describe_finding(text) if words.present == (text,) else words, expression, remarks)


def _mean_times(weight: float, vectors: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [weight * np.mean(vectors, axis=0)] if vectors else []


def parse_box(words: str) -> Box:
    """Read a box: its lowest and its highest corner, mm, RAS+.

    Raises:
        ConfigError: these are not two corners of three numbers.

    Example:
        >>> parse_box("-80,-20,100 -40,20,140")
        Box(lo_mm=(-80.0, -20.0, 100.0), hi_mm=(-40.0, 20.0, 140.0))
    """
    try:
        (a, b, c), (d, e, f) = ([float(number) for number in corner.split(",")] for corner in words.split())
    except ValueError:
        raise ConfigError(f"box {words[:60]!r}; expected two corners in mm, e.g. -80,-20,100 -40,20,140") from None
    return Box((a, b, c), (d, e, f))


# ---- refusing --------------------------------------------------------------------------------------------------------


def _check(query: Query) -> None:
    _check_page(query)
    _check_what_is_asked(query)
    for name in ("text", "report", "keyword"):
        value = getattr(query, name)
        if value is None:
            continue
        if len(value) > MAX_CHARACTERS:
            raise ConfigError(f"{name} of {len(value)} characters; at most {MAX_CHARACTERS} are searched with")
        if not any(character.isalnum() for character in value):
            raise ConfigError(f"{name} holds no words; say what to look for, e.g. pleural effusion")


def _check_page(query: Query) -> None:
    if not 1 <= query.k <= MAX_HITS:
        raise ConfigError(f"k = {query.k}; ask for 1 to {MAX_HITS} hits")
    if not 0 <= query.offset <= MAX_HITS - query.k:
        raise ConfigError(f"offset = {query.offset} with k = {query.k}; answers end with the {MAX_HITS}th hit")
    if query.group not in GROUPS:
        raise ConfigError(f"group = {query.group[:60]!r}; expected study, patient or nothing")


def _check_what_is_asked(query: Query) -> None:
    for names in (("text", "report", "keyword"), ("ct", "case_id")):
        given = [name for name in names if getattr(query, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"the query gives {' and '.join(given)}; give one of {', '.join(names)}")
    whole = [query.text, query.report, query.keyword, query.ct, query.case_id]
    if all(one is None for one in whole) and not query.liked:
        found = "only disliked cases" if query.disliked else "nothing"
        raise ConfigError(f"the query gives {found}; give text, report, keyword, ct, case_id or liked cases")
    if len(query.liked) + len(query.disliked) > MAX_JUDGED:
        raise ConfigError(f"{len(query.liked) + len(query.disliked)} judged cases; at most {MAX_JUDGED} are looked at")
    if both := set(query.liked) & set(query.disliked):
        raise ConfigError(f"case {sorted(both)[0][:60]!r} is liked and disliked; choose one")
    if query.box is not None:
        _check_box(query)


def _check_box(query: Query) -> None:
    if query.ct is None and query.case_id is None:
        raise ConfigError("a box without its CT; give ct or case_id, too")
    corners = list(zip(query.box.lo_mm, query.box.hi_mm, strict=True)) if query.box else []
    if len(corners) != 3 or not all(math.isfinite(lo) and math.isfinite(hi) and lo < hi for lo, hi in corners):
        raise ConfigError(f"box {query.box}; expected three finite mm values a corner, each lower than its higher one")


def _region_default(where: Condition | None) -> Condition:
    """Keep to chests, unless the filter asks about the region itself."""
    if where is None:
        return equals("region", "chest")
    return where if mentions(where, "region") else AllOf((where, equals("region", "chest")))


def _read_query_ct(path: Path, grid: Grid) -> Volume:
    if not path.exists():
        raise ConfigError(f"no CT at {path}; give a volume file or a folder of DICOM files")
    return standardise_file(path, grid)
