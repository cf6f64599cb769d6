"""What readers do in the review page: each word on a finding, each case finished, each look at a report.

In: a dataset folder and what one reader does. Out: ``Reading`` records in ``diagnoses.jsonl``, each on the disk before
its call returns, with who, when, before and after; and what stands of them. Nothing is ever taken out: to undo is to
write the earlier word anew. Readers never overwrite one another, since a word is known by its case, its finding and
its reader. Refused: a reader without a name, a finding that no keyword names, an unknown status.

To finish a case is to say that nothing else is there: whatever another reader names in that case, and the one who has
finished did not, is then absent in that reader's eyes (``diagnoses.deny_unnamed``). A report once looked at stays
looked at: words after that carry ``report_shown``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from medfinder.curation.journal import Journal
from medfinder.curation.keywords import KEYWORDS
from medfinder.errors import ConfigError

READINGS = "diagnoses.jsonl"

Act = Literal["say", "finish", "look"]
# What a word may be; empty where none stands.
Word = Literal["", "present", "absent", "uncertain", "finished", "shown"]
_SAID: dict[str, Word] = {"": "", "present": "present", "absent": "absent", "uncertain": "uncertain"}


@dataclass(frozen=True, slots=True)
class Reading:
    """One thing that a reader did.

    Attributes:
        act: ``"say"`` is a word on a finding, ``"finish"`` closes the case or opens it again, ``"look"`` is a look at
            the report.
        at: when, ISO 8601, UTC.
        finding: canonical keyword; empty where the act is on the case as a whole.
        before: the same reader's word that stood; empty when none.
        after: the word that stands now; empty when it was taken back.
        report_shown: the reader had looked at the report of this case before.
        settles: said in sight of all readers' words, to settle a difference.
        undoes: the act takes back the last one of this reader.
    """

    case_id: str
    reader: str
    at: str
    act: Act
    finding: str = ""
    before: Word = ""
    after: Word = ""
    report_shown: bool = False
    settles: bool = False
    undoes: bool = False

    @property
    def key(self) -> tuple[str, str, str, Act, bool]:
        """What the word is about, and whose it is: a later one with the same key takes its place."""
        return (self.case_id, self.reader, self.finding, self.act, self.settles)


def open_readings(dataset: Path) -> Journal[Reading]:
    """Open the readings of a dataset folder; there need be none yet."""
    return Journal(dataset / READINGS, Reading)


def standing(readings: Iterable[Reading]) -> list[Reading]:
    """Return the last of each word, in the order in which they were first said; those taken back are left out."""
    last: dict[tuple[str, str, str, Act, bool], Reading] = {}
    for reading in readings:
        last[reading.key] = reading
    return [reading for reading in last.values() if reading.after]


def say(
    journal: Journal[Reading], case_id: str, finding: str, status: str, *, reader: str, settles: bool = False
) -> Reading:
    """Store one reader's word on one finding of one case.

    Args:
        status: present, absent or uncertain; empty takes the word back.
        settles: the reader decides a difference, in sight of all words.

    Raises:
        ConfigError: the reader has no name, or finding or status are unknown.
    """
    if finding not in KEYWORDS:
        raise ConfigError("no keyword has this name; `medfinder keywords` lists them")
    if status not in _SAID:
        raise ConfigError(f"status {status!r}; expected present, absent or uncertain")
    return _store(journal, case_id, "say", _SAID[status], reader, finding=finding, settles=settles)


def finish(journal: Journal[Reading], case_id: str, *, reader: str) -> Reading:
    """Store that a reader has finished a case: whatever was not named is not there."""
    return _store(journal, case_id, "finish", "finished", reader)


def look(journal: Journal[Reading], case_id: str, *, reader: str) -> Reading | None:
    """Store that a reader is about to see the report of a case; None when that is known."""
    if _has_looked(journal.read(), case_id, _named(reader)):
        return None
    return _store(journal, case_id, "look", "shown", reader)


def undo(journal: Journal[Reading], *, reader: str) -> Reading | None:
    """Take back the reader's last act that still stands, going back further each time; None when there is none.

    A look at a report cannot be taken back.
    """
    last = _last_act(journal.read(), _named(reader))
    if last is None:
        return None
    return _store(
        journal,
        last.case_id,
        last.act,
        last.before,
        reader,
        finding=last.finding,
        settles=last.settles,
        undoes=True,
    )


def _last_act(readings: Sequence[Reading], reader: str) -> Reading | None:
    undone = 0
    for reading in reversed(readings):
        if reading.reader != reader or reading.act == "look":
            continue
        if reading.undoes:
            undone += 1
        elif undone:
            undone -= 1
        else:
            return reading
    return None


def _store(
    journal: Journal[Reading],
    case_id: str,
    act: Act,
    after: Word,
    reader: str,
    *,
    finding: str = "",
    settles: bool = False,
    undoes: bool = False,
) -> Reading:
    name, readings = _named(reader), journal.read()
    at = datetime.now(UTC).isoformat(timespec="seconds")
    reading = Reading(case_id, name, at, act, finding, "", after, settles=settles, undoes=undoes)
    before: Word = next((one.after for one in reversed(readings) if one.key == reading.key), "")
    reading = replace(reading, before=before, report_shown=_has_looked(readings, case_id, name))
    journal.append(reading)
    return reading


def _has_looked(readings: Iterable[Reading], case_id: str, reader: str) -> bool:
    return any(one.act == "look" and one.case_id == case_id and one.reader == reader for one in readings)


def _named(reader: str) -> str:
    name = " ".join(reader.split())
    if not name:
        raise ConfigError("a diagnosis needs its reader; say who you are")
    return name
