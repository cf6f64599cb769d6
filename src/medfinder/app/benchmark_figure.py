"""The picture of a benchmark's table: a dot a row, its interval over patients, chance, the paper's own numbers.

In: the summary of a table (``medfinder.evaluation.benchmark_report``). Out: SVG text, the same for the same summary on
every machine. Rows without a result are named and have no dot. It says whether the data are synthetic. Nothing is
refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfinder.app.svg import BLUE, INK, LINE, MUTED, ORANGE, PURPLE, TINT, Board, text_width
from medfinder.evaluation.answers import Name
from medfinder.evaluation.metrics import PRECISION_AT, RECALL_AT
from medfinder.evaluation.report import PAPER_TABLE_2, PAPER_TABLE_3, PAPER_TABLE_4
from medfinder.evaluation.trial import PAPER_KEYWORDS

_TOP, _FOOT, _ROW, _GAP, _MARGIN = 96, 104, 30, 46, 24
_PANEL_WIDTHS = {1: 480, 2: 320, 3: 240, 4: 215}


@dataclass(frozen=True)
class _Panel:
    """One number, all rows.

    Attributes:
        most: right end of its axis, which begins at 0.
        paper: the paper's own number of each of its rows.
    """

    title: str
    name: Name
    most: float
    paper: Mapping[str, float]


def draw_benchmark(summary: Mapping[str, Any]) -> str:
    """Draw a table."""
    panels = _panels(summary)
    rows = summary["rows"]
    labels = max([text_width(row["title"], 14) for row in rows] or [0]) + 16
    panel = _PANEL_WIDTHS[max(1, len(panels))]
    inner = max(labels + len(panels) * (panel + _GAP) - _GAP, text_width(summary["title"], 20, bold=True))
    width, height = round(2 * _MARGIN + inner + 8), _TOP + _ROW * len(rows) + _FOOT
    board = Board(width, height, summary["title"], _caution(summary), is_synthetic=bool(summary["n_synthetic"]))
    for number, row in enumerate(rows):
        y = _TOP + _ROW * number
        if number % 2 == 0:
            board.box(_MARGIN - 8, y, width - 2 * _MARGIN + 16, _ROW, fill=TINT)
        board.text(_MARGIN, y + 20, row["title"], fill=INK if "numbers" in row else MUTED)
        if "numbers" not in row:
            board.text(width - _MARGIN, y + 20, "failed" if row["failed"] else "not run", fill=MUTED, anchor="end")
    for number, one in enumerate(panels):
        _draw_panel(board, _MARGIN + labels + number * (panel + _GAP), panel, one, summary)
    _draw_key(board, height)
    return board.finish()


def _panels(summary: Mapping[str, Any]) -> list[_Panel]:
    recall, precision = RECALL_AT.index(10), PRECISION_AT.index(20)
    if summary["table"] == "table3":
        papers = {n: {row: told[n][precision] for row, told in PAPER_TABLE_3.items()} for n in PAPER_KEYWORDS}
        names = [name for name in (*PAPER_KEYWORDS, "mean") if name in summary["base_rates"]]
        return [_Panel(f"{name}, P@20", ("keyword", name, "P@20"), 1.0, papers.get(name, {})) for name in names]
    to_image = PAPER_TABLE_4 if summary["table"] == "table4" else PAPER_TABLE_2["text_to_image"]
    paper = {row: told[recall] for row, told in to_image.items()}
    panels = [_Panel("text -> image, R@10 %", ("text_to_image", "R@10"), 100.0, paper)]
    if summary["table"] in ("table2", "ours"):
        paper = {row: told[recall] for row, told in PAPER_TABLE_2["image_to_text"].items()}
        panels.append(_Panel("image -> text, R@10 %", ("image_to_text", "R@10"), 100.0, paper))
    return panels


def _draw_panel(board: Board, x: float, width: float, panel: _Panel, summary: Mapping[str, Any]) -> None:
    rows = summary["rows"]
    bottom = _TOP + _ROW * len(rows)

    def place(value: float) -> float:
        return x + width * min(max(value / panel.most, 0.0), 1.0)

    board.text(x, _TOP - 24, panel.title, bold=True)
    for tick in range(5):
        at = panel.most * tick / 4
        board.rule(place(at), _TOP, place(at), bottom, line=LINE)
        board.text(place(at), bottom + 18, f"{at:g}", size=12, fill=MUTED, anchor="middle")
    chance = _look_up(summary["chance"], panel.name)
    if chance is not None:
        board.rule(place(chance), _TOP - 8, place(chance), bottom, line=PURPLE)
    for number, row in enumerate(rows):
        y = _TOP + _ROW * number + _ROW / 2
        if row["paper"] in panel.paper:
            board.box(place(panel.paper[row["paper"]]) - 4, y - 4, 8, 8, fill="none", line=ORANGE)
        value = _look_up(row.get("numbers", {}), panel.name)
        if value is None:
            continue
        low, high = _look_up(row["intervals"], panel.name)
        board.box(place(low), y - 2, max(place(high) - place(low), 1), 4, fill=BLUE, round_=2)
        board.dot(place(value), y, 6, fill=BLUE)


def _draw_key(board: Board, height: int) -> None:
    x, y = _MARGIN, height - 52
    for sign, words in (
        ("dot", "mean over seeds, 95% interval over patients"),
        ("rule", "chance"),
        ("box", "the paper's own, on other data"),
    ):
        if sign == "dot":
            board.dot(x + 6, y - 5, 6, fill=BLUE)
        elif sign == "rule":
            board.rule(x + 6, y - 14, x + 6, y + 3, line=PURPLE)
        else:
            board.box(x + 2, y - 9, 8, 8, fill="none", line=ORANGE)
        board.text(x + 20, y, words, size=13, fill=MUTED)
        x += round(20 + text_width(words, 13) + 16)


def _caution(summary: Mapping[str, Any]) -> str:
    counts: Sequence[int] = (summary["n_synthetic"], summary["n"])
    said = f"N {summary['n']} volumes. Not for diagnosis."
    if summary["synthetic"]:
        return f"SYNTHETIC: computer-made phantoms. {said}"
    return f"PARTLY SYNTHETIC: {counts[0]} cases are phantoms. {said}" if counts[0] else said


def _look_up(nested: Mapping[str, Any], name: Name) -> Any:
    value: Any = nested
    for part in name:
        if part not in value:
            return None
        value = value[part]
    return value
