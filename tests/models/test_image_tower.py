"""Image towers in open_clip's format give what open_clip and transformers give; what does not fit is named.

Expected values: open_clip 3.3.0 with timm 1.0.31 on the tiny towers of ``gold``, by
``gold/make_open_clip_image_gold.py``; transformers on the same weights.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medfinder.errors import CheckpointError, ConfigError
from medfinder.models import image_tower
from medfinder.models.image_tower import (
    IMAGE_TOWERS,
    SmallResNet,
    TowerShape,
    VisionTransformer,
    load_image_tower,
    tower_sha256,
)

GOLD = Path(__file__).parent / "gold"
NAMES = ("biomedclip", "clip")
TINY = TowerShape(side=8, patch=4, inner=8, layers=1, heads=2, mlp=16, width=6)


@pytest.fixture(autouse=True)
def _known_to_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(image_tower.TIMM_HEADS, "vit_gold", 3)


def tower(name: str, folder: Path | None = None) -> nn.Module:
    return load_image_tower(f"{name}:{GOLD / f'{name}_image' if folder is None else folder}").eval()


def gold() -> dict[str, Tensor]:
    with safe_open(GOLD / "image_gold.safetensors", "pt") as file:
        assert file.metadata()["open_clip"] == "3.3.0"
    return load_file(GOLD / "image_gold.safetensors")


def copy_of(name: str, place: Path) -> Path:
    return Path(shutil.copytree(GOLD / f"{name}_image", place / name))


def change_config(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "open_clip_config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "open_clip_model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


@pytest.mark.parametrize("name", NAMES)
def test_the_vectors_are_those_of_open_clip(name: str) -> None:
    expected = gold()
    with torch.inference_mode():
        found = tower(name)(expected["pictures"])
    assert expected[name].abs().mean() > 0.1
    assert found.numpy() == pytest.approx(expected[name].numpy(), abs=2e-5)


def test_the_activation_is_the_one_that_the_configuration_names(tmp_path: Path) -> None:
    folder, expected = copy_of("clip", tmp_path), gold()
    change_config(folder, lambda values: values["model_cfg"].pop("quick_gelu"))
    with torch.inference_mode():
        found = tower("clip", folder)(expected["pictures"])
    assert (expected["clip"] - expected["clip_gelu"]).abs().max() > 1e-2
    assert found.numpy() == pytest.approx(expected["clip_gelu"].numpy(), abs=2e-5)


def test_the_vectors_are_those_of_transformers_on_the_same_weights() -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    own, pictures = tower("clip"), gold()["pictures"]
    settings = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=12, patch_size=4,
        projection_dim=10, hidden_act="quick_gelu",
    )  # fmt: skip
    other = CLIPVisionModelWithProjection(settings).eval()
    other.load_state_dict(_named_as_transformers(other.state_dict(), load_file(GOLD / "clip_image" / WEIGHTS)))
    mean, std = (torch.tensor(colour).view(3, 1, 1) for colour in (image_tower.CLIP_MEAN, image_tower.CLIP_STD))
    with torch.inference_mode():
        expected = other(pixel_values=(pictures - mean) / std).image_embeds
        assert own(pictures).numpy() == pytest.approx(expected.numpy(), abs=2e-5)


WEIGHTS = "open_clip_model.safetensors"
RENAMED = {
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "transformer.resblocks": "encoder.layers",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
}


def _named_as_transformers(wanted: dict[str, Tensor], stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name open_clip's weights as transformers does, by its own published conversion's table."""
    named: dict[str, Tensor] = {}
    for key, weight in stored.items():
        name = key.removeprefix("visual.")
        if name == "proj":
            named["visual_projection.weight"] = weight.T
            continue
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        if ".attn.in_proj_" in name:
            start, kind = name.split(".attn.in_proj_")
            for part, piece in zip("qkv", weight.chunk(3), strict=True):
                named[f"vision_model.{start}.self_attn.{part}_proj.{kind}"] = piece
        else:
            named[f"vision_model.{name}"] = weight
    kept = {key: weight for key, weight in wanted.items() if key.endswith("position_ids")}
    return kept | named


def test_the_image_tower_is_read_from_the_folder_of_the_text_tower() -> None:
    # This folder holds both towers; the image tower's weights are all 0 in it, so that every vector is.
    found = tower("clip", GOLD / "clip")(torch.rand(2, 3, 4, 4))
    assert found.shape == (2, 16)
    assert not found.any()


def test_a_tower_can_be_frozen_or_trained() -> None:
    own = tower("clip")
    own(gold()["pictures"]).sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in own.parameters())


def test_reading_a_tower_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    tower("clip")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("build", [lambda: VisionTransformer(TINY), lambda: SmallResNet(side=32, channels=8, width=6)])
def test_a_picture_has_the_same_vector_whatever_is_beside_it(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    own = build()
    pictures = torch.rand(5, 3, own.side, own.side)
    with torch.inference_mode():
        together, alone = own(pictures), torch.cat([own(picture[None]) for picture in pictures])
    assert together.shape == (5, 6)
    assert together.std(0).min() > 1e-3
    assert together.numpy() == pytest.approx(alone.numpy(), abs=1e-5)


@pytest.mark.parametrize("build", [lambda: VisionTransformer(TINY), lambda: SmallResNet(side=32, channels=8, width=6)])
def test_a_random_tower_tells_a_picture_from_its_mirror_image(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    own = build()
    picture = torch.zeros(1, 3, own.side, own.side)
    picture[..., : own.side // 2] = 1.0
    with torch.inference_mode():
        assert (own(picture) - own(picture.flip(-1))).abs().max() > 1e-2


@pytest.mark.parametrize("name", sorted(IMAGE_TOWERS))
def test_every_tower_says_what_it_takes_and_gives(name: str) -> None:
    if name in NAMES:
        own = tower(name)
        assert (own.side, own.width) == (12, 10)
        assert len(tower_sha256(f"{name}:{GOLD / f'{name}_image'}")) == 64
    else:
        own = load_image_tower(name)
        assert tower_sha256(name) is None
    with torch.inference_mode():
        assert own(torch.zeros(1, 3, own.side, own.side)).shape == (1, own.width)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet", "unknown image tower 'resnet'; known: biomedclip, clip, random_resnet, random_vit"),
        ("clip:", "expected a published tower with a folder"),
        ("random_vit:somewhere", "expected a published tower with a folder"),
    ],
)
def test_a_tower_that_is_not_there_is_named(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_image_tower(name)


@pytest.mark.parametrize(
    ("name", "option", "told"),
    [
        ("clip", {"pool_type": "avg"}, "pool_type 'avg', expected 'tok'"),
        ("clip", {"head_count": 3}, "head_count 3 in vision_cfg, which this image tower does not know"),
        ("clip", {"layers": [3, 4, 6, 3]}, r"layers \[3, 4, 6, 3\] in vision_cfg, expected a number above 0"),
        ("clip", {"image_size": 13}, "13 pixels with patches of 4"),
        ("biomedclip", {"timm_proj": "mlp"}, "timm_proj 'mlp', expected 'linear'"),
        ("biomedclip", {"timm_model_name": "convnext_base"}, "timm_model_name 'convnext_base' with timm_pool ''"),
        ("biomedclip", {"timm_pool": "avg"}, "timm_pool 'avg', expected one of"),
    ],
)
def test_an_option_that_would_change_the_vectors_is_refused(
    name: str, option: dict[str, object], told: str, tmp_path: Path
) -> None:
    folder = copy_of(name, tmp_path)
    change_config(folder, lambda values: values["model_cfg"]["vision_cfg"].update(option))
    with pytest.raises((CheckpointError, ConfigError), match=told):
        tower(name, folder)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    folder = copy_of("clip", tmp_path)

    def damage(weights: dict[str, Tensor]) -> None:
        del weights["visual.ln_post.bias"]
        weights["visual.proj"] = torch.zeros(10, 16)
        weights["visual.extra"] = torch.zeros(1)

    change_weights(folder, damage)
    told = r"missing ln_post.bias; unknown extra; proj is \(10, 16\), expected \(16, 10\)"
    with pytest.raises(CheckpointError, match=told):
        tower("clip", folder)


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no folder"):
        tower("clip", tmp_path / "nowhere")
    folder = copy_of("clip", tmp_path)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=f"no weights in .*; expected {WEIGHTS}"):
        tower("clip", folder)


def test_colours_that_are_no_colours_are_refused(tmp_path: Path) -> None:
    folder = copy_of("clip", tmp_path)
    change_config(folder, lambda values: values["preprocess_cfg"].update(std=[0.5]))
    with pytest.raises(CheckpointError, match=r"std \[0.5\] in preprocess_cfg, expected three numbers"):
        tower("clip", folder)
