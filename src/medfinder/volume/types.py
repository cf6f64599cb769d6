"""What a CT volume and a target grid are, and how stored axes are turned to RAS+.

In: plain arrays. Out: `Volume`, `Grid`, and `Slabs`, the stream from which both are made. Refused: anything that is not
three-dimensional, or whose affine cannot be inverted. One voxel order everywhere, RAS+: x grows to the patient's right,
y to the front, z to the head.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.errors import ConfigError, VolumeError

Array = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]

AIR_HU = -1024
"""What stands where nothing was measured: the lowest value of a 12-bit CT (DICOM PS3.3, C.8.2.1, stored 0 - 1024)."""


@dataclass(frozen=True, eq=False)
class Volume:
    """One CT volume in Hounsfield units.

    Attributes:
        hu: voxels (x, y, z), RAS+, int16 or float32. May be a view with any strides: copy it before handing it to a
            library that wants contiguous memory.
        affine: voxel index -> mm in the patient's RAS+ frame, shape (4, 4). May be oblique or sheared.
        notes: what the reader had to mend, one sentence each, without patient data; empty when nothing.
        padding_share: of the voxels, 0 to 1, that held padding in the file and are air now.
    """

    hu: Array
    affine: Affine
    notes: tuple[str, ...] = ()
    padding_share: float = 0.0

    def __post_init__(self) -> None:
        if self.hu.ndim != 3:
            raise VolumeError(
                f"a volume of {self.hu.ndim} dimensions, expected 3; pick one volume of the series", reason="not 3-D"
            )
        check_affine(self.affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = self.hu.shape
        return (x, y, z)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along x, y, z."""
        x, y, z = spacing_of(self.affine)
        return (x, y, z)


MAX_GRID_VOXELS = 512**3
"""Ours: a whole 512 x 512 x 512 CT, 256 MB as int16; nothing finer has been scanned."""


@dataclass(frozen=True)
class Grid:
    """The grid that every standardised volume has.

    Attributes:
        spacing_mm: along x, y, z.
        shape: voxels along x, y, z.
        window_hu: lowest and highest HU kept, whole numbers; what lies outside is set to the nearer bound.
        recipe: key of `medfinder.volume.published.RECIPES`: how a published model brings volumes onto the grid that it
            was trained on. Empty for our own way, `medfinder.volume.standardise`.

    Default: ours, 352 x 308 x 352 mm, which holds the chest of most adults at a size that a CPU can train on.

    Example:
        >>> Grid().extent_mm
        (352.0, 308.0, 352.0)
    """

    spacing_mm: tuple[float, float, float] = (5.5, 5.5, 5.5)
    shape: tuple[int, int, int] = (64, 56, 64)
    window_hu: tuple[float, float] = (-1024.0, 1500.0)
    recipe: str = ""

    def __post_init__(self) -> None:
        if self.recipe:
            from medfinder.volume.published import check_recipe

            check_recipe(self.recipe)
        if not all(0 < s < float("inf") for s in self.spacing_mm):
            raise ConfigError(f"grid spacing {self.spacing_mm} mm; each must be greater than 0")
        if not all(n >= 1 for n in self.shape):
            raise ConfigError(f"grid shape {self.shape}; each must be at least 1")
        if (voxels := int(np.prod(self.shape, dtype=object))) > MAX_GRID_VOXELS:
            raise ConfigError(
                f"grid shape {self.shape} has {voxels:.3g} voxels, at most {MAX_GRID_VOXELS:.3g} fit a model; "
                "give a coarser grid"
            )
        low, high = self.window_hu
        if not (-32768 <= low < high <= 32767 and low == int(low) and high == int(high)):
            raise ConfigError(f"window {self.window_hu} HU; expected whole numbers, low < high, within -32768..32767")

    @property
    def dtype(self) -> type[np.int16] | type[np.float32]:
        """Type of a voxel: whole HU our own way; a published recipe interpolates without rounding."""
        return np.float32 if self.recipe else np.int16

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Outer size along x, y, z."""
        x, y, z = (s * n for s, n in zip(self.spacing_mm, self.shape, strict=True))
        return (x, y, z)


@dataclass
class Padding:
    """How much of a stream was padding; whoever draws the stream counts on."""

    padded: float = 0
    voxels: int = 0

    @property
    def share(self) -> float:
        """Share of the voxels, 0 to 1."""
        return self.padded / self.voxels if self.voxels else 0.0


@dataclass
class Slabs:
    """A volume as it lies in its file, read once from front to back without ever being held as a whole.

    Attributes:
        shape: voxels (i, j, k) along the stored axes; i varies fastest in memory, k slowest.
        affine: stored index (i, j, k) -> mm, RAS+ frame.
        slabs: arrays (slices, j, i) of HU, int16 or float32, in ascending k; together they hold all k slices.
        notes: grows while slabs are drawn; complete only after the last.
        padding: counts likewise while slabs are drawn.
    """

    shape: tuple[int, int, int]
    affine: Affine
    dtype: npt.DTypeLike
    slabs: Iterator[Array]
    notes: list[str] = field(default_factory=list)
    padding: Padding = field(default_factory=Padding)


@dataclass(frozen=True)
class Turn:
    """How stored axes become RAS+ axes by permutation and reversal alone.

    Attributes:
        axes: stored axis that becomes x, y, z.
        reversed: whether that axis runs the other way.
    """

    axes: tuple[int, int, int]
    reversed: tuple[bool, bool, bool]

    def apply(self, stored: Array) -> Array:
        """View an array (i, j, k) as (x, y, z); no voxel is copied."""
        steps = tuple(slice(None, None, -1 if back else 1) for back in self.reversed)
        return stored.transpose(self.axes)[steps]

    def affine(self, affine: Affine, shape: tuple[int, ...]) -> Affine:
        """Return the affine of the turned array, given that of the stored one and its shape (i, j, k)."""
        turned = np.eye(4)
        turned[:3, 3] = affine[:3, 3]
        for new, (old, back) in enumerate(zip(self.axes, self.reversed, strict=True)):
            turned[:3, new] = -affine[:3, old] if back else affine[:3, old]
            if back:
                turned[:3, 3] += affine[:3, old] * (shape[old] - 1)
        return turned


def turn_to_ras(affine: Affine) -> Turn:
    """Find the permutation and reversal that brings the stored axes nearest to RAS+.

    Of the six permutations the one with the largest product of direction cosines wins, so that each stored axis is used
    once even at 45 degrees; equal products go to the first permutation in lexical order.
    """
    cosines = affine[:3, :3] / np.asarray(spacing_of(affine))
    best = max(permutations(range(3)), key=lambda axes: float(np.prod([abs(cosines[r, axes[r]]) for r in range(3)])))
    i, j, k = best
    back = (bool(cosines[0, i] < 0), bool(cosines[1, j] < 0), bool(cosines[2, k] < 0))
    return Turn((i, j, k), back)


_PLANES_AT_ONCE = 8


def slabs_of(volume: Volume) -> Slabs:
    """Stream a volume in the order in which its memory lies, which is that of the file it was read from."""
    strides = volume.hu.strides
    slow_to_fast = sorted(range(3), key=lambda axis: -abs(strides[axis]))
    turn = Turn(
        axes=(slow_to_fast[2], slow_to_fast[1], slow_to_fast[0]),
        reversed=(strides[slow_to_fast[2]] < 0, strides[slow_to_fast[1]] < 0, strides[slow_to_fast[0]] < 0),
    )
    stored = turn.apply(volume.hu)
    i, j, k = stored.shape
    affine = turn.affine(volume.affine, volume.shape)
    slabs = (stored[:, :, first : first + _PLANES_AT_ONCE].T for first in range(0, k, _PLANES_AT_ONCE))
    padding = Padding(volume.padding_share * volume.hu.size, volume.hu.size)
    return Slabs((i, j, k), affine, volume.hu.dtype, slabs, list(volume.notes), padding)


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Return the length in mm of the three columns of an affine."""
    i, j, k = (float(s) for s in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
    return (i, j, k)


MIN_SPACING_MM, MAX_SPACING_MM = 0.05, 30.0
"""Ours: no clinical CT lies outside; BIMCV holds headers whose z spacing is the whole field of view."""

MAX_VOXELS = 2**30
"""Ours: 512 x 512 x 4096, four times the longest whole-body CT at 0.6 mm; a header that promises more is damaged."""


def check_affine(affine: Affine) -> None:
    """Refuse an affine that is not 4x4, not finite, singular, or has a spacing that no CT has.

    Raises:
        VolumeError: with the figure found.
    """
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise VolumeError("the affine is not a finite 4x4 matrix; repair the header", reason="bad affine")
    spacing = spacing_of(affine)
    for axis, size in zip("ijk", spacing, strict=True):
        if not MIN_SPACING_MM <= size <= MAX_SPACING_MM:
            raise VolumeError(
                f"spacing {size:g} mm on axis {axis}, expected {MIN_SPACING_MM:g} to {MAX_SPACING_MM:g}; "
                "repair the header or leave the volume out",
                reason="bad spacing",
            )
    volume_of_cosines = abs(float(np.linalg.det(affine[:3, :3] / np.asarray(spacing))))
    if volume_of_cosines < 0.1:
        raise VolumeError(
            f"singular affine: its axes span {volume_of_cosines:.3g} of a unit cube, expected near 1; "
            "repair the header",
            reason="singular affine",
        )


def check_shape(shape: tuple[int, ...]) -> None:
    """Refuse a shape that is not that of a CT volume, before anything is allocated.

    Raises:
        VolumeError: not three axes, an axis with fewer than two voxels, or more than `MAX_VOXELS` in all.
    """
    size = " x ".join(str(n) for n in shape)
    if len(shape) != 3:
        raise VolumeError(
            f"{len(shape)} dimensions ({size}), expected 3; give one volume, not a slice or a time series",
            reason="not 3-D",
        )
    if min(shape) < 2:
        raise VolumeError(
            f"shape {size}, expected at least 2 voxels on each axis; give a whole volume", reason="not 3-D"
        )
    if (voxels := int(np.prod([int(n) for n in shape], dtype=object))) > MAX_VOXELS:
        raise VolumeError(
            f"the header promises {size} = {voxels:.3g} voxels, at most {MAX_VOXELS:.3g} are read; it is damaged",
            reason="too large",
        )
