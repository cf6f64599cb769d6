"""What every model can do for the rooms below: volumes and texts to unit vectors in one space.

In: standardised HU arrays and English texts. Out: float32 NumPy arrays, one unit-length row an input. No torch here, so
that search code may name the type without loading it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from medfinder.volume import Grid


class DualEncoder(Protocol):
    """A model that puts CT volumes and texts into one space, where nearer means more alike.

    Attributes:
        name: short, for people.
        digest: sha256 over weights and configuration; equal digests give equal vectors.
        width: length of a vector.
        grid: the grid that volumes must be standardised on.
        is_synthetic: trained on synthetic cases only; its scores on real CTs must be told as such.
    """

    name: str
    digest: str
    width: int
    grid: Grid
    is_synthetic: bool

    def encode_volumes(self, hu: Sequence[np.ndarray]) -> np.ndarray:
        """Embed volumes standardised on ``grid``; (n, width) float32, rows of length 1."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed whole reports or short queries; (n, width) float32, rows of length 1."""
        ...

    def encode_sentences(self, texts: Sequence[str]) -> np.ndarray:
        """Embed each text as one sentence; (n, width) float32, rows of length 1."""
        ...


class RegionEncoder(Protocol):
    """A model that also gives vectors of a volume's regions and of a text's sentences, in a space of their own.

    Attributes:
        region_width: length of these vectors; 0 when the model has none.
        tokens: regions along x, y, z; together they cover the grid evenly.
    """

    region_width: int
    tokens: tuple[int, int, int]

    def encode_regions(self, hu: Sequence[np.ndarray]) -> np.ndarray:
        """Embed the regions of volumes, z fastest; (n, regions, region_width) float32, rows of length 1."""
        ...

    def encode_asked(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Embed the sentences of texts: of each text the vectors (sentences, region_width) and how much each counts."""
        ...


class FindingMapper(Protocol):
    """A model that also says where in a volume it sees each finding.

    Attributes:
        finding_names: findings that have a map; none when the model has no maps.
        cells: of a map along x, y, z; together they cover the grid evenly.
    """

    finding_names: tuple[str, ...]
    cells: tuple[int, int, int]

    def map_findings(self, hu: Sequence[np.ndarray]) -> np.ndarray:
        """Score every finding in every cell; (n, x, y, z, findings) float32 log-odds."""
        ...
