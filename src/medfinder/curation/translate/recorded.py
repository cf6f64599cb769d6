"""Translations that were made elsewhere, read from a file.

In: a CSV, TSV or JSON-lines file with an ``english`` and either a ``text`` (the digest of ``digest_text``) or a
``spanish`` column. Out: the recorded English of each text. Refused: a file without these columns, and one that gives
two different translations of a text. A text that the file does not know gets a fault, nothing else.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfinder.curation.translate.settings import Keep, Translation, TranslationSettings, digest_text
from medfinder.errors import ConfigError, DatasetError

_EXPECTED = "expected columns 'english' and one of 'text' (its digest), 'spanish'"


@dataclass(frozen=True)
class RecordedTranslator:
    """A file of translations, read."""

    english: Mapping[str, str]
    version: str
    model: str = ""
    sends_text: bool = False

    def translate(self, texts: Mapping[str, str], keep: Keep) -> None:
        """Look each text up."""
        for digest in texts:
            english = self.english.get(digest, "")
            keep(digest, Translation(english, "recorded", fault="" if english else "not recorded"))


def open_recorded(settings: TranslationSettings) -> RecordedTranslator:
    """Read the file.

    Raises:
        ConfigError: no path is given, or no file is there.
        DatasetError: the file is no table of translations.
    """
    if settings.path is None:
        raise ConfigError(f"engine recorded needs a path: a CSV, TSV or JSONL file; {_EXPECTED}")
    try:
        raw = settings.path.read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{settings.path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{settings.path} is not UTF-8 text; save it as UTF-8") from error
    english = _collect(_rows(text, settings.path), settings.path)
    return RecordedTranslator(english, hashlib.sha256(raw).hexdigest()[:12])


def _rows(text: str, path: Path) -> list[dict[str, Any]]:
    if text.lstrip().startswith("{"):
        try:
            return [dict(json.loads(line)) for line in text.splitlines() if line.strip()]
        except (ValueError, TypeError) as error:
            raise DatasetError(f"{path} begins like JSON lines and is not; expected one object a line") from error
    head = text.partition("\n")[0]
    try:
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in head else ","))
    except csv.Error as error:
        raise DatasetError(f"{path} is not a table: {error}; save it as CSV (UTF-8)") from error


def _collect(rows: Iterable[Mapping[str, Any]], path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        digest = row.get("text") or (digest_text(row["spanish"]) if row.get("spanish") else "")
        english = row.get("english")
        if not isinstance(english, str) or not isinstance(digest, str) or not digest:
            names = ", ".join(repr(str(name)[:30]) for name in list(row)[:10])
            raise DatasetError(f"record {number} of {path} has {names}; {_EXPECTED}")
        if found.setdefault(digest, english) != english:
            raise DatasetError(f"record {number} of {path} gives another translation of a text that came before")
    return found
