"""The paper's own filters: is the volume large enough, and was enough of it measured.

In: HU and shape of a raw volume. Out: nothing when it passes, else why not: a short reason for tables and one sentence
with the figures. Voxel values that cannot be HU at all (NaN, infinity) were refused when the volume was read.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

# What a filter answers: (reason, detail), or None for a pass.
Fault = tuple[str, str] | None


def find_small_dimension(shape: tuple[int, int, int], *, limit: int) -> Fault:
    """Find the smallest dimension too small.

    Source: the paper drops volumes with any dimension below 96 voxels; we count before resampling.

    Example:
        >>> find_small_dimension((512, 512, 96), limit=96)
        >>> find_small_dimension((512, 512, 95), limit=96)
        ('too small', '512 x 512 x 95 voxels, expected at least 96 on each axis')
    """
    if min(shape) >= limit:
        return None
    size = " x ".join(str(n) for n in shape)
    return "too small", f"{size} voxels, expected at least {limit} on each axis"


class BlankPlanes:
    """Finds the planes of a volume, across any of its axes, that hold a single value from edge to edge.

    No scanner measures such a plane; zero-filled, lost and cropped slices are made of them.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._blank = [np.ones(count, bool) for count in shape]
        self._values: list[npt.NDArray[Any] | None] = [None, None]

    def add(self, at: int, slices: npt.NDArray[Any]) -> None:
        """Add slices of the first axis, the first of which is the one that counts ``at``; all slices come once."""
        self._blank[0][at : at + len(slices)] = _are_all(slices, slices[:, 0, 0])
        for axis in (1, 2):
            planes = np.moveaxis(slices, axis, 0)
            values = self._values[axis - 1]
            if values is None:
                values = self._values[axis - 1] = planes[:, 0, 0].copy()
            left = np.flatnonzero(self._blank[axis])
            if len(left):
                self._blank[axis][left] = _are_all(planes[left] if len(left) < len(planes) else planes, values[left])

    @property
    def share(self) -> float:
        """Share of the voxels that lie in such planes."""
        size = int(np.prod([len(one) for one in self._blank]))
        measured = int(np.prod([np.count_nonzero(~one) for one in self._blank]))
        return (size - measured) / size


def _are_all(planes: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell of each plane whether it holds nothing but its value."""
    # Nearly every plane is known not to be blank after a few voxels of it.
    few = planes[:, :: max(1, planes.shape[1] // 8), :: max(1, planes.shape[2] // 8)]
    are_blank = (few == values[:, None, None]).all(axis=(1, 2))
    for place in np.flatnonzero(are_blank):
        are_blank[place] = (planes[place] == values[place]).all()
    return np.asarray(are_blank)


def find_missing_voxels(share: float, *, limit: float) -> Fault:
    """Find too many missing voxels.

    Source: the paper drops volumes with more than 30% of their voxels missing.

    Example:
        >>> find_missing_voxels(0.30, limit=0.30)
        >>> find_missing_voxels(0.31, limit=0.30)
        ('missing voxels', '31.0% of the voxels hold no measurement, expected at most 30%')
    """
    if share <= limit:
        return None
    return "missing voxels", f"{100 * share:.1f}% of the voxels hold no measurement, expected at most {100 * limit:g}%"
