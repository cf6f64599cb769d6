"""3-D image encoders: a volume to a class vector and a map of tokens.

In: a batch of volumes as floats (n, channels, x, y, z), whatever was done to their HU. Out: a ``TokenMap``. All start
from random weights. Architectures are those of MONAI, with which the tests compare weights and outputs. A row depends
on no other row of its batch, so that a batch may be encoded in chunks; ``resnet50_batch_norm`` alone is an exception,
and says so. Refused: volumes of another shape than the encoder was built for, sides that a patch does not divide.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfinder.errors import ConfigError
from medfinder.models.image_encoder import ResidualBlock

Shape = tuple[int, int, int]
# Of each stage of a ResNet. Source: He et al. 2016, table 1.
_STAGES = (64, 128, 256, 512)


class TokenMap(NamedTuple):
    """What an image encoder makes of a batch.

    Attributes:
        cls: (n, width); the ViT's class token, the ResNet's global average. Z_cls of the paper.
        tokens: (n, tokens, width); x varies slowest, z fastest.
    """

    cls: Tensor
    tokens: Tensor


class VolumeEncoder(Protocol):
    """An ``nn.Module`` that maps volumes of one shape to a ``TokenMap``.

    Attributes:
        width: length of a token.
        tokens: number of tokens along x, y and z.
        has_batch_statistics: in training, a row depends on the others of its batch.
    """

    width: int
    tokens: Shape
    has_batch_statistics: bool

    def __call__(self, x: Tensor) -> TokenMap:
        """Map (n, channels, x, y, z) to tokens."""
        ...


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions around a shortcut. Source: He et al. 2016, figure 5, left."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = norm(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = norm(channels)
        self.shortcut = _shortcut(channels_in, channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels_in, x, y, z) to (n, channels, x/stride, y/stride, z/stride)."""
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


class Bottleneck(nn.Module):
    """A 3x3x3 convolution between two of 1x1x1, around a shortcut. Source: He et al. 2016, figure 5, right."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels_in, channels, 1, bias=False)
        self.norm1 = norm(channels)
        # The stride is here, not in the first convolution: MONAI and torchvision do so ("ResNet v1.5").
        self.conv2 = nn.Conv3d(channels, channels, 3, stride, 1, bias=False)
        self.norm2 = norm(channels)
        self.conv3 = nn.Conv3d(channels, 4 * channels, 1, bias=False)
        self.norm3 = norm(4 * channels)
        self.shortcut = _shortcut(channels_in, 4 * channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels_in, x, y, z) to (n, 4 * channels, x/stride, y/stride, z/stride)."""
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        y = functional.relu(self.norm2(self.conv2(y)), inplace=True)
        return functional.relu(self.norm3(self.conv3(y)) + self.shortcut(x), inplace=True)


def _shortcut(channels_in: int, channels: int, stride: int, norm: Callable[[int], nn.Module]) -> nn.Module:
    """Make the shortcut of "type B": a projection where the size changes, else nothing."""
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    # The norm swallows this bias; it is here because MONAI has it.
    return nn.Sequential(nn.Conv3d(channels_in, channels, 1, stride), norm(channels))


def _group_norm(channels: int) -> nn.Module:
    # 32 groups: Wu & He 2018, table 3.
    return nn.GroupNorm(32, channels)


class ResNet3d(nn.Module):
    """A 3-D residual network; see ``VolumeEncoder``.

    Source: He et al. 2016, with the third axis of Hara et al. 2018, as in MONAI.

    Its memory order is torch's default. ``.to(memory_format=torch.channels_last_3d)`` made the forward up to a third
    faster and a training step up to a half slower where it was tried (float32, AVX-512 without bf16; the backward of
    group norm is slow in that order). Measure with ``benchmarks/encoders.py``, then choose.

    Args:
        shape: voxels along x, y and z; any.
        channels_in: channels of a volume.
        block: kind of block.
        blocks: their number in each of the four stages.
        stem_stride: of the first convolution. 2 as in He et al. and MedicalNet; MONAI's default is 1, which gives eight
            times the tokens for about eight times the work.
        batch_norm: normalise over the batch as He et al. and MONAI do, instead of over groups of channels. In training
            a row then depends on its batch. Both have the same number of weights.

    Raises:
        ConfigError: a side or the number of channels is below 1.
    """

    def __init__(
        self,
        shape: Shape,
        channels_in: int,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        *,
        stem_stride: int = 2,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        _check_sizes(shape, channels_in)
        norm: Callable[[int], nn.Module] = nn.BatchNorm3d if batch_norm else _group_norm
        self.shape, self.channels_in = shape, channels_in
        self.has_batch_statistics = batch_norm
        self.width = _STAGES[-1] * block.expansion
        # The stem's convolution and its pooling, then three stages: each rounds up.
        self.tokens = _divided(shape, 16 * stem_stride)
        self.conv1 = nn.Conv3d(channels_in, _STAGES[0], 7, stem_stride, 3, bias=False)
        self.norm1 = norm(_STAGES[0])
        self.pool = nn.MaxPool3d(3, 2, 1)
        stages, channels_before = [], _STAGES[0]
        for number, (channels, count) in enumerate(zip(_STAGES, blocks, strict=True)):
            stage = []
            for first in [True] + [False] * (count - 1):
                stage.append(block(channels_before, channels, 2 if first and number else 1, norm))
                channels_before = channels * block.expansion
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> TokenMap:
        """Map (n, channels, x, y, z) to tokens; the class vector is their mean."""
        _check_input(x, self.channels_in, self.shape)
        x = self.pool(functional.relu(self.norm1(self.conv1(x)), inplace=True))
        tokens = self.stages(x).flatten(2).transpose(1, 2)
        return TokenMap(tokens.mean(1), tokens)


class Compact(nn.Module):
    """The convolutions of our own image encoder, for machines without a GPU; see ``VolumeEncoder``.

    Ours: a matrix product over patches of 2x2x2 voxels, then two stages of one residual block that halve the grid. With
    it the paper's objective can be compared with ours on the same encoder.

    Args:
        shape: voxels along x, y and z; multiples of 8.
        channels_in: channels of a volume.

    Raises:
        ConfigError: a side is no multiple of 8.
    """

    has_batch_statistics = False
    width = 128

    def __init__(self, shape: Shape, channels_in: int) -> None:
        super().__init__()
        _check_sizes(shape, channels_in)
        if any(side % 8 for side in shape):
            raise ConfigError(
                f"a volume of {_by(shape)} voxels; the compact encoder needs sides that are multiples of 8"
            )
        self.shape, self.channels_in = shape, channels_in
        self.tokens = _divided(shape, 8)
        self.stem = nn.Conv3d(channels_in, 32, 2, 2)
        self.stages = nn.Sequential(ResidualBlock(32, 64, 2), ResidualBlock(64, self.width, 2))
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's overloads leave it out

    def forward(self, x: Tensor) -> TokenMap:
        """Map (n, channels, x, y, z) to tokens; the class vector is their mean."""
        _check_input(x, self.channels_in, self.shape)
        x = functional.relu(self.stem(x.to(memory_format=torch.channels_last_3d)), inplace=True)
        tokens = self.stages(x).flatten(2).transpose(1, 2)
        return TokenMap(tokens.mean(1), tokens)


class TransformerBlock(nn.Module):
    """Self-attention, then two layers, each on normalised input around a shortcut. Source: Dosovitskiy et al. 2021."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, tokens, width) to the same shape."""
        n, count, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, count, width)
        x = x + self.out(attended)
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed


class Vit3d(nn.Module):
    """A vision transformer on cubes of voxels; see ``VolumeEncoder``.

    Source: Dosovitskiy et al. 2021; queries, keys and values have no bias, as in MONAI. One learned position per
    token, for the shape at hand.

    Args:
        shape: voxels along x, y and z; multiples of the patch.
        channels_in: channels of a volume.
        patch: side of a cube in voxels.
        width: length of a token.
        layers: number of blocks.
        heads: attention heads of a block.
        hidden: width between the two layers of a block.

    Raises:
        ConfigError: the patch does not divide a side, or the number of channels is below 1.
    """

    has_batch_statistics = False

    def __init__(
        self, shape: Shape, channels_in: int, *, patch: int, width: int, layers: int, heads: int, hidden: int
    ) -> None:
        super().__init__()
        _check_sizes(shape, channels_in)
        if any(side % patch for side in shape):
            nearest = _by(tuple(max(patch, round(side / patch) * patch) for side in shape))
            raise ConfigError(
                f"a volume of {_by(shape)} voxels, patches of {patch}; expected sides that are multiples of {patch}: "
                f"make the grid {nearest}, or take an encoder with other patches or a resnet"
            )
        self.shape, self.channels_in, self.width = shape, channels_in, width
        self.tokens = _divided(shape, patch)
        self.patches = nn.Conv3d(channels_in, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        count = self.tokens[0] * self.tokens[1] * self.tokens[2]
        self.positions = nn.Parameter(torch.empty(1, count, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, hidden) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> TokenMap:
        """Map (n, channels, x, y, z) to tokens, after the last norm."""
        _check_input(x, self.channels_in, self.shape)
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        # The class token has no position.
        x = self.norm(self.blocks(torch.cat([self.class_token.expand(len(x), -1, -1), x], 1)))
        return TokenMap(x[:, 0], x[:, 1:])


def _check_sizes(shape: Shape, channels_in: int) -> None:
    if min(shape) < 1 or channels_in < 1:
        raise ConfigError(f"volumes of {_by(shape)} voxels and {channels_in} channels; expected at least 1 of each")


def _check_input(x: Tensor, channels_in: int, shape: Shape) -> None:
    if x.shape[1:] != (channels_in, *shape):
        raise ConfigError(
            f"a batch of shape {_by(x.shape)}; this image encoder was built for {channels_in} channels of "
            f"{_by(shape)} voxels: standardise volumes on its grid, or build it for theirs"
        )


def _divided(shape: Shape, by: int) -> Shape:
    x, y, z = (-(-side // by) for side in shape)
    return (x, y, z)


def _by(sides: Sequence[int]) -> str:
    return "x".join(str(side) for side in sides)


# Sizes: He et al. 2016, table 1 (resnet10: MONAI, one block a stage); Dosovitskiy et al. 2021, table 1 (vit_b);
# Touvron et al. 2021, table 1 (vit_s, vit_ti; vit_xs is ours); these have patches of 8, ours: they divide the default
# grid, and leave it 448 tokens.
# resnet50_batch_norm is MONAI's default, which the authors' released script trains.
IMAGE_ENCODERS: dict[str, Callable[[Shape, int], ResNet3d | Vit3d | Compact]] = {
    "compact": Compact,
    "resnet10": lambda shape, channels_in: ResNet3d(shape, channels_in, BasicBlock, (1, 1, 1, 1)),
    "resnet18": lambda shape, channels_in: ResNet3d(shape, channels_in, BasicBlock, (2, 2, 2, 2)),
    "resnet50": lambda shape, channels_in: ResNet3d(shape, channels_in, Bottleneck, (3, 4, 6, 3)),
    "resnet50_batch_norm": lambda shape, channels_in: ResNet3d(
        shape, channels_in, Bottleneck, (3, 4, 6, 3), stem_stride=1, batch_norm=True
    ),
    "vit_b": lambda shape, channels_in: Vit3d(
        shape, channels_in, patch=16, width=768, layers=12, heads=12, hidden=3072
    ),
    "vit_s": lambda shape, channels_in: Vit3d(shape, channels_in, patch=8, width=384, layers=12, heads=6, hidden=1536),
    "vit_xs": lambda shape, channels_in: Vit3d(shape, channels_in, patch=8, width=128, layers=6, heads=4, hidden=512),
    "vit_ti": lambda shape, channels_in: Vit3d(shape, channels_in, patch=8, width=192, layers=12, heads=3, hidden=768),
}
