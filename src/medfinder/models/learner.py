"""What the training loop trains: a network, and what it is to make small.

The heavy part of a step sees a few volumes at a time, the light part sees the whole batch: so a batch may be larger
than memory (cached gradients: Gao et al. 2021), and P processes with B/P cases each compute what one process with B
cases does, batch norms of the light part included. In: a batch of cases. Out: the terms of its loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from medfinder.models.examples import Examples
from medfinder.models.text_encoders import TextEncoder
from medfinder.models.texts import PieceTable


@dataclass(frozen=True)
class Batch:
    """The cases of a step, of all processes together.

    Attributes:
        step: its number, from 0.
        cases: their places in ``examples``.
        table: the frozen vectors of all text pieces.
        seed: of the run; with ``step`` it fixes every draw.
    """

    step: int
    cases: np.ndarray
    examples: Examples
    table: PieceTable
    seed: int

    def draws(self, purpose: int) -> np.random.Generator:
        """Give the same generator whenever this step is made; one for each purpose."""
        return np.random.default_rng([self.seed, purpose, self.step])


class Network(Protocol):
    """The trained part of a model: what a checkpoint holds. An ``nn.Module``.

    Attributes:
        settings: how to build it again; without the places of files, which a checkpoint needs no more.
        width: of the unit vectors.
    """

    settings: Any
    width: int

    def cut(self, text: str) -> tuple[str, ...]:
        """Cut a report or query into the pieces that the frozen text encoder sees; at least one."""
        ...

    def freeze(self, encoder: TextEncoder, pieces: Sequence[str]) -> list[np.ndarray]:
        """Give the frozen vectors (tokens, width) of each piece, float16 or float32."""
        ...

    def embed_volumes(self, hu: Tensor) -> Tensor:
        """Map HU (n, x, y, z) to unit vectors (n, width): one view of each volume, nothing random."""
        ...

    def embed_texts(self, texts: Sequence[Sequence[int]], vectors: Sequence[np.ndarray]) -> Tensor:
        """Map texts, each the numbers of its pieces in ``vectors``, to unit vectors (n, width)."""
        ...


class Learner(Protocol):
    """A network with its objective."""

    @property
    def network(self) -> nn.Module:
        """The ``Network``."""
        ...

    def views(self, hu: Tensor, rng: np.random.Generator) -> Tensor:
        """Make augmented views (n, views, x, y, z) of HU (n, x, y, z), on its device. Left stays left."""
        ...

    def encode(self, views: Tensor) -> tuple[Tensor, ...]:
        """Do the heavy part; each tensor has a row a case. Deterministic: it may be done twice."""
        ...

    def terms(self, encoded: tuple[Tensor, ...], batch: Batch) -> Mapping[str, Tensor]:
        """Do the light part on the rows of the whole batch: the weighted terms of the loss, which is their sum."""
        ...
