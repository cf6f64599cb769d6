"""Merlin (Blankemeier et al. 2024, arXiv:2406.06512), read from its published weights.

In: a folder with the checkpoint, ``vocab.json`` and ``merges.txt``, or the hub. Out: a `PublishedEncoder`, 512 wide.
Refused: other files. The weights are under the MIT licence. Merlin was trained on abdominal CTs: on chests it sees
the lung bases best.

The package ``merlin-vlm`` is not imported: it needs torchvision to inflate a ResNet-152 from, whose weights the
checkpoint then replaces. The network here is that ResNet with three dimensions from the start and the same names of
weights; the tests compare with what the package's own inflation gave.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfinder.models.hub import fetch, import_transformers
from medfinder.models.published.encoder import PublishedEncoder, find_file, put_weights, read_weights
from medfinder.models.published.texts import BYTE_PAIRS, BytePairs
from medfinder.volume import Grid

REPOSITORY = "stanfordmimi/Merlin"
TEXT_REPOSITORY = "yikuan8/Clinical-Longformer"
# merlin/models/load.py of merlin-vlm 0.0.7, "default".
WEIGHTS = "i3_resnet_clinical_longformer_best_clip_04-02-2024_23-21-36_epoch_99.pt"
LICENCE = "MIT"
# merlin/data/monai_transforms.py.
GRID = Grid((1.5, 1.5, 3.0), (224, 224, 160), (-1000, 1000), "merlin")
# Of ResNet-152's four stages; a block gives four times as many channels as it works with.
_EXPANSION = 4
_PADDING = 1
# What transformers before 4.31 wrote beside the Longformer's weights.
_IDLE = ("encode_text.text_encoder.embeddings.position_ids",)


@dataclass(frozen=True)
class MerlinSizes:
    """Sizes of the networks; the defaults are the published ones.

    Attributes:
        blocks: residual blocks of each stage.
        channels: that the first block works with.
        phenotypes: that the checkpoint's classifier tells apart; no vector depends on them.
        shared: of the vectors.
        context: tokens of a text that are read.
        attention_window: of the Longformer.
    """

    grid: Grid = GRID
    blocks: tuple[int, int, int, int] = (3, 8, 36, 3)
    channels: int = 64
    phenotypes: int = 1692
    shared: int = 512
    vocabulary: int = 50265
    context: int = 1024
    positions: int = 4098
    text_width: int = 768
    text_depth: int = 12
    text_heads: int = 12
    text_hidden: int = 3072
    attention_window: int = 512


class Merlin(nn.Module):
    """The two encoders of Merlin; names of weights as published."""

    def __init__(self, sizes: MerlinSizes) -> None:
        super().__init__()
        self.grid = sizes.grid
        self.width = sizes.shared
        self.attention_window = sizes.attention_window
        self.encode_image = _ImageEncoder(sizes)
        self.encode_text = _TextEncoder(sizes)
        self.logit_scale = nn.Parameter(torch.ones([]))

    def embed_volumes(self, hu: Tensor) -> Tensor:
        """Map HU (n, x, y, z) to vectors (n, width)."""
        low, high = self.grid.window_hu
        vectors: Tensor = self.encode_image.i3_resnet((hu[:, None] - low) / (high - low))
        return vectors

    def embed_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map token numbers (n, t) to vectors (n, width)."""
        # The Longformer does so by itself, but says it each time.
        lacking = -ids.shape[1] % self.attention_window
        ids = functional.pad(ids, (0, lacking), value=_PADDING)
        vectors: Tensor = self.encode_text(ids, functional.pad(mask, (0, lacking)))
        return vectors


class _ImageEncoder(nn.Module):
    def __init__(self, sizes: MerlinSizes) -> None:
        super().__init__()
        self.i3_resnet = InflatedResNet(sizes)


class InflatedResNet(nn.Module):
    """A ResNet of bottleneck blocks whose middle convolutions span three slices (Carreira and Zisserman 2017)."""

    def __init__(self, sizes: MerlinSizes) -> None:
        super().__init__()
        width = sizes.channels
        self.conv1 = nn.Conv3d(3, width, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        stages = []
        before = width
        for number, blocks in enumerate(sizes.blocks):
            inner = width * 2**number
            stages.append(_stage(before, inner, blocks, stride=1 if number == 0 else 2))
            before = inner * _EXPANSION
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.classifier = nn.Conv3d(before, sizes.phenotypes, 1)
        self.contrastive_head = nn.Conv3d(before, sizes.shared, 1)

    def forward(self, volumes: Tensor) -> Tensor:
        """Map (n, 1, x, y, z) from 0 to 1 to vectors."""
        # Slices first, and the same grey three times: the 2-D network was trained on colours.
        features = volumes.permute(0, 1, 4, 2, 3).repeat(1, 3, 1, 1, 1)
        features = self.maxpool(functional.relu(self.bn1(self.conv1(features))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
        vectors: Tensor = self.contrastive_head(features.mean((2, 3, 4), keepdim=True))
        return vectors.flatten(1)


def _stage(before: int, inner: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = _Bottleneck(before, inner, stride)
    return nn.Sequential(first, *[_Bottleneck(inner * _EXPANSION, inner, 1) for _ in range(blocks - 1)])


class _Bottleneck(nn.Module):
    def __init__(self, before: int, inner: int, stride: int) -> None:
        super().__init__()
        after = inner * _EXPANSION
        self.conv1 = nn.Conv3d(before, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(inner)
        self.conv2 = nn.Conv3d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(inner)
        self.conv3 = nn.Conv3d(inner, after, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(after)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv3d(before, after, 1, stride=stride, bias=False), nn.BatchNorm3d(after)
            )

    def forward(self, features: Tensor) -> Tensor:
        mapped = functional.relu(self.bn1(self.conv1(features)))
        mapped = functional.relu(self.bn2(self.conv2(mapped)))
        mapped = self.bn3(self.conv3(mapped))
        return functional.relu(mapped + (features if self.downsample is None else self.downsample(features)))


class _TextEncoder(nn.Module):
    def __init__(self, sizes: MerlinSizes) -> None:
        super().__init__()
        self.text_encoder = _build_longformer(sizes)
        self.linear_layer = nn.Linear(sizes.text_width, sizes.shared)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        projected: Tensor = self.linear_layer(states[:, 0])
        return projected


def _build_longformer(sizes: MerlinSizes) -> Any:
    """Build the text encoder with random weights; its settings are those of longformer-base-4096."""
    transformers = import_transformers()
    config = transformers.LongformerConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.text_width,
        num_hidden_layers=sizes.text_depth,
        num_attention_heads=sizes.text_heads,
        intermediate_size=sizes.text_hidden,
        max_position_embeddings=sizes.positions,
        attention_window=[sizes.attention_window] * sizes.text_depth,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=_PADDING,
        bos_token_id=0,
        eos_token_id=2,
        sep_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        return transformers.LongformerModel(config)


def sanitize(text: str) -> str:
    """Put a text into lower case, with spaces between words and runs of signs, as Merlin's reports were.

    Source: sanitize_report of merlin-vlm, with the pattern of nltk's wordpunct_tokenize.

    Example:
        >>> sanitize("No effusion (7.5 mm).")
        'no effusion ( 7 . 5 mm ).'
    """
    return " ".join(re.findall(r"\w+|[^\w\s]+", text.lower()))


def load_merlin(folder: Path | None = None, sizes: MerlinSizes | None = None) -> PublishedEncoder:
    """Load Merlin from a folder, or from the hub's cache, or from the hub.

    Raises:
        CheckpointError: its files are missing, damaged or those of another model.
    """
    sizes = sizes or MerlinSizes()
    words = folder
    if folder is None:
        otherwise = (
            f"copy {WEIGHTS} of https://huggingface.co/{REPOSITORY} and {', '.join(BYTE_PAIRS)} of "
            f"https://huggingface.co/{TEXT_REPOSITORY} into one folder and give: --model merlin:FOLDER"
        )
        folder = fetch(REPOSITORY, [WEIGHTS], otherwise=otherwise, what="model")
        words = fetch(TEXT_REPOSITORY, BYTE_PAIRS, otherwise=otherwise, what="vocabulary")
    path = find_file(folder, [WEIGHTS])
    tokenizer = BytePairs(words or folder, context=sizes.context, clean=sanitize)
    weights, sha256 = read_weights(path)
    with torch.random.fork_rng(devices=[]):
        network = Merlin(sizes)
    put_weights(network, weights, where=path, idle=_IDLE)
    return PublishedEncoder(network, tokenizer, name="merlin", weights=sha256, licence=LICENCE)
