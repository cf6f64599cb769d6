"""What is done of a curation, study by study, so that it can be killed at any moment and go on later.

In: outcomes of single studies. Out: the same outcomes, in this run or the next. Refused: a folder that holds something
else, or the notes of other input or settings.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medfinder.curation import dataset as folder
from medfinder.curation.recipe import find_changes
from medfinder.curation.study import CuratedStudy
from medfinder.errors import ConfigError, DatasetError

_RECIPE = "recipe.json"


@dataclass(frozen=True)
class Notes:
    """The outcomes of single studies, one small file each, written whole or not at all."""

    place: Path

    @classmethod
    def begin(cls, out: Path, recipe: Mapping[str, Any]) -> "Notes":
        """Open the notes of an unfinished run, or begin new ones in an empty folder."""
        work = out / folder.WORK
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out} is a file; give a folder")
        if (work / _RECIPE).is_file():
            changed = find_changes(json.loads((work / _RECIPE).read_text(encoding="utf-8")), recipe)
            if changed:
                raise ConfigError(
                    f"{out} holds an unfinished dataset of other {changed}; delete it or give a new folder"
                )
        else:
            found = sorted(p.name for p in out.iterdir() if p.name != folder.WORK) if out.exists() else []
            if found:
                raise ConfigError(f"{out} is not empty (holds {found[0]!r}); give a new or empty folder")
            work.mkdir(parents=True, exist_ok=True)
            folder.write_text(work / _RECIPE, json.dumps(recipe))
        (work / "studies").mkdir(exist_ok=True)
        (out / folder.VOLUMES).mkdir(exist_ok=True)
        return cls(work / "studies")

    def has(self, study_id: str) -> bool:
        """Tell whether a study is done."""
        return self._path(study_id).is_file() and self._load(study_id) is not None

    def write(self, outcome: CuratedStudy) -> None:
        """Note what became of a study, once its volumes are written."""
        folder.write_text(self._path(outcome.study_id), json.dumps(asdict(outcome)))

    def read(self, study_id: str) -> CuratedStudy:
        """Return what became of a study.

        Raises:
            DatasetError: its note has gone or was damaged.
        """
        outcome = self._load(study_id)
        if outcome is None:
            raise DatasetError("a note in .work was damaged while curating; run the same command again")
        return outcome

    def _load(self, study_id: str) -> CuratedStudy | None:
        try:
            return _OUTCOME.validate_json(self._path(study_id).read_bytes())
        except (OSError, ValidationError):
            return None

    def _path(self, study_id: str) -> Path:
        return self.place / f"{hashlib.sha256(study_id.encode()).hexdigest()[:32]}.json"


_OUTCOME = TypeAdapter(CuratedStudy)
