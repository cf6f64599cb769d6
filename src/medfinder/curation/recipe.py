"""What makes two curations the same: all that decides about the bytes of a dataset, and nothing else.

In: a source, its table, the settings. Out: a recipe, stored in the provenance and compared when a command is run again.
Refused: an output folder that was made by another recipe; the message names what differs.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import medfinder
from medfinder.curation import dataset as folder
from medfinder.curation.dataset import Dataset
from medfinder.curation.deidentify.keys import Key
from medfinder.curation.study import CurationSettings
from medfinder.curation.translate import TranslationSettings
from medfinder.errors import ConfigError
from medfinder.sources.files import fingerprint, relative_name, walk_files

# Lists of studies are digested whole: an edit in their middle changes neither size, beginning nor end.
_LISTS = (".jsonl", ".json", ".csv", ".tsv", ".txt")
RECIPE = "recipe.json"
_WORDS = {
    "format": "format",
    "medfinder": "medfinder version",
    "source": "kind of source",
    "source_digest": "input",
    "table_digest": "report table",
    "rules_digest": "rules and word lists",
    "translations_digest": "translations or weights",
    "key_check": "key",
}
# What may change between two runs of one command: the source grows, the program is renewed. The dataset is made again
# in its place. Other settings are another command.
RENEWABLE = frozenset(
    {"input", "report table", "rules and word lists", "translations or weights", "medfinder version", "format"}
)


def write_recipe(
    kind: str,
    source: Path,
    table: Path | None,
    settings: CurationSettings,
    *,
    study_ids: Collection[str],
    key: Path | None = None,
) -> dict[str, Any]:
    """Put together all that decides about the bytes of a dataset; no path, no time, no secret.

    Args:
        study_ids: of the source; of a server they are all that can be told without fetching it whole.
    """
    recipe = {
        "kind": folder.KIND,
        "format": folder.FORMAT,
        "medfinder": medfinder.__version__,
        "source": kind,
        "source_digest": _digest_source(kind, source, study_ids),
        "table_digest": hashlib.sha256(table.read_bytes()).hexdigest() if table else None,
        "key_check": Key.read(key).check if key else None,
        "rules_digest": _digest_rules(),
        "translations_digest": _digest_translator(settings.translation),
        "settings": asdict(settings),
    }
    plain: dict[str, Any] = json.loads(json.dumps(recipe, default=_name_of))
    return plain


def _name_of(path: Path) -> str:
    """Keep of a path in the settings its name alone."""
    return path.name


def _digest_rules() -> str:
    """Digest the lists that judge texts: keywords, labels, contradictions, glossaries."""
    whole = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.toml")):
        whole.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def _digest_translator(settings: TranslationSettings) -> str | None:
    """Digest the file or folder that an engine translates from: of a path the settings keep no more than its name."""
    if settings.path is None or settings.engine == "none":
        return None
    if not settings.path.exists():
        raise ConfigError(f"{settings.path} cannot be read: expected what engine {settings.engine} translates by")
    return _digest_files(settings.path)


def _digest_source(kind: str, source: Path, study_ids: Collection[str]) -> str:
    """Digest the files of a source; of a server, its studies."""
    if kind == "pacs":
        return hashlib.sha256("\0".join(sorted(study_ids)).encode()).hexdigest()
    return _digest_files(source)


def _digest_files(source: Path) -> str:
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


def is_done(out: Path, recipe: Mapping[str, Any], study_ids: Collection[str]) -> bool:
    """Tell whether a folder holds the finished dataset already.

    A dataset that has lost volumes, or was made of an earlier state of the same source or by an earlier version of
    medfinder, is opened again.

    Args:
        study_ids: of the source as it is now; one of them in common makes it the same source.

    Raises:
        ConfigError: the folder holds a dataset of another source, or made otherwise.
    """
    provenance = folder.read_provenance(out)
    if provenance is None:
        return False
    dataset = Dataset.open(out)
    changed = find_changes(provenance, recipe)
    if not changed and all((out / case.volume).is_file() for case in dataset.cases):
        # Left behind by a run that was killed at the very end.
        shutil.rmtree(out / folder.WORK, ignore_errors=True)
        return True
    known = {case.study_id for case in dataset.cases} | {row.study_id for row in dataset.dropped}
    if not changed or (set(changed) <= RENEWABLE and known & set(study_ids)):
        _reopen(out, recipe)
        return False
    raise ConfigError(
        f"{out} is a dataset that differs in {', '.join(changed)}; give a new folder, or delete this one first"
    )


def _reopen(out: Path, recipe: Mapping[str, Any]) -> None:
    """Make a finished dataset an unfinished one; killed in between, it is still one or the other."""
    shutil.rmtree(out / folder.WORK, ignore_errors=True)
    write_beginning(out, recipe)
    (out / folder.PROVENANCE).unlink()


def write_beginning(out: Path, recipe: Mapping[str, Any]) -> None:
    """Note in an output folder what it is going to be."""
    (out / folder.WORK).mkdir(parents=True, exist_ok=True)
    folder.write_text(out / folder.WORK / RECIPE, json.dumps(recipe))


def find_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name what differs between two recipes; nothing when they would give the same bytes."""
    changed = [word for key, word in _WORDS.items() if old.get(key) != new[key]]
    before = old.get("settings") or {}
    settings = [key for key, value in new["settings"].items() if before.get(key) != value]
    return [*changed, f"settings ({', '.join(settings)})"] if settings else changed
