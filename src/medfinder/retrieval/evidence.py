"""Where in a volume the model sees what was asked for: a heat map, and from it a box and slice numbers.

In: standardised volumes by their paths, and a finding, words, or the vector of a region. Out: ``HeatMap`` on the
model's cells, ``Evidence`` in mm and slices. Refused: nothing; what the model cannot tell, or a volume that has gone,
is None. Volumes are encoded on demand, and what was found is kept for the last few hundred.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from medfinder.errors import VolumeError
from medfinder.records import Box, Evidence
from medfinder.volume import read_volume

# Cases whose regions are kept in memory: those that a region query compares, and some; 0.1 to 1 MB each.
_KEPT = 256

# How far a box reaches: to cells that stand out from the median at least this share as much as the best. Ours: half.
_REACH = 0.5


@dataclass(frozen=True, eq=False)
class HeatMap:
    """How much each cell of a volume looks like what was asked for.

    Attributes:
        values: (x, y, z) float32, one a cell; higher is more. Comparable within one model and one ``asked`` only.
        affine: number of a cell -> mm of its centre, RAS+.
        voxels: voxels of the standardised volume along a cell's x, y, z.
    """

    asked: str
    values: np.ndarray
    affine: np.ndarray
    voxels: tuple[float, float, float]


class EvidenceFinder:
    """Finds evidence with what a model can do: map findings, compare regions with words, or nothing of it.

    Args:
        model: a ``DualEncoder`` that may also be a ``RegionEncoder`` and a ``FindingMapper``.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.can_compare = bool(getattr(model, "region_width", 0))
        self.mapped: tuple[str, ...] = tuple(getattr(model, "finding_names", ()))
        # A file that is replaced has another time of change; two threads at once only do the work twice.
        self._regions = lru_cache(_KEPT)(self._encode_regions)
        self._maps = lru_cache(_KEPT)(self._encode_maps)

    def of_finding(self, volume: Path | None, name: str, words: str = "") -> HeatMap | None:
        """Show where a finding is seen.

        Args:
            words: how the query put it, e.g. with its side; for models that compare words only.
        """
        if name in self.mapped:
            found = self._read(self._maps, volume)
            return None if found is None else self._heat(name, found[0][..., self.mapped.index(name)], found[1])
        return self.of_text(volume, words or name, asked=name)

    def of_text(self, volume: Path | None, words: str, *, asked: str = "text") -> HeatMap | None:
        """Show where a volume looks like words."""
        found = self._read(self._regions, volume) if self.can_compare else None
        if found is None:
            return None
        [(sentences, weights)] = self._model.encode_asked([words])
        return self._heat(asked, found[0].astype(np.float32) @ (weights @ sentences), found[1])

    def of_region(self, volume: Path | None, vector: np.ndarray) -> HeatMap | None:
        """Show where a volume looks like a region."""
        found = self._read(self._regions, volume) if self.can_compare else None
        return None if found is None else self._heat("region", found[0].astype(np.float32) @ vector, found[1])

    def vector_of(self, hu: np.ndarray, affine: np.ndarray, box: Box) -> np.ndarray | None:
        """Pool the regions that a box touches, each by how much of it, into one vector; None when it touches none."""
        regions = self._model.encode_regions([hu])[0].reshape(*self._model.tokens, -1)
        corners = np.array([[*box.lo_mm, 1.0], [*box.hi_mm, 1.0]]) @ np.linalg.inv(affine).T
        size = np.asarray(hu.shape) / self._model.tokens
        ends = (np.sort(corners[:, :3], axis=0) + 0.5) / size
        shares = [
            np.clip(np.minimum(ends[1, axis], place + 1) - np.maximum(ends[0, axis], place), 0, None)
            for axis, place in enumerate(map(np.arange, self._model.tokens))
        ]
        pooled = np.einsum("x,y,z,xyzw->w", *shares, regions.astype(float))
        length = float(np.linalg.norm(pooled))
        return (pooled / length).astype(np.float32) if length > 0 else None

    def likeness(self, volume: Path | None, vector: np.ndarray) -> float | None:
        """Tell the cosine of the region that is most like one; None where it cannot be told."""
        found = self._read(self._regions, volume) if self.can_compare else None
        return None if found is None else float((found[0].astype(np.float32) @ vector).max())

    def _heat(self, asked: str, values: np.ndarray, affine: np.ndarray) -> HeatMap:
        voxels = np.asarray(self._model.grid.shape) / values.shape
        to_mm = affine.copy()
        to_mm[:3, :3] = affine[:3, :3] * voxels
        to_mm[:3, 3] = affine[:3, :3] @ ((voxels - 1) / 2) + affine[:3, 3]
        x, y, z = map(float, voxels)
        return HeatMap(asked, np.asarray(values, np.float32), to_mm, (x, y, z))

    def _read(self, read: Any, volume: Path | None) -> tuple[np.ndarray, np.ndarray] | None:
        try:
            return None if volume is None else read(volume, volume.stat().st_mtime_ns)
        except (OSError, VolumeError):
            return None

    def _encode_regions(self, volume: Path, _changed: int) -> tuple[np.ndarray, np.ndarray]:
        found = read_volume(volume)
        regions = self._model.encode_regions([found.hu])[0].reshape(*self._model.tokens, -1)
        return regions.astype(np.float16), found.affine

    def _encode_maps(self, volume: Path, _changed: int) -> tuple[np.ndarray, np.ndarray]:
        found = read_volume(volume)
        return self._model.map_findings([found.hu])[0].astype(np.float16), found.affine


def evidence_in(heat: HeatMap) -> Evidence:
    """Put a box around what stands out most, and name the slices through its middle."""
    values = heat.values
    best = np.unravel_index(int(values.argmax()), values.shape)
    floor = float(np.median(values))
    bound = floor + _REACH * (float(values[best]) - floor)
    labels, _ = ndimage.label(values >= bound)
    inside = np.argwhere(labels == labels[best])
    # The middle is drawn to the neighbours by how much they stand out, so that it is finer than a cell.
    near = inside[(np.abs(inside - best) <= 1).all(axis=1)]
    weights = values[tuple(near.T)] - bound + 1e-6
    middle = (weights[:, None] * near).sum(axis=0) / weights.sum()
    lo, hi = _in_mm(heat, inside.min(axis=0) - 0.5), _in_mm(heat, inside.max(axis=0) + 0.5)
    x, y, z = (int(number) for number in np.floor((middle + 0.5) * heat.voxels))
    return Evidence(heat.asked, Box(lo, hi), (x, y, z), round(float(values[best]), 4))


def _in_mm(heat: HeatMap, cell: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    x, y, z = heat.affine[:3, :3] @ np.asarray(cell) + heat.affine[:3, 3]
    return round(float(x), 2), round(float(y), 2), round(float(z), 2)
