"""A DICOM CT series as a stream of slices in the order in which they lie in the patient.

In: a folder (or one multi-frame file). Out: `Slabs` in HU, geometry from each slice's ImagePositionPatient and
ImageOrientationPatient; SliceThickness and file order are never trusted. Gantry tilt stays in the affine as shear.
Refused: two patients, other modalities, single slices, slices that disagree in size, orientation or spacing, positions
that hold different images, gaps where anatomy is lost, damaged images of which there is no intact copy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medfinder.errors import VolumeError
from medfinder.records import plural
from medfinder.volume.dicom_copies import leave_out_damaged
from medfinder.volume.dicom_headers import find_series
from medfinder.volume.dicom_pixels import Pixels, pixels_of, read_stored
from medfinder.volume.hounsfield import PADDING_HU, air_for_padding, check_rescale, hu_dtype, to_hu
from medfinder.volume.types import Affine, Array, Padding, Slabs, check_affine, check_shape

SAME_POSITION_MM = 0.05
"""Ours: no CT has slices so close; two acquisitions that meet differ by rounding (0.005 mm in RIDER-50.1.0109)."""

MAX_JITTER = 0.1
"""Ours: slices less than a tenth of a step off an even grid are taken as even (table positions are rounded)."""

MAX_GAP_MM = 10.0
"""Ours: a wider hole in a series is not bridged; 10 mm slices were routine, so no less can be lost within one."""

MAX_SEAM_SHARE = 0.05
"""Ours: positions held twice by two acquisitions that meet; more means two volumes in one series."""

MAX_DRIFT_MM = 1.0
"""Ours: how far slices may stray sideways from one straight line."""

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Slice:
    """Where one image lies and how its pixels are read."""

    pixels: Pixels
    position: Vector
    orientation: Vector
    spacing: tuple[float, float]
    slope: float
    intercept: float
    acquisition: int
    instance: int


def open_dicom(path: Path, *, series_instance_uid: str | None = None) -> Slabs:
    """Open one CT series: headers are read and checked now, pixels when the slabs are drawn.

    Args:
        path: a folder that holds the series at any depth, or one multi-frame file.
        series_instance_uid: which series; None where there is only one.

    Raises:
        VolumeError: the series cannot be trusted, and why.
        MissingExtraError: its compression needs a decoder that is not installed.
    """
    headers, notes = find_series(path, series_instance_uid)
    headers = leave_out_damaged(headers, notes)
    slices = [one for header in headers for one in _slices_of(header)]
    if len(slices) < 2:
        raise VolumeError(
            "the series has a single slice, expected a volume; give its whole folder", reason="single slice"
        )
    _check_alike(slices)
    slices = _drop_duplicates(_sort(slices), notes)
    first = slices[0]
    steps = _even_steps(_distances(slices), notes)
    affine = _affine(slices, len(steps))
    shape = (first.pixels.columns, first.pixels.rows, len(steps))
    check_shape(shape)
    dtype = np.result_type(*(hu_dtype(np.int16, one.slope, one.intercept) for one in slices))
    padding = Padding()
    # Padding goes first: it must not be mixed into the tissue beside it.
    planes = air_for_padding((_read_hu(one).astype(dtype, copy=False)[None] for one in slices), notes, padding)
    return Slabs(shape, affine, dtype, _interpolate(planes, _distances(slices), steps), notes, padding)


def _slices_of(header: Any) -> Iterator[_Slice]:
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise VolumeError(
            "colour images, expected one grey value a pixel; give the original CT", reason="not greyscale"
        )
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if frames is None:
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise VolumeError("several frames without a position each; convert to an enhanced CT", reason="no geometry")
        yield _slice_from([header], header, 0)
        return
    shared = header.get("SharedFunctionalGroupsSequence") or [None]
    for index, frame in enumerate(frames):
        yield _slice_from([*_macros(frame), *_macros(shared[0]), header], header, index)


def _macros(group: Any) -> list[Any]:
    """Return the items nested one level down, where enhanced CT keeps geometry (DICOM PS3.3, C.7.6.16)."""
    return [] if group is None else [element.value[0] for element in group if element.VR == "SQ" and element.value]


def _slice_from(places: list[Any], header: Any, frame: int) -> _Slice:
    position = _numbers(places, "ImagePositionPatient", 3)
    orientation = _numbers(places, "ImageOrientationPatient", 6)
    row_mm, column_mm = _numbers(places, "PixelSpacing", 2)
    (slope,), (intercept,) = _numbers(places, "RescaleSlope", 1), _numbers(places, "RescaleIntercept", 1)
    check_rescale(slope, intercept)
    return _Slice(
        pixels_of(header, frame),
        position,
        orientation,
        (float(row_mm), float(column_mm)),
        float(slope),
        float(intercept),
        int(header.get("AcquisitionNumber") or 0),
        int(header.get("InstanceNumber") or 0) + frame,
    )


def _numbers(places: list[Any], keyword: str, count: int) -> Vector:
    found = next((place.get(keyword) for place in places if place.get(keyword) not in (None, "")), None)
    try:
        values = np.atleast_1d(np.asarray(found, np.float64)) if found is not None else np.empty(0)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (count,) or not np.isfinite(values).all():
        reason = "bad rescale" if keyword.startswith("Rescale") else "no geometry"
        raise VolumeError(
            f"an image without a usable {keyword}, expected {plural(count, 'number')}; leave the series out",
            reason=reason,
        )
    return values


def _check_alike(slices: list[_Slice]) -> None:
    first = slices[0]
    for name, differ in (
        ("size", [(s.pixels.columns, s.pixels.rows) != (first.pixels.columns, first.pixels.rows) for s in slices]),
        ("orientation", [np.abs(s.orientation - first.orientation).max() > 1e-3 for s in slices]),
        ("PixelSpacing", [not np.allclose(s.spacing, first.spacing, rtol=1e-3, atol=0) for s in slices]),
    ):
        if any(differ):
            raise VolumeError(
                f"{sum(differ)} of {len(slices)} images differ from the first in {name}, expected one {name} in a "
                "series; split the series",
                reason="inconsistent geometry",
            )


def _normal(one: _Slice) -> Vector:
    normal = np.cross(one.orientation[:3], one.orientation[3:])
    length = float(np.linalg.norm(normal))
    if not 0.99 < length < 1.01:
        raise VolumeError(
            f"rows and columns of the images span {length:.3g}, expected 1; repair ImageOrientationPatient",
            reason="singular affine",
        )
    unit: Vector = normal / length
    return unit


def _distances(slices: list[_Slice]) -> Vector:
    """Project the positions on the normal of the slices."""
    normal = _normal(slices[0])
    return np.asarray([one.position @ normal for one in slices])


def _sort(slices: list[_Slice]) -> list[_Slice]:
    normal = _normal(slices[0])
    return sorted(slices, key=lambda one: (round(float(one.position @ normal), 3), one.acquisition, one.instance))


def _drop_duplicates(slices: list[_Slice], notes: list[str]) -> list[_Slice]:
    """Keep one image a position; see `_keep_one` for images that differ."""
    distances = _distances(slices)
    groups = [[slices[0]]]
    for one, gap in zip(slices[1:], np.diff(distances), strict=True):
        if gap < SAME_POSITION_MM:
            groups[-1].append(one)
        else:
            groups.append([one])
    doubled = [group for group in groups if len(group) > 1]
    if not doubled:
        return slices
    if len(groups) < 2:
        raise VolumeError(f"all {len(slices)} images lie at one position, expected a volume", reason="single slice")
    differing = [group for group in doubled if not _are_identical(group)]
    _check_seams(differing, len(groups))
    if copied := len(doubled) - len(differing):
        notes.append(f"identical copies at {plural(copied, 'slice position')}; one of each was kept")
    if differing:
        notes.append(f"two acquisitions meet at {plural(len(differing), 'slice position')}; the earlier image was kept")
    return [min(group, key=lambda one: (one.acquisition, one.instance)) for group in groups]


def _are_identical(group: list[_Slice]) -> bool:
    first = _read_hu(group[0])
    return all(np.array_equal(first, _read_hu(other)) for other in group[1:])


def _check_seams(differing: list[list[_Slice]], positions: int) -> None:
    """Accept different images at one position only where two acquisitions meet (a scan in two breath-holds)."""
    is_seam = all(len({one.acquisition for one in group}) == len(group) for group in differing)
    if differing and (not is_seam or len(differing) > max(1, MAX_SEAM_SHARE * positions)):
        raise VolumeError(
            f"{len(differing)} of {positions} slice positions hold different images, expected one each; "
            "split the series by acquisition, phase or kernel",
            reason="conflicting slices",
        )


def _even_steps(distances: Vector, notes: list[str]) -> Vector:
    """Return the distances of evenly spaced slices: those that are there, or new ones to interpolate at."""
    gaps = np.diff(distances)
    even = np.linspace(distances[0], distances[-1], len(distances))
    if np.abs(distances - even).max() <= MAX_JITTER * gaps.mean():
        return distances
    usual, widest = float(np.median(gaps)), float(gaps.max())
    if widest > MAX_GAP_MM and widest > 1.5 * usual:
        raise VolumeError(
            f"slices are missing: a gap of {widest:.1f} mm where {usual:.1f} mm is usual, at most {MAX_GAP_MM:g} mm is "
            "bridged; send the series again",
            reason="missing slices",
        )
    step = float(np.quantile(gaps, 0.25, method="lower"))
    count = int(np.ceil((distances[-1] - distances[0]) / step - 1e-6)) + 1
    notes.append(f"slices lie {gaps.min():.2f} to {widest:.2f} mm apart; interpolated to even steps")
    return np.linspace(distances[0], distances[-1], count)


def _affine(slices: list[_Slice], count: int) -> Affine:
    first, last = slices[0], slices[-1]
    track = last.position - first.position
    distances = _distances(slices)
    shares = (distances - distances[0]) / (distances[-1] - distances[0])
    strays = np.stack([one.position for one in slices]) - (first.position + shares[:, None] * track)
    if (stray := float(np.abs(strays).max())) > max(MAX_DRIFT_MM, MAX_JITTER * float(np.diff(distances).mean())):
        raise VolumeError(
            f"a slice lies {stray:.1f} mm off the straight line of the others, expected at most {MAX_DRIFT_MM:g} mm; "
            "leave the series out",
            reason="inconsistent geometry",
        )
    lps = np.eye(4)
    lps[:3, 0] = first.orientation[:3] * first.spacing[1]
    lps[:3, 1] = first.orientation[3:] * first.spacing[0]
    lps[:3, 2] = track / (count - 1)
    lps[:3, 3] = first.position
    affine: Affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    check_affine(affine)
    return affine


def _read_hu(one: _Slice) -> Array:
    stored = read_stored(one.pixels)
    hu = to_hu(stored, slope=one.slope, intercept=one.intercept)
    if (padding := one.pixels.padding) is not None and _is_impossible(padding, one):
        low, high = np.sort(np.asarray(padding).astype(stored.dtype))
        hu = np.where((stored >= low) & (stored <= high), hu.dtype.type(PADDING_HU), hu)
    return hu


def _is_impossible(padding: tuple[int, int], one: _Slice) -> bool:
    """Whether padding lies outside what tissue has; a PixelPaddingValue of 0 HU would wipe out water."""
    hu = [value * one.slope + one.intercept for value in padding]
    return max(hu) <= -1000 or min(hu) > 3071


def _interpolate(planes: Iterator[Array], at: Vector, wanted: Vector) -> Iterator[Array]:
    """Interpolate linearly between neighbouring slices, holding two at a time."""
    if at is wanted or np.array_equal(at, wanted):
        yield from planes
        return
    below, above = next(planes), next(planes)
    left = 0
    for distance in wanted:
        while distance > at[left + 1] and left + 2 < len(at):
            below, above = above, next(planes)
            left += 1
        share = float(np.clip((distance - at[left]) / (at[left + 1] - at[left]), 0, 1))
        mixed = below * np.float32(1 - share) + above * np.float32(share)
        yield (np.rint(mixed) if below.dtype == np.int16 else mixed).astype(below.dtype)
    # Draws what is left, so that the notes behind the last slice are written.
    for _ in planes:
        pass
