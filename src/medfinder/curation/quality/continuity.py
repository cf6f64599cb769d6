"""How the slices of a volume follow one another: blank, repeated, lost, or moved between.

In: the slices of a volume, averaged over small blocks. Out: ``Continuity``: how much each slice differs from the next,
and what stands out. From one slice to the next a body changes little and evenly, so a step much larger than both its
neighbours means that slices are lost between (or that the patient moved), and no step at all that a slice was copied.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medfinder.volume.types import Array

Float32 = npt.NDArray[np.float32]

JUMP, SLIGHT_JUMP = 1.9, 1.7
"""Ours: a step so many times its larger neighbour, to hold a volume back and to tell of it. The real CTs at hand stay
below 1.45 while whole, and come to 2.0 to 3.9 when 12 mm are cut out of 3 mm slices; phantoms, whose lungs end flat at
the apex, mostly stay below 1.8."""

COPY = 0.02
"""Ours: a step so small beside the usual one that even the noise must have been copied."""

_CLIP_HU = (-1000, 300)
_BLOCK_MM = (1.5, 6.0)
_BAND_MM = 24.0
_MANY_ROWS = 160


@dataclass(frozen=True)
class Continuity:
    """What was found between slices.

    Attributes:
        is_axial: the slices are axial; anything else has no even steps, since it crosses the body's edge.
        jump: largest step between slices, as a multiple of its larger neighbour.
        jump_at: the slice below that step, from the feet.
        copies: slices that repeat their neighbour.
        blank: slices that hold a single value.
        motion: change over one slice, as a share of that over two: half where a body goes on smoothly, 1 where
            neighbours have nothing in common.
        slices: how many there are.
    """

    is_axial: bool
    jump: float
    jump_at: int
    copies: int
    blank: int
    motion: float
    slices: int


class Blocks:
    """Averages of blocks of about 1.5 x 6 mm of every slice, in which little noise is left.

    Of large slices only a band every 24 mm is looked at, which is cheap to fetch.

    Attributes:
        is_axial: see `Continuity`.
    """

    def __init__(self, shape: tuple[int, ...], spacing_mm: tuple[float, float], *, is_axial: bool) -> None:
        slices, rows, columns = shape
        self._high = min(rows, max(1, round(_BLOCK_MM[0] / spacing_mm[0])))
        self._wide = min(columns, max(1, round(_BLOCK_MM[1] / spacing_mm[1])))
        step = max(self._high, round(_BAND_MM / spacing_mm[0])) if rows > _MANY_ROWS else self._high
        bands = np.arange(0, rows - self._high + 1, step)
        self._rows = np.add.outer(bands, np.arange(self._high)).ravel()
        self._sums = np.zeros((slices, len(bands), columns // self._wide), np.float32)
        self.is_axial = is_axial

    def add(self, at: int, slices: Array) -> None:
        """Add slices, the first of which is the one that counts ``at``."""
        kept = slices[:, self._rows]
        np.clip(kept, *_CLIP_HU, out=kept)
        # Rows first, in the volume's own type: no voxel is so small that clipped values would not fit in 16 bits.
        bands = kept[:, :: self._high].copy()
        for row in range(1, self._high):
            bands += kept[:, row :: self._high]
        sums = self._sums[at : at + len(slices)]
        for column in range(self._wide):
            sums += bands[:, :, column : sums.shape[2] * self._wide : self._wide]

    @property
    def means(self) -> Float32:
        """What was added, divided by the voxels of a block."""
        return self._sums / np.float32(self._high * self._wide)


def measure_continuity(blocks: Blocks) -> Continuity:
    """Compare each slice with the next."""
    means = blocks.means
    is_blank = means.min(axis=(1, 2)) == means.max(axis=(1, 2))
    pairs = ~(is_blank[1:] | is_blank[:-1])
    steps = np.abs(np.diff(means, axis=0)).mean(axis=(1, 2))
    usual = float(np.median(steps[pairs])) if pairs.any() else 0.0
    is_copy = pairs & (steps <= COPY * usual)
    jump, at = _find_jump(np.where(pairs & ~is_copy, steps, np.nan))
    return Continuity(
        is_axial=blocks.is_axial,
        jump=jump,
        jump_at=at,
        copies=int(is_copy.sum()) if usual else 0,
        blank=int(is_blank.sum()),
        motion=_measure_motion(means, steps),
        slices=len(means),
    )


def _find_jump(steps: npt.NDArray[np.floating]) -> tuple[float, int]:
    """Find the step that stands out most from both its neighbours; the first and last step have one only."""
    if len(steps) < 5:
        return 1.0, 0
    inner = steps[2:-2]
    near = np.fmax(steps[1:-3], steps[3:-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.nan_to_num(inner / near, nan=1.0, posinf=1.0)
    at = int(np.argmax(ratios))
    return float(ratios[at]), at + 2


def _measure_motion(blocks: Float32, steps: npt.NDArray[np.floating]) -> float:
    if len(blocks) < 3:
        return 0.5
    over_two = np.abs(blocks[2:] - blocks[:-2]).mean(axis=(1, 2))
    is_usable = over_two > 0
    if not is_usable.any():
        return 0.5
    return float(np.median(((steps[:-1] + steps[1:]) / 2)[is_usable] / over_two[is_usable]))
