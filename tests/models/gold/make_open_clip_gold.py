"""Make the tiny open_clip models of this folder, and what open_clip itself says of some sentences.

Run it in an environment of its own that has open_clip_torch 3.3.0 with its dependencies (medfinder does not need it):

    python tests/models/gold/make_open_clip_gold.py

Two folders in open_clip's format: ``clip`` (safetensors, QuickGELU and keys as timm/vit_base_patch32_clip_224.openai)
and ``biomedclip`` (.bin, BERT tower and keys as microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224). Their
weights are random numbers, drawn wide so that a wrong activation, mask or order of weights shows. Beside them one
``*_gold.safetensors`` each: token ids, states of the tokens and ``encode_text``, with the versions in its metadata.
"""

import gzip
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SENTENCES = (
    "no left lung nodule",
    "",
    "Right pleural effusion,  7 mm &amp; no nodule.",
    "nodule",
    "the left lung and the right lung and the left lung and the right lung and the left lung",
    "Nódulo n.º 3",
)
MERGES = (
    "n o</w>", "l e", "f t</w>", "le ft</w>", "r i", "ri g", "h t</w>", "rig ht</w>", "l u", "n g</w>", "lu ng</w>",
    "n o", "d u", "no du", "l e</w>", "nodu le</w>", "a n", "an d</w>", "t h", "th e</w>", "p le", "ple u", "r a",
    "ra l</w>", "pleu ral</w>", "e f", "ef f", "m m</w>",
)  # fmt: skip
WORDS = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "left", "right", "lung", "nod", "##ule", "##ulo", "ple",
    "##ural", "effusion", ",", ".", "7", "3", "mm", "&", "and", "the", "n", "##o",
)  # fmt: skip
CLIP = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 4, "patch_size": 4, "layers": 1, "width": 16, "head_width": 16},
    "text_cfg": {
        "context_length": 20,
        "vocab_size": 512 + len(MERGES) + 2,
        "width": 24,
        "heads": 2,
        "layers": 2,
        "mlp_ratio": 2.0,
    },
}
BIOMEDCLIP = {
    "embed_dim": 16,
    "vision_cfg": CLIP["vision_cfg"],
    "text_cfg": {
        "hf_model_name": "bert",
        "hf_tokenizer_name": "bert",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 18,
        "hf_model_pretrained": False,
    },
}
BERT = {
    "model_type": "bert", "vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 24, "type_vocab_size": 2,
}  # fmt: skip


def main() -> None:
    """Write both folders and their gold files."""
    make_clip()
    make_biomedclip()


def make_clip() -> None:
    import torch
    from open_clip import CLIP as OpenClip
    from open_clip import create_model
    from open_clip.push_to_hf_hub import save_for_hf
    from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode
    from transformers import CLIPTokenizer

    folder = HERE / "clip"
    letters = list(bytes_to_unicode().values())
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    vocabulary += ["".join(merge.split()) for merge in MERGES] + ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={token: number for number, token in enumerate(vocabulary)},
        merges=[tuple(merge.split()) for merge in MERGES],
    )
    model = randomised(OpenClip(**CLIP), seed=1)
    save_for_hf(model, tokenizer, CLIP, str(folder), safe_serialization=True)
    keep_only(folder)
    with tempfile.TemporaryDirectory() as place:
        bpe = Path(place) / "bpe.txt.gz"
        bpe.write_bytes(gzip.compress("\n".join(["#version: tiny", *MERGES]).encode()))
        ids = SimpleTokenizer(str(bpe), context_length=CLIP["text_cfg"]["context_length"])(list(SENTENCES))
    model = create_model(f"local-dir:{folder}").eval()
    states = []
    model.ln_final.register_forward_hook(lambda _module, _inputs, output: states.append(output))
    with torch.inference_mode():
        pooled = model.encode_text(ids)
        with_gelu = create_model(f"local-dir:{with_plain_gelu(folder)}").eval().encode_text(ids)
    write_gold("clip", {"ids": ids, "states": states[0], "pooled": pooled, "pooled_gelu": with_gelu})


def with_plain_gelu(folder: Path) -> Path:
    copy = Path(shutil.copytree(folder, Path(tempfile.mkdtemp()) / "clip"))
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = False
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    return copy


def make_biomedclip() -> None:
    import torch
    from open_clip import CustomTextCLIP, create_model, get_tokenizer
    from open_clip.push_to_hf_hub import save_for_hf
    from transformers import BertTokenizer

    folder = HERE / "biomedclip"
    (folder / "bert").mkdir(parents=True, exist_ok=True)
    (folder / "bert" / "config.json").write_text(json.dumps(BERT, indent=2) + "\n")
    os.chdir(folder)  # open_clip looks for "bert" from here
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, do_lower_case=True)
    model = randomised(CustomTextCLIP(**BIOMEDCLIP), seed=2)
    save_for_hf(model, tokenizer, BIOMEDCLIP, str(folder), safe_serialization=False)
    # The published file holds this buffer of older transformers; open_clip drops it, so must we.
    path = folder / "open_clip_pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    weights["text.transformer.embeddings.position_ids"] = torch.arange(24)[None]
    torch.save(weights, path)
    model = create_model(f"local-dir:{folder}").eval()
    ids = get_tokenizer(f"local-dir:{folder}")(list(SENTENCES))
    keep_only(folder)
    model.text.output_tokens = True
    with torch.inference_mode():
        pooled, states = model.text(ids)
        model.text.output_tokens = False
        assert torch.equal(pooled, model.encode_text(ids))
    write_gold("biomedclip", {"ids": ids, "states": states, "pooled": pooled})


def randomised(model: Any, *, seed: int) -> Any:
    """Draw the text tower's weights anew, and fill what open_clip writes into the configuration."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.startswith("visual."):
            torch.nn.init.zeros_(weight)
        elif "norm" in name.lower() or "ln_" in name:
            torch.nn.init.normal_(weight, 1.0 if name.endswith("weight") else 0.0, 0.3, generator=generator)
        elif not name.startswith("logit"):
            torch.nn.init.normal_(weight, 0.0, 0.3, generator=generator)
    model.visual.image_mean, model.visual.image_std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return model.eval()


def keep_only(folder: Path) -> None:
    """Remove the tokenizer's other files: ``tokenizer.json`` holds all of it."""
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("open_clip_") and path.name != "tokenizer.json":
            path.unlink()


def write_gold(name: str, tensors: dict[str, Any]) -> None:
    import open_clip
    import torch
    import transformers
    from safetensors.torch import save_file

    versions = {
        "open_clip": open_clip.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    contiguous = {key: tensor.detach().contiguous().clone() for key, tensor in tensors.items()}
    save_file(contiguous, HERE / f"{name}_gold.safetensors", {**versions, "sentences": json.dumps(SENTENCES)})


if __name__ == "__main__":
    main()
