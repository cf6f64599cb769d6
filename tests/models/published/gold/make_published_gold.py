"""Make the tiny published models of this folder, and what the published code itself says of a volume and some texts.

Run it in an environment of its own that has colipri 0.1.3, merlin-vlm 0.0.7, dynamic-network-architectures 0.4.4,
timm 1.0.22, vector-quantize-pytorch 1.1.2, einops, nltk and a checkout of github.com/ibrahimethemhamamci/CT-CLIP
(commit a2a155c) whose two packages are on PYTHONPATH; medfinder needs none of them:

    python tests/models/published/gold/make_published_gold.py

One folder a model, with weights in its published format and a made-up vocabulary. The weights are random numbers, drawn
wide so that a wrong order, activation or mask shows. ``expected.safetensors`` beside them holds prepared HU (x, y, z)
in RAS+ order, and the unit vectors that the published modules gave. torchvision is not needed: the published code
imports it for parts that do not run here, and a stand-in takes its place. CT-CLIP's code asks for a CUDA device
whatever it is told; it is given the CPU.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).parent
TEXTS = (
    "no left lung nodule",
    "Right pleural effusion, 7 mm.",
    "nodule",
    'The left lung ("nodule") and the right lung and the left lung and the right lung and the left lung',
    "Nódulo n.º 3",
)
WORDS = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "left", "right", "lung", "nod", "##ule", "##ulo", "ple",
    "##ural", "effusion", ",", ".", "7", "3", "mm", "(", ")", '"', "and", "the", "n", "##o",
)  # fmt: skip
MERGES = (
    "n o",
    "l e",
    "f t",
    "le ft",
    "Ġ le",
    "r i",
    "ri g",
    "l u",
    "n g",
    "lu ng",
    "Ġ lung",
    "no d",
    "u le",
    "nod ule",
)


class _StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives a mock for torchvision and for whatever is imported from it."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:  # noqa: ARG002  # the protocol's
        is_absent = name.split(".")[0] in ("torchvision", "hydra", "torchio", "accelerate")
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_absent else None

    def create_module(self, spec: Any) -> Any:
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__ = [], spec
        return module

    def exec_module(self, module: Any) -> None:
        pass


def open_package(name: str) -> None:
    """Make a package's modules importable without running its ``__init__``, which asks for more than we need."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    module = types.ModuleType(name)
    module.__path__ = list(spec.submodule_search_locations)
    module.__package__ = name
    sys.modules[name] = module


def randomise(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Fill every weight with wide random numbers; return the state."""
    generator = torch.Generator().manual_seed(seed)
    for key, weight in network.state_dict().items():
        if not weight.is_floating_point():
            continue
        drawn = torch.randn(weight.shape, generator=generator)
        if key.endswith("running_var"):
            drawn = 0.5 + drawn.abs()
        elif weight.ndim == 1:
            # Around 1 for what scales, around 0 for what shifts: a wide shift drowns what depends on the input.
            drawn = 0.2 * drawn + float(not key.endswith(("bias", "beta", "running_mean")))
        elif weight.ndim > 1 and weight[0].numel():
            drawn = drawn * 1.7 / weight[0].numel() ** 0.5
        weight.copy_(drawn)
    network.eval().requires_grad_(False)
    return {key: weight.clone().contiguous() for key, weight in network.state_dict().items()}


def prepared(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Give float HU within the window that no two voxels share."""
    return np.random.default_rng(seed).uniform(-1000, 1000, shape).astype(np.float32)


def bert(context: int) -> Any:
    """Build a BERT as wide as a toy."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
        max_position_embeddings=context,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False)


def write_words(folder: Path) -> Any:
    """Write the vocabulary of word pieces; return transformers' own tokenizer."""
    from transformers import BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return BertTokenizer.from_pretrained(str(folder), do_lower_case=True)


def make_colipri(folder: Path) -> None:
    """COLIPRI: Primus, CXR-BERT, attention pooling."""
    tokenizer = write_words(folder)
    open_package("colipri")
    from colipri.model.image import ImageEncoder
    from colipri.model.text import TextEncoder
    from colipri.pooling import AttentionPool1D
    from dynamic_network_architectures.architectures.primus import Primus

    backbone = Primus(
        input_channels=1, num_classes=1, eva_depth=2, eva_numheads=2, embed_dim=24, patch_embed_size=(4, 4, 4),
        input_shape=(16, 12, 8), use_rot_pos_emb=True, use_abs_pos_embed=False, drop_path_rate=0.2, init_values=0.1,
        scale_attn_inner=True, num_register_tokens=0,
    )  # fmt: skip
    model = nn.Module()
    model.image_encoder = ImageEncoder(backbone, nn.Conv3d(24, 24, 1), AttentionPool1D(24, 2))
    model.text_encoder = TextEncoder(bert(20), AttentionPool1D(24, 2))
    model.register_buffer("softmax_temperature", torch.tensor(0.07))
    save_file(randomise(model, 1), folder / "model.safetensors")
    hu = prepared((16, 12, 8), 1)
    words = tokenizer(list(TEXTS), max_length=20, padding="max_length", truncation=True, return_tensors="pt")
    image = model.image_encoder(torch.from_numpy(hu / 1000)[None, None], project=True, pool=True, normalize=True)
    text = model.text_encoder(words["input_ids"], words["attention_mask"], pool=True, normalize=True)
    write_expected(folder, hu, image, text)


def make_merlin(folder: Path) -> None:
    """Merlin: a ResNet inflated by the package from timm's 2-D one, which has torchvision's names; a Longformer."""
    import transformers
    from timm.models.resnet import Bottleneck, ResNet
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, *[pair.replace(" ", "") for pair in MERGES]]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
    for name in ("merlin", "merlin.models"):
        open_package(name)
    from merlin.models import build, i3res

    flat = ResNet(Bottleneck, layers=[2, 1, 1, 1], channels=(4, 8, 16, 32), stem_width=4)
    flat.conv1, flat.bn1 = nn.Conv2d(3, 4, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(4)
    flat.layer1[0].conv1 = nn.Conv2d(4, 4, 1, bias=False)
    flat.layer1[0].downsample = nn.Sequential(nn.Conv2d(4, 16, 1, bias=False), nn.BatchNorm2d(16))
    flat.avgpool = nn.AdaptiveAvgPool2d(1)
    deep = i3res.I3ResNet(flat, class_nb=3, conv_class=True)
    # The package takes the 2,048 channels of a ResNet-152 for granted.
    deep.classifier, deep.contrastive_head = nn.Conv3d(128, 3, 1), nn.Conv3d(128, 8, 1)
    config = transformers.LongformerConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=80, attention_window=[8, 8], type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1,
        bos_token_id=0, eos_token_id=2, sep_token_id=2,
    )  # fmt: skip
    tokenizer = transformers.RobertaTokenizer.from_pretrained(str(folder))
    model = nn.Module()
    model.encode_image, model.encode_text = nn.Module(), build.TextEncoder.__new__(build.TextEncoder)
    nn.Module.__init__(model.encode_text)
    model.encode_image.i3_resnet = deep
    model.encode_text.text_encoder = transformers.LongformerModel(config)
    model.encode_text.linear_layer = nn.Linear(16, 8)
    model.encode_text.tokenizer = lambda texts, **how: tokenizer(texts, **{**how, "max_length": 60})
    model.logit_scale = nn.Parameter(torch.ones([]))
    torch.save(randomise(model, 2), folder / "i3_resnet_clinical_longformer_best_clip_04-02-2024_23-21-36_epoch_99.pt")
    hu = prepared((38, 32, 20), 2)
    image = deep(torch.from_numpy((hu + 1000) / 2000)[None, None])[0]
    write_expected(folder, hu, image, model.encode_text(list(TEXTS)))


def make_ct_clip(folder: Path) -> None:
    """CT-CLIP: its own transformer with a codebook, CXR-BERT."""
    tokenizer = write_words(folder)
    for name in ("transformer_maskgit", "ct_clip"):
        open_package(name)
    on_cuda, torch.device = torch.device, lambda *_: torch.empty(0).device  # type: ignore[assignment,misc]
    from ct_clip import ct_clip as published
    from transformer_maskgit.ctvit import CTViT

    published.BertTokenizer = MagicMock()
    image_encoder = CTViT(
        dim=24, codebook_size=40, image_size=(12, 8), patch_size=4, temporal_patch_size=2, spatial_depth=2,
        temporal_depth=2, dim_head=8, heads=2,
    )  # fmt: skip
    model = published.CTCLIP(
        image_encoder=image_encoder, text_encoder=bert(20), dim_image=6 * 24, dim_text=24, dim_latent=8,
        extra_latent_projection=False, use_mlm=False, downsample_image_embeds=False, use_all_token_embeds=False,
    )  # fmt: skip
    torch.save(randomise(model, 3), folder / "CT-CLIP_v2.pt")
    hu = prepared((12, 8, 10), 3)
    # As its reader of files leaves a volume that lies L, P, S: slices first.
    left_back_up = torch.from_numpy(np.ascontiguousarray(hu[::-1, ::-1, :]) / 1000)
    readings = [text.translate({ord(sign): None for sign in "\"'()"}) for text in TEXTS]
    words = tokenizer(readings, max_length=20, padding="max_length", truncation=True, return_tensors="pt")
    volumes = left_back_up.permute(2, 0, 1)[None, None].repeat(len(TEXTS), 1, 1, 1, 1)
    text, image, _ = model(words, volumes, device="cpu", return_latents=True)
    torch.device = on_cuda  # type: ignore[misc]
    write_expected(folder, hu, image[:1], text)


def write_expected(folder: Path, hu: np.ndarray, image: Tensor, text: Tensor) -> None:
    """Write what went in and what came out, at unit length."""
    tensors = {
        "hu": torch.from_numpy(hu),
        "image": functional.normalize(image, dim=1).contiguous(),
        "text": functional.normalize(text, dim=1).contiguous(),
    }
    save_file(tensors, folder / "expected.safetensors", {"texts": json.dumps(TEXTS), "torch": torch.__version__})


def main() -> None:
    """Make the three folders anew."""
    sys.meta_path.insert(0, _StandIn())
    for name, make in (("colipri", make_colipri), ("merlin", make_merlin), ("ct-clip", make_ct_clip)):
        shutil.rmtree(HERE / name, ignore_errors=True)
        with torch.no_grad():
            make(HERE / name)


if __name__ == "__main__":
    main()
