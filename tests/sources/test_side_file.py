"""Side files as DICOM JSON or keywords become tags; what they do not say stays empty."""

import json
from pathlib import Path
from typing import Any

import pydicom
import pytest

from medfinder.records import SeriesTags
from medfinder.sources.side_file import SideFile, read_side_file


def read(path: Path, content: Any) -> SideFile:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_side_file(path)


def test_what_pydicom_writes_is_read(tmp_path: Path) -> None:
    dataset = pydicom.Dataset()
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SeriesDescription, dataset.SeriesNumber, dataset.ConvolutionKernel = "TORAX", 4, "B31f"
    dataset.SliceThickness, dataset.BodyPartExamined, dataset.PatientPosition = "1.25", "CHEST", "FFS"
    dataset.ImagesInAcquisition, dataset.ContrastBolusAgent = 210, "IV"
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-8192"
    dataset.StudyDate, dataset.PatientAge, dataset.PatientSex = "20200305", "071Y", "F"
    side = read(tmp_path / "a.json", dataset.to_json())
    assert side.tags == SeriesTags(
        modality="CT",
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        series_description="TORAX",
        series_number=4,
        convolution_kernel="B31f",
        slice_thickness_mm=1.25,
        body_part_examined="CHEST",
        patient_position="FFS",
        slices=210,
        has_contrast=True,
        image_orientation_patient=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    )
    assert side.rescale == (1.0, -8192.0)
    assert (str(side.day), side.age_years, side.sex) == ("2020-03-05", 71, "F")


def test_keywords_serve_as_well_as_tags(tmp_path: Path) -> None:
    side = read(tmp_path / "a.json", {"Modality": "CT", "SliceThickness": 5, "ImageType": ["DERIVED", "MPR"]})
    assert (side.tags.modality, side.tags.slice_thickness_mm, side.tags.image_type) == ("CT", 5.0, ("DERIVED", "MPR"))
    assert side.tags.has_contrast is None


@pytest.mark.parametrize(
    "content", ["", "{", "[1, 2]", "null", "[" * 100_000, '{"00281053": {"vr": "DS"}, "00281052": {"Value": [null]}}']
)
def test_what_says_nothing_is_empty(tmp_path: Path, content: str) -> None:
    assert read(tmp_path / "a.json", content) == SideFile()


def test_an_absent_file_says_nothing(tmp_path: Path) -> None:
    assert read_side_file(tmp_path / "none.json") == SideFile()


@pytest.mark.parametrize(("slope", "intercept"), [(0, -1024), (1, "NaN"), ("one", -1024), (None, -1024)])
def test_a_rescale_that_cannot_be_used_is_none(tmp_path: Path, slope: Any, intercept: Any) -> None:
    assert read(tmp_path / "a.json", {"RescaleSlope": slope, "RescaleIntercept": intercept}).rescale is None
