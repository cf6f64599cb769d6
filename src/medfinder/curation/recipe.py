"""What makes two curations the same: all that decides about the bytes of a dataset, and nothing else.

In: a source, its table, the settings. Out: a recipe, stored in the provenance and compared when a command is run again.
Refused: an output folder that was made by another recipe; the message names what differs.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import medfinder
from medfinder.curation import dataset as folder
from medfinder.curation.dataset import Dataset
from medfinder.curation.study import CurationSettings
from medfinder.errors import ConfigError
from medfinder.sources.files import fingerprint, relative_name, walk_files

# Lists of studies are digested whole: an edit in their middle changes neither size, beginning nor end.
_LISTS = (".jsonl", ".json", ".csv", ".tsv", ".txt")


def write_recipe(kind: str, source: Path, table: Path | None, settings: CurationSettings) -> dict[str, Any]:
    """Put together all that decides about the bytes of a dataset; no path, no time."""
    recipe = {
        "kind": folder.KIND,
        "format": folder.FORMAT,
        "medfinder": medfinder.__version__,
        "source": kind,
        "source_digest": _digest_source(source),
        "table_digest": hashlib.sha256(table.read_bytes()).hexdigest() if table else None,
        "keywords_digest": hashlib.sha256(
            resources.files("medfinder.curation").joinpath("keywords.toml").read_bytes()
        ).hexdigest(),
        "settings": asdict(settings),
    }
    plain: dict[str, Any] = json.loads(json.dumps(recipe))
    return plain


def _digest_source(source: Path) -> str:
    """Digest names, sizes, beginnings and ends of all files; of lists, every byte."""
    whole = hashlib.sha256()
    for file in walk_files(source):
        try:
            is_list = file.suffix.lower() in _LISTS
            content = hashlib.sha256(file.read_bytes()).hexdigest() if is_list else fingerprint(file)
        except OSError as error:
            content = f"unreadable: {error.errno}"
        whole.update(f"{relative_name(file, source)}\0{content}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def is_done(out: Path, recipe: Mapping[str, Any]) -> bool:
    """Tell whether a folder holds the finished dataset already; clear up after a run killed at the very end.

    Raises:
        ConfigError: it holds something else.
    """
    provenance = folder.read_provenance(out)
    if provenance is None:
        return False
    changed = find_changes(provenance, recipe)
    if changed:
        raise ConfigError(f"{out} is a dataset of other {changed}; give a new folder, or delete this one first")
    lost = [case.case_id for case in Dataset.open(out).cases if not (out / case.volume).is_file()]
    if lost:
        raise ConfigError(f"{out} has lost {len(lost)} of its volumes; delete it and curate again")
    shutil.rmtree(out / folder.WORK, ignore_errors=True)
    return True


def find_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Name what differs between two recipes; empty when they would give the same bytes."""
    words = {
        "format": "format",
        "medfinder": "medfinder version",
        "source": "kind of source",
        "source_digest": "input",
        "table_digest": "report table",
        "keywords_digest": "keyword list",
    }
    changed = [word for key, word in words.items() if old.get(key) != new[key]]
    before = old.get("settings") or {}
    settings = [key for key, value in new["settings"].items() if before.get(key) != value]
    if settings:
        changed.append(f"settings ({', '.join(settings)})")
    return ", ".join(changed)
