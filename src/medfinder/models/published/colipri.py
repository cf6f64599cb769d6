"""COLIPRI (Wald et al. 2026, arXiv:2510.15042), read from its published weights.

In: a folder with ``model.safetensors`` and ``vocab.txt``, or the hub. Out: a `PublishedEncoder` for chest CTs and
reports, 768 wide. Refused: other files. The weights are under the MIT licence.

The package ``colipri`` is not imported: it needs timm, and by it torchvision, for parts that it never runs. The
networks here are written after its configuration and after dynamic-network-architectures 0.4 (Primus-M) and timm 1.0
(the EVA block), whose names of weights they keep; the tests compare with what those packages gave.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfinder.models.hub import fetch
from medfinder.models.published.encoder import PublishedEncoder, find_file, put_weights, read_weights
from medfinder.models.published.texts import CXR_BERT, CXR_BERT_REVISION, WordPieces, build_bert
from medfinder.volume import Grid

REPOSITORY = "microsoft/colipri"
WEIGHTS = "model.safetensors"
LICENCE = "MIT"
# configs/config.yaml of colipri 0.1.3, and the window of its image transform.
GRID = Grid((2.0, 2.0, 2.0), (192, 192, 192), (-1000, 1000), "colipri")
# What transformers before 4.31 wrote beside BERT's weights.
_IDLE = ("text_encoder.backbone.embeddings.position_ids", "text_encoder.backbone.embeddings.token_type_ids")


@dataclass(frozen=True)
class ColipriSizes:
    """Sizes of the networks; the defaults are the published ones (configs of colipri 0.1.3, BERT base).

    Attributes:
        width: of the image tokens.
        shared: of the vectors, and of BERT's tokens.
        vocabulary: of CXR-BERT.
        context: tokens of a text that are read.
    """

    grid: Grid = GRID
    patch: int = 8
    width: int = 864
    depth: int = 16
    heads: int = 12
    shared: int = 768
    pool_heads: int = 12
    vocabulary: int = 30522
    context: int = 512
    text_depth: int = 12
    text_heads: int = 12
    text_hidden: int = 3072


class Colipri(nn.Module):
    """The two encoders of COLIPRI; names of weights as published."""

    def __init__(self, sizes: ColipriSizes) -> None:
        super().__init__()
        self.grid = sizes.grid
        self.width = sizes.shared
        self.image_encoder = _ImageEncoder(sizes)
        self.text_encoder = _TextEncoder(sizes)
        self.register_buffer("softmax_temperature", torch.tensor(1.0))

    def embed_volumes(self, hu: Tensor) -> Tensor:
        """Map HU (n, x, y, z) to vectors (n, width)."""
        low, high = self.grid.window_hu
        # In the order of torchio.RescaleIntensity, to the last bit.
        scaled = (hu - low) / (high - low) * 2 - 1
        vectors: Tensor = self.image_encoder(scaled[:, None])
        return vectors

    def embed_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map token numbers (n, t) to vectors (n, width)."""
        vectors: Tensor = self.text_encoder(ids, mask)
        return vectors


class _ImageEncoder(nn.Module):
    def __init__(self, sizes: ColipriSizes) -> None:
        super().__init__()
        self.backbone = _Primus(sizes)
        self.projector = nn.Conv3d(sizes.width, sizes.shared, kernel_size=1)
        self.pooler = _AttentionPool(sizes.shared, sizes.pool_heads)

    def forward(self, volumes: Tensor) -> Tensor:
        tokens = self.projector(self.backbone(volumes)).flatten(2).transpose(1, 2)
        pooled: Tensor = self.pooler(tokens, torch.ones(tokens.shape[:2], device=tokens.device))
        return pooled


class _TextEncoder(nn.Module):
    def __init__(self, sizes: ColipriSizes) -> None:
        super().__init__()
        self.backbone = build_bert(
            width=sizes.shared, depth=sizes.text_depth, heads=sizes.text_heads, hidden=sizes.text_hidden,
            vocabulary=sizes.vocabulary, context=sizes.context, has_pooler=False,
        )  # fmt: skip
        self.pooler = _AttentionPool(sizes.shared, sizes.pool_heads)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled: Tensor = self.pooler(states, mask)
        return pooled


class _AttentionPool(nn.Module):
    """Attention of the tokens' mean over the tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        weights = mask[..., None].to(tokens.dtype)
        query = (tokens * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
        pooled: Tensor = self.attn(query, tokens, tokens, key_padding_mask=mask == 0, need_weights=False)[0]
        return pooled[:, 0]


class _Primus(nn.Module):
    """A vision transformer of EVA blocks with rotary positions in three dimensions (Wald et al., arXiv:2503.01835)."""

    mask_token: Tensor

    def __init__(self, sizes: ColipriSizes) -> None:
        super().__init__()
        self.down_projection = _Patches(sizes.patch, sizes.width)
        self.eva = _Eva(sizes)
        # It stands for patches left out in pretraining; none is left out here.
        self.register_buffer("mask_token", torch.zeros(1, 1, sizes.width))

    def forward(self, volumes: Tensor) -> Tensor:
        patches: Tensor = self.down_projection.proj(volumes)
        tokens: Tensor = self.eva(patches.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(patches.shape)


class _Patches(nn.Module):
    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, width, kernel_size=patch, stride=patch)


class _Eva(nn.Module):
    def __init__(self, sizes: ColipriSizes) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_EvaBlock(sizes.width, sizes.heads) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.width)
        places = [edge // sizes.patch for edge in sizes.grid.shape]
        turns = rotary_angles(places, sizes.width // sizes.heads)
        self.register_buffer("turns", torch.stack([turns.sin(), turns.cos()]), persistent=False)
        self.turns: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens, self.turns)
        normed: Tensor = self.norm(tokens)
        return normed


def rotary_angles(places: list[int], width: int) -> Tensor:
    """Give the angle by which each pair of a head's channels is turned, for each token: (tokens, width).

    A third of the channels belongs to each axis; their frequencies fall geometrically from 1 to near 1 / 10000.

    Source: timm 1.0, RotaryEmbeddingCat with in_pixels=False, and Primus, which asks it for width / 1.5 channels.
    """
    bands = round(width / 1.5) // 4
    frequencies = 1.0 / 10000.0 ** (torch.arange(bands).float() / bands)
    steps = torch.meshgrid(*[torch.arange(n).float() for n in places], indexing="ij")
    angles = torch.stack(steps, dim=-1)[..., None] * frequencies
    return angles.reshape(-1, 3 * bands).repeat_interleave(2, dim=-1)


class _EvaBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = _EvaAttention(width, heads)
        self.gamma_1 = nn.Parameter(0.1 * torch.ones(width))
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _SwiGLU(width, int(width * (4 * 2 / 3)))
        self.gamma_2 = nn.Parameter(0.1 * torch.ones(width))

    def forward(self, tokens: Tensor, turns: Tensor) -> Tensor:
        tokens = tokens + self.gamma_1 * self.attn(self.norm1(tokens), turns)
        summed: Tensor = tokens + self.gamma_2 * self.mlp(self.norm2(tokens))
        return summed


class _EvaAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, turns: Tensor) -> Tensor:
        query, key, value = (
            part(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(_turn(query, turns), _turn(key, turns), value)
        projected: Tensor = self.proj(self.norm(mixed.transpose(1, 2).flatten(2)))
        return projected


def _turn(channels: Tensor, turns: Tensor) -> Tensor:
    sine, cosine = turns
    crossed = torch.stack([-channels[..., 1::2], channels[..., ::2]], dim=-1).flatten(-2)
    turned: Tensor = channels * cosine + crossed * sine
    return turned


class _SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1_g = nn.Linear(width, hidden)
        self.fc1_x = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        mapped: Tensor = self.fc2(self.norm(functional.silu(self.fc1_g(tokens)) * self.fc1_x(tokens)))
        return mapped


def load_colipri(folder: Path | None = None, sizes: ColipriSizes | None = None) -> PublishedEncoder:
    """Load COLIPRI from a folder, or from the hub's cache, or from the hub.

    Raises:
        CheckpointError: its files are missing, damaged or those of another model.
    """
    sizes = sizes or ColipriSizes()
    words = folder
    if folder is None:
        otherwise = (
            f"copy {WEIGHTS} of https://huggingface.co/{REPOSITORY} and vocab.txt of "
            f"https://huggingface.co/{CXR_BERT} into one folder and give: --model colipri:FOLDER"
        )
        folder = fetch(REPOSITORY, [WEIGHTS], otherwise=otherwise, what="model")
        words = fetch(CXR_BERT, ["vocab.txt"], revision=CXR_BERT_REVISION, otherwise=otherwise, what="vocabulary")
    path = find_file(folder, [WEIGHTS])
    tokenizer = WordPieces(words or folder, context=sizes.context)
    weights, sha256 = read_weights(path)
    with torch.random.fork_rng(devices=[]):
        network = Colipri(sizes)
    put_weights(network, weights, where=path, idle=_IDLE)
    return PublishedEncoder(network, tokenizer, name="colipri", weights=sha256, licence=LICENCE)
