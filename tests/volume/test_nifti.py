"""NIfTI written by nibabel or by hand, good and bad; what ours writes, read by others."""

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medfinder.errors import VolumeError
from medfinder.volume import Grid, Volume, read_volume, standardise_file, write_nifti

AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
VOXELS = (np.arange(4 * 5 * 6, dtype=np.int16) - 60).reshape(4, 5, 6)


def image_bytes(voxels: np.ndarray = VOXELS, affine: np.ndarray = AFFINE, edit: Any = None) -> bytearray:
    """A NIfTI-1 file in memory; ``edit`` changes (header offset -> struct format and values)."""
    data = bytearray(nib.Nifti1Image(voxels, affine).to_bytes())
    for offset, (form, *values) in (edit or {}).items():
        struct.pack_into("<" + form, data, offset, *values)
    return data


def reason_of(path: Path) -> str:
    """The reason with which both ways of reading refuse a file."""
    with pytest.raises(VolumeError) as whole:
        read_volume(path)
    with pytest.raises(VolumeError) as streamed:
        standardise_file(path, Grid())
    assert streamed.value.reason == whole.value.reason
    assert str(streamed.value) == str(whole.value)
    assert "\n" not in str(whole.value)
    assert path.name not in str(whole.value)
    return whole.value.reason


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, ">i2"])
def test_every_number_type_is_read(kind: Any, tmp_path: Path) -> None:
    voxels = np.abs(VOXELS).astype(kind)
    image = nib.Nifti1Image(voxels, AFFINE)
    if kind == ">i2":
        image = nib.Nifti1Image(voxels, AFFINE, nib.Nifti1Header(endianness=">"))
        image.set_data_dtype(">i2")
    image.to_filename(tmp_path / "ct.nii")
    ours = read_volume(tmp_path / "ct.nii")
    np.testing.assert_array_equal(ours.hu, np.abs(VOXELS))
    assert ours.hu.dtype == (np.float32 if np.dtype(kind).kind == "f" else np.int16)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, -1024.0), (2.0, 3.0), (0.5, -10.25), (0.0, 7.0)])
def test_slope_and_intercept_are_used_once(slope: float, intercept: float, tmp_path: Path) -> None:
    path = tmp_path / "ct.nii"
    path.write_bytes(image_bytes(edit={112: ("ff", slope, intercept)}))
    # nibabel's own scaling is the oracle; a slope of 0 means none.
    np.testing.assert_array_equal(read_volume(path).hu, nib.load(path).get_fdata())


def test_nifti_2_and_a_last_axis_of_one_are_read(tmp_path: Path) -> None:
    nib.Nifti2Image(VOXELS[..., None], AFFINE).to_filename(tmp_path / "ct.nii.gz")
    volume = read_volume(tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(volume.hu, VOXELS)
    np.testing.assert_allclose(volume.affine, AFFINE)


def test_integer_hu_beyond_int16_are_cut_off_and_not_wrapped(tmp_path: Path) -> None:
    nib.Nifti1Image(np.where(VOXELS == 0, 70000, VOXELS.astype(np.int32)), AFFINE).to_filename(tmp_path / "ct.nii")
    assert read_volume(tmp_path / "ct.nii").hu.max() == 32767


# Offsets of the fields in a NIfTI-1 header (nifti1.h).
DIM, DATATYPE, PIXDIM, SFORM_AND_QFORM = 40, 70, 76, 252
BAD_HEADERS: dict[str, tuple[dict[int, tuple[Any, ...]], str]] = {
    "a trillion voxels": ({DIM: ("4h", 3, 10000, 10000, 10000)}, "too large"),
    "two dimensions": ({DIM: ("4h", 2, 4, 5, 1)}, "not 3-D"),
    "one slice": ({DIM: ("4h", 3, 4, 5, 1)}, "not 3-D"),
    "a time series": ({DIM: ("5h", 4, 4, 5, 3, 2)}, "not 3-D"),
    "no dimensions": ({DIM: ("4h", 0, 4, 5, 6)}, "not 3-D"),
    "a negative dimension": ({DIM: ("4h", 3, -4, 5, 6)}, "not 3-D"),
    "colour": ({DATATYPE: ("hh", 128, 24)}, "not greyscale"),
    "complex numbers": ({DATATYPE: ("hh", 32, 64)}, "not greyscale"),
    "an unknown type": ({DATATYPE: ("hh", 77, 16)}, "bad type"),
    "spacing zero": ({PIXDIM + 4: ("f", 0.0)}, "bad spacing"),
    "spacing negative": ({PIXDIM + 8: ("f", -1.5)}, "bad spacing"),
    "spacing NaN": ({PIXDIM + 12: ("f", float("nan"))}, "bad spacing"),
    "spacing of a whole field of view": (
        {PIXDIM + 12: ("f", 350.0), 280: ("12f", *np.diag([1, 1.5, 350])[:, [0, 1, 2, 2]].ravel())},
        "bad spacing",
    ),
    "no orientation": ({SFORM_AND_QFORM: ("hh", 0, 0)}, "no orientation"),
    "a singular affine": (
        {280: ("12f", 1, 0, 0, 0, 0, 1.5, 1.5, 0, 0, 0, 0.02, 0), PIXDIM + 12: ("f", 1.5)},
        "singular affine",
    ),
    "an affine of zeros": ({280: ("12f", *[0.0] * 12)}, "bad spacing"),
    "an affine of NaN": ({280: ("12f", *[float("nan")] * 12)}, "bad affine"),
    "two spacings": ({PIXDIM + 12: ("f", 3.0)}, "inconsistent geometry"),
    "more voxels than bytes": ({DIM: ("4h", 3, 4, 5, 600)}, "truncated"),
    "voxels in another file": ({344: ("4s", b"ni1\0")}, "not NIfTI"),
    "no header": ({0: ("i", 17)}, "not NIfTI"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_bad_header_is_refused_with_its_reason(case: str, tmp_path: Path) -> None:
    edit, reason = BAD_HEADERS[case]
    for name in ("ct.nii", "ct.nii.gz"):
        data = bytes(image_bytes(edit=edit))
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert reason_of(tmp_path / "ct.nii") == reason
    if reason != "truncated":
        assert reason_of(tmp_path / "ct.nii.gz") == reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    voxels = VOXELS.astype(np.float32)
    voxels[1, 2, 3] = value
    (tmp_path / "ct.nii").write_bytes(image_bytes(voxels))
    assert reason_of(tmp_path / "ct.nii") == "not finite"


def noisy(shape: tuple[int, int, int] = (40, 40, 40)) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)


@pytest.mark.parametrize("kept", [1, 20, 300, 5000, 60000])
def test_a_truncated_gz_is_refused_wherever_it_ends(kept: int, tmp_path: Path) -> None:
    packed = gzip.compress(bytes(image_bytes(noisy())))
    (tmp_path / "ct.nii.gz").write_bytes(packed[:kept])
    assert reason_of(tmp_path / "ct.nii.gz") in ("truncated", "not gzip")


def test_a_missing_or_wrong_checksum_is_noticed(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(bytes(image_bytes(noisy()))))
    (tmp_path / "short.nii.gz").write_bytes(packed[:-4])
    assert reason_of(tmp_path / "short.nii.gz") == "truncated"
    packed[-8] ^= 0xFF
    (tmp_path / "wrong.nii.gz").write_bytes(packed)
    assert reason_of(tmp_path / "wrong.nii.gz") == "damaged"
    packed[len(packed) // 2] ^= 0xFF
    (tmp_path / "flipped.nii.gz").write_bytes(packed)
    assert reason_of(tmp_path / "flipped.nii.gz") in ("damaged", "truncated")


def test_a_zip_or_plain_file_named_gz_is_refused(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("ct.nii", bytes(image_bytes()))
    (tmp_path / "ct.nii.gz").write_bytes(packed.getvalue())
    assert reason_of(tmp_path / "ct.nii.gz") == "not gzip"
    (tmp_path / "plain.nii.gz").write_bytes(image_bytes())
    assert reason_of(tmp_path / "plain.nii.gz") == "not gzip"


def test_absent_empty_and_foreign_files_are_refused(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "absent.nii") == "absent"
    (tmp_path / "empty.nii").write_bytes(b"")
    assert reason_of(tmp_path / "empty.nii") == "truncated"
    (tmp_path / "short.nii").write_bytes(bytes(image_bytes())[:100])
    assert reason_of(tmp_path / "short.nii") == "truncated"
    (tmp_path / "page.html").write_text("<html></html>")
    assert reason_of(tmp_path / "page.html") == "no DICOM"


def test_paths_with_spaces_and_accents_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "tórax año 1"
    folder.mkdir()
    (folder / "ct ñ.nii").write_bytes(image_bytes())
    np.testing.assert_array_equal(read_volume(folder / "ct ñ.nii").hu, VOXELS)


TILTED = np.array([[0.9, 0.1, 0.0, 3], [-0.1, 1.4, 0.3, -7], [0.0, -0.2, 2.1, 50], [0, 0, 0, 1]])


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
@pytest.mark.parametrize("affine", [AFFINE, TILTED], ids=["straight", "sheared"])
def test_what_we_write_others_read(name: str, affine: np.ndarray, tmp_path: Path) -> None:
    write_nifti(Volume(VOXELS, affine), tmp_path / name)
    theirs = nib.load(tmp_path / name)
    np.testing.assert_array_equal(np.asarray(theirs.dataobj), VOXELS)
    np.testing.assert_allclose(theirs.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name))).transpose(2, 1, 0), VOXELS
    )
    again = read_volume(tmp_path / name)
    np.testing.assert_array_equal(again.hu, VOXELS)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_an_uncompressed_file_can_be_mapped_into_memory(tmp_path: Path) -> None:
    write_nifti(Volume(VOXELS, AFFINE), tmp_path / "ct.nii")
    assert isinstance(nib.load(tmp_path / "ct.nii").dataobj.get_unscaled(), np.memmap)


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path, make_volume: Callable[..., Volume]) -> None:
    volume = make_volume()
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(volume, tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="cannot be written"):
        write_nifti(Volume(VOXELS, AFFINE), tmp_path / "absent" / "ct.nii")
    with pytest.raises(VolumeError, match=r"end it in \.nii"):
        write_nifti(Volume(VOXELS, AFFINE), tmp_path / "ct.mha")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nifti(Volume(VOXELS, AFFINE), tmp_path / "ct.nii")
    before = (tmp_path / "ct.nii").read_bytes()

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medfinder.volume.nifti.os.fsync", refuse)
    with pytest.raises(VolumeError, match="No space left on device"):
        write_nifti(Volume(VOXELS + 1, AFFINE), tmp_path / "ct.nii")
    assert [p.name for p in tmp_path.iterdir()] == ["ct.nii"]
    assert (tmp_path / "ct.nii").read_bytes() == before
