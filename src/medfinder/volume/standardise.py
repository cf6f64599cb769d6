"""Bring any CT volume onto one grid: orientation, spacing, HU window, position and size.

In: a `Volume`, or the path of one. Out: a `Volume` of exactly the grid's shape, int16, axes along RAS+, centred on the
body (x, y) and the lungs (z). From a file the voxels are resampled while they are unpacked and never held as a whole.
All ways run the same arithmetic in the same order, so they agree to the bit. A grid that
names a recipe is that of a published model, whose own steps are taken instead: see `medfinder.volume.published`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medfinder.volume.published import RECIPES
from medfinder.volume.read import open_slabs, read_ahead, read_volume
from medfinder.volume.region import COARSE_WINDOW_HU, Anatomy, Coarsening, find_anatomy
from medfinder.volume.resample import Resampler, resample_slabs, resampled_affine, window_planes
from medfinder.volume.types import AIR_HU, Affine, Array, Grid, Slabs, Volume, slabs_of, spacing_of, turn_to_ras

Float32 = npt.NDArray[np.float32]

VIEW_WINDOW_HU = (-1024.0, 3071.0)
"""What twelve bits hold, the usual range of a CT: bone and metal look as they do on a workstation."""


def standardise(volume: Volume, grid: Grid) -> Volume:
    """Put a volume on a grid.

    Returns:
        A contiguous array of the grid's shape and type; air, or the bottom of the window, where nothing was measured.
    """
    if grid.recipe:
        return RECIPES[grid.recipe](volume, grid)
    return _standardise(slabs_of(volume), grid)


def standardise_file(
    path: Path,
    grid: Grid,
    *,
    series_instance_uid: str | None = None,
    rescale: tuple[float, float] | None = None,
) -> Volume:
    """Put the volume of a file or DICOM folder on a grid, as ``standardise(read_volume(path), grid)`` does.

    Raises:
        VolumeError: see `read_volume`.
    """
    if grid.recipe:
        return standardise(read_volume(path, series_instance_uid=series_instance_uid, rescale=rescale), grid)
    return _standardise(read_ahead(open_slabs(path, series_instance_uid=series_instance_uid, rescale=rescale)), grid)


def view_of(volume: Volume, finest_mm: float) -> Volume:
    """Lay a whole volume out for people to look at: nothing cropped, axes along RAS+, fine voxels.

    Args:
        finest_mm: voxels are this long on each axis, or as long as they were if that is longer.

    Returns:
        A contiguous int16 array of ``VIEW_WINDOW_HU``, in the same mm as ``standardise(volume, grid)``.
    """
    passing, view = view_on_the_way(slabs_of(volume), finest_mm)
    for _ in passing.slabs:
        pass
    return view()


def view_on_the_way(source: Slabs, finest_mm: float) -> tuple[Slabs, Callable[[], Volume]]:
    """Lay a volume out as `view_of` does, while somebody else draws its stream.

    Returns:
        The stream to draw, and a function that gives the view once it has ended.
    """
    turn = turn_to_ras(source.affine)
    x, y, z = (max(finest_mm, spacing) for spacing in spacing_of(turn.affine(source.affine, source.shape)))
    grid = Grid((x, y, z), (1, 1, 1), VIEW_WINDOW_HU)
    resampler = Resampler(source, _stored_spacing(source, grid))

    def watch() -> Iterator[Array]:
        for slab in source.slabs:
            for plane in slab:
                resampler.add(plane.clip(*VIEW_WINDOW_HU).astype(np.float32))
            yield slab

    def view() -> Volume:
        whole = _lay_straight(resampler.coarse, source, grid)
        return replace(whole, hu=np.ascontiguousarray(whole.hu))

    return replace(source, slabs=watch()), view


def standardise_and_coarsen(source: Slabs, grid: Grid) -> tuple[Callable[[], Volume], Callable[[], Anatomy]]:
    """Draw a stream once, and bring it onto a grid and onto the one that the anatomy is found on, plane by plane.

    Args:
        grid: without a recipe, which would need the volume whole.

    Returns:
        Two functions that give ``standardise(volume, grid)`` and ``find_anatomy(volume)`` of the volume that the stream
        held, at little further cost, for whoever judges it first.

    Raises:
        VolumeError: see `read_volume`.
    """
    coarsening, resampler = Coarsening(source), Resampler(source, _stored_spacing(source, grid))
    is_shared = grid.window_hu == COARSE_WINDOW_HU
    passing = source if is_shared else replace(source, slabs=_coarsen_on_the_way(source, coarsening))
    for k, plane in enumerate(window_planes(passing, grid.window_hu)):
        resampler.add(plane)
        if is_shared and k in coarsening.taken:
            coarsening.add(plane)
    return partial(_settle, resampler.coarse, source, grid), coarsening.find_anatomy


def _coarsen_on_the_way(source: Slabs, coarsening: Coarsening) -> Iterator[Array]:
    """Limit the planes that the anatomy is found on to its own window, where the grid has another one."""
    k = 0
    for slab in source.slabs:
        for plane in slab:
            if k in coarsening.taken:
                coarsening.add(plane.clip(*COARSE_WINDOW_HU).astype(np.float32))
            k += 1
        yield slab


def _standardise(source: Slabs, grid: Grid) -> Volume:
    return _settle(_resample(source, grid), source, grid)


def _stored_spacing(source: Slabs, grid: Grid) -> tuple[float, float, float]:
    turn = turn_to_ras(source.affine)
    spacing = [0.0, 0.0, 0.0]
    for new, old in enumerate(turn.axes):
        spacing[old] = grid.spacing_mm[new]
    return spacing[0], spacing[1], spacing[2]


def _resample(source: Slabs, grid: Grid) -> Float32:
    return resample_slabs(source, _stored_spacing(source, grid), grid.window_hu)


def _settle(coarse: Float32, source: Slabs, grid: Grid) -> Volume:
    """Turn, straighten and crop what was resampled; its stream has ended, so that its notes are complete."""
    return _crop(_lay_straight(coarse, source, grid), grid)


def _lay_straight(coarse: Float32, source: Slabs, grid: Grid) -> Volume:
    affine, shape = resampled_affine(source.affine, source.shape, _stored_spacing(source, grid))
    turn = turn_to_ras(source.affine)
    hu = turn.apply(coarse.transpose(2, 1, 0))
    affine = turn.affine(affine, shape)
    if not _is_aligned(affine, hu.shape, grid):
        hu, affine = _straighten(hu, affine, grid)
    return Volume(_round(hu), _square(affine, hu.shape, grid), tuple(source.notes), source.padding.share)


def _is_aligned(affine: Affine, shape: tuple[int, ...], grid: Grid) -> bool:
    """Whether no corner lies more than a tenth of a new voxel from where straight axes would put it (ours)."""
    slant_mm = np.abs(affine[:3, :3] - np.diag(grid.spacing_mm)) @ (np.asarray(shape) / 2)
    return bool((slant_mm <= 0.1 * np.asarray(grid.spacing_mm)).all())


def _straighten(hu: Array, affine: Affine, grid: Grid) -> tuple[Array, Affine]:
    """Interpolate an oblique or sheared volume on the straight grid that encloses it, air where it does not reach.

    The voxels were averaged along their own axes before, so linear interpolation does not alias here.
    """
    shape = np.asarray(hu.shape)
    corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in shape], indexing="ij"), -1).reshape(-1, 3)
    corners_mm = corners @ affine[:3, :3].T + affine[:3, 3]
    extent_mm = np.ptp(corners_mm, axis=0)
    straight_shape = np.ceil(extent_mm / grid.spacing_mm - 1e-6).astype(int)
    straight = np.diag([*grid.spacing_mm, 1.0])
    middle_mm = (corners_mm.min(axis=0) + corners_mm.max(axis=0)) / 2
    straight[:3, 3] = middle_mm - (straight_shape - 1) / 2 * grid.spacing_mm
    back = np.linalg.inv(affine) @ straight
    # Half a voxel of margin, so that the outermost voxels keep their whole width.
    padded = np.pad(hu, 1, mode="edge")
    inside = ndimage.affine_transform(
        padded, back[:3, :3], back[:3, 3] + 1, tuple(straight_shape), order=1, mode="nearest", output=np.float32
    )
    index = np.indices(straight_shape).reshape(3, -1)
    stored_index = back[:3, :3] @ index + back[:3, 3:]
    is_outside = ((stored_index < -0.5) | (stored_index > shape[:, None] - 0.5)).any(axis=0).reshape(straight_shape)
    inside[is_outside] = _air(grid)
    return inside, straight


def _square(affine: Affine, shape: tuple[int, ...], grid: Grid) -> Affine:
    middle = (np.asarray(shape) - 1) / 2
    square: Affine = np.diag([*grid.spacing_mm, 1.0])
    square[:3, 3] = affine[:3, :3] @ middle + affine[:3, 3] - np.asarray(grid.spacing_mm) * middle
    return square


def _round(hu: Array) -> Array:
    """Round to whole HU, overwriting the input; a half goes up even where float32 sums end a hair below it.

    Averages of whole numbers often end on an exact half, where the order of summation would decide otherwise.
    """
    hu += np.float32(0.5 + 2**-9)
    return np.floor(hu, out=hu).astype(np.int16)


def _air(grid: Grid) -> int:
    return int(np.clip(AIR_HU, *grid.window_hu))


def _crop(whole: Volume, grid: Grid) -> Volume:
    """Cut the grid's shape out, centred on body and lungs, and fill up with air what reaches beyond."""
    centre = np.linalg.inv(whole.affine) @ [*find_anatomy(whole).centre_mm, 1.0]
    start = np.floor(centre[:3] - (np.asarray(grid.shape) - 1) / 2 + 0.5).astype(int)
    stop = start + grid.shape
    low, high = np.clip(start, 0, whole.shape), np.clip(stop, 0, whole.shape)
    hu = np.full(grid.shape, _air(grid), np.int16)
    into = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
    hu[into] = whole.hu[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    affine = whole.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    return Volume(hu, affine, whole.notes, whole.padding_share)
