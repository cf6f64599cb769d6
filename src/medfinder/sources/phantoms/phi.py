"""Reports with known PHI: a phantom's report, people and places put into it, and where each of them stands.

In: a report without PHI, its language, a pool of names and templates, a generator. Out: the text and its PHI, span by
span. Nobody is meant: names, numbers and streets are drawn at random. The pools share no name, no template, no
hospital and no street, so that who tunes on the first four can be judged on ``"held_out"``. Traps are sentences that
look like PHI and are none. Refused: pools that are not known.
"""

import tomllib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np

from medfinder.errors import ConfigError
from medfinder.records import Language
from medfinder.sources.phantoms.phrases import pick

Pool = Literal["tuning", "second", "third", "fourth", "held_out"]

_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_MONTHS = {
    "es": [
        "enero",
        "febrero",
        "marzo",
        "abril",
        "mayo",
        "junio",
        "julio",
        "agosto",
        "septiembre",
        "octubre",
        "noviembre",
        "diciembre",
    ],
    "en": [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ],
}
# Sentences with PHI, and traps, in one report; ours.
_TOLD = (4, 9)
_TRAPPED = 3


@dataclass(frozen=True, slots=True)
class Planted:
    """One piece of PHI: ``text[start:end]``."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PhiReport:
    """A report that names people, and where.

    Attributes:
        traps: spans of sentences that must stay as they are.
    """

    text: str
    phi: tuple[Planted, ...]
    traps: tuple[Planted, ...]


def write_phi_report(report: str, language: Language, pool: Pool, rng: np.random.Generator) -> PhiReport:
    """Put PHI and traps between the sentences of a report.

    Args:
        report: of a phantom; nothing in it names anybody.

    Raises:
        ConfigError: the pool is not known.
    """
    if pool not in _tables()["templates"]:
        raise ConfigError(f"no pool {pool!r}; known: {', '.join(_tables()['templates'])}")
    is_bimcv = language == "es" and " . " in report
    stop = " . " if is_bimcv else ". "
    sentences = [(sentence, "") for sentence in report.strip(" .").split(stop)]
    for _ in range(int(rng.integers(*_TOLD))):
        template = pick(rng, _tables()["templates"][pool][language])
        sentences.insert(int(rng.integers(len(sentences) + 1)), (template, "phi"))
    for _ in range(_TRAPPED):
        sentences.insert(int(rng.integers(len(sentences) + 1)), (pick(rng, _tables()["traps"][language]), "trap"))
    written = _join(sentences, stop, _Filler(language, pool, rng))
    style = rng.random()
    if is_bimcv and style < 0.6:
        return replace(written, text=strip_case_and_accents(written.text))
    if style > 0.93:
        return replace(written, text="".join(_upper(sign) for sign in written.text))
    return written


def _join(sentences: Sequence[tuple[str, str]], stop: str, filler: "_Filler") -> PhiReport:
    """Fill the slots and note where everything comes to stand."""
    text, phi, traps = "", [], []
    for sentence, kind in sentences:
        begin = len(text)
        for part in _split_slots(sentence):
            filled = filler.fill(part) if part.startswith("{") else part
            if part.startswith("{"):
                phi.append(Planted(part.strip("{}"), len(text), len(text) + len(filled)))
            text += filled
        if kind == "trap":
            traps.append(Planted("trap", begin, len(text)))
        text += stop if not text.endswith(".") or stop == " . " else " "
    return PhiReport(text.rstrip(), tuple(phi), tuple(traps))


def _split_slots(template: str) -> list[str]:
    parts = []
    while "{" in template:
        before, _, rest = template.partition("{")
        slot, _, template = rest.partition("}")
        parts += [before, f"{{{slot}}}"]
    return [part for part in (*parts, template) if part]


def strip_case_and_accents(text: str) -> str:
    """Write as BIMCV does: lower case, no accents; every letter keeps its place.

    Example:
        >>> strip_case_and_accents("Informado por Dña. Begoña Ibáñez, 3ª planta")
        'informado por dna. begona ibanez, 3ª planta'
    """
    return "".join(unicodedata.normalize("NFD", sign)[0].lower() for sign in text)


def _upper(sign: str) -> str:
    upper = sign.upper()
    return upper if len(upper) == 1 else sign


class _Filler:
    """Draws what stands in a slot."""

    def __init__(self, language: Language, pool: Pool, rng: np.random.Generator) -> None:
        self.language, self.pool, self.rng = language, pool, rng
        self._makers: dict[str, Callable[[], str]] = {
            "full": self._full,
            "listed": lambda: f"{self._surname(2).upper()}, {self._given().upper()}",
            "given": self._given,
            "surname": lambda: self._surname(1 + (language == "es" and rng.random() < 0.3)),
            "date": self._date,
            "address": self._address,
            "hospital": lambda: self._part("hospital"),
            "phone": self._phone,
            "email": self._email,
            "url": lambda: (
                pick(rng, ("https://portal.example.org/ris/", "www.hospital.example.es/informes/")) + self._digits(5)
            ),
            "age": lambda: str(int(rng.integers(90, 106))),
            "nhc": lambda: self._digits(int(rng.integers(5, 9))),
            "sip": lambda: self._digits(int(rng.integers(7, 9))),
            "dni": self._dni,
            "nie": self._nie,
            "nss": lambda: f"{self._digits(2)}/{self._digits(8)}/{self._digits(2)}",
            "ssn": lambda: f"{self._digits(3)}-{self._digits(2)}-{self._digits(4)}",
            "col": lambda: f"{int(rng.integers(10, 52))}/{self._digits(5)}" if rng.random() < 0.5 else self._digits(9),
            "acc": lambda: pick(rng, ("", "A", "RX", "TC")) + self._digits(int(rng.integers(7, 11))),
        }

    def fill(self, slot: str) -> str:
        """Draw the filling of ``{slot}``."""
        return self._makers[slot.strip("{}")]()

    def _names(self, kind: str) -> list[str]:
        return _names(self.pool, f"{kind}_{self.language}")

    def _given(self) -> str:
        return pick(self.rng, self._names("given"))

    def _surname(self, count: int) -> str:
        return " ".join(pick(self.rng, self._names("surname")) for _ in range(count))

    def _full(self) -> str:
        if self.language == "en":
            middle = f" {pick(self.rng, 'ABCDEJLMRST')}." if self.rng.random() < 0.2 else ""
            return f"{self._given()}{middle} {self._surname(1)}"
        return f"{self._given()} {self._surname(1 + (self.rng.random() < 0.7))}"

    def _part(self, kind: str) -> str:
        return str(pick(self.rng, _tables()["parts"][self.pool][f"{kind}_{self.language}"]))

    def _digits(self, count: int) -> str:
        return str(int(self.rng.integers(1, 10))) + "".join(str(int(self.rng.integers(10))) for _ in range(count - 1))

    def _ascii(self, name: str) -> str:
        return strip_case_and_accents(name).replace(" ", "").replace("'", "")

    def _email(self) -> str:
        host = pick(self.rng, ("gva.es", "example.com", "salud.example.org"))
        return f"{self._ascii(self._given())}.{self._ascii(self._surname(1))}@{host}"

    def _dni(self) -> str:
        number = self._digits(8)
        return f"{number}{pick(self.rng, ('', '-', ' '))}{_DNI_LETTERS[int(number) % 23]}"

    def _nie(self) -> str:
        letter, number = pick(self.rng, "XYZ"), self._digits(7)
        value = int(f"{'XYZ'.index(letter)}{number}")
        return f"{letter}{number}{_DNI_LETTERS[value % 23]}"

    def _phone(self) -> str:
        if self.language == "en":
            area, mid, last = self._digits(3), self._digits(3), self._digits(4)
            return pick(
                self.rng,
                (f"({area}) {mid}-{last}", f"{area}-{mid}-{last}", f"+1 {area} {mid} {last}", f"{area}.{mid}.{last}"),
            )
        first = pick(self.rng, "69")
        a, b = f"{first}{self._digits(2)}", self._digits(6)
        return pick(
            self.rng,
            (
                f"{a}{b}",
                f"{a} {b[:3]} {b[3:]}",
                f"{a} {b[:2]} {b[2:4]} {b[4:]}",
                f"+34 {a} {b[:3]} {b[3:]}",
                f"{a}-{b}",
            ),
        )

    def _address(self) -> str:
        house = int(self.rng.integers(1, 199))
        street, town = self._part("street"), self._part("town")
        if self.language == "en":
            flat = pick(self.rng, ("", "", ", Apt 4B", ", Suite 200"))
            return f"{house} {street}{flat}, {town} {self._digits(5)}"
        floor = pick(self.rng, ("", "", ", 3º B", ", piso 2", " 4ª izq", ", esc. 2, pta. 7"))
        number = pick(self.rng, (f" {house}", f", {house}", f" nº {house}", f", nº {house}"))
        code = pick(self.rng, ("", f", 0{self._digits(4)} {town}", f", {town}"))
        return f"{street}{number}{floor}{code}"

    def _date(self) -> str:
        day, month, year = (
            int(self.rng.integers(1, 29)),
            int(self.rng.integers(1, 13)),
            int(self.rng.integers(2001, 2026)),
        )
        name = _MONTHS[self.language][month - 1]
        forms = [
            f"{day:02d}/{month:02d}/{year}",
            f"{day}/{month}/{year % 100:02d}",
            f"{year}-{month:02d}-{day:02d}",
            f"{year}{month:02d}{day:02d}",
        ]
        if self.language == "es":
            forms += [
                f"{day}-{month}-{year % 100:02d}",
                f"{day:02d}.{month:02d}.{year}",
                f"{day} de {name} de {year}",
                f"{day} {name} {year}",
                f"{name} {year}",
                f"{name} de {year}",
                f"{day} de {name}",
                f"{day}-{name[:3]}-{year}",
                f"{month:02d}/{year}",
            ]
        else:
            forms += [
                f"{name} {_ordinal(day)}, {year}",
                f"{name} {day}, {year}",
                f"{day} {name} {year}",
                f"{name} {year}",
                f"{name[:3]} {day}, {year}",
                f"{day}-{name[:3]}-{year}",
                f"{month}/{day}/{year % 100:02d}",
            ]
        return pick(self.rng, forms)


def _ordinal(day: int) -> str:
    ending = "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath("phi.toml").read_text(encoding="utf-8"))


@cache
def _names(pool: Pool, kind: str) -> list[str]:
    return " ".join(str(_tables()["names"][pool][kind]).split()).split(" / ")
