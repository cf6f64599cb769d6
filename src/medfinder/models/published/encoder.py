"""What the published models share: their files, and how their networks serve as a `DualEncoder`.

In: a network with the names of the published weights, the weights' file, a tokenizer. Out: a `PublishedEncoder`.
Refused: files that are absent, cut short or hold more than tensors; weights that are missing, unknown or misshapen;
volumes of another shape than the model's grid.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from medfinder.errors import CheckpointError, VolumeError
from medfinder.models.hub import sha256_of
from medfinder.volume import Grid


class Tokenizer(Protocol):
    """Cuts texts into the numbers that a network reads.

    Attributes:
        digest: of its files.
    """

    digest: str

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Give the numbers of each text, special ones included, cut where the network's context ends."""
        ...


class Network(Protocol):
    """A published pair of encoders with its published names of weights."""

    grid: Grid
    width: int

    def embed_volumes(self, hu: Tensor) -> Tensor:
        """Map float32 HU (n, x, y, z), RAS+, prepared on ``grid``, to vectors (n, width)."""
        ...

    def embed_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map token numbers (n, t) to vectors (n, width); the mask is 1 for tokens and 0 for padding."""
        ...


class PublishedEncoder:
    """A published network, ready to encode; see ``DualEncoder``. It has seen real CTs.

    Attributes:
        licence: of the weights, for people.
    """

    is_synthetic = False

    def __init__(self, network: Network, tokenizer: Tokenizer, *, name: str, weights: str, licence: str) -> None:
        self.name = name
        self.licence = licence
        self.width = network.width
        self.grid = network.grid
        self.digest = hashlib.sha256("\0".join((name, weights, tokenizer.digest, repr(self.grid))).encode()).hexdigest()
        self._network = network
        self._tokenizer = tokenizer

    def encode_volumes(self, hu: Sequence[np.ndarray]) -> np.ndarray:
        """Embed volumes standardised on ``grid``; (n, width) float32, rows of length 1.

        Raises:
            VolumeError: a volume has another shape than the grid.
        """
        for number, volume in enumerate(hu):
            if volume.shape != self.grid.shape:
                found, wanted = ("x".join(map(str, shape)) for shape in (volume.shape, self.grid.shape))
                raise VolumeError(
                    f"volume {number} of the batch has {found} voxels, {self.name} expects {wanted}; "
                    "standardise it on the model's grid first",
                    reason="wrong grid",
                )
        rows = []
        with torch.inference_mode():
            # One at a time: they are large, and a vector must not depend on what else is in the batch.
            for volume in hu:
                vector = self._network.embed_volumes(torch.from_numpy(np.array(volume[None], np.float32)))
                rows.append(functional.normalize(vector, dim=1).numpy())
        return np.concatenate(rows) if rows else np.zeros((0, self.width), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed whole reports or short queries; (n, width) float32, rows of length 1."""
        rows = []
        with torch.inference_mode():
            # One at a time here, too: without padding there is none to be masked.
            for numbers in self._tokenizer.encode(texts):
                ids = torch.tensor([numbers])
                rows.append(functional.normalize(self._network.embed_texts(ids, torch.ones_like(ids)), dim=1).numpy())
        return np.concatenate(rows) if rows else np.zeros((0, self.width), np.float32)

    def encode_sentences(self, texts: Sequence[str]) -> np.ndarray:
        """Embed each text as one sentence; (n, width) float32, rows of length 1."""
        return self.encode_texts(texts)


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read a file of tensors and its sha256; of a pickle, torch reads nothing but tensors.

    Raises:
        CheckpointError: the file is absent, truncated, or holds something else.
    """
    sha256 = sha256_of(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path), sha256
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is truncated or holds more than tensors ({cause}); fetch it again") from error
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise CheckpointError(f"{path} is no table of tensors; give the weights as they are published")
    return weights, sha256


def put_weights(network: nn.Module, weights: Mapping[str, Tensor], *, where: Path, idle: Sequence[str]) -> None:
    """Put published weights into a network of the same names; they take the place of its own, as float32.

    Args:
        idle: beginnings of names that published files may have besides, and that no vector depends on.

    Raises:
        CheckpointError: names are missing or unknown, or shapes differ.
    """
    expected = {key: tuple(weight.shape) for key, weight in network.state_dict().items()}
    found = {
        key: weight for key, weight in weights.items() if key in expected or not key.startswith(tuple(idle) or "\0")
    }
    faults = [f"missing {key}" for key in sorted(expected.keys() - found.keys())]
    faults += [f"unknown {key}" for key in sorted(found.keys() - expected.keys())]
    faults += [
        f"{key} is {tuple(found[key].shape)}, expected {expected[key]}"
        for key in sorted(expected.keys() & found.keys())
        if tuple(found[key].shape) != expected[key]
    ]
    if faults:
        more = f" and {len(faults) - 6} more" if len(faults) > 6 else ""
        raise CheckpointError(f"{where} is not the published model: {'; '.join(faults[:6])}{more}")
    floats = {key: weight.float() if weight.is_floating_point() else weight for key, weight in found.items()}
    network.load_state_dict(floats, assign=True)
    network.eval().requires_grad_(False)


def find_file(folder: Path, names: Sequence[str]) -> Path:
    """Find the first of some files in a folder.

    Raises:
        CheckpointError: there is none of them.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"no {' or '.join(names)} in {folder}; give the folder that holds the model's files")
