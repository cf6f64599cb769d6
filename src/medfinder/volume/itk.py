"""NRRD and MetaImage files, read through SimpleITK.

In: .nrrd, .nhdr, .mha or .mhd, maybe the rescale of a side file. Out: `Slabs` in HU. Refused, from the header alone:
other dimensions than three, colour, impossible sizes, spacings and directions; and files that SimpleITK cannot read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medfinder.errors import VolumeError
from medfinder.volume.hounsfield import air_for_padding, choose_rescale, hu_dtype, to_hu
from medfinder.volume.types import Affine, Array, Padding, Slabs, check_affine, check_shape

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
"""ITK and DICOM count to the patient's left and back, NIfTI and we to the right and front."""

_STORED = {
    sitk.sitkInt8: np.int8,
    sitk.sitkUInt8: np.uint8,
    sitk.sitkInt16: np.int16,
    sitk.sitkUInt16: np.uint16,
    sitk.sitkInt32: np.int32,
    sitk.sitkUInt32: np.uint32,
    sitk.sitkInt64: np.int64,
    sitk.sitkUInt64: np.uint64,
    sitk.sitkFloat32: np.float32,
    sitk.sitkFloat64: np.float64,
}


def open_itk(path: Path, *, rescale: tuple[float, float] | None = None) -> Slabs:
    """Open an NRRD or MetaImage file: the header is checked now, the voxels are read when the slabs are drawn.

    Args:
        rescale: slope and intercept that a side file tells, since the header has no room for them; see
            `choose_rescale`. The voxels are then read now.

    Raises:
        VolumeError: what the header says cannot be a CT volume, or SimpleITK refuses the file.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise VolumeError("the header cannot be read; check that the file is whole", reason="unreadable") from error
    shape = tuple(int(n) for n in reader.GetSize())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    check_shape(shape)
    stored = _STORED.get(reader.GetPixelID())
    if stored is None or reader.GetNumberOfComponents() != 1:
        raise VolumeError(
            f"voxels of type {sitk.GetPixelIDValueAsString(reader.GetPixelID())}, expected one number each, "
            "as a CT has; colour or complex images hold no HU",
            reason="not greyscale",
        )
    i, j, k = shape
    affine = _affine(reader)
    notes, padding = list[str](), Padding()
    (slope, intercept), slabs = choose_rescale(_read_slabs(reader, (k, j, i)), None, rescale, notes)
    hu = (to_hu(slab, slope=slope, intercept=intercept) for slab in slabs)
    planes = air_for_padding(hu, notes, padding)
    return Slabs((i, j, k), affine, hu_dtype(stored, slope, intercept), planes, notes, padding)


def _affine(reader: Any) -> Affine:
    dimension = reader.GetDimension()
    direction = np.asarray(reader.GetDirection()).reshape(dimension, dimension)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ direction * np.asarray(reader.GetSpacing())[:3]
    affine[:3, 3] = LPS_TO_RAS @ np.asarray(reader.GetOrigin())[:3]
    check_affine(affine)
    return affine


def _read_slabs(reader: Any, shape: tuple[int, int, int]) -> Iterator[Array]:
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise VolumeError("the voxels cannot be read; copy the file again", reason="truncated") from error
    voxels = sitk.GetArrayViewFromImage(image).reshape(shape)
    for k in range(len(voxels)):
        yield voxels[k : k + 1]
