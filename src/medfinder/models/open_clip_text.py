"""Frozen text towers of CLIP models, read from open_clip's format without open_clip.

In: a folder with ``open_clip_config.json``, ``tokenizer.json`` and weights (``open_clip_model.safetensors`` or
``open_clip_pytorch_model.bin``). Out: the last hidden states of a sentence's tokens, or one pooled and projected
vector. Refused: missing files, missing or unknown weights, a configuration that asks for something not built here.
Nothing is unpickled but tensors. open_clip is not imported: it needs torchvision for images, which the text towers
never touch; the tests compare with what open_clip 3.3.0 itself gave.
"""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medfinder.errors import CheckpointError
from medfinder.models.bert_text import batches_by_length, read_bert_config
from medfinder.models.hub import check_sha256, fetch, import_transformers, sha256_of
from medfinder.models.open_clip_format import (
    CONFIG,
    TOKENIZER,
    check_weights,
    fill_config,
    read_config,
    read_json,
    read_weights,
    weights_path,
)

IDLE = ("hf_tokenizer_name", "hf_model_pretrained", "output_tokens", "pad_id", "eos_id")
# BiomedCLIP's folder leaves BERT's own configuration to these repositories: it is BERT base's, as in BertConfig().
BERT_BASE = frozenset(
    f"microsoft/BiomedNLP-{bert}-base-uncased-abstract{texts}"
    for bert in ("BiomedBERT", "PubMedBERT")
    for texts in ("", "-fulltext")
)


class _Tower(Protocol):
    """A frozen text transformer with its projection."""

    context_length: int
    vocabulary: int
    width: int
    pooled_width: int

    def states(self, ids: Tensor) -> Tensor:
        """Give the last hidden states (n, tokens, width) of token ids (n, tokens), padded with 0."""
        ...

    def pool(self, states: Tensor, ids: Tensor) -> Tensor:
        """Pool and project states to (n, pooled_width)."""
        ...


@dataclass(frozen=True)
class Published:
    """Where the files of a text encoder are published.

    Attributes:
        name: key of ``TEXT_ENCODERS``.
        tower: builds the tower from the configuration and the weights of a folder.
        weights: name of the weights' file.
        sha256: of that file, where the hub shows it; None is not checked.
    """

    name: str
    tower: Callable[[Path, Mapping[str, Any], dict[str, Tensor]], _Tower]
    repository: str
    revision: str
    weights: str
    sha256: str | None = None

    def fetch(self) -> Path:
        """Give the folder of the pinned revision in the hub's cache, fetched if need be, and checked."""
        files = (CONFIG, self.weights, TOKENIZER)
        otherwise = (
            f"copy {', '.join(files)} of https://huggingface.co/{self.repository}/tree/{self.revision} "
            f'into one folder and name it: text_encoder = "{self.name}:FOLDER"'
        )
        folder = fetch(self.repository, files, revision=self.revision, otherwise=otherwise)
        if self.sha256 is not None:
            check_sha256(folder / self.weights, self.sha256)
        return folder


class OpenClipText:
    """The frozen text tower of a CLIP model in open_clip's format; a ``TextEncoder`` that can also pool.

    Sentences longer than the tower's context (77 tokens for CLIP, 256 for BiomedCLIP) lose their end. Text is cleaned
    as open_clip does, except that mangled Unicode is not repaired (open_clip asks ftfy for that).

    Attributes:
        pooled_width: length of the vectors of ``pool``.
        context_length: tokens of a sentence that are read, the two special ones included.
    """

    def __init__(self, published: Published, folder: Path | None = None) -> None:
        place = published.fetch() if folder is None else folder
        config = read_config(place, "text_cfg")
        path = weights_path(place)
        self._tower = published.tower(place, config, _text_weights(read_weights(path)))
        self._tokenizer = _read_tokenizer(place / TOKENIZER, self._tower)
        self.name = published.name
        self.sha256 = sha256_of(path)
        self.width = self._tower.width
        self.pooled_width = self._tower.pooled_width
        self.context_length = self._tower.context_length

    def tokenize(self, sentences: Sequence[str]) -> list[list[int]]:
        """Give the token ids of each sentence, cut at the context length, special tokens included."""
        return [encoding.ids for encoding in self._encodings(sentences)]

    def tokens_lost(self, sentences: Sequence[str]) -> list[int]:
        """Count the tokens at the end of each sentence that ``encode`` and ``pool`` do not read."""
        # What overflows comes in further runs, each between two special tokens of its own.
        return [sum(len(run.ids) - 2 for run in encoding.overflowing) for encoding in self._encodings(sentences)]

    def encode(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """Give the last hidden states (tokens, width) float16 of each sentence, the two special tokens included.

        CLIP's come after its final layer norm; a token of CLIP knows only those before it.
        """
        tokens = self.tokenize(sentences)
        vectors: list[np.ndarray] = [np.zeros((0, self.width), np.float16)] * len(tokens)
        for chosen, ids in batches_by_length(tokens):
            with torch.inference_mode():
                states = self._tower.states(ids).numpy().astype(np.float16)
            for number, state in zip(chosen, states, strict=True):
                vectors[number] = state[: len(tokens[number])]
        return vectors

    def pool(self, sentences: Sequence[str], *, max_tokens: int | None = None) -> np.ndarray:
        """Give one vector a sentence, (n, pooled_width) float32: open_clip's ``encode_text``, not of unit length.

        Args:
            max_tokens: read at most so many, the special ones included; None reads the whole context.
        """
        pooled = np.zeros((len(sentences), self.pooled_width), np.float32)
        tokens = self.tokenize(sentences)
        if max_tokens is not None:
            tokens = [[*ids[: max_tokens - 1], ids[-1]] if len(ids) > max_tokens else ids for ids in tokens]
        for chosen, ids in batches_by_length(tokens):
            with torch.inference_mode():
                pooled[chosen] = self._tower.pool(self._tower.states(ids), ids).numpy()
        return pooled

    def _encodings(self, sentences: Sequence[str]) -> list[Any]:
        found: list[Any] = self._tokenizer.encode_batch([_cleaned(text) for text in sentences])
        return found


class _ClipTower:
    """CLIP's causal text transformer, its weights renamed for ``transformers.CLIPTextModel``.

    Source: Radford et al. 2021; open_clip's ``TextTransformer`` with its default options.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], weights: dict[str, Tensor]) -> None:
        if "hf_model_name" in config["text_cfg"]:
            raise CheckpointError(f"{folder / CONFIG} names a BERT (hf_model_name), which is read by: biomedclip")
        text = fill_config(
            folder,
            config,
            "text_cfg",
            idle=IDLE,
            sizes={"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0},
            fixed={
                "embed_cls": False, "no_causal_mask": False, "pool_type": "argmax", "proj_type": "linear",
                "proj_bias": False, "ls_init_value": None, "act_kwargs": None, "norm_kwargs": None,
            },
        )  # fmt: skip
        self.context_length = int(text["context_length"])
        self.vocabulary = int(text["vocab_size"])
        self.width = int(text["width"])
        self.pooled_width = int(config["embed_dim"])
        if self.width % int(text["heads"]):
            raise CheckpointError(
                f"{folder / CONFIG} has width {self.width}, expected a multiple of {text['heads']} heads"
            )
        hidden, layers = int(self.width * text["mlp_ratio"]), int(text["layers"])
        shapes = self._shapes(hidden, layers)
        check_weights(weights, shapes, folder)
        transformers = import_transformers()
        settings = transformers.CLIPTextConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=int(text["heads"]),
            max_position_embeddings=self.context_length,
            hidden_act="quick_gelu" if config.get("quick_gelu", False) else "gelu",
            layer_norm_eps=1e-5,
        )
        with torch.random.fork_rng(devices=[]):
            model = transformers.CLIPTextModel(settings)
        # transformers 4 wraps the transformer once more.
        self._model = getattr(model, "text_model", model).eval().requires_grad_(False)
        self._model.load_state_dict(_renamed_clip(weights, layers))
        self._projection = weights["text_projection"]

    def states(self, ids: Tensor) -> Tensor:
        """Give the states after the final layer norm; no token sees the padding behind it."""
        states: Tensor = self._model(input_ids=ids).last_hidden_state
        return states

    def pool(self, states: Tensor, ids: Tensor) -> Tensor:
        """Project the state of the end token, which has the highest id."""
        return states[torch.arange(len(ids)), ids.argmax(1)] @ self._projection

    def _shapes(self, hidden: int, layers: int) -> dict[str, tuple[int, ...]]:
        width = self.width
        shapes: dict[str, tuple[int, ...]] = {
            "token_embedding.weight": (self.vocabulary, width),
            "positional_embedding": (self.context_length, width),
            "ln_final.weight": (width,),
            "ln_final.bias": (width,),
            "text_projection": (width, self.pooled_width),
        }
        for layer in range(layers):
            for name, (rows, columns) in {
                "attn.in_proj_": (3 * width, width),
                "attn.out_proj.": (width, width),
                "mlp.c_fc.": (hidden, width),
                "mlp.c_proj.": (width, hidden),
            }.items():
                shapes[f"transformer.resblocks.{layer}.{name}weight"] = (rows, columns)
                shapes[f"transformer.resblocks.{layer}.{name}bias"] = (rows,)
            for name in ("ln_1", "ln_2"):
                shapes[f"transformer.resblocks.{layer}.{name}.weight"] = (width,)
                shapes[f"transformer.resblocks.{layer}.{name}.bias"] = (width,)
        return shapes


class _BertTower:
    """A BERT read by transformers, with BiomedCLIP's projection: the state of [CLS] through two layers.

    Source: open_clip's ``HFTextEncoder`` with hf_pooler_type cls_last_hidden_state_pooler and hf_proj_type mlp.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], weights: dict[str, Tensor]) -> None:
        # BiomedCLIP's first configuration had open_clip's older, shorter names of the two options.
        names = {"proj": "hf_proj_type", "pooler_type": "hf_pooler_type"}
        if "hf_model_name" not in config["text_cfg"]:
            raise CheckpointError(f"{folder / CONFIG} names no BERT (hf_model_name); a CLIP tower is read by: clip")
        given = {names.get(key, key): value for key, value in config["text_cfg"].items()}
        text = fill_config(
            folder,
            {**config, "text_cfg": given},
            "text_cfg",
            idle=IDLE,
            sizes={"context_length": 77, "hf_model_name": "", "hf_pooler_type": "mean_pooler"},
            fixed={"hf_proj_type": "mlp"},
        )
        if text["hf_pooler_type"] != "cls_last_hidden_state_pooler":
            raise CheckpointError(
                f"{folder / CONFIG} has hf_pooler_type {text['hf_pooler_type']!r}, "
                "expected 'cls_last_hidden_state_pooler': no other is built"
            )
        transformers = import_transformers()
        settings = _bert_config(folder, str(text["hf_model_name"]))
        with torch.device("meta"):
            shapes = _shapes_of(transformers.BertModel(settings, add_pooling_layer=False), "transformer.")
        self.context_length = int(text["context_length"])
        self.vocabulary = int(settings.vocab_size)
        self.width = int(settings.hidden_size)
        self.pooled_width = int(config["embed_dim"])
        hidden = (self.width + self.pooled_width) // 2
        shapes |= {"proj.0.weight": (hidden, self.width), "proj.2.weight": (self.pooled_width, hidden)}
        # A buffer that transformers wrote into the weights before 4.31.
        weights.pop("transformer.embeddings.position_ids", None)
        check_weights(weights, shapes, folder)
        with torch.random.fork_rng(devices=[]):
            model = transformers.BertModel(settings, add_pooling_layer=False)
        self._model = model.eval().requires_grad_(False)
        self._projection = (weights.pop("proj.0.weight"), weights.pop("proj.2.weight"))
        self._model.load_state_dict({key.removeprefix("transformer."): weight for key, weight in weights.items()})

    def states(self, ids: Tensor) -> Tensor:
        """Give BERT's last hidden states; padding is masked."""
        states: Tensor = self._model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
        return states

    def pool(self, states: Tensor, ids: Tensor) -> Tensor:  # noqa: ARG002  # the protocol's; the first token needs none
        """Project the state of the first token."""
        inner, outer = self._projection
        return functional.linear(functional.gelu(functional.linear(states[:, 0], inner)), outer)


def _bert_config(folder: Path, name: str) -> Any:
    transformers = import_transformers()
    path = folder / name / "config.json"
    if not path.is_file():
        if name not in BERT_BASE:
            raise CheckpointError(f"the BERT {name} of {folder / CONFIG} is unknown; put its config.json at {path}")
        return transformers.BertConfig()
    return read_bert_config(path)


def _text_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave the image tower and the temperature out; name the text tower's weights without the prefix ``text.``."""
    return {
        key.removeprefix("text."): weight.float()
        for key, weight in weights.items()
        if not key.startswith("visual.") and key not in ("logit_scale", "logit_bias")
    }


def _shapes_of(model: nn.Module, prefix: str) -> dict[str, tuple[int, ...]]:
    return {prefix + key: tuple(weight.shape) for key, weight in model.state_dict().items()}


def _renamed_clip(weights: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Name open_clip's weights as transformers does; queries, keys and values lie in three tensors there."""
    renamed = {
        "embeddings.token_embedding.weight": weights["token_embedding.weight"],
        "embeddings.position_embedding.weight": weights["positional_embedding"],
    }
    for kind in ("weight", "bias"):
        renamed[f"final_layer_norm.{kind}"] = weights[f"ln_final.{kind}"]
        for layer in range(layers):
            old, new = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
            for part, tensor in zip("qkv", weights[f"{old}.attn.in_proj_{kind}"].chunk(3), strict=True):
                renamed[f"{new}.self_attn.{part}_proj.{kind}"] = tensor
            renamed[f"{new}.self_attn.out_proj.{kind}"] = weights[f"{old}.attn.out_proj.{kind}"]
            renamed[f"{new}.mlp.fc1.{kind}"] = weights[f"{old}.mlp.c_fc.{kind}"]
            renamed[f"{new}.mlp.fc2.{kind}"] = weights[f"{old}.mlp.c_proj.{kind}"]
            renamed[f"{new}.layer_norm1.{kind}"] = weights[f"{old}.ln_1.{kind}"]
            renamed[f"{new}.layer_norm2.{kind}"] = weights[f"{old}.ln_2.{kind}"]
    return renamed


def _read_tokenizer(path: Path, tower: _Tower) -> Any:
    import_transformers()  # it brings tokenizers
    from tokenizers import Tokenizer

    read_json(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise CheckpointError(f"{path} is no tokenizer: {error}; fetch it again") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(tower.context_length)
    size, special = tokenizer.get_vocab_size(), len(tokenizer.encode("").ids)
    if size > tower.vocabulary or special != 2:
        raise CheckpointError(
            f"{path} has {size} tokens and puts {special} around a sentence, expected at most {tower.vocabulary} "
            "and 2; take the file that belongs to the weights"
        )
    return tokenizer


def _cleaned(text: str) -> str:
    """Clean text as open_clip's tokenizers do, less ftfy; lower case is up to ``tokenizer.json``."""
    return " ".join(html.unescape(html.unescape(text)).split())


# The hub's page of the repository shows this revision with these files, and the sha256 of the weights.
BIOMEDCLIP = Published(
    name="biomedclip",
    tower=_BertTower,
    repository="microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
    revision="9f341de24bfb00180f1b847274256e9b65a3a32e",
    weights="open_clip_pytorch_model.bin",
    sha256="52cc993c5c5ff962bd0c60931874bc001e7e9b41666a385530f4a036294576be",
)
# OpenAI's ViT-B/32 as open_clip's authors publish it. We know of no published sha256 of this file.
CLIP = Published(
    name="clip",
    tower=_ClipTower,
    repository="timm/vit_base_patch32_clip_224.openai",
    revision="ab5b8ef490e86faa07d3523926b842c765de1de5",
    weights="open_clip_model.safetensors",
)
