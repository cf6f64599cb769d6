"""What a dataset holds, in figures: the paper's table 1, splits, findings with base rates, drops by reason.

In: a dataset, or the records of one. Out: a plain dictionary (JSON as it stands) and Markdown tables made from it.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medfinder.curation.dataset import Dataset
from medfinder.curation.report import count_words
from medfinder.curation.split import SPLITS
from medfinder.records import Case, Dropped


def describe(dataset: Dataset) -> dict[str, Any]:
    """Describe a dataset; see ``describe_records``."""
    return describe_records(dataset.cases, dataset.dropped)


def describe_records(cases: Sequence[Case], dropped: Sequence[Dropped]) -> dict[str, Any]:
    """Count and measure.

    Returns:
        ``cases``, ``studies``, ``patients``, ``dropped``; ``table_1`` (width, height, slices and spacing of the raw
        volumes, words of the reports: average, median, min, max); ``splits``; ``findings`` (cases in which each is
        present and the share of all, most frequent first); ``regions``; ``dropped_by_reason``.
    """
    return {
        "cases": len(cases),
        "studies": len({case.study_id for case in cases}),
        "patients": len({case.patient_id for case in cases}),
        "synthetic": sum(case.is_synthetic for case in cases),
        "dropped": len(dropped),
        "table_1": _table_1(cases),
        "splits": {split: _count(case for case in cases if case.split == split) for split in SPLITS},
        "findings": _base_rates(cases),
        "findings_from": dict(sorted(Counter(case.findings_from for case in cases).items())),
        "regions": dict(sorted(Counter(case.region for case in cases).items())),
        "dropped_by_reason": dict(
            sorted(
                Counter(f"{row.stage}: {row.reason}" for row in dropped).items(), key=lambda item: (-item[1], item[0])
            )
        ),
    }


def _table_1(cases: Sequence[Case]) -> dict[str, dict[str, float]]:
    columns: dict[str, list[float]] = {
        "width": [case.shape[0] for case in cases],
        "height": [case.shape[1] for case in cases],
        "slices": [case.shape[2] for case in cases],
        "slice spacing (mm)": [case.spacing_mm[2] for case in cases],
        "report words": [count_words(case.report) for case in cases if case.report],
    }
    return {name: _summarise(values) for name, values in columns.items() if values}


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


def present_findings(case: Case) -> frozenset[str]:
    """Names of what is present in a case."""
    return frozenset(finding.name for finding in case.findings if finding.status == "present")


def _base_rates(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    counts: Counter[str] = Counter()
    by_split: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        for name in present_findings(case):
            counts[name] += 1
            by_split[name][case.split] += 1
    return {
        name: {
            "cases": count,
            "base_rate": round(count / len(cases), 4),
            **{split: by_split[name][split] for split in SPLITS},
        }
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    }


def statistics_markdown(description: Mapping[str, Any], *, top: int = 40) -> str:
    """Set a description out as Markdown tables.

    Args:
        top: how many findings are listed.
    """
    parts = [
        f"{description['cases']} cases of {description['studies']} studies of {description['patients']} patients; "
        f"{description['dropped']} studies, series or table rows set aside.",
        "### Volumes and reports\n\n"
        + _table(
            ("", "average", "median", "range"),
            [
                (name, f"{row['average']:g}", f"{row['median']:g}", f"{row['min']:g} to {row['max']:g}")
                for name, row in description["table_1"].items()
            ],
        ),
        "### Splits\n\n"
        + _table(
            ("split", "cases", "studies", "patients"),
            [(name, *row.values()) for name, row in description["splits"].items()],
        ),
        "### Findings present\n\n"
        + _table(
            ("finding", "cases", "base rate", *SPLITS),
            [
                (name, row["cases"], f"{100 * row['base_rate']:.1f}%", *(row[split] for split in SPLITS))
                for name, row in list(description["findings"].items())[:top]
            ],
        ),
        "### Regions\n\n" + _table(("region", "cases"), list(description["regions"].items())),
        "### Set aside\n\n" + _table(("stage: reason", "rows"), list(description["dropped_by_reason"].items())),
    ]
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return "None."
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
