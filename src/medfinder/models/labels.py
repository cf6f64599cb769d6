"""Findings as a fixed list of labels, for the supervised term of training.

In: the findings of cases. Out: label names such as ``"nodule"``, ``"nodule | left"``, ``"nodule | left upper lobe"``,
and 0/1 targets. Only findings that are present count; a bilateral finding is on the left and on the right.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from medfinder.records import Finding


def labels_of(findings: Iterable[Finding]) -> frozenset[str]:
    """Name the labels that some findings make true.

    Example:
        >>> sorted(labels_of([Finding("nodule", laterality="left", location="upper lobe")]))
        ['nodule', 'nodule | left', 'nodule | left upper lobe', 'nodule | upper lobe']
    """
    labels = set()
    for finding in findings:
        if finding.status != "present":
            continue
        name = finding.name
        sides = {"bilateral": ("left", "right", "bilateral")}.get(finding.laterality or "", (finding.laterality,))
        labels.add(name)
        labels |= {f"{name} | {side}" for side in sides if side}
        if finding.grade:
            labels.add(f"{name} | {finding.grade}")
        if finding.location:
            labels.add(f"{name} | {finding.location}")
            labels |= {f"{name} | {side} {finding.location}" for side in sides if side}
    return frozenset(labels)


def choose_labels(cases: Iterable[Iterable[Finding]], *, at_least: int) -> tuple[str, ...]:
    """List the labels that at least so many cases have, in alphabetical order."""
    counts = Counter(label for findings in cases for label in labels_of(findings))
    return tuple(sorted(label for label, count in counts.items() if count >= at_least))


def names_of(labels: Sequence[str]) -> tuple[str, ...]:
    """List the findings that some labels are about, in alphabetical order.

    Example:
        >>> names_of(["nodule", "nodule | left", "mass | left"])
        ('mass', 'nodule')
    """
    return tuple(sorted({name_of(label) for label in labels}))


def name_of(label: str) -> str:
    """Name the finding that a label is about.

    Example:
        >>> name_of("nodule | left upper lobe")
        'nodule'
    """
    return label.partition(" | ")[0]


def label_targets(cases: Sequence[Iterable[Finding]], labels: Sequence[str]) -> np.ndarray:
    """Make the (cases, labels) float32 array of 0 and 1 from what each case has."""
    return mark_labels([labels_of(findings) for findings in cases], labels)


def mark_labels(true: Sequence[frozenset[str]], labels: Sequence[str]) -> np.ndarray:
    """Make the (rows, labels) float32 array of 0 and 1 from the labels that are true of each row."""
    return np.array([[label in some for label in labels] for some in true], np.float32).reshape(len(true), len(labels))


def phrase_of(label: str) -> str:
    """Say a label as one would type it into a search box.

    Example:
        >>> phrase_of("nodule | left upper lobe"), phrase_of("pleural effusion | left"), phrase_of("mass")
        ('left upper lobe nodule', 'left pleural effusion', 'mass')
    """
    name, _, attribute = label.partition(" | ")
    return f"{attribute} {name}" if attribute else name


@dataclass(frozen=True)
class ShortQuery:
    """A short text with the labels that a right answer has and has not."""

    text: str
    present: frozenset[str]
    absent: frozenset[str]

    @property
    def wanted(self) -> frozenset[str]:
        """Name the labels that it asks for, and their findings: a left effusion is an effusion."""
        return self.present | frozenset(names_of(tuple(self.present)))

    def fits(self, labels: frozenset[str]) -> bool:
        """Say whether a case with these labels is a right answer."""
        return self.present <= labels and not (self.absent & labels)


# How a search says that something is not there; after "and" or "with" all of them still read as English.
DENIALS = ("no {}", "no {}", "without {}", "no evidence of {}")
# Share of the queries that name only what is not there, and of the others, those that name one such finding besides.
# Ours: of a model that has never read "no nodule" alone nobody knows what it makes of it.
DENIES_ALONE, DENIES_TOO = 0.15, 0.25


def draw_query(findings: Iterable[Finding], names: Sequence[str], rng: np.random.Generator) -> ShortQuery | None:
    """Make a short query that the case answers: one to three of its labels, sometimes one finding that it lacks.

    Some name only one or two findings that it lacks: all that can be asked for where nothing is found.

    Args:
        names: findings that may be named as absent.
    """
    own = labels_of(findings)
    lacking = [name for name in names if name not in own]
    denies_alone = bool(lacking) and (not own or rng.random() < DENIES_ALONE)
    if not own and not denies_alone:
        return None
    if denies_alone:
        chosen, denied = [], min(len(lacking), int(rng.integers(1, 3)))
    else:
        chosen = [
            str(label) for label in rng.choice(sorted(own), min(len(own), int(rng.integers(1, 4))), replace=False)
        ]
        denied = int(bool(lacking) and rng.random() < DENIES_TOO)
    absent = [str(name) for name in rng.choice(lacking, denied, replace=False)] if denied else []
    parts = [phrase_of(label) for label in chosen] + [str(rng.choice(DENIALS)).format(name) for name in absent]
    joint = str(rng.choice([", ", " and ", ". "] if denies_alone else [", ", " and ", " with ", ". "]))
    return ShortQuery(joint.join(parts), frozenset(chosen), frozenset(absent))
