"""The preparations that published CT encoders were trained with, voxel for voxel as their own code makes them.

In: a `Volume` and the grid that its model expects (spacing, shape, window, recipe). Out: a `Volume` of exactly the
grid's shape, float32 HU within the window, RAS+ order; nothing is rounded and nothing is turned straight, since the
published code does neither. Scaling HU to the numbers that a network eats is left to the model. Refused: a recipe that
nobody wrote, and volumes that the published code could not resample either.

None of this is how we would do it (no prefilter against aliasing, the middle of the scan instead of the lungs, the
field of view cut off without a look): a model gives what it can only for volumes like those it has learnt from.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medfinder.errors import ConfigError, VolumeError
from medfinder.volume.types import Affine, Array, Grid, Volume, spacing_of

Float32 = npt.NDArray[np.float32]
Shape = tuple[int, int, int]

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def check_recipe(name: str) -> None:
    """Refuse a recipe that is not in `RECIPES`.

    Raises:
        ConfigError: the message lists the known ones.
    """
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r} of a grid; known: {', '.join(sorted(RECIPES))}, or none for ours")


def prepare_for_colipri(volume: Volume, grid: Grid) -> Volume:
    """Do what the transforms of colipri 0.1.3 do: ITK's linear interpolation, clamp, centred crop or pad.

    Whole HU stay whole: ITK cuts the fraction off where the voxels are integers, as they are in nearly all CTs.

    Source: colipri/configs/processor/image_transform/default.yaml, which names transforms of TorchIO 1.
    """
    low, high = (int(bound) for bound in grid.window_hu)
    hu, affine = _resample_by_itk(volume, grid.spacing_mm)
    hu = np.clip(hu, low, high).astype(np.float32)
    lacking, surplus = _lacking(hu.shape, grid.shape), _surplus(hu.shape, grid.shape)
    # Where a count is odd, the larger half goes to the beginning (torchio.CropOrPad).
    hu = np.pad(hu, [(n - n // 2, n // 2) for n in lacking], constant_values=hu.min())
    starts = [n - n // 2 for n in surplus]
    begin = [start - (n - n // 2) for start, n in zip(starts, lacking, strict=True)]
    return _finish(_cut(hu, starts, grid.shape), affine, begin, volume)


def prepare_for_merlin(volume: Volume, grid: Grid) -> Volume:
    """Do what the transforms of merlin-vlm 0.0.7 do: linear interpolation from the first voxel on, window, pad, crop.

    Source: merlin/data/monai_transforms.py, which names transforms of MONAI (defaults of 1.3 to 1.6).
    """
    low, high = (int(bound) for bound in grid.window_hu)
    hu, affine = _resample_as_monai(volume, grid.spacing_mm)
    hu = np.clip(hu, low, high, out=hu)
    lacking = _lacking(hu.shape, grid.shape)
    hu = np.pad(hu, [(n // 2, n - n // 2) for n in lacking], constant_values=low)
    starts = [n // 2 - m // 2 for n, m in zip(hu.shape, grid.shape, strict=True)]
    begin = [start - n // 2 for start, n in zip(starts, lacking, strict=True)]
    return _finish(_cut(hu, starts, grid.shape), affine, begin, volume)


def prepare_for_ct_clip(volume: Volume, grid: Grid) -> Volume:
    """Do what CT-CLIP's script for inference does: window, linear interpolation of voxels as cells, crop, pad.

    The script takes files as they lie; those of CT-RATE run to the patient's left, back and head (LPS), so what is odd
    about its centring is done in that order. It has one spacing for x and y; we take each axis's own, which is the same
    for square pixels.

    Source: scripts/data_inference_nii.py in github.com/ibrahimethemhamamci/CT-CLIP. That the network has seen its
    volumes as S, L, P: github.com/TorchIO-project/torchio/issues/1282.
    """
    low, high = (int(bound) for bound in grid.window_hu)
    left_back_up = np.clip(volume.hu, low, high)[::-1, ::-1, :]
    spacing = volume.spacing_mm
    count = [int(n * (old / new)) for n, old, new in zip(volume.shape, spacing, grid.spacing_mm, strict=True)]
    if min(count) < 1:
        raise VolumeError(f"{volume.shape} voxels are less than one of {grid.spacing_mm} mm", reason="too small")
    ratio = np.divide(volume.shape, count)
    first = np.maximum((np.asarray(count) - grid.shape) // 2, 0)
    kept = np.minimum(count, grid.shape)
    # Only what the crop leaves is interpolated; the positions are those of the whole.
    hu = _interpolate(left_back_up, ratio, ratio * (first + 0.5) - 0.5, tuple(kept))
    lacking = _lacking(hu.shape, grid.shape)
    hu = np.pad(hu, [(n // 2, n - n // 2) for n in lacking], constant_values=low)
    hu = np.ascontiguousarray(hu[::-1, ::-1, :])
    begin = first - [n // 2 for n in lacking]
    begin[:2] = np.asarray(count)[:2] - begin[:2] - grid.shape[:2]
    affine = volume.affine.copy()
    affine[:3, :3] *= ratio
    affine[:3, 3] += volume.affine[:3, :3] @ (ratio / 2 - 0.5)
    return _finish(hu, affine, begin, volume)


def _resample_by_itk(volume: Volume, spacing_mm: Sequence[float]) -> tuple[Array, Affine]:
    """Resample as torchio.Resample does: about the middle, so many voxels as fit into the field of view."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.hu.T))
    spacing = spacing_of(volume.affine)
    direction = _RAS_TO_LPS @ volume.affine[:3, :3] / spacing
    image.SetSpacing(spacing)
    image.SetDirection(direction.ravel())
    image.SetOrigin(_RAS_TO_LPS @ volume.affine[:3, 3])
    count = np.floor(np.multiply(volume.shape, spacing) / spacing_mm).astype(int)
    if min(count) < 1:
        raise VolumeError(f"{volume.shape} voxels are less than one of {spacing_mm} mm", reason="too small")
    last = [n - 1 for n in volume.shape]
    middle = np.add(image.TransformIndexToPhysicalPoint(last), image.GetOrigin()) / 2
    resampler = sitk.ResampleImageFilter()
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetOutputDirection(image.GetDirection())
    resampler.SetOutputSpacing(spacing_mm)
    resampler.SetOutputOrigin(middle - np.reshape(image.GetDirection(), (3, 3)) @ ((count - 1) / 2 * spacing_mm))
    resampler.SetSize(count.tolist())
    resampled = resampler.Execute(image)
    return sitk.GetArrayFromImage(resampled).T, _affine_of(resampled)


def _affine_of(image: Any) -> Affine:
    affine: Affine = np.eye(4)
    affine[:3, :3] = _RAS_TO_LPS @ np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = _RAS_TO_LPS @ image.GetOrigin()
    return affine


# MONAI takes two grids for the same that differ by less (monai.data.utils.AFFINE_TOL); mm for the spacing.
_MONAI_TOLERANCE = 1e-3


def _resample_as_monai(volume: Volume, spacing_mm: Sequence[float]) -> tuple[Float32, Affine]:
    """Resample as monai.transforms.Spacing does: the first voxel stays where it is, shear is taken out."""
    spacing = spacing_of(volume.affine)
    is_kept = np.abs(np.subtract(spacing, spacing_mm)) <= _MONAI_TOLERANCE
    target = np.where(is_kept, spacing, spacing_mm)
    scale = np.linalg.cholesky(volume.affine[:3, :3].T @ volume.affine[:3, :3]).T
    affine: Affine = np.eye(4)
    affine[:3, :3] = volume.affine[:3, :3] @ np.linalg.inv(scale) * target
    corners = np.stack(np.meshgrid(*[(0.0, n - 1.0) for n in volume.shape], indexing="ij")).reshape(3, -1)
    inside = np.linalg.solve(affine[:3, :3], volume.affine[:3, :3]) @ corners
    count = np.round(np.ptp(inside, axis=1) + 1.0).astype(int)
    affine[:3, 3] = _monai_origin(volume, affine, inside, corners, count)
    step = np.linalg.solve(volume.affine, affine)
    if tuple(count) == volume.shape and np.allclose(step, np.eye(4), atol=_MONAI_TOLERANCE):
        return volume.hu.astype(np.float32), volume.affine
    return _interpolate(volume.hu, step[:3, :3], step[:3, 3], tuple(count)), affine


def _monai_origin(volume: Volume, affine: Affine, inside: Array, corners: Array, count: Array) -> Array:
    """Find where the first voxel lies: in the corner of the volume, or so that both are centred if none will do."""
    for corner, place in zip(corners.T, inside.T, strict=True):
        if np.allclose((inside - place[:, None]).min(axis=1), 0.0, rtol=_MONAI_TOLERANCE):
            return np.asarray(volume.affine[:3, :3] @ corner + volume.affine[:3, 3])
    middle = volume.affine[:3, :3] @ (np.asarray(volume.shape) / 2) + volume.affine[:3, 3]
    return np.asarray(middle - affine[:3, :3] @ (count / 2))


def _interpolate(hu: Array, step: Array, start: Array, shape: Sequence[int]) -> Float32:
    """Interpolate linearly at ``start + step @ index``, computed in float64; beyond the edge its value goes on."""
    # A diagonal matrix takes a way that is several times faster; what rounding left beside it moves nothing.
    if step.ndim == 2 and np.abs(step - np.diag(np.diag(step))).max() < 1e-12:
        step = np.diag(step)
    out: Float32 = ndimage.affine_transform(
        hu, step, start, tuple(int(n) for n in shape), order=1, mode="nearest", output=np.float32
    )
    return out


def _lacking(shape: Sequence[int], wanted: Shape) -> list[int]:
    return [max(m - n, 0) for n, m in zip(shape, wanted, strict=True)]


def _surplus(shape: Sequence[int], wanted: Shape) -> list[int]:
    return [max(n - m, 0) for n, m in zip(shape, wanted, strict=True)]


def _cut(hu: Array, starts: Sequence[int], shape: Shape) -> Float32:
    cut = tuple(slice(start, start + n) for start, n in zip(starts, shape, strict=True))
    return np.ascontiguousarray(hu[cut], np.float32)


def _finish(hu: Float32, affine: Affine, begin: Sequence[int] | Array, volume: Volume) -> Volume:
    """Put the array where it lies: ``begin`` is its first voxel of the resampled ones, below 0 where it was padded."""
    placed = affine.copy()
    placed[:3, 3] += affine[:3, :3] @ np.asarray(begin)
    return Volume(hu, placed, volume.notes, volume.padding_share)


RECIPES: dict[str, Callable[[Volume, Grid], Volume]] = {
    "colipri": prepare_for_colipri,
    "merlin": prepare_for_merlin,
    "ct-clip": prepare_for_ct_clip,
}
