"""Files of frozen encoders: fetched once from the hub, read from its cache ever after, told apart by sha256.

In: a repository of the hub and the names of the files wanted. Out: the folder that holds them. Refused: a repository
that is neither cached nor reachable; the message says how to do without the hub.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medfinder.errors import CheckpointError, MissingExtraError


def fetch(
    repository: str, files: Sequence[str], *, revision: str | None = None, otherwise: str, what: str = "text encoder"
) -> Path:
    """Give the folder with the wanted files of a hub repository.

    Args:
        files: their names; ``*`` stands for any letters.
        revision: the commit; None takes the newest.
        otherwise: what to do offline, for the message.
        what: is fetched, for the message.

    Raises:
        CheckpointError: it is neither cached nor reachable.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(files)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"the {what} {repository} is neither installed nor reachable; offline: {otherwise}"
        ) from error


def sha256_of(path: Path) -> str:
    """Compute the sha256 of a file.

    Raises:
        CheckpointError: the file is not there.
    """
    if not path.is_file():
        raise CheckpointError(f"no {path.name} in {path.parent}; give the folder that holds the text encoder's files")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str) -> str:
    """Compute the sha256 of a file and compare it with the published one.

    Raises:
        CheckpointError: the file is not there or another one.
    """
    found = sha256_of(path)
    if found != expected:
        raise CheckpointError(f"{path} has sha256 {found[:12]}..., expected {expected[:12]}...; fetch it again")
    return found


def import_transformers() -> Any:
    """Import transformers, or say which extra brings it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "model") from None
    # Ours are the only bars that a user should see.
    transformers.utils.logging.disable_progress_bar()
    return transformers
