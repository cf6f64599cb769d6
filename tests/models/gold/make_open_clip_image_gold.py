"""Make the tiny open_clip image towers of this folder, and what open_clip itself says of some pictures.

Run it in an environment of its own that has open_clip_torch 3.3.0 and timm with their dependencies (medfinder needs
neither):

    python tests/models/gold/make_open_clip_image_gold.py

Two folders in open_clip's format, with the image tower alone: ``clip_image`` (keys as
timm/vit_base_patch32_clip_224.openai) and ``biomedclip_image`` (a vision transformer of timm, keys as
microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224; the name ``vit_gold`` in its configuration is nobody else's).
Their weights are random numbers, drawn wide so that a wrong activation, norm or order of weights shows. Beside them
``image_gold.safetensors``: pictures and ``encode_image`` of either, with the versions in its metadata.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIDE = 12
CLIP_VISION = {
    "image_size": SIDE, "patch_size": 4, "layers": 2, "width": 16, "head_width": 4, "mlp_ratio": 2.0,
}  # fmt: skip
TIMM_VISION = {
    "timm_model_name": "vit_gold", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear",
    "image_size": SIDE,
}  # fmt: skip
COLOURS = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
EMBED = 10


def main() -> None:
    """Write both folders and the gold file."""
    import torch
    from open_clip.transformer import QuickGELU, VisionTransformer

    pictures = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    mean, std = (torch.tensor(COLOURS[name]).view(3, 1, 1) for name in ("mean", "std"))
    build = partial(VisionTransformer, SIDE, 4, 16, 2, 4, 2.0, output_dim=EMBED)
    quick = randomised(build(act_layer=QuickGELU), seed=1)
    plain = build()
    plain.load_state_dict(quick.state_dict())
    timm_tower = randomised(timm_model(), seed=2)
    config = {"embed_dim": EMBED, "quick_gelu": True, "vision_cfg": CLIP_VISION}
    write_folder("clip_image", config, quick, "open_clip_model.safetensors")
    write_folder(
        "biomedclip_image", {"embed_dim": EMBED, "vision_cfg": TIMM_VISION}, timm_tower, "open_clip_pytorch_model.bin"
    )
    with torch.inference_mode():
        normed = (pictures - mean) / std
        vectors = {"clip": quick(normed), "clip_gelu": plain.eval()(normed), "biomedclip": timm_tower(normed)}
    write_gold({"pictures": pictures, **vectors})


def timm_model() -> Any:
    """Build open_clip's wrapper around a tiny vision transformer of timm, made as vit_base_patch16_224 is."""
    from open_clip.timm_model import TimmModel
    from timm.models import register_model
    from timm.models.vision_transformer import VisionTransformer

    @register_model
    def vit_gold(pretrained: bool = False, **_: object) -> VisionTransformer:
        tower = VisionTransformer(img_size=SIDE, patch_size=4, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.0)
        tower.default_cfg = {"pool_size": None}
        return tower

    return TimmModel("vit_gold", EMBED, image_size=SIDE, pool="", proj="linear")


def randomised(model: Any, *, seed: int) -> Any:
    """Draw all weights anew."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        is_norm = "norm" in name or "ln_" in name
        torch.nn.init.normal_(weight, 1.0 if is_norm and name.endswith("weight") else 0.0, 0.3, generator=generator)
    return model.eval()


def write_folder(name: str, config: dict[str, Any], tower: Any, weights: str) -> None:
    """Save a tower as open_clip does a whole model: its keys stand under ``visual.``."""
    import torch
    from safetensors.torch import save_file

    folder = HERE / name
    folder.mkdir(exist_ok=True)
    text = json.dumps({"model_cfg": config, "preprocess_cfg": COLOURS}, indent=2) + "\n"
    (folder / "open_clip_config.json").write_text(text)
    tensors = {f"visual.{key}": weight.contiguous() for key, weight in tower.state_dict().items()}
    save_file(tensors, folder / weights) if weights.endswith("tensors") else torch.save(tensors, folder / weights)


def write_gold(tensors: dict[str, Any]) -> None:
    """Write pictures and vectors, with the versions of what made them."""
    import open_clip
    import timm
    import torch
    from safetensors.torch import save_file

    versions = {"open_clip": open_clip.__version__, "timm": timm.__version__, "torch": torch.__version__}
    save_file(
        {key: tensor.clone().contiguous() for key, tensor in tensors.items()}, HERE / "image_gold.safetensors", versions
    )


if __name__ == "__main__":
    main()
