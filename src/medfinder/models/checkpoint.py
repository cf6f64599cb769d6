"""A checkpoint: a folder with the trained weights, how they were built and where they come from.

In: a folder with ``model.safetensors``, ``config.json``, ``provenance.json``. Out: a model ready to encode. Refused:
missing or truncated files, unknown or missing keys, other shapes. Nothing is ever unpickled. The frozen text encoder is
not inside: the configuration names it, with the sha256 of its weights.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medfinder.config import build_settings
from medfinder.errors import CheckpointError, ConfigError
from medfinder.models.methods import as_module, build_network, read_model_settings
from medfinder.models.protocol import DualEncoder
from medfinder.models.text_encoders import TextEncoder, load_text_encoder
from medfinder.models.trained import TrainedEncoder
from medfinder.volume import Grid

WEIGHTS, CONFIG, PROVENANCE, CARD = "model.safetensors", "config.json", "provenance.json", "README.md"
KIND = "medfinder checkpoint"
FORMAT = 1
SHIPPED = Path(__file__).parent / "shipped"


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What must be known before the weights can be loaded.

    Attributes:
        name: short, for people.
        model: settings of the method's network.
        labels: findings that the label scores stand for.
        text_encoder_sha256: of the frozen encoder's weights that the model was trained with.
        token_width: length of its vectors.
        is_synthetic: trained on synthetic cases only.
        method: key of ``METHODS``.
    """

    name: str
    model: Any
    grid: Grid
    labels: tuple[str, ...]
    text_encoder_sha256: str
    token_width: int
    is_synthetic: bool
    method: str = "medfinder"
    kind: str = KIND
    format: int = FORMAT


def save_checkpoint(
    path: Path, config: CheckpointConfig, weights: Mapping[str, Tensor], *, provenance: Mapping[str, Any]
) -> None:
    """Write a checkpoint folder; each file appears whole or not at all.

    Args:
        weights: ``state_dict`` of the network.
        provenance: settings, code version, digest of the dataset, figures.
    """
    path.mkdir(parents=True, exist_ok=True)
    # The largest first: on a full disk nothing changes.
    write_weights(path / WEIGHTS, weights)
    _write_text(path / CONFIG, json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    _write_text(path / PROVENANCE, json.dumps(dict(provenance), indent=2) + "\n")
    _write_text(path / CARD, _card(config, provenance))


def write_weights(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors under a temporary name, then rename: an older file stays until the new is whole."""
    unfinished = path.with_name(path.name + ".tmp")
    try:
        save_file({key: tensor.detach().contiguous() for key, tensor in weights.items()}, unfinished, metadata)
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path}: {error}; the older file, if any, is untouched") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        CheckpointError: the file is absent, truncated or of another kind.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"no {path.name} in {path.parent}; expected a folder made by: medfinder train") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated or no safetensors file ({error}); fetch or train it again"
        ) from error


def read_config(path: Path) -> CheckpointConfig:
    """Read and check ``config.json`` of a checkpoint folder.

    Raises:
        CheckpointError: the folder is no checkpoint, or its configuration is damaged or of another version.
    """
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint folder at {path}; expected a folder made by: medfinder train")
    try:
        values = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"no {CONFIG} in {path}; expected a folder made by: medfinder train") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / CONFIG} is not JSON: {error}; fetch or train it again") from error
    if not isinstance(values, dict) or (values.get("kind"), values.get("format")) != (KIND, FORMAT):
        raise CheckpointError(f"{path / CONFIG} is not the configuration of a {KIND} of format {FORMAT}")
    try:
        config = build_settings(CheckpointConfig, values, where=CONFIG)
        return dataclasses.replace(
            config, model=read_model_settings(config.method, config.model, where=f"{CONFIG}.model")
        )
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_model(path: Path | str | None = None, *, text_encoder: TextEncoder | None = None) -> DualEncoder:
    """Load a model, ready to encode.

    Args:
        path: a checkpoint folder, or the name of a published model (``medfinder.models.published``); None takes the
            checkpoint that medfinder ships.
        text_encoder: the frozen encoder, if it is at hand already; else it is found by the name in the configuration.

    Raises:
        CheckpointError: something is missing, damaged or does not fit; the message names it.
    """
    from medfinder.models.published import is_published, load_published

    if path is not None and is_published(str(path)):
        return load_published(str(path))
    folder = SHIPPED if path is None else Path(path)
    if path is None and not (folder / WEIGHTS).is_file():
        raise CheckpointError("this copy of medfinder ships no checkpoint; train one: medfinder train DATASET OUT")
    config = read_config(folder)
    network = build_network(
        config.method, config.model, grid=config.grid, labels=config.labels, text_width=config.token_width
    )
    put_weights(as_module(network), read_weights(folder / WEIGHTS), where=str(folder / WEIGHTS))
    encoder = (
        load_text_encoder(config.model.text_encoder, _own_encoder(folder)) if text_encoder is None else text_encoder
    )
    if encoder.sha256 != config.text_encoder_sha256:
        raise CheckpointError(
            f"{folder} was trained with text encoder {config.model.text_encoder} of sha256 "
            f"{config.text_encoder_sha256[:12]}..., found {encoder.sha256[:12]}...; give the same weights"
        )
    return TrainedEncoder(
        network,
        encoder,
        grid=config.grid,
        name=config.name,
        digest=digest_of(folder),
        is_synthetic=config.is_synthetic,
    )


def _own_encoder(folder: Path) -> Path | None:
    """Find the text encoder's files beside a checkpoint, where a user may have put (or linked) them."""
    place = folder / "text_encoder"
    return place if place.is_dir() else None


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """Say how a checkpoint was built and where it comes from; its weights are read but no model is made.

    Raises:
        CheckpointError: something is missing or damaged.
    """
    config = read_config(path)
    weights = read_weights(path / WEIGHTS)
    try:
        provenance = json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / PROVENANCE} cannot be read: {error}; fetch or train it again") from error
    return {
        "name": config.name,
        "method": config.method,
        "digest": digest_of(path),
        "is_synthetic": config.is_synthetic,
        "weights": sum(tensor.numel() for tensor in weights.values()),
        "width": config.model.width,
        "grid": dataclasses.asdict(config.grid),
        "text_encoder": config.model.text_encoder,
        "labels": len(config.labels),
        "best": provenance.get("best"),
        "dataset_digest": provenance.get("dataset_digest"),
    }


def put_weights(model: torch.nn.Module, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Copy weights into a model.

    Raises:
        CheckpointError: keys are missing or unknown, or shapes differ; the message names them.
    """
    expected = model.state_dict()
    faults = [f"missing {key}" for key in sorted(expected.keys() - weights.keys())]
    faults += [f"unknown {key}" for key in sorted(weights.keys() - expected.keys())]
    faults += [
        f"{key} is {tuple(weights[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & weights.keys())
        if weights[key].shape != expected[key].shape
    ]
    if faults:
        more = f" and {len(faults) - 6} more" if len(faults) > 6 else ""
        raise CheckpointError(f"{where} does not fit its configuration: {'; '.join(faults[:6])}{more}")
    model.load_state_dict(dict(weights))


def digest_of(path: Path) -> str:
    """Compute sha256 over the weights and the configuration of a checkpoint folder."""
    whole = hashlib.sha256()
    for name in (WEIGHTS, CONFIG):
        whole.update(hashlib.sha256((path / name).read_bytes()).digest())
    return whole.hexdigest()


def _write_text(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _card(config: CheckpointConfig, provenance: Mapping[str, Any]) -> str:
    origin = "SYNTHETIC cases only: it has never seen a real CT" if config.is_synthetic else "the dataset named below"
    best = provenance.get("best", {})
    figures = "\n".join(f"- {key}: {value}" for key, value in best.items())
    return (
        f"# {config.name}\n\nNOT FOR DIAGNOSIS. A medfinder checkpoint trained on {origin}.\n\n"
        f"- grid: {'x'.join(map(str, config.grid.shape))} voxels of {config.grid.spacing_mm} mm\n"
        f"- text encoder (frozen, not inside): {config.model.text_encoder}, sha256 {config.text_encoder_sha256}\n"
        f"- dataset digest: {provenance.get('dataset_digest', 'unknown')}\n\n"
        f"Best validation epoch:\n\n{figures}\n"
    )
