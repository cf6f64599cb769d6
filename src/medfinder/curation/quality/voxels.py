"""The paper's own filters: is the volume large enough, and was enough of it measured.

In: HU and shape of a raw volume. Out: nothing when it passes, else why not: a short reason for tables and one sentence
with the figures. Voxel values that cannot be HU at all (NaN, infinity) were refused when the volume was read.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.volume import Volume

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


def missing_share(volume: Volume) -> float:
    """Measure which share of a volume holds no measurement.

    The paper counts "missing voxels" and does not define them. Ours: the greater of two shares. Voxels that were
    padding in the file, as the reader noted; and voxels in a plane, across any of the three axes, that holds a single
    value from edge to edge. No scanner measures such a plane; zero-filled, lost and cropped slices are made of them.

    Returns:
        0 to 1.
    """
    measured = 1
    for axis in range(3):
        measured *= volume.shape[axis] - _count_blank(np.moveaxis(volume.hu, axis, 0))
    blank = (volume.hu.size - measured) / volume.hu.size
    return max(blank, volume.padding_share)


def _count_blank(planes: npt.NDArray[Any]) -> int:
    # Nearly every plane is known not to be blank after a few voxels of it.
    few = planes[:, :: max(1, planes.shape[1] // 8), :: max(1, planes.shape[2] // 8)]
    may_be = np.flatnonzero((few == few[:, :1, :1]).all(axis=(1, 2)))
    return sum(bool((planes[at] == planes[at, 0, 0]).all()) for at in may_be)


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
