"""The review queue: what a person should look at, what persons decided, and what follows for the dataset.

In: cases with doubts, and the decisions of readers. Out: the items of the queue; the cases that stand, those that are
held, and what was rejected. Decisions lie in ``decisions.jsonl`` in the dataset folder, one a line, in the order in
which they were made; nothing is ever taken out of it, the last word on an item counts. Refused: a decision that names
no item, a correction without a text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from medfinder.curation.dataset import Figures
from medfinder.curation.journal import Journal
from medfinder.curation.keywords import extract_findings
from medfinder.curation.report import count_words
from medfinder.errors import ConfigError
from medfinder.records import Case, Doubt, Dropped

DECISIONS = "decisions.jsonl"

Verdict = Literal["accept", "reject", "correct", "reopen"]
_VERDICTS: dict[str, Verdict] = {verdict: verdict for verdict in get_args(Verdict)}

# A doubt about the text concerns every volume of its study, one about quality a single volume.
_OF_THE_VOLUME = ("quality", "diagnosis")
_OF_THE_TEXT = ("deidentification", "translation")
STAGES = ("pairing", "deidentification", "translation", "quality", "diagnosis")


@dataclass(frozen=True, slots=True)
class Decision:
    """What a reader decided about an item.

    Attributes:
        item: key of the item, e.g. ``"translation/1f3a..."``.
        verdict: ``"correct"`` accepts the text as corrected, ``"reopen"`` takes back what was decided before.
        reader: who; as the readers of a project call each other, no patient data.
        at: when, ISO 8601, UTC.
        before: the text that the reader saw; empty where no text is in question.
        after: the text as the reader corrected it.
        note: a remark.
    """

    item: str
    verdict: Verdict
    reader: str
    at: str
    before: str = ""
    after: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to look at.

    Attributes:
        key: stage and the id of case or study.
        case_ids: the volumes that it concerns.
        decision: the last word so far; None when nobody has looked.
    """

    key: str
    stage: str
    study_id: str
    case_ids: tuple[str, ...]
    doubts: tuple[Doubt, ...]
    decision: Decision | None

    @property
    def holds(self) -> bool:
        """Whether the case is kept out until somebody decides."""
        return self.decision is None and any(doubt.holds for doubt in self.doubts)


@dataclass(frozen=True, slots=True)
class Settled:
    """What follows from the decisions."""

    cases: tuple[tuple[Case, Figures], ...]
    held: tuple[tuple[Case, Figures], ...]
    rejected: tuple[Dropped, ...]


def item_key(stage: str, case: Case) -> str:
    """Name the item of a stage that concerns a case."""
    return f"{stage}/{case.case_id if stage in _OF_THE_VOLUME else case.study_id}"


def list_items(rows: Iterable[tuple[Case, Figures]], decisions: Sequence[Decision]) -> list[Item]:
    """Make the queue: what holds a case first, then what nobody has looked at, then what is decided."""
    last = {key: decided[-1] for key, decided in _standing(decisions).items()}
    items: dict[str, Item] = {}
    for case, figures in rows:
        for stage in dict.fromkeys(doubt.stage for doubt in figures.doubts):
            key = item_key(stage, case)
            doubts = tuple(doubt for doubt in figures.doubts if doubt.stage == stage)
            known = items.get(key)
            if known is None:
                items[key] = Item(key, stage, case.study_id, (case.case_id,), doubts, last.get(key))
            else:
                items[key] = replace(known, case_ids=(*known.case_ids, case.case_id))
    return sorted(items.values(), key=lambda item: (not item.holds, item.decision is not None, item.key))


def count_items(items: Iterable[Item]) -> list[dict[str, str | int]]:
    """Count the queue by stage and reason: all items, the undecided ones, and those that hold a case back."""
    counts: dict[tuple[str, str], list[int]] = {}
    for item in items:
        for doubt in item.doubts:
            count = counts.setdefault((item.stage, doubt.reason), [0, 0, 0])
            count[0] += 1
            count[1] += item.decision is None
            count[2] += item.holds and doubt.holds
    return [
        {"stage": stage, "reason": reason, "items": count[0], "undecided": count[1], "holding": count[2]}
        for (stage, reason), count in sorted(counts.items())
    ]


def settle(rows: Sequence[tuple[Case, Figures]], decisions: Sequence[Decision]) -> Settled:
    """Part cases that stand from those that wait or were rejected.

    Args:
        rows: every case that passed the filters, whatever was decided before: the outcome depends on rows and decisions
            alone, so that a decision that is taken back leaves no trace but its line.
    """
    history = _standing(decisions)
    corrections = {decision.item: decision for decision in reversed(decisions) if decision.verdict == "correct"}
    cases, held, rejected = [], [], []
    for case, figures in rows:
        stages = dict.fromkeys([*(doubt.stage for doubt in figures.doubts), *STAGES])
        said = {stage: history[item_key(stage, case)] for stage in stages if item_key(stage, case) in history}
        for stage in _OF_THE_TEXT:
            case, figures = _correct(case, figures, corrections.get(item_key(stage, case)), said.get(stage, []))
        refusals = [stage for stage, decided in said.items() if decided[-1].verdict == "reject"]
        if refusals:
            detail = f"a reader rejected it, stage {' and '.join(refusals)}"
            rejected.append(
                Dropped(case.study_id, case.case_id, case.source, "review", f"rejected: {refusals[0]}", detail)
            )
        if refusals or any(doubt.holds and doubt.stage not in said for doubt in figures.doubts):
            held.append((case, figures))
        else:
            cases.append((case, figures))
    return Settled(tuple(cases), tuple(held), tuple(rejected))


def _standing(decisions: Sequence[Decision]) -> dict[str, list[Decision]]:
    """Give the decisions on each item since it was last reopened, in their order."""
    history: dict[str, list[Decision]] = {}
    for decision in decisions:
        if decision.verdict == "reopen":
            history.pop(decision.item, None)
        else:
            history.setdefault(decision.item, []).append(decision)
    return history


def _correct(
    case: Case, figures: Figures, first: Decision | None, standing: Sequence[Decision]
) -> tuple[Case, Figures]:
    """Put in the text that the last decision leaves standing; where all was taken back, the one that stood before.

    Args:
        first: the first correction that was ever made.
        standing: the decisions that were not taken back.
    """
    if first is None:
        return case, figures
    last = standing[-1] if standing else None
    text = first.before if last is None else last.after if last.verdict == "correct" else last.before
    # What was read from the Spanish as written does not hang on its translation.
    is_read = case.findings_from == "report" and not case.report_es
    findings = extract_findings(text, "en") if is_read else case.findings
    return replace(case, report=text, findings=findings), replace(figures, words=count_words(text))


def read_decisions(dataset: Path) -> list[Decision]:
    """Read what was decided so far; a last line that was torn when the power went is passed over."""
    return Journal(dataset / DECISIONS, Decision).read()


def decide(
    dataset: Path,
    items: Mapping[str, Item],
    key: str,
    verdict: str,
    *,
    reader: str,
    before: str = "",
    after: str = "",
    note: str = "",
) -> Decision:
    """Write a decision down at once, so that it outlives the process.

    Raises:
        ConfigError: there is no such item or verdict, no reader is named, or a correction has no text.
    """
    if key not in items:
        raise ConfigError(f"no item {key!r} in the review queue of {dataset}")
    if verdict not in _VERDICTS:
        raise ConfigError(f"verdict {verdict!r}; expected {', '.join(_VERDICTS)}")
    if not reader.strip():
        raise ConfigError("a decision needs its reader; say who you are")
    if verdict == "correct" and not after.strip():
        raise ConfigError("a correction needs the corrected text")
    at = datetime.now(UTC).isoformat(timespec="seconds")
    decision = Decision(key, _VERDICTS[verdict], reader.strip(), at, before, after, note)
    Journal(dataset / DECISIONS, Decision).append(decision)
    return decision
