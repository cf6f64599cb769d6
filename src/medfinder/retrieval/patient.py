"""Words of a query that speak of the patient: "70-year-old woman with a nodule", "varón mayor de 60 años con enfisema".

In: free text. Out: the rest of it, which is searched for, and the filter that says the same. Reports without names tell
age and sex seldom, and the model never saw them: such words only draw the ranking away from the findings. They become
a filter to be used, and never filter by themselves.
"""

import re
from typing import NamedTuple

_SEXES = {
    "F": r"wom[ae]n|females?(?!\s+breasts?)|lady|ladies|girls?|mujer(?:es)?|femenin[ao]s?",
    "M": r"m[ae]n|males?(?!\s+breasts?)|gentlem[ae]n|boys?|var[oó]n(?:es)?|hombres?|masculinos?",
}
_PATIENT = r"patients?|pacientes?|adults?|adultos?|people"
_PERSON = re.compile(rf"\b(?:{_PATIENT}|{'|'.join(_SEXES.values())})\b", re.IGNORECASE)
_OVER = r"(?:over|above|older\s+than|(?:mayor(?:es)?|m[aá]s)\s+de)\s+"
_UNDER = r"(?:under|below|younger\s+than|(?:menor(?:es)?|menos)\s+de)\s+"
_NUMBER = r"(?P<age>\d{1,3})(?![\d.,]|\s*(?:mm|cm|ml|hu|uh|%))"
_OLD = r"(?P<old>[\s-]*(?:years?|yrs?)[\s-]+olds?\b|\s*y\s*/?\s*o\b|\s+a[nñ]os\s+de\s+edad\b)"
_YEARS = r"(?:[\s-]*(?:years?|yrs?)\b|\s+a[nñ]os\b)"
_AGES = {
    "age >= {}": re.compile(rf"\b(?:aged\s+)?{_OVER}{_NUMBER}(?:{_OLD}|{_YEARS})?", re.IGNORECASE),
    "age < {}": re.compile(rf"\b(?:aged\s+)?{_UNDER}{_NUMBER}(?:{_OLD}|{_YEARS})?", re.IGNORECASE),
    "age = {}": re.compile(rf"\b(?:aged?\s+|de\s+)?{_NUMBER}(?:{_OLD}|{_YEARS})", re.IGNORECASE),
}
# Beside a person a smaller number of years may still be a time ("a man, stable over 2 years").
_LEAST_AGE = 12
# What joins the patient to the findings and is left over at either end.
_JOINT = rf"(?:[\s,.;:]|\b(?:an?|the|in|with|having|who|has|un|una|en|el|la|con|de|que|tiene|{_PATIENT})\b)+"
_ENDS = re.compile(rf"^{_JOINT}|{_JOINT}$", re.IGNORECASE)


class Patient(NamedTuple):
    """A query without its patient.

    Attributes:
        rest: what is looked for.
        filter: what the words about the patient say, as an expression; empty where there are none.
    """

    rest: str
    filter: str


def read_patient(text: str) -> Patient:
    """Part what a query says of the patient from what it looks for; nothing is parted where nothing else is said.

    Example:
        >>> read_patient("70-year-old woman with a pulmonary nodule")
        Patient(rest='pulmonary nodule', filter='sex = F and age = 70')
        >>> read_patient("varón mayor de 60 años con enfisema")
        Patient(rest='enfisema', filter='sex = M and age >= 60')
        >>> read_patient("mass over 60 mm, stable for 2 years")
        Patient(rest='mass over 60 mm, stable for 2 years', filter='')
    """
    rest, told = _without_age(text, is_person=bool(_PERSON.search(text)))
    sexes = [sex for sex, words in _SEXES.items() if re.search(rf"\b(?:{words})\b", rest, re.IGNORECASE)]
    # Both are everybody.
    if len(sexes) == 1:
        rest = re.sub(rf"\b(?:{_SEXES[sexes[0]]})\b", " ", rest, flags=re.IGNORECASE)
        told.insert(0, f"sex = {sexes[0]}")
    rest = _ENDS.sub("", " ".join(rest.split()))
    return Patient(rest, " and ".join(told)) if told and re.search(r"[^\W\d_]", rest) else Patient(text, "")


def _without_age(text: str, *, is_person: bool) -> tuple[str, list[str]]:
    for told, pattern in _AGES.items():
        found = pattern.search(text)
        if found and (found["old"] or (is_person and int(found["age"]) >= _LEAST_AGE)):
            return f"{text[: found.start()]} {text[found.end() :]}", [told.format(int(found["age"]))]
    return text, []
