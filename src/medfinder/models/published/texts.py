"""The text side of the published models: tokenizers read from their vocabularies, and the BERT that two of them share.

In: the files of a BERT vocabulary (``vocab.txt``) or of a byte-pair one (``vocab.json``, ``merges.txt``). Out: the
numbers that the networks were trained on. Refused: missing files, and files that are no vocabulary.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from medfinder.errors import CheckpointError
from medfinder.models.hub import import_transformers, sha256_of

CXR_BERT = "microsoft/BiomedVLP-CXR-BERT-specialized"
# The commit that colipri 0.1.3 names in its configuration.
CXR_BERT_REVISION = "5157bdba1437a3aed316dacb1a5b68edf96b9902"
VOCABULARY, BYTE_PAIRS = ("vocab.txt",), ("vocab.json", "merges.txt")


class WordPieces:
    """BERT's tokenizer in lower case, with [CLS] and [SEP] around a text."""

    def __init__(self, folder: Path, *, context: int, clean: Callable[[str], str] = str) -> None:
        self.digest = _digest(folder, VOCABULARY)
        self._clean = clean
        self._tokenizer = _build(folder, _word_pieces, context)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Give the numbers of each text, cut at the context's end."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch([self._clean(text) for text in texts])]


class BytePairs:
    """RoBERTa's tokenizer, with <s> and </s> around a text."""

    def __init__(self, folder: Path, *, context: int, clean: Callable[[str], str] = str) -> None:
        self.digest = _digest(folder, BYTE_PAIRS)
        self._clean = clean
        self._tokenizer = _build(folder, _byte_pairs, context)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Give the numbers of each text, cut at the context's end."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch([self._clean(text) for text in texts])]


def _digest(folder: Path, names: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(sha256_of(folder / name) for name in names).encode()).hexdigest()


def _build(folder: Path, build: Callable[[Path], Any], context: int) -> Any:
    import_transformers()  # it brings tokenizers
    try:
        tokenizer = build(folder)
    except Exception as error:  # tokenizers raises nothing narrower
        raise CheckpointError(f"{folder} holds no vocabulary: {error}; fetch its files again") from error
    tokenizer.enable_truncation(context)
    return tokenizer


def _word_pieces(folder: Path) -> Any:
    from tokenizers import BertWordPieceTokenizer

    return BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True)


def _byte_pairs(folder: Path) -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import RobertaProcessing

    vocabulary, merges = (str(folder / name) for name in BYTE_PAIRS)
    tokenizer = ByteLevelBPETokenizer(vocabulary, merges)
    end, start = tokenizer.token_to_id("</s>"), tokenizer.token_to_id("<s>")
    if end is None or start is None:
        raise ValueError("<s> or </s> is missing")
    tokenizer._tokenizer.post_processor = RobertaProcessing(("</s>", end), ("<s>", start))
    return tokenizer


def build_bert(
    *, width: int, depth: int, heads: int, hidden: int, vocabulary: int, context: int, has_pooler: bool
) -> Any:
    """Build a BERT of transformers with random weights, without touching the global generator."""
    transformers = import_transformers()
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=hidden,
        max_position_embeddings=context,
    )
    with torch.random.fork_rng(devices=[]):
        return transformers.BertModel(config, add_pooling_layer=has_pooler)
