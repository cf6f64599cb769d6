"""What has been translated already: one append-only file of JSON lines.

In: translations, one by one, as they are made. Out: the same ones, in this run or a later one, by text, engine, model
and version. A process may be killed at any moment: a line is whole or it is passed over, and writing goes on behind
it. Several processes may append to one file. Refused: a file that is something else.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from medfinder.curation.translate.settings import Translation
from medfinder.errors import ConfigError

_Maker = tuple[str, str, str]


class TranslationCache:
    """The translations of one maker (engine, model, version) in a cache file; use it as a context manager."""

    def __init__(self, path: Path, *, engine: str, model: str, version: str) -> None:
        self._path = path
        self._maker = (engine, model, version)
        self._known: dict[str, Translation] = {}
        self._file: TextIO | None = None

    def __enter__(self) -> "TranslationCache":
        self._known = dict(_read(self._path, self._maker))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def get(self, digest: str) -> Translation | None:
        """Look up the translation of a text."""
        return self._known.get(digest)

    def add(self, digest: str, translation: Translation) -> None:
        """Note a translation; one with a fault is not kept, so that the text is tried again next time.

        Raises:
            ConfigError: the file cannot be written.
        """
        if translation.fault:
            return
        self._known[digest] = translation
        engine, model, version = self._maker
        line: dict[str, object] = {"text": digest, "engine": engine, "model": model, "version": version}
        line |= {"english": translation.english, "is_rough": translation.is_rough}
        try:
            self._append(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror}; what is in it is kept") from error

    def _append(self, line: str) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            is_torn = self._path.exists() and self._path.read_bytes()[-1:] not in (b"", b"\n")
            self._file = self._path.open("a", encoding="utf-8", newline="\n")
            line = "\n" * is_torn + line
        self._file.write(line)
        self._file.flush()


def _read(path: Path, maker: _Maker) -> list[tuple[str, Translation]]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    whole = [entry for line in lines if (entry := _parse(line)) is not None]
    if len(lines) > 1 and not whole:
        raise ConfigError(f"{path} is no translation cache; give a file that this command made, or a new name")
    return [
        (entry["text"], Translation(entry["english"], maker[0], bool(entry.get("is_rough"))))
        for entry in whole
        if (entry["engine"], entry["model"], entry["version"]) == maker
    ]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    keys = ("text", "engine", "model", "version", "english")
    is_whole = isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in keys)
    return entry if is_whole else None
