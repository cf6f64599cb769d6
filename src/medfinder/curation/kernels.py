"""Which reconstruction kernel shows soft tissue and which shows lung, in the spellings of the makers.

In: DICOM's ConvolutionKernel, or free words about the series. Out: ``"soft"``, ``"lung"``, or nothing where they do not
tell. Nothing is refused. A sharp kernel made for bone counts as lung: for what is looked for in soft tissue both are
noise.
"""

import re
import unicodedata
from typing import Literal

Kernel = Literal["soft", "lung", ""]

# (maker, pattern of the whole name, what it shows). Ours, after the makers' user guides and conformance statements:
# numbers grow with sharpness. The first row that fits decides.
KERNELS: tuple[tuple[str, str, Kernel], ...] = (
    ("Siemens", r"B?L[3-9]\d[A-Z]?", "lung"),  # Bl57, Bl64
    ("Siemens", r"[BHITUJQS][A-Z]?[0-4]\d[A-Z]?", "soft"),  # B30f, B31f, I31f, Br40d, Qr36, T20s
    ("Siemens", r"[BHITUJQS][A-Z]?[5-9]\d[A-Z]?", "lung"),  # B60f, B70f, I70f, Br59
    ("GE", r"STANDARD|STND|STD\+?|SOFT|CHEST|DETAIL|SMOOTH", "soft"),
    ("GE", r"LUNG|BONE|BONE ?PLUS|EDGE|ULTRA|HD ?LUNG|HD ?BONE", "lung"),
    ("Philips", r"I?[ABC]|SA|SB|SC", "soft"),
    ("Philips", r"[DEFL]|Y[A-E]", "lung"),
    ("Toshiba/Canon", r"FC(0\d|1\d|2\d|4\d).*", "soft"),
    ("Toshiba/Canon", r"FC(3\d|5\d|8\d).*", "lung"),
    ("any", r".*\b(LUNG|PULMON|SHARP|BONE|HUESO|HRCT|EDGE).*", "lung"),
    ("any", r".*\b(SOFT|STANDARD|SMOOTH|MEDIASTIN|BODY|ABDOMEN|BLANDAS).*", "soft"),
)

# What a description says, Spanish and English; tried only where no kernel is told.
_LUNG_WORDS = re.compile(r"\b(LUNG|PULM\w*|PARENQUIMA|PARENCHYMA|HRCT|TCAR|BONE|HUESO|OSEA)\b")
_SOFT_WORDS = re.compile(r"\b(SOFT|MEDIAST\w*|BLANDAS|STANDARD|ESTANDAR|STND|STD)\b")


def kernel_kind(name: str) -> Kernel:
    """Tell what a ConvolutionKernel shows.

    Example:
        >>> [kernel_kind(name) for name in ("B31f", "B70f", "Br40d\\\\3", "STANDARD", "YA", "FC52", "strange")]
        ['soft', 'lung', 'soft', 'soft', 'lung', 'lung', '']
    """
    # Siemens adds the strength of iterative reconstruction as a second value.
    first = plain_words(name.split("\\")[0]).strip()
    return next((kind for _, pattern, kind in KERNELS if re.fullmatch(pattern, first)), "")


def kernel_in_words(text: str) -> Kernel:
    """Tell what a series shows by its description; words for lung win, as in ``lung and mediastinum, sharp``.

    Example:
        >>> [kernel_in_words(text) for text in ("Tórax Pulmón 1.0", "TORAX MEDIASTINO", "TORAX")]
        ['lung', 'soft', '']
    """
    words = plain_words(text)
    return "lung" if _LUNG_WORDS.search(words) else "soft" if _SOFT_WORDS.search(words) else ""


def plain_words(text: str) -> str:
    """Write a text in capitals without accents, each other sign but + a space.

    Example:
        >>> plain_words("Tórax_fino (1.0 mm)").split()
        ['TORAX', 'FINO', '1', '0', 'MM']
    """
    letters = unicodedata.normalize("NFD", text.upper())
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return re.sub(r"[^A-Z0-9+]+", " ", plain)
