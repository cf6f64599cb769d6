"""Is a report fit to be searched, and in which language is it.

In: a study's texts as the source gave them. Out: the text that is searched, the Spanish original beside it, or why
neither will do. Nothing is translated here: a report that comes in Spanish alone is searched in Spanish (the keyword
lexicon knows both languages), so that ``report`` and ``report_es`` are then the same text.
"""

import re
import unicodedata
from dataclasses import dataclass
from html.parser import HTMLParser

from medfinder.curation.quality import Fault
from medfinder.records import Language, Study, plural

# Commonest words of each language in radiology reports that the other one lacks ("no" is both).
_STOP_WORDS: dict[Language, frozenset[str]] = {
    "en": frozenset(("the", "of", "and", "with", "without", "is", "are", "there", "to", "or", "right", "left", "lung")),
    "es": frozenset(
        ("el", "la", "los", "las", "del", "de", "y", "con", "sin", "se", "en", "por", "derecho", "izquierdo")
    ),
}


@dataclass(frozen=True, slots=True)
class ReportText:
    """The texts of a case.

    Attributes:
        searched: what is embedded and indexed, in ``language``.
        spanish: the Spanish original; empty when there is none.
    """

    searched: str
    language: Language
    spanish: str


def choose_text(study: Study) -> ReportText:
    """Take the English version where the source brings one, else the report as written."""
    original = tidy(study.report or "")
    english = tidy(study.report_en or "")
    language = study.report_language or guess_language(original)
    spanish = original if language == "es" else ""
    if english:
        return ReportText(english, "en", spanish)
    return ReportText(original, language, spanish)


def tidy(text: str) -> str:
    """Strip control characters and blanks at line ends; line breaks stay.

    Example:
        >>> tidy(" tc  torax \\x00\\r\\n normal . ")
        'tc torax\\nnormal .'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    kept = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    lines = (" ".join(line.split()) for line in kept.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


_MARKUP = re.compile(r"</?(?:html|body|p|br|div|span|b|i|u|font|strong|em|table|tr|td|ul|ol|li|h[1-6])\b[^<>]*>", re.I)


def plain_text(text: str) -> str:
    r"""Take RTF or HTML marks out of a text that has them; what ends a block ends a line.

    RTF that cannot be converted comes back as it is, for `find_report_fault` to refuse.

    Example:
        >>> plain_text(r"{\rtf1\ansi\b T\'f3rax.\b0\par Sin derrame.}")
        'Tórax.\nSin derrame.'
        >>> plain_text("<p>Derrame pleural &lt; 3 cm.</p><p>Sin n&oacute;dulos.</p>")
        'Derrame pleural < 3 cm.\n\nSin nódulos.'
        >>> plain_text("ganglios < 10 mm y > 3 mm")
        'ganglios < 10 mm y > 3 mm'
    """
    if _is_rtf(text):
        return _text_of_rtf(text)
    if not _MARKUP.search(text):
        return text
    reader = _TextOfHtml()
    reader.feed(text)
    reader.close()
    return tidy("".join(reader.pieces))


def _is_rtf(text: str) -> bool:
    return text.lstrip().startswith("{\\rtf")


def _text_of_rtf(text: str) -> str:
    from striprtf.striprtf import rtf_to_text

    try:
        plain = rtf_to_text(text, errors="replace")  # type: ignore[no-untyped-call]  # striprtf leaves it unannotated
    except (ValueError, TypeError, LookupError, OverflowError):  # Its own way to say that control words are damaged.
        return text
    # Letters beyond the first plane come as two halves.
    whole = plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    # Cells of a table, hyphens that only show at a line's end, and those that never end one.
    return tidy(whole.translate({ord("|"): "\n", 0xAD: None, 0x2011: "-"}))


class _TextOfHtml(HTMLParser):
    _BLOCKS = frozenset(("p", "br", "div", "table", "tr", "ul", "ol", "li", "h1", "h2", "h3", "h4", "h5", "h6"))
    _SILENT = frozenset(("style", "script", "head", "title"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002  # the library's signature
        self._silent += tag in self._SILENT
        if tag in self._BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._silent = max(0, self._silent - (tag in self._SILENT))
        if tag in self._BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.pieces.append(data)


def count_words(text: str) -> int:
    """Count what stands between blanks and holds a letter or digit; a full stop alone is no word.

    Example:
        >>> count_words("tc torax . sin hallazgos .")
        4
    """
    return sum(any(c.isalnum() for c in word) for word in text.split())


def guess_language(text: str) -> Language:
    """Tell English from Spanish by their commonest words; without any, English.

    Example:
        >>> guess_language("derrame pleural izquierdo con atelectasia del lobulo inferior")
        'es'
        >>> guess_language("No pleural effusion.")
        'en'
    """
    folded = unicodedata.normalize("NFD", text.lower()).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z]+", folded)
    votes = {language: sum(word in known for word in words) for language, known in _STOP_WORDS.items()}
    return "es" if votes["es"] > votes["en"] else "en"


def find_report_fault(text: str, *, is_required: bool, min_words: int, max_chars: int) -> Fault:
    """Find what keeps a report from being searched.

    Source: the paper drops studies without a report or with fewer than five words. The upper limit is ours: a report
    cell of a million letters is a broken quotation mark, not a report.

    Example:
        >>> find_report_fault("no acute findings today", is_required=True, min_words=5, max_chars=100)
        ('short report', '4 words, expected at least 5')
    """
    if not text:
        return ("no report", "the source has no report for this study, expected one") if is_required else None
    if _is_rtf(text):
        return "markup", "the report is RTF and cannot be converted; export it as plain text"
    if len(text) > max_chars:
        return (
            "report too long",
            f"{len(text)} letters, expected at most {max_chars}; look for a missing quotation mark",
        )
    words = count_words(text)
    return None if words >= min_words else ("short report", f"{plural(words, 'word')}, expected at least {min_words}")
