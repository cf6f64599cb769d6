"""Are the values Hounsfield units: air must lie near -1000, soft tissue near 0, whatever the scanner.

In: a sample of a volume's voxels. Out: ``Scale``: nothing to tell; or the intercept that was left out, where air and
soft tissue both land where they must with it and with no other; or the fault that values of no known scale are.
Nothing is guessed: a rescale applied twice has lost its air and is told, not mended.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from medfinder.curation.quality.voxels import Fault
from medfinder.volume import Volume
from medfinder.volume.types import AIR_HU

INTERCEPTS = (-1024, -8192)
"""What scanners store as RescaleIntercept (BIMCV holds both, and 0). -1000 occurs, too, but is not told from -1024."""

AIR_PEAK_HU, SOFT_PEAK_HU = (-1040, -950), (-140, 140)
"""Ours: where the commonest dark and the commonest tissue value lie: air is -1000 by definition and -1024 where nothing
was measured; fat is -100, muscle 50, enhanced blood seldom the commonest."""

DARK_HU = -500
"""Ours: halfway between air and water; below lie air and lung, above lies tissue."""

MIN_AIR_SHARE, MIN_SOFT_SHARE = 0.03, 0.25
"""Ours: of all voxels, and of those that are not dark; bone and metal never outnumber soft tissue threefold."""

MAX_STRANGE_SHARE = 0.05
"""Ours: of voxels darker than any air, noise included (-1200), or brighter than a 12-bit CT can be (3071)."""

MIN_RANGE_HU = 300
"""Ours: a body spans fat to bone; values scaled to 0..1 or 0..255 span less."""

_SAMPLE = 100_000
"""Ours: of so many voxels the smallest share that decides, `MIN_AIR_SHARE`, is told to 7% of itself (four standard
errors)."""

_BIN_HU = 10


@dataclass(frozen=True)
class Scale:
    """What was found.

    Attributes:
        forgotten: the intercept that was left out, where that is provable; 0 where none was.
        fault: why the volume is unfit, or None.
        told: what a person should know of it, or nothing.
    """

    forgotten: int = 0
    fault: Fault = None
    told: str = ""


def check_scale(sample: npt.NDArray[np.float32], *, padding_share: float) -> Scale:
    """Find out whether values are HU.

    Args:
        sample: of the volume's voxels, in any order.
        padding_share: of the volume, that is air now and tells nothing.
    """
    # Sorted, which is quicker than to look for anything in what is not.
    values = np.sort(sample)
    if padding_share and values[-1] > AIR_HU:
        values = values[_count_to(values, AIR_HU) :]
    if fits(values):
        return Scale()
    forgotten = [intercept for intercept in INTERCEPTS if fits(values + intercept)]
    if len(forgotten) == 1:
        (intercept,) = forgotten
        told = f"stored values were taken as HU; {intercept} was added, so that air and soft tissue lie where they must"
        return Scale(forgotten=intercept, told=told)
    detail = _describe(values, padding_share)
    if _is_tissue_alone(values):
        return Scale(told=f"no air found to check the scale by: {detail}")
    return Scale(fault=("HU scale", f"{detail}; expected air near -1000 and soft tissue near 0 HU"))


def mend(volume: Volume, scale: Scale) -> Volume:
    """Add the intercept that was left out, and tell of it."""
    # Padding, which is air already, stays air.
    air = volume.hu.dtype.type(AIR_HU)
    hu = np.maximum(volume.hu + volume.hu.dtype.type(scale.forgotten), air)
    return replace(volume, hu=hu, notes=(*volume.notes, scale.told))


def sample_step(shape: tuple[int, int, int]) -> int:
    """Say how many voxels apart, along each axis, those lie that a volume's scale is read from."""
    return max(1, round(math.cbrt(math.prod(shape) / _SAMPLE)))


def fits(values: npt.NDArray[np.float32]) -> bool:
    """Tell whether both air and soft tissue lie where they must.

    Args:
        values: in ascending order, so that every share of them is told by two places.

    Example:
        >>> body = np.repeat(np.float32([-1000, -850, -100, 50, 400]), [50, 20, 10, 20, 2])
        >>> fits(body), fits(body + 1024), fits(body - 1024)
        (True, False, False)
    """
    dark = values[: _count_below(values, DARK_HU)]
    if len(dark) < MIN_AIR_SHARE * len(values):
        return False
    # Lung is dark, too, and may be the commonest where little air is in view.
    is_lung = _count_below(dark, AIR_PEAK_HU[1]) < 0.5 * len(dark)
    return (is_lung or _within(_commonest(dark), AIR_PEAK_HU)) and _is_tissue_alone(values)


def _is_tissue_alone(values: npt.NDArray[np.float32]) -> bool:
    """Whether what is not dark looks like a body in HU."""
    tissue = values[_count_below(values, DARK_HU) :]
    strange = _count_below(values, -1200) + len(values) - _count_to(values, 3071)
    if not len(tissue) or strange > MAX_STRANGE_SHARE * len(values):
        return False
    span = _percentile(values, 99.5) - _percentile(values, 0.5)
    soft = (_count_below(tissue, SOFT_PEAK_HU[1]) - _count_to(tissue, SOFT_PEAK_HU[0])) / len(tissue)
    return span >= MIN_RANGE_HU and soft >= MIN_SOFT_SHARE and _within(_commonest(tissue), SOFT_PEAK_HU)


def _count_below(values: npt.NDArray[np.float32], bound: float) -> int:
    return int(np.searchsorted(values, bound, side="left"))


def _count_to(values: npt.NDArray[np.float32], bound: float) -> int:
    return int(np.searchsorted(values, bound, side="right"))


def _percentile(values: npt.NDArray[np.float32], percent: float) -> float:
    """Interpolate as ``np.percentile`` does, which would look for what is in order already.

    Example:
        >>> values = np.float32([0, 2, 4, 8, 16])
        >>> [_percentile(values, percent) for percent in (0, 25, 60, 100)]
        [0.0, 2.0, 5.6, 16.0]
    """
    place = percent / 100 * (len(values) - 1)
    below, above = values[int(place)], values[min(int(place) + 1, len(values) - 1)]
    return float(below) + (place - int(place)) * float(above - below)


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]


def _commonest(values: npt.NDArray[np.float32]) -> float:
    """Middle of the commonest bin; counts are smoothed over five bins, since noise makes them ragged."""
    low = np.floor(values[0] / _BIN_HU)
    counts = np.bincount((values / _BIN_HU - low).astype(np.int64))
    return float((low + 0.5 + np.argmax(np.convolve(counts, np.ones(5), "same"))) * _BIN_HU)


def _describe(values: npt.NDArray[np.float32], padding_share: float) -> str:
    low, middle, high = np.percentile(values, (1, 50, 99))
    padding = f", {100 * padding_share:.0f}% are padding" if padding_share else ""
    return f"the values run from {low:.4g} over {middle:.4g} to {high:.4g} (1st, 50th, 99th percentile){padding}"
