"""A trained network with its frozen text encoder, as the rooms below use it.

In: standardised HU volumes, English texts. Out: unit vectors. Refused: volumes of another shape than the model's grid.
"""

from collections.abc import Callable, Sequence, Set
from typing import cast

import numpy as np
import torch
from torch import nn

from medfinder.errors import CheckpointError, VolumeError
from medfinder.models.image_encoder import map_shape, token_shape
from medfinder.models.learner import Network
from medfinder.models.medfinder import MedFinder
from medfinder.models.text_encoders import TextEncoder
from medfinder.models.text_head import batch_sentences
from medfinder.volume import Grid

# Frozen vectors of pieces kept in memory: about 20 kB each.
_PIECES_KEPT = 4096


class TrainedEncoder:
    """A network of a checkpoint, ready to encode; see ``DualEncoder``."""

    def __init__(
        self, network: Network, text_encoder: TextEncoder, *, grid: Grid, name: str, digest: str, is_synthetic: bool
    ) -> None:
        cast(nn.Module, network).eval()
        self.network = network
        self.name = name
        self.digest = digest
        self.is_synthetic = is_synthetic
        self.width = network.width
        self.grid = grid
        self._text_encoder = text_encoder
        # Reports share many pieces; the oldest give way first.
        self._known: dict[str, np.ndarray] = {}

    def encode_volumes(self, hu: Sequence[np.ndarray]) -> np.ndarray:
        """Embed volumes standardised on ``grid``; (n, width) float32, rows of length 1.

        Raises:
            VolumeError: a volume has another shape than the grid.
        """
        return self._each(hu, self.network.embed_volumes, empty=(0, self.width))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed whole reports or short queries; (n, width) float32, rows of length 1."""
        return self._encode([self.network.cut(text) for text in texts])

    def encode_sentences(self, texts: Sequence[str]) -> np.ndarray:
        """Embed each text as one sentence; (n, width) float32, rows of length 1."""
        return self._encode([(text,) for text in texts])

    @property
    def region_width(self) -> int:
        """Length of the vectors of regions; 0 when the network has none."""
        return int(getattr(self.network.settings, "region_width", 0))

    @property
    def tokens(self) -> tuple[int, int, int]:
        """Regions along x, y, z."""
        return token_shape(self._regional().settings.image, self.grid.shape)

    def encode_regions(self, hu: Sequence[np.ndarray]) -> np.ndarray:
        """Embed the regions of volumes; (n, regions, region_width) float32, rows of length 1.

        Raises:
            CheckpointError: the model has no vectors of regions.
            VolumeError: a volume has another shape than the grid.
        """
        network = self._regional()
        return self._each(
            hu, lambda one: network.embed_regions(network.image.look(one).tokens), empty=(0, 0, self.region_width)
        )

    @property
    def finding_names(self) -> tuple[str, ...]:
        """Findings that the network has maps of; may be none."""
        return self.network.image.map_names if isinstance(self.network, MedFinder) else ()

    @property
    def cells(self) -> tuple[int, int, int]:
        """Cells of a finding map along x, y, z."""
        return map_shape(self._mapping().settings.image, self.grid.shape)

    def map_findings(self, hu: Sequence[np.ndarray]) -> np.ndarray:
        """Score every finding in every cell; (n, x, y, z, findings) float32 log-odds.

        Raises:
            CheckpointError: the model has no finding maps.
            VolumeError: a volume has another shape than the grid.
        """
        network = self._mapping()
        shape = (*self.cells, len(self.finding_names))
        maps = self._each(hu, lambda one: network.image.look(one).maps, empty=(0, *shape))
        return maps.reshape(len(maps), *shape)

    def encode_asked(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Embed the sentences of texts: vectors (sentences, region_width) and how much each counts, in all 1.

        Raises:
            CheckpointError: the model has no vectors of regions.
        """
        network = self._regional()
        cut = [network.cut(text) for text in texts]
        known = self._vectors_of({piece for pieces in cut for piece in pieces})
        found = []
        with torch.inference_mode():
            for pieces in cut:
                batch = batch_sentences([range(len(pieces))], [known[piece] for piece in pieces])
                sentences = network.text.sentences(batch)
                weights = network.text.weights(sentences)[:, 0]
                found.append((network.embed_sentences(sentences).numpy(), (weights / weights.sum()).numpy()))
        return found

    def _each(
        self, hu: Sequence[np.ndarray], encode: Callable[[torch.Tensor], torch.Tensor], *, empty: tuple[int, ...]
    ) -> np.ndarray:
        """Encode volumes one at a time: what is made of one must not depend on what else is in the batch."""
        for number, volume in enumerate(hu):
            if volume.shape != self.grid.shape:
                raise VolumeError(
                    f"volume {number} of the batch has {_by(volume.shape)} voxels, the model expects "
                    f"{_by(self.grid.shape)}; standardise it on the model's grid first",
                    reason="wrong grid",
                )
        with torch.inference_mode():
            rows = [encode(torch.from_numpy(np.array(volume[None], np.int16))).numpy() for volume in hu]
        return np.concatenate(rows) if rows else np.zeros(empty, np.float32)

    def _mapping(self) -> MedFinder:
        if not isinstance(self.network, MedFinder) or not self.network.image.map_names:
            raise CheckpointError(f"model {self.name} has no finding maps; train one with model.image.finding_maps")
        return self.network

    def _regional(self) -> MedFinder:
        if not isinstance(self.network, MedFinder) or not self.region_width:
            raise CheckpointError(f"model {self.name} has no vectors of regions; train one with model.region_width")
        return self.network

    def _encode(self, texts: Sequence[Sequence[str]]) -> np.ndarray:
        rows = []
        known = self._vectors_of({piece for pieces in texts for piece in pieces})
        with torch.inference_mode():
            for pieces in texts:
                rows.append(self.network.embed_texts([range(len(pieces))], [known[piece] for piece in pieces]).numpy())
        return np.concatenate(rows) if rows else np.zeros((0, self.width), np.float32)

    def _vectors_of(self, pieces: Set[str]) -> dict[str, np.ndarray]:
        """Freeze the pieces that are new, all at once: several times faster than one by one."""
        new = sorted(pieces - self._known.keys())
        found = {piece: self._known[piece] for piece in pieces & self._known.keys()}
        found |= dict(zip(new, self.network.freeze(self._text_encoder, new), strict=True)) if new else {}
        self._known |= {piece: found[piece] for piece in new}
        for oldest in list(self._known)[: max(0, len(self._known) - _PIECES_KEPT)]:
            del self._known[oldest]
        return found


def _by(shape: Sequence[int]) -> str:
    return "x".join(str(n) for n in shape)
