"""A report cut into its sentences.

In: a report. Out: its sentences in order, without their closing stop. Refused: nothing.
"""

import re

_STOP, _DOT = "\x00", "\x01"
_SPLIT_DECIMAL = re.compile(r"(\d) \. (\d+) (?=[mc]m\b)")
# A blank line, a bullet, a numbered item or a line after a heading starts a sentence; a plain line break does not.
_LINE_START = re.compile(
    r"\n[ \t]*\n|\n[ \t]*(?=[-•*][ \t])|(?:(?<=\n)|^)[ \t]*\d{1,2}[.)][ \t]+(?=[^\W\d])|(?<=[:.])[ \t]?\n"
    r"|(?<=\. )\d{1,2}[.)][ \t]+(?=[A-ZÁÉÍÓÚ])"
)


def _after(words: str) -> str:
    """Say that the stop just read ends one of these words; a pattern that starts with its stop is found fastest."""
    return "|".join(rf"(?<=\b{word}\.)" for word in words.split("|"))


_LATIN = "e\\.g|i\\.e"
_TITLES = "dr|dra|mr|mrs|sr|sra|prof"
_SHORTENED = "pej|p ej|p\\.ej|p\\. ej|approx|aprox|vs|cf|fig|num|max|máx|min|mín|izq|izqdo|izqda|dcho|dcha|inf|sup|st"
_SMALL = r"\s+(?-i:[^A-ZÁÉÍÓÚ\s])"
# Stops that end no sentence: decimals, titles, shortened words before a small letter, a unit before a preposition.
_DOTTED = re.compile(
    rf"\.(?:(?<=\d\.)(?=\d)|(?:{_after(_TITLES)})(?=\s)|(?<=\be\.)(?=g)|(?<=\bi\.)(?=e)|{_after(_LATIN)}"
    r"|(?<=\b[mc]m\.)(?=\s+(?:en|de|del|a|in|of|at|x|y|and|which|que)\b)"
    rf"|(?:{_after(_SHORTENED)})(?={_SMALL})|(?<=\bp\.)(?= ?ej\.{_SMALL}))",
    re.IGNORECASE,
)
_SPACES = re.compile(r"[^\S\n]+")
_END = re.compile(rf"{_STOP}|(?<=[^\s])[.!?]+(?=[\s\"')\]]|$)|(?:^|\s)[.!?]+(?=\s|$)|;\s*$")
_LETTER = re.compile(r"[^\W\d_]")


def split_sentences(report: str) -> tuple[str, ...]:
    """Split a report into sentences, without their closing stop.

    Knows BIMCV's `` . ``, decimals (``3.5 cm``, also ``3 . 5 cm``), titles, numbered lists and headings.

    Example:
        >>> split_sentences("nodulo de 3.5 cm en lid . sin derrame .")
        ('nodulo de 3.5 cm en lid', 'sin derrame')
    """
    # Runs of spaces first: with them gone, no pattern below can look at one place twice.
    text = _SPACES.sub(" ", report.replace("\r\n", "\n"))
    text = _SPLIT_DECIMAL.sub(r"\1.\2 ", text)
    text = _LINE_START.sub(_STOP, text).replace("\n", " ")
    text = _DOTTED.sub(_DOT, text)
    cleaned = (" ".join(part.replace(_DOT, ".").split()).strip(" -•*").rstrip(".!? ") for part in _END.split(text))
    return tuple(part for part in cleaned if _LETTER.search(part))
