"""People: told by titles, labels and lists of names, kept apart from clinical terms.

In: a report. Out: spans. Refused: nothing. Three things make a name: a title or label before it ("dra.", "informado
por", "paciente:"), a word that is a name and nothing else ("garcia"), or two words that may be names side by side where
capitals say so. A name goes on over further names and unknown words and ends at the first plain word. What a disease,
sign or device is called after is no person, unless a title stands before it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from medfinder.curation.deidentify.spans import Span
from medfinder.curation.deidentify.words import PARTICLES, Token, eponyms, fold, tokens
from medfinder.records import Language

# As DICOM writes names: "GARCIA^MARIA".
_CARETS = re.compile(r"[^\W\d_]{2,}(?:[ -][^\W\d_]+)*\^+[^\W\d_][^\W\d_ ^-]*(?:[\^ -]+[^\W\d_]+)?")

# Words; ours: "maria de los angeles garcia de la torre lopez".
_LONGEST_NAME = 9

_TITLE = re.compile(
    r"\b(?:(?:dr|dra|drs|dres|dras)\b\.?(?: ?/ ?(?:dra|a)\b\.?)?|doctor[a]?\b|(?:mr|mrs|ms|prof|lic|ldo|lda"
    r"|sr|sra|srta|sres)\b\.?|senor(?:a|ita)?\b|d[ªº]\.?|dna\b\.?|dona\b|don\b"
    r"|(?<![\w.])d\.(?= ?[a-z]{3})|miss\b|nurse\b|enfermer[oa]\b)"
)
_PERSON_LABELS = (
    r"px|(?:pte|pcte|pac|pt)\b\.?|next of kin|firmante"
    r"|identificacion|identification|identity|identidad|titular|usuari[oa]|client|informante|re(?=:)"
    r"|filiacion|datos del paciente|nombre(?: y apellidos?| del paciente| completo)?"
    r"|apellidos?(?: y nombre| , nombre|, nombre)?|paciente"
    r"|patient(?:'s)?(?: name)?|name(?: of patient)?|(?:first|last|full|given|family) name|surname|forename"
    r"|firma(?:do|da)?(?: digital(?:mente)?| electronica(?:mente)?)?(?: por)?|fdo\.?"
    r"|signed(?: electronically)?(?: by)?|electronically signed by|e-signed by|signature"
    r"|(?:informa|valida|revisa|realiza|solicita|transcri|supervisa|dicta|interpreta|redacta|comenta"
    r"|comunica|avisa|contacta|atendi|deriva|remiti|pedi|hech|escrit|leid|visad)(?:do|da|to|ta|o"
    r"|a)?(?: (?:telefonica|verbal|electronica|digital|personal)mente)? (?:por|con|a)(?: el| la"
    r"| los)?(?: (?:medico|facultativo"
    r"|radiologo|residente))?"
    r"|(?:informa|solicita|valida|firma|realiza|revisa|transcribe|avisa a|se avisa a)"
    r"|medico(?:s)?(?: (?:peticionario|solicitante|responsable|informante|remitente|residente|adjunto|tutor"
    r"|prescriptor|de cabecera|de familia))?|peticionario|solicitante|facultativo(?: \w+)?|radiologo(?:s"
    r"|a)?(?: \w+)?|residente|adjunto|tecnico|tsid|ter|mir"
    r"|(?:reported|dictated|transcribed|read|reviewed|verified|approved|interpreted|authori[sz]ed|requested"
    r"|ordered|referred|performed|electronically signed|seen|examined|entered|finali[sz]ed|written|prepared"
    r"|typed)(?: and \w+)? by"
    r"|(?:(?:co-?|counter)?signed|checked|confirmed|supervised|evaluated|assessed|reported|transcribed) by"
    r"|(?:discussed|reviewed|communicated|conferred|spoke|correlated)(?: \w+){0,3} with|copy to|copia a"
    r"|(?:entrega|remite|envia)(?:do|da)?(?: (?:el )?(?:informe|copia|estudio))? a"
    r"|(?:comenta|comentado|valorado|valorada|consultado)(?: \w+){0,2} (?:por|con)"
    r"|(?:enf\.|enfermer[oa]) responsable|(?:called|communicated|conveyed"
    r"|relayed|phoned|reported|telephoned|given)(?: \w+){0,2} to|(?:referring|ordering|requesting|attending"
    r"|reporting|reading|signing|responsible|primary care)(?: physician| clinician| doctor| provider"
    r"| radiologist| consultant)?|(?:pulm|cardi|onc|neur)ologist|surgeon|anesthetist|anaesthetist"
    r"|cirujan[oa]|(?:neum|card|onc|neur)olog[oa]|(?:radiolog[oa]|medico|facultativo) responsable"
    r"|radiologist|physician|clinician|consultant|resident|technologist|dictator|transcriptionist|attention"
    r"|attn|cc"
)
_LABEL = re.compile(rf"\b(?:{_PERSON_LABELS})(?P<colon> ?[:=]| -)?(?= )")
# Labels that announce a person by themselves; the others need a colon, a capital or a listed name behind them.
_SURE_LABEL = re.compile(
    r"(?:\b(?:por|by)(?: (?:el|la))?(?: (?:tsid|ter|tecnico|medico|facultativo|radiologo|residente))?$"
    r"|^fdo|^(?:discussed|communicated|conferred|spoke|reviewed|correlated)(?: \w+){0,3} with|^cop(?:y to|ia a)"
    r"|^(?:entrega|remite|envia).* a$|^(?:comenta|consulta).* con$|^(?:pcte|pac|enf)\b|\bname$|^next of kin)"
)

_KIN = re.compile(
    r"\b(?:(?:brother|sister|mother|father|daughter|son|wife|husband|partner|carer|friend|cousin|uncle|aunt)(?: of|,|:)"
    r"|(?:herman[oa]|hij[oa]|madre|padre|espos[oa]|marido|mujer|pareja|prim[oa]|ti[oa]|cuidador[a]?"
    r"|familiar|nuer[oa]|yerno)(?: de|,|:)|su (?:herman[oa]|hij[oa]|espos[oa]|marido|mujer|madre|padre),?"
    r"|(?:his|her|their) (?:brother|sister|mother|father|daughter|son|wife|husband|partner|carer|friend|niece|nephew),?"
    r"|interconsulta (?:de|con|a)|(?:peticion|demanda|indicacion|orden) de(?: la| el)?) (?=[a-z])"
)

# "paciente sandalio ricart de 80 anos": a name stands between.
_PATIENT_OF_AGE = re.compile(r"\b(?:paciente|patient) (?=(?:[^\W\d_]+ ){1,4}(?:de|aged) \d)")

_BRACKET = re.compile(r"\d{4,} \($")
# What stands before whoever did, got or gave something.
_GIVING = frozenset(["por", "by", "to", "from", "nurse", "pte", "pcte", "paciente", "patient"])
# "El Amrani", "Al Hassan", "Ben Ali": an article within a name, where an unknown word or a name follows.
_ARTICLES = frozenset(["el", "al", "ben", "bin", "ibn", "abu"])

# What stands behind whoever is one: "Uxue Zubiri, MD", "uxue zubiri, medico residente".
_PROFESSION = re.compile(
    r" ?, ?(?:m\.?d|d\.o|ph\.?d|frc[rps]|mrcp|facr|mbbs|r\.?n|np|pa-c|tsid|mir|r[1-5]|medic[oa]|facultativ[oa]"
    r"|adjunt[oa]|residente|(?:radi|neum|cardi|onc|neur|pat|hemat|ur)olog[oa]|cirujan[oa]|internista|intensivista"
    r"|enfermer[oa]|tecnic[oa]|(?:consultant|resident|attending|fellow|registrar|physician|surgeon|nurse"
    r"|technologist|radiographer|(?:radi|pulmon|cardi|onc|neur|path|hemat|ur)ologist))\b"
)

_EPONYM_BEFORE = re.compile(
    r"\b(?:sindrome|enfermedad|signo|signos|linea|lineas|clasificacion|escala|angulo|cateter|sonda|drenaje"
    r"|maniobra|hernia|quiste|tumor|linfoma|sarcoma|nodulo|nodulos|ganglio|cisura|fisura|anillo|agujero"
    r"|foramen|conducto|ampolla|triangulo"
    r"|ligamento|fascia|espacio|bolsa|saco|fondo|grado|tipo|score|indice|criterios|unidades|metodo|tecnica"
    r"|operacion|intervencion|cirugia|protesis|stent|filtro|injerto|valvula|anomalia|malformacion"
    r"|tetralogia|complejo|esofago|diverticulo|glandula|foco|cuerpos|corpusculos|celulas|virus|bacilo"
    r"|fractura|deformidad|mal|atrofia|colangitis|tiroiditis|arteritis|neumonia|morbus|disease"
    r"|syndrome)(?: (?:de|del|en|por|tipo))?(?: la)? $"
)
_EPONYM_AFTER = re.compile(
    r"^(?:'s|’s)?[ -](?:(?:b|a|c|i|ii|iii|type) )?(?:disease|syndrome|sign|signs|line|lines|score|scores"
    r"|classification|type|node|nodes|nodule|nodules|catheter|criteria|procedure|lymphoma|sarcoma|tumou?r"
    r"|hernia|cyst|cell|cells|hamman|unit|units|body|bodies|shunt|fracture|deformity|space|fascia|ligament"
    r"|duct|ring|diverticulum|oesophagus|esophagus|thyroiditis|arteritis|anomaly|tetralogy|valve|graft"
    r"|filter|stent|tube|drain|device|rods?|plate|index|method|operation|repair|pouch|hump|lake|virus"
    r"|bacillus|contraction|ulcer|palsy|grade|stage|series|scale)\b"
)


def find_names(text: str, _: Language) -> Iterator[Span]:
    """Find people; who is told in two ways, by a label and by a title, comes twice.

    Example:
        >>> text = "informado por dra. zubizarreta . enfermedad de hodgkin . cruz vascular . lo ve maria leon ."
        >>> sorted({text[span.start:span.end] for span in find_names(text, "es")})
        ['maria leon', 'zubizarreta']
    """
    folded, words = fold(text), tokens(text)
    has_case = sum(word.shape == "lower" for word in words) < 0.97 * len(words) and any(
        word.shape == "lower" for word in words
    )
    starts = {word.start: index for index, word in enumerate(words)}
    yield from (Span("NAME", *found.span(), 0.95) for found in _CARETS.finditer(folded))
    yield from _after_titles(folded, words, starts, has_case=has_case)
    yield from _after_labels(folded, words, starts, has_case=has_case)
    yield from _before_professions(folded, words, has_case=has_case)
    yield from _by_lists(folded, words, has_case=has_case)


def _after_titles(folded: str, words: Sequence[Token], starts: dict[int, int], *, has_case: bool) -> Iterator[Span]:
    for found in _TITLE.finditer(folded):
        at = _next(folded, found.end(), starts)
        if at is not None and _is_article(words, at):
            yield from _people(folded, words, at, has_case=has_case, score=0.95)
            continue
        if at is None or not (
            _may_begin(words[at], has_case=has_case, sure=True) or _is_titled(words[at], found[0], has_case)
        ):
            continue
        if (
            found[0] in ("don", "dona", "miss", "nurse")
            and words[at].is_plain
            and not (has_case and words[at].is_given)
        ):
            continue
        yield from _people(folded, words, at, has_case=has_case, score=0.95)


def _after_any_label(words: Sequence[Token], *, has_case: bool) -> Iterator[int]:
    """Find two words that no report knows behind a label that none knows either: "titular: uxue zubiri".

    In a text with capitals, behind "by", "to" and the like, too: "results given to Uxue Zubiri".
    """
    for here in range(1, len(words) - 1):
        before, word, after = words[here - 1 : here + 2]
        if len(after.word) == 1 and here + 2 < len(words) and words[here + 2].gap == ". ":
            after = replace(words[here + 2], gap=" ")
        is_capital = has_case and word.shape == "title"
        # A label, or a number and a bracket: "nhc 12345 (uxue zubiri)".
        is_labelled = (word.gap.strip(" ") == ":" and not before.is_plain) or bool(_BRACKET.search(word.gap))
        is_strange = not has_case and (word.is_unknown or word.is_sure) and (after.is_unknown or after.is_sure)
        is_given = (is_capital or is_strange) and word.gap == " " and before.word in _GIVING
        if not (is_labelled or is_given) or after.gap != " " or min(len(word.word), len(after.word)) < 3:
            continue
        if is_eponymous(word) or word.shape != after.shape or after.word in PARTICLES:
            continue
        is_name = word.is_unknown or word.is_sure or (word.is_name and after.is_sure)
        if is_name and (after.is_unknown or after.is_name or after.is_formed or is_capital):
            yield here


def _is_titled(word: Token, title: str, has_case: bool) -> bool:
    """Say whether a word that may be plain is a name behind a title: "Mr. Gates", "dra. tirado", "DR. SMALL"."""
    if word.word in PARTICLES or len(word.word) < 3:
        return False
    return word.is_formed or (word.shape == "title" if has_case else title.endswith("."))


def _after_labels(folded: str, words: Sequence[Token], starts: dict[int, int], *, has_case: bool) -> Iterator[Span]:
    labels = [
        (found.end(), bool(found["colon"]) or bool(_SURE_LABEL.search(found[0]))) for found in _LABEL.finditer(folded)
    ]
    labels += [(found.end(), True) for found in _PATIENT_OF_AGE.finditer(folded)]
    labels += [(found.end(), True) for found in _KIN.finditer(folded)]
    for begin in _after_any_label(words, has_case=has_case):
        yield from _people(folded, words, begin, has_case=has_case, score=0.8)
    for end, sure in labels:
        at = _next(folded, end, starts)
        if at is None:
            continue
        word = words[at]
        after = words[at + 1] if at + 1 < len(words) else None
        is_listed = sure and after is not None and _makes_a_name(word, after, has_case=has_case)
        if not (is_listed or _may_begin(word, has_case=has_case, sure=sure)):
            continue
        is_doubtful = word.is_plain and not sure and not (has_case and word.shape != "lower")
        if is_doubtful and (after is None or after.gap not in (" ", ", ") or not after.is_sure):
            continue
        if not _is_eponym(folded, word.start, word.end, words[at : at + 1]) or sure:
            yield from _people(folded, words, at, has_case=has_case, score=0.9)


def _is_article(words: Sequence[Token], at: int) -> bool:
    """Say whether a word is the article of the name that follows: "el amrani", not "el martes"."""
    after = words[at + 1] if at + 1 < len(words) else None
    is_close = after is not None and after.gap in (" ", "-") and len(after.word) > 2
    return words[at].word in _ARTICLES and after is not None and is_close and (after.is_unknown or after.is_sure)


def _before_professions(folded: str, words: Sequence[Token], *, has_case: bool) -> Iterator[Span]:
    """Find names of two words and more behind which a comma and a profession stand."""
    ends = {word.end: index for index, word in enumerate(words)}
    for found in _PROFESSION.finditer(folded):
        last = first = ends.get(found.start(), -1)
        while first > max(0, last - _LONGEST_NAME) and _is_of_name(words[first], has_case=has_case):
            gap, before = words[first].gap, words[first - 1]
            if gap not in (" ", "-") and not (gap == ". " and len(before.word) == 1):
                break
            first -= 1
        while first < last and (not _is_of_name(words[first], has_case=has_case) or words[first].word in PARTICLES):
            first += 1
        if last > first >= 0 and any(word.is_sure or word.is_unknown for word in words[first : last + 1]):
            yield Span("NAME", words[first].start, words[last].end, 0.85)


def _is_of_name(word: Token, *, has_case: bool) -> bool:
    """Say whether a word may stand within a name that is told by what follows it."""
    if word.word in PARTICLES or word.word in _ARTICLES:
        return True
    return (len(word.word) == 1 or word.is_name or not word.is_plain) and not (has_case and word.shape == "lower")


def _closes_name(folded: str, words: Sequence[Token], at: int, *, has_case: bool) -> bool:
    """Say whether one plain word closes a name in a text without capitals: "READ BY MARGARET GLASS ON ..."."""
    if (
        has_case
        or at + 1 == len(words)
        or not words[at].is_given
        or words[at + 1].gap != " "
        or len(words[at + 1].word) < 3
    ):
        return False
    return bool(re.match(r"(?:[,:;]|\.| \.| and | y | on | el |$)", folded[words[at + 1].end :]))


def _makes_a_name(word: Token, after: Token, *, has_case: bool) -> bool:
    """Say whether what follows shows that a plain word behind a label begins a name: "Gates, Ronnie", "flor aranda"."""
    if after.shape != word.shape or after.gap not in (" ", ", "):
        return False
    return after.is_sure or (has_case and word.shape == "title" and not after.is_plain)


def _people(folded: str, words: Sequence[Token], at: int, *, has_case: bool, score: float) -> Iterator[Span]:
    """Read one name, and the next where "y" or "and" joins them."""
    while True:
        last = _run_on(folded, words, at, has_case=has_case, announced=True)
        if last == at and _closes_name(folded, words, at, has_case=has_case):
            last += 1
        yield Span("NAME", words[at].start, words[last].end, score)
        at = last + 2
        if at >= len(words) or words[last + 1].word not in ("y", "e", "and") or words[last + 1].gap != " ":
            return
        if words[at].gap != " " or not _may_begin(words[at], has_case=has_case, sure=True):
            return


def _next(folded: str, end: int, starts: dict[int, int]) -> int | None:
    """Find the word that begins behind a title or label."""
    found = re.compile(r"[ .:,/]{0,4}").match(folded, end)
    return starts.get(found.end()) if found else None


def _may_begin(word: Token, *, has_case: bool, sure: bool) -> bool:
    """Say whether a word may be the first of a name behind a title or label."""
    if word.is_sure:
        return True
    if has_case and word.shape != "lower":
        return len(word.word) > 1 and (word.is_name or not word.is_plain)
    if len(word.word) == 1:
        return False
    return word.is_name if word.is_plain or word.is_formed else sure and word.word not in PARTICLES


def _run_on(folded: str, words: Sequence[Token], at: int, *, has_case: bool, announced: bool = False) -> int:
    """Go on from the first word of a name to its last; return the place of that one.

    Args:
        announced: a title or label stands before the name: a doubtful word is more likely a part of it.
    """
    first, last, here = words[at], at, at + 1
    while here < len(words) and here - at < _LONGEST_NAME:
        word, before = words[here], words[here - 1]
        gap = word.gap
        is_listing = (
            gap in (", ", " , ")
            and last == here - 1
            and _is_listed(first, word, has_case=has_case, announced=announced)
        )
        is_initial = gap == ". " and len(before.word) == 1
        if gap == " " and _is_initial(folded, words, here, has_case=has_case):
            here += 1
            continue
        if gap not in (" ", "-", " - ", "  ", "\xa0") and not is_listing and not is_initial:
            break
        if _is_article(words, here) and gap == " " and not first.is_plain:
            here += 1
            continue
        if word.word in PARTICLES and not (has_case and word.shape == first.shape == "title"):
            here += 1
            continue
        is_before_comma = first.shape == word.shape == "upper" and folded[word.end : word.end + 2] == ", "
        is_inside = announced and here - at <= 2 and _agrees(first, word, has_case=has_case)
        is_inside = (
            is_inside
            and (word.is_formed or (word.is_plain and len(word.word) > 3 and _is_followed_by_name(words, here, first)))
        ) or is_listing
        if not (is_before_comma or is_inside or _goes_on(first, word, here - at, has_case=has_case)):
            break
        last = here
        here += 1
    return last


def _is_followed_by_name(words: Sequence[Token], here: int, first: Token) -> bool:
    after = words[here + 1] if here + 1 < len(words) else None
    return after is not None and after.gap == " " and (after.is_sure or (first.is_given and after.is_unknown))


def _is_listed(first: Token, word: Token, *, has_case: bool, announced: bool) -> bool:
    """Say whether a given name may follow its surnames and a comma: "GARCIA LOPEZ, MARIA"."""
    if not _agrees(first, word, has_case=has_case) or len(word.word) < 3:
        return False
    is_upper = has_case and first.shape == word.shape == "upper"
    if announced and not word.is_plain and (is_upper or not first.is_given):
        return not has_case or first.shape == word.shape
    return word.is_given


def _is_initial(folded: str, words: Sequence[Token], here: int, *, has_case: bool) -> bool:
    """Say whether a letter and a stop stand within a name: "Martin A. Stephens"."""
    word = words[here]
    if len(word.word) != 1 or here + 1 == len(words) or not (has_case or folded[word.end : word.end + 1] == "."):
        return False
    after = words[here + 1]
    return (
        after.gap in (". ", " ")
        and word.shape == ("title" if has_case else word.shape)
        and (after.is_name or not after.is_plain or (has_case and after.shape == "title"))
    )


def _goes_on(first: Token, word: Token, distance: int, *, has_case: bool) -> bool:
    if not _agrees(first, word, has_case=has_case):
        return False
    if word.is_sure or word.is_unknown:
        return len(word.word) > 2 or word.is_sure or (has_case and first.shape == "title")
    # Within a text that has small letters two capitals in a row are one name: "Lucy Small".
    is_capital = has_case and first.shape == word.shape == "title"
    return distance <= 4 and (word.is_name or (is_capital and (word.word in PARTICLES or len(word.word) > 2)))


def _agrees(first: Token, word: Token, *, has_case: bool) -> bool:
    """Say whether a word is written as the first of the name was: capitals go with capitals."""
    return not has_case or (first.shape == "lower") == (word.shape == "lower")


def _by_lists(folded: str, words: Sequence[Token], *, has_case: bool) -> Iterator[Span]:
    """Find names that nothing announces."""
    here = 0
    while here < len(words):
        first = _first_of_listed(words, here, has_case=has_case)
        if first is None or _is_saint(words, first):
            here += 1
            continue
        last = _run_on(folded, words, first, has_case=has_case)
        run = words[first : last + 1]
        if not _is_eponym(folded, run[0].start, run[-1].end, run):
            yield Span("NAME", run[0].start, run[-1].end, 0.8)
        here = max(last, here) + 1


def _first_of_listed(words: Sequence[Token], here: int, *, has_case: bool) -> int | None:
    """Find where a name begins that is known by the word at ``here``; None when that word does not make a name."""
    word = words[here]
    before = words[here - 1] if here and word.gap in (" ", "-") else None
    after = words[here + 1] if here + 1 < len(words) and words[here + 1].gap in (" ", "-") else None
    if word.is_sure and word.word not in PARTICLES and len(word.word) > 2:
        if has_case and word.shape == "lower" and not (word.is_given and word.word not in eponyms()):
            return None
        if before is None or not _precedes(before, word, has_case=has_case):
            return here
        earlier = words[here - 2] if here > 1 and before.gap == " " else None
        return here - 2 if earlier is not None and _precedes(earlier, before, has_case=has_case) else here - 1
    is_capital = has_case and word.shape != "lower"
    if word.is_given and after is not None and len(word.word) > 2:
        if after.is_sure and not is_eponymous(after):
            return here if _agrees(word, after, has_case=has_case) else None
        if is_capital and after.shape == word.shape == "title" and after.is_surname:
            return here
    # Two words with capitals within a sentence that are names or on no list.
    if has_case and word.shape == "title" and word.gap == " " and after is not None and after.gap == " ":
        pair = (word, after)
        is_pair = after.shape == "title" and min(len(word.word), len(after.word)) > 2 and not is_eponymous(word)
        if is_pair and all(one.is_name or one.is_unknown or one.is_formed for one in pair) and not word.is_formed:
            return here
    return None


def _precedes(before: Token, word: Token, *, has_case: bool) -> bool:
    """Say whether an unknown or doubtful word is the given name before a surname."""
    if not _agrees(word, before, has_case=has_case) or len(before.word) < 3:
        return False
    if has_case and before.shape == word.shape == "title" and before.gap == " " and word.is_surname and before.is_plain:
        return before.word not in PARTICLES and before.word not in (
            "san",
            "santa",
            "santo",
            "sant",
            "st",
            "saint",
            "dr",
            "dra",
            "mr",
            "mrs",
            "ms",
            "sr",
            "sra",
            "don",
            "dona",
            "hospital",
            "clinica",
            "calle",
        )
    return before.is_unknown and (word.is_surname or word.is_unknown) and (has_case or len(before.word) < 10)


def _is_saint(words: Sequence[Token], at: int) -> bool:
    before = words[at - 1].word if at else ""
    return before in ("san", "santa", "santo", "sant", "saint", "st") and words[at].gap in (" ", ". ")


def is_eponymous(word: Token) -> bool:
    """Say whether a disease, sign or device is called after somebody of this name."""
    return any(part in eponyms() for part in (word.word, *word.word.split("-"), word.word.removesuffix("'s")))


def _is_eponym(folded: str, start: int, end: int, run: Sequence[Token]) -> bool:
    known = [is_eponymous(word) for word in run]
    if len(run) > 1 and run[0].is_given and run[0].shape == run[1].shape == "title":
        return bool(_EPONYM_AFTER.search(folded[end : end + 24]))
    if any(known) and all(
        is_known or word.is_plain or word.word in PARTICLES for is_known, word in zip(known, run, strict=True)
    ):
        return True
    if len(run) > 2:
        return False
    return bool(
        _EPONYM_BEFORE.search(folded[max(0, start - 40) : start]) or _EPONYM_AFTER.search(folded[end : end + 24])
    )
