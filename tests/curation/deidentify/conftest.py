"""A CT series that names a patient wherever DICOM lets it."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from medfinder.curation.deidentify import Key

NAMES = ("Zubizarreta", "Uxue", "Goikoetxea", "NHC556677", "SANTALUCIA", "ACC998877", "19470903")
CT = "1.2.840.10008.5.1.4.1.1.2"


def make_image(number: int = 1, *, study: str = "1.2.3", series: str = "1.2.3.4") -> Dataset:
    """A slice of 16 x 16 that tells a name in plain, nested and private attributes."""
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID, image.Modality = CT, f"{series}.{number}", "CT"
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, "1.2.9"
    image.PatientName, image.PatientID, image.PatientBirthDate = "Zubizarreta^Uxue", "NHC556677", "19470903"
    image.PatientSex, image.PatientAge, image.PatientWeight = "F", "095Y", 61
    image.StudyDate, image.SeriesDate, image.StudyTime = "20190312", "20190312", "101500"
    image.AccessionNumber, image.StudyID, image.InstitutionName = "ACC998877", "7", "SANTALUCIA"
    image.ReferringPhysicianName, image.OperatorsName = "Goikoetxea^Jon", "Goikoetxea"
    image.StudyDescription, image.ProtocolName = "TC Zubizarreta", "torax Uxue"
    image.Manufacturer, image.ConvolutionKernel = "SANTALUCIA CT", "B30f"
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.InstanceNumber, image.SliceThickness, image.PixelSpacing = number, 2, [0.8, 0.8]
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 2 * number], [1, 0, 0, 0, 1, 0]
    inner = Dataset()
    inner.ReferencedSOPClassUID, inner.ReferencedSOPInstanceUID = CT, f"{series}.1"
    inner.PatientName = "Zubizarreta^Uxue"
    image.ReferencedImageSequence = Sequence([inner])
    image.RequestAttributesSequence = Sequence([inner])
    image.private_block(0x0099, "Goikoetxea Inc", create=True).add_new(1, "LO", "Uxue")
    image.add_new(0x60003000, "OW", b"Zubizarreta-Uxue")
    image.add_new(0x50000030, "LO", "Uxue")
    _add_pixels(image, number)
    return image


def _add_pixels(image: Dataset, number: int) -> None:
    image.Rows = image.Columns = 16
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.RescaleIntercept, image.RescaleSlope = -1024, 1
    image.PixelData = (np.arange(256, dtype="<i2") + 10 * number).tobytes()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.SourceApplicationEntityTitle = "SANTALUCIA"


def write_series(folder: Path, count: int = 14, **uids: str) -> Path:
    """Write a series in an order that is not its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        image = make_image(number, **uids)
        image.save_as(folder / f"{(7 * number) % 101:03d}-Zubizarreta.dcm", enforce_file_format=True)
    return folder


def names_in(path: Path) -> list[str]:
    """Say which of the names stand in a file's bytes."""
    content = path.read_bytes().lower()
    return [name for name in NAMES if name.lower().encode() in content]


@pytest.fixture
def key() -> Key:
    return Key(bytes(range(32)))


def read(path: Path) -> Dataset:
    return pydicom.dcmread(path)
