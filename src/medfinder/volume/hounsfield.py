"""Stored values to Hounsfield units, the same for every file format.

In: stored voxels, slope and intercept. Out: HU as int16 where every value is a whole number, else float32. Padding
(values that no tissue has, put where nothing was measured) becomes air. Refused: NaN and infinity.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from medfinder.errors import VolumeError
from medfinder.volume.types import AIR_HU, Array

PADDING_HU = -1500
"""At and below it lies padding, not noise: scanners write -2000, -3024 or -8192; edge overshoot of sharp kernels ends
near -1200 (ours; BIMCV and RIDER hold all of these)."""


def hu_dtype(stored: npt.DTypeLike, slope: float, intercept: float) -> npt.DTypeLike:
    """Return int16 if stored values are whole numbers and stay so, else float32."""
    whole = np.issubdtype(stored, np.integer) and slope == int(slope) and intercept == int(intercept)
    return np.int16 if whole else np.float32


def check_rescale(slope: float, intercept: float) -> None:
    """Refuse a slope of 0 and anything that is not finite.

    Raises:
        VolumeError: with the values found.
    """
    if not (np.isfinite(slope) and np.isfinite(intercept)) or slope == 0:
        raise VolumeError(
            f"rescale slope {slope:g} and intercept {intercept:g}, expected finite numbers and a slope other than 0; "
            "repair the header",
            reason="bad rescale",
        )


def to_hu(stored: Array, *, slope: float, intercept: float) -> Array:
    """Turn stored CT values into Hounsfield units (HU).

    Whole numbers above 32767 HU are set to 32767: int16 holds no more, and nothing in a body reaches a tenth of it.

    Args:
        slope: HU per stored value, DICOM RescaleSlope or NIfTI scl_slope.
        intercept: HU of stored value 0, DICOM RescaleIntercept or NIfTI scl_inter.

    Returns:
        An array of `hu_dtype`; the stored one itself where nothing had to change.

    Raises:
        VolumeError: a value is NaN or infinite.

    Source: DICOM PS3.3, C.11.1 (Modality LUT); NIfTI-1, scl_slope.

    Example:
        >>> to_hu(np.array([0, 24, 1024], np.uint16), slope=1, intercept=-1024)
        array([-1024, -1000,     0], dtype=int16)
    """
    if hu_dtype(stored.dtype, slope, intercept) == np.int16:
        return _whole_hu(stored, int(slope), int(intercept))
    return _fractional_hu(stored, slope, intercept)


def air_for_padding(slabs: Iterator[Array], notes: list[str]) -> Iterator[Array]:
    """Set padding to air in a stream of HU, and note its share once the stream has ended.

    Example:
        >>> notes = []
        >>> list(air_for_padding(iter([np.array([[-3024, 40]], np.int16)]), notes))
        [array([[-1024,    40]], dtype=int16)]
        >>> notes
        ['50% of the voxels were padding; they were set to -1024 HU']
    """
    padded = total = 0
    for hu in slabs:
        total += hu.size
        if hu.min() <= PADDING_HU:
            is_padding = hu <= PADDING_HU
            padded += int(is_padding.sum())
            hu = np.where(is_padding, hu.dtype.type(AIR_HU), hu)
        yield hu
    if padded:
        notes.append(f"{100 * padded / total:.2g}% of the voxels were padding; they were set to {AIR_HU} HU")


def _whole_hu(stored: Array, slope: int, intercept: int) -> Array:
    small = stored.dtype.itemsize <= 2
    if slope == 1 and intercept == 0 and small and stored.dtype != np.uint16:
        return stored.astype(np.int16, copy=False)
    wide = stored.astype(np.int32 if small and abs(slope) < 2**14 else np.float64) * slope + intercept
    return np.clip(wide, -32768, 32767, out=wide).astype(np.int16)


def _fractional_hu(stored: Array, slope: float, intercept: float) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        if slope == 1 and intercept == 0:
            hu = stored.astype(np.float32, copy=False)
        else:
            hu = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
    finite = np.isfinite(hu)
    if not finite.all():
        raise VolumeError(
            f"{hu.size - int(finite.sum())} voxels are NaN or infinite, expected finite HU; "
            "repair the file or leave it out",
            reason="not finite",
        )
    return hu
