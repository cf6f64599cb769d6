"""Pictures of a dataset: where studies went, keyword frequencies and word cloud, ages, spacings, sample cards.

In: the description of a dataset (``medfinder.curation.statistics``), for a card also a case and its volume. Out: SVG
text, the same for the same dataset on every machine. Every picture says whether the data are synthetic and that it is
not for diagnosis. What a description does not hold has no picture. Refused: nothing.

Drawn by hand: a plotting library and a word-cloud library would weigh some 60 MB for bars and boxes, and their files
differ from version to version.
"""

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfinder.app.montage import Panel, render_planes
from medfinder.app.svg import (
    BLUE,
    GREEN,
    INK,
    LINE,
    MUTED,
    NO_BREAK,
    ORANGE,
    PAPER,
    PURPLE,
    TINT,
    Board,
    shorten,
    text_width,
    wrap,
)
from medfinder.curation.split import SPLITS
from medfinder.curation.statistics import age_band
from medfinder.errors import MissingExtraError
from medfinder.records import Case, plural
from medfinder.volume import Volume

try:
    from PIL import Image
except ImportError as error:
    raise MissingExtraError("Pillow", "page") from error

NOT_FOR_DIAGNOSIS = "Not for diagnosis."
_SPLIT_COLOURS: dict[str, str] = dict(zip(SPLITS, (BLUE, ORANGE, GREEN), strict=True))
_TOP = 64
"""Where a picture begins below its title."""
_FOOT = 52
"""What a picture leaves free above its lower edge."""

_STAGE_NAMES = {
    "table": "report table",
    "read": "reading",
    "series": "series selection",
    "quality": "quality",
    "report": "report",
    "pairing": "pairing audit",
    "deidentification": "de-identification",
    "translation": "translation",
    "review": "review by a reader",
}


def caution(synthetic: int, cases: int) -> str:
    """Say what every picture must say.

    Example:
        >>> caution(0, 3)
        'Not for diagnosis.'
        >>> caution(2, 3)
        'PARTLY SYNTHETIC: 2 of 3 cases are computer-made phantoms. Not for diagnosis.'
    """
    if not synthetic:
        return NOT_FOR_DIAGNOSIS
    if synthetic == cases:
        return f"SYNTHETIC: computer-made phantoms, no patient stands behind them. {NOT_FOR_DIAGNOSIS}"
    return f"PARTLY SYNTHETIC: {synthetic} of {cases} cases are computer-made phantoms. {NOT_FOR_DIAGNOSIS}"


def draw_figures(description: Mapping[str, Any], *, top: int = 30) -> dict[str, str]:
    """Draw every picture that the description bears, by file name.

    Args:
        top: how many keywords the bars show.
    """
    figures = {"flow.svg": draw_flow(description)}
    if any(row["cases"] for row in description["findings"].values()):
        figures["keywords.svg"] = draw_keywords(description, top=top)
        figures["word_cloud.svg"] = draw_word_cloud(description)
        figures["splits.svg"] = draw_splits(description, top=top)
    if any(counts["F"] or counts["M"] for counts in description["ages"].values()):
        figures["ages.svg"] = draw_ages(description)
    if description["histograms"]:
        figures["histograms.svg"] = draw_histograms(description)
    return figures


def _board(description: Mapping[str, Any], width: int, height: int, title: str) -> Board:
    synthetic, cases = description["synthetic"], description["cases"]
    return Board(width, height, title, caution(synthetic, cases), is_synthetic=synthetic > 0)


# ---- where the studies went ------------------------------------------------------------------------------------------

_REASONS_SHOWN = 6


@dataclass(frozen=True)
class _Exit:
    """What leaves the way on one side, and why.

    Attributes:
        left: studies that go on; None where what left was no study.
    """

    title: str
    lines: tuple[str, ...]
    left: int | None

    @property
    def height(self) -> int:
        return 40 + 20 * len(self.lines)


def draw_flow(description: Mapping[str, Any]) -> str:
    """Draw the way from source to splits, what left it and why.

    Source: the form of the CONSORT 2010 flow diagram.
    """
    flow, exits = description["flow"], list(_exits(description))
    width, spine, side = 860, 40, 450
    height = _TOP + 56 + sum(one.height + 20 for one in exits) + 60 + 64 + 90 + _FOOT
    board = _board(description, width, height, "From source to dataset")
    y = _spine_box(board, _TOP, "Studies found", f"n = {flow['found']}")
    for one in exits:
        middle, below = y + 20 + one.height / 2, y + 20 + one.height
        board.rule(spine + 170, y, spine + 170, below, line=MUTED)
        if one.left is not None:
            board.rule(spine + 170, middle, side, middle, line=MUTED, arrow=True)
            board.text(spine + 160, middle + 5, f"{one.left} left", size=13, fill=MUTED, anchor="end")
        _exit_box(board, side, y + 20, width - side - 24, one)
        y = below
    board.rule(spine + 170, y, spine + 170, y + 30, line=MUTED, arrow=True)
    kept = f"{plural(description['cases'], 'case')}, {plural(description['patients'], 'patient')}"
    y = _spine_box(board, y + 30, f"{plural(flow['kept'], 'study')} kept", kept)
    _split_boxes(board, spine + 170, y, width, description["splits"])
    return board.finish()


def _exits(description: Mapping[str, Any]) -> Iterator[_Exit]:
    flow = description["flow"]
    left = flow["found"]
    for step in flow["steps"]:
        left -= step["studies"]
        stage = _STAGE_NAMES.get(step["stage"], step["stage"])
        yield _Exit(f"Set aside, {stage}: {step['studies']}", tuple(_reason_lines(step["reasons"])), left)
    if flow["waiting"]:
        left -= flow["waiting"]
        yield _Exit(f"Waiting for a reader: {flow['waiting']}", tuple(_reason_lines(flow["waiting_for"])), left)
    if rows := flow["rows_aside"]:
        yield _Exit(f"Table rows set aside: {sum(rows.values())}", tuple(_reason_lines(rows)), None)


def _reason_lines(reasons: Mapping[str, int]) -> Iterator[str]:
    shown = list(reasons.items())
    cut = len(shown) if len(shown) <= _REASONS_SHOWN else _REASONS_SHOWN - 1
    yield from (f"{count}  {reason}" for reason, count in shown[:cut])
    if shown[cut:]:
        yield f"{sum(count for _, count in shown[cut:])}  for {len(shown) - cut} other reasons"


def _spine_box(board: Board, y: float, title: str, told: str) -> float:
    board.box(40, y, 340, 56, fill=TINT, line=LINE, round_=8)
    board.text(210, y + 24, title, size=15, bold=True, anchor="middle")
    board.text(210, y + 44, told, size=14, fill=MUTED, anchor="middle")
    return y + 56


def _exit_box(board: Board, x: float, y: float, width: float, one: _Exit) -> None:
    board.box(x, y, width, one.height, fill=PAPER, line=LINE, round_=8)
    board.text(x + 14, y + 25, shorten(one.title, 14, width - 40), bold=True)
    for number, line in enumerate(one.lines):
        board.text(x + 14, y + 47 + 20 * number, shorten(line, 13, width - 28), size=13, fill=MUTED)


def _split_boxes(board: Board, x: float, y: float, width: float, splits: Mapping[str, Mapping[str, int]]) -> None:
    box_width = (width - 48 - 2 * 20) / 3
    # A bar across, from the middle of the first box to that of the last, hangs the boxes on the spine.
    board.rule(x, y, x, y + 30, line=MUTED)
    board.rule(24 + box_width / 2, y + 30, width - 24 - box_width / 2, y + 30, line=MUTED)
    for place, (split, counts) in enumerate(splits.items()):
        left = 24 + place * (box_width + 20)
        board.rule(left + box_width / 2, y + 30, left + box_width / 2, y + 54, line=MUTED, arrow=True)
        board.box(left, y + 54, box_width, 62, fill=_SPLIT_COLOURS[split], round_=8)
        told = f"{plural(counts['cases'], 'case')}, {plural(counts['patients'], 'patient')}"
        board.text(left + box_width / 2, y + 80, split, size=16, fill=PAPER, bold=True, anchor="middle")
        board.text(left + box_width / 2, y + 102, told, size=14, fill=PAPER, anchor="middle")


# ---- keywords --------------------------------------------------------------------------------------------------------


def draw_keywords(description: Mapping[str, Any], *, top: int = 30) -> str:
    """Draw in how many cases each keyword is present, the most frequent first: the paper's figure 3, left."""
    rows = _present(description)[:top]
    width, label, row = 860, 280, 24
    board = _board(description, width, _TOP + row * len(rows) + 30 + _FOOT, "Keyword frequency")
    most, room = rows[0][1]["cases"], width - label - 160
    for place, (name, counts) in enumerate(rows):
        y = _TOP + row * place
        board.text(label - 12, y + 16, shorten(name, 14, label - 30), anchor="end")
        board.box(label, y + 3, room * counts["cases"] / most, row - 7, fill=BLUE)
        told = f"{counts['cases']}  ({100 * counts['base_rate']:.1f}%)"
        board.text(label + room * counts["cases"] / most + 8, y + 16, told, size=13, fill=MUTED)
    left = len(_present(description)) - len(rows)
    note = f"Cases in which it is present, and the share of all {description['cases']}."
    board.text(24, _TOP + row * len(rows) + 24, f"{note} {_more(left)}".strip(), size=13, fill=MUTED)
    return board.finish()


def _present(description: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, counts) for name, counts in description["findings"].items() if counts["cases"]]


def _more(left: int) -> str:
    return f"{plural(left, 'keyword')} more, rarer than these." if left else ""


_CLOUD_COLOURS = (BLUE, GREEN, ORANGE, PURPLE, INK)


@dataclass(frozen=True)
class _Word:
    """A word of the cloud, by the corners of the room that it takes."""

    words: str
    size: float
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "_Word") -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def draw_word_cloud(description: Mapping[str, Any]) -> str:
    """Draw keywords the larger the more frequent they are: the paper's figure 3, right.

    A letter's height grows with the square root of the count, so that the area of a word grows with the count; the
    rarest are drawn no smaller than can be read.
    """
    width, height = 860, 600
    board = _board(description, width, height, "Keywords, larger where more frequent")
    placed: list[_Word] = []
    rows = _present(description)
    largest = _largest_size(rows, (width - 32) * (height - _TOP - _FOOT))
    for name, counts in rows:
        word = _place(name, largest * math.sqrt(counts["cases"] / rows[0][1]["cases"]), placed, width, height)
        if word is None:
            continue
        colour = _CLOUD_COLOURS[len(placed) % len(_CLOUD_COLOURS)]
        middle, base = (word.left + word.right) / 2, word.bottom - 0.24 * word.size
        board.text(middle, base, name, size=round(word.size, 1), fill=colour, anchor="middle", bold=True)
        placed.append(word)
    if len(placed) < len(rows):
        note = f"{plural(len(rows) - len(placed), 'keyword')} left out for want of room."
        board.text(24, height - 42, note, size=12, fill=MUTED)
    return board.finish()


def _largest_size(rows: Sequence[tuple[str, Mapping[str, Any]]], room: float) -> float:
    """Choose the size of the most frequent word, so that all words together cover half of the room (ours)."""
    most = rows[0][1]["cases"]
    covered = sum(text_width(name, 1, bold=True) * counts["cases"] / most for name, counts in rows)
    return min(46.0, math.sqrt(0.5 * room / covered))


def _place(name: str, size: float, placed: Sequence[_Word], width: int, height: int) -> _Word | None:
    """Walk an Archimedean spiral from the middle outwards to the first free place; smaller where there is none."""
    size = max(size, 11)
    while size >= 11:
        across, down = text_width(name, size, bold=True), 1.15 * size
        for step in range(1600):
            angle = 0.35 * step
            x = width / 2 + 1.7 * 0.55 * angle * math.cos(angle)
            y = (_TOP + height - _FOOT) / 2 + 0.55 * angle * math.sin(angle)
            word = _Word(name, size, x - across / 2, y - down / 2, x + across / 2, y + down / 2)
            inside = word.left > 16 and word.right < width - 16 and word.top > _TOP - 12 and word.bottom < height - 56
            if inside and not any(word.meets(other) for other in placed):
                return word
        size *= 0.85
    return None


def draw_splits(description: Mapping[str, Any], *, top: int = 30) -> str:
    """Draw the base rate of each finding in each split, as dots on one line: apart where the splits differ."""
    rows = _present(description)[:top]
    sizes = {split: max(1, description["splits"][split]["cases"]) for split in SPLITS}
    rates = [{split: counts[split] / sizes[split] for split in SPLITS} for _, counts in rows]
    width, label, row = 860, 280, 24
    board = _board(description, width, _TOP + 30 + row * len(rows) + 40 + _FOOT, "Base rate of findings by split")
    for place, split in enumerate(SPLITS):
        board.dot(label + 8 + 190 * place, _TOP + 4, 6, fill=_SPLIT_COLOURS[split])
        told = f"{split} ({plural(description['splits'][split]['cases'], 'case')})"
        board.text(label + 20 + 190 * place, _TOP + 9, told, size=13)
    room, most, bottom = width - label - 50, max(max(rate.values()) for rate in rates), _TOP + 30 + row * len(rows)
    step = _round_step(100 * most)
    ticks = math.ceil(100 * most / step - 1e-9)
    # Every other row has a ground, which leads the eye from a dot to its name.
    for place in range(0, len(rows), 2):
        board.box(24, _TOP + 30 + row * place, width - 48, row, fill=TINT, round_=4)
    for tick in range(ticks + 1):
        x = label + room * tick / ticks
        board.rule(x, _TOP + 26, x, bottom)
        board.text(x, bottom + 18, f"{tick * step:g}%", size=12, fill=MUTED, anchor="middle")
    for place, ((name, _), rate) in enumerate(zip(rows, rates, strict=True)):
        y = _TOP + 42 + row * place
        board.text(label - 14, y + 5, shorten(name, 14, label - 30), anchor="end")
        # Each split has its own lane, so that equal rates hide none.
        for lane, split in enumerate(SPLITS, start=-1):
            board.dot(label + room * 100 * rate[split] / (ticks * step), y + 6 * lane, 4.5, fill=_SPLIT_COLOURS[split])
    note = f"Share of the split's cases. {_more(len(_present(description)) - len(rows))}".strip()
    board.text(24, bottom + 40, note, size=13, fill=MUTED)
    return board.finish()


def _round_step(most: float) -> float:
    """Choose the distance of ticks: 1, 2 or 5 times a power of ten, about six ticks in all.

    Example:
        >>> _round_step(28.3), _round_step(3), _round_step(100)
        (5.0, 0.5, 20.0)
    """
    rough = max(most, 1e-6) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return min(power * times for times in (1, 2, 5, 10) if power * times >= rough - 1e-12)


# ---- ages and measures -----------------------------------------------------------------------------------------------


def draw_ages(description: Mapping[str, Any]) -> str:
    """Draw the age pyramid: women to the left, men to the right, those of unknown sex beside it as a number."""
    bands = list(reversed(description["ages"].items()))
    width, row = 860, 34
    board = _board(description, width, _TOP + 34 + row * len(bands) + 34 + _FOOT, "Patients by age and sex")
    most = max(1, *(max(counts["F"], counts["M"]) for _, counts in bands))
    middle, room = width / 2, width / 2 - 130
    for title, x, anchor, colour in (("Women", middle - 46, "end", PURPLE), ("Men", middle + 46, "start", GREEN)):
        board.text(x, _TOP + 12, title, fill=colour, bold=True, anchor=anchor)
    for place, (band, counts) in enumerate(bands):
        y = _TOP + 26 + row * place
        board.text(middle, y + 20, band, size=13, anchor="middle")
        for sex, side, colour, anchor in (("F", -1, PURPLE, "end"), ("M", 1, GREEN, "start")):
            length = room * counts[sex] / most
            board.box(middle + 46 if side > 0 else middle - 46 - length, y + 3, length, row - 8, fill=colour)
            x = middle + side * (46 + length + 8)
            board.text(x, y + 20, str(counts[sex]), size=13, fill=MUTED, anchor=anchor)
        if counts["unknown"]:
            board.text(width - 20, y + 20, f"+{counts['unknown']}", size=13, fill=MUTED, anchor="end")
    unknown = sum(counts["unknown"] for _, counts in bands)
    note = "Each patient once, at the youngest age known."
    note += f" +n: {unknown} of unknown sex." if unknown else ""
    board.text(24, _TOP + 26 + row * len(bands) + 28, note, size=13, fill=MUTED)
    return board.finish()


def draw_histograms(description: Mapping[str, Any]) -> str:
    """Draw how slices, spacings, report lengths and quality scores are spread over the cases."""
    histograms = description["histograms"]
    columns, cell_width, cell_height = 2, 430, 260
    rows = math.ceil(len(histograms) / columns)
    height = _TOP + rows * cell_height + _FOOT
    board = _board(description, columns * cell_width, height, "How cases are spread")
    for place, (name, bins) in enumerate(histograms.items()):
        x, y = place % columns * cell_width, _TOP + place // columns * cell_height
        _draw_histogram(board, x + 64, y + 30, cell_width - 96, cell_height - 86, name, bins)
    return board.finish()


def _draw_histogram(
    board: Board, x: float, y: float, width: float, height: float, name: str, bins: Sequence[Sequence[float]]
) -> None:
    highest = max(count for *_, count in bins)
    step = max(1.0, _round_step(highest))
    most = step * math.ceil(highest / step - 1e-9)
    board.text(x, y - 12, name[0].upper() + name[1:], bold=True)
    for tick in range(round(most / step) + 1):
        level = y + height - height * tick * step / most
        board.rule(x, level, x + width, level)
        board.text(x - 8, level + 4, f"{tick * step:g}", size=12, fill=MUTED, anchor="end")
    # One bin alone would be a wall: bars are at most a fifth of the width, and few of them stand in the middle.
    bar = min(width / len(bins), width / 5)
    first = x + (width - bar * len(bins)) / 2
    every = math.ceil(len(bins) / 6)
    for place, (low, high, count) in enumerate(bins):
        left = first + place * bar
        board.box(left + 1, y + height - height * count / most, bar - 2, height * count / most, fill=BLUE)
        if place % every == 0 and (place == 0 or len(bins) - place >= every):
            board.text(left, y + height + 18, f"{low:g}", size=12, fill=MUTED, anchor="middle")
        if place == len(bins) - 1:
            board.text(left + bar, y + height + 18, f"{high:g}", size=12, fill=MUTED, anchor="middle")
    board.rule(x, y + height, x + width, y + height, line=MUTED)


# ---- sample cards ----------------------------------------------------------------------------------------------------

_TILE = 230
_GAP = 6
_CARD_WIDTH = 1120


def choose_samples(cases: Sequence[Case], count: int) -> tuple[Case, ...]:
    """Choose cases to show: each adds the most findings that none before it has; the first by id where several do."""
    left = sorted(cases, key=lambda case: case.case_id)
    chosen: list[Case] = []
    seen: set[str] = set()
    while left and len(chosen) < count:
        best = max(left, key=lambda case: len(_names(case) - seen))
        chosen.append(best)
        seen |= _names(best)
        left.remove(best)
    return tuple(chosen)


def _names(case: Case) -> set[str]:
    return {finding.name for finding in case.findings if finding.status == "present"}


def draw_card(case: Case, volume: Volume, *, attribution: str = "") -> str:
    """Draw one case: its three planes in two windows, CT data, findings and report: the paper's figure 2.

    Args:
        attribution: origin and licence of the images, where they must be told.
    """
    panels = render_planes(volume, tile=_TILE)
    side = 24 + 3 * (_TILE + _GAP) + 24
    room = _CARD_WIDTH - side - 24
    report = wrap(case.report.replace(NO_BREAK, " ") or "No report comes with this CT.", 15, _CARD_WIDTH - 48, most=40)
    findings = _finding_lines(case, room)
    facts = _facts(case)
    upper = max(_TOP + 24 + 2 * _TILE + 14, _TOP + 30 + 22 * len(facts) + 46 + 22 * len(findings))
    credit = wrap(attribution, 12, _CARD_WIDTH - 48) if attribution else []
    height = round(upper + 50 + 22 * len(report) + 17 * len(credit) + _FOOT)
    synthetic = int(case.is_synthetic)
    board = Board(_CARD_WIDTH, height, f"Case {case.case_id}", caution(synthetic, 1), is_synthetic=synthetic > 0)
    _draw_panels(board, panels)
    _draw_lines(board, side, _TOP + 14, "CT data", facts)
    _draw_lines(board, side, _TOP + 14 + 30 + 22 * len(facts) + 16, "Findings present", findings)
    _draw_lines(board, 24, upper + 22, "Report", report, size=15)
    for number, line in enumerate(credit):
        board.text(24, upper + 50 + 22 * len(report) + 17 * number + 6, line, size=12, fill=MUTED)
    return board.finish()


def _draw_lines(board: Board, x: float, y: float, title: str, lines: Sequence[str], *, size: int = 14) -> None:
    board.text(x, y, title, size=14, fill=MUTED, bold=True)
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        board.text(x + 4 * indent, y + 24 + 22 * number, line.lstrip(), size=size)


def _draw_panels(board: Board, panels: Sequence[Panel]) -> None:
    for place, panel in enumerate(panels):
        x = 24 + place * (_TILE + _GAP)
        board.text(x, _TOP + 14, panel.name, size=13, fill=MUTED)
        told = f"{panel.name}; lung window above, mediastinal window below."
        board.image(x, _TOP + 24, _TILE, 2 * _TILE, _as_data_uri(panel), told)


def _as_data_uri(panel: Panel) -> str:
    buffer = io.BytesIO()
    Image.fromarray(panel.pixels).save(buffer, format="JPEG", quality=88, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _facts(case: Case) -> list[str]:
    who = {"F": "woman", "M": "man", None: "sex not known"}[case.sex]
    age = "age not known" if case.age_years is None else f"{_age(case.age_years)} years"
    return [
        f"{who}, {age}",
        f"{' x '.join(map(str, case.shape))} voxels",
        f"{' x '.join(f'{mm:.2f}' for mm in case.spacing_mm)} mm",
        f"region: {case.region}",
        f"source: {case.source}, split: {case.split}",
        f"findings known from: {case.findings_from}",
    ]


def _age(age_years: int) -> str:
    band = age_band(age_years)
    return band if band.endswith("+") else str(age_years)


def _finding_lines(case: Case, room: float) -> list[str]:
    told: list[str] = []
    for finding in case.findings:
        if finding.status == "present":
            size = None if finding.size_mm is None else f"{finding.size_mm:g}{NO_BREAK}mm"
            parts = (finding.name, finding.grade, finding.laterality, finding.location, size)
            first, *rest = wrap(", ".join(str(part) for part in parts if part), 14, room - 16)
            told += [first, *(f"    {line}" for line in rest)]
    return told or ["none known"]
