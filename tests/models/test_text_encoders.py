"""Text towers in open_clip's format give what open_clip gives; what does not fit is named.

Expected values: open_clip 3.3.0 on the tiny models of ``gold``, by ``gold/make_open_clip_gold.py``.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from medfinder.errors import CheckpointError, ConfigError
from medfinder.models.open_clip_text import BIOMEDCLIP, CLIP, OpenClipText
from medfinder.models.text_encoders import TEXT_ENCODERS, load_text_encoder

GOLD = Path(__file__).parent / "gold"
NAMES = ("biomedclip", "clip")
PUBLISHED = {"biomedclip": BIOMEDCLIP, "clip": CLIP}
# A word that the tiny CLIP vocabulary has letters of only, so that every repeat is many tokens.
LONG = "effusion " * 40


@dataclass(frozen=True)
class Gold:
    version: str
    sentences: list[str]
    ids: np.ndarray
    states: np.ndarray
    pooled: np.ndarray


def gold(name: str) -> Gold:
    with safe_open(GOLD / f"{name}_gold.safetensors", "np") as file:
        told = file.metadata()
        tensors = {key: file.get_tensor(key) for key in ("ids", "states", "pooled")}
    return Gold(told["open_clip"], json.loads(told["sentences"]), **tensors)


def encoder(name: str, folder: Path | None = None) -> OpenClipText:
    return OpenClipText(PUBLISHED[name], GOLD / name if folder is None else folder)


def copy_of(name: str, place: Path) -> Path:
    return Path(shutil.copytree(GOLD / name, place / name))


def change_config(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "open_clip_config.json"
    values = json.loads(path.read_text())
    change(values["model_cfg"])
    path.write_text(json.dumps(values))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    safe, other = folder / "open_clip_model.safetensors", folder / "open_clip_pytorch_model.bin"
    weights = load_file(safe) if safe.is_file() else torch.load(other, weights_only=True)
    change(weights)
    save_file(weights, safe) if safe.is_file() else torch.save(weights, other)


@pytest.mark.parametrize("name", NAMES)
def test_the_tokens_are_those_of_open_clip(name: str) -> None:
    expected = gold(name)
    assert expected.version == "3.3.0"
    for found, row in zip(encoder(name).tokenize(expected.sentences), expected.ids, strict=True):
        assert found == row[: len(found)].tolist()
        assert not row[len(found) :].any()


@pytest.mark.parametrize("name", NAMES)
def test_the_pooled_vectors_are_those_of_encode_text(name: str) -> None:
    expected = gold(name)
    pooled = encoder(name).pool(expected.sentences)
    assert pooled.dtype == np.float32
    assert np.abs(expected.pooled).mean() > 0.1
    assert pooled == pytest.approx(expected.pooled, abs=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_token_vectors_are_the_last_hidden_states_of_open_clip(name: str) -> None:
    expected, own = gold(name), encoder(name)
    vectors = own.encode(expected.sentences)
    assert [len(v) for v in vectors] == [len(ids) for ids in own.tokenize(expected.sentences)]
    for found, states in zip(vectors, expected.states, strict=True):
        assert (found.dtype, found.shape[1]) == (np.float16, own.width)
        assert found == pytest.approx(states[: len(found)], rel=1e-3, abs=1e-3)


def test_the_activation_is_the_one_that_the_configuration_names(tmp_path: Path) -> None:
    folder = copy_of("clip", tmp_path)
    change_config(folder, lambda config: config.pop("quick_gelu"))
    with safe_open(GOLD / "clip_gold.safetensors", "np") as file:
        with_gelu = file.get_tensor("pooled_gelu")
    assert np.abs(with_gelu - gold("clip").pooled).max() > 1e-2
    assert encoder("clip", folder).pool(gold("clip").sentences) == pytest.approx(with_gelu, abs=2e-5)


@pytest.mark.parametrize(("name", "length"), [("biomedclip", 18), ("clip", 20)])
def test_a_long_sentence_loses_its_end_but_keeps_its_end_token(name: str, length: int) -> None:
    own = encoder(name)
    short, long = own.tokenize(["effusion", LONG])
    assert own.context_length == len(long) == len(own.encode([LONG])[0]) == length
    assert (long[0], long[-1]) == (short[0], short[-1])
    assert np.array_equal(own.pool([LONG]), own.pool([LONG + " no nodule"]))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_sentence_gives_the_same_vectors_whatever_the_batch(name: str) -> None:
    own, sentences = encoder(name), gold(name).sentences
    many = own.pool(sentences * 9)
    assert many[: len(sentences)] == pytest.approx(np.concatenate([own.pool([s]) for s in sentences]), abs=1e-5)
    assert np.array_equal(many, encoder(name).pool(sentences * 9))
    backwards = own.encode(sentences[::-1])
    assert all(np.allclose(a, b, atol=2e-3) for a, b in zip(own.encode(sentences), backwards[::-1], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_encode_gives_nothing(name: str) -> None:
    own = encoder(name)
    assert own.encode([]) == []
    assert own.pool([]).shape == (0, 16)


@pytest.mark.parametrize("name", NAMES)
def test_the_encoder_is_frozen_and_leaves_the_random_numbers_alone(name: str) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    own = encoder(name)
    assert torch.equal(torch.rand(3), expected)
    assert not own._tower._model.training
    assert not any(weight.requires_grad for weight in own._tower._model.parameters())


def test_a_tower_of_its_own_prefix_is_read_alike(tmp_path: Path) -> None:
    folder = copy_of("clip", tmp_path)

    def prefixed(weights: dict[str, torch.Tensor]) -> None:
        for key in list(weights):
            if not key.startswith(("visual.", "logit_scale")):
                weights[f"text.{key}"] = weights.pop(key)

    change_weights(folder, prefixed)
    sentences = gold("clip").sentences
    assert np.array_equal(encoder("clip", folder).pool(sentences), encoder("clip").pool(sentences))


def test_the_first_configuration_of_biomedclip_is_understood(tmp_path: Path) -> None:
    folder = copy_of("biomedclip", tmp_path)

    def older(config: dict) -> None:
        text = config["text_cfg"]
        text["proj"], text["pooler_type"] = text.pop("hf_proj_type"), text.pop("hf_pooler_type")

    change_config(folder, older)
    assert encoder("biomedclip", folder).pool(["nodule"]) == pytest.approx(encoder("biomedclip").pool(["nodule"]))


@pytest.mark.parametrize(
    ("name", "key"), [("biomedclip", "text.proj.0.weight"), ("clip", "transformer.resblocks.1.attn.in_proj_bias")]
)
def test_a_missing_and_an_unknown_key_are_named(tmp_path: Path, name: str, key: str) -> None:
    folder = copy_of(name, tmp_path)
    change_weights(folder, lambda weights: weights.update(extra=weights.pop(key)))
    with pytest.raises(CheckpointError, match=f"missing {key.removeprefix('text.')}; unknown extra"):
        encoder(name, folder)


def test_a_wrong_shape_is_named(tmp_path: Path) -> None:
    folder = copy_of("clip", tmp_path)
    change_config(folder, lambda config: config.update(embed_dim=8))
    with pytest.raises(CheckpointError, match=r"text_projection is \(24, 16\), expected \(24, 8\)"):
        encoder("clip", folder)


@pytest.mark.parametrize("name", NAMES)
def test_truncated_weights_are_refused(tmp_path: Path, name: str) -> None:
    folder = copy_of(name, tmp_path)
    path = next(folder.glob("open_clip_*model.*"))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="truncated"):
        encoder(name, folder)


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return (Path.touch, (Path("sprung"),))


def test_a_pickle_that_holds_more_than_tensors_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = copy_of("biomedclip", tmp_path)
    torch.save({"text.proj.0.weight": Trap()}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="more than tensors"):
        encoder("biomedclip", folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("file", ["open_clip_config.json", "tokenizer.json", "open_clip_*model.*"])
def test_a_missing_file_is_named(tmp_path: Path, name: str, file: str) -> None:
    folder = copy_of(name, tmp_path)
    next(folder.glob(file)).unlink()
    with pytest.raises(CheckpointError, match=file.replace("open_clip_*model.*", "open_clip_model.safetensors or")):
        encoder(name, folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model_cfg": {"text_cfg": 1}}'])
def test_a_damaged_configuration_is_refused(tmp_path: Path, text: str) -> None:
    folder = copy_of("clip", tmp_path)
    (folder / "open_clip_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"open_clip_config\.json"):
        encoder("clip", folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("clip", {"pool_type": "last"}, "pool_type 'last', expected 'argmax'"),
        ("clip", {"qk_norm": True}, "qk_norm True in text_cfg, which this text encoder does not know"),
        ("clip", {"layers": -1}, "layers -1 in text_cfg, expected a number above 0"),
        ("clip", {"heads": 7}, "width 24, expected a multiple of 7 heads"),
        ("biomedclip", {"hf_pooler_type": "mean_pooler"}, "'mean_pooler', expected 'cls_last_hidden_state_pooler'"),
        ("biomedclip", {"hf_proj_type": "linear"}, "hf_proj_type 'linear', expected 'mlp'"),
        (
            "biomedclip",
            {"hf_model_name": "someone/else"},
            "the BERT someone/else .* is unknown; put its config.json at",
        ),
    ],
)
def test_an_option_that_is_not_built_is_refused(tmp_path: Path, name: str, change: dict, message: str) -> None:
    folder = copy_of(name, tmp_path)
    change_config(folder, lambda config: config["text_cfg"].update(change))
    with pytest.raises(CheckpointError, match=message):
        encoder(name, folder)


@pytest.mark.parametrize(("name", "other"), [("biomedclip", "clip"), ("clip", "biomedclip")])
def test_a_folder_of_the_other_kind_is_told_apart(name: str, other: str) -> None:
    with pytest.raises(CheckpointError, match=f"read by: {other}$"):
        encoder(name, GOLD / other)


def test_the_published_biomedclip_needs_no_configuration_of_its_bert(tmp_path: Path) -> None:
    folder = copy_of("biomedclip", tmp_path)
    published = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    change_config(folder, lambda config: config["text_cfg"].update(hf_model_name=published))
    # The tiny weights are not BERT base's, whose sizes are: 30522 tokens, 768 wide, 512 positions, 12 layers.
    with pytest.raises(CheckpointError, match=r"missing transformer\.encoder\.layer\.10.* and \d+ more"):
        encoder("biomedclip", folder)


def test_the_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = copy_of("biomedclip", tmp_path)
    shutil.copy(GOLD / "clip" / "tokenizer.json", folder / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"has 542 tokens .*, expected at most 25"):
        encoder("biomedclip", folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_named_after_a_colon_and_stays_out_of_the_name(name: str) -> None:
    own = load_text_encoder(f"{name}:{GOLD / name}")
    assert (own.name, own.width) == (name, encoder(name).width)
    assert own.sha256 == load_text_encoder(name, GOLD / name).sha256 == encoder(name).sha256
    assert TEXT_ENCODERS.keys() == {"biobert", "biomedclip", "clip", "minilm"}


@pytest.mark.parametrize("name", ["bert", "bert:/folder", "clip:"])
def test_an_unknown_name_and_an_empty_folder_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"known: biobert, .*, minilm|expected one folder, as in clip:FOLDER"):
        load_text_encoder(name)


def test_two_folders_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected one folder"):
        load_text_encoder(f"clip:{GOLD / 'clip'}", GOLD / "clip")


@pytest.mark.parametrize("name", NAMES)
def test_without_network_the_message_says_which_files_to_put_where(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    published = PUBLISHED[name]
    message = (
        rf"copy open_clip_config.json, {published.weights}, tokenizer.json of .*{published.revision} .*{name}:FOLDER"
    )
    with pytest.raises(CheckpointError, match=message):
        load_text_encoder(name)


def test_weights_from_the_hub_are_compared_with_the_published_sha256(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(GOLD / "biomedclip"))
    with pytest.raises(CheckpointError, match=r"expected 52cc993c5c5f\.\.\.; fetch it again"):
        load_text_encoder("biomedclip")
