"""Slices of one CT volume as pictures, each in several windows: three axial and a coronal one, or the three planes.

In: a volume in HU, RAS+. Out: RGB arrays in radiological convention: the patient's right on the left of the picture,
front or head at its top, R and L marked; front to the left in a sagittal slice, A and P marked. Refused: an unknown
window.

The choice of slices is ours: through the lungs where there are any, else through the body, so that a picture of a head
CT says what it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medfinder.errors import ConfigError, MissingExtraError
from medfinder.volume import Volume
from medfinder.volume.region import MIN_LUNG_ML, Anatomy, find_anatomy
from medfinder.volume.types import AIR_HU

try:
    from PIL import Image, ImageDraw, ImageFont
except ImportError as error:
    raise MissingExtraError("Pillow", "page") from error

Pixels = NDArray[np.uint8]

WINDOWS: dict[str, tuple[float, float]] = {"lung": (-600, 1500), "mediastinal": (40, 400), "bone": (400, 1800)}
"""Centre and width in HU. Source: radiopaedia.org, "Windowing (CT)"; bone 400/1800 as on common scanners."""

TILE_PIXELS = 220
"""Side of one slice's square: a 352 mm field of view at 1.6 mm a pixel, about what 5.5 mm voxels bear."""

_HEIGHTS = (("upper", 0.80), ("middle", 0.50), ("lower", 0.20))
_MARK = (142, 197, 255)


@dataclass(frozen=True, eq=False)
class Panel:
    """One slice in its windows, stacked from top to bottom.

    Attributes:
        name: what is seen, e.g. ``"Axial, upper lungs"``.
        pixels: height x width x RGB.
    """

    name: str
    pixels: Pixels


def render_panels(
    volume: Volume, *, windows: Sequence[str] = ("lung", "mediastinal"), tile: int = TILE_PIXELS
) -> tuple[Panel, ...]:
    """Draw three axial slices from head to feet, then a coronal one through the middle of the lungs.

    Args:
        windows: keys of ``WINDOWS``, from top to bottom.
        tile: side of each square, in pixels.

    Raises:
        ConfigError: a window is unknown.
    """
    _check_windows(windows)
    region, heights, front = choose_slices(volume)
    x_mm, y_mm, z_mm = volume.spacing_mm
    panels = []
    for (where, _), z in zip(_HEIGHTS, heights, strict=True):
        axial = volume.hu[::-1, ::-1, z].T
        panels.append(Panel(f"Axial, {where} {region}", _draw(axial, (y_mm, x_mm), windows, tile)))
    coronal = volume.hu[::-1, front, ::-1].T
    panels.append(Panel(f"Coronal, through the {region}", _draw(coronal, (z_mm, x_mm), windows, tile)))
    return tuple(panels)


def render_planes(
    volume: Volume, *, windows: Sequence[str] = ("lung", "mediastinal"), tile: int = TILE_PIXELS
) -> tuple[Panel, ...]:
    """Draw one axial, one coronal and one sagittal slice through the middle of the lungs, or of the body.

    The sagittal one runs through the right lung, front to the left.

    Raises:
        ConfigError: a window is unknown.
    """
    _check_windows(windows)
    region, heights, front = choose_slices(volume)
    side = _choose_side(volume)
    x_mm, y_mm, z_mm = volume.spacing_mm
    axial = volume.hu[::-1, ::-1, heights[1]].T
    coronal = volume.hu[::-1, front, ::-1].T
    sagittal = volume.hu[side, ::-1, ::-1].T
    return (
        Panel(f"Axial, middle {region}", _draw(axial, (y_mm, x_mm), windows, tile)),
        Panel(f"Coronal, through the {region}", _draw(coronal, (z_mm, x_mm), windows, tile)),
        Panel(f"Sagittal, right half of the {region}", _draw(sagittal, (z_mm, y_mm), windows, tile, marks="AP")),
    )


def choose_slices(volume: Volume) -> tuple[str, tuple[int, ...], int]:
    """Choose z of the three axial slices, from head to feet, and y of the coronal one.

    Returns:
        ``"lungs"`` or ``"body"``, the three z, and y; voxel indices of ``volume``.
    """
    anatomy = find_anatomy(volume)
    has_lungs, mask = _what_to_show(anatomy)
    to_volume = np.linalg.inv(volume.affine) @ anatomy.affine
    along = _share_reached(mask, 2, [share for _, share in _HEIGHTS])
    across = _middle_of_mass(mask, 1)
    heights = tuple(_voxel(volume, to_volume, 2, place) for place in along)
    return ("lungs" if has_lungs else "body"), heights, _voxel(volume, to_volume, 1, across)


def _choose_side(volume: Volume) -> int:
    """Choose x of the sagittal slice: a quarter of the mask lies further to the right."""
    anatomy = find_anatomy(volume)
    _, mask = _what_to_show(anatomy)
    counts = mask.sum(axis=(1, 2)).cumsum()
    place = float(np.searchsorted(counts, 0.75 * counts[-1]))
    return _voxel(volume, np.linalg.inv(volume.affine) @ anatomy.affine, 0, place)


def _what_to_show(anatomy: Anatomy) -> tuple[bool, NDArray[np.bool_]]:
    """Return whether there are lungs, and the lungs, else the body, else everything."""
    has_lungs = bool(anatomy.lungs.sum() * anatomy.voxel_ml >= MIN_LUNG_ML)
    mask = anatomy.lungs if has_lungs else anatomy.body
    return has_lungs, mask if mask.any() else np.ones_like(mask)


def _check_windows(windows: Sequence[str]) -> None:
    unknown = [name for name in windows if name not in WINDOWS]
    if unknown:
        raise ConfigError(f"unknown window {unknown[0]!r}; known: {', '.join(WINDOWS)}")


def _share_reached(mask: NDArray[np.bool_], axis: int, shares: Sequence[float]) -> list[float]:
    """Find the planes at given shares of the way from the mask's first to its last plane, strays left out."""
    counts = mask.sum(axis=tuple(other for other in range(3) if other != axis)).cumsum()
    first, last = np.searchsorted(counts, [0.01 * counts[-1], 0.99 * counts[-1]])
    return [float(first + share * (last - first)) for share in shares]


def _middle_of_mass(mask: NDArray[np.bool_], axis: int) -> float:
    """Find the plane with half of the mask before it."""
    counts = mask.sum(axis=tuple(other for other in range(3) if other != axis)).cumsum()
    return float(np.searchsorted(counts, counts[-1] / 2))


def _voxel(volume: Volume, to_volume: NDArray[np.float64], axis: int, place: float) -> int:
    # The two grids share their axes, so that one axis can be mapped alone.
    index = to_volume[axis, axis] * place + to_volume[axis, 3]
    return int(np.clip(round(float(index)), 0, volume.shape[axis] - 1))


def _draw(
    plane: NDArray[np.generic], spacing_mm: tuple[float, float], windows: Sequence[str], tile: int, *, marks: str = "RL"
) -> Pixels:
    """Scale a plane (rows, columns) to its true proportions within a square and stack its windows."""
    rows_mm, columns_mm = plane.shape[0] * spacing_mm[0], plane.shape[1] * spacing_mm[1]
    per_mm = tile / max(rows_mm, columns_mm)
    size = (max(1, round(columns_mm * per_mm)), max(1, round(rows_mm * per_mm)))
    hu = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    smooth = np.asarray(hu.resize(size, Image.Resampling.BICUBIC))
    return np.concatenate([_tile(smooth, WINDOWS[name], tile, marks) for name in windows])


def apply_window(hu: NDArray[np.floating], centre: float, width: float) -> Pixels:
    """Map HU to grey: ``centre - width / 2`` and below to 0, ``centre + width / 2`` and above to 255.

    Example:
        >>> apply_window(np.array([-2000.0, -600.0, 150.0]), -600, 1500).tolist()
        [0, 128, 255]
    """
    grey = (hu - (centre - width / 2)) / width * 255
    return np.asarray(np.clip(np.round(grey), 0, 255), dtype=np.uint8)


def _tile(hu: NDArray[np.floating], window: tuple[float, float], side: int, marks: str) -> Pixels:
    """Centre a picture in a square of air and mark what lies on its left and on its right."""
    square = np.full((side, side), AIR_HU, dtype=np.float32)
    top, left = (side - hu.shape[0]) // 2, (side - hu.shape[1]) // 2
    square[top : top + hu.shape[0], left : left + hu.shape[1]] = hu
    picture = Image.fromarray(apply_window(square, *window)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(10, side / 16))
    edge, outline = side // 22, max(1, side // 110)
    for text, x, anchor in ((marks[0], edge, "lm"), (marks[1], side - edge, "rm")):
        draw.text(
            (x, side / 2), text, fill=_MARK, font=font, anchor=anchor, stroke_width=outline, stroke_fill=(0, 0, 0)
        )
    return np.asarray(picture)
