"""A rescale told by a side file is used once or not at all; stored values are written by hand, HU computed by hand."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medfinder.errors import VolumeError
from medfinder.volume import Grid, read_volume, standardise, standardise_file
from medfinder.volume.hounsfield import to_hu

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
SHAPE = (16, 16, 12)


def chest() -> np.ndarray:
    """HU of a crude chest: air around, soft tissue, lungs, a little bone."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[2:14, 2:14] = 40
    hu[4:12, 4:12, 3:9] = -850
    hu[7:9, 2:4] = 700
    return hu


def write(path: Path, stored: np.ndarray, *, slope: float, intercept: float) -> Path:
    image = nib.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(1 if slope == 0 else slope, intercept)
    data = bytearray(image.to_bytes())
    data[112:120] = np.array([slope, intercept], "<f4").tobytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("intercept", [-1024, -8192, -1000])
@pytest.mark.parametrize("header", [(0.0, 0.0), (np.nan, np.nan), (1.0, 0.0)])
@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.float32])
def test_stored_values_become_hu_by_the_side_file(tmp_path: Path, intercept: int, header: Any, kind: Any) -> None:
    stored = (chest().astype(np.int32) - intercept).astype(kind)
    path = write(tmp_path / "ct.nii", stored, slope=header[0], intercept=header[1])
    volume = read_volume(path, rescale=(1.0, float(intercept)))
    np.testing.assert_array_equal(volume.hu, chest())
    assert "of the side file were used" in volume.notes[0]
    streamed = standardise_file(path, Grid(), rescale=(1.0, float(intercept)))
    np.testing.assert_array_equal(streamed.hu, standardise(volume, Grid()).hu)


@pytest.mark.parametrize("header", [(0.0, 0.0), (np.nan, np.nan), (1.0, 0.0)])
def test_values_that_are_hu_already_are_not_rescaled_again(tmp_path: Path, header: Any) -> None:
    path = write(tmp_path / "ct.nii", chest(), slope=header[0], intercept=header[1])
    volume = read_volume(path, rescale=(1.0, -1024.0))
    np.testing.assert_array_equal(volume.hu, chest())
    assert "was not used" in volume.notes[0]


def test_a_header_that_tells_a_rescale_is_taken_at_its_word(tmp_path: Path) -> None:
    path = write(tmp_path / "ct.nii", chest() + 1024, slope=1.0, intercept=-1024.0)
    volume = read_volume(path, rescale=(1.0, -8192.0))
    np.testing.assert_array_equal(volume.hu, chest())
    assert volume.notes == ()


def test_padding_in_stored_values_is_not_taken_for_air_in_hu(tmp_path: Path) -> None:
    stored = chest() + 8192
    stored[:2], stored[-1:] = -2000, 0
    path = write(tmp_path / "ct.nii", stored, slope=0, intercept=0)
    volume = read_volume(path, rescale=(1.0, -8192.0))
    # Both -2000 and 0 lie far below air once rescaled: they are padding and become air.
    expected = chest()
    expected[:2], expected[-1:] = -1024, -1024
    np.testing.assert_array_equal(volume.hu, expected)


def test_the_first_slices_may_be_blank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medfinder.volume.nifti.SLAB_BYTES", 1)
    blank = chest()
    blank[..., :4] = 0
    path = write(tmp_path / "hu.nii", blank, slope=0, intercept=0)
    np.testing.assert_array_equal(read_volume(path, rescale=(1.0, -1024.0)).hu, blank)
    path = write(tmp_path / "stored.nii", chest() + 1024, slope=1, intercept=0)
    np.testing.assert_array_equal(read_volume(path, rescale=(1.0, -1024.0)).hu, chest())


def test_where_no_voxel_tells_the_header_has_the_last_word(tmp_path: Path) -> None:
    flat = np.zeros(SHAPE, np.int16)
    silent = write(tmp_path / "silent.nii", flat, slope=0, intercept=0)
    assert read_volume(silent, rescale=(1.0, -1024.0)).hu.max() == -1024
    plain = write(tmp_path / "plain.nii", flat, slope=1, intercept=0)
    assert read_volume(plain, rescale=(1.0, -1024.0)).hu.max() == 0


def test_an_intercept_that_air_cannot_judge_follows_the_header(tmp_path: Path) -> None:
    path = write(tmp_path / "silent.nii", chest() + 200, slope=0, intercept=0)
    np.testing.assert_array_equal(read_volume(path, rescale=(1.0, -200.0)).hu, chest())
    path = write(tmp_path / "plain.nii", chest(), slope=1, intercept=0)
    np.testing.assert_array_equal(read_volume(path, rescale=(1.0, -200.0)).hu, chest())


def test_without_a_side_file_nothing_is_guessed(tmp_path: Path) -> None:
    path = write(tmp_path / "ct.nii", chest() + 1024, slope=0, intercept=0)
    np.testing.assert_array_equal(read_volume(path).hu, chest() + 1024)


def test_a_side_file_rescale_that_is_none_is_refused_where_it_is_needed(tmp_path: Path) -> None:
    path = write(tmp_path / "ct.nii", chest() + 1024, slope=0, intercept=0)
    with pytest.raises(VolumeError, match="rescale slope 0") as refused:
        read_volume(path, rescale=(0.0, -1024.0))
    assert refused.value.reason == "bad rescale"


def test_nrrd_takes_the_side_file_too(tmp_path: Path) -> None:
    path = tmp_path / "ct.nrrd"
    image = sitk.GetImageFromArray((chest() + 1024).transpose(2, 1, 0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))
    np.testing.assert_array_equal(read_volume(path, rescale=(1.0, -1024.0)).hu, chest())


@pytest.mark.parametrize("stored", [np.int8, np.uint8, np.int16, np.uint16])
@pytest.mark.parametrize("intercept", [-1024, -8192, 1024, 40000, -65535])
def test_sums_are_those_of_whole_numbers_and_never_wrap(stored: Any, intercept: int) -> None:
    ends = np.iinfo(stored)
    for low, high in ((ends.min, ends.max), (max(ends.min, -1024), min(ends.max, 4000)), (0, 100)):
        values = np.linspace(low, high, 60).astype(stored).reshape(3, 4, 5)
        expected = [min(32767, max(-32768, int(value) + intercept)) for value in values.ravel()]
        assert to_hu(values, slope=1, intercept=intercept).ravel().tolist() == expected
