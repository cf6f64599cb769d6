"""A folder in open_clip's format: its configuration and its weights, read without open_clip.

In: a folder with ``open_clip_config.json``, weights (``open_clip_model.safetensors`` or
``open_clip_pytorch_model.bin``) and, for texts, ``tokenizer.json``. Out: plain values and tensors, checked. Refused:
missing or damaged files, an option that would give other vectors than are built here, missing, unknown or misshapen
weights. Nothing is unpickled but tensors.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medfinder.errors import CheckpointError

CONFIG, TOKENIZER = "open_clip_config.json", "tokenizer.json"
READERS = {"text_cfg": "text encoder", "vision_cfg": "image tower"}
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def read_config(folder: Path, part: str) -> Mapping[str, Any]:
    """Read the part ``model_cfg`` of a folder's configuration, which must have ``part`` in turn."""
    if not folder.is_dir():
        raise CheckpointError(f"no folder {folder}; expected one with {CONFIG}, {WEIGHTS[0]} and {TOKENIZER}")
    values = read_json(folder / CONFIG)
    config = values.get("model_cfg", values)
    if not isinstance(config, dict) or not isinstance(config.get(part), dict) or "embed_dim" not in config:
        raise CheckpointError(f"{folder / CONFIG} has no embed_dim or {part}; expected a configuration of open_clip")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON table."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"no {path.name} in {path.parent}; expected a folder in open_clip's format with {CONFIG}, "
            f"{' or '.join(WEIGHTS)}, and {TOKENIZER}"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}; fetch it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no table; fetch it again")
    return values


def fill_config(
    folder: Path,
    config: Mapping[str, Any],
    part: str,
    *,
    sizes: Mapping[str, Any],
    fixed: Mapping[str, Any],
    idle: Collection[str],
) -> dict[str, Any]:
    """Fill a part of the configuration with open_clip's defaults; refuse options that would give other vectors.

    Args:
        part: ``text_cfg`` or ``vision_cfg``.
        sizes: defaults of the options that may differ.
        fixed: the only values for which there is code here.
        idle: options that say where things come from or how they are returned; no vector depends on them.
    """
    given = config[part]
    for key, value in given.items():
        if key in fixed and value != fixed[key]:
            raise CheckpointError(f"{folder / CONFIG} has {key} {value!r}, expected {fixed[key]!r}: no other is built")
        if key not in sizes and key not in fixed and key not in idle:
            raise CheckpointError(
                f"{folder / CONFIG} has {key} {value!r} in {part}, which this {READERS[part]} does not know; "
                f"expected {', '.join(sorted(sizes))}"
            )
        if isinstance(sizes.get(key), int | float) and not _is_size(value):
            raise CheckpointError(f"{folder / CONFIG} has {key} {value!r} in {part}, expected a number above 0")
    if not _is_size(config["embed_dim"]):
        raise CheckpointError(f"{folder / CONFIG} has embed_dim {config['embed_dim']!r}, expected a number above 0")
    return {**sizes, **{key: value for key, value in given.items() if key in sizes}}


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def weights_path(folder: Path) -> Path:
    """Find the weights of a folder."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"no weights in {folder}; expected {' or '.join(WEIGHTS)}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors; a .bin is a pickle, of which torch reads nothing but tensors."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is truncated or holds more than tensors ({cause}); fetch it again") from error
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise CheckpointError(f"{path} is no table of tensors; expected a model's weights")
    return weights


def check_weights(
    weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], folder: Path, config: str = CONFIG
) -> None:
    """Compare names and shapes of weights with those of the model that ``config`` describes."""
    faults = [f"missing {key}" for key in sorted(shapes.keys() - weights.keys())]
    faults += [f"unknown {key}" for key in sorted(weights.keys() - shapes.keys())]
    faults += [
        f"{key} is {tuple(weights[key].shape)}, expected {shapes[key]}"
        for key in sorted(shapes.keys() & weights.keys())
        if tuple(weights[key].shape) != shapes[key]
    ]
    if faults:
        more = f" and {len(faults) - 6} more" if len(faults) > 6 else ""
        raise CheckpointError(f"the weights in {folder} do not fit {config}: {'; '.join(faults[:6])}{more}")
