"""What is done of a curation, study by study, so that it can be killed at any moment and go on later.

In: outcomes of single studies. Out: the same outcomes, in this run or the next. Refused: a folder that holds something
else, or the notes of other input or settings.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medfinder.curation import dataset as folder
from medfinder.curation.recipe import RECIPE, RENEWABLE, find_changes, write_beginning
from medfinder.curation.study import CuratedStudy
from medfinder.errors import ConfigError, DatasetError
from medfinder.records import Study


@dataclass(frozen=True)
class Notes:
    """The outcomes of single studies, one small file each, written whole or not at all."""

    place: Path

    @classmethod
    def begin(cls, out: Path, recipe: Mapping[str, Any]) -> "Notes":
        """Open the notes of an unfinished run, or begin new ones in an empty folder."""
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out} is a file; give a folder")
        known = _read_recipe(out)
        changed = find_changes(known, recipe) if known else []
        if set(changed) - RENEWABLE:
            raise ConfigError(
                f"{out} is an unfinished dataset that differs in {', '.join(changed)}; delete it or give a new folder"
            )
        if known is None:
            found = sorted(p.name for p in out.iterdir() if p.name != folder.WORK) if out.exists() else []
            if found:
                raise ConfigError(f"{out} is not empty (holds {found[0]!r}); give a new or empty folder")
        if known is None or set(changed) - _survivable(recipe):
            shutil.rmtree(out / folder.WORK, ignore_errors=True)
        if known is None or changed:
            write_beginning(out, recipe)
        place = out / folder.WORK / "studies"
        place.mkdir(exist_ok=True)
        (out / folder.VOLUMES).mkdir(exist_ok=True)
        return cls(place)

    def has(self, study: Study) -> bool:
        """Tell whether a study is done, with all that is known of it now."""
        return self._path(study).is_file() and self._load(study) is not None

    def write(self, study: Study, outcome: CuratedStudy) -> None:
        """Note what became of a study, once its volumes are written."""
        folder.write_text(self._path(study), json.dumps(asdict(outcome)))

    def read(self, study: Study) -> CuratedStudy:
        """Return what became of a study.

        Raises:
            DatasetError: its note has gone or was damaged.
        """
        outcome = self._load(study)
        if outcome is None:
            raise DatasetError("a note in .work was damaged while curating; run the same command again")
        return outcome

    def _load(self, study: Study) -> CuratedStudy | None:
        try:
            return _OUTCOME.validate_json(self._path(study).read_bytes())
        except (OSError, ValidationError):
            return None

    def _path(self, study: Study) -> Path:
        # Where its files lie makes no other study of it.
        series = tuple(replace(one, path=Path(one.path.name)) for one in study.series)
        return self.place / f"{hashlib.sha256(repr(replace(study, series=series)).encode()).hexdigest()[:32]}.json"


def _survivable(recipe: Mapping[str, Any]) -> frozenset[str]:
    """What may change without the notes becoming void.

    A server gets new studies every day, and what was fetched of it is forgotten: notes stand for the very record that
    they were made of. Files of a folder may change and leave their study's record as it was.
    """
    return frozenset({"input"}) if recipe["source"] == "pacs" else frozenset()


def _read_recipe(out: Path) -> dict[str, Any] | None:
    try:
        recipe = json.loads((out / folder.WORK / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return recipe if isinstance(recipe, dict) else None


_OUTCOME = TypeAdapter(CuratedStudy)
