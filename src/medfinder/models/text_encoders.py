"""Frozen text encoders: pieces of text to the vectors of their tokens, or to one vector each.

In: pieces: sentences, or runs of words. Out: one float16 array (tokens, width) a piece, or one float32 row. Weights
come from a local folder, an installed package or the hub; where a sha256 is published, it is checked. Refused: missing
files, other weights.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from medfinder.errors import ConfigError
from medfinder.models.bert_text import BIOBERT, MINILM, BertText
from medfinder.models.open_clip_text import BIOMEDCLIP, CLIP, OpenClipText


class TextEncoder(Protocol):
    """A frozen encoder of texts. What is longer than its context loses its end.

    Attributes:
        name: key of ``TEXT_ENCODERS``.
        sha256: of its weights.
        width: length of a token's vector.
        pooled_width: length of a vector of ``pool``.
        context_length: tokens of a piece that are read, the special ones included.
    """

    name: str
    sha256: str
    width: int
    pooled_width: int
    context_length: int

    def encode(self, pieces: Sequence[str]) -> list[np.ndarray]:
        """Give the (tokens, width) float16 vectors of each piece; at least one token each."""
        ...

    def pool(self, pieces: Sequence[str], *, max_tokens: int | None = None) -> np.ndarray:
        """Give one vector a piece, (n, pooled_width) float32, as the encoder's authors pool.

        Args:
            max_tokens: read at most so many tokens of a piece, the special ones included; None reads the whole context.
        """
        ...

    def tokens_lost(self, pieces: Sequence[str]) -> list[int]:
        """Count the tokens at the end of each piece that are beyond the context."""
        ...


def load_text_encoder(name: str, folder: Path | None = None) -> TextEncoder:
    """Load a frozen text encoder by its name in ``TEXT_ENCODERS``.

    Args:
        name: a key of ``TEXT_ENCODERS``, or ``KEY:FOLDER``, e.g. ``biomedclip:models/biomedclip``.
        folder: where its files lie; None looks for an installed package, then the hub's cache, then the hub.

    Returns:
        The encoder; its ``name`` is the key alone, so that what is written down holds no path.

    Raises:
        ConfigError: no encoder has that name, or two folders are given.
        CheckpointError: its files are missing or are not the published ones.
    """
    key, colon, place = name.partition(":")
    if key not in TEXT_ENCODERS:
        raise ConfigError(f"unknown text encoder {key!r}; known: {', '.join(sorted(TEXT_ENCODERS))}")
    if colon and (not place or folder is not None):
        raise ConfigError(f"text encoder {name!r} and folder {folder}; expected one folder, as in {key}:FOLDER")
    return TEXT_ENCODERS[key](Path(place).expanduser() if colon else folder)


TEXT_ENCODERS: dict[str, Callable[[Path | None], TextEncoder]] = {
    "biobert": lambda folder: BertText(BIOBERT, folder),
    "biomedclip": lambda folder: OpenClipText(BIOMEDCLIP, folder),
    "clip": lambda folder: OpenClipText(CLIP, folder),
    "minilm": lambda folder: BertText(MINILM, folder),
}
