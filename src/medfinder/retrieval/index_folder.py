"""The folder of an index: what ``index.json`` says, and the lock that one process holds.

In: a folder. Out: format, engine, model and width of the index in it. Refused with ``SearchIndexError``: no index, a
damaged one, one of another format, one that another process has open.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medfinder.errors import SearchIndexError

# Raised whenever older code could not read what newer code writes.
FORMAT = 1


def is_index_folder(path: Path) -> bool:
    """Tell whether a folder looks like an index, without opening it."""
    return (path / "index.json").is_file() and (path / "shard").is_dir()


def read_meta(path: Path) -> dict[str, Any]:
    """Read what an index folder says of itself.

    Raises:
        SearchIndexError: there is none, it is damaged, or of another format.
    """
    if not path.exists():
        raise SearchIndexError(f"no index at {path}; make one: medfinder index DATASET {path}")
    if not is_index_folder(path):
        raise SearchIndexError(f"{path} is not an index (it has no index.json and shard); make one: medfinder index")
    try:
        meta = json.loads((path / "index.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SearchIndexError(f"{path / 'index.json'} is damaged ({error}); make the index anew") from error
    return check_meta(meta, str(path / "index.json"))


def make_meta(engine: str, model_digest: str, width: int, model_name: str) -> dict[str, Any]:
    """Say what an index remembers of its engine and its model."""
    facts = {"model_name": model_name, "model_digest": model_digest, "width": width}
    return {"format": FORMAT, "engine": engine, **facts}


def check_meta(meta: Any, place: str) -> dict[str, Any]:
    """Refuse what this version cannot read; ``place`` is where it came from."""
    expected = {"format": int, "engine": str, "model_name": str, "model_digest": str, "width": int}
    if not isinstance(meta, dict) or any(not isinstance(meta.get(key), kind) for key, kind in expected.items()):
        raise SearchIndexError(
            f"{place} is damaged or none of ours: expected {', '.join(expected)}; make the index anew"
        )
    if meta["format"] != FORMAT:
        raise SearchIndexError(f"index {place} has format {meta['format']}, this version reads {FORMAT}; make it anew")
    return meta


@contextmanager
def hold_index(path: Path) -> Iterator[Mapping[str, Any]]:
    """Keep everybody from opening an index while its files are copied; gives what ``index.json`` says.

    Raises:
        SearchIndexError: no index is there, or another process has it open.
    """
    meta = read_meta(path)
    lock = take_lock(path, 0.0)
    try:
        yield meta
    finally:
        os.close(lock)


def take_lock(path: Path, wait_s: float) -> int:
    """Lock the index for this process; the lock goes with the process, however it ends."""
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SearchIndexError(f"index {path} cannot be locked: {error.strerror}") from error
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(lock)
                raise SearchIndexError(
                    f"index {path} is in use by another process; wait until it ends, or stop it"
                ) from None
            time.sleep(0.05)
        else:
            return lock
