"""A drawing board for pictures that are text: SVG without a plotting library.

In: boxes, lines, words and small photographs, in pixels from the upper left corner. Out: one SVG file's text; the same
calls give the same bytes on every machine. Nothing is refused; words are escaped. Widths of words are estimated from
above, for the widest of the fonts that a reader may have, so that what fits here fits everywhere.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from html import escape

INK, MUTED, LINE, PAPER, TINT = "#16202b", "#52606d", "#c3ccd5", "#ffffff", "#eef3f7"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#c24e00", "#00795b", "#5b3fa8"
"""After Okabe and Ito, who chose colours that the colour-blind tell apart; darkened until white words on them reach a
contrast of 4.5 to 1."""

NO_BREAK = "\u00a0"
"""A space at which no line ends, e.g. between a number and its unit; drawn as any other."""

_FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
# Widths in em of DejaVu Sans, rounded up to a tenth; all others are as wide as a digit.
_WIDTHS = {
    0.3: "ijlIJ'",
    0.4: f"ft!(),-./:;[\\]| {NO_BREAK}",
    0.5: 'r"*_`',
    0.6: "cksvxyzFL?",
    0.8: "DGHNOQU&",
    0.9: "wM#+<=>^~",
    1.0: "mW%@",
}
_WIDTH_OF = {letter: width for width, letters in _WIDTHS.items() for letter in letters}
_DIGIT, _BOLDER = 0.7, 1.12


def text_width(words: str, size: float, *, bold: bool = False) -> float:
    """Estimate from above how wide words are.

    Example:
        >>> text_width("lung", 10) == text_width("lúng", 10)
        True
        >>> round(text_width("will", 10), 1)
        18.0
    """
    letters = (c for c in unicodedata.normalize("NFD", words) if not unicodedata.combining(c))
    return sum(_WIDTH_OF.get(c, _DIGIT) for c in letters) * size * (_BOLDER if bold else 1)


def wrap(words: str, size: float, width: float, *, most: int = 1000) -> list[str]:
    """Break words into lines that fit; what does not fit into the last one allowed is left out and marked.

    A full stop or comma that stands alone, as in BIMCV's reports, begins no line.

    Example:
        >>> wrap("small left pleural effusion", 10, 90)
        ['small left', 'pleural effusion']
        >>> wrap("small left pleural effusion", 10, 90, most=1)
        ['small left ...']
    """
    lines: list[str] = []
    for paragraph in words.split("\n"):
        line = ""
        for word in _BREAK.split(_LONE_STOP.sub(NO_BREAK, paragraph.strip())):
            longer = f"{line} {word}".strip()
            if line and text_width(longer, size) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], shorten(f"{lines[most - 1]} ...", size, width)]


_BREAK = re.compile(rf"[^\S{NO_BREAK}]+")
_LONE_STOP = re.compile(r"\s+(?=[.,;:](?:\s|$))")


def shorten(words: str, size: float, width: float) -> str:
    """Cut words to a width; three dots tell that something is missing.

    Example:
        >>> shorten("coronary calcification", 10, 80)
        'coronary ...'
    """
    if text_width(words, size) <= width:
        return words
    kept = words.removesuffix("...").rstrip()
    while kept and text_width(f"{kept} ...", size) > width:
        kept = kept[:-1].rstrip()
    return f"{kept} ..."


@dataclass
class Board:
    """A picture in the making.

    Attributes:
        title: what it shows; drawn at the top and told to screen readers.
        caution: what must be known of the data; drawn at the bottom, on every picture.
        is_synthetic: the caution stands on a ground of its own colour.
    """

    width: int
    height: int
    title: str
    caution: str
    is_synthetic: bool = False
    parts: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 14,
        fill: str = INK,
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """Write words on the line ``y``, which is their base; ``anchor`` is start, middle or end."""
        shown = "".join(c for c in words.replace(NO_BREAK, " ") if c.isprintable())
        weight = ' font-weight="700"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{fill}" text-anchor="{anchor}"{weight}>'
            f"{escape(shown, quote=False)}</text>"
        )

    def box(
        self, x: float, y: float, width: float, height: float, *, fill: str, line: str = "none", round_: float = 0
    ) -> None:
        """Draw a filled rectangle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{max(width, 0):g}" height="{max(height, 0):g}" rx="{round_:g}" '
            f'fill="{fill}" stroke="{line}"/>'
        )

    def dot(self, x: float, y: float, radius: float, *, fill: str) -> None:
        """Draw a dot."""
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}"/>')

    def rule(self, x1: float, y1: float, x2: float, y2: float, *, line: str = LINE, arrow: bool = False) -> None:
        """Draw a straight line, with a head at its end if it is an arrow; arrows run down or to the right."""
        self.parts.append(f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="{line}" fill="none"/>')
        if arrow:
            head = "l-4 -8h8z" if x1 == x2 else "l-8 -4v8z"
            self.parts.append(f'<path d="M{x2:g} {y2:g}{head}" fill="{line}"/>')

    def image(self, x: float, y: float, width: float, height: float, source: str, told: str) -> None:
        """Place a photograph, given as a data URI."""
        self.parts.append(
            f'<image x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" href="{source}">'
            f"<title>{escape(told, quote=False)}</title></image>"
        )

    def finish(self) -> str:
        """Close the picture: title at the top, caution at the bottom."""
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        label = escape(f"{self.title}. {self.caution}")
        self.text(24, 36, self.title, size=20, bold=True)
        ground, ink = (PURPLE, PAPER) if self.is_synthetic else (TINT, INK)
        self.box(0, self.height - 32, self.width, 32, fill=ground)
        self.text(24, self.height - 11, self.caution, size=13, fill=ink, bold=True)
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{_FONT}" role="img" aria-label="{label}">'
        paper = f'<rect width="{self.width}" height="{self.height}" fill="{PAPER}"/>'
        return "\n".join([head, paper, *self.parts, "</svg>"]) + "\n"
