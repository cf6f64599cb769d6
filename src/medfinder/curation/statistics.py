"""What a dataset holds, in figures: the paper's table 1, the way from source to splits, findings with base rates.

In: a dataset folder, or the records of one. Out: a plain dictionary (JSON as it stands) and tables made from it. Tables
that a folder does not have (held cases, candidates of series selection) count as empty. Refused: what
``medfinder.curation.dataset`` refuses, and a table that is damaged.
"""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medfinder.curation.dataset import CASES, DROPPED, Dataset
from medfinder.curation.report import count_words
from medfinder.curation.shared_texts import Told, find_shared_texts
from medfinder.curation.split import SPLITS
from medfinder.errors import DatasetError
from medfinder.records import Case, Doubt, Dropped, Finding, plural
from medfinder.sources.report_table import ROW_REASONS

HELD, SERIES = "held.parquet", "series.parquet"

PAPER_TABLE_1: dict[str, dict[str, float]] = {
    "width": {"average": 529, "median": 512, "min": 514, "max": 710},
    "height": {"average": 528, "median": 512, "min": 520, "max": 672},
    "slices": {"average": 279, "median": 224, "min": 101, "max": 670},
    "report words": {"average": 104, "median": 97, "min": 7, "max": 260},
}
"""Table 1 of the paper (MICCAI 2024), as printed; the ranges of width and height leave out their own medians."""

PAPER_NOTE = (
    "paper: table 1 of the paper as printed, on BIMCV-R (8,069 real CTs). Other data: it stands here for orientation "
    "and is no comparison. The printed ranges of width and height leave out their own medians."
)

STAGES = ("table", "series", "read", "quality", "report", "pairing", "deidentification", "translation", "review")
"""In the order in which curation judges; a stage that is not listed comes last."""

# Ages above 89 identify: HIPAA Safe Harbor, 45 CFR 164.514(b)(2)(i)(C), lets them be told as one group only.
_OLDEST = 90
_UNKNOWN_AGE = "unknown"

# Widths of the histograms' bins, ours: fine enough to tell the usual protocols apart.
_BIN_WIDTHS = {
    "slice spacing (mm)": 0.5,
    "in-plane spacing (mm)": 0.05,
    "slices": 50.0,
    "report words": 20.0,
    "quality score": 0.05,
}
_MOST_BINS = 30
# A few cases in many bins are a comb: ours, twice the square root of their number, but no fewer than these.
_FEWEST_BINS = 12


@dataclass(frozen=True)
class Table:
    """A table ready to be laid out: cells are text, the first of a row names it.

    Attributes:
        note: what must be read with it; may be empty.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def describe(dataset: Dataset) -> dict[str, Any]:
    """Describe a dataset; see ``describe_records``."""
    return describe_folder(dataset.path)


def describe_folder(path: Path) -> dict[str, Any]:
    """Describe the tables of a folder, be it finished or not; see ``describe_records``.

    Raises:
        DatasetError: a table is damaged, or that of cases or of what was set aside is missing.
    """
    rows, held = _rows(path / CASES), _rows(path / HELD, may_lack=True)
    return describe_records(
        [_case(row) for row in rows],
        [_dropped(row) for row in _rows(path / DROPPED)],
        held=[_case(row) for row in held],
        doubts={row["case_id"]: tuple(Doubt(**doubt) for doubt in row.get("doubts") or ()) for row in (*rows, *held)},
        quality=[row["quality_score"] for row in rows if row.get("quality_score") is not None],
        series=["" if row.get("is_chosen") else str(row.get("reason")) for row in _rows(path / SERIES, may_lack=True)],
    )


def _rows(path: Path, *, may_lack: bool = False) -> list[dict[str, Any]]:
    if may_lack and not path.is_file():
        return []
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} is gone, damaged or of another kind; curate again into a new folder") from error
    return rows


def _case(row: Mapping[str, Any]) -> Case:
    values = {field.name: row[field.name] for field in fields(Case)}
    values["findings"] = tuple(Finding(**finding) for finding in row["findings"])
    return Case(**{**values, "spacing_mm": tuple(row["spacing_mm"]), "shape": tuple(row["shape"])})


def _dropped(row: Mapping[str, Any]) -> Dropped:
    return Dropped(**{field.name: row[field.name] for field in fields(Dropped)})


def describe_records(
    cases: Sequence[Case],
    dropped: Sequence[Dropped],
    *,
    held: Sequence[Case] = (),
    doubts: Mapping[str, Sequence[Doubt]] = MappingProxyType({}),
    quality: Sequence[float] = (),
    series: Sequence[str] = (),
) -> dict[str, Any]:
    """Count and measure.

    Args:
        held: cases that wait for a person, or that a person has rejected.
        doubts: of cases kept and held, by case id.
        quality: score of each case kept.
        series: for each candidate of series selection why it was not chosen; empty for the chosen.

    Returns:
        ``cases``, ``studies``, ``patients``, ``synthetic``, ``dropped``, ``held`` (those that wait, not the rejected);
        ``table_1`` (width, height, slices and spacing of the raw volumes, words of the reports: average, median, min,
        max); ``flow`` (see ``_flow``); ``splits``; ``findings`` (cases in which each is present, uncertain and absent,
        and the share of all cases in which it is present, most frequent first); ``findings_from``; ``regions``;
        ``sources``; ``ages`` of patients by sex; ``texts`` that several studies share; ``histograms``; ``doubts``;
        ``series``; ``dropped_by_reason``.
    """
    measured = _measured(cases, quality)
    rejected = {row.series_id for row in dropped if row.stage == "review"}
    waiting = [case for case in held if case.case_id not in rejected]
    return {
        **_count(cases),
        "synthetic": sum(case.is_synthetic for case in cases),
        "dropped": len(dropped),
        "held": len(waiting),
        "table_1": {name: _summarise(values) for name, values in measured.items() if values},
        "flow": _flow(cases, dropped, waiting, doubts),
        "splits": {split: _count(case for case in cases if case.split == split) for split in SPLITS},
        "findings": _base_rates(cases),
        "findings_from": dict(sorted(Counter(case.findings_from for case in cases).items())),
        "regions": dict(sorted(Counter(case.region for case in cases).items())),
        "sources": _by_source(cases),
        "ages": _ages(cases),
        "texts": _shared_texts(cases),
        "histograms": {
            name: _histogram(measured[name], width) for name, width in _BIN_WIDTHS.items() if measured[name]
        },
        "doubts": _count_doubts([doubt for found in doubts.values() for doubt in found]),
        "series": _most_frequent(Counter(reason or "chosen" for reason in series)),
        "dropped_by_reason": _most_frequent(Counter(f"{row.stage}: {row.reason}" for row in dropped)),
    }


def _most_frequent(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _measured(cases: Sequence[Case], quality: Sequence[float]) -> dict[str, list[float]]:
    return {
        "width": [case.shape[0] for case in cases],
        "height": [case.shape[1] for case in cases],
        "slices": [case.shape[2] for case in cases],
        "slice spacing (mm)": [case.spacing_mm[2] for case in cases],
        "in-plane spacing (mm)": [case.spacing_mm[0] for case in cases],
        "report words": [count_words(case.report) for case in cases if case.report],
        "quality score": list(quality),
    }


def _summarise(values: Sequence[float]) -> dict[str, float]:
    return {
        "average": round(statistics.fmean(values), 2),
        "median": round(float(statistics.median(values)), 2),
        "min": round(float(min(values)), 2),
        "max": round(float(max(values)), 2),
    }


def _count(cases: Iterable[Case]) -> dict[str, int]:
    chosen = list(cases)
    return {
        "cases": len(chosen),
        "studies": len({case.study_id for case in chosen}),
        "patients": len({case.patient_id for case in chosen}),
    }


def _flow(
    cases: Sequence[Case], dropped: Sequence[Dropped], waiting: Sequence[Case], doubts: Mapping[str, Sequence[Doubt]]
) -> dict[str, Any]:
    """Follow every study from the source to where it ended; the counts add up.

    A study of which one case stands is kept; one whose cases wait is waiting, for the first doubt that holds it; else
    it was set aside at the furthest stage that any of its series reached. A row that a table holds in vain is no study.

    Returns:
        ``found``; ``steps``: for each stage ``stage``, ``studies`` and their ``reasons``; ``waiting`` and what they
        are ``waiting_for``; ``kept``; ``series_aside``: single series of studies that were kept all the same;
        ``rows_aside``: how many rows of tables for which reason, beside all these.
    """
    rows = Counter(row.reason for row in dropped if _is_row(row))
    dropped = [row for row in dropped if not _is_row(row)]
    kept = {case.study_id for case in cases}
    held_by = {case.study_id: _first_holding(doubts.get(case.case_id, ())) for case in reversed(waiting)}
    held_by = {study: reason for study, reason in held_by.items() if study not in kept}
    furthest: dict[str, Dropped] = {}
    for row in sorted(dropped, key=lambda row: (_rank(row.stage), row.stage, row.reason)):
        if row.study_id not in kept and row.study_id not in held_by:
            furthest[row.study_id] = row
    reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in furthest.values():
        reasons[row.stage][row.reason] += 1
    return {
        "found": len(kept) + len(held_by) + len(furthest),
        "steps": [
            {"stage": stage, "studies": reasons[stage].total(), "reasons": _most_frequent(reasons[stage])}
            for stage in sorted(reasons, key=lambda stage: (_rank(stage), stage))
        ],
        "waiting": len(held_by),
        "waiting_for": _most_frequent(Counter(held_by.values())),
        "kept": len(kept),
        "series_aside": sum(row.study_id in kept for row in dropped),
        "rows_aside": _most_frequent(rows),
    }


def _is_row(row: Dropped) -> bool:
    return row.stage == "table" and row.reason in ROW_REASONS


def _first_holding(doubts: Sequence[Doubt]) -> str:
    holding = sorted((_rank(doubt.stage), f"{doubt.stage}: {doubt.reason}") for doubt in doubts if doubt.holds)
    return holding[0][1] if holding else "not told"


def _rank(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)


def present_findings(case: Case) -> frozenset[str]:
    """Names of what is present in a case."""
    return _findings(case, "present")


def _findings(case: Case, status: str) -> frozenset[str]:
    return frozenset(finding.name for finding in case.findings if finding.status == status)


def _base_rates(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    counts: dict[str, Counter[str]] = {status: Counter() for status in ("present", "uncertain", "absent")}
    by_split: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        for status, counter in counts.items():
            counter.update(_findings(case, status))
        for name in present_findings(case):
            by_split[name][case.split] += 1
    named = set().union(*counts.values())
    return {
        name: {
            "cases": counts["present"][name],
            "base_rate": round(counts["present"][name] / len(cases), 4),
            **{split: by_split[name][split] for split in SPLITS},
            "uncertain": counts["uncertain"][name],
            "absent": counts["absent"][name],
        }
        for name in sorted(named, key=lambda name: (-counts["present"][name], name))
    }


def _by_source(cases: Sequence[Case]) -> dict[str, dict[str, int]]:
    groups: defaultdict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.source].append(case)
    return {
        source: {**_count(group), "synthetic": sum(case.is_synthetic for case in group)}
        for source, group in sorted(groups.items())
    }


def age_band(age_years: int | None) -> str:
    """Name the decade of an age; all from 90 on are one group.

    Example:
        >>> age_band(67), age_band(104), age_band(None)
        ('60-69', '90+', 'unknown')
    """
    if age_years is None:
        return _UNKNOWN_AGE
    if age_years >= _OLDEST:
        return f"{_OLDEST}+"
    decade = age_years // 10 * 10
    return f"{decade}-{decade + 9}"


def _ages(cases: Sequence[Case]) -> dict[str, dict[str, int]]:
    """Count patients by decade and sex, each at the youngest age known of them; decades without a patient are kept."""
    youngest: dict[str, tuple[int | None, str]] = {}
    for case in sorted(cases, key=lambda case: (case.age_years is None, case.age_years or 0, case.sex or "~")):
        youngest.setdefault(case.patient_id, (case.age_years, case.sex or _UNKNOWN_AGE))
    ages = [age for age, _ in youngest.values() if age is not None]
    decades = range(min(ages) // 10 * 10, min(max(ages), _OLDEST) + 1, 10) if ages else range(0)
    bands = [age_band(decade) for decade in decades]
    if len(ages) < len(youngest):
        bands.append(_UNKNOWN_AGE)
    counts = Counter((age_band(age), sex) for age, sex in youngest.values())
    return {band: {sex: counts[band, sex] for sex in ("F", "M", _UNKNOWN_AGE)} for band in bands}


def _shared_texts(cases: Sequence[Case]) -> dict[str, int]:
    """Count reports by study, and those whose text another study or another patient has, too."""
    told = {
        (case.study_id, case.report): Told(case.study_id, case.patient_id, case.report) for case in cases if case.report
    }
    groups = [group for group in find_shared_texts(told.values()) if len(set(group.names)) > 1]
    return {
        "reports": len(told),
        "the same in several studies": sum(len(group.names) for group in groups if group.similarity == 1),
        "nearly the same in several studies": sum(len(group.names) for group in groups if group.similarity < 1),
        "of these in several patients": sum(len(group.names) for group in groups if group.patients > 1),
    }


def _histogram(values: Sequence[float], width: float) -> list[list[float]]:
    """Count values by bin: low, high, count; the width doubles until the bins are few enough to be seen."""
    # The nudge keeps 0.3 / 0.05 = 5.999... in the bin that begins at 0.3.
    places = [int(value / width + 1e-9) for value in values]
    most = min(_MOST_BINS, max(_FEWEST_BINS, math.isqrt(4 * len(values))))
    while max(places) - min(places) >= most:
        places, width = [place // 2 for place in places], 2 * width
    counts = Counter(places)
    return [
        [round(place * width, 4), round((place + 1) * width, 4), counts[place]]
        for place in range(min(places), max(places) + 1)
    ]


def _count_doubts(doubts: Sequence[Doubt]) -> dict[str, dict[str, int]]:
    counts = Counter(f"{doubt.stage}: {doubt.reason}" for doubt in doubts)
    holding = Counter(f"{doubt.stage}: {doubt.reason}" for doubt in doubts if doubt.holds)
    return {name: {"cases": count, "hold": holding[name]} for name, count in _most_frequent(counts).items()}


def make_tables(description: Mapping[str, Any], *, top: int = 40) -> tuple[Table, ...]:
    """Set a description out as tables, those without a row left out.

    Args:
        top: how many findings are listed.
    """
    flat = (
        ("Findings known from", ("known from", "cases"), "findings_from"),
        ("Regions", ("region", "cases"), "regions"),
        ("Candidates of series selection", ("outcome", "series"), "series"),
        ("Set aside", ("stage: reason", "rows"), "dropped_by_reason"),
    )
    tables = (
        _table_1(description),
        flow_table(description["flow"], description["cases"]),
        _counts_table("Splits", "split", description["splits"]),
        _findings_table(description, top),
        _counts_table("Sources", "source", description["sources"]),
        _counts_table("Patients by age and sex", "years", description["ages"]),
        Table("Texts", ("", "reports"), tuple((name, str(count)) for name, count in description["texts"].items())),
        _counts_table("Doubts", "stage: reason", description["doubts"]),
        *(Table(title, header, _pairs(description[key])) for title, header, key in flat),
    )
    return tuple(table for table in tables if table.rows)


def _pairs(counts: Mapping[str, int]) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(count)) for name, count in counts.items())


def _counts_table(title: str, first: str, rows: Mapping[str, Mapping[str, int]]) -> Table:
    columns = next(iter(rows.values()), {})
    return Table(
        title, (first, *columns), tuple((name, *(str(count) for count in row.values())) for name, row in rows.items())
    )


def _table_1(description: Mapping[str, Any]) -> Table:
    header = ("", "average", "median", "range", "paper: average", "paper: median", "paper: range")
    rows = tuple(
        (name, *_cells(row), *(_cells(PAPER_TABLE_1[name]) if name in PAPER_TABLE_1 else ("", "", "")))
        for name, row in description["table_1"].items()
    )
    return Table("Volumes and reports", header, rows, PAPER_NOTE)


def _cells(row: Mapping[str, float]) -> tuple[str, str, str]:
    return f"{row['average']:g}", f"{row['median']:g}", f"{row['min']:g} to {row['max']:g}"


def flow_table(flow: Mapping[str, Any], cases: int) -> Table:
    """Set out where every study ended: found, set aside at which stage and why, waiting, kept; then rows of tables."""
    rows = [("found", flow["found"], "")]
    rows += [(f"set aside: {step['stage']}", step["studies"], _list(step["reasons"])) for step in flow["steps"]]
    if flow["waiting"]:
        rows.append(("waiting for a person", flow["waiting"], _list(flow["waiting_for"])))
    rows.append(("kept", flow["kept"], plural(cases, "case")))
    if aside := flow["rows_aside"]:
        rows.append(("beside them: table rows set aside", sum(aside.values()), _list(aside)))
    note = ""
    if flow["series_aside"]:
        note = f"Of studies that were kept, {plural(flow['series_aside'], 'single series')} stayed out."
    cells = tuple((name, str(count), told) for name, count, told in rows)
    return Table("From source to dataset", ("", "number", "of these"), cells, note)


def _list(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.items())


def _findings_table(description: Mapping[str, Any], top: int) -> Table:
    rows = tuple(
        (
            name,
            str(row["cases"]),
            f"{100 * row['base_rate']:.1f}%",
            *(str(row[split]) for split in SPLITS),
            str(row["uncertain"]),
            str(row["absent"]),
        )
        for name, row in list(description["findings"].items())[:top]
    )
    left = len(description["findings"]) - len(rows)
    note = f"{plural(left, 'finding')} more, rarer than these." if left else ""
    return Table("Findings present", ("finding", "cases", "base rate", *SPLITS, "uncertain", "absent"), rows, note)


def headline(description: Mapping[str, Any]) -> str:
    """Say in one sentence how much there is.

    Example:
        >>> headline({"cases": 1, "studies": 1, "patients": 1, "held": 0, "dropped": 2})
        '1 case of 1 study of 1 patient; set aside, be it study, series or table row: 2.'
    """
    cases, studies = plural(description["cases"], "case"), plural(description["studies"], "study")
    patients = plural(description["patients"], "patient")
    held = f"; {plural(description['held'], 'case')} held for review" if description["held"] else ""
    aside = f"set aside, be it study, series or table row: {description['dropped']}"
    return f"{cases} of {studies} of {patients}; {aside}{held}."


def statistics_text(description: Mapping[str, Any], *, top: int = 40) -> str:
    """Set a description out as tables for the terminal, with columns of even width, and say what is synthetic.

    Args:
        top: how many findings are listed.
    """
    made = description["synthetic"]
    told = f"SYNTHETIC: {made} of {description['cases']} cases are computer-made phantoms.\n\n" if made else ""
    return told + _set_out(description, lay_out_evenly, top)


def statistics_markdown(description: Mapping[str, Any], *, top: int = 40) -> str:
    """Set a description out as Markdown tables.

    Args:
        top: how many findings are listed.
    """
    return _set_out(description, lay_out, top)


def _set_out(description: Mapping[str, Any], lay: Callable[[Table], str], top: int) -> str:
    parts = [headline(description)]
    for table in make_tables(description, top=top):
        parts += [f"### {table.title}\n\n{lay(table)}", *filter(None, [table.note])]
    return "\n\n".join(parts) + "\n"


def lay_out(table: Table) -> str:
    """Write one table as Markdown; a bar within a cell is escaped."""
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def lay_out_evenly(table: Table) -> str:
    """Write one table with columns of even width: words to the left, figures to the right.

    Example:
        >>> print(lay_out_evenly(Table("", ("split", "cases"), (("train", "7"), ("val", "12")))))
        split  cases
        train      7
        val       12
    """
    columns = list(zip(table.header, *table.rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_figure = [all(not cell or cell[0].isdigit() for cell in column[1:]) for column in columns]
    is_figure[0] = False
    lines = (
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_figure, strict=True)
        )
        for line in (table.header, *table.rows)
    )
    return "\n".join(line.rstrip() for line in lines)
