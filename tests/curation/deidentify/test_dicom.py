"""DICOM: nobody is named, the voxels are the same; the Basic Profile's own table is the judge."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from medfinder.curation.deidentify import Key, pseudonym, shift_days
from medfinder.curation.deidentify.dicom import deidentify_image, find_refusal
from medfinder.curation.deidentify.export import deidentify_folder, deidentify_series
from medfinder.errors import ConfigError, StudyError
from medfinder.sources.files import hash_id
from medfinder.volume import read_volume

_SPEC = importlib.util.spec_from_file_location("deidentify_conftest", Path(__file__).with_name("conftest.py"))
assert _SPEC
assert _SPEC.loader
_made = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_made)
make_image, names_in, write_series = _made.make_image, _made.names_in, _made.write_series

# What the two options keep or change instead. Source: PS3.15, table E.1-1, columns Rtn. Pat. Chars. and Rtn. Long.
# Modif. Dates.
_OPTIONS = frozenset(
    (
        "PatientSex",
        "PatientAge",
        "PatientSize",
        "PatientWeight",
        "PregnancyStatus",
        "SmokingStatus",
        "StudyDate",
        "SeriesDate",
        "AcquisitionDate",
        "ContentDate",
        "StudyTime",
        "SeriesTime",
        "AcquisitionTime",
        "ContentTime",
        "AcquisitionDateTime",
    )
)


def test_no_name_is_left_in_any_byte(tmp_path: Path, key: Key) -> None:
    source = write_series(tmp_path / "Zubizarreta")
    assert all(names_in(file) for file in source.iterdir())
    deidentify_folder(source, tmp_path / "out", key)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) == 14
    assert not [name for path in written for name in names_in(path)]
    assert not any("zubizarreta" in str(path.relative_to(tmp_path / "out")).lower() for path in written)


def test_everything_that_the_basic_profile_acts_on_is_gone_empty_or_changed(key: Key) -> None:
    from dicomanonymizer.dicom_anonymization_databases import dicomfields_2024b as table

    image = make_image()
    acted_on = [tag for name in dir(table) if name.endswith("_TAGS") for tag in getattr(table, name)]
    acted_on = [tag for tag in acted_on if len(tag) == 2]
    assert len(acted_on) > 300
    for tag in acted_on:
        if tag not in image and pydicom.datadict.dictionary_has_tag(tag):
            _seed(image, tag)
    clean = deidentify_image(image, key)
    kept = [
        element.keyword
        for tag in acted_on
        if (element := clean.get(pydicom.tag.Tag(tag))) is not None
        and element.keyword not in _OPTIONS
        and element.value not in ("", None)
        and element.value == image[tag].value
    ]
    assert kept == []


def _seed(image: Dataset, tag: tuple[int, int]) -> None:
    """Give an attribute a telling value in its own representation."""
    values = {
        "DA": "20190312", "TM": "101500", "DT": "20190312101500", "UI": "1.2.3.77", "PN": "Zubizarreta^Uxue",
        "AS": "061Y",
        "IS": "7", "DS": "7", "US": 7, "UL": 7, "SS": 7, "SL": 7, "FL": 7.0, "FD": 7.0, "OB": b"Uxue", "OW": b"Uxue",
    }  # fmt: skip
    vr = pydicom.datadict.dictionary_VR(tag)
    if vr == "SQ":
        item = Dataset()
        item.PatientName = "Zubizarreta^Uxue"
        image.add_new(tag, vr, [item])
    elif vr in values or vr in ("LO", "SH", "ST", "LT", "UT", "UC", "CS", "UR", "AE"):
        image.add_new(tag, vr, values.get(vr, "UXUE"))


def test_the_flags_say_what_was_done(key: Key) -> None:
    clean = deidentify_image(make_image(), key)
    assert clean.PatientIdentityRemoved == "YES"
    assert clean.LongitudinalTemporalInformationModified == "MODIFIED"
    assert 0 < len(clean.DeidentificationMethod) <= 64
    codes = {(code.CodeValue, code.CodingSchemeDesignator) for code in clean.DeidentificationMethodCodeSequence}
    assert codes == {("113100", "DCM"), ("113107", "DCM"), ("113108", "DCM")}


def test_sex_stays_age_is_capped_and_dates_move_by_the_patients_shift(key: Key) -> None:
    clean = deidentify_image(make_image(), key)
    patient = hash_id("patient", "NHC556677")
    moved = np.datetime64("2019-03-12") + shift_days(key, patient)
    assert (clean.PatientSex, clean.PatientAge, clean.PatientWeight) == ("F", "090Y", 61)
    assert clean.StudyDate == clean.SeriesDate == str(moved).replace("-", "")
    assert clean.PatientID == pseudonym(key, "patient", patient)
    assert (clean.PatientBirthDate, clean.AccessionNumber) == ("", "")


def test_uids_are_renamed_alike_in_every_file_and_at_every_depth(key: Key) -> None:
    first, second = deidentify_image(make_image(1), key), deidentify_image(make_image(2), key)
    assert first.SeriesInstanceUID == second.SeriesInstanceUID != "1.2.3.4"
    assert second.ReferencedImageSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert first.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID
    assert deidentify_image(make_image(1), Key(bytes(32))).SeriesInstanceUID != first.SeriesInstanceUID


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("BurnedInAnnotation", "YES"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.4"),
        ("PhotometricInterpretation", "RGB"),
        ("ImageType", ["DERIVED", "SECONDARY", "SCREEN SAVE"]),
    ],
)
def test_what_may_carry_writing_is_refused(key: Key, keyword: str, value: object) -> None:
    image = make_image()
    setattr(image, keyword, value)
    assert find_refusal(image)
    with pytest.raises(StudyError):
        deidentify_image(image, key)


def test_an_overlay_within_the_pixels_is_refused() -> None:
    image = make_image()
    image.add_new(0x60000102, "US", 12)
    assert find_refusal(image)


def test_a_series_with_one_bad_image_is_set_aside_whole(tmp_path: Path, key: Key) -> None:
    source = write_series(tmp_path / "in" / "a")
    write_series(tmp_path / "in" / "b", series="1.2.3.5")
    bad = make_image(99)
    bad.BurnedInAnnotation = "YES"
    bad.save_as(source / "099.dcm", enforce_file_format=True)
    done = deidentify_folder(tmp_path / "in", tmp_path / "out", key)
    assert (done.series, done.images) == (1, 14)
    [row] = done.dropped
    assert row.reason == "burned-in annotation"
    assert row.detail.startswith("1 of 15 objects")


def test_an_image_without_all_its_pixels_sets_its_series_aside_and_leaves_nothing(tmp_path: Path, key: Key) -> None:
    source = write_series(tmp_path / "in")
    file = sorted(source.iterdir())[-1]
    file.write_bytes(file.read_bytes()[:-100])
    done = deidentify_folder(source, tmp_path / "out", key)
    assert done.series == 0
    assert [row.reason for row in done.dropped] == ["truncated"]
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_file_that_ends_within_its_header_is_told(tmp_path: Path, key: Key) -> None:
    source = write_series(tmp_path / "in")
    file = sorted(source.iterdir())[-1]
    file.write_bytes(file.read_bytes()[:700])
    done = deidentify_folder(source, tmp_path / "out", key)
    assert [row.reason for row in done.dropped] == ["unreadable"]


def test_run_again_nothing_is_written_twice(tmp_path: Path, key: Key) -> None:
    source = write_series(tmp_path / "in")
    deidentify_folder(source, tmp_path / "out", key)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.dcm")}
    again = deidentify_folder(source, tmp_path / "out", key)
    assert (again.series, again.kept) == (0, 1)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_dry_run_writes_nothing(tmp_path: Path, key: Key) -> None:
    done = deidentify_folder(write_series(tmp_path / "in"), tmp_path / "out", key, dry_run=True)
    assert done.series == 1
    assert not (tmp_path / "out").exists()


def test_images_without_uids_are_told_not_passed_over(tmp_path: Path, key: Key) -> None:
    source = write_series(tmp_path / "in", series="1.2.3.6")
    for file in source.iterdir():
        image = pydicom.dcmread(file)
        image.SeriesInstanceUID = ""
        image.save_as(file)
    [row] = deidentify_folder(source, tmp_path / "out", key).dropped
    assert row.reason == "no UID"


def test_folders_within_each_other_and_empty_ones_are_refused(tmp_path: Path, key: Key) -> None:
    with pytest.raises(ConfigError, match="within each other"):
        deidentify_folder(tmp_path, tmp_path / "out", key)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no DICOM"):
        deidentify_folder(tmp_path / "empty", tmp_path / "out", key)


def test_a_place_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path, key: Key) -> None:
    source = write_series(tmp_path / "in")
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters" / "one.txt").write_text("Once.")
    with pytest.raises(ConfigError, match=r"not empty \(holds 'one.txt'\)"):
        deidentify_folder(source, tmp_path / "chapters", key)
    with pytest.raises(ConfigError, match="is a file; give a folder"):
        deidentify_folder(source, tmp_path / "chapters" / "one.txt", key)
    assert [path.name for path in (tmp_path / "chapters").iterdir()] == ["one.txt"]


def test_a_real_series_reads_to_the_same_voxels(tmp_path: Path, key: Key, real_data: Path) -> None:
    series = real_data / "dicom" / "C4KC-KiTS-00072"
    if not series.is_dir():
        pytest.skip("the real DICOM series lie beside the checkout only")
    target = tmp_path / "clean"
    deidentify_series(sorted(series.iterdir()), target, key)
    before, after = read_volume(series), read_volume(target)
    np.testing.assert_array_equal(before.hu, after.hu)
    np.testing.assert_array_equal(before.affine, after.affine)


def test_the_command_makes_a_key_and_tells_what_it_did(tmp_path: Path) -> None:
    source = write_series(tmp_path / "in")
    command = [sys.executable, "-m", "medfinder.cli", "deidentify", str(source), str(tmp_path / "out"), "--key-file"]
    refused = subprocess.run([*command, str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--make-key" in refused.stderr
    words = [*command, str(tmp_path / "key"), "--make-key", "--json"]
    answer = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["series"] == 1


def test_a_disk_without_room_is_told_in_one_line_and_no_part_of_a_series_stays(tmp_path: Path, key: Key) -> None:
    source, out = write_series(tmp_path / "in"), tmp_path / "out"
    script = (  # the system allows files of a hundred bytes
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); from medfinder.cli import main; main()"
    )
    words = ["deidentify", str(source), str(out), "--key-file", str(tmp_path / "key")]
    Key.make(tmp_path / "key")
    answer = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert line.startswith("medfinder: error: File too large")
    assert not [path for path in out.rglob("*") if path.is_file()]
