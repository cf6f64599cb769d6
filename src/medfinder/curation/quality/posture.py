"""Does the anatomy lie as the header says, has it a body's proportions, and is all of it in view.

In: the anatomy of a chest, found on its coarse grid. Out: ``Posture``, figures with a sign: above zero is as it should
be, and a volume flipped along one axis changes the sign of one of them. Nothing is mended: a flip that voxels betray is
for a person to settle, since organs can really lie on the other side (situs inversus).
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medfinder.volume.region import Anatomy, Mask, erode

BONE_HU = 130.0
"""Ours: averaged over 5 mm, vertebrae have 150 to 300 HU, unenhanced soft tissue less than 80."""

_VERTEBRA_MM = 30.0
"""Ours: an adult thoracic vertebra is 25 to 40 mm wide."""

_MIDLINE_MM = 60.0
_AORTA_MM = (45.0, 35.0)
_BELOW_MM = 60.0
_RIM_SHARE = 0.02


@dataclass(frozen=True)
class Posture:
    """Where things lie in a chest.

    Attributes:
        spine_behind: how far the spine lies behind the body's middle, as a share of half its depth: 1 at the back's
            skin, -1 at the front's.
        bulk_below: soft tissue within the lungs' outline, lower half less upper half, as a share of both: the heart and
            the liver's dome lie below.
        rise_inwards: slope of the lungs' upper and lower surfaces from rim to middle: apex and diaphragm are vaulted
            upwards.
        heart_left, aorta_left, liver_right: soft tissue beside the spine, the one side less the other as a share of
            both; None where there is too little of it to say.
        lung_mm: extent of the lungs along x, y, z.
        lung_cut: area of lung in the uppermost and the lowermost slice, as a share of its largest.
        lung_side_cut: share of the lungs' outermost voxels that lie on the edge of the field of view.
        body_cut: share of the edge of the field of view, at the height of the lungs, that is body.
    """

    spine_behind: float
    bulk_below: float
    rise_inwards: float
    heart_left: float | None
    aorta_left: float | None
    liver_right: float | None
    lung_mm: tuple[float, float, float]
    lung_cut: tuple[float, float]
    lung_side_cut: float
    body_cut: float

    @property
    def sides(self) -> tuple[float, ...]:
        """What can be said of left and right."""
        return tuple(one for one in (self.heart_left, self.aorta_left, self.liver_right) if one is not None)

    @property
    def is_whole(self) -> bool:
        """Say whether both ends of the lungs are in view."""
        return max(self.lung_cut) <= MAX_END_SHARE


MAX_END_SHARE = 0.25
"""Ours: of the largest lung area; whole chests at hand end at 0.13 at most, slabs begin at 0.38."""


def measure_posture(anatomy: Anatomy) -> Posture:
    """Measure a chest; the anatomy must hold lungs."""
    spine = _find_spine(anatomy)
    counts = [_count(anatomy.lungs, axis) for axis in range(3)]
    profile = counts[2] / max(1, counts[2].max())
    extents = [_extent(count) for count in counts]
    heights = extents[2]
    x, y, z = ((e.stop - e.start) * s for e, s in zip(extents, anatomy.spacing_mm, strict=True))
    behind, bulk, rise = _behind(anatomy, spine), _bulk_below(anatomy, heights), _rise_inwards(anatomy, round(spine[0]))
    # Left and right are looked for from the front and from the feet, wherever those are.
    is_turned, is_upside_down = behind < 0, bulk < 0 and rise < 0
    if is_turned or is_upside_down:
        sides = _right(anatomy, is_turned=is_turned, is_upside_down=is_upside_down)
        heart, aorta, liver = _compare_sides(sides, _find_spine(sides), _extent(_count(sides.lungs, 2)))
    else:
        heart, aorta, liver = _compare_sides(anatomy, spine, heights)
    return Posture(
        spine_behind=behind,
        bulk_below=bulk,
        rise_inwards=rise,
        heart_left=heart,
        aorta_left=aorta,
        liver_right=liver,
        lung_mm=(x, y, z),
        lung_cut=(float(profile[-1]), float(profile[0])),
        lung_side_cut=_side_cut(anatomy.lungs),
        body_cut=_body_cut(anatomy, heights),
    )


def _count(mask: Mask, axis: int) -> npt.NDArray[np.int64]:
    """Count the voxels in every plane across an axis."""
    return np.asarray(mask.sum(axis=tuple(other for other in range(3) if other != axis)))


def _extent(counts: npt.NDArray[np.int64]) -> slice:
    """From the first to behind the last plane that holds at least a fiftieth of the fullest one."""
    filled = np.flatnonzero(counts > _RIM_SHARE * counts.max())
    return slice(int(filled[0]), int(filled[-1]) + 1) if len(filled) else slice(0, 0)


def _find_spine(anatomy: Anatomy) -> tuple[float, int]:
    """Find x, y of the spine: near the midline, where bone as wide as a vertebra runs through most slices.

    Returns:
        x to a fraction of a voxel, since left and right are weighed against each other from there.
    """
    x_mm, y_mm, _ = anatomy.spacing_mm
    share = ((anatomy.hu > BONE_HU) & anatomy.body).mean(axis=2)
    # Odd, so that the window has a middle.
    size = [2 * round(_VERTEBRA_MM / one / 2) + 1 for one in (x_mm, y_mm)]
    wide = ndimage.uniform_filter(share, size, mode="constant")
    middle = _median_plane(anatomy.body)
    near = np.abs(np.arange(len(wide)) - middle) <= _MIDLINE_MM / x_mm
    x, y = np.unravel_index(int(np.argmax(np.where(near[:, None], wide, -1.0))), wide.shape)
    around = slice(max(0, int(x) - size[0]), int(x) + size[0] + 1)
    weights = wide[around, y] ** 4
    places = np.arange(len(wide))[around]
    return float((places * weights).sum() / weights.sum()) if weights.any() else float(x), int(y)


def _median_plane(mask: Mask) -> int:
    counts = mask.sum(axis=(1, 2)).cumsum()
    return int(np.searchsorted(counts, counts[-1] / 2))


def _right(anatomy: Anatomy, *, is_turned: bool, is_upside_down: bool) -> Anatomy:
    """Turn front to back, or head to feet; the affine, which only spacing is taken from, stays."""
    steps = (slice(None), slice(None, None, -1 if is_turned else 1), slice(None, None, -1 if is_upside_down else 1))
    return replace(anatomy, hu=anatomy.hu[steps], body=anatomy.body[steps], lungs=anatomy.lungs[steps])


def _behind(anatomy: Anatomy, spine: tuple[float, int]) -> float:
    x, y = round(spine[0]), spine[1]
    column = anatomy.body[max(0, x - 2) : x + 3].any(axis=0).mean(axis=1)
    depth = np.flatnonzero(column > 0.3)
    if len(depth) < 4:
        return 0.0
    return float(1 - 2 * (y - depth[0]) / (depth[-1] - depth[0]))


def _bulk_below(anatomy: Anatomy, heights: slice) -> float:
    """Compare what is solid through and through, two voxels from any lung, fat or air."""
    solid = erode(erode((anatomy.hu > 0) & (anatomy.hu < 600) & anatomy.body))
    outline = _fill(np.asarray(anatomy.lungs.any(axis=2)))
    bulk = (solid & outline[:, :, None]).sum(axis=(0, 1))
    middle = (heights.start + heights.stop) // 2
    return _balance(bulk[heights.start : middle].sum(), bulk[middle : heights.stop].sum())


def _fill(outline: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Close the gap between the lungs, six voxels to either side."""
    framed = np.pad(outline, 8)
    return np.asarray(ndimage.binary_closing(framed, iterations=6)[8:-8, 8:-8])


def _balance(more: float, less: float) -> float:
    return float((more - less) / (more + less)) if more + less else 0.0


def _rise_inwards(anatomy: Anatomy, spine_x: int) -> float:
    """Fit height = a + b x + c y + d (distance from the lung's rim) to both surfaces, and add the two d.

    Columns that end at the volume's ends are cut, and say nothing of the surface.
    """
    lungs, last = anatomy.lungs, anatomy.lungs.shape[2] - 1
    outline = lungs.sum(axis=2) >= 2
    bottom, top = lungs.argmax(axis=2), last - lungs[:, :, ::-1].argmax(axis=2)
    surfaces = ((top, outline & (top < last)), (bottom, outline & (bottom > 0)))
    return sum(_slope_inwards(height, where, spine_x, anatomy.spacing_mm) for height, where in surfaces)


def _slope_inwards(
    height: npt.NDArray[np.int_], where: npt.NDArray[np.bool_], spine_x: int, spacing_mm: tuple[float, float, float]
) -> float:
    total = weight = 0.0
    for side in (slice(0, spine_x), slice(spine_x, None)):
        lung = np.zeros_like(where)
        lung[side] = where[side]
        count = int(lung.sum())
        if count < 40:
            continue
        depth = ndimage.distance_transform_edt(np.pad(lung, 1), sampling=spacing_mm[:2])[1:-1, 1:-1][lung]
        x, y = np.nonzero(lung)
        terms = np.stack([np.ones(count), x * spacing_mm[0], y * spacing_mm[1], depth], axis=1)
        fitted = np.linalg.lstsq(terms, height[lung] * spacing_mm[2], rcond=None)[0]
        total, weight = total + count * float(fitted[3]), weight + count
    return total / weight if weight else 0.0


# Too little soft tissue to compare sides by, in ml; ours, a tenth of a heart and less than a tenth of a liver.
_MIN_HEART_ML, _MIN_LIVER_ML = 50.0, 100.0


def _compare_sides(
    anatomy: Anatomy, spine: tuple[float, int], heights: slice
) -> tuple[float | None, float | None, float | None]:
    x, y = spine
    x_mm, y_mm, z_mm = anatomy.spacing_mm
    middle = (heights.start + heights.stop) // 2
    hu, body, lungs = anatomy.hu, anatomy.body, anatomy.lungs
    low = slice(heights.start, middle)
    heart = _between(lungs[:, :, low]) & (hu[:, :, low] > -30) & body[:, :, low]
    heart[:, : y + round(25 / y_mm)] = False
    base = slice(
        max(0, heights.start - round(_BELOW_MM / z_mm)), heights.start + (heights.stop - heights.start) // 3 + 1
    )
    liver = erode(erode(((hu > 10) & (hu < 250) & body)[:, :, base]))
    wide, deep = round(_AORTA_MM[0] / x_mm), round(_AORTA_MM[1] / y_mm)
    beside = np.zeros_like(body[:, :, heights])
    beside[np.abs(np.arange(len(beside)) - x) <= wide, y : y + deep] = True
    aorta = beside & (hu[:, :, heights] > -30) & body[:, :, heights]
    found = [
        _to_the_left(mask, x, least_ml / anatomy.voxel_ml)
        for mask, least_ml in ((heart, _MIN_HEART_ML), (aorta, 1.0), (liver, _MIN_LIVER_ML))
    ]
    return found[0], found[1], None if found[2] is None else -found[2]


def _between(lungs: Mask) -> Mask:
    """What has lung on either side of it in its row."""
    left = np.maximum.accumulate(lungs, axis=0)
    right = np.maximum.accumulate(lungs[::-1], axis=0)[::-1]
    return np.asarray(left & right & ~lungs)


def _to_the_left(mask: Mask, x: float, least: float) -> float | None:
    counts = np.concatenate([[0], mask.sum(axis=(1, 2)).cumsum()])
    # Voxel x reaches from edge x to edge x + 1.
    left = float(np.interp(x + 0.5, np.arange(len(counts)), counts))
    return _balance(left, counts[-1] - left) if counts[-1] >= least else None


def _side_cut(lungs: Mask) -> float:
    """Compare lung on the four sides of the volume with the area that the lungs show to those sides."""
    on_edge = lungs[0].sum() + lungs[-1].sum() + lungs[:, 0].sum() + lungs[:, -1].sum()
    shown = 2 * lungs.any(axis=0).sum() + 2 * lungs.any(axis=1).sum()
    return float(on_edge / shown) if shown else 0.0


def _body_cut(anatomy: Anatomy, heights: slice) -> float:
    """Share of the field's rim that is body; the field is a circle where its corners were never measured."""
    body = anatomy.body[:, :, heights]
    if not body.size:
        return 0.0
    rim = _field_rim(anatomy.hu[:, :, heights])
    return float(body[rim].mean())


def _field_rim(hu: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    x, y = (np.linspace(-1, 1, n) for n in hu.shape[:2])
    edge = 2.0 / min(hu.shape[:2])
    square = np.maximum(np.abs(x)[:, None], np.abs(y)[None, :])
    circle = np.hypot(x[:, None], y[None, :])
    corners = hu[circle > 1 + 2 * edge]
    is_round = corners.size > 0 and np.ptp(corners) < 1
    distance = circle if is_round else square
    return np.asarray((distance <= 1) & (distance > 1 - 1.5 * edge))
