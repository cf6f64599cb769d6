"""What a whole table of labels would become: each name, how often it stands there, and its keyword.

In: a CSV or TSV table as BIMCV and PadChest distribute them, with lists as text under ``Labels``, ``labelCUIS`` or
``Localizations``. Out: counts of names, concepts and places, the most frequent first, and what has no keyword. Refused:
a file that is no table, a table without a column of labels or concepts. Reports that stand beside are not read.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medfinder.curation.keywords.labels import map_labels
from medfinder.errors import DatasetError
from medfinder.sources.bimcv_tables import parse_list
from medfinder.sources.text_table import Header, read_rows

Kind = Literal["label", "concept", "place", "remark"]

# title, lower case, without blanks and underscores -> what stands under it
_COLUMNS: Mapping[str, Kind] = {"labels": "label", "labelcuis": "concept", "localizations": "place"}


@dataclass(frozen=True, slots=True)
class LabelCount:
    """One name of a table.

    Attributes:
        name: in small letters, as the table spells it; a UMLS concept in capitals.
        kind: a place goes with a label and has no keyword; a remark, such as ``normal``, is passed over.
        rows: in which it stands.
        keyword: None where there is none.
        status: ``"uncertain"`` where the label itself is a doubt; empty without a keyword.
    """

    name: str
    kind: Kind
    rows: int
    keyword: str | None = None
    status: str = ""


@dataclass(frozen=True, slots=True)
class LabelTable:
    """All names of a table, kind by kind and the most frequent first.

    Attributes:
        rows: of the table, its header apart.
    """

    rows: int
    counts: tuple[LabelCount, ...]

    @property
    def unmapped(self) -> tuple[LabelCount, ...]:
        """Labels and concepts that no keyword stands for."""
        return tuple(one for one in self.counts if one.kind in ("label", "concept") and one.keyword is None)


def count_labels(path: Path) -> LabelTable:
    """Count the names in a table of labels and look up their keywords.

    Raises:
        DatasetError: the file is no table, or holds neither labels nor concepts.
    """
    lines = read_rows(path, lambda title: _column_of(title) is not None)
    titles = next(lines, (0, []))[1]
    header = Header.read(titles, _column_of)
    if not header.places.keys() & {"label", "concept"}:
        raise DatasetError(
            f"{path} is no table of labels: found {_told(titles)}; expected a column Labels or labelCUIS"
        )
    counts: dict[Kind, Counter[str]] = {"label": Counter(), "concept": Counter(), "place": Counter()}
    rows = 0
    for _, cells in lines:
        rows += 1
        for kind, counter in counts.items():
            counter.update({_spell(name, kind) for name in parse_list(header.cell(cells, kind))})
    found = (_look_up(name, kind, count) for kind, each in counts.items() for name, count in each.items())
    order = list(counts)
    return LabelTable(rows, tuple(sorted(found, key=lambda one: (_rank(one.kind, order), -one.rows, one.name))))


def _column_of(title: str) -> Kind | None:
    return _COLUMNS.get(re.sub(r"[\s_]", "", title).lower())


def _told(titles: Sequence[str]) -> str:
    return ", ".join(repr(title.strip()[:40]) for title in titles[:20]) or "nothing"


def _spell(name: str, kind: Kind) -> str:
    if kind == "concept":
        return name.upper()
    spelt = " ".join(name.lower().split())
    return spelt.removeprefix("loc ") if kind == "place" else spelt


def _look_up(name: str, kind: Kind, rows: int) -> LabelCount:
    if kind == "place":
        return LabelCount(name, kind, rows)
    found, unmapped = map_labels([name])
    if found:
        return LabelCount(name, kind, rows, found[0].name, found[0].status)
    return LabelCount(name, kind if unmapped else "remark", rows)


def _rank(kind: Kind, order: Sequence[Kind]) -> int:
    return order.index(kind) if kind in order else len(order)
