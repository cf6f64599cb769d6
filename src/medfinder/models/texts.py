"""Texts as sentences and as cached token vectors.

In: reports. Out: their sentences; a table of every distinct sentence with the frozen encoder's vectors, made once and
kept on disk under a digest of the sentences and the encoder's weights.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from medfinder.curation.keywords import expand_abbreviations, split_sentences
from medfinder.models.text_encoders import TextEncoder


def sentences_of(text: str) -> tuple[str, ...]:
    """Split a report or query into sentences as the model reads them, abbreviations written out.

    Returns:
        At least one sentence; an empty one when the text has no words.

    Example:
        >>> sentences_of("Nodule of 7.5 mm in the LUL. No effusion.")
        ('Nodule of 7.5 mm in the left upper lobe', 'No effusion')
    """
    return split_sentences(expand_abbreviations(text)) or ("",)


@dataclass(frozen=True)
class SentenceTable:
    """Distinct sentences with their frozen token vectors.

    Attributes:
        number: place of each sentence in ``tokens``.
        tokens: (tokens, width) float16 of each sentence.
    """

    number: dict[str, int]
    tokens: list[np.ndarray]

    def numbers(self, sentences: Iterable[str]) -> tuple[int, ...]:
        """Give the numbers of some sentences of the table."""
        return tuple(self.number[sentence] for sentence in sentences)


def embed_sentences(
    sentences: Sequence[str],
    encoder: TextEncoder,
    cache: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> SentenceTable:
    """Embed every distinct sentence once; take the vectors from ``cache`` where an earlier run left them."""
    distinct = sorted(set(sentences))
    digest = hashlib.sha256("\0".join([encoder.sha256, *distinct]).encode()).hexdigest()
    path = cache / f"sentences-{digest[:16]}.safetensors"
    number = {sentence: place for place, sentence in enumerate(distinct)}
    stored = _read_tokens(path)
    if stored is not None:
        return SentenceTable(number, stored)
    tokens: list[np.ndarray] = []
    for start in range(0, len(distinct), 1024):
        tokens += encoder.encode(distinct[start : start + 1024])
        if progress is not None:
            progress(len(tokens), len(distinct))
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    save_file({"tokens": np.concatenate(tokens), "lengths": np.array([len(t) for t in tokens])}, unfinished)
    unfinished.replace(path)
    return SentenceTable(number, tokens)


def _read_tokens(path: Path) -> list[np.ndarray] | None:
    try:
        stored = load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None
    return np.split(stored["tokens"], np.cumsum(stored["lengths"])[:-1])
