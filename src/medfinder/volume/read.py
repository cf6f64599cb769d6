"""Open whatever holds a CT volume, by what it is.

In: the path of a NIfTI, NRRD or MetaImage file, or of a folder with DICOM files. Out: `Volume` in RAS+, or the stream
it is made from. Refused: paths that are absent, empty, or of another kind.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from medfinder.errors import VolumeError
from medfinder.volume.types import Array, Slabs, Volume, turn_to_ras

NIFTI_ENDINGS = (".nii", ".nii.gz")
ITK_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")


def read_volume(
    path: Path, *, series_instance_uid: str | None = None, rescale: tuple[float, float] | None = None
) -> Volume:
    """Read a CT volume whole.

    Args:
        path: a NIfTI, NRRD or MetaImage file, or a folder that holds the files of a DICOM series at any depth.
        series_instance_uid: which series of a DICOM folder; needed where it holds several CT series.
        rescale: slope and intercept that a side file tells, used only where the file itself tells none and holds stored
            values (see `medfinder.volume.hounsfield.choose_rescale`); DICOM tells its own.

    Returns:
        HU in RAS+ order. The array is a view: its memory lies as in the file.

    Raises:
        VolumeError: anything that keeps the voxels from being trusted; the message holds no path and no patient data.
        MissingExtraError: compressed DICOM needs a decoder that is not installed.
    """
    source = open_slabs(path, series_instance_uid=series_instance_uid, rescale=rescale)
    i, j, k = source.shape
    stored, done = np.empty((k, j, i), source.dtype), 0
    for slab in source.slabs:
        stored[done : done + len(slab)] = slab
        done += len(slab)
    turn = turn_to_ras(source.affine)
    affine = turn.affine(source.affine, source.shape)
    return Volume(turn.apply(stored.transpose(2, 1, 0)), affine, tuple(source.notes), source.padding.share)


def read_ahead(source: Slabs) -> Slabs:
    """Read the next slab of a file in a second thread while the one before is worked on."""
    return replace(source, slabs=_ahead(source.slabs))


def _ahead(slabs: Iterator[Array]) -> Iterator[Array]:
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(next, slabs, None)
        while (slab := coming.result()) is not None:
            coming = reader.submit(next, slabs, None)
            yield slab


def open_slabs(
    path: Path, *, series_instance_uid: str | None = None, rescale: tuple[float, float] | None = None
) -> Slabs:
    """Open a CT volume as a stream; its header is checked now, its voxels as they come.

    Raises:
        VolumeError: see `read_volume`.
    """
    name = path.name.lower()
    try:
        if path.is_dir():
            from medfinder.volume.dicom import open_dicom

            return open_dicom(path, series_instance_uid=series_instance_uid)
        if not path.stat().st_size:
            raise VolumeError("the file is empty; copy it again", reason="truncated")
        if name.endswith(NIFTI_ENDINGS):
            from medfinder.volume.nifti import open_nifti

            return open_nifti(path, rescale=rescale)
        if name.endswith(ITK_ENDINGS):
            from medfinder.volume.itk import open_itk

            return open_itk(path, rescale=rescale)
        from medfinder.volume.dicom import open_dicom

        return open_dicom(path, series_instance_uid=series_instance_uid)
    except FileNotFoundError:
        raise VolumeError("there is no such file or folder; check the path", reason="absent") from None
    except OSError as error:
        raise VolumeError(f"the file cannot be opened: {error.strerror}", reason="unreadable") from error
