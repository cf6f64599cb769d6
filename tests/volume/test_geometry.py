"""What a header says of shape and place; orientation codes and affines by nibabel."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medfinder.errors import VolumeError
from medfinder.volume.geometry import read_geometry


def save(path: Path, axes: str, spacing: tuple[float, ...], shape: tuple[int, ...] = (20, 30, 40)) -> Path:
    start, end = nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes)
    turn = nib.orientations.inv_ornt_aff(nib.orientations.ornt_transform(start, end), shape)
    image = nib.Nifti1Image(np.zeros(shape, np.int16), turn @ np.diag([1, 1, 1, 1]))
    scale = np.diag([*spacing, 1.0])
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), image.affine @ scale), path)
    return path


@pytest.mark.parametrize(
    ("axes", "spacing", "plane", "slices"),
    [
        ("LAS", (0.7, 0.7, 1.0), "axial", 40),
        ("LPI", (0.7, 0.7, 1.0), "axial", 40),
        ("LSA", (0.7, 0.7, 3.0), "coronal", 40),
        ("ASL", (0.7, 0.7, 3.0), "sagittal", 40),
        ("PSR", (1.0, 1.0, 1.0), "sagittal", 40),
        ("RAS", (0.7, 3.0, 0.7), "coronal", 30),
        ("RAS", (3.0, 0.7, 0.7), "sagittal", 20),
        ("RAS", (0.6, 0.7, 0.8), "axial", 40),
    ],
)
def test_the_plane_is_told_by_stored_order_and_square_pixels(
    tmp_path: Path, axes: str, spacing: tuple[float, ...], plane: str, slices: int
) -> None:
    found = read_geometry(save(tmp_path / "a.nii.gz", axes, spacing))
    assert (found.plane, found.slices) == (plane, slices)
    assert found.is_grey
    low, high = found.positions_mm
    assert high - low == pytest.approx((slices - 1) * found.slice_spacing_mm, rel=1e-5)


def test_metaimages_are_told_too(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((12, 20, 20), np.int16))
    image.SetSpacing((0.8, 0.8, 2.5))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    found = read_geometry(tmp_path / "a.mha")
    assert (found.plane, found.slices, found.slice_spacing_mm) == ("axial", 12, pytest.approx(2.5))
    assert found.positions_mm == pytest.approx((0, 27.5))


def test_what_has_no_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.nii").write_bytes(b"")
    (tmp_path / "text.nii").write_text("no header at all")
    for name, reason in (("empty.nii", "truncated"), ("text.nii", "unreadable"), ("gone.nii", "absent")):
        with pytest.raises(VolumeError) as caught:
            read_geometry(tmp_path / name)
        assert caught.value.reason == reason
