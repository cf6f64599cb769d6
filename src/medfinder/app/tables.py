"""Hits as a table for the terminal.

In: hits. Out: a Rich table in which findings stand first, since people compare those.
"""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from medfinder.records import Hit

_REPORT_CHARACTERS = 160


def hits_table(hits: Sequence[Hit]) -> Table:
    """Lay out hits: rank, score, what it is, findings, the beginning of the report."""
    table = Table(show_lines=True)
    table.add_column("#", justify="right")
    table.add_column("score", justify="right")
    table.add_column("case")
    table.add_column("findings")
    table.add_column("report", overflow="fold")
    for hit in hits:
        origin = "synthetic" if hit.is_synthetic else "real"
        who = " ".join(str(part) for part in (hit.sex, hit.age_years) if part is not None)
        case = f"{hit.case_id}\n{origin}, {hit.source}" + (f"\n{who}" if who else "")
        findings = "\n".join(hit.findings) or "not known"
        mark = "* " if hit.caution else ""
        table.add_row(
            str(hit.rank), f"{mark}{hit.score:.3f}", escape(case), escape(findings), escape(_start(hit.report))
        )
    if any(hit.caution for hit in hits):
        table.caption = "* see the caution below"
    return table


def _start(report: str) -> str:
    if not report:
        return "no report"
    return report if len(report) <= _REPORT_CHARACTERS else report[:_REPORT_CHARACTERS].rsplit(" ", 1)[0] + " ..."
