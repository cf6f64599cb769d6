"""Who asks for whom on one split, before any model is asked.

In: the cases of a split, maybe the names of findings. Out: a ``Trial``: the queries, the galleries and what is right,
the same for every model, so that results on one split can be compared query by query. Refused: a split with fewer than
two patients who have a report, an unknown finding.

The paper leaves open who asks for whom, so this is our reading:

- The gallery of text-to-image is every volume of the split that has a report; its queries are the reports, each once a
  study, whole. The gallery of image-to-text is those same reports; its queries are the volumes.
- Right answers are everything of the same study and everything with the same report text.
- A keyword is asked by its bare canonical name and answered by image alone. Its gallery is every volume whose findings
  are known; relevant are those where it is present, neither absent nor uncertain. The mean is over the findings that at
  least 5% of the gallery has or, where findings are asked for by name, over those that at least one case has.
- A finding is classified without training on the same gallery; a case that has it as uncertain is left out.
- A CT asks for CTs of other patients. A finding shared is what makes an answer relevant: any, for MAP; the number of
  shared ones is the gain of nDCG. (So is multi-label image retrieval measured: Zhao et al., CVPR 2015, 1556-1564.)
  Volumes without any finding ask nothing and are wrong answers.
- Cases without a report take no part in caption retrieval, cases without known findings none in the rest.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medfinder.curation.keywords import resolve_keyword
from medfinder.errors import ConfigError
from medfinder.records import Case

Booleans = NDArray[np.bool_]
Places = NDArray[np.intp]

PAPER_KEYWORDS = ("atelectasis", "consolidation", "adenopathy")
"""The three of the paper's table 3."""

MIN_BASE_RATE = 0.05
"""Ours: with fewer relevant cases than that, P@20 of a split of 400 cannot reach 1."""

_BLOCK = 256
_STATUS = {"present": 1, "absent": 0, "uncertain": -1}


@dataclass(frozen=True)
class Trial:
    """The queries and galleries of one split.

    Attributes:
        cases: all of the split; places below are places in it.
        paired: places of the cases with a report: the volumes of caption retrieval.
        reports: one case for each report of each study.
        known: places of the cases whose findings are known.
        names: findings that are asked for.
        is_chosen: the names were asked for by the user.
    """

    cases: tuple[Case, ...]
    paired: Places
    reports: tuple[Case, ...]
    known: Places
    names: tuple[str, ...]
    is_chosen: bool

    @property
    def volumes(self) -> tuple[Case, ...]:
        """The cases of caption retrieval."""
        return tuple(self.cases[place] for place in self.paired)

    @property
    def gallery(self) -> tuple[Case, ...]:
        """The cases with known findings."""
        return tuple(self.cases[place] for place in self.known)

    @cached_property
    def status(self) -> NDArray[np.int8]:
        """1 present, 0 absent, -1 uncertain, for names x gallery."""
        table = np.zeros((len(self.names), len(self.known)), dtype=np.int8)
        for column, case in enumerate(self.gallery):
            found = {finding.name: 0 for finding in case.findings}
            for finding in case.findings:
                # Present in one place outweighs doubt in another.
                found[finding.name] = _strongest(found[finding.name], _STATUS[finding.status])
            for row, name in enumerate(self.names):
                table[row, column] = found.get(name, 0)
        return table

    @cached_property
    def shares(self) -> NDArray[np.int64]:
        """How many findings two cases of the gallery have in common; none with oneself or another CT of one's own."""
        names = sorted({finding.name for case in self.gallery for finding in case.findings})
        column = {name: number for number, name in enumerate(names)}
        has = np.zeros((len(self.known), len(names)), dtype=np.float32)
        for row, case in enumerate(self.gallery):
            for name in present_names(case):
                has[row, column[name]] = 1
        shared = (has @ has.T).astype(np.int64)
        shared[self.is_own] = 0
        return shared

    @cached_property
    def is_own(self) -> Booleans:
        """Whether two cases of the gallery are of one patient or one study."""
        same = np.zeros((len(self.known), len(self.known)), dtype=bool)
        for ids in ([case.patient_id for case in self.gallery], [case.study_id for case in self.gallery]):
            _, code = np.unique(np.asarray(ids, dtype=str), return_inverse=True)
            same |= code[:, None] == code
        return same

    @property
    def is_averaged(self) -> Booleans:
        """Which names the mean is over."""
        rate = (self.status == 1).mean(axis=1)
        return np.asarray(rate > 0 if self.is_chosen else rate >= MIN_BASE_RATE)

    def right(self, askers: Sequence[Case], answers: Sequence[Case]) -> Iterator[tuple[slice, Booleans]]:
        """Say block by block which answers are right, without holding the whole matrix."""
        study = {study_id: code for code, study_id in enumerate({case.study_id for case in answers})}
        text = {report: code for code, report in enumerate({case.report for case in answers})}
        answer_study = np.array([study[case.study_id] for case in answers])
        answer_text = np.array([text[case.report] for case in answers])
        for start in range(0, len(askers), _BLOCK):
            some = askers[start : start + _BLOCK]
            asker_study = np.array([study[case.study_id] for case in some])
            asker_text = np.array([text[case.report] for case in some])
            right = (asker_study[:, None] == answer_study) | (asker_text[:, None] == answer_text)
            yield slice(start, start + len(some)), right


def set_trial(cases: Sequence[Case], split: str, keywords: Sequence[str] | None = None) -> Trial:
    """Set the queries and galleries of a split.

    Args:
        cases: of the split.
        split: how messages name it.
        keywords: names, synonyms or abbreviations; None takes the paper's three and every finding that at least 5% of
            the cases with known findings have.

    Raises:
        ConfigError: too few patients, or an unknown keyword.
    """
    asked = None if keywords is None else resolve_keywords(keywords)
    paired = [place for place, case in enumerate(cases) if case.report.strip()]
    _require_patients([cases[place] for place in paired], f"split {split} with a report")
    reports = {(cases[place].study_id, cases[place].report): cases[place] for place in paired}
    known = [place for place, case in enumerate(cases) if case.findings_from != "none"]
    if len({cases[place].patient_id for place in known}) < 2:
        if asked is not None:
            _require_patients([cases[place] for place in known], "this split with known findings")
        known = []
    names = asked if asked is not None else _default_keywords([present_names(cases[place]) for place in known])
    return Trial(
        cases=tuple(cases),
        paired=np.array(paired, dtype=np.intp),
        reports=tuple(reports.values()),
        known=np.array(known, dtype=np.intp),
        names=tuple(names),
        is_chosen=asked is not None,
    )


def resolve_keywords(words: Sequence[str]) -> list[str]:
    """Return the canonical names that ``words`` stand for, each once, in their order.

    Raises:
        ConfigError: a word stands for no known finding, or there is none.
    """
    names = []
    for word in words:
        name = resolve_keyword(word)
        if name is None:
            raise ConfigError(f"unknown keyword {word!r}; give a finding such as {', '.join(PAPER_KEYWORDS)}")
        names.append(name)
    if not names:
        raise ConfigError("no keyword given; name at least one finding, or leave the choice to the default")
    return list(dict.fromkeys(names))


def present_names(case: Case) -> set[str]:
    """Name what is present in a case."""
    return {finding.name for finding in case.findings if finding.status == "present"}


def _strongest(one: int, other: int) -> int:
    return 1 if 1 in (one, other) else min(one, other)


def _default_keywords(present: Sequence[set[str]]) -> list[str]:
    counts = Counter(name for found in present for name in found)
    frequent = {name for name, count in counts.items() if count >= MIN_BASE_RATE * len(present)}
    return [*PAPER_KEYWORDS, *sorted(frequent - set(PAPER_KEYWORDS))]


def _require_patients(cases: Sequence[Case], what: str) -> None:
    patients = len({case.patient_id for case in cases})
    if patients < 2:
        raise ConfigError(
            f"{what} holds {len(cases)} cases of {patients} patients; ranks and intervals need at least 2 patients"
        )
