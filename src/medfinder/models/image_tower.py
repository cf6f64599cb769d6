"""2-D image towers: pictures to vectors, for the baselines that see a CT slice by slice.

In: pictures (n, 3, side, side) of values 0 to 1. Out: vectors (n, width), not of unit length. The published towers of
CLIP and BiomedCLIP are read from open_clip's format, from the same folder as their text towers (open_clip itself needs
torchvision; the tests compare with what it gave). The towers named ``random_...`` have random weights and have seen
nothing: they are for machines without the published ones, and their rows are no measure of CLIP. Refused: missing
files, weights that do not fit, an option for which there is no code here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfinder.errors import CheckpointError, ConfigError
from medfinder.models.hub import check_sha256, fetch, sha256_of
from medfinder.models.open_clip_format import (
    CONFIG,
    check_weights,
    fill_config,
    read_config,
    read_json,
    read_weights,
    weights_path,
)
from medfinder.models.open_clip_text import BIOMEDCLIP, CLIP, Published

Colour = tuple[float, float, float]

# Of CLIP's training pictures, red, green and blue; BiomedCLIP took them over (Radford et al. 2021, their code).
CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)

# timm's plain vision transformers: heads, which the shapes of the weights do not tell.
TIMM_HEADS = {
    "vit_tiny_patch16_224": 3,
    "vit_small_patch16_224": 6,
    "vit_base_patch16_224": 12,
    "vit_large_patch16_224": 16,
}


class ImageTower(Protocol):
    """What the baselines need of a tower, which is an ``nn.Module`` besides.

    Attributes:
        side: pixels of a picture's rows and columns.
        width: length of a vector.
    """

    side: int
    width: int

    def __call__(self, pictures: Tensor) -> Tensor:
        """Map pictures (n, 3, side, side), 0 to 1, to vectors (n, width)."""
        ...


@dataclass(frozen=True)
class TowerShape:
    """How a vision transformer is built.

    Attributes:
        side: pixels of a picture's rows and columns.
        patch: pixels of a patch's rows and columns.
        inner: length of a token.
        mlp: width of the hidden layer in each block.
        width: length of the vector that comes out.
        epsilon: of the layer norms: 1e-5 in CLIP, 1e-6 in timm.
        is_clip: CLIP norms the tokens before its blocks and has no bias at its patches; timm the other way round.
        mean: of each colour, taken off the pictures.
        std: of each colour, which they are then divided by.
    """

    side: int
    patch: int
    inner: int
    layers: int
    heads: int
    mlp: int
    width: int
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    epsilon: float = 1e-5
    is_clip: bool = True
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD

    def __post_init__(self) -> None:
        if self.side % self.patch or self.inner % self.heads:
            raise ConfigError(
                f"a tower of {self.side} pixels with patches of {self.patch}, width {self.inner} with {self.heads} "
                "heads; give multiples"
            )


class Block(nn.Module):
    """Attention and two layers, each around a shortcut, normed first. Source: Radford et al. 2021, ViT-B."""

    def __init__(self, inner: int, *, heads: int, mlp: int, activation: str = "quick_gelu", epsilon: float = 1e-5):
        super().__init__()
        self.heads = heads
        self.activation = activation
        self.norm1 = nn.LayerNorm(inner, epsilon)
        self.qkv = nn.Linear(inner, 3 * inner)
        self.out = nn.Linear(inner, inner)
        self.norm2 = nn.LayerNorm(inner, epsilon)
        self.up = nn.Linear(inner, mlp)
        self.down = nn.Linear(mlp, inner)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (n, tokens, inner) to tokens of the same shape."""
        n, tokens, inner = x.shape
        query, key, value = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(seen.transpose(1, 2).reshape(n, tokens, inner))
        hidden = self.up(self.norm2(x))
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.activation == "quick_gelu" else functional.gelu(hidden)
        whole: Tensor = x + self.down(hidden)
        return whole


class VisionTransformer(nn.Module):
    """The vision transformer of CLIP, or timm's; an ``ImageTower``. Source: Dosovitskiy et al. 2021."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.shape = shape
        self.side, self.width = shape.side, shape.width
        inner, tokens = shape.inner, (shape.side // shape.patch) ** 2
        self.patches = nn.Conv2d(3, inner, shape.patch, shape.patch, bias=not shape.is_clip)
        self.token = nn.Parameter(torch.randn(inner) * inner**-0.5)
        self.position = nn.Parameter(torch.randn(1 + tokens, inner) * inner**-0.5)
        self.norm_before = nn.LayerNorm(inner, shape.epsilon) if shape.is_clip else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                Block(inner, heads=shape.heads, mlp=shape.mlp, activation=shape.activation, epsilon=shape.epsilon)
                for _ in range(shape.layers)
            )
        )
        self.norm_after = nn.LayerNorm(inner, shape.epsilon)
        self.projection = nn.Linear(inner, shape.width, bias=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures (n, 3, side, side), 0 to 1, to vectors (n, width): the state of the class token, projected."""
        mean, std = (pictures.new_tensor(colour).view(3, 1, 1) for colour in (self.shape.mean, self.shape.std))
        tokens = self.patches((pictures - mean) / std).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), 1, -1), tokens], 1) + self.position
        tokens = self.blocks(self.norm_before(tokens))
        vectors: Tensor = self.projection(self.norm_after(tokens[:, 0]))
        return vectors


class SmallResNet(nn.Module):
    """A small 2-D ResNet with CLIP's attention pooling; an ``ImageTower``.

    Group norms instead of batch norms, so that a picture's vector does not depend on what is beside it. Source:
    Radford et al. 2021, section 2.4 (a ResNet whose last map is pooled by attention from its mean); the sizes are ours.

    Args:
        side: pixels of a picture's rows and columns, a multiple of 16.
        channels: of the first stage; each of the two later ones doubles it.
    """

    def __init__(self, *, side: int = 64, channels: int = 32, width: int = 128) -> None:
        super().__init__()
        if side % 16 or channels % 8:
            raise ConfigError(f"a ResNet of {side} pixels and {channels} channels; give multiples of 16 and 8")
        self.side, self.width = side, width
        inner = 4 * channels
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1, bias=False), _norm(channels), nn.ReLU())
        self.stages = nn.Sequential(
            _ResidualBlock(channels, channels),
            _ResidualBlock(channels, 2 * channels),
            _ResidualBlock(2 * channels, inner),
        )
        self.position = nn.Parameter(torch.randn(1 + (side // 16) ** 2, inner) * inner**-0.5)
        self.pool = nn.MultiheadAttention(inner, 4, batch_first=True)
        self.projection = nn.Linear(inner, width)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures (n, 3, side, side), 0 to 1, to vectors (n, width)."""
        tokens = self.stages(self.stem(2.0 * pictures - 1.0)).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + self.position
        pooled = self.pool(tokens[:, :1], tokens, tokens, need_weights=False)[0]
        vectors: Tensor = self.projection(pooled[:, 0])
        return vectors


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, halving the map. Source: He et al. 2016, basic block."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, 2, 1, bias=False), _norm(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), _norm(channels),
        )  # fmt: skip
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels_in, channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.inside(x) + self.shortcut(x))


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(max(channels // 16, 4), channels)


def load_image_tower(name: str) -> nn.Module:
    """Make an image tower by its name in ``IMAGE_TOWERS``.

    Args:
        name: a key of ``IMAGE_TOWERS``, or ``KEY:FOLDER`` with the folder of a published tower's files, e.g.
            ``biomedclip:models/biomedclip``. Random towers draw their weights from torch's own generator.

    Returns:
        An ``ImageTower``, its weights free to be trained.

    Raises:
        ConfigError: no tower has that name.
        CheckpointError: its files are missing or damaged, are not the published ones, or are of another kind.
    """
    key, folder = _parsed(name)
    return IMAGE_TOWERS[key](folder)


def tower_sha256(name: str) -> str | None:
    """Compute the sha256 of a published tower's weights, as a checkpoint records it; None for a random tower."""
    key, folder = _parsed(name)
    published = {"biomedclip": BIOMEDCLIP, "clip": CLIP}.get(key)
    return None if published is None else sha256_of(weights_path(folder or _fetch(published)))


def _parsed(name: str) -> tuple[str, Path | None]:
    key, colon, place = name.partition(":")
    if key not in IMAGE_TOWERS:
        raise ConfigError(f"unknown image tower {key!r}; known: {', '.join(sorted(IMAGE_TOWERS))}")
    if colon and (not place or key.startswith("random_")):
        raise ConfigError(f"image tower {name!r}; expected a published tower with a folder, as in clip:FOLDER")
    return key, Path(place).expanduser() if colon else None


def _read(published: Published, folder: Path | None) -> VisionTransformer:
    place = _fetch(published) if folder is None else folder
    config = read_config(place, "vision_cfg")
    stored = {
        key.removeprefix("visual."): weight.float()
        for key, weight in read_weights(weights_path(place)).items()
        if key.startswith("visual.")
    }
    shape = (
        _timm_shape(place, config, stored) if "timm_model_name" in config["vision_cfg"] else _clip_shape(place, config)
    )
    # Whoever draws random numbers next must not notice that a tower was made.
    with torch.random.fork_rng(devices=[]):
        tower = VisionTransformer(shape)
    names = _clip_names(shape.layers) if shape.is_clip else _timm_names(shape.layers)
    own = tower.state_dict()
    check_weights(stored, {name: _stored_shape(name, tuple(own[key].shape)) for key, name in names.items()}, place)
    tower.load_state_dict({key: _as_ours(name, stored[name]).reshape(own[key].shape) for key, name in names.items()})
    return tower


def _fetch(published: Published) -> Path:
    otherwise = (
        f"copy {CONFIG} and {published.weights} of "
        f"https://huggingface.co/{published.repository}/tree/{published.revision} into one folder and name it: "
        f'tower = "{published.name}:FOLDER"'
    )
    files = (CONFIG, published.weights)
    folder = fetch(published.repository, files, revision=published.revision, otherwise=otherwise, what="image tower")
    if published.sha256 is not None:
        check_sha256(folder / published.weights, published.sha256)
    return folder


def _colours(folder: Path) -> tuple[Colour, Colour]:
    """Read mean and standard deviation of the pictures that a published tower was trained on."""
    found = read_json(folder / CONFIG).get("preprocess_cfg", {})
    colours = []
    for name, default in (("mean", CLIP_MEAN), ("std", CLIP_STD)):
        values = found.get(name, default) if isinstance(found, dict) else None
        if (
            not isinstance(values, list | tuple)
            or len(values) != 3
            or not all(isinstance(v, int | float) for v in values)
        ):
            raise CheckpointError(f"{folder / CONFIG} has {name} {values!r} in preprocess_cfg, expected three numbers")
        colours.append((float(values[0]), float(values[1]), float(values[2])))
    return colours[0], colours[1]


def _clip_shape(folder: Path, config: Mapping[str, Any]) -> TowerShape:
    vision = fill_config(
        folder,
        config,
        "vision_cfg",
        sizes={"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224},
        fixed={
            "ls_init_value": None, "attentional_pool": False, "no_ln_pre": False, "pos_embed_type": "learnable",
            "final_ln_after_pool": False, "pool_type": "tok", "act_kwargs": None, "norm_kwargs": None,
            "block_type": None, "qk_norm": False, "scaled_cosine_attn": False, "scale_heads": False,
            "scale_attn_inner": False, "scale_attn": False, "scale_fc": False,
        },
        # Patches are dropped in training only; a pooler that is not built has no queries.
        idle={"patch_dropout", "attn_pooler_queries", "attn_pooler_heads", "output_tokens"},
    )  # fmt: skip
    mean, std = _colours(folder)
    return TowerShape(
        side=int(vision["image_size"]),
        patch=int(vision["patch_size"]),
        inner=int(vision["width"]),
        layers=int(vision["layers"]),
        heads=max(1, int(vision["width"]) // int(vision["head_width"])),
        mlp=int(vision["width"] * vision["mlp_ratio"]),
        width=int(config["embed_dim"]),
        activation="quick_gelu" if config.get("quick_gelu", False) else "gelu",
        mean=mean,
        std=std,
    )


def _timm_shape(folder: Path, config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> TowerShape:
    """Give the shape of a plain vision transformer of timm: its name tells the heads, its weights the rest."""
    vision = fill_config(
        folder,
        config,
        "vision_cfg",
        sizes={"timm_model_name": "", "timm_pool": "avg", "image_size": 224},
        fixed={"timm_proj": "linear", "timm_proj_bias": False},
        idle={"timm_model_pretrained", "timm_drop", "timm_drop_path", "patch_dropout"},
    )
    name = vision["timm_model_name"]
    if name not in TIMM_HEADS or vision["timm_pool"] not in ("", "token"):
        raise CheckpointError(
            f"{folder / CONFIG} has timm_model_name {name!r} with timm_pool {vision['timm_pool']!r}, expected one of "
            f"{', '.join(TIMM_HEADS)} with '': no other is built"
        )
    try:
        inner, _, patch, _ = stored["trunk.patch_embed.proj.weight"].shape
        mlp = len(stored["trunk.blocks.0.mlp.fc1.bias"])
    except (KeyError, ValueError):
        raise CheckpointError(f"the weights in {folder} are not those of timm's {name}; fetch them again") from None
    mean, std = _colours(folder)
    return TowerShape(
        side=int(vision["image_size"]),
        patch=patch,
        inner=inner,
        layers=len({key.split(".")[2] for key in stored if key.startswith("trunk.blocks.")}),
        heads=TIMM_HEADS[name],
        mlp=mlp,
        width=int(config["embed_dim"]),
        epsilon=1e-6,
        is_clip=False,
        mean=mean,
        std=std,
    )


def _clip_names(layers: int) -> dict[str, str]:
    """Tell open_clip's name of each of our weights, for CLIP's own tower."""
    names = {
        "patches.weight": "conv1.weight",
        "token": "class_embedding",
        "position": "positional_embedding",
        "projection.weight": "proj",
    }
    parts = {"norm1.": "ln_1.", "qkv.": "attn.in_proj_", "out.": "attn.out_proj.", "norm2.": "ln_2."}
    parts |= {"up.": "mlp.c_fc.", "down.": "mlp.c_proj."}
    return names | _pairs(
        {"norm_before.": "ln_pre.", "norm_after.": "ln_post."}, parts, "transformer.resblocks", layers
    )


def _timm_names(layers: int) -> dict[str, str]:
    """Tell open_clip's name of each of our weights, for a tower of timm."""
    names = {"token": "trunk.cls_token", "position": "trunk.pos_embed", "projection.weight": "head.proj.weight"}
    parts = {"norm1.": "norm1.", "qkv.": "attn.qkv.", "out.": "attn.proj.", "norm2.": "norm2."}
    parts |= {"up.": "mlp.fc1.", "down.": "mlp.fc2."}
    outside = {"patches.": "trunk.patch_embed.proj.", "norm_after.": "trunk.norm."}
    return names | _pairs(outside, parts, "trunk.blocks", layers)


def _pairs(outside: Mapping[str, str], parts: Mapping[str, str], blocks: str, layers: int) -> dict[str, str]:
    """Name weight and bias of each part, those of every block included."""
    inside = {f"blocks.{n}.{own}": f"{blocks}.{n}.{theirs}" for n in range(layers) for own, theirs in parts.items()}
    return {own + kind: theirs + kind for own, theirs in {**outside, **inside}.items() for kind in ("weight", "bias")}


def _stored_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the shape that a weight of ours has in the file: CLIP's projection is turned, timm's tokens lie deeper."""
    leading = {"trunk.cls_token": (1, 1), "trunk.pos_embed": (1,)}.get(name, ())
    return leading + (shape[::-1] if name == "proj" else shape)


def _as_ours(name: str, weight: Tensor) -> Tensor:
    return weight.T if name == "proj" else weight


def _random(build: Callable[[], nn.Module]) -> Callable[[Path | None], nn.Module]:
    return lambda _folder: build()


# The random towers' sizes are ours: a slice of the default grid is 64 x 56 voxels, and a step must be quick on a CPU.
RANDOM_VIT = TowerShape(side=64, patch=8, inner=128, layers=4, heads=4, mlp=256, width=128)

IMAGE_TOWERS: dict[str, Callable[[Path | None], nn.Module]] = {
    "biomedclip": lambda folder: _read(BIOMEDCLIP, folder),
    "clip": lambda folder: _read(CLIP, folder),
    "random_resnet": _random(SmallResNet),
    "random_vit": _random(lambda: VisionTransformer(RANDOM_VIT)),
}
