"""Every real file beside the checkout, voxel for voxel against a reader that shares no code with ours.

DICOM and NIfTI: SimpleITK (GDCM, ITK's NIfTI reader) against our pydicom and nibabel paths. MetaImage and NRRD, where
ours stands on SimpleITK: the format parsed by hand here, and pynrrd.
"""

import re
import zlib
from pathlib import Path

import nrrd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from medfinder.volume import Volume, read_volume

PROJECT = Path(__file__).resolve().parents[2]
SHARED = PROJECT.parent / "shared" / "data"
ROOT = SHARED if SHARED.is_dir() else PROJECT / "src" / "medfinder" / "samples"
NIFTI = sorted(ROOT.rglob("*.nii.gz"))
META = sorted(ROOT.rglob("*.mha"))
FOLDERS = sorted(folder for folder in (ROOT / "dicom").glob("*") if folder.is_dir())
EVEN = [folder for folder in FOLDERS if folder.name != "dcm_qa_ct_GE_head"]
UNEVEN = [folder for folder in FOLDERS if folder.name == "dcm_qa_ct_GE_head"]
LPS = np.array([-1.0, -1.0, 1.0])


def name(path: Path) -> str:
    return path.name


def mend_padding(hu: np.ndarray) -> np.ndarray:
    return np.where(hu <= -1500, -1024, hu)


def assert_same_place(volume: Volume, image: sitk.Image) -> None:
    """The first, the last and a random voxel have the same mm in both."""
    ras = sitk.DICOMOrient(image, "RAS")
    for index in ((0, 0, 0), tuple(n - 1 for n in volume.shape), (3, 5, 2)):
        theirs = LPS * ras.TransformContinuousIndexToPhysicalPoint([float(i) for i in index])
        np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], theirs, atol=0.01)


@pytest.mark.parametrize("path", NIFTI, ids=name)
def test_nifti_agrees_with_simpleitk(path: Path) -> None:
    ours, image = read_volume(path), sitk.ReadImage(str(path))
    theirs = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "RAS")).transpose(2, 1, 0)
    np.testing.assert_array_equal(ours.hu, mend_padding(theirs))
    assert_same_place(ours, image)


def find_slices(folder: Path) -> tuple[list[str], np.ndarray]:
    """Sort the files of an axial series by z; of two at one place the one of the earlier acquisition stays."""
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in folder.iterdir()]
    headers.sort(key=lambda one: (round(one.ImagePositionPatient[2], 1), int(one.get("AcquisitionNumber") or 0)))
    z = [float(one.ImagePositionPatient[2]) for one in headers]
    kept = [n for n in range(len(z)) if n == 0 or z[n] - z[n - 1] > 0.1]
    return [str(headers[n].filename) for n in kept], np.array([z[n] for n in kept])


@pytest.mark.parametrize("folder", EVEN, ids=name)
def test_dicom_agrees_with_simpleitk(folder: Path) -> None:
    ours, (files, z) = read_volume(folder), find_slices(folder)
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(files))
    np.testing.assert_array_equal(ours.hu, mend_padding(theirs).transpose(2, 1, 0)[::-1, ::-1, :])
    for index in (0, len(files) - 1):
        image = sitk.ReadImage(files[index])
        corner = (ours.affine @ [ours.shape[0] - 1, ours.shape[1] - 1, index, 1])[:3]
        np.testing.assert_allclose(corner, LPS * image.GetOrigin(), atol=0.01)
        np.testing.assert_allclose(ours.spacing_mm[:2], image.GetSpacing()[:2], rtol=1e-6)
    assert ours.spacing_mm[2] == pytest.approx(np.diff(z).mean())


@pytest.mark.parametrize("folder", UNEVEN, ids=name)
def test_uneven_tilted_dicom_agrees_with_interpolated_simpleitk_slices(folder: Path) -> None:
    ours, (files, z) = read_volume(folder), find_slices(folder)
    images = [sitk.ReadImage(file) for file in files]
    theirs = mend_padding(np.concatenate([sitk.GetArrayFromImage(image) for image in images])).astype(float)
    corner = np.array([ours.shape[0] - 1, ours.shape[1] - 1, 0, 1])
    for k in range(ours.shape[2]):
        place = ours.affine @ np.add(corner, [0, 0, k, 0])
        np.testing.assert_allclose(place[:2], LPS[:2] * images[0].GetOrigin()[:2], atol=0.01)
        above = int(np.clip(np.searchsorted(z, place[2]), 1, len(z) - 1))
        share = (place[2] - z[above - 1]) / (z[above] - z[above - 1])
        expected = (1 - share) * theirs[above - 1] + share * theirs[above]
        assert np.abs(ours.hu[::-1, ::-1, k].T - expected).max() <= 0.51
    assert "interpolated" in " ".join(ours.notes)


@pytest.mark.parametrize("path", META, ids=name)
def test_metaimage_agrees_with_the_file_parsed_by_hand(path: Path) -> None:
    head, body = re.split(rb"ElementDataFile = LOCAL\r?\n", path.read_bytes(), maxsplit=1)
    fields = dict(line.split(" = ", 1) for line in head.decode().splitlines() if " = " in line)
    assert fields["ElementType"] == "MET_SHORT"
    voxels = zlib.decompress(body) if fields.get("CompressedData") == "True" else body
    shape = [int(n) for n in fields["DimSize"].split()]
    assert fields["TransformMatrix"].split() == ["1", "0", "0", "0", "1", "0", "0", "0", "1"]
    ours = read_volume(path)
    np.testing.assert_array_equal(ours.hu[::-1, ::-1, :], np.frombuffer(voxels, "<i2").reshape(shape, order="F"))
    np.testing.assert_allclose(ours.spacing_mm, [float(s) for s in fields["ElementSpacing"].split()], rtol=1e-6)
    origin = (ours.affine @ [shape[0] - 1, shape[1] - 1, 0, 1])[:3]
    np.testing.assert_allclose(origin, LPS * [float(o) for o in fields["Offset"].split()], atol=1e-3)


def test_nrrd_written_by_pynrrd_keeps_voxels_and_place(tmp_path: Path) -> None:
    voxels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    directions = np.array([[0.0, 2.0, 0.0], [-1.5, 0.0, 0.0], [0.0, 0.0, 3.0]])
    nrrd.write(
        str(tmp_path / "turned.nrrd"),
        voxels,
        {"space": "left-posterior-superior", "space directions": directions, "space origin": [10.0, 20.0, 30.0]},
    )
    ours = read_volume(tmp_path / "turned.nrrd")
    # The first stored axis runs to the back, the second to the right: x is the second, y the first reversed.
    np.testing.assert_array_equal(ours.hu, voxels.transpose(1, 0, 2)[:, ::-1, :])
    np.testing.assert_allclose(ours.spacing_mm, (1.5, 2.0, 3.0))
    np.testing.assert_allclose((ours.affine @ [0, 3, 0, 1])[:3], [-10.0, -20.0, 30.0])
