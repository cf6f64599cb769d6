"""Resample a stream of slabs to another spacing without aliasing and without holding the stream.

In: `Slabs` and a spacing for each stored axis. Out: the whole field of view on the coarser (or finer) grid, float32.
Along each axis on its own: where the new voxels are larger, each is the average of what it covers (area weights: noise
falls as it does when neighbouring voxels are averaged); where they are smaller, it is interpolated linearly.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import sparse

from medfinder.volume.types import Affine, Slabs, spacing_of

Float32 = npt.NDArray[np.float32]


def axis_weights(count: int, spacing_mm: float, new_spacing_mm: float) -> npt.NDArray[np.float64]:
    """Return the weights that turn ``count`` voxels of one axis into the voxels of the new spacing.

    The new axis is centred on the old one and covers it whole, so reversing the axis reverses the result. A new voxel
    that reaches past the end averages the part that was measured.

    Returns:
        An array (new count, count); each row sums to 1.

    Example:
        >>> axis_weights(4, 1.0, 2.0)
        array([[0.5, 0.5, 0. , 0. ],
               [0. , 0. , 0.5, 0.5]])
        >>> axis_weights(2, 2.0, 1.0)
        array([[1.  , 0.  ],
               [0.75, 0.25],
               [0.25, 0.75],
               [0.  , 1.  ]])
    """
    ratio = new_spacing_mm / spacing_mm
    new_count = new_axis_count(count, spacing_mm, new_spacing_mm)
    left = count / 2 - new_count / 2 * ratio + ratio * np.arange(new_count)
    if ratio >= 1:
        starts = np.arange(count)
        overlap = np.minimum(left[:, None] + ratio, starts + 1) - np.maximum(left[:, None], starts)
        weights = np.where(overlap > 1e-9, overlap, 0.0)
    else:
        centres = np.clip(left + ratio / 2 - 0.5, 0, count - 1)
        weights = np.maximum(0.0, 1.0 - np.abs(centres[:, None] - np.arange(count)))
    normed: npt.NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return normed


def new_axis_count(count: int, spacing_mm: float, new_spacing_mm: float) -> int:
    """Return how many voxels of the new spacing cover an axis whole."""
    return max(1, int(np.ceil(count * spacing_mm / new_spacing_mm - 1e-6)))


def resample_slabs(
    source: Slabs, new_spacing_mm: tuple[float, float, float], window_hu: tuple[float, float]
) -> Float32:
    """Resample a stream to new spacings along its stored axes.

    HU are limited to the window before they are averaged, so that a metal spike does not bleed into its surroundings.

    Returns:
        An array (k, j, i) that covers the whole field of view; see `resampled_affine` for where it lies.
    """
    resampler = Resampler(source, new_spacing_mm)
    for plane in window_planes(source, window_hu):
        resampler.add(plane)
    return resampler.coarse


class Resampler:
    """Resamples a volume plane by plane, from the first to the last; see `resample_slabs`."""

    def __init__(self, source: Slabs, new_spacing_mm: tuple[float, float, float]) -> None:
        steps = zip(source.shape, spacing_of(source.affine), new_spacing_mm, strict=True)
        weights_i, weights_j, self._weights_k = (axis_weights(*step).astype(np.float32) for step in steps)
        self._rows, self._columns = sparse.csr_array(weights_j), sparse.csr_array(weights_i)
        self._out = np.zeros((len(self._weights_k), len(weights_i), len(weights_j)), np.float32)
        self._k = 0

    def add(self, plane: Float32) -> None:
        """Add the next plane (j, i)."""
        # Sparse rows first: contiguous axpys over whole image rows, several times faster than a dense product.
        small = self._columns @ np.ascontiguousarray((self._rows @ plane).T)
        weights = self._weights_k[:, self._k]
        for new_k in np.flatnonzero(weights):
            self._out[new_k] += weights[new_k] * small
        self._k += 1

    @property
    def coarse(self) -> Float32:
        """What has come of all planes so far, (k, j, i)."""
        return self._out.transpose(0, 2, 1)


def window_planes(source: Slabs, window_hu: tuple[float, float]) -> Iterator[Float32]:
    """Limit every plane (j, i) of a stream to a window; each takes the place of the one before."""
    clipped, plane_hu = np.empty(source.shape[1::-1], source.dtype), np.empty(source.shape[1::-1], np.float32)
    low, high = (int(bound) for bound in window_hu)
    for slab in source.slabs:
        for plane in slab:
            # Clipped in its own type: int16 is twice as fast as float32.
            plane_hu[...] = np.clip(plane, low, high, out=clipped)
            yield plane_hu


def resampled_affine(
    affine: Affine, shape: tuple[int, int, int], new_spacing_mm: tuple[float, float, float]
) -> tuple[Affine, tuple[int, int, int]]:
    """Return affine and shape (i, j, k) of what `resample_slabs` makes of a volume of this affine and shape."""
    spacing = spacing_of(affine)
    ratios = np.asarray(new_spacing_mm) / np.asarray(spacing)
    i, j, k = (new_axis_count(*step) for step in zip(shape, spacing, new_spacing_mm, strict=True))
    centre = affine[:3, :3] @ ((np.asarray(shape) - 1) / 2) + affine[:3, 3]
    resampled = np.eye(4)
    resampled[:3, :3] = affine[:3, :3] * ratios
    resampled[:3, 3] = centre - resampled[:3, :3] @ ((np.asarray((i, j, k)) - 1) / 2)
    return resampled, (i, j, k)
