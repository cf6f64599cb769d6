"""Which part of the body a volume shows, told from its voxels at coarse resolution.

In: HU on a grid of 3 to 12 mm. Out: where the body and the lungs lie, and ``"chest"`` or ``"not chest"`` with the
figures behind it. Nothing is refused: a volume without a body is simply not a chest.

Lung is spongy: at this resolution its voxels lie between those of air and of soft tissue, and it lies within the body.
The air around the patient is darker, bowel gas too; a mattress is as light as lung but lies outside.
"""

from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medfinder.volume.resample import Float32, Resampler, resampled_affine, window_planes
from medfinder.volume.types import Affine, Array, Slabs, Volume, slabs_of, spacing_of, turn_to_ras

Mask = npt.NDArray[np.bool_]

TISSUE_HU = -300.0
"""Ours: halfway between lung and soft tissue; fat (-100) lies above, lung and mattress below."""

LUNG_HU = (-970.0, -450.0)
"""Ours: normal lung is -950 to -700 on CT, with vessels averaged in up to -500; below -970 is bare air."""


@dataclass(frozen=True)
class BodyRegion:
    """What part of the body was found.

    Attributes:
        name: ``"chest"`` or ``"not chest"``.
        lung_ml: volume of aerated lung in view.
        body_ml: volume of the body in view, lungs included, table excluded.
        reason: one sentence with the figures.
    """

    name: Literal["chest", "not chest"]
    lung_ml: float
    body_ml: float
    reason: str


@dataclass(frozen=True)
class Anatomy:
    """Body and lung masks on the grid they were found on.

    Attributes:
        hu: the volume on that grid.
    """

    hu: Array
    body: Mask
    lungs: Mask
    voxel_ml: float
    affine: Affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of the grid, along x, y, z."""
        return spacing_of(self.affine)

    @property
    def centre_mm(self) -> tuple[float, float, float]:
        """Where to centre a view: x, y of the body, z of the lungs if there are any, else of the body."""
        across = self.body if self.body.any() else np.ones_like(self.body)
        along = self.lungs if self.lungs.sum() * self.voxel_ml >= MIN_LUNG_ML else across
        middle = [_middle(across, 0), _middle(across, 1), _middle(along, 2), 1.0]
        x, y, z = (float(c) for c in (self.affine @ middle)[:3])
        return (x, y, z)


MIN_LUNG_ML = 60.0
"""Ours: heads (sinuses, mastoids) and limbs stay below 40 ml, an infant's lungs hold more than 60."""

MIN_LUNG_SHARE = 0.05
"""Ours: of the body in view. Among the real CTs at hand chests have 8 to 37%, lung bases above an abdomen 5%, abdomens
and heads at most 1.4%."""

ENOUGH_LUNG_ML = 400.0
"""Ours: so much lung makes a chest whatever its share, as in a scan from neck to thigh or bases above an abdomen."""


def body_region(volume: Volume) -> BodyRegion:
    """Tell a chest from other parts of the body by its lungs.

    Parts of a chest count as chest, lung bases above an abdomen too once they hold `ENOUGH_LUNG_ML`. Lungs without air
    (both collapsed or consolidated throughout) are not found.
    """
    return region_of(find_anatomy(volume))


def region_of(anatomy: Anatomy) -> BodyRegion:
    """Tell a chest from other parts of the body, as `body_region` does, where the anatomy is known already."""
    lung_ml = float(anatomy.lungs.sum() * anatomy.voxel_ml)
    body_ml = float(anatomy.body.sum() * anatomy.voxel_ml)
    share = lung_ml / body_ml if body_ml else 0.0
    is_chest = lung_ml >= ENOUGH_LUNG_ML or (lung_ml >= MIN_LUNG_ML and share >= MIN_LUNG_SHARE)
    found = f"{lung_ml:.0f} ml of aerated lung in {body_ml:.0f} ml of body ({100 * share:.0f}%)"
    limits = f"a chest has {ENOUGH_LUNG_ML:.0f} ml, or {MIN_LUNG_ML:.0f} ml and {100 * MIN_LUNG_SHARE:.0f}%"
    return BodyRegion("chest" if is_chest else "not chest", lung_ml, body_ml, f"{found}; {limits}")


def find_anatomy(volume: Volume) -> Anatomy:
    """Find body and lungs on a grid of about 5 mm.

    Of thin slices one in every 5 mm is taken as it is, not their average: within it some forty pixels are averaged,
    which leaves little noise, and thin CTs take a fifth of the time.
    """
    if min(volume.spacing_mm) >= WORKING_SPACING_MM:
        low, high = (int(bound) for bound in COARSE_WINDOW_HU)
        return _find_in(np.clip(volume.hu, low, high), volume.affine)
    source = slabs_of(volume)
    coarsening = Coarsening(source)
    planes = (plane[None] for slab in source.slabs for plane in slab)
    taken = replace(source, slabs=islice(planes, coarsening.taken.start, None, coarsening.taken.step))
    for plane in window_planes(taken, COARSE_WINDOW_HU):
        coarsening.add(plane)
    return coarsening.find_anatomy()


def _find_in(hu: Array, affine: Affine) -> Anatomy:
    hu = np.ascontiguousarray(hu)
    body = _find_body(hu)
    lungs = _find_lungs(hu, body)
    voxel_ml = float(abs(np.linalg.det(affine[:3, :3]))) / 1000
    return Anatomy(hu, body | lungs, lungs, voxel_ml, affine)


class Coarsening:
    """Brings a volume onto the grid of about 5 mm, plane by plane, for whoever has them at hand one after the other.

    Attributes:
        taken: which planes of the stream.
    """

    def __init__(self, source: Slabs) -> None:
        self._turn = turn_to_ras(source.affine)
        self.taken = _thin(source, is_reversed=self._turn.reversed[self._turn.axes.index(2)])
        affine = source.affine.copy()
        affine[:3, 3] += self.taken.start * affine[:3, 2]
        affine[:3, 2] *= self.taken.step
        self._source = replace(source, shape=(*source.shape[:2], len(self.taken)), affine=affine)
        i, j, k = (max(WORKING_SPACING_MM, spacing) for spacing in spacing_of(affine))
        self._spacing_mm = (i, j, k)
        self._resampler = Resampler(self._source, self._spacing_mm)

    def add(self, plane: Float32) -> None:
        """Add the next of the planes taken, limited to `COARSE_WINDOW_HU`."""
        self._resampler.add(plane)

    def find_anatomy(self) -> Anatomy:
        """Find body and lungs once every plane has been added."""
        affine, shape = resampled_affine(self._source.affine, self._source.shape, self._spacing_mm)
        return _find_in(self._turn.apply(self._resampler.coarse.transpose(2, 1, 0)), self._turn.affine(affine, shape))


def _thin(source: Slabs, *, is_reversed: bool) -> range:
    """Take every n-th plane, so that they lie up to 5 mm apart, and the same ones whichever way the stream runs."""
    count = source.shape[2]
    step = max(1, int(WORKING_SPACING_MM / spacing_of(source.affine)[2] + 1e-6))
    first = (count - 1) % step // 2
    if is_reversed:
        first = (count - 1 - first) % step
    return range(first, count, step)


WORKING_SPACING_MM = 5.0
"""Ours: finer than the lung's outline needs, coarse enough to take milliseconds."""

COARSE_WINDOW_HU = (-1024.0, 1500.0)
"""Ours: air to dense bone, so that metal does not bleed into the voxels around it; also `Grid`'s own window."""


def _find_body(hu: Array) -> Mask:
    """Largest piece of tissue once thin things (table top, blankets, tubes) are opened away."""
    tissue = hu > TISSUE_HU
    opened = _open(tissue)
    pieces, count = ndimage.label(opened)
    if not count:
        return tissue
    return np.asarray(pieces == int(np.argmax(np.bincount(pieces[opened]))))


def _find_lungs(hu: Array, body: Mask) -> Mask:
    spongy = (hu > LUNG_HU[0]) & (hu < LUNG_HU[1]) & _is_within(body)
    return _open(spongy)


def _open(mask: Mask) -> Mask:
    """Remove what is thinner than three voxels along any axis: erode, then dilate, by the six neighbours."""
    return _dilate(erode(mask))


# Shifted views; several times faster than scipy's general binary morphology.


def erode(mask: Mask) -> Mask:
    """Take away what touches, by one of the six sides, a voxel outside the mask or the end of the volume."""
    left = mask.copy()
    for axis in range(3):
        before, after = np.moveaxis(mask, axis, 0), np.moveaxis(left, axis, 0)
        after[1:] &= before[:-1]
        after[:-1] &= before[1:]
        after[0] = after[-1] = False
    return left


def _dilate(mask: Mask) -> Mask:
    spread = mask.copy()
    for axis in range(3):
        before, after = np.moveaxis(mask, axis, 0), np.moveaxis(spread, axis, 0)
        after[1:] |= before[:-1]
        after[:-1] |= before[1:]
    return spread


def _is_within(body: Mask) -> Mask:
    """Voxels with body on at least three of the four sides in their axial slice."""
    sides = np.zeros(body.shape, np.uint8)
    for axis in (0, 1):
        for step in (1, -1):
            planes, counts = (np.moveaxis(array, axis, 0)[::step] for array in (body.view(np.uint8), sides))
            seen = np.zeros_like(planes[0])
            for plane, count in zip(planes, counts, strict=True):
                seen |= plane
                count += seen
    return sides >= 3


def _middle(mask: Mask, axis: int) -> float:
    """Middle of the 1st and 99th percentile of a mask along an axis; stray voxels do not move it."""
    counts = mask.sum(axis=tuple(a for a in range(3) if a != axis)).cumsum()
    first, last = np.searchsorted(counts, [0.01 * counts[-1], 0.99 * counts[-1]])
    return float(first + last) / 2
