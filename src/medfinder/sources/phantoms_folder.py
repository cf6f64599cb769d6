"""Studies of a phantoms folder, as ``medfinder phantoms`` writes it.

In: a folder with ``studies.jsonl``, one ``Study`` a line, paths relative to the folder. Out: those studies, in the
order of the file, paths absolute. Set aside: a line that is no study, or whose volume lies outside the folder.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from medfinder.errors import ConfigError
from medfinder.records import Dropped, Study

STUDIES_FILE = "studies.jsonl"
KIND = "medfinder phantoms"


def is_unfinished(path: Path) -> bool:
    """Tell whether ``medfinder phantoms`` was ended here before it wrote its list of studies."""
    try:
        found = json.loads((path / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("kind") == KIND and not (path / STUDIES_FILE).exists()


def read(path: Path, *, table: Path | None = None) -> Iterator[Study | Dropped]:
    """Yield the studies of a phantoms folder.

    Raises:
        ConfigError: a table is given (phantoms bring their reports), or the folder holds no phantoms.
    """
    if table is not None:
        raise ConfigError(f"phantoms bring their reports; run again without the table {table}")
    lines = path / STUDIES_FILE
    if not lines.is_file():
        raise ConfigError(f"no {STUDIES_FILE} in {path}; make one: medfinder phantoms {path}")
    return _studies(path)


def _studies(folder: Path) -> Iterator[Study | Dropped]:
    adapter = TypeAdapter(Study)
    with (folder / STUDIES_FILE).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                study = adapter.validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"]) or "the line"
                yield _refuse(f"line {number}", "unreadable line", f"{STUDIES_FILE}: {where}: {first['msg']}")
                continue
            if all(_is_inside(series.path) for series in study.series):
                yield replace(study, series=tuple(replace(s, path=folder / s.path) for s in study.series))
            else:
                yield _refuse(
                    study.study_id, "path outside", "a volume's path leaves the folder; expected a relative one"
                )


def _is_inside(path: Path) -> bool:
    return not path.is_absolute() and ".." not in path.parts


def _refuse(study_id: str, reason: str, detail: str) -> Dropped:
    return Dropped(study_id=study_id, series_id="", source="phantoms", stage="read", reason=reason, detail=detail)
