"""A dataset under review, and its page served to a browser; chests as DICOM series, and a PACS that holds them."""

import importlib.util
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import uvicorn
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medfinder.app.review_page import HOST, make_review_app
from medfinder.curation import dataset as folder
from medfinder.curation.dataset import Figures
from medfinder.records import Case, Doubt
from medfinder.volume import Grid

GRID = Grid(spacing_mm=(20.0, 20.0, 20.0), shape=(16, 14, 16))
SIDE = Doubt("translation", "laterality differs", "1 side word differs", holds=True)
NOISE = Doubt("quality", "noise", "58 HU, expected at most 40", holds=False)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A synthetic dataset of three cases, one of which is held for its translation."""
    path = tmp_path / "dataset"
    (path / "volumes").mkdir(parents=True)
    rows = []
    for number, doubts in enumerate([(SIDE,), (NOISE,), ()]):
        case_id = f"case{number}"
        hu = np.random.default_rng(number).integers(-1000, 200, GRID.shape).astype(np.int16)
        nib.save(nib.Nifti1Image(hu, np.diag([20.0, 20.0, 20.0, 1.0])), path / f"volumes/{case_id}.nii")
        case = Case(
            case_id=case_id,
            study_id=f"study{number}",
            patient_id=f"p{number}",
            source="phantoms",
            split="train",
            volume=f"volumes/{case_id}.nii",
            report="Left pleural effusion of 3 mm <b>. No nodule.",
            report_es="derrame pleural derecho de 3 mm . sin nodulos .",
            findings=(),
            findings_from="report",
            age_years=50,
            sex="F",
            date_offset_days=0,
            spacing_mm=(1.0, 1.0, 1.0),
            shape=(100, 100, 100),
            region="chest",
            is_synthetic=True,
        )
        rows.append((case, Figures(9, 0.0, 4000.0, "", (), "0" * 64, 0.9, doubts)))
    folder.write_cases(path / folder.HELD, rows[:1])
    folder.write_cases(path / folder.CASES, rows[1:])
    folder.write_dropped(path / folder.DROPPED, [])
    provenance = {"kind": folder.KIND, "settings": {"grid": asdict(GRID)}}
    folder.write_text(path / folder.PROVENANCE, json.dumps(provenance))
    return path


@pytest.fixture
def served(dataset: Path) -> Iterator[str]:
    from playwright.sync_api import expect

    # A busy machine is no fault of the page.
    expect.set_options(timeout=30_000)
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(make_review_app(dataset, port=port), host=HOST, port=port, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield f"http://{HOST}:{port}/"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="session")
def write_chest() -> Callable[..., None]:
    """Write a sample CT as one DICOM series of one study, ``finer`` times as fine in the plane."""

    def write(folder: Path, uid: str, sample: Path, *, finer: int = 1) -> None:
        folder.mkdir(parents=True)
        volume = nib.as_closest_canonical(nib.load(sample))
        # RAS+ voxels become rows to the back and columns to the left.
        hu = np.asarray(volume.dataobj).astype(np.int16)[::-1, ::-1].transpose(2, 1, 0)
        across, down, step = (float(size) for size in volume.header.get_zooms()[:3])
        spacing = [round(down / finer, 6), round(across / finer, 6)]
        for number, plane in enumerate(hu.repeat(finer, 1).repeat(finer, 2)):
            image = _image(uid, number, plane)
            image.PixelSpacing, image.SliceThickness = spacing, round(step, 6)
            image.ImagePositionPatient = [0.0, 0.0, round(step * number, 6)]
            image.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)

    return write


def _image(uid: str, number: int, plane: np.ndarray) -> pydicom.Dataset:
    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, f"{uid}.9.{number + 1}"
    image.StudyInstanceUID, image.SeriesInstanceUID = uid, f"{uid}.1"
    image.Modality, image.ImageType, image.PatientID = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "HNC-1234"
    image.PatientName, image.StudyDate, image.InstanceNumber = "Perez^Juan", "20200131", number + 1
    image.Rows, image.Columns = plane.shape
    image.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 1
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.RescaleSlope, image.RescaleIntercept = 1, 0
    image.add_new("PixelData", "OW", plane.tobytes())
    return image


CHEST, TOO_SMALL = "1.2.3.1", "1.2.3.2"


@pytest.fixture(scope="module")
def archive(write_chest: Callable[..., None], samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A DICOMweb server with a chest and a study of three slices; see ``Server`` of the source's own tests."""
    folder = tmp_path_factory.mktemp("archive")
    write_chest(folder / "a", CHEST, samples / "LIDC-IDRI-0314.nii.gz")
    write_chest(folder / "b", TOO_SMALL, samples / "LIDC-IDRI-0314.nii.gz")
    for file in sorted((folder / "b").iterdir())[3:]:
        file.unlink()
    path = Path(__file__).parents[1] / "sources" / "test_pacs.py"
    spec = importlib.util.spec_from_file_location("pacs_stand_in", path)
    assert spec is not None
    assert spec.loader is not None
    stand_in = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stand_in)
    with stand_in.Server(folder) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield running
        running.shutdown()
