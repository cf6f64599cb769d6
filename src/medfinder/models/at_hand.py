"""Which files of published encoders lie on this machine, and how large these encoders are, without reading any.

In: names as in settings, e.g. ``biomedclip:FOLDER``. Out: widths and shapes; what is missing, as a sentence. Nothing is
fetched. Refused: names that nothing here knows.
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medfinder.errors import ConfigError
from medfinder.models.bert_text import BIOBERT, MINILM, PublishedBert
from medfinder.models.image_tower import TowerShape
from medfinder.models.open_clip_text import BIOMEDCLIP, CLIP, Published

# Token and pooled width, by the encoders' own configurations (docs/text_encoders.md).
TEXT_WIDTHS = {"biobert": (768, 768), "biomedclip": (768, 512), "clip": (512, 512), "minilm": (384, 384)}
PUBLISHED: dict[str, PublishedBert | Published] = {
    "biobert": BIOBERT,
    "biomedclip": BIOMEDCLIP,
    "clip": CLIP,
    "minilm": MINILM,
}
# Published image towers: ViT-B/32 and ViT-B/16 (Dosovitskiy et al. 2021, table 1; Radford et al. 2021, table 20).
TOWER_SHAPES = {
    "biomedclip": TowerShape(
        side=224, patch=16, inner=768, layers=12, heads=12, mlp=3072, width=512, epsilon=1e-6, is_clip=False
    ),
    "clip": TowerShape(
        side=224, patch=32, inner=768, layers=12, heads=12, mlp=3072, width=512, activation="quick_gelu"
    ),
}


def text_width(name: str, *, is_pooled: bool) -> int:
    """Give the length of the vectors of a frozen text encoder.

    Raises:
        ConfigError: no encoder of that name is known.

    Example:
        >>> text_width("biomedclip:some/folder", is_pooled=True)
        512
    """
    key = name.partition(":")[0]
    if key not in TEXT_WIDTHS:
        raise ConfigError(f"unknown text encoder {key!r}; known: {', '.join(sorted(TEXT_WIDTHS))}")
    return TEXT_WIDTHS[key][is_pooled]


def without_files(model: Any) -> Any:
    """Give settings of a network that can be built without the files of its image tower, with random weights."""
    shape = TOWER_SHAPES.get(getattr(model, "tower", "").partition(":")[0])
    return model if shape is None or model.tower_shape is not None else replace(model, tower_shape=shape)


def missing_files(name: str) -> str:
    """Say which files of an encoder are missing, and how to get them; nothing if they are at hand.

    Args:
        name: of a text encoder or an image tower.
    """
    key, colon, folder = name.partition(":")
    if colon:
        is_there = Path(folder).expanduser().is_dir()
        return "" if is_there else f"the folder that {key} is to be read from is not there; copy its files into it"
    if key not in PUBLISHED or _is_cached(PUBLISHED[key]):
        return ""
    return (
        f"the files of {key} are not on this machine; they are fetched at the start, or, offline: see docs/training.md"
    )


def _is_cached(published: PublishedBert | Published) -> bool:
    package = getattr(published, "package", None)
    if package is not None and find_spec(package) is not None:
        return True
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False
    weights = published.files[0] if isinstance(published, PublishedBert) else published.weights
    return isinstance(try_to_load_from_cache(published.repository, weights, revision=published.revision), str)
