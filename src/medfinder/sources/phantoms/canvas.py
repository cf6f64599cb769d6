"""The canvas that phantoms are painted on: soft-edged solids in millimetres, at any matrix size.

In: shapes with centre, radii and HU. Out: a float32 HU array (x, y, z), RAS+. A shape covers each voxel by a fraction,
so that what is smaller than a voxel still changes it by its share. Voxels are computed with + - * / sqrt and
comparisons alone, which IEEE 754 rounds the same on every machine.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Box = tuple[slice, slice, slice]
Point = tuple[float, float, float]

AIR_HU = -1000.0

# A solid thinner than this share of a voxel is widened to it and made as much fainter.
_THINNEST = 0.6
# ... but never fainter than this, or calcifications would be lost at 64 voxels. Ours.
_FAINTEST = 0.25


def f32(value: float) -> np.float32:
    """Round to float32, the precision in which voxels are computed."""
    return np.float32(value)


def ramp(value: Any) -> Any:
    """Clip to 0..1."""
    return np.clip(value, 0, 1)


class Canvas:
    """HU on a regular grid whose x and y are centred on the patient.

    Attributes:
        x, y, z: coordinates in mm, shaped to broadcast.
        hu: the voxels.
        voxel: the largest spacing in mm, over which edges are softened.
        whole: the box of all voxels.
    """

    def __init__(self, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], z_low_mm: float) -> None:
        axes = [
            (np.arange(n, dtype=np.float32) - f32((n - 1) / 2)) * f32(s) for n, s in zip(shape, spacing_mm, strict=True)
        ]
        axes[2] = np.arange(shape[2], dtype=np.float32) * f32(spacing_mm[2]) + f32(z_low_mm)
        self._axes = axes
        self.x, self.y, self.z = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
        self.voxel = f32(max(spacing_mm))
        self.shape = shape
        self.hu: Array = np.full(shape, AIR_HU, np.float32)
        self.whole: Box = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))

    def box(self, centre: Sequence[float], reach: Sequence[float]) -> Box:
        """Find the voxels within ``reach`` mm of a centre, and one more on each side."""
        margin = float(self.voxel)
        ends = []
        for axis, middle, extent in zip(self._axes, centre, reach, strict=True):
            low = int(np.searchsorted(axis, middle - extent - margin))
            high = int(np.searchsorted(axis, middle + extent + margin))
            ends.append(slice(low, max(low, high)))
        return (ends[0], ends[1], ends[2])

    def at(self, box: Box) -> tuple[Array, Array, Array]:
        """Give the coordinates of a box."""
        return self.x[box[0]], self.y[:, box[1]], self.z[:, :, box[2]]

    def soften(self, distance_mm: Any) -> Array:
        """Turn signed distances (mm, negative inside) into coverage 0..1."""
        covered: Array = ramp(f32(0.5) - distance_mm / self.voxel)
        return covered

    def paint(self, box: Box, cover: Array, hu: float) -> None:
        """Move the voxels of a box towards ``hu`` by their coverage."""
        voxels = self.hu[box]
        voxels += cover * (f32(hu) - voxels)

    def ellipsoid(self, centre: Sequence[float], radii: Sequence[float]) -> tuple[Box, Array]:
        """Cover an ellipsoid."""
        thinnest = float(self.voxel) * _THINNEST
        wide = [max(float(r), thinnest) for r in radii] if min(radii) < thinnest else [float(r) for r in radii]
        faint = (radii[0] * radii[1] * radii[2]) / (wide[0] * wide[1] * wide[2])
        box = self.box(centre, wide)
        offsets = ((axis - f32(c)) / f32(r) for axis, c, r in zip(self.at(box), centre, wide, strict=True))
        x, y, z = (offset * offset for offset in offsets)
        cover = self.soften((np.sqrt(x + y + z) - 1) * f32(min(wide)))
        return box, cover * f32(max(faint, _FAINTEST)) if faint < 1 else cover

    def block(self, centre: Sequence[float], half: Sequence[float]) -> tuple[Box, Array]:
        """Cover an upright box."""
        box = self.box(centre, half)
        x, y, z = (
            self.soften(np.abs(axis - f32(c)) - f32(h)) for axis, c, h in zip(self.at(box), centre, half, strict=True)
        )
        return box, x * y * z

    def tube(self, start: Sequence[float], end: Sequence[float], radius: float) -> tuple[Box, Array]:
        """Cover a straight tube with round ends."""
        middle = [(a + b) / 2 for a, b in zip(start, end, strict=True)]
        reach = [abs(a - b) / 2 + radius for a, b in zip(start, end, strict=True)]
        box = self.box(middle, reach)
        way = [b - a for a, b in zip(start, end, strict=True)]
        length2 = sum(w * w for w in way)
        offsets = [axis - f32(a) for axis, a in zip(self.at(box), start, strict=True)]
        along = ramp(sum(o * f32(w) for o, w in zip(offsets, way, strict=True)) / f32(length2))
        away = [o - along * f32(w) for o, w in zip(offsets, way, strict=True)]
        distance = np.sqrt(away[0] * away[0] + away[1] * away[1] + away[2] * away[2])
        thinnest = float(self.voxel) * 0.5
        if radius < thinnest:
            return box, self.soften(distance - f32(thinnest)) * f32((radius / thinnest) * (radius / thinnest))
        return box, self.soften(distance - f32(radius))
