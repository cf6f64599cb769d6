"""What a benchmark's table says: as plain values, and as Markdown.

In: the outcome of a run. Out: a dictionary ready for JSON, and text. Each number is the mean over seeds, with its
interval over patients and its spread over seeds, and stands beside N, chance, the significance of its difference from
the table's reference row, and the paper's own number. Rows that failed or were not run are named with their reason.
Refused: nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medfinder.curation.dataset import Dataset
from medfinder.evaluation.answers import Name, nest
from medfinder.evaluation.benchmark import SPLIT, Bench, Outcome
from medfinder.evaluation.evaluate import base_rates, chance_of, describe_trial
from medfinder.evaluation.report import (
    DIRECTION_TITLES,
    PAPER_MARK,
    PAPER_NOTE,
    PAPER_TABLE_2,
    PAPER_TABLE_3,
    PAPER_TABLE_4,
    PRECISIONS,
    RANK_MEASURES,
    Table,
    describe_origin,
    lay_out,
    with_interval,
)
from medfinder.evaluation.rows import ROWS, TABLES
from medfinder.evaluation.significance import correct, mean_intervals, mean_numbers, paired_bootstrap
from medfinder.evaluation.trial import PAPER_KEYWORDS, set_trial


def summarise(dataset: Dataset, table: str, rows: Sequence[str], outcome: Outcome, bench: Bench) -> dict[str, Any]:
    """Gather what a table says.

    Returns:
        ``rows``: a dictionary each, with ``numbers``, ``intervals`` and ``spread`` (lowest and highest seed) nested as
        in a result of ``evaluate``; ``differences`` from the reference row; ``unfinished`` with the reason where a row
        has not all its seeds.
    """
    plan = TABLES[table]
    trial = set_trial(dataset.select(SPLIT), SPLIT)
    summaries = [_summarise_row(row, outcome, bench.draws) for row in rows if ROWS[row].kind != "chance"]
    models = [
        result for several in outcome.evaluations.values() for result in several if result.result["model"] != "oracle"
    ]
    return {
        "table": table,
        "title": plan.title,
        "size": bench.size_name,
        "seeds": bench.seeds,
        "draws": bench.draws,
        **describe_trial(trial, dataset=dataset.digest, split=SPLIT),
        "model_is_synthetic": bool(models) and all(found.result["model_is_synthetic"] for found in models),
        "chance": nest(chance_of(trial)) if "chance" in rows else {},
        "base_rates": nest(base_rates(trial)).get("keyword", {}),
        "reference": plan.reference,
        "rows": summaries,
        "differences": _compare(table, rows, outcome, bench.draws),
    }


def _summarise_row(row: str, outcome: Outcome, draws: int) -> dict[str, Any]:
    told: dict[str, Any] = {"row": row, "title": ROWS[row].title, "paper": ROWS[row].paper}
    told["seeds"] = len(outcome.evaluations.get(row, []))
    if row in outcome.unfinished:
        told |= {"unfinished": outcome.unfinished[row], "failed": row in outcome.failed}
    answers = outcome.answers(row)
    if not answers:
        return told
    several = [each.numbers() for each in answers]
    spread = {name: (min(n[name] for n in several), max(n[name] for n in several)) for name in several[0]}
    return told | {
        "numbers": nest(mean_numbers(several)),
        "intervals": nest(mean_intervals(answers, samples=draws)),
        "spread": nest(spread),
        "digests": [found.result["digest"] for found in outcome.evaluations[row]],
    }


def _compare(table: str, rows: Sequence[str], outcome: Outcome, draws: int) -> list[dict[str, Any]]:
    """Compare each model with the reference row; ceiling and chance are no rivals."""
    plan = TABLES[table]
    right = outcome.answers(plan.reference)
    rivals = [row for row in rows if row != plan.reference and ROWS[row].kind == "model" and outcome.answers(row)]
    if not right:
        return []
    wanted = [name for name in plan.tested if name in right[0].numbers()]
    found = [(row, d) for row in rivals for d in paired_bootstrap(outcome.answers(row), right, wanted, samples=draws)]
    corrected = correct([difference for _, difference in found])
    return [
        {
            "row": row,
            "name": list(d.name),
            "difference": d.value,
            "interval": (d.low, d.high),
            "p": d.p,
            "p_holm": d.p_holm,
        }
        for (row, _), d in zip(found, corrected, strict=True)
    ]


def benchmark_markdown(summary: Mapping[str, Any]) -> str:
    """Write a benchmark's table as Markdown."""
    blocks = [f"## {summary['title']}", "\n".join(_describe(summary))]
    for table in make_benchmark_tables(summary):
        blocks += [lay_out(table), *filter(None, [table.note])]
    lost = [_tell_unfinished(row) for row in summary["rows"] if "unfinished" in row]
    return "\n\n".join([*blocks, *(["\n".join(lost)] if lost else []), PAPER_NOTE]) + "\n"


def make_benchmark_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Make the tables of a summary, one for each direction or keyword."""
    makers = {
        "table2": _retrieval_tables,
        "table3": _keyword_tables,
        "table4": _ablation_tables,
        "ours": _tables_of_ours,
    }
    return list(makers[summary["table"]](summary))


def _describe(summary: Mapping[str, Any]) -> list[str]:
    counts = f"{summary['n']} volumes, {summary['n_reports']} reports, {summary['n_patients']} patients"
    told = [describe_origin(summary)] if describe_origin(summary) else []
    return [
        *told,
        f"Split {SPLIT}: {counts}. Size {summary['size']}.",
        f"Mean over seeds [95% interval over patients, {summary['draws']} bootstrap draws], lowest..highest seed.",
        f"p: difference from {ROWS[summary['reference']].title}, paired bootstrap over patients, two-sided, corrected "
        "for the table's comparisons (Holm).",
    ]


def _tell_unfinished(row: Mapping[str, Any]) -> str:
    what = "failed" if row["failed"] else "not run"
    return f"- {row['title']}: {what}, {row['seeds']} seeds done: {row['unfinished']}"


def _retrieval_tables(summary: Mapping[str, Any]) -> Iterator[Table]:
    for direction in DIRECTION_TITLES:
        yield _rank_table(summary, direction, PAPER_TABLE_2[direction])


def _ablation_tables(summary: Mapping[str, Any]) -> Iterator[Table]:
    yield _rank_table(summary, "text_to_image", PAPER_TABLE_4)


def _tables_of_ours(summary: Mapping[str, Any]) -> Iterator[Table]:
    yield from _retrieval_tables(summary)
    if summary["base_rates"]:
        yield _keyword_table(summary, "mean")


def _rank_table(summary: Mapping[str, Any], direction: str, paper: Mapping[str, Sequence[float]]) -> Table:
    gallery = str(summary["n"] if direction == "text_to_image" else summary["n_reports"])
    rows = []
    for row in summary["rows"]:
        if direction in row.get("numbers", {}):
            cells = [_cell(row, (direction, measure), 1) for measure in RANK_MEASURES]
            p = [_p(summary, row["row"], (direction, measure)) for measure in ("R@10", "MdR")]
            rows.append((row["title"], gallery, str(row["seeds"]), *cells, *p))
        if row["paper"] in paper:
            published = [f"{value:.1f}" for value in paper[row["paper"]]]
            rows.append((f"{PAPER_MARK}: {row['paper']}", "?", "?", *published, "", ""))
    if summary["chance"]:
        rows.append(("chance", gallery, "", *(f"{summary['chance'][direction][m]:.1f}" for m in RANK_MEASURES), "", ""))
    measures = [f"{m} %" if m.startswith("R@") else m for m in RANK_MEASURES]
    return Table((DIRECTION_TITLES[direction], "N", "seeds", *measures, "p R@10", "p MdR"), tuple(rows))


def _keyword_tables(summary: Mapping[str, Any]) -> Iterator[Table]:
    if not summary["base_rates"]:
        return
    for name in (*PAPER_KEYWORDS, "mean"):
        yield _keyword_table(summary, name)


def _keyword_table(summary: Mapping[str, Any], name: str) -> Table:
    rows = []
    gallery = str(summary["n_keyword"])
    rate = f"{summary['base_rates'].get(name, {}).get('base_rate', 0.0):.2f}"
    for row in summary["rows"]:
        if name in row.get("numbers", {}).get("keyword", {}):
            cells = [_cell(row, ("keyword", name, measure), 2) for measure in PRECISIONS]
            p = _p(summary, row["row"], ("keyword", name, "P@20"))
            rows.append((row["title"], gallery, str(row["seeds"]), rate, *cells, *([p] if name == "mean" else [])))
        published = PAPER_TABLE_3.get(row["paper"], {}).get(name)
        if published:
            rows.append((f"{PAPER_MARK}: {row['paper']}", "?", "?", "?", *(f"{value:.2f}" for value in published)))
    if name in summary["chance"].get("keyword", {}):
        chance = summary["chance"]["keyword"][name]
        cells = [f"{chance[measure]:.2f}" for measure in PRECISIONS]
        rows.append(("chance", gallery, "", rate, *cells, *([""] if name == "mean" else [])))
    title = "mean of findings, base rate >= 5%" if name == "mean" else name
    header = (title, "N", "seeds", "base rate", *PRECISIONS, *(["p P@20"] if name == "mean" else []))
    return Table(
        header, tuple(rows), "No P@K can exceed relevant / K: the oracle's row is the ceiling." * (name == "mean")
    )


def _cell(row: Mapping[str, Any], name: Name, digits: int) -> str:
    """Write a number with its interval, and the lowest and highest seed where there are several."""
    value, pair, (low, high) = (_at(row[part], name) for part in ("numbers", "intervals", "spread"))
    told = with_interval(value, pair, digits)
    return told if row["seeds"] < 2 else f"{told} {low:.{digits}f}..{high:.{digits}f}"


def _p(summary: Mapping[str, Any], row: str, name: Name) -> str:
    if row == summary["reference"]:
        return "reference"
    found = [d["p_holm"] for d in summary["differences"] if d["row"] == row and tuple(d["name"]) == name]
    return f"{found[0]:.3f}" if found else ""


def _at(nested: Mapping[str, Any], name: Name) -> Any:
    value: Any = nested
    for part in name:
        value = value[part]
    return value
