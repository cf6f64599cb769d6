"""Published CT encoders behind our own protocol: zero-shot retrieval without training.

In: a model's name, maybe with the folder of its files. Out: a `DualEncoder` whose grid names the model's own
preparation of volumes, see `medfinder.volume.published`. Refused: a model without its files, offline.
"""

from collections.abc import Callable
from pathlib import Path

from medfinder.errors import ConfigError
from medfinder.models.protocol import DualEncoder
from medfinder.models.published.colipri import load_colipri
from medfinder.models.published.ct_clip import load_ct_clip
from medfinder.models.published.merlin import load_merlin

PUBLISHED: dict[str, Callable[[Path | None], DualEncoder]] = {
    "colipri": load_colipri,
    "merlin": load_merlin,
    "ct-clip": load_ct_clip,
}


def is_published(name: str) -> bool:
    """Tell whether a name is ``KEY`` or ``KEY:FOLDER`` of a published model; a folder of that name goes before it."""
    return name.partition(":")[0] in PUBLISHED and not Path(name).is_dir()


def load_published(name: str) -> DualEncoder:
    """Load a published model by its name.

    Args:
        name: a key of ``PUBLISHED``, whose files then come from the hub, or ``KEY:FOLDER``, where its files lie.

    Raises:
        ConfigError: no published model has that name.
        CheckpointError: its files are missing, damaged or those of something else.
    """
    key, colon, folder = name.partition(":")
    if key not in PUBLISHED or (colon and not folder):
        raise ConfigError(f"no published model {name!r}; known: {', '.join(sorted(PUBLISHED))}, each also KEY:FOLDER")
    return PUBLISHED[key](Path(folder).expanduser() if colon else None)
