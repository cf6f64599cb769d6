"""Texts as pieces, and the frozen vectors of every piece.

In: reports. Out: their sentences, or runs of so many words; a table of every distinct piece with the frozen encoder's
vectors, made once and kept on disk under a digest of the pieces and the encoder's weights.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from medfinder.curation.keywords import expand_abbreviations, split_sentences


def sentences_of(text: str) -> tuple[str, ...]:
    """Split a report or query into sentences as the model reads them, abbreviations written out.

    Returns:
        At least one sentence; an empty one when the text has no words.

    Example:
        >>> sentences_of("Nodule of 7.5 mm in the LUL. No effusion.")
        ('Nodule of 7.5 mm in the left upper lobe', 'No effusion')
    """
    return split_sentences(expand_abbreviations(text)) or ("",)


def runs_of(text: str, *, words: int, most: int) -> tuple[str, ...]:
    """List contiguous runs of so many words: the paper's text sampler S(T, L), section 3.

    The sampler may begin at any word. Ours: at most so many beginnings, evenly spread from the first word to the last
    possible one, so that the frozen encoder sees each run once.

    Returns:
        The whole text if it has no more words than a run.

    Example:
        >>> runs_of("no effusion is seen", words=2, most=2)
        ('no effusion', 'is seen')
        >>> runs_of("no effusion", words=100, most=8)
        ('no effusion',)
    """
    found = text.split()
    last = max(0, len(found) - words)
    starts = np.unique(np.linspace(0, last, min(most, last + 1)).round().astype(int))
    return tuple(" ".join(found[start : start + words]) for start in starts)


@dataclass(frozen=True)
class PieceTable:
    """Distinct pieces of text with their frozen vectors.

    Attributes:
        number: place of each piece in ``vectors``.
        vectors: (tokens, width) float16 or float32 of each piece.
    """

    number: dict[str, int]
    vectors: list[np.ndarray]

    def numbers(self, pieces: Iterable[str]) -> tuple[int, ...]:
        """Give the numbers of some pieces of the table."""
        return tuple(self.number[piece] for piece in pieces)


def embed_pieces(
    pieces: Iterable[str],
    freeze: Callable[[Sequence[str]], list[np.ndarray]],
    cache: Path,
    *,
    origin: str,
    progress: Callable[[int, int], None] | None = None,
) -> PieceTable:
    """Embed every distinct piece once; take the vectors from ``cache`` where an earlier run left them.

    Args:
        freeze: gives the frozen vectors of some pieces.
        origin: names the frozen encoder's weights and how it is asked; another origin never shares a file.
    """
    distinct = sorted(set(pieces))
    digest = hashlib.sha256("\0".join([origin, *distinct]).encode()).hexdigest()
    path = cache / f"texts-{digest[:16]}.safetensors"
    number = {piece: place for place, piece in enumerate(distinct)}
    stored = _read_vectors(path)
    if stored is not None:
        return PieceTable(number, stored)
    vectors: list[np.ndarray] = []
    for start in range(0, len(distinct), 1024):
        vectors += freeze(distinct[start : start + 1024])
        if progress is not None:
            progress(len(vectors), len(distinct))
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    save_file({"vectors": np.concatenate(vectors), "lengths": np.array([len(v) for v in vectors])}, unfinished)
    unfinished.replace(path)
    return PieceTable(number, vectors)


def _read_vectors(path: Path) -> list[np.ndarray] | None:
    try:
        stored = load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None
    return np.split(stored["vectors"], np.cumsum(stored["lengths"])[:-1])
