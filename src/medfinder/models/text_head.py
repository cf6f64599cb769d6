"""The text side: the frozen vectors of a text's tokens to one trained feature vector.

In: token vectors of sentences, and which sentence belongs to which text. Out: features (texts, width). The frozen
sentence vector alone hardly tells left from right or present from absent; the trained attention over its tokens does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TextHeadSettings:
    """How the text head is built.

    Attributes:
        width: of a sentence's trained vector.
        queries: learned queries that pool the tokens of a sentence.
        gate_floor: share of a sentence that always passes. Ours: a gate that closes on every sentence learns no more,
            and one run ended so.
    """

    width: int = 256
    queries: int = 4
    gate_floor: float = 0.1


@dataclass(frozen=True)
class SentenceBatch:
    """The distinct sentences of a batch of texts.

    Attributes:
        tokens: (sentences, tokens, width) float, padded with 0.
        is_token: (sentences, tokens) bool.
        belongs: (texts, sentences) float, 1 where the text holds the sentence.
        pieces: number of each sentence in the table of frozen vectors.
    """

    tokens: Tensor
    is_token: Tensor
    belongs: Tensor
    pieces: tuple[int, ...]

    def to(self, device: torch.device) -> "SentenceBatch":
        """Give the same batch on another device."""
        return SentenceBatch(self.tokens.to(device), self.is_token.to(device), self.belongs.to(device), self.pieces)


def batch_sentences(texts: Sequence[Sequence[int]], tokens_of: Sequence[np.ndarray]) -> SentenceBatch:
    """Gather the distinct sentences of some texts and pad them to one length.

    Args:
        texts: for each text the numbers of its sentences in ``tokens_of``.
        tokens_of: (tokens, width) of every sentence.
    """
    distinct = sorted({number for text in texts for number in text})
    place = {number: row for row, number in enumerate(distinct)}
    longest = max(len(tokens_of[number]) for number in distinct)
    width = tokens_of[distinct[0]].shape[1]
    tokens = np.zeros((len(distinct), longest, width), np.float32)
    is_token = np.zeros((len(distinct), longest), bool)
    for row, number in enumerate(distinct):
        length = len(tokens_of[number])
        tokens[row, :length] = tokens_of[number]
        is_token[row, :length] = True
    belongs = np.zeros((len(texts), len(distinct)), np.float32)
    for row, text in enumerate(texts):
        for number in text:
            belongs[row, place[number]] = 1.0
    return SentenceBatch(
        torch.from_numpy(tokens), torch.from_numpy(is_token), torch.from_numpy(belongs), tuple(distinct)
    )


class TextHead(nn.Module):
    """Attention over the tokens of each sentence, then a gated sum over the sentences of each text."""

    def __init__(self, settings: TextHeadSettings, *, token_width: int) -> None:
        super().__init__()
        width = settings.width
        self.token_norm = nn.LayerNorm(token_width)
        self.token_mlp = nn.Sequential(nn.Linear(token_width, width), nn.GELU())
        self.scores = nn.Linear(width, settings.queries)
        self.mean = nn.Linear(token_width, width)
        self.pool = nn.Linear(settings.queries * width, width)
        self.sentence_mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU())
        self.sentence_out = nn.Linear(2 * width, width)
        self.gate = nn.Linear(width, 1)
        self.floor = settings.gate_floor
        self.text_mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU())
        self.text_out = nn.Linear(2 * width, width)

    def sentences(self, batch: SentenceBatch) -> Tensor:
        """Give one vector (sentences, width) a sentence."""
        normed = self.token_norm(batch.tokens)
        hidden = self.token_mlp(normed)
        scores = self.scores(hidden).masked_fill(~batch.is_token.unsqueeze(-1), -torch.inf).softmax(1)
        pooled = torch.einsum("stq,stw->sqw", scores, hidden).flatten(1)
        share = batch.is_token / batch.is_token.sum(1, keepdim=True)
        vector = self.pool(pooled) + self.mean(torch.einsum("st,stw->sw", share, normed))
        whole: Tensor = vector + self.sentence_out(self.sentence_mlp(vector))
        return whole

    def weights(self, vectors: Tensor) -> Tensor:
        """Say how much of each sentence passes, (sentences, 1): normal statements say little of a case."""
        passed: Tensor = self.floor + (1 - self.floor) * torch.sigmoid(self.gate(vectors))
        return passed

    def forward(self, batch: SentenceBatch) -> Tensor:
        """Give the features (texts, width) of each text."""
        return self.join(self.sentences(batch), batch)

    def join(self, vectors: Tensor, batch: SentenceBatch) -> Tensor:
        """Join the vectors (sentences, width) of the sentences to the features (texts, width) of each text."""
        text = batch.belongs @ (self.weights(vectors) * vectors)
        whole: Tensor = text + self.text_out(self.text_mlp(text))
        return whole
