"""What all trees of phantoms share: a folder that is ours or refused, and work that goes on in several processes.

In: a folder and the arguments that make it. Out: the folder with its provenance and README, so that a run that was
stopped can go on. Refused: a folder that holds something else.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from medfinder.errors import ConfigError
from medfinder.sources.phantoms.bimcv_tables import write_text
from medfinder.workers import open_pool

PROVENANCE_FILE = "provenance.json"

T = TypeVar("T")


def claim(out: Path, provenance: Mapping[str, Any], readme: str) -> None:
    """Make a folder ours, or find that it is.

    Args:
        provenance: the arguments that make the tree, and its ``kind``.

    Raises:
        ConfigError: the folder holds something else, or a tree of other arguments.
    """
    found = out / PROVENANCE_FILE
    text = json.dumps(provenance, indent=2, sort_keys=True) + "\n"
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file, expected a folder; give another name")
    if found.is_file():
        if found.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{out} holds a tree or dataset of other arguments; give a new folder, or delete this one"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and holds no {provenance['kind']}; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_text(found, text)
    write_text(out / "README.md", readme)


def run(job: Callable[[T], None], plans: Sequence[T], workers: int) -> Iterator[None]:
    """Do a job for each plan, here or in a pool, and yield as each is done."""
    if workers <= 1 or len(plans) < 2:
        yield from map(job, plans)
        return
    with open_pool(min(workers, len(plans))) as pool:
        yield from pool.map(job, plans)
