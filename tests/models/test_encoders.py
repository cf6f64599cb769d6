"""The 3-D image encoders are MONAI's architectures: as many weights, and with the same weights the same tokens.

Expected values: MONAI 1.6.1, asked on the spot. Token counts at 224x224x96 are worked by hand.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medfinder.errors import ConfigError
from medfinder.models.encoders import IMAGE_ENCODERS, BasicBlock, Bottleneck, ResNet3d, TokenMap, Vit3d

PAPER = (224, 224, 96)
LARGE = ("resnet50", "resnet50_batch_norm", "vit_b")
SMALL_VIT = {"patch": 4, "width": 24, "layers": 2, "heads": 3, "hidden": 40}


def slow(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def nets() -> Any:
    """MONAI's networks; the import takes seconds."""
    import monai.networks.nets

    return monai.networks.nets


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def randomised(model: nn.Module) -> nn.Module:
    """Draw every weight and running figure anew, so that one in the wrong place shows."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            drawn = torch.randn_like(tensor) * 0.3
            tensor.data = drawn.abs() + 0.5 if name.endswith("running_var") else drawn
    return model


def with_group_norm(model: nn.Module) -> nn.Module:
    """Put group norms of 32 groups in the place of batch norms."""
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm3d):
            setattr(model, name, nn.GroupNorm(32, child.num_features))
        else:
            with_group_norm(child)
    return model


def resnet_name(theirs: str) -> str:
    """Name a weight of MONAI's ResNet as ours is named."""
    name = theirs.replace("downsample", "shortcut").replace("bn", "norm")
    parts = name.split(".")
    if parts[0].startswith("layer"):
        parts[:1] = ["stages", str(int(parts[0].removeprefix("layer")) - 1)]
    return ".".join(parts)


def vit_name(theirs: str) -> str:
    """Name a weight of MONAI's ViT as ours is named."""
    for old, new in {
        "patch_embedding.position_embeddings": "positions",
        "patch_embedding.patch_embeddings": "patches",
        "cls_token": "class_token",
        "attn.qkv": "qkv",
        "attn.out_proj": "out",
        "mlp.linear1": "mlp.0",
        "mlp.linear2": "mlp.2",
    }.items():
        theirs = theirs.replace(old, new)
    return theirs


def used(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what MONAI's ViT holds without using it (its norms before a cross-attention that is not there)."""
    return {name: weight for name, weight in weights.items() if "norm_cross_attn" not in name and "head" not in name}


def count(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def built_at_no_cost(name: str, shape: tuple[int, int, int] = PAPER) -> ResNet3d | Vit3d:
    with torch.device("meta"):
        return IMAGE_ENCODERS[name](shape, 1)


@pytest.mark.parametrize("name", ["resnet10", "resnet18", "resnet50", "resnet50_batch_norm"])
def test_a_resnet_has_as_many_weights_as_that_of_monai(nets: Any, name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(nets, name.split("_")[0])(n_input_channels=1, feed_forward=False, shortcut_type="B")
    assert count(built_at_no_cost(name)) == count(theirs)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("vit_b", {"patch_size": 16}),
        ("vit_s", {"patch_size": 8, "hidden_size": 384, "mlp_dim": 1536, "num_heads": 6}),
        ("vit_ti", {"patch_size": 8, "hidden_size": 192, "mlp_dim": 768, "num_heads": 3}),
    ],
)
def test_a_vit_has_as_many_weights_as_monai_uses(nets: Any, name: str, sizes: dict[str, int]) -> None:
    with torch.device("meta"):
        theirs = nets.ViT(in_channels=1, img_size=PAPER, classification=True, **sizes)
    assert count(built_at_no_cost(name)) == sum(
        weight.numel() for weight in used(dict(theirs.named_parameters())).values()
    )


def resnet_of_monai(model: nn.Module, ours: ResNet3d) -> nn.Module:
    """Make MONAI's ResNet one of the norm that ours has, without its average, and give ours its weights, drawn anew."""
    model.avgpool = nn.Identity()
    model = randomised(model if ours.has_batch_statistics else with_group_norm(model))
    ours.load_state_dict({resnet_name(key): weight for key, weight in model.state_dict().items()})
    return model


def tokens_of_monai(model: nn.Module, x: Tensor, width: int) -> Tensor:
    return model(x).view(len(x), width, -1).transpose(1, 2)


@pytest.mark.parametrize("name", ["resnet10", "resnet18", *slow(["resnet50", "resnet50_batch_norm"])])
def test_a_resnet_with_the_weights_of_monai_gives_its_tokens(nets: Any, name: str) -> None:
    shape = (33, 9, 12)
    ours = IMAGE_ENCODERS[name](shape, 1)
    stride = 1 if ours.has_batch_statistics else 2
    theirs = getattr(nets, name.split("_")[0])(n_input_channels=1, feed_forward=False, conv1_t_stride=stride)
    theirs = resnet_of_monai(theirs, ours).eval()
    x = torch.randn(1, 1, *shape)
    with torch.no_grad():
        found, expected = ours.eval()(x), tokens_of_monai(theirs, x, ours.width)
    # Rounding grows from block to block; the next test is exact.
    near = 1e-3 * float(expected.abs().mean())
    assert found.tokens == pytest.approx(expected, abs=near)
    assert found.cls == pytest.approx(expected.mean(1), abs=near)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("kind", "block", "stride"), [("basic", BasicBlock, 1), ("bottleneck", Bottleneck, 2)])
def test_both_blocks_norms_and_strides_are_those_of_monai_to_the_last_digits(
    nets: Any, kind: str, block: Any, stride: int, batch_norm: bool, training: bool
) -> None:
    shape, blocks = (17, 12, 9), (1, 2, 1, 1)
    ours = ResNet3d(shape, 2, block, blocks, stem_stride=stride, batch_norm=batch_norm)
    theirs = nets.ResNet(
        kind, list(blocks), [64, 128, 256, 512], n_input_channels=2, feed_forward=False, conv1_t_stride=stride
    )
    theirs = resnet_of_monai(theirs, ours).double().train(training)
    x = torch.randn(2, 2, *shape).double()
    with torch.no_grad():
        found, expected = ours.double().train(training)(x), tokens_of_monai(theirs, x, ours.width)
    assert expected.abs().mean() > 1e-2
    assert found.tokens == pytest.approx(expected, rel=1e-9, abs=1e-9 * float(expected.abs().max()))


def test_a_vit_with_the_weights_of_monai_gives_its_tokens(nets: Any) -> None:
    shape = (8, 12, 4)
    theirs = nets.ViT(
        in_channels=2, img_size=shape, patch_size=4, hidden_size=24, mlp_dim=40, num_layers=2, num_heads=3,
        classification=True,
    )  # fmt: skip
    theirs = randomised(theirs).eval()
    theirs.classification_head = nn.Identity()
    ours = Vit3d(shape, 2, **SMALL_VIT)
    ours.load_state_dict({vit_name(key): weight for key, weight in used(theirs.state_dict()).items()})
    x = torch.randn(3, 2, *shape)
    with torch.no_grad():
        found, (cls, states) = ours(x), theirs(x)
        tokens = theirs.norm(states[-1])[:, 1:]
    assert found.cls == pytest.approx(cls, abs=1e-4)
    assert found.tokens == pytest.approx(tokens, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "width", "tokens"),
    [
        ("compact", 128, (28, 28, 12)),
        ("resnet10", 512, (7, 7, 3)),
        ("resnet18", 512, (7, 7, 3)),
        ("resnet50", 2048, (7, 7, 3)),
        ("resnet50_batch_norm", 2048, (14, 14, 6)),
        ("vit_b", 768, (14, 14, 6)),
        ("vit_s", 384, (28, 28, 12)),
        ("vit_ti", 192, (28, 28, 12)),
        ("vit_xs", 128, (28, 28, 12)),
    ],
)
def test_the_sizes_at_224x224x96_are_those_of_the_paper(name: str, width: int, tokens: tuple[int, int, int]) -> None:
    encoder = built_at_no_cost(name)
    out = encoder(torch.empty(2, 1, *PAPER, device="meta"))
    assert (encoder.width, encoder.tokens) == (width, tokens)
    assert out.cls.shape == (2, width)
    assert out.tokens.shape == (2, tokens[0] * tokens[1] * tokens[2], width)


def test_every_image_encoder_is_measured_at_the_size_of_the_paper() -> None:
    marks = test_the_sizes_at_224x224x96_are_those_of_the_paper.pytestmark
    assert {case[0] for case in marks[0].args[1]} == IMAGE_ENCODERS.keys()


@pytest.fixture(scope="module", params=[*sorted(IMAGE_ENCODERS.keys() - LARGE), *slow(LARGE)])
def encoder(request: pytest.FixtureRequest) -> ResNet3d | Vit3d:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return IMAGE_ENCODERS[request.param]((16, 32, 16), 1)


def test_a_chunk_of_a_batch_gives_the_rows_of_the_whole_unless_it_is_told(encoder: ResNet3d | Vit3d) -> None:
    x = torch.randn(3, 1, 16, 32, 16)
    with torch.no_grad():
        encoder.train()
        whole, chunks = encoder(x).tokens, torch.cat([encoder(x[:1]).tokens, encoder(x[1:]).tokens])
        encoder.eval()
        among, alone = encoder(x).tokens, encoder(x[1:2]).tokens
    far = (chunks - whole).abs().max() / whole.abs().mean()
    assert (far > 1e-2) if encoder.has_batch_statistics else (far < 1e-3)
    assert alone[0] == pytest.approx(among[1], abs=1e-3 * float(among.abs().mean()))


def test_gradients_reach_every_weight_and_the_input(encoder: ResNet3d | Vit3d) -> None:
    x = torch.randn(2, 1, 16, 32, 16, requires_grad=True)
    cls, tokens = encoder.train()(x)
    ((cls * torch.randn_like(cls)).sum() + (tokens * torch.randn_like(tokens)).sum()).backward()
    assert not [key for key, weight in encoder.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert x.grad is not None
    assert x.grad.any()


@pytest.mark.parametrize("given", [(1, 1, 16, 16, 16), (1, 2, 16, 32, 16), (16, 32, 16)])
def test_volumes_of_another_shape_than_the_encoder_was_built_for_are_refused(
    encoder: ResNet3d | Vit3d, given: tuple[int, ...]
) -> None:
    with pytest.raises(ConfigError, match=r"built for 1 channels of 16x32x16 voxels"):
        encoder(torch.zeros(given))


def test_the_tokens_of_a_vit_go_through_z_first_and_x_last() -> None:
    encoder = Vit3d((8, 12, 16), 1, **{**SMALL_VIT, "layers": 0})
    still = torch.zeros(1, 1, 8, 12, 16)
    moved = still.clone()
    moved[0, 0, 4:8, 8:12, 4:8] = 1.0  # the patch (1, 2, 1) of (2, 3, 4)
    with torch.no_grad():
        differ = (encoder(moved).tokens - encoder(still).tokens).abs().amax(2)[0]
    assert torch.nonzero(differ).flatten().tolist() == [1 * 12 + 2 * 4 + 1]


def test_a_vit_without_its_positions_could_not_tell_places_apart() -> None:
    encoder = Vit3d((8, 8, 8), 1, **SMALL_VIT)
    x = torch.randn(1, 1, 8, 8, 8)
    mirrored = x.view(1, 1, 2, 4, 8, 8).flip(2).reshape(1, 1, 8, 8, 8)  # the two halves change places
    with torch.no_grad():
        with_positions = (encoder(x).cls - encoder(mirrored).cls).abs().max()
        encoder.positions.zero_()
        without = (encoder(x).cls - encoder(mirrored).cls).abs().max()
    assert with_positions > 1e-4
    assert without < 1e-5


@pytest.mark.parametrize("name", ["vit_b", "vit_s", "vit_ti"])
def test_sides_that_the_patch_does_not_divide_are_refused_with_a_grid_that_fits(name: str) -> None:
    with pytest.raises(ConfigError, match=r"64x52x64 voxels.*multiples of (16.*64x48x64|8.*64x48x64)"):
        built_at_no_cost(name, (64, 52, 64))


@pytest.mark.parametrize(("shape", "channels"), [((0, 16, 16), 1), ((16, 16, 16), 0)])
@pytest.mark.parametrize("name", IMAGE_ENCODERS)
def test_no_voxels_or_no_channels_are_refused(name: str, shape: tuple[int, int, int], channels: int) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        IMAGE_ENCODERS[name](shape, channels)


@pytest.mark.parametrize("shape", [(1, 1, 1), (17, 9, 33)])
def test_a_resnet_takes_any_size(shape: tuple[int, int, int]) -> None:
    encoder = IMAGE_ENCODERS["resnet10"](shape, 1).eval()
    with torch.no_grad():
        out = encoder(torch.randn(1, 1, *shape))
    assert isinstance(out, TokenMap)
    assert out.tokens.shape == (1, encoder.tokens[0] * encoder.tokens[1] * encoder.tokens[2], 512)
    assert torch.isfinite(out.tokens).all()
