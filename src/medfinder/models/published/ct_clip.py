"""CT-CLIP (Hamamci et al. 2024, arXiv:2403.17834), read from weights that the user brings.

In: a folder with ``CT-CLIP_v2.pt`` and ``vocab.txt``. Out: a `PublishedEncoder` for chest CTs and reports, 512 wide.
Refused: no folder (nothing is fetched: who uses the weights must have agreed to their licence), other files. The
weights are under CC BY-NC-SA 4.0: not for commercial use; loading them says so.

Not a line of the repository's code is here: the network was written anew after what its modules do and names its
weights as they do; the tests compare with what those modules gave. Parts that no vector depends on (decoder, second
projections, temperature) are left out.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfinder.errors import CheckpointError
from medfinder.models.published.encoder import PublishedEncoder, find_file, put_weights, read_weights
from medfinder.models.published.texts import CXR_BERT, WordPieces, build_bert
from medfinder.volume import Grid

HOME = "https://huggingface.co/datasets/ibrahimhamamci/CT-RATE"
WEIGHTS = ("CT-CLIP_v2.pt", "CT_CLIP_zeroshot.pt", "ct_clip.pt")
LICENCE = "CC BY-NC-SA 4.0"
# scripts/data_inference_nii.py, in our order x, y, z.
GRID = Grid((0.75, 0.75, 1.5), (480, 480, 240), (-1000, 1000), "ct-clip")
_IDLE = (
    "temperature",
    "to_text_latent_extra.",
    "to_visual_latent_extra.",
    "visual_transformer.to_patch_emb_first_frame.",
    "visual_transformer.to_pixels",
    "visual_transformer.vq._codebook.initted",
    "visual_transformer.vq._codebook.cluster_size",
    "visual_transformer.dec_",
    "visual_transformer.discr.",
    "visual_transformer.vgg.",
    "text_transformer.pooler.",
    "text_transformer.embeddings.position_ids",
    "text_transformer.embeddings.token_type_ids",
)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class CtClipSizes:
    """Sizes of the networks; the defaults are those of scripts/run_zero_shot.py, and BERT base.

    Attributes:
        patch: voxels of a patch along x and y.
        slices: ... and along z.
        width: of the image tokens.
        head_width: channels of a head.
        codes: of the codebook.
        shared: of the vectors.
        vocabulary: of CXR-BERT.
        context: tokens of a text that are read.
    """

    grid: Grid = GRID
    patch: int = 20
    slices: int = 10
    width: int = 512
    depth: int = 4
    heads: int = 8
    head_width: int = 32
    codes: int = 8192
    shared: int = 512
    vocabulary: int = 30522
    context: int = 512
    text_width: int = 768
    text_depth: int = 12
    text_heads: int = 12
    text_hidden: int = 3072


class CtClip(nn.Module):
    """The two encoders of CT-CLIP; names of weights as published."""

    def __init__(self, sizes: CtClipSizes) -> None:
        super().__init__()
        self.grid = sizes.grid
        self.width = sizes.shared
        self.visual_transformer = _Ctvit(sizes)
        self.text_transformer = build_bert(
            width=sizes.text_width, depth=sizes.text_depth, heads=sizes.text_heads, hidden=sizes.text_hidden,
            vocabulary=sizes.vocabulary, context=sizes.context, has_pooler=False,
        )  # fmt: skip
        places = (sizes.grid.shape[0] // sizes.patch) * (sizes.grid.shape[1] // sizes.patch)
        self.to_visual_latent = nn.Linear(places * sizes.width, sizes.shared, bias=False)
        self.to_text_latent = nn.Linear(sizes.text_width, sizes.shared, bias=False)

    def embed_volumes(self, hu: Tensor) -> Tensor:
        """Map HU (n, x, y, z) to vectors (n, width)."""
        # The network has seen S, L, P; ours are R, A, S.
        slices = (hu / 1000).flip(1, 2).permute(0, 3, 1, 2)
        tokens = self.visual_transformer(slices)
        vectors: Tensor = self.to_visual_latent(tokens.mean(dim=1).flatten(1))
        return vectors

    def embed_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map token numbers (n, t) to vectors (n, width)."""
        states = self.text_transformer(input_ids=ids, attention_mask=mask).last_hidden_state
        vectors: Tensor = self.to_text_latent(states[:, 0])
        return vectors


class _Ctvit(nn.Module):
    """A transformer that looks across each slab of slices, then along z, and rounds tokens to a codebook."""

    def __init__(self, sizes: CtClipSizes) -> None:
        super().__init__()
        self.patch, self.slices = sizes.patch, sizes.slices
        voxels = sizes.patch**2 * sizes.slices
        # The first takes the volume apart in the published code; it has no weights.
        self.to_patch_emb = nn.Sequential(
            nn.Identity(), nn.LayerNorm(voxels), nn.Linear(voxels, sizes.width), nn.LayerNorm(sizes.width)
        )
        self.spatial_rel_pos_bias = _PositionBias(sizes.width, sizes.heads)
        self.enc_spatial_transformer = _Transformer(sizes)
        self.enc_temporal_transformer = _Transformer(sizes)
        self.vq = _Quantizer(sizes.codes, sizes.width)

    def forward(self, volumes: Tensor) -> Tensor:
        """Map (n, z, x, y) to tokens (n, slabs, rows, columns, width)."""
        tokens: Tensor = self.to_patch_emb(_patches(volumes, self.slices, self.patch))
        shape = tokens.shape[:-1]
        n, t, h, w = shape
        bias = self.spatial_rel_pos_bias(h, w)
        tokens = self.enc_spatial_transformer(tokens.reshape(n * t, h * w, -1), shape, bias)
        tokens = tokens.reshape(n, t, h * w, -1).transpose(1, 2).reshape(n * h * w, t, -1)
        tokens = self.enc_temporal_transformer(tokens, shape, None)
        tokens = tokens.reshape(n, h * w, t, -1).transpose(1, 2).reshape(n, t, h, w, -1)
        quantized: Tensor = self.vq(tokens)
        return quantized


def _patches(volumes: Tensor, slices: int, patch: int) -> Tensor:
    """Cut (n, z, x, y) into patches (n, slabs, rows, columns, voxels of a patch)."""
    n, z, x, y = volumes.shape
    cut = volumes.reshape(n, z // slices, slices, x // patch, patch, y // patch, patch)
    return cut.permute(0, 1, 3, 5, 2, 4, 6).flatten(4)


class _PositionBias(nn.Module):
    """A small network that tells each pair of places in a slab how much they mind each other (Swin V2, 2111.09883)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(2, width), nn.LeakyReLU(0.1)),
                nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(0.1)),
                nn.Linear(width, heads),
            ]
        )

    def forward(self, rows: int, columns: int) -> Tensor:
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        apart = (places[:, None] - places[None]).float()
        bias = torch.sign(apart) * torch.log(apart.abs() + 1)
        for layer in self.net:
            bias = layer(bias)
        return bias.permute(2, 0, 1)


class _Transformer(nn.Module):
    def __init__(self, sizes: CtClipSizes) -> None:
        super().__init__()
        # The published list has a place for cross-attention, which is not there.
        self.layers = nn.ModuleList(
            nn.ModuleDict({"0": _Neighbours(sizes.width), "1": _Attention(sizes), "3": _feed_forward(sizes.width)})
            for _ in range(sizes.depth)
        )
        self.norm_out = _LayerNorm(sizes.width)

    def forward(self, tokens: Tensor, shape: tuple[int, int, int, int], bias: Tensor | None) -> Tensor:
        for layer in self.layers:
            neighbours, attention, feed_forward = layer["0"], layer["1"], layer["3"]  # type: ignore[index]
            tokens = neighbours(tokens, shape) + tokens
            tokens = attention(tokens, bias) + tokens
            tokens = feed_forward(tokens) + tokens
        normed: Tensor = self.norm_out(tokens)
        return normed


class _LayerNorm(nn.Module):
    """A layer norm with a scale and a fixed shift."""

    beta: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("beta", torch.zeros(width))

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.layer_norm(tokens, tokens.shape[-1:], self.gamma, self.beta)


class _Neighbours(nn.Module):
    """A convolution of each channel over its neighbours, along z over those before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dsconv = nn.Conv3d(width, width, 3, groups=width)

    def forward(self, tokens: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
        # Also where the tokens come ordered by place and then by slab the published network reads them as if ordered
        # by slab and then by place. It was trained so.
        volume = tokens.reshape(*shape, -1).permute(0, 4, 1, 2, 3)
        mixed: Tensor = self.dsconv(functional.pad(volume, (1, 1, 1, 1, 2, 0)))
        return mixed.permute(0, 2, 3, 4, 1).reshape(tokens.shape)


class _Attention(nn.Module):
    """Attention by cosines; keys and values are made of the tokens before the norm, as published."""

    def __init__(self, sizes: CtClipSizes) -> None:
        super().__init__()
        inner = sizes.heads * sizes.head_width
        self.heads = sizes.heads
        self.norm = _LayerNorm(sizes.width)
        self.context_norm = _LayerNorm(sizes.width)
        self.null_kv = nn.Parameter(torch.zeros(sizes.heads, 0, sizes.head_width))
        self.to_q = nn.Linear(sizes.width, inner, bias=False)
        self.to_kv = nn.Linear(sizes.width, 2 * inner, bias=False)
        self.q_scale = nn.Parameter(torch.ones(sizes.head_width))
        self.k_scale = nn.Parameter(torch.ones(sizes.head_width))
        self.to_out = nn.Linear(inner, sizes.width, bias=False)

    def forward(self, tokens: Tensor, bias: Tensor | None) -> Tensor:
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(self.norm(tokens)), *self.to_kv(tokens).chunk(2, dim=-1))
        )
        query = functional.normalize(query, dim=-1) * self.q_scale
        key = functional.normalize(key, dim=-1) * self.k_scale
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=8.0)
        projected: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return projected


class _Gate(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        values, gate = tokens.chunk(2, dim=-1)
        return functional.gelu(gate) * values


def _feed_forward(width: int) -> nn.Sequential:
    hidden = int(4 * (2 / 3) * width)
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 2 * hidden, bias=False),
        _Gate(),
        nn.Identity(),
        nn.Linear(hidden, width, bias=False),
    )


class _Quantizer(nn.Module):
    """Rounds each token to the code whose direction is nearest."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self._codebook = _Codebook(codes, width)

    def forward(self, tokens: Tensor) -> Tensor:
        codes = self._codebook.embed[0]
        alike = functional.normalize(tokens, dim=-1) @ functional.normalize(codes, dim=-1).T
        return codes[alike.argmax(dim=-1)]


class _Codebook(nn.Module):
    embed: Tensor

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("embed", torch.zeros(1, codes, width))


def clean_report(text: str) -> str:
    """Take quotes and brackets out, as CT-CLIP's readers of reports do.

    Example:
        >>> clean_report('Nodule ("7 mm").')
        'Nodule 7 mm.'
    """
    return text.translate({ord(sign): None for sign in "\"'()"})


def load_ct_clip(folder: Path | None = None, sizes: CtClipSizes | None = None) -> PublishedEncoder:
    """Load CT-CLIP from a folder; say under which licence its weights are.

    Raises:
        CheckpointError: no folder is given, or its files are missing, damaged or those of another model.
    """
    sizes = sizes or CtClipSizes()
    if folder is None:
        raise CheckpointError(
            f"CT-CLIP's weights are under {LICENCE} and are not fetched; agree to it at {HOME}, put {WEIGHTS[0]} and "
            f"vocab.txt of https://huggingface.co/{CXR_BERT} into one folder and give: --model ct-clip:FOLDER"
        )
    path = find_file(folder, WEIGHTS)
    tokenizer = WordPieces(folder, context=sizes.context, clean=clean_report)
    weights, sha256 = read_weights(path)
    with torch.random.fork_rng(devices=[]):
        network = CtClip(sizes)
    put_weights(network, weights, where=path, idle=_IDLE)
    _LOG.warning("CT-CLIP's weights are under %s: not for commercial use", LICENCE)
    return PublishedEncoder(network, tokenizer, name="ct-clip", weights=sha256, licence=LICENCE)
