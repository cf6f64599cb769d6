"""Small CTs as files: volumes by nibabel, series by pydicom."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

WriteVolume = Callable[..., Path]
WriteSeries = Callable[..., list[Path]]


@pytest.fixture
def write_volume() -> WriteVolume:
    """Write a small NIfTI of noise about soft tissue."""

    def write(path: Path, *, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        hu = np.random.default_rng(seed).integers(-100, 100, (12, 12, 12)).astype(np.int16)
        nib.save(nib.Nifti1Image(hu, np.diag([3.0, 3.0, 3.0, 1.0])), path)
        return path

    return write


@pytest.fixture(scope="session")
def write_series() -> WriteSeries:
    """Write one DICOM series, a file a slice; keywords override attributes, None leaves one out."""

    def write(folder: Path, *, slices: int = 14, start: int = 0, **attributes: Any) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for number in range(start, start + slices):
            dataset = _slice(number, attributes)
            path = folder / f"{dataset.get('SeriesInstanceUID', 'x')}-{number:03d}.dcm"
            dataset.save_as(path, enforce_file_format=True)
            files.append(path)
        return files

    return write


def _slice(number: int, attributes: dict[str, Any]) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(),
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientID": "HNC-1234",
        "PatientName": "Perez^Juan",
        "PatientSex": "F",
        "PatientAge": "063Y",
        "StudyDate": "20200131",
        "AccessionNumber": "ACC-1",
        "StudyInstanceUID": "1.2.3.1",
        "SeriesInstanceUID": "1.2.3.1.1",
        "InstanceNumber": number + 1,
        "Rows": 12,
        "Columns": 12,
        "PixelSpacing": [3.0, 3.0],
        "ImagePositionPatient": [0.0, 0.0, 3.0 * number],
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        **attributes,
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = values["SOPClassUID"]
    dataset.file_meta.MediaStorageSOPInstanceUID = values["SOPInstanceUID"]
    pixels = np.random.default_rng(number).integers(-100, 100, (12, 12)).astype(np.int16)
    dataset.add_new("PixelData", "OW", pixels.tobytes())
    return dataset
