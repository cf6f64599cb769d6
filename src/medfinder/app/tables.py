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


def reasons_table(hits: Sequence[Hit]) -> Table:
    """Lay out why hits matched: findings, sentences, the place in the volume, and what each part gave to the score."""
    table = Table(show_lines=True)
    for title in ("#", "findings asked for", "sentences", "place", "shares"):
        table.add_column(title, overflow="fold")
    for hit in hits:
        told = {"has": hit.matched, "denies": hit.negated, "tells nothing of": hit.missing}
        findings = "\n".join(f"{verb} {', '.join(names)}" for verb, names in told.items() if names)
        sentences = "\n".join(f"{score:.2f} {sentence}" for sentence, score in hit.sentences)
        shares = "\n".join(f"{part} {share:.3f}" for part, share in hit.shares)
        table.add_row(str(hit.rank), escape(findings), escape(sentences), _place(hit), shares)
    return table


def _place(hit: Hit) -> str:
    if hit.evidence is None:
        return "not told"
    x, y, z = hit.evidence.slices
    return f"{hit.evidence.asked}\nsagittal {x}\ncoronal {y}\naxial {z}"


def _start(report: str) -> str:
    if not report:
        return "no report"
    return report if len(report) <= _REPORT_CHARACTERS else report[:_REPORT_CHARACTERS].rsplit(" ", 1)[0] + " ..."
