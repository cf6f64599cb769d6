"""Hospitals, health centres and addresses in report text.

In: a report. Out: spans. Refused: nothing. "Hospital" and "calle" are common words: the one begins a span only where
the name of a place follows ("hospital de dia" is none), the other only where a house's number ends it.
"""

import re
from collections.abc import Iterator, Sequence

from medfinder.curation.deidentify.spans import Span
from medfinder.curation.deidentify.words import PARTICLES, Token, fold, places, tokens
from medfinder.records import Language

_CENTRE_ES = re.compile(
    r"\b(?:hospital(?:es)?|hosp\b\.?|hu\b|clinica|policlinica|policlinico|sanatorio|ambulatorio|consultorio"
    r"|residencia|complejo hospitalario|complejo asistencial|consorcio hospitalario|fundacion|instituto"
    r"|centro (?:de salud|de especialidades|medico|hospitalario|de diagnostico|sociosanitario|radiologico)"
    r"|c\.? ?s\.|cap)\b"
)
_CENTRE_LINKS = frozenset(
    [
        "universitario",
        "universitari",
        "universitaria",
        "general",
        "clinico",
        "clinic",
        "clinica",
        "provincial",
        "comarcal",
        "regional",
        "nacional",
        "infantil",
        "materno",
        "materno-infantil",
        "militar",
        "central",
        "de",
        "del",
        "la",
        "las",
        "los",
        "el",
        "san",
        "santa",
        "sant",
        "santo",
        "virgen",
        "nuestra",
        "senora",
        "rey",
        "reina",
        "principe",
        "princesa",
        "ciudad",
        "doctor",
        "dr",
        "y",
        "integral",
        "privado",
        "publico",
        "marina",
        "baja",
        "alta",
        "costa",
        "campo",
        "valle",
        "mar",
        "norte",
        "sur",
        "este",
        "oeste",
        "nuevo",
        "nueva",
        "vega",
        "rio",
        "cruz",
        "roja",
        "sagrado",
        "corazon",
        "montana",
        "parque",
        "torre",
        "puerto",
        "son",
    ]
)
# "en clinica la salud", not "mejoria clinica la paciente": a preposition or label before, an article behind.
_NAMED_BY_ARTICLE = re.compile(
    r"(?:(?:^|\W)(?:en|del?|desde|a|al|por|la|centro:?) (?:el |la )?|[.:] )"
    r"(?P<centre>(?:clinica|sanatorio|policlinica|residencia|hospital)"
    r" (?:la|el|los|las) (?!paciente|estudi|explor)(?P<name>[a-z]{4,}))(?= ?(?:[.,;:()]|$)| (?:el|en|con|por|y)\b)"
)
_SHORTENED = frozenset(["dr", "dra", "sta", "ntra", "sra", "virg", "h"])
_CLAUSE_END = re.compile(r"[,;:()]| ?\.(?: |$)| (?:con|por|el|en|a|y)\b| \(|$")
# Of these a name of a hospital may be made without another word: "hospital la cruz roja", not "hospital de dia".
_HOLY = re.compile(
    r"\b(?:san|santa|sant|santo|virgen|nuestra senora|rey|reina|principe|princesa|cruz roja|sagrado corazon"
    r"|del mar|marina (?:baja|alta)|valle|norte|sur|torre|vega)\b"
)
_CENTRE_EN = re.compile(
    r"\b(?:(?:university |general |memorial |community |regional |medical |county |children's |veterans "
    r"|city |royal |district |teaching |public |private )*"
    r"(?:hospitals?|medical cent(?:er|re)|health cent(?:er|re)|health system|clinic|infirmary|nursing home"
    r"|surgery|imaging cent(?:er|re)|cancer cent(?:er|re)|hospice|health))\b"
)

_STREET_ES = re.compile(
    r"(?<![\w/])(?:calle|c/|cl\.|avda\b\.?|av\.|avenida|avinguda|plaza|pza\b\.?|plza\b\.?|placa|paseo|pº|ps\."
    r"|passeig|camino|cami|carretera|ctra\b\.?|carrer|ronda|travesia|trav\.|glorieta|urbanizacion|urb\."
    r"|poligono|pol\.|barrio|bulevar|rambla|callejon|pasaje|partida|cuesta)(?= |(?<=/)\w)"
)
_SURE_STREETS = frozenset(
    ["calle", "c/", "avda", "avda.", "av.", "avenida", "avinguda", "plaza", "pza", "pza.", "paseo"]
)
_SURE_STREETS |= frozenset(
    ["carretera", "ctra", "ctra.", "carrer", "passeig", "glorieta", "bulevar", "rambla", "ronda"]
)
_NUMBERED_STREET = re.compile(
    r"((?: ?(?!contraste|civ|iv |no |sin |con )[^\W\d_]+(?:\.(?! ?\d))?){1,6}?),? ?"
    r"(?:n\.?[ºo°]?\.? ?|num(?:ero)?\.? ?)?"
    r"\d{1,4}(?![\d/])(?! ?(?:mm|cm|ml|cc|mg|%|x|uh|anos))"
)
_HOUSE_ES = re.compile(
    r"^[ ,]{0,3}(?:n\.?[º°o]?\.? ?|num(?:ero)?\.? ?|s/n)?(?:\d{1,4}(?!\d)(?! ?(?:mm|cm|ml|cc|mg"
    r"|%))(?: ?(?:bis|[a-d]\b))?)?"
)
_FLOOR_ES = re.compile(
    r"^ ?[,-]? ?(?:\d{1,2} ?[ºªo°]\.?(?: ?-? ?(?:\d{1,2}[ºª]?|[a-h]|izq\w*|dcha|dch|derecha"
    r"|izquierda)\b\.?)?|(?:piso|planta|pta|puerta|esc|escalera|portal|bloque|blq|bajo|atico|apto"
    r"|apartamento|letra|local)\b\.?(?: ?(?:\d{1,3}[ºª]?|[a-h])\b(?! ?(?:mm|cm)))?)"
)
_TOWN_ES = re.compile(r"^ ?[,(-]? ?(?:(?:c\.?p\.?|codigo postal):? ?)?(?:\d{5})\b")
_STREET_EN = re.compile(
    r"\b\d{1,5}[a-d]?,? (?:(?:north|south|east|west|n|s|e|w|old|new|upper|lower"
    r"|great)\b\.? )?(?P<name>(?:(?:[^\W\d_][^\W\d_'’]*(?:['’]s)?|st\.|dr\.|mt\.)[ -]){1,4}?)"
    r"(?P<kind>street|avenue|road|lane|drive|boulevard|terrace|crescent|parkway|highway|st|ave|rd|ln|dr"
    r"|blvd|ct|court|way|place|square|close|gardens)\b\.?"
    r"(?P<flat>,? (?:apt|apartment|suite|unit|flat|floor|#)\.? ?#?\w{1,5}\b)?"
)
_SHORT_STREETS = frozenset(["st", "dr", "ct", "court", "way", "place", "square", "close", "gardens", "drive"])
_TOWN_EN = re.compile(
    r"^,? ?(?:[a-z][a-z'. -]{1,24},? )?(?:[a-z]{2},? )?(?:\d{5}(?:-\d{4})?|[a-z]{1,2}\d[a-z\d]? ?\d[a-z]{2})\b"
)
_ADDRESS_LABEL = re.compile(
    r"\b(?:domicilio|direccion(?: postal)?|(?:home |postal |mailing )?address|residente en|con domicilio en"
    r"|lives at|resides at|residing at|vive en)(?P<colon> ?:)? "
)
_POSTCODE = re.compile(
    r"\b(?:c\.?p\.?|codigo postal|postcode|post code|zip(?: code)?)[ :.]{1,3}(\d{5}(?:-\d{4})?"
    r"|[a-z]{1,2}\d[a-z\d]? ?\d[a-z]{2})\b"
)
_STOP = re.compile(r" \.(?: |$)|\.(?=\s|$)|[;\n]|$")


def find_hospitals(text: str, _: Language) -> Iterator[Span]:
    """Find hospitals and health centres by name; "hospital de dia" is none.

    Example:
        >>> text = "remitido del hospital san juan de alicante . control en hospital de dia ."
        >>> [text[span.start:span.end] for span in find_hospitals(text, "es")]
        ['hospital san juan de alicante']
    """
    folded, words = fold(text), tokens(text)
    has_case = any(word.shape == "lower" for word in words) and any(word.shape != "lower" for word in words)
    starts = {word.start: index for index, word in enumerate(words)}
    for found in _CENTRE_ES.finditer(folded):
        number = re.compile(r" \d{1,2} de ").match(folded, found.end())
        at = starts.get(number.end() if number else found.end() + 1)
        if number and at is not None and words[at].word in ("octubre", "mayo", "julio", "abril"):
            yield Span("HOSPITAL", found.start(), words[at].end, 0.96)
            continue
        is_sure = found[0].startswith(("hosp", "centro de salud"))
        end = None if at is None else _end_of_centre(folded, words, at, has_case=has_case, is_sure=is_sure)
        if end is not None:
            yield Span("HOSPITAL", found.start(), end, 0.96)
    yield from (Span("HOSPITAL", *found.span("centre"), 0.9) for found in _NAMED_BY_ARTICLE.finditer(folded))
    ends = {word.end: index for index, word in enumerate(words)}
    for found in _CENTRE_EN.finditer(folded):
        start, end = _start_of_centre(words, found.start(), ends, has_case=has_case), found.end()
        tail = re.compile(
            r" (?:of|for|at) (?:the )?(?:(?:national|royal|university|king|queen|saint|st\.?|our lady) )?(?:of )?"
        ).match(folded, found.end())
        if tail and tail.end() in starts and _is_proper(words[starts[tail.end()]], has_case=has_case):
            end = words[starts[tail.end()]].end
            start = found.start() if start is None else start
        if start is not None:
            yield Span("HOSPITAL", start, end, 0.96)


def _end_of_centre(folded: str, words: Sequence[Token], at: int, *, has_case: bool, is_sure: bool) -> int | None:
    """Read the name behind "hospital"; None when it has none.

    Args:
        is_sure: a centre that always has a name: what may be one, is.
    """
    end = None
    for here in range(at, min(at + 9, len(words))):
        word, before = words[here], words[here - 1]
        is_shortened = before.word in _SHORTENED and word.gap == ". "
        if here > at and not (word.gap in (" ", "-", " - ") or is_shortened):
            break
        is_link = word.word in _CENTRE_LINKS or word.word in _SHORTENED
        is_likely = is_sure and not has_case and not is_link and (word.is_formed or word.is_name)
        is_town = end is not None and word.word in places()
        if is_likely or is_town or _is_proper(word, has_case=has_case):
            end = word.end
        elif is_link:
            is_holy = _HOLY.search(folded[words[at].start : word.end]) and word.word not in PARTICLES
            if is_holy or (end is not None and word.word not in PARTICLES | {"el", "y"}):
                end = word.end
        elif end is not None and before.word in PARTICLES and _CLAUSE_END.match(folded, word.end):
            end = word.end
        else:
            break
    return end


def _is_proper(word: Token, *, has_case: bool) -> bool:
    """Say whether a word is part of the proper name of a place."""
    if has_case:
        return (
            word.shape != "lower"
            and (not word.is_plain or word.is_name or word.word in places())
            and word.word not in PARTICLES
        )
    return (
        word.word in places()
        or word.is_sure
        or (word.is_unknown and len(word.word) > 2)
        or (word.is_name and not word.is_plain)
    )


def _start_of_centre(words: Sequence[Token], start: int, ends: dict[int, int], *, has_case: bool) -> int | None:
    """Go back from "hospital" over its English name; None when it has none."""
    # "St. Thomas' Hospital": the apostrophe belongs to no word.
    at = ends.get(start - 1, ends.get(start - 2))
    begin = None
    for here in range(at if at is not None else -1, -1, -1):
        word = words[here]
        is_saint = word.word in (
            "st",
            "saint",
            "mount",
            "queen",
            "king",
            "prince",
            "our",
            "lady",
            "good",
            "holy",
            "sacred",
            "heart",
            "royal",
            "university",
        )
        if not (
            _is_proper(word, has_case=has_case)
            or (is_saint and (not has_case or word.shape != "lower"))
            or (word.word in ("of", "and") and begin)
        ):
            break
        if word.word not in ("of", "and"):
            begin = word.start
        if here and word.gap not in (" ", "-", ". "):
            break
    return begin


def find_addresses(text: str, _: Language) -> Iterator[Span]:
    """Find streets with their numbers, floors, postcodes and towns.

    Example:
        >>> text = "vive en calle mayor 12, 3º b, 03550 san juan . calle"
        >>> [text[span.start:span.end] for span in find_addresses(text, "es")]
        ['calle mayor 12, 3º b, 03550 san juan']
    """
    folded = fold(text)
    words = tokens(text)
    for found in _STREET_ES.finditer(folded):
        end = _end_of_street(folded, found.end(), words, found[0])
        if end is not None:
            yield Span("ADDRESS", found.start(), end, 0.97)
    yield from _english_streets(text, folded, words)
    for found in _ADDRESS_LABEL.finditer(folded):
        if found["colon"]:
            stop = _STOP.search(folded, found.end())
            if stop and stop.start() > found.end():
                yield Span("ADDRESS", found.end(), stop.start(), 0.97)
    for found in _POSTCODE.finditer(folded):
        yield Span("ADDRESS", found.start(1), _end_of_town(folded, found.end(), words), 0.9)


def _end_of_name(folded: str, start: int, opener: str) -> int | None:
    """Take any words up to a house's number behind an opener that means nothing but a street."""
    if opener not in _SURE_STREETS:
        return None
    found = _NUMBERED_STREET.match(folded, start)
    return found.end(1) if found else None


def _end_of_street(folded: str, start: int, words: Sequence[Token], opener: str) -> int | None:
    """Read name, number, floor and town behind "calle"; None when this is no street."""
    near = [word for word in words if start <= word.start < start + 60]
    end = start
    named = 0
    for word in near[:7]:
        if named and word.gap not in (" ", "-") and not (word.gap == ". " and end - start < 6):
            break
        is_link = word.word in PARTICLES or word.word in (
            "sta",
            "sto",
            "dr",
            "doctor",
            "virgen",
            "nuestra",
            "senora",
            "mayor",
            "e",
        )
        if (
            word.is_plain
            and not (word.is_name or is_link or word.word in places())
            and not re.match(r" \w+,? ?(?:n\.?º? ?)?\d", folded[end : end + 40])
        ):
            break
        if word.word in ("n", "num", "numero", "no", "nº", "s"):
            break
        named += 1
        end = word.end
    end = _end_of_name(folded, start, opener) or end
    named += end > start
    house = _HOUSE_ES.match(folded[end:])
    has_number = house is not None and (any(sign.isdigit() for sign in house[0]) or "s/n" in house[0])
    if not named or not has_number or house is None:
        return None
    end += len(house[0].rstrip(" ,"))
    while (floor := _FLOOR_ES.match(folded[end:])) and floor[0].strip():
        end += len(floor[0])
    town = _TOWN_ES.match(folded[end:])
    if town:
        return _end_of_town(folded, end + len(town[0]), words)
    return _end_of_town(folded, end, words, needs_comma=True)


def _end_of_town(folded: str, end: int, words: Sequence[Token], *, needs_comma: bool = False) -> int:
    """Go on over the name of a town behind a postcode or, after a comma, behind a street."""
    near = [word for word in words if end <= word.start < end + 40][:5]
    done = end
    for index, word in enumerate(near):
        gap = folded[done : word.start] if index == 0 else word.gap
        allowed = (
            (", ", " , ", " (", " - ", ", (") if needs_comma and index == 0 else (" ", ", ", " , ", " (", "-", " - ")
        )
        if gap not in allowed:
            break
        is_town = word.word in places() or word.is_sure or word.is_unknown or (done > end and word.is_formed)
        if not is_town and word.word not in PARTICLES | {"sant", "vila", "nueva"} and not (done > end and word.is_name):
            break
        if is_town or (index and near[index - 1].word in ("san", "santa", "sant", "los", "las", "la", "el")):
            done = word.end
    return done


def _english_streets(text: str, folded: str, words: Sequence[Token]) -> Iterator[Span]:
    by_start = {word.start: word for word in words}
    for found in _STREET_EN.finditer(folded):
        first = by_start.get(found.start("name"))
        if first is None:
            continue
        kind = text[found.start("kind") : found.end("kind")]
        is_capital = first.shape != "lower" and kind.istitle()
        end = found.end()
        town = _TOWN_EN.match(folded[end:])
        is_doubtful = found["kind"] in _SHORT_STREETS or (first.is_plain and not first.is_name)
        if is_doubtful and not is_capital and town is None:
            continue
        yield Span("ADDRESS", found.start(), end + (len(town[0]) if town else 0), 0.97)
