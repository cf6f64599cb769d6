"""The image side: a standardised CT volume to a pooled feature vector and one score per finding label.

In: HU volumes on the model's grid as a batch (n, x, y, z), int16 or float. Out: features (n, features) and label
scores (n, labels); if asked for, maps of where each finding lies, finer than the tokens. A small 3-D ResNet in
channels-last order (measured: 1.3-2.5 times faster on AVX-512 than the default order) with position-aware attention
pooling: a global average would forget left from right and lobe from lobe. Its stem is a matrix product over 2x2x2
patches: convolutions at full resolution took most of the time on a CPU. Refused: a grid that the stages cannot halve
without a remainder.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfinder.errors import ConfigError
from medfinder.models.labels import name_of, names_of


@dataclass(frozen=True)
class ImageEncoderSettings:
    """How the image encoder is built.

    Attributes:
        windows_hu: (low, high) of each input channel. Ours: emphysema, lung, soft tissue, calcium.
        patch: width of the stem, which sees each 2x2x2 patch through every window.
        channels: width of each stage after the stem; stem and stages each halve the grid on every axis.
        blocks: residual blocks of each stage, at least one.
        queries: learned queries that pool the token map.
        heads: attention heads of the pooling.
        finding_maps: score every finding at twice the resolution of the tokens, too, and tell the tokens what was
            found. Small findings are learnt much sooner: docs/model_card.md has the figures.
        norm: key of ``NORMS``. ``"batch"`` learns several times faster in few steps; in training a volume then depends
            on the others of its chunk, so that chunks, and processes, no longer give the very same result.
    """

    windows_hu: tuple[tuple[float, float], ...] = ((-1024.0, -650.0), (-950.0, -50.0), (-160.0, 240.0), (150.0, 1300.0))
    patch: int = 32
    channels: tuple[int, ...] = (64, 128)
    blocks: tuple[int, ...] = (1, 1)
    queries: int = 8
    heads: int = 4
    finding_maps: bool = False
    norm: str = "group"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ConfigError(f"unknown norm {self.norm!r}; known: {', '.join(sorted(NORMS))}")


class Seen(NamedTuple):
    """What the encoder makes of a batch before it is pooled.

    Attributes:
        tokens: (n, tokens, channels), position-aware; z varies fastest.
        maps: (n, cells, findings) scores of where each finding lies, on cells of half a token's side; no findings
            without ``finding_maps``.
    """

    tokens: Tensor
    maps: Tensor


def patches(hu: Tensor, windows_hu: tuple[tuple[float, float], ...]) -> Tensor:
    """Cut HU (n, x, y, z) into 2x2x2 patches seen through every window, each scaled to -1..1.

    Returns:
        (n, x/2, y/2, z/2, 8 * windows).
    """
    n, x, y, z = hu.shape
    cut = hu.float().view(n, x // 2, 2, y // 2, 2, z // 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
    low, high = torch.tensor(windows_hu, device=hu.device).T
    gain = 2.0 / (high - low)
    # One pass over the memory instead of three.
    scaled = torch.addcmul(-low * gain - 1.0, cut.reshape(n, x // 2, y // 2, z // 2, 8, 1), gain)
    return scaled.clamp_(-1.0, 1.0).flatten(-2)


def token_shape(settings: ImageEncoderSettings, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Give the size of the token map of a volume of this shape."""
    x, y, z = (math.ceil(n / 2 ** (1 + len(settings.channels))) for n in shape)
    return (x, y, z)


def map_shape(settings: ImageEncoderSettings, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Give the size of the finding maps of a volume of this shape."""
    x, y, z = token_shape(settings, shape)
    return (2 * x, 2 * y, 2 * z)


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions with norms around a shortcut. Source: He et al. 2016, basic block."""

    def __init__(self, channels_in: int, channels: int, stride: int, *, norm: str = "group") -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = NORMS[norm](channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = NORMS[norm](channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.AvgPool3d(stride, stride) if stride > 1 else nn.Identity(),
                nn.Conv3d(channels_in, channels, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c_in, x, y, z) to (n, c, x/stride, y/stride, z/stride)."""
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


def _group_norm(channels: int) -> nn.Module:
    # The same in training and use, and as fast as batch norm in channels-last order.
    return nn.GroupNorm(max(channels // 16, 4), channels)


class ImageEncoder(nn.Module):
    """CT volumes to pooled features and label scores.

    Attributes:
        features: width of the pooled feature vector.
        map_names: findings that have a map.
    """

    def __init__(self, settings: ImageEncoderSettings, *, shape: tuple[int, int, int], labels: Sequence[str]) -> None:
        super().__init__()
        halvings = 2 ** (1 + len(settings.channels))
        if any(n % halvings for n in shape):
            raise ConfigError(
                f"grid of {shape} voxels; a stem and {len(settings.channels)} stages halve it to tokens of {halvings} "
                "voxels: give sides that are multiples of that, or fewer channels"
            )
        if len(settings.blocks) != len(settings.channels):
            raise ConfigError(
                f"{len(settings.blocks)} numbers of blocks for {len(settings.channels)} stages; give one for each"
            )
        if settings.finding_maps and len(settings.channels) < 2:
            raise ConfigError(
                "finding maps need two stages or more; give channels and blocks of another, or none of maps"
            )
        self.settings = settings
        last = settings.channels[-1]
        self.stem = nn.Linear(8 * len(settings.windows_hu), settings.patch)
        stages, channels_in = [], settings.patch
        for channels, blocks in zip(settings.channels, settings.blocks, strict=True):
            for block in range(blocks):
                stages.append(ResidualBlock(channels_in, channels, 2 if block == 0 else 1, norm=settings.norm))
                channels_in = channels
        self.stages = nn.Sequential(*stages)
        self.map_names = names_of(labels) if settings.finding_maps else ()
        if self.map_names:
            self.finder = FindingMaps(settings.channels[-2], last, findings=len(self.map_names))
            self.placed = PlacedMaps(
                token_shape(settings, shape), [self.map_names.index(name_of(label)) for label in labels]
            )
        self.position = nn.ParameterList(nn.Parameter(torch.randn(n, last) * 0.5) for n in token_shape(settings, shape))
        self.token_norm = nn.LayerNorm(last)
        self.token_mlp = nn.Sequential(nn.Linear(last, 2 * last), nn.GELU(), nn.Linear(2 * last, last))
        self.queries = nn.Parameter(torch.randn(settings.queries, last))
        self.keys = nn.Linear(last, last)
        self.values = nn.Linear(last, last)
        self.label_scores = nn.Linear(last, len(labels)) if labels else None
        if self.label_scores is not None:
            # Findings are rare: begin near a few per cent instead of at one half.
            nn.init.constant_(self.label_scores.bias, -6.0)
        self.features = settings.queries * last + len(labels)
        # Torch's overloads leave out this documented form.
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def look(self, hu: Tensor) -> Seen:
        """Map HU (n, x, y, z) to position-aware tokens, and to maps of the findings."""
        # Channels stand last in memory, seen as (n, c, x, y, z): the channels-last layout without a copy.
        x = functional.relu(self.stem(patches(hu, self.settings.windows_hu)), inplace=True).permute(0, 4, 1, 2, 3)
        first_of_last = len(self.stages) - self.settings.blocks[-1]
        fine = self.stages[:first_of_last](x)
        x = self.stages[first_of_last:](fine).permute(0, 2, 3, 4, 1)
        along_x, along_y, along_z = self.position
        x = self.token_norm(x) + along_x[:, None, None] + along_y[:, None] + along_z
        tokens = x + self.token_mlp(x)
        if not self.map_names:
            return Seen(tokens.flatten(1, 3), tokens.new_zeros(len(tokens), 0, 0))
        tokens, maps = self.finder(tokens, fine.permute(0, 2, 3, 4, 1))
        return Seen(tokens.flatten(1, 3), maps.flatten(1, 3))

    def forward(self, hu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map HU (n, x, y, z) to features (n, features) and the label scores of each volume and of each token."""
        return self.pool(self.look(hu))

    def pool(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """Pool to features (n, features) and the label scores of each volume and of each token."""
        tokens, maps = seen
        n, count, width = tokens.shape
        heads, queries = self.settings.heads, self.settings.queries
        keys = self.keys(tokens).view(n, count, heads, width // heads)
        values = self.values(tokens).view(n, count, heads, width // heads)
        query = self.queries.view(queries, heads, width // heads)
        weight = torch.einsum("qhd,nthd->nhqt", query, keys).div(math.sqrt(width // heads)).softmax(-1)
        pooled = torch.einsum("nhqt,nthd->nqhd", weight, values).reshape(n, queries * width)
        if self.label_scores is None:
            return pooled, pooled.new_zeros(n, 0), pooled.new_zeros(n, count, 0)
        token_scores = self.label_scores(tokens)
        scores = _smooth_max(token_scores)
        if self.map_names:
            scores = scores + self.placed(maps)
        return torch.cat([pooled, scores.clamp(-8, 8) / 4], 1), scores, token_scores


class FindingMaps(nn.Module):
    """Scores of every finding on a grid twice as fine as the tokens', and tokens that know of them.

    Source: lateral and top-down connections as in feature pyramids (Lin et al. 2017); that the scores flow back into
    the tokens is ours.
    """

    def __init__(self, fine: int, width: int, *, findings: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(fine)
        self.lateral = nn.Linear(fine, width)
        self.top = nn.Linear(width, width)
        self.scores = nn.Linear(width, findings)
        self.back = nn.Linear(findings, width)
        # A finding fills few of the cells: begin there.
        nn.init.constant_(self.scores.bias, -6.0)

    def forward(self, tokens: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens (n, x, y, z, width) and features of twice the resolution to tokens and scores of the findings.

        Args:
            fine: (n, 2x, 2y, 2z, channels).
        """
        n, x, y, z, width = tokens.shape
        lateral = self.lateral(self.norm(fine)).view(n, x, 2, y, 2, z, 2, width)
        mixed = functional.relu(lateral + self.top(tokens).view(n, x, 1, y, 1, z, 1, width))
        scores = self.scores(mixed)
        found = scores.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).logsumexp(4)
        return tokens + self.back(found.clamp(-8, 8) / 4), scores.reshape(n, 2 * x, 2 * y, 2 * z, -1)


class PlacedMaps(nn.Module):
    """Scores of labels from the maps of their findings: one token that sees the finding where it should be is enough.

    Where a label's finding is looked for ("nodule | left upper lobe") is learned along each axis; ours. Without it what
    the maps know of small findings reaches the labels too late: a map told collapsed vertebrae with an AUROC of 0.98,
    the label made from tokens with 0.66.

    Args:
        shape: tokens along x, y, z.
        finding: of each label, the number of its map.
    """

    def __init__(self, shape: tuple[int, int, int], finding: Sequence[int]) -> None:
        super().__init__()
        self.shape = shape
        self.finding: Tensor
        self.register_buffer("finding", torch.tensor(finding, dtype=torch.long), persistent=False)
        self.place = nn.ParameterList(nn.Parameter(torch.zeros(n, len(finding))) for n in shape)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (n, cells, findings) to label scores (n, labels)."""
        x, y, z = self.shape
        by_token = maps.reshape(len(maps), x, 2, y, 2, z, 2, -1).logsumexp((2, 4, 6))
        scores = by_token.index_select(4, self.finding)
        # Axis by axis: the sum over all places at once would hold a map for each label several times.
        for place in reversed(self.place):
            scores = torch.logsumexp(scores + place, -2)
        return scores - math.log(maps.shape[1]) * 0.5


def _smooth_max(token_scores: Tensor) -> Tensor:
    """Pool (n, tokens, labels) over the tokens: one token that sees the finding is enough (multiple instances)."""
    return torch.logsumexp(token_scores, 1) - math.log(token_scores.shape[1]) * 0.5


NORMS: dict[str, Callable[[int], nn.Module]] = {"group": _group_norm, "batch": nn.BatchNorm3d}
