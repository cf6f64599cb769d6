"""Builders of small CT volumes and DICOM series; every geometry is written by hand here, not by medfinder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medfinder.volume import Volume

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def ramp_hu(slices: int = 6, rows: int = 20, columns: int = 24) -> np.ndarray:
    """HU (slices, rows, columns), each voxel distinct from its neighbours on every axis."""
    k, j, i = np.indices((slices, rows, columns))
    return (100 * k + 7 * j + 3 * i - 900).astype(np.int16)


def build_series(
    hu: np.ndarray | None = None,
    *,
    spacing_mm: tuple[float, float] = (0.8, 0.7),
    step_mm: tuple[float, float, float] = (0.0, 0.0, 2.5),
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    origin_mm: tuple[float, float, float] = (-8.0, 5.0, 100.0),
    patient_id: str = "made-up-1",
    modality: str = "CT",
) -> list[Dataset]:
    """Build the data sets of one CT series, slope 1 and intercept -1024, unsigned 16 bit."""
    hu = ramp_hu() if hu is None else hu
    # Short enough for a slice number behind it: a UID has at most 64 characters.
    study, series = generate_uid(entropy_srcs=[patient_id])[:55], generate_uid(entropy_srcs=[patient_id, "a"])[:55]
    return [
        _build_slice(plane, k, spacing_mm, np.add(origin_mm, k * np.asarray(step_mm)), orientation, study, series)
        | {"PatientID": patient_id, "Modality": modality}
        for k, plane in enumerate(hu)
    ]


class _Slice(Dataset):
    def __or__(self, values: dict[str, Any]) -> "_Slice":
        for keyword, value in values.items():
            setattr(self, keyword, value)
        return self


def _build_slice(
    hu: np.ndarray,
    k: int,
    spacing_mm: tuple[float, float],
    position: np.ndarray,
    orientation: tuple[float, ...],
    study: str,
    series: str,
) -> _Slice:
    one = _Slice()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = CT_IMAGE
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = f"{series}.{k + 1}"
    one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    one.StudyInstanceUID, one.SeriesInstanceUID = study, series
    one.InstanceNumber, one.AcquisitionNumber = k + 1, 1
    one.ImagePositionPatient = [f"{v:.6f}" for v in position]
    one.ImageOrientationPatient = [f"{v:.8f}" for v in orientation]
    one.PixelSpacing, one.SliceThickness = [*spacing_mm], 99.0
    one.Rows, one.Columns = hu.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
    one.RescaleSlope, one.RescaleIntercept = 1, -1024
    one.PixelData = (hu.astype(np.int32) + 1024).astype("<u2").tobytes()
    return one


def write_series(folder: Path, series: list[Dataset], *, shuffled: bool = True, suffix: str = ".dcm") -> Path:
    """Write a series in an order that has nothing to do with its geometry."""
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(0).permutation(len(series)) if shuffled else range(len(series))
    for name, one in zip(names, series, strict=True):
        pydicom.dcmwrite(folder / f"{name:04d}{suffix}", one, enforce_file_format=True)
    return folder


def smooth_volume(
    shape: tuple[int, int, int] = (40, 36, 30), seed: int = 0, affine: np.ndarray | None = None
) -> Volume:
    """A body-like ellipsoid of soft tissue with a lung-like core, off centre, lightly noisy."""
    rng = np.random.default_rng(seed)
    x, y, z = (np.linspace(-1, 1, n) for n in shape)
    distance = (
        ((x[:, None, None] - 0.1) / 0.8) ** 2 + ((y[None, :, None] + 0.1) / 0.7) ** 2 + (z[None, None, :] / 1.2) ** 2
    )
    hu = np.where(distance < 1, 40.0, -1000.0)
    hu = np.where(distance < 0.4, -800.0, hu) + rng.normal(0, 20, shape)
    if affine is None:
        affine = np.array([[8.0, 0, 0, -160], [0, 8, 0, -140], [0, 0, 10, -500], [0, 0, 0, 1]])
    return Volume(np.rint(hu).astype(np.int16), affine)


@pytest.fixture(scope="session")
def make_series() -> Callable[..., list[Dataset]]:
    return build_series


@pytest.fixture(scope="session")
def save_series() -> Callable[..., Path]:
    return write_series


@pytest.fixture(scope="session")
def make_volume() -> Callable[..., Volume]:
    return smooth_volume


@pytest.fixture(scope="session")
def ramp() -> np.ndarray:
    return ramp_hu()
