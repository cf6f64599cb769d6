"""The result of an evaluation as Markdown tables, the paper's own numbers beside ours.

In: what ``evaluate`` returned, or that read back from JSON. Out: text that reads well in a terminal and in a README.
Nothing is refused; what was not measured has no table.

The paper's rows are copied from its tables 2 to 4 (MICCAI 2024) and marked as such: other data, another gallery, its
size not stated. They stand there for orientation and are no comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfinder.evaluation.answers import Name
from medfinder.evaluation.metrics import PRECISION_AT, RECALL_AT, SIMILAR_AT
from medfinder.evaluation.significance import Difference

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

PAPER_TABLE_3: dict[str, dict[str, tuple[float, ...]]] = {
    "CLIP4Clip": {
        "atelectasis": (0.20, 0.24, 0.21),
        "consolidation": (0.15, 0.14, 0.18),
        "adenopathy": (0.20, 0.18, 0.19),
    },
    "3D-MIR": {
        "atelectasis": (0.35, 0.34, 0.31),
        "consolidation": (0.40, 0.36, 0.39),
        "adenopathy": (0.35, 0.34, 0.37),
    },
    "MedFinder, ResNet-50": {
        "atelectasis": (0.75, 0.72, 0.69),
        "consolidation": (0.70, 0.66, 0.62),
        "adenopathy": (0.75, 0.72, 0.69),
    },
    "MedFinder, ViT-base": {
        "atelectasis": (0.70, 0.68, 0.63),
        "consolidation": (0.65, 0.64, 0.61),
        "adenopathy": (0.70, 0.68, 0.63),
    },
}
"""P@20, P@50, P@100."""

PAPER_TABLE_4: dict[str, tuple[float, ...]] = {
    "no sampler, L_mse, CLIP": (1.2, 5.1, 11.3, 120.3, 148.4),
    "sampler, no L_mse, CLIP": (1.3, 5.4, 11.8, 117.3, 142.5),
    "sampler, L_mse, CLIP": (1.8, 6.3, 13.9, 107.9, 129.6),
    "sampler, L_mse, BiomedCLIP": (2.8, 8.7, 20.3, 68.9, 81.3),
}
"""Text to image, ResNet-50: R@1, R@5, R@10 in percent, MdR, MnR."""

DIRECTION_TITLES = {"text_to_image": "text -> image", "image_to_text": "image -> text"}
RANK_MEASURES = (*(f"R@{k}" for k in RECALL_AT), "MdR", "MnR")
PRECISIONS = tuple(f"P@{k}" for k in PRECISION_AT)
SIMILARITIES = tuple(f"{measure}@{k}" for measure in ("MAP", "nDCG") for k in SIMILAR_AT)


@dataclass(frozen=True)
class Table:
    """A table ready to be laid out: cells are text, the first of a row names it.

    Attributes:
        note: what must be read with it; may be empty.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def as_markdown(result: Mapping[str, Any], differences: Sequence[Difference] = (), *, against: str = "") -> str:
    """Write the tables of one evaluation.

    Args:
        differences: of this evaluation from another, if it was compared.
        against: name of that other's model.
    """
    blocks = ["\n".join([*filter(None, [describe_origin(result)]), *describe_run(result)])]
    compared = [comparison_table(differences, against=against)] if differences else []
    for table in [*make_tables(result), *compared]:
        blocks += [lay_out(table), *filter(None, [table.note])]
    return "\n\n".join([*blocks, PAPER_NOTE]) + "\n"


def make_tables(result: Mapping[str, Any]) -> list[Table]:
    """Make the tables of text to image, image to text and, as far as they were measured, of the rest."""
    tables = [_caption_table(result, direction) for direction in DIRECTION_TITLES]
    makers = {"keyword": _keyword_table, "finding": _finding_table, "similar": _similar_table}
    # Results of earlier versions lack some of these.
    return [*tables, *(make(result) for part, make in makers.items() if result.get(part))]


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
        ("this model", str(gallery), *(with_interval(values[m], intervals[m], 1) for m in RANK_MEASURES)),
        ("chance", str(gallery), *(f"{chance[m]:.1f}" for m in RANK_MEASURES)),
    ]
    for name, published in PAPER_TABLE_2[direction].items():
        rows.append((f"{PAPER_MARK}: {name}", "?", *(f"{value:.1f}" for value in published)))
    header = (DIRECTION_TITLES[direction], "N", *(f"{m} %" if m.startswith("R@") else m for m in RANK_MEASURES))
    return Table(header, tuple(rows))


def _keyword_table(result: Mapping[str, Any]) -> Table:
    rows = []
    for name, values in result["keyword"].items():
        intervals = result["intervals"]["keyword"].get(name, {})
        cells = [with_interval(values[m], intervals.get(m), 2) for m in PRECISIONS]
        published = " / ".join(f"{value:.2f}" for value in PAPER_TABLE_3["MedFinder, ResNet-50"].get(name, ()))
        rows.append((name, str(values.get("relevant", "")), f"{values['base_rate']:.2f}", *cells, published))
    sources = ", ".join(f"{name} {count}" for name, count in sorted(result["findings_from"].items()))
    note = f"N {result['n_keyword']}. What is relevant is known from: {sources}. Chance is the base rate; "
    note += "no P@K can exceed relevant / K."
    if result["n_keyword"] < max(PRECISION_AT):
        note += " Places beyond N count as wrong, by chance too."
    header = ("keyword, by image", "relevant", "base rate", *PRECISIONS, f"{PAPER_MARK}: ResNet-50")
    return Table(header, tuple(rows), note)


def _finding_table(result: Mapping[str, Any]) -> Table:
    measures = ("AUROC", "AUROC by name")
    rows = []
    for name, values in result["finding"].items():
        intervals = result["intervals"]["finding"].get(name, {})
        cells = [with_interval(values[m], intervals.get(m), 2) for m in measures]
        base = f"{values['base_rate']:.2f}" if "base_rate" in values else ""
        rows.append((name, str(values.get("relevant", "")), base, *cells))
    note = f"N {result['n_keyword']}, those left out where the finding is uncertain. Nothing was trained for this: the "
    note += 'score is that of "X" less that of "no X"; by name: of "X" alone. Chance is 0.5.'
    return Table(("finding, without training", "positive", "base rate", *measures), tuple(rows), note)


def _similar_table(result: Mapping[str, Any]) -> Table:
    values, intervals, chance = result["similar"], result["intervals"]["similar"], result["chance"]["similar"]
    rows = (
        ("this model", str(result["n_similar"]), *(with_interval(values[m], intervals[m], 2) for m in SIMILARITIES)),
        ("chance", str(result["n_similar"]), *(f"{chance[m]:.2f}" for m in SIMILARITIES)),
    )
    note = (
        f"Each of N CTs asks {result['n_keyword']} less its own patient's. MAP: a CT is right that shares a finding; "
    )
    note += "nDCG: it gains by their number."
    return Table(("CT -> CT", "N", *SIMILARITIES), rows, note)


def comparison_table(differences: Sequence[Difference], *, against: str) -> Table:
    """Make the table of differences between one model and another."""
    rows = tuple(
        (
            _title(d.name),
            with_interval(d.value, (d.low, d.high), _digits(d.name), sign="+"),
            f"{d.p:.4f}",
            f"{d.p_holm:.4f}",
        )
        for d in differences
    )
    note = "Paired bootstrap over patients, two-sided; Holm: corrected for the comparisons of this table."
    return Table((f"difference from {against}", "this model", "p", "p, Holm"), rows, note)


def _title(name: Name) -> str:
    return " ".join([DIRECTION_TITLES.get(name[0], name[0]), *name[1:]])


def _digits(name: Name) -> int:
    return 1 if name[0] in DIRECTION_TITLES else 2


def with_interval(value: float, pair: Sequence[float] | None, digits: int, *, sign: str = "") -> str:
    """Write a number and its interval; ``sign="+"`` shows the sign of what is positive, too."""
    form = f"{sign}.{digits}f"
    if pair is None:
        return f"{value:{form}}"
    return f"{value:{form}} [{pair[0]:{form}}, {pair[1]:{form}}]"


def lay_out(table: Table) -> str:
    """Write a table as Markdown with columns of even width, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(table.header), rule, *map(line, table.rows)])
