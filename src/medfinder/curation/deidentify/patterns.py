"""What can be recognised by its form: dates, ages over 89, telephone numbers, e-mail, URLs, identifiers.

In: a report. Out: spans. Refused: nothing. Patterns are read on the folded text (no case, no accents), whose letters
stand where they stood. Sizes, series, segments, vertebrae and ribs are numbers, too: what they look like is left alone.
"""

import re
from collections.abc import Iterator
from typing import Final

from medfinder.curation.deidentify.spans import Span
from medfinder.curation.deidentify.words import fold
from medfinder.records import Language

# DNI and NIE: the letter is the number modulo 23. Source: Spanish Royal Decree 1553/2005 and INT/2058/2008.
_LETTERS: Final = "trwagmyfpdxbnjzsqvhlcke"

_MONTHS: Final[dict[Language, str]] = {
    "es": "enero|febrero|marzo|abril|mayo|junio|julio|agosto|sep?tiembre|octubre|noviembre|diciembre",
    "en": "january|february|march|april|may|june|july|august|september|october|november|december",
}
_SHORT_MONTHS: Final[dict[Language, str]] = {
    "es": r"ene|feb|mar|abr|may|jun|jul|ago|sept?|set|oct|nov|dic",
    "en": r"jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec",
}
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_MONTH = r"(?:0?[1-9]|1[0-2])"
_YEAR = r"(?:19|20)\d\d"
_TIME = r"(?:[ t,]+(?:a las? |at )?[0-2]?\d:[0-5]\d(?::[0-5]\d)?(?: ?(?:h|hrs|horas|am|pm)\b)?)?"
_SEP = r"(?: ?[/\-‐–] ?|\.)"
# Not inside a longer number, a decimal or a word.
_FROM, _TO = r"(?<![\w/])(?<!\d[.,-])", r"(?![\w/]|[.,-]\d)"

_NUMERIC_DATES = tuple(
    re.compile(f"{_FROM}{form}{_TIME}{_TO}")
    for form in (
        rf"{_DAY}{_SEP}{_MONTH}{_SEP}{_YEAR}",
        rf"{_MONTH}{_SEP}{_DAY}{_SEP}{_YEAR}",
        rf"{_YEAR}{_SEP}{_MONTH}{_SEP}{_DAY}",
        rf"{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])",
        rf"{_MONTH} ?[/-] ?{_YEAR}",
        rf"(?:{_DAY}/{_MONTH}|{_MONTH}/{_DAY})/'?\d\d",
    )
)
# A year of two figures between dashes or stops may be a run of segments ("8-9-10"): it must not go on counting.
_SHORT_DATE = re.compile(rf"{_FROM}({_DAY})([.-])({_MONTH})\2(\d\d){_TIME}{_TO}")
_COUNTED = re.compile(
    r"(?:segment|costill|arco|vertebr|serie|imag|corte|nivel|rib|level|slice|image|disco|dis[ck]|grado"
    r"|grade|estaci|station|birads)\w*\W{1,3}$|\b[dtlc]\W?$"
)
# Day and month alone are a date only where the words say so; "12/20" may be a ratio.
_DAY_AND_MONTH = re.compile(
    rf"\b(?:dia|fecha|fechado|fechada|f\.|del|dated|on"
    rf"|date)\b:? ?((?:de )?{_DAY} ?[/-] ?{_MONTH}){_TO}(?! ?(?:mm|cm|x)\b)"
)
_LABELLED_DATE = re.compile(
    r"\b(?:fecha(?: de \w+)?|f\. ?nac\w*\.?|fnac|nacid[oa] el|d\.?o\.?b\.?|date(?: of \w+)?"
    r"|born(?: on)?)[: ]{1,3}(\d{1,4}[ ./-]?\d{1,2}[ ./-]?\d{2,4})\b"
)
_AGE = {
    "es": re.compile(r"\b((?:9\d|1[0-2]\d))(?= ?(?:anos?\b|a\b\.?(?! ?\d)|años?))|\bedad:? ?(9\d|1[0-2]\d)\b"),
    "en": re.compile(
        r"\b((?:9\d|1[0-2]\d))(?=[ -]?(?:years?|yrs?|y\.?o\.?|y/o)\b)|\b(?:age|aged)[: ]{1,2}(9\d|1[0-2]\d)\b(?! ?%)"
    ),
}
_EMAIL = re.compile(r"\b[\w.+-]+ ?@ ?[\w-]+(?:\.[\w-]+)+\b")
_URL = re.compile(
    r"\b(?:https?|ftps?)://[^\s,;)\]]+[\w/]|\bwww\.[\w-]+(?:\.[\w-]+)+(?:/[^\s,;)\]]*[\w/])?"
    r"|\b[a-z][\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|info|eu|es|cat|gal|co\.uk|ac\.uk"
    r"|nhs\.uk)\b(?:/[^\s,;)\]]*[\w/])?"
)

_NUMBER_WORD = r"(?:n(?:um(?:ero)?|ro|o|º|°)?\b\.?[º°]?|no\b\.?|number\b|#)"
_PHONE_LABEL = (
    r"\b(?:tel(?:e?f(?:ono)?|ephone)?s?|tlfn?o?|tfno|tfn|tf|movil|fax|phone|mobile|cell(?: ?phone)?|pager"
    r"|bleep|beeper|call(?:ed|back)?(?: at)?)\b"
    r"\.?(?: (?:de )?(?:contacto|guardia|number|no))?[ :.#]{0,3}"
)
_PHONES = (
    (
        re.compile(
            _PHONE_LABEL + r"((?:\(?\+?\d(?:(?:\) ?| ?-? ?\(?|\.)\d){4,14})(?: ?(?:ext|x|extension)\.? ?\d{1,6})?)"
        ),
        0.95,
    ),
    (re.compile(r"\b(?:ext(?:ension)?|busca)\b\.?[ :]{0,2}(\d{3,6})\b"), 0.9),
    (re.compile(r"(?<![\w.,/-])((?:\+|00)\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4})(?![\w/]|[.,-]\d)"), 0.9),
    (re.compile(r"(?<![\w.,/-])([6789]\d{2}([ .-]?)\d{3}\2\d{3})(?![\w/]|[.,-]\d)"), 0.9),
    (re.compile(r"(?<![\w.,/-])([6789]\d{2}[ .-]\d{6})(?![\w/]|[.,-]\d)"), 0.9),
    (re.compile(r"(?<![\w.,/-])([6789]\d{1,2}[ .-]\d{2,3}[ .-]\d{2}[ .-]\d{2})(?![\w/]|[.,-]\d)"), 0.9),
    (re.compile(r"(?<![\w.,/-])(\(\d{2,5}\) ?\d{3,4}[ .-]?\d{3,4})(?![\w/]|[.,-]\d)"), 0.9),
    (re.compile(r"(?<![\w.,/-])(\d{3}[-.]\d{3}[-.]\d{4})(?![\w/]|[.,-]\d)"), 0.9),
    (re.compile(r"(?<![\w.,/-])(0\d{2,4} \d{3,4} \d{3,4})(?![\w/]|[.,-]\d)"), 0.6),
)

_ID_LABEL = (
    r"\b(?:n\.? ?h\.? ?c\.?|h\.? ?c\.?|hist(?:oria|\.)?(?: clin(?:ica|\.)?)?|sip|cip|cipa|nuhsa|nuss"
    r"|n\.?s\.?s\.?|seguridad social|afiliacion"
    r"|tarjeta(?: sanitaria)?|colegiad[oa]|col(?:eg)?\.|episodio|peticion|solicitud|orden|registro"
    r"|expediente|exp\.|acceso|estudio|informe|paciente id|pasaporte"
    r"|d\.?n\.?i\.?|n\.?i\.?f\.?|n\.?i\.?e\.?|accession|acc\.?|mrn|medical record|record|(?:hospital"
    r"|unit)(?= (?:number|no)\b)|patient id|id|identificador|identifier|exam(?:ination)?|chart|encounter"
    r"|visit|order|account"
    r"|passport|licen[cs]e|ssn|social security|nhs|nhs number|gmc|npi|insurance|policy)"
)
_ID_VALUE = r"([a-z]{0,8}[-/]?\d[a-z\d]*(?:[-/.][a-z\d]+)*|\d{3} \d{3} \d{4}|\d{2} \d{8} \d{2})"
_LABELLED_ID = re.compile(
    rf"{_ID_LABEL}(?: (?:de |del |la )*(?:paciente|patient|clinica|historia|estudio|number|num"
    rf"|no))?(?! \.)[ :.,#=-]{{0,3}}(?:{_NUMBER_WORD})?(?! \.)[ :.#=-]{{0,3}}{_ID_VALUE}(?!\w)"
)
_NUMBERED_ID = re.compile(
    rf"{_NUMBER_WORD} ?(?:de |del |la )*(?:historia(?: clinica)?|s\.?s\.?|seguridad social|afiliacion"
    rf"|colegiad[oa]|col\.|coleg\.|peticion|estudio|informe|orden|episodio|registro|caso|accession"
    rf"|tarjeta(?: sanitaria)?|paciente)\W{{0,3}}{_ID_VALUE}(?!\w)"
)
_IDS = (
    (re.compile(r"\b(?:\d{8}|\d{2}\.\d{3}\.\d{3}|\d{1,2}\.\d{3}\.\d{3})[ -]?[a-z]\b"), 0.6),
    (re.compile(r"\b[xyz][ -]?\d{7}[ -]?[a-z]\b"), 0.8),
    (re.compile(r"\b\d{2}[/ -]\d{7,8}[/ -]\d{2}\b"), 0.8),
    (re.compile(r"\b\d{3}-\d{2}-\d{4}\b"), 0.7),
    (re.compile(r"\b[a-z]{4} ?\d{9,12}\b"), 0.8),
    (re.compile(r"\b[a-z]{1,6}[-_]?\d{6,}(?:[-/_]\d+)*\b"), 0.6),
    (re.compile(r"(?<![\w.,])\d{7,}(?:[-/]\d+)*\b"), 0.5),
    (re.compile(r"\b[012](?:\.\d+){5,}\b"), 0.9),
    (re.compile(r"\b(?:sub-s|ses-e)\d{3,}\b"), 0.9),
)


def find_dates(text: str, language: Language) -> Iterator[Span]:
    """Find dates in all their forms; a year alone is none.

    Example:
        >>> text = "previo de 3 de marzo de 2019 y 12-3-19, segmentos 8-9-10, 12 mm"
        >>> from medfinder.curation.deidentify.spans import settle
        >>> [text[span.start : span.end] for span in settle(find_dates(text, "es"))]
        ['3 de marzo de 2019', '12-3-19']
    """
    folded = fold(text)
    for pattern in (*_WORD_DATES[language], *_NUMERIC_DATES):
        yield from (Span("DATE", *found.span(), 0.9) for found in pattern.finditer(folded))
    for found in _SHORT_DATE.finditer(folded):
        numbers = [int(found[index]) for index in (1, 3, 4)]
        counts_on = numbers[1] == numbers[0] + 1 and numbers[2] == numbers[1] + 1
        if not counts_on and not _COUNTED.search(folded[: found.start()]):
            yield Span("DATE", *found.span(), 0.85)
    for pattern in (_DAY_AND_MONTH, _LABELLED_DATE):
        yield from (Span("DATE", *found.span(1), 0.85) for found in pattern.finditer(folded))


def _word_dates(language: Language) -> tuple[re.Pattern[str], ...]:
    """Compile the dates of one language that name their month."""
    full, short = _MONTHS[language], _SHORT_MONTHS[language]
    month = rf"(?:{full}|(?:{short})\b\.?)"
    year = rf"(?:{_YEAR}|'?\d\d(?! ?(?:mm|cm|h|:)))"
    day = rf"(?:{_DAY}(?:st|nd|rd|th)?|{_DAY}[º°]|primero|1o)"
    join = r"(?:[ ,./-]+(?:de(?:l)? |of )?(?:a(?:n|ñ)o )?)"
    weekday = (
        r"(?:(?:lunes|martes|miercoles|jueves|viernes|sabado|domingo|(?:mon|tues|wednes|thurs|fri|satur|sun)day),? )?"
    )
    start, stop = r"(?<![\w/])", r"(?!\w)"
    forms = [
        rf"{weekday}{day}(?:{join}|)?{month}{join}{year}{_TIME}",
        rf"{weekday}{day} (?:de |of )?(?:{full}){_TIME}",
        rf"(?:{full}|(?:{short})\.?)(?:{join}){_YEAR}",
        rf"(?:{full}) del? '?\d\d",
    ]
    if language == "en":
        forms += [
            rf"{weekday}{month} {day},? {_YEAR}{_TIME}",
            rf"{weekday}{month} {day},? '\d\d",
            rf"{weekday}{_SURE} {day}",
        ]
    else:
        forms += [rf"{weekday}{day}[ -/](?:ene|feb|abr|jun|jul|ago|sept?|oct|nov|dic)\b"]
    return tuple(re.compile(f"{start}{form}{stop}") for form in forms)


# Months that are no other word; "it may 2" and "march 2" are not dated.
_SURE = (
    r"(?:january|february|april|june|july|august|september|october|november|december|jan|feb|apr|jun|jul"
    r"|aug|sept?|oct|nov|dec)\.?"
)
_WORD_DATES: Final[dict[Language, tuple[re.Pattern[str], ...]]] = {"en": _word_dates("en"), "es": _word_dates("es")}


def find_ages(text: str, language: Language) -> Iterator[Span]:
    """Find ages over 89; younger ones may be told. Source: HIPAA Safe Harbor, 45 CFR 164.514(b)(2)(i)(C).

    Example:
        >>> [(span.start, span.end) for span in find_ages("paciente de 93 años, hijo de 60 años", "es")]
        [(12, 14)]
    """
    for found in _AGE[language].finditer(fold(text)):
        yield Span("AGE", *found.span(found.lastindex or 0), 0.9)


def find_contacts(text: str, _: Language) -> Iterator[Span]:
    """Find e-mail addresses, URLs and telephone numbers."""
    folded = fold(text)
    yield from (Span("EMAIL", *found.span(), 1.0) for found in _EMAIL.finditer(folded))
    yield from (Span("URL", *found.span(), 0.9) for found in _URL.finditer(folded))
    for pattern, score in _PHONES:
        yield from (Span("PHONE", *found.span(1), score) for found in pattern.finditer(folded))


def find_ids(text: str, _: Language) -> Iterator[Span]:
    """Find what numbers a person, an examination or a doctor: by label, by form, by check letter."""
    folded = fold(text)
    for pattern in (_LABELLED_ID, _NUMBERED_ID):
        for found in pattern.finditer(folded):
            digits = sum(sign.isdigit() for sign in found[1])
            if digits >= 4 or (digits >= 3 and "coleg" in found[0]):
                yield Span("ID", *found.span(1), 0.88)
    for form, score in _IDS:
        for found in form.finditer(folded):
            yield Span("ID", *found.span(), 0.95 if is_dni(found[0]) else score)


def is_dni(text: str) -> bool:
    """Tell whether a number has the right letter behind it.

    Example:
        >>> is_dni("12345678Z"), is_dni("12345678A"), is_dni("X1234567L")
        (True, False, True)
    """
    bare = re.sub(r"[ .-]", "", text.lower())
    found = re.fullmatch(r"([xyz]?)(\d{7,8})([a-z])", bare)
    if not found:
        return False
    number = int(f"{'xyz'.index(found[1]) if found[1] else ''}{found[2]}")
    return _LETTERS[number % 23] == found[3]
