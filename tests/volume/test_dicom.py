"""DICOM series written here with pydicom, one for each way in which geometry and content go right or wrong."""

from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from medfinder.errors import MissingExtraError, VolumeError
from medfinder.volume import Grid, list_dicom_series, read_volume, standardise_file

Make = Callable[..., list[Dataset]]
Save = Callable[..., Path]


def reason_of(path: Path, **options: str) -> str:
    with pytest.raises(VolumeError) as caught:
        read_volume(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "made-up" not in message
    return caught.value.reason


def mm_of(volume, stored: tuple[int, int, int]) -> np.ndarray:
    """Place in RAS mm of the voxel (column, row, slice) of an axial LPS series."""
    x, y, _ = volume.shape
    return (volume.affine @ [x - 1 - stored[0], y - 1 - stored[1], stored[2], 1])[:3]


def test_file_order_folders_and_names_do_not_matter(
    tmp_path: Path, make_series: Make, save_series: Save, ramp: np.ndarray
) -> None:
    series = make_series()
    save_series(tmp_path / "a b" / "número uno", series[::2], suffix="")
    save_series(tmp_path / "c", series[1::2], suffix=".IMA")
    (tmp_path / "notes.txt").write_text("not an image")
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.hu[::-1, ::-1].transpose(2, 1, 0), ramp)
    np.testing.assert_allclose(volume.spacing_mm, (0.7, 0.8, 2.5))
    np.testing.assert_allclose(mm_of(volume, (0, 0, 0)), (8, -5, 100))
    assert volume.notes == ("passed over: 1 file without a DICOM image",)


def test_slope_and_intercept_of_each_slice_are_used_once(
    tmp_path: Path, make_series: Make, save_series: Save, ramp: np.ndarray
) -> None:
    series = make_series()
    for k, one in enumerate(series):
        stored = ramp[k].astype(np.int32) + 8192 + k
        one.PixelData, one.RescaleIntercept = stored.astype("<u2").tobytes(), -8192 - k
    volume = read_volume(save_series(tmp_path / "s", series))
    np.testing.assert_array_equal(volume.hu[::-1, ::-1].transpose(2, 1, 0), ramp)


def test_a_fractional_slope_gives_float32(tmp_path: Path, make_series: Make, save_series: Save, ramp) -> None:
    series = make_series()
    for one in series:
        one.RescaleSlope = 0.5
    volume = read_volume(save_series(tmp_path / "s", series))
    assert volume.hu.dtype == np.float32
    np.testing.assert_array_equal(volume.hu[::-1, ::-1].transpose(2, 1, 0), (ramp + 1024.0) * 0.5 - 1024)


def test_feet_first_prone_images_land_where_their_cosines_say(
    tmp_path: Path, make_series: Make, save_series: Save, ramp: np.ndarray
) -> None:
    # Rows run to the patient's right and front, slices from head to feet.
    folder = save_series(tmp_path / "s", make_series(orientation=(-1, 0, 0, 0, -1, 0), step_mm=(0, 0, -2.5)))
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.hu[:, :, ::-1].transpose(2, 1, 0), ramp)
    np.testing.assert_allclose((volume.affine @ [0, 0, 5, 1])[:3], (8, -5, 100))


def test_sagittal_slices_are_turned(tmp_path: Path, make_series: Make, save_series: Save, ramp: np.ndarray) -> None:
    # Rows run to the back, columns to the feet, slices to the left.
    folder = save_series(tmp_path / "s", make_series(orientation=(0, 1, 0, 0, 0, -1), step_mm=(2.5, 0, 0)))
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.hu[::-1, ::-1, ::-1].transpose(0, 2, 1), ramp)
    np.testing.assert_allclose(volume.spacing_mm, (2.5, 0.7, 0.8))


def test_gantry_tilt_stays_in_the_affine_and_is_straightened_on_the_grid(
    tmp_path: Path, make_series: Make, save_series: Save
) -> None:
    # A rod along z, at the same x and y in mm on every slice: tilted rows see it at another row each time.
    tilt = np.radians(20)
    hu = np.full((40, 64, 64), -1000, np.int16)
    rows_mm, columns_mm, step = 2.0, 2.0, 4.0
    for k in range(40):
        j, i = np.indices((64, 64))
        x, y = i * columns_mm, j * rows_mm * np.cos(tilt)
        hu[k][(np.hypot(x - 70, y - 60) < 8)] = 100
    series = make_series(
        hu,
        spacing_mm=(rows_mm, columns_mm),
        orientation=(1, 0, 0, 0, float(np.cos(tilt)), float(-np.sin(tilt))),
        step_mm=(0, 0, step),
        origin_mm=(0, 0, 0),
    )
    folder = save_series(tmp_path / "s", series)
    volume = read_volume(folder)
    cosine = volume.affine[:3, 1] @ volume.affine[:3, 2] / (volume.spacing_mm[1] * volume.spacing_mm[2])
    assert abs(cosine) == pytest.approx(np.sin(tilt), abs=1e-4)
    straight = standardise_file(folder, Grid(spacing_mm=(4, 4, 4), shape=(32, 32, 40)))
    centres = []
    for z in range(12, 28):
        x, y = np.nonzero(straight.hu[:, :, z] > -300)
        centres.append((straight.affine @ [x.mean(), y.mean(), z, 1])[:2])
    np.testing.assert_allclose(centres, np.tile([-70, -60], (16, 1)), atol=1.5)


def test_identical_copies_of_a_slice_collapse(tmp_path: Path, make_series: Make, save_series: Save, ramp) -> None:
    series = make_series()
    copy = pydicom.dcmread(save_series(tmp_path / "copy", series[2:3]) / "0000.dcm")
    volume = read_volume(save_series(tmp_path / "s", [*series, copy]))
    np.testing.assert_array_equal(volume.hu[::-1, ::-1].transpose(2, 1, 0), ramp)
    assert volume.notes == ("identical copies at 1 slice position; one of each was kept",)


def test_different_images_at_one_position_are_refused(tmp_path: Path, make_series: Make, save_series: Save) -> None:
    phases = make_series() + make_series(np.zeros((6, 20, 24), np.int16))
    for one in phases[6:]:
        one.AcquisitionNumber = 2
    assert reason_of(save_series(tmp_path / "s", phases)) == "conflicting slices"


def test_one_shared_slice_where_two_acquisitions_meet_is_kept_once(
    tmp_path: Path, make_series: Make, save_series: Save, ramp: np.ndarray
) -> None:
    series = make_series()
    other = make_series(np.zeros((6, 20, 24), np.int16))[2]
    other.AcquisitionNumber = 2
    volume = read_volume(save_series(tmp_path / "s", [*series, other]))
    np.testing.assert_array_equal(volume.hu[::-1, ::-1].transpose(2, 1, 0), ramp)
    assert volume.notes == ("two acquisitions meet at 1 slice position; the earlier image was kept",)
    other.AcquisitionNumber = 1
    assert reason_of(save_series(tmp_path / "t", [*series, other])) == "conflicting slices"


def test_a_missing_slice_within_10_mm_is_interpolated_and_noted(
    tmp_path: Path, make_series: Make, save_series: Save, ramp: np.ndarray
) -> None:
    series = make_series()
    del series[3]
    volume = read_volume(save_series(tmp_path / "s", series))
    # The ramp is linear along z, so interpolation restores it exactly.
    np.testing.assert_array_equal(volume.hu[::-1, ::-1].transpose(2, 1, 0), ramp)
    assert "interpolated" in volume.notes[0]


def test_a_wide_gap_is_refused(tmp_path: Path, make_series: Make, save_series: Save, ramp: np.ndarray) -> None:
    series = make_series(np.repeat(ramp, 3, axis=0))
    del series[5:10]
    assert reason_of(save_series(tmp_path / "s", series)) == "missing slices"


def test_padding_becomes_air_and_is_noted(tmp_path: Path, make_series: Make, save_series: Save, ramp) -> None:
    hu = ramp.copy()
    hu[0, :2] = -2000
    series = make_series(hu)
    for one, plane in zip(series, hu, strict=True):
        one.PixelRepresentation, one.RescaleIntercept = 1, 0
        one.PixelData = plane.astype("<i2").tobytes()
        # A padding value that is also water is not believed; one above all metal is.
        one.PixelPaddingValue = 0
    volume = read_volume(save_series(tmp_path / "s", series))
    expected = np.where(hu == -2000, -1024, hu)
    np.testing.assert_array_equal(volume.hu[::-1, ::-1].transpose(2, 1, 0), expected)
    assert volume.notes == ("1.7% of the voxels were padding; they were set to -1024 HU",)
    high = np.where(hu == -2000, 30000, hu)
    for one, plane in zip(series, high, strict=True):
        one.PixelPaddingValue, one.PixelData = 30000, plane.astype("<i2").tobytes()
    volume = read_volume(save_series(tmp_path / "t", series))
    np.testing.assert_array_equal(volume.hu[::-1, ::-1].transpose(2, 1, 0), expected)


def test_bits_above_bits_stored_are_not_pixels(tmp_path: Path, make_series: Make, save_series: Save, ramp) -> None:
    series = make_series()
    for one in series:
        stored = np.frombuffer(one.PixelData, "<u2") | 0x8000
        one.PixelData, one.BitsStored, one.HighBit = stored.tobytes(), 12, 11
    volume = read_volume(save_series(tmp_path / "s", series))
    np.testing.assert_array_equal(volume.hu[::-1, ::-1].transpose(2, 1, 0), ramp)


def transcode(folder: Path, out: Path, syntax: int) -> Path:
    """Write the files of a folder again, compressed by GDCM."""
    out.mkdir()
    for file in folder.iterdir():
        reader = gdcm.ImageReader()
        reader.SetFileName(str(file))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(out / file.name))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutputAsPixmap())
        assert writer.Write()
    return out


COMPRESSED = {
    gdcm.TransferSyntax.RLELossless: RLELossless,
    gdcm.TransferSyntax.JPEGLosslessProcess14_1: JPEGLosslessSV1,
    gdcm.TransferSyntax.JPEGLSLossless: JPEGLSLossless,
    gdcm.TransferSyntax.JPEG2000Lossless: JPEG2000Lossless,
    gdcm.TransferSyntax.DeflatedExplicitVRLittleEndian: DeflatedExplicitVRLittleEndian,
    gdcm.TransferSyntax.ExplicitVRBigEndian: ExplicitVRBigEndian,
}


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("syntax", COMPRESSED, ids=[uid.name for uid in COMPRESSED.values()])
def test_the_transfer_syntax_changes_nothing(
    syntax: int, signed: bool, tmp_path: Path, make_series: Make, save_series: Save, ramp: np.ndarray
) -> None:
    series = make_series()
    for one, plane in zip(series, ramp, strict=True):
        one.BitsStored, one.HighBit = 12, 11
        if signed:
            one.PixelRepresentation, one.RescaleIntercept, one.PixelData = 1, 0, plane.astype("<i2").tobytes()
    folder = transcode(save_series(tmp_path / "plain", series), tmp_path / "packed", syntax)
    written = {pydicom.dcmread(file).file_meta.TransferSyntaxUID for file in folder.iterdir()}
    assert written == {COMPRESSED[syntax]}
    np.testing.assert_array_equal(read_volume(folder).hu[::-1, ::-1].transpose(2, 1, 0), ramp)


def test_a_missing_decoder_names_the_extra(
    tmp_path: Path, make_series: Make, save_series: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = make_series()
    for one in series:
        one.compress(RLELossless, generate_instance_uid=False)
    folder = save_series(tmp_path / "s", series)

    class Absent:
        is_available = False

    monkeypatch.setattr("medfinder.volume.dicom_pixels.get_decoder", lambda _: Absent())
    with pytest.raises(MissingExtraError, match=r"RLE Lossless.*medfinder\[dicom\]"):
        read_volume(folder)


def test_an_enhanced_multi_frame_ct_is_read_frame_by_frame(tmp_path: Path, make_series: Make, ramp) -> None:
    frames = make_series()
    whole = frames[0]
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    whole.NumberOfFrames = len(frames)
    order = [3, 0, 5, 1, 4, 2]
    whole.PixelData = b"".join([frames[k].PixelData for k in order])
    whole.PerFrameFunctionalGroupsSequence = Sequence([])
    for k in order:
        place, group = Dataset(), Dataset()
        place.ImagePositionPatient = frames[k].ImagePositionPatient
        group.PlanePositionSequence = Sequence([place])
        whole.PerFrameFunctionalGroupsSequence.append(group)
    shared, plane, measures, values = Dataset(), Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = whole.ImageOrientationPatient
    measures.PixelSpacing = whole.PixelSpacing
    values.RescaleSlope, values.RescaleIntercept = 1, -1024
    shared.PlaneOrientationSequence = Sequence([plane])
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PixelValueTransformationSequence = Sequence([values])
    whole.SharedFunctionalGroupsSequence = Sequence([shared])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(whole, keyword)
    del whole.RescaleIntercept
    pydicom.dcmwrite(tmp_path / "enhanced.dcm", whole, enforce_file_format=True)
    volume = read_volume(tmp_path / "enhanced.dcm")
    np.testing.assert_array_equal(volume.hu[::-1, ::-1].transpose(2, 1, 0), ramp)
    np.testing.assert_allclose(volume.spacing_mm, (0.7, 0.8, 2.5))


def test_one_of_several_series_is_picked_by_its_uid(tmp_path: Path, make_series: Make, save_series: Save, ramp) -> None:
    first, second = make_series(), make_series(ramp + 5)
    other_uid = generate_uid()
    for one in second:
        one.SeriesInstanceUID = other_uid
    save_series(tmp_path, first)
    save_series(tmp_path / "more", second)
    assert reason_of(tmp_path) == "several series"
    volume = read_volume(tmp_path, series_instance_uid=other_uid)
    np.testing.assert_array_equal(volume.hu[::-1, ::-1].transpose(2, 1, 0), ramp + 5)
    assert reason_of(tmp_path, series_instance_uid="1.2.3") == "absent series"
    listed = list_dicom_series(tmp_path)
    assert [(s.images, s.modality, s.shape) for s in listed] == [(6, "CT", (24, 20))] * 2
    assert "made-up" not in repr(listed)


def test_localizers_and_other_objects_beside_the_slices_are_left_out(
    tmp_path: Path, make_series: Make, save_series: Save, ramp: np.ndarray
) -> None:
    series = make_series()
    scout = make_series(np.zeros((1, 90, 30), np.int16), orientation=(1, 0, 0, 0, 0, -1))[0]
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    report = Dataset()
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = series[0].file_meta.TransferSyntaxUID
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.67"
    report.file_meta.MediaStorageSOPInstanceUID = report.SOPInstanceUID = generate_uid()
    report.Modality, report.SeriesInstanceUID = "SR", generate_uid()
    save_series(tmp_path / "dose", [report])
    volume = read_volume(save_series(tmp_path, [*series, scout]))
    np.testing.assert_array_equal(volume.hu[::-1, ::-1].transpose(2, 1, 0), ramp)
    assert volume.notes == ("left out: 1 localizer image",)


def spoil_patient(series: list[Dataset]) -> None:
    series[2].PatientID = "made-up-2"


def spoil_modality(series: list[Dataset]) -> None:
    for one in series:
        one.Modality = "MR"


def spoil_count(series: list[Dataset]) -> None:
    del series[1:]


def spoil_role(series: list[Dataset]) -> None:
    for one in series:
        one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def spoil_size(series: list[Dataset]) -> None:
    series[1].Rows, series[1].PixelData = 10, bytes(10 * 24 * 2)


def spoil_orientation(series: list[Dataset]) -> None:
    series[1].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def spoil_spacing(series: list[Dataset]) -> None:
    for one in series:
        one.PixelSpacing = [0, 0.7]


def spoil_position(series: list[Dataset]) -> None:
    del series[1].ImagePositionPatient


def spoil_line(series: list[Dataset]) -> None:
    series[2].ImagePositionPatient = [30, 5, 105]


def spoil_cosines(series: list[Dataset]) -> None:
    for one in series:
        one.ImageOrientationPatient = [1, 0, 0, 1, 0, 0]


def spoil_rescale(series: list[Dataset]) -> None:
    del series[0].RescaleSlope


def spoil_slope(series: list[Dataset]) -> None:
    series[0].RescaleSlope = 0


def spoil_colour(series: list[Dataset]) -> None:
    for one in series:
        one.SamplesPerPixel = 3


def spoil_pixels(series: list[Dataset]) -> None:
    del series[3].PixelData


def spoil_stack(series: list[Dataset]) -> None:
    for one in series:
        one.ImagePositionPatient = [0, 0, 0]


def spoil_frames(series: list[Dataset]) -> None:
    series[0].NumberOfFrames = 2


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_patient, "mixed patients"),
        (spoil_modality, "not CT"),
        (spoil_count, "single slice"),
        (spoil_role, "localizer"),
        (spoil_size, "inconsistent geometry"),
        (spoil_orientation, "inconsistent geometry"),
        (spoil_spacing, "bad spacing"),
        (spoil_position, "no geometry"),
        (spoil_line, "inconsistent geometry"),
        (spoil_cosines, "singular affine"),
        (spoil_rescale, "bad rescale"),
        (spoil_slope, "bad rescale"),
        (spoil_colour, "not greyscale"),
        (spoil_pixels, "no pixels"),
        (spoil_stack, "single slice"),
        (spoil_frames, "no geometry"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_spoiled_series_is_refused_with_its_reason(
    spoil: Callable[[list[Dataset]], None], reason: str, tmp_path: Path, make_series: Make, save_series: Save
) -> None:
    series = make_series()
    spoil(series)
    assert reason_of(save_series(tmp_path / "folder", series)) == reason


def test_pixels_cut_short_are_refused(tmp_path: Path, make_series: Make, save_series: Save) -> None:
    folder = save_series(tmp_path / "folder", make_series())
    file = folder / "0003.dcm"
    file.write_bytes(file.read_bytes()[:-50])
    assert reason_of(folder) == "truncated"


def cut_copy(folder: Path, *, keep: float) -> Path:
    """Put the first part of a slice beside it, as a broken copy leaves it, where it comes first by name."""
    data = (folder / "0003.dcm").read_bytes()
    (folder / "0000 copy.dcm").write_bytes(data[: int(keep * len(data))])
    return folder


@pytest.mark.parametrize("keep", [0.999, 0.47, 0.42], ids=["within the pixels", "before the pixels", "before the size"])
def test_a_damaged_copy_of_an_intact_slice_is_left_out(
    keep: float, tmp_path: Path, make_series: Make, save_series: Save, ramp: np.ndarray
) -> None:
    folder = cut_copy(save_series(tmp_path / "s", make_series()), keep=keep)
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.hu[::-1, ::-1].transpose(2, 1, 0), ramp)
    assert volume.notes == ("left out: 1 damaged file of which an intact copy is there",)


def test_a_slice_of_which_every_copy_is_damaged_refuses_the_series(
    tmp_path: Path, make_series: Make, save_series: Save
) -> None:
    folder = cut_copy(save_series(tmp_path / "s", make_series()), keep=0.9)
    (folder / "0003.dcm").write_bytes((folder / "0003.dcm").read_bytes()[:-50])
    assert reason_of(folder) == "truncated"


def test_a_damaged_slice_is_no_copy_of_another_that_bears_its_uid(
    tmp_path: Path, make_series: Make, save_series: Save
) -> None:
    series = make_series()
    series[4].SOPInstanceUID = series[4].file_meta.MediaStorageSOPInstanceUID = series[2].SOPInstanceUID
    folder = save_series(tmp_path / "s", series, shuffled=False)
    assert len(read_volume(folder).notes) == 0
    (folder / "0004.dcm").write_bytes((folder / "0004.dcm").read_bytes()[:-50])
    assert reason_of(folder) == "truncated"


def test_two_patients_in_one_folder_are_refused(tmp_path: Path, make_series: Make, save_series: Save) -> None:
    save_series(tmp_path / "x" / "a", make_series())
    save_series(tmp_path / "x" / "b", make_series(patient_id="made-up-2"))
    assert reason_of(tmp_path / "x") == "mixed patients"


def test_folders_without_dicom_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert reason_of(tmp_path / "empty") == "empty folder"
    with pytest.raises(VolumeError, match="empty"):
        list_dicom_series(tmp_path / "empty")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "readme.txt").write_text("hello")
    assert reason_of(tmp_path / "text") == "no DICOM"
