"""Render a planned study: the scan of a painted chest, with its finding masks.

In: a ``StudyPlan`` and one of its ``VolumePlan``s. Out: HU as int16 on the volume's grid, RAS+, and a bit mask of the
findings. The same plan gives the same voxels on every machine: voxels are computed in float32 with operations that
IEEE 754 fixes, noise is a sum of uniform numbers, and the result is rounded to whole HU.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medfinder.sources.phantoms.anatomy import Anatomy
from medfinder.sources.phantoms.canvas import Array, Canvas, f32
from medfinder.sources.phantoms.findings import paint_findings
from medfinder.sources.phantoms.plan import StudyPlan, VolumePlan
from medfinder.volume import Volume

# What a 12-bit scanner can store.
HU_RANGE = (-1024, 3071)

# Streams of the volume's seed.
_NOISE, _POSITION = 3, 4


@dataclass(frozen=True, eq=False)
class Rendered:
    """A rendered volume.

    Attributes:
        masks: uint32 (x, y, z); bit i of a voxel is set where finding i of the study shows.
    """

    volume: Volume
    masks: npt.NDArray[np.uint32]


def render(study: StudyPlan, plan: VolumePlan) -> Rendered:
    """Render one volume of a study."""
    z_low_mm = -plan.shape[2] * plan.spacing_mm[2] / 2 - 10 * study.patient.scale
    canvas = Canvas(plan.shape, plan.spacing_mm, z_low_mm)
    masks = paint_findings(Anatomy(study, canvas))
    hu = np.clip(np.rint(_scan(canvas.hu, plan)), *HU_RANGE).astype(np.int16)
    affine = np.diag([*plan.spacing_mm, 1.0])
    # Where the scanner's origin lay has nothing to do with the patient: readers must not rely on it.
    table_mm = float(np.random.default_rng([plan.seed, _POSITION]).integers(-600, 200))
    affine[:3, 3] = [canvas.x[0, 0, 0], canvas.y[0, 0, 0], canvas.z[0, 0, 0] + table_mm]
    return Rendered(Volume(hu, affine), masks)


def _scan(hu: Array, plan: VolumePlan) -> Array:
    """Blur and add correlated noise (soft kernel), or keep edges and add white noise (lung kernel)."""
    rng = np.random.default_rng([plan.seed, _NOISE])
    # The sum of four uniform numbers, moved and scaled to mean 0 and variance 1.
    noise = np.zeros(hu.shape, np.float32)
    for _ in range(4):
        noise += rng.random(hu.shape, dtype=np.float32)
    noise = (noise - f32(2)) * f32(1.7320508)
    if plan.kernel == "soft":
        scan: Array = hu * f32(0.6) + _blur(hu) * f32(0.4) + _blur(noise) * f32(plan.noise_hu * 1.6)
    else:
        scan = hu + noise * f32(plan.noise_hu * 1.7)
    return scan


def _blur(values: Array) -> Array:
    """Smooth by 1/4, 1/2, 1/4 along each axis; the border repeats."""
    for axis in range(3):
        turned = np.moveaxis(values, axis, 0)
        padded = np.concatenate([turned[:1], turned, turned[-1:]])
        smooth = padded[:-2] * f32(0.25) + padded[1:-1] * f32(0.5) + padded[2:] * f32(0.25)
        values = np.moveaxis(smooth.astype(np.float32, copy=False), 0, axis)
    return values
