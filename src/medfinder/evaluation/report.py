"""The result of an evaluation as Markdown tables, the paper's own numbers beside ours.

In: what ``evaluate`` returned, or that read back from JSON. Out: text that reads well in a terminal and in a README.
Nothing is refused; what was not measured has no table.

The paper's rows are copied from its tables 2 and 3 (MICCAI 2024) and marked as such: other data, another gallery, its
size not stated. They stand there for orientation and are no comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfinder.evaluation.metrics import PRECISION_AT, RECALL_AT

PAPER_MARK = "paper"
PAPER_NOTE = (
    "paper: the paper's own numbers, on BIMCV-R: real CTs, other data, gallery size not stated.\n"
    "They stand here for orientation and are no comparison."
)

PAPER_TABLE_2: dict[str, dict[str, tuple[float, ...]]] = {
    "text_to_image": {
        "MedFinder, ResNet-50": (2.8, 8.7, 20.3, 68.9, 81.3),
        "MedFinder, ViT-base": (2.7, 8.9, 21.4, 75.4, 80.1),
        "3D-MIR": (1.1, 4.7, 10.3, 121.1, 152.3),
        "CLIP4Clip": (0.3, 1.5, 2.2, 717.0, 735.9),
    },
    "image_to_text": {
        "MedFinder, ResNet-50": (2.9, 8.8, 19.7, 71.2, 80.7),
        "MedFinder, ViT-base": (2.7, 9.0, 20.3, 72.3, 81.9),
        "3D-MIR": (1.2, 4.0, 8.8, 134.9, 162.4),
        "CLIP4Clip": (0.3, 0.8, 1.5, 722.0, 738.7),
    },
}
"""R@1, R@5, R@10 in percent, MdR, MnR."""

PAPER_TABLE_3: dict[str, tuple[float, ...]] = {
    "atelectasis": (0.75, 0.72, 0.69),
    "consolidation": (0.70, 0.66, 0.62),
    "adenopathy": (0.75, 0.72, 0.69),
}
"""P@20, P@50, P@100 of MedFinder, ResNet-50."""

_DIRECTIONS = {"text_to_image": "text -> image", "image_to_text": "image -> text"}
_RANK_MEASURES = (*(f"R@{k}" for k in RECALL_AT), "MdR", "MnR")
_PRECISIONS = tuple(f"P@{k}" for k in PRECISION_AT)


@dataclass(frozen=True)
class Table:
    """A table ready to be laid out: cells are text, the first of a row names it.

    Attributes:
        note: what must be read with it; may be empty.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def as_markdown(result: Mapping[str, Any]) -> str:
    """Write the tables of one evaluation."""
    blocks = ["\n".join([*filter(None, [describe_origin(result)]), *describe_run(result)])]
    for table in make_tables(result):
        blocks += [_lay_out(table), *filter(None, [table.note])]
    return "\n\n".join([*blocks, PAPER_NOTE]) + "\n"


def make_tables(result: Mapping[str, Any]) -> list[Table]:
    """Make the tables of text to image, image to text and, where keywords were asked, of keywords."""
    tables = [_caption_table(result, direction) for direction in _DIRECTIONS]
    return [*tables, _keyword_table(result)] if result["keyword"] else tables


def describe_origin(result: Mapping[str, Any]) -> str:
    """Say how much of cases and model is synthetic; empty when nothing is."""
    said = []
    if result["synthetic"]:
        said.append("SYNTHETIC phantoms: these numbers say nothing about patients.")
    elif result["n_synthetic"]:
        said.append(f"{result['n_synthetic']} of the cases are SYNTHETIC phantoms.")
    if result["model_is_synthetic"]:
        said.append("The model was trained on synthetic CTs only.")
    return " ".join(said)


def describe_run(result: Mapping[str, Any]) -> list[str]:
    """Say what was measured with what, and how to read it."""
    boot = result["bootstrap"]
    counts = f"{result['n']} volumes, {result['n_reports']} reports, {result['n_patients']} patients"
    return [
        f"Split {result['split']}: {counts}.",
        f"Model {result['model']}, digest {result['digest'][:12]}.",
        f"[low, high]: {boot['level']}% interval over patients, {boot['samples']} bootstrap draws. Ties rank last.",
    ]


def _caption_table(result: Mapping[str, Any], direction: str) -> Table:
    gallery = result["n"] if direction == "text_to_image" else result["n_reports"]
    values, intervals, chance = result[direction], result["intervals"][direction], result["chance"][direction]
    rows = [
        ("this model", str(gallery), *(_with_interval(values[m], intervals[m], 1) for m in _RANK_MEASURES)),
        ("chance", str(gallery), *(f"{chance[m]:.1f}" for m in _RANK_MEASURES)),
    ]
    for name, published in PAPER_TABLE_2[direction].items():
        rows.append((f"{PAPER_MARK}: {name}", "?", *(f"{value:.1f}" for value in published)))
    header = (_DIRECTIONS[direction], "N", *(f"{m} %" if m.startswith("R@") else m for m in _RANK_MEASURES))
    return Table(header, tuple(rows))


def _keyword_table(result: Mapping[str, Any]) -> Table:
    rows = []
    for name, values in result["keyword"].items():
        intervals = result["intervals"]["keyword"].get(name, {})
        cells = [_with_interval(values[m], intervals.get(m), 2) for m in _PRECISIONS]
        published = " / ".join(f"{value:.2f}" for value in PAPER_TABLE_3.get(name, ()))
        rows.append((name, str(values.get("relevant", "")), f"{values['base_rate']:.2f}", *cells, published))
    sources = ", ".join(f"{name} {count}" for name, count in sorted(result["findings_from"].items()))
    note = f"N {result['n_keyword']}. What is relevant is known from: {sources}. Chance is the base rate; "
    note += "no P@K can exceed relevant / K."
    if result["n_keyword"] < max(PRECISION_AT):
        note += " Places beyond N count as wrong, by chance too."
    header = ("keyword, by image", "relevant", "base rate", *_PRECISIONS, f"{PAPER_MARK}: ResNet-50")
    return Table(header, tuple(rows), note)


def _with_interval(value: float, pair: Sequence[float] | None, digits: int) -> str:
    if pair is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{pair[0]:.{digits}f}, {pair[1]:.{digits}f}]"


def _lay_out(table: Table) -> str:
    """Write Markdown with columns of even width, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(table.header), rule, *map(line, table.rows)])
