"""What a volume file says of its shape and place, by its header alone.

In: the path of a NIfTI, NRRD or MetaImage file. Out: `Geometry`, unchecked: it serves to choose among files, and
whoever reads the voxels finds out whether the header can be trusted. Refused: files without a readable header.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from medfinder.errors import VolumeError
from medfinder.volume.types import Affine, spacing_of

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, Plane, Plane] = ("sagittal", "coronal", "axial")
"""The plane of a slice by the axis (x, y, z) that it is crossed by."""

SQUARE = 0.01
"""Ours: pixels whose sides differ by less than a hundredth are square; scanners reconstruct square ones."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Shape and place as the header tells them.

    Attributes:
        shape: voxels (i, j, k) as stored, k slowest.
        affine: stored index -> mm, RAS+ frame.
        is_grey: one number a voxel.
    """

    shape: tuple[int, ...]
    affine: Affine
    is_grey: bool

    @property
    def slice_axis(self) -> int:
        """Find the stored axis across which the slices lie.

        The slowest one, as converters store series. Where that would make axial slices of oblong pixels, the file was
        turned after a reformat: then the axis whose slices have square pixels.
        """
        spacing = spacing_of(self.affine)
        square = [abs(spacing[a] - spacing[b]) <= SQUARE * spacing[a] for a, b in ((1, 2), (0, 2), (0, 1))]
        if self._crosses(2) != 2 or square[2] or not any(square):
            return 2
        return square.index(True)

    @property
    def plane(self) -> Plane:
        """The plane of the slices, the nearest one where they are tilted."""
        return PLANES[self._crosses(self.slice_axis)]

    @property
    def slices(self) -> int:
        """Voxels along the slice axis."""
        return self.shape[self.slice_axis]

    @property
    def slice_spacing_mm(self) -> float:
        """Distance between the middles of neighbouring slices."""
        return spacing_of(self.affine)[self.slice_axis]

    @property
    def positions_mm(self) -> tuple[float, float]:
        """Lowest and highest slice, along the body axis that the slices cross."""
        axis = self.slice_axis
        row = self._crosses(axis)
        middle = (np.asarray(self.shape[:3]) - 1) / 2
        ends = []
        for end in (0, self.shape[axis] - 1):
            middle[axis] = end
            ends.append(float(self.affine[row, :3] @ middle + self.affine[row, 3]))
        return min(ends), max(ends)

    def _crosses(self, axis: int) -> int:
        return int(np.argmax(np.abs(self.affine[:3, axis])))


def read_geometry(path: Path) -> Geometry:
    """Read the header of a volume file.

    Raises:
        VolumeError: the file is absent, empty, or its header cannot be read.
    """
    try:
        if not path.stat().st_size:
            raise VolumeError("the file is empty; copy it again", reason="truncated")
        if path.name.lower().endswith((".nii", ".nii.gz")):
            return _read_nifti(path)
    except FileNotFoundError:
        raise VolumeError("there is no such file; check the path", reason="absent") from None
    except OSError as error:
        raise VolumeError(f"the file cannot be opened: {error.strerror}", reason="unreadable") from error
    from medfinder.volume.itk import open_itk

    opened = open_itk(path)
    return Geometry(opened.shape, opened.affine, True)


def _read_nifti(path: Path) -> Geometry:
    try:
        image: Any = nib.load(path)
        shape = tuple(int(n) for n in image.shape)
        affine = np.asarray(image.affine, np.float64)
        grey = image.get_data_dtype().kind in "iuf"
    except (nib.filebasedimages.ImageFileError, EOFError, ValueError, KeyError, nib.spatialimages.HeaderDataError):
        raise VolumeError("the header cannot be read; check that the file is whole", reason="unreadable") from None
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1 or not np.isfinite(affine).all():
        raise VolumeError(f"{len(shape)} dimensions or no place, expected 3 and an affine", reason="not 3-D")
    return Geometry(shape, affine, grey)
