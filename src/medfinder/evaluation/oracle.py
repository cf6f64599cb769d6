"""The oracle: retrieval by what is truly in each phantom, the ceiling that no reading of images can pass by much.

In: a trial whose cases carry the truth. Out: a ``Scorer``. On the image's side it sees the true findings with side,
place, size and grade; on the report's side what the report tells of these, read by the keyword library. What a report
leaves out, or words ambiguously, the oracle does not know: that is what keeps it from rank 1. A model that also sees
what is no finding, such as contrast medium, may pass it by a little. Refused: cases whose truth is not known.

The score counts facts: one up for each that the report tells and the truth has, one down for each that it tells and the
truth has not, that it denies and the truth has, or that the truth has and it does not name. Equal weights are ours:
phantoms' reports hardly ever omit a name, and what they tell is true.
"""

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medfinder.curation.dataset import Dataset
from medfinder.curation.keywords import extract_findings, split_sentences
from medfinder.errors import ConfigError
from medfinder.evaluation.evaluate import Evaluation, measure
from medfinder.evaluation.scorers import Scores
from medfinder.evaluation.trial import Trial, set_trial
from medfinder.records import Finding
from medfinder.sources.phantoms.phrases import wordings
from medfinder.sources.phantoms.vocabulary import FINDINGS

Fact = tuple[str, str, str]

# Places that phantoms and the keyword library call differently.
_PLACES = {"bases": "basal", "upper lobes": "upper lobe", "apices": "apical"}


@dataclass(frozen=True)
class _Reading:
    """What a text says: facts that it asserts, names that it denies."""

    told: Set[Fact]
    denied: Set[str]


class OracleScorer:
    """Scores by the truth; see the module."""

    name, digest, is_synthetic = "oracle", "oracle", True

    def __init__(self, trial: Trial) -> None:
        lacking = sum(case.findings_from != "truth" for case in trial.cases)
        if lacking:
            raise ConfigError(f"{lacking} of {len(trial.cases)} cases have no known truth; the oracle is for phantoms")
        self._trial = trial
        self._facts = [list_facts(f for f in case.findings if f.status == "present") for case in trial.cases]
        self._column = {fact: place for place, fact in enumerate(sorted({f for facts in self._facts for f in facts}))}
        self._true = np.array([self._mark(facts) for facts in self._facts])
        self._is_name = np.array([fact[1] == "name" for fact in self._column])

    @cached_property
    def _readings(self) -> list[_Reading]:
        return [_read(case.report) for case in self._trial.reports]

    def score_volumes(self, reports: slice) -> Scores:
        """Score all volumes for some reports."""
        return self._score(self._readings[reports], whole=True)

    def score_reports(self, volumes: Sequence[int]) -> Scores:
        """Score all reports for some volumes."""
        return self._score(self._readings, whole=True).T[list(volumes)]

    def score_prompts(self, prompts: Sequence[str]) -> Scores:
        """Score all volumes for short texts: what they do not name is not denied."""
        return self._score([_read(prompt) for prompt in prompts], whole=False)

    def score_alike(self, volumes: Sequence[int]) -> Scores:
        """Score volumes by how many findings they share."""
        names = self._true[:, self._is_name]
        return np.asarray(names[list(volumes)] @ names.T, dtype=np.float64)

    def _score(self, readings: Sequence[_Reading], *, whole: bool) -> Scores:
        told = np.array([self._mark(reading.told) for reading in readings])
        names = [{(name, "name", "") for name in reading.denied} for reading in readings]
        against = np.array([self._mark(facts) for facts in names])
        if whole:
            against += self._is_name * (1 - told)
        # Facts that no volume has lower all scores alike.
        return np.asarray(told @ (2 * self._true - 1).T - against @ self._true.T, dtype=np.float64)

    def _mark(self, facts: Iterable[Fact]) -> NDArray[np.float64]:
        row = np.zeros(len(self._column))
        row[[self._column[fact] for fact in facts if fact in self._column]] = 1
        return row


def evaluate_oracle(dataset: Dataset, split: str, *, seed: int = 0, bootstrap: int = 1000) -> Evaluation:
    """Measure the oracle on one split as :func:`medfinder.evaluation.evaluate.evaluate_fully` measures a model.

    Raises:
        ConfigError: the truth of a case is not known.
    """
    trial = set_trial(dataset.select(split), split)
    return measure(trial, OracleScorer(trial), dataset=dataset.digest, split=split, seed=seed, bootstrap=bootstrap)


def list_facts(findings: Iterable[Finding]) -> set[Fact]:
    """List what findings say: each name, and its sides, places, sizes and grades.

    Example:
        >>> sorted(list_facts([Finding("mass", laterality="left", size_mm=41.2)]))
        [('mass', 'name', ''), ('mass', 'side', 'left'), ('mass', 'size', '41 mm')]
    """
    facts: set[Fact] = set()
    for finding in findings:
        name, place = finding.name, _PLACES.get(finding.location or "", finding.location)
        facts.add((name, "name", ""))
        facts |= {(name, "side", finding.laterality)} if finding.laterality else set()
        facts |= {(name, "place", place)} if place else set()
        facts |= {(name, "side and place", f"{finding.laterality} {place}")} if finding.laterality and place else set()
        facts |= {(name, "size", f"{finding.size_mm:.0f} mm")} if finding.size_mm is not None else set()
        facts |= {(name, "grade", finding.grade)} if finding.grade else set()
    return facts


def _read(text: str) -> _Reading:
    findings = extract_findings(text, "en")
    told = [finding for finding in findings if finding.status != "absent"]
    told += [graded for sentence in split_sentences(text) for graded in _read_grades(sentence)]
    names = {finding.name for finding in told}
    return _Reading(list_facts(told), {finding.name for finding in findings} - names)


def _read_grades(sentence: str) -> list[Finding]:
    """Read how marked the one finding of a sentence is; of several it would be unclear which is meant."""
    found = [finding for finding in extract_findings(sentence, "en") if finding.status != "absent"]
    names = {finding.name for finding in found}
    if len(names) != 1 or found[0].name not in FINDINGS:
        return []
    bare = replace(found[0], laterality=None, location=None, size_mm=None)
    words = wordings()["degree"]["en"]
    return [
        replace(bare, grade=grade)
        for grade in FINDINGS[bare.name].grades
        if any(re.search(rf"\b{word}(ly)?\b", sentence, re.IGNORECASE) for word in words.get(grade, ()))
    ]
