"""Stored values to Hounsfield units, the same for every file format.

In: stored voxels, slope and intercept. Out: HU as int16 where every value is a whole number, else float32. Padding
(values that no tissue has, put where nothing was measured) becomes air. Where a file does not say how to get HU and a
side file does, the voxels tell which of the two is right, so that the rescale is used once. Refused: NaN and infinity.
"""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt

from medfinder.errors import VolumeError
from medfinder.volume.types import AIR_HU, Array, Padding

PADDING_HU = -1500
"""At and below it lies padding, not noise: scanners write -2000, -3024 or -8192; edge overshoot of sharp kernels ends
near -1200 (ours; BIMCV and RIDER hold all of these)."""

DARK_HU, BRIGHT = -500, 500
"""Ours: below the first lie air and most of a lung, which a usual intercept, -1000 or less, would move to where padding
is; above the second lies hardly a voxel of a body in HU, but all soft tissue in stored values of such an intercept."""

MIN_DARK_SHARE, MIN_BRIGHT_SHARE = 0.01, 0.05
"""Ours: of a few slices, that say HU, or stored values; bone and metal above 500 HU fill less than 2% of a chest."""

NO_RESCALE = (1.0, 0.0)


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


def choose_rescale(
    stored: Iterator[Array], own: tuple[float, float] | None, told: tuple[float, float] | None, notes: list[str]
) -> tuple[tuple[float, float], Iterator[Array]]:
    """Choose between the rescale of a file's own header and that of a side file, so that exactly one is used.

    A header that tells a real rescale is taken at its word. One that tells none, or the 1 and 0 that converters write
    without being asked, leaves open whether its values are stored ones or HU: the first slab that shows it decides.

    Args:
        stored: the file's values, slab by slab.
        own: slope and intercept of the header; None where it tells none.
        told: slope and intercept of the side file; None where there is none.
        notes: gets a sentence when the side file had a say.

    Returns:
        Slope and intercept to use, and the slabs, none of them lost.

    Raises:
        VolumeError: the side file's rescale is no rescale.
    """
    if told is None or own not in (None, NO_RESCALE) or told == NO_RESCALE:
        return own or NO_RESCALE, stored
    check_rescale(*told)
    slope, intercept = told
    # An intercept that leaves air among tissues cannot be judged by where air is: then the header has the last word.
    is_telling = DARK_HU * slope + intercept <= PADDING_HU
    drawn: list[Array] = []
    verdict: bool | None = None
    while is_telling and verdict is None and (slab := next(stored, None)) is not None:
        drawn.append(slab)
        verdict = are_stored_values(slab)
    stored = chain(drawn, stored)
    if verdict or (verdict is None and own is None):
        used = f"slope {slope:g} and intercept {intercept:g} of the side file were used"
        notes.append(f"the header tells no rescale: {used}")
        return told, stored
    notes.append("the side file's rescale was not used: the values are HU by where air lies, or by the header")
    return own or NO_RESCALE, stored


def are_stored_values(values: Array) -> bool | None:
    """Tell whether values are stored ones rather than HU, padding aside; None where neither shows.

    Example:
        >>> [are_stored_values(np.array(one)) for one in ([-2000, -990, 40], [-2000, 34, 1064], [0, 0, 0])]
        [False, True, None]
    """
    measured = np.count_nonzero(values > PADDING_HU)
    dark = np.count_nonzero((values > PADDING_HU) & (values < DARK_HU))
    if dark > MIN_DARK_SHARE * measured:
        return False
    return True if np.count_nonzero(values > BRIGHT) > MIN_BRIGHT_SHARE * measured else None


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


def air_for_padding(slabs: Iterator[Array], notes: list[str], padding: Padding) -> Iterator[Array]:
    """Set padding to air in a stream of HU, and note its share once the stream has ended.

    Example:
        >>> notes, padding = [], Padding()
        >>> list(air_for_padding(iter([np.array([[-3024, 40]], np.int16)]), notes, padding))
        [array([[-1024,    40]], dtype=int16)]
        >>> padding.share, notes
        (0.5, ['50% of the voxels were padding; they were set to -1024 HU'])
    """
    for hu in slabs:
        padding.voxels += hu.size
        if hu.min() <= PADDING_HU:
            is_padding = hu <= PADDING_HU
            padding.padded += int(is_padding.sum())
            hu = np.where(is_padding, hu.dtype.type(AIR_HU), hu)
        yield hu
    if padding.padded:
        notes.append(f"{100 * padding.share:.2g}% of the voxels were padding; they were set to {AIR_HU} HU")


def _whole_hu(stored: Array, slope: int, intercept: int) -> Array:
    small = stored.dtype.itemsize <= 2
    if slope == 1 and intercept == 0 and small and stored.dtype != np.uint16:
        return stored.astype(np.int16, copy=False)
    if slope == 1 and small and stored.size and _is_within_int16(stored, intercept):
        # In 16 bits, where the sum wraps to what it must be: several times as fast as by way of 32.
        return _as_int16(stored) + np.array(intercept).astype(np.int16)
    wide = stored.astype(np.int32 if small and abs(slope) < 2**14 else np.float64) * slope + intercept
    return np.clip(wide, -32768, 32767, out=wide).astype(np.int16)


def _is_within_int16(stored: Array, intercept: int) -> bool:
    return int(stored.min()) + intercept >= -32768 and int(stored.max()) + intercept <= 32767


def _as_int16(stored: Array) -> Array:
    return stored.view(np.int16) if stored.dtype == np.uint16 else stored.astype(np.int16, copy=False)


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
