"""A PACS export is sorted into studies by its headers; what is no CT volume is set aside with its reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from medfinder.records import Dropped, SeriesTags, Study
from medfinder.sources.dicom import read
from medfinder.volume import read_volume

WriteSeries = Callable[..., list[Path]]


def sort(entries: Any) -> tuple[list[Study], list[Dropped]]:
    entries = list(entries)
    return (
        [entry for entry in entries if isinstance(entry, Study)],
        [entry for entry in entries if isinstance(entry, Dropped)],
    )


def test_a_mixed_export_gives_one_study_for_each_uid(tmp_path: Path, write_series: WriteSeries) -> None:
    write_series(tmp_path / "x" / "thin")
    write_series(tmp_path / "x" / "thick", SeriesInstanceUID="1.2.3.1.2")
    write_series(tmp_path / "y", StudyInstanceUID="1.2.3.2", SeriesInstanceUID="1.2.3.2.1", PatientID="HNC-9")
    studies, dropped = sort(read(tmp_path))
    assert sorted(len(study.series) for study in studies) == [1, 2]
    assert len({study.patient_id for study in studies}) == 2
    assert dropped == []
    assert {study.sex for study in studies} == {"F"}
    assert {study.age_years for study in studies} == {63}


def test_each_series_can_be_read_where_all_lie_in_one_folder(tmp_path: Path, write_series: WriteSeries) -> None:
    write_series(tmp_path, slices=13)
    write_series(tmp_path, slices=15, SeriesInstanceUID="1.2.3.1.2")
    (study,), _ = sort(read(tmp_path))
    volumes = [read_volume(one.path, series_instance_uid=one.series_instance_uid) for one in study.series]
    assert sorted(volume.shape[2] for volume in volumes) == [13, 15]


@pytest.mark.parametrize(
    ("attributes", "reason", "detail"),
    [
        ({"Modality": "MR"}, "not CT", "modality MR, expected CT"),
        ({"Modality": "SR", "Rows": None}, "not CT", "modality SR"),
        ({"Modality": None}, "not CT", "modality missing"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "no CT image", "14 objects without a CT image"),
    ],
)
def test_what_is_no_ct_is_set_aside_and_the_rest_goes_on(
    tmp_path: Path, write_series: WriteSeries, attributes: dict[str, Any], reason: str, detail: str
) -> None:
    write_series(tmp_path / "good")
    write_series(tmp_path / "bad", **{"SeriesInstanceUID": "1.2.3.1.2", **attributes})
    studies, dropped = sort(read(tmp_path))
    assert len(studies) == 1
    assert len(studies[0].series) == 1
    assert [(row.reason, row.stage) for row in dropped] == [(reason, "series")]
    assert detail in dropped[0].detail


def test_localizers_and_short_series_are_left_to_be_judged(tmp_path: Path, write_series: WriteSeries) -> None:
    write_series(tmp_path / "a", slices=1)
    localizer = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_series(tmp_path / "b", slices=2, SeriesInstanceUID="1.2.3.1.2", ImageType=localizer)
    (study,), dropped = sort(read(tmp_path))
    assert {(one.tags.slices, one.tags.image_type[-1]) for one in study.series} == {(1, "AXIAL"), (2, "LOCALIZER")}
    assert dropped == []


def test_headers_are_told_as_tags(tmp_path: Path, write_series: WriteSeries) -> None:
    write_series(
        tmp_path,
        SeriesDescription="TORAX FINO",
        SeriesNumber=4,
        ConvolutionKernel=["Br40d", "3"],
        SliceThickness=1.5,
        BodyPartExamined="CHEST",
        PatientPosition="HFS",
        ContrastBolusAgent="given",
    )
    (study,), _ = sort(read(tmp_path))
    assert study.series[0].tags == SeriesTags(
        modality="CT",
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        series_description="TORAX FINO",
        series_number=4,
        convolution_kernel="Br40d\\3",
        slice_thickness_mm=1.5,
        body_part_examined="CHEST",
        patient_position="HFS",
        slices=14,
        has_contrast=True,
        image_orientation_patient=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        slice_positions_mm=(0.0, 39.0),
    )


def test_a_localizer_among_the_slices_is_not_counted(tmp_path: Path, write_series: WriteSeries) -> None:
    write_series(tmp_path / "a", slices=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SliceThickness=500)
    write_series(tmp_path / "b", slices=14, SliceThickness=3)
    (study,), _ = sort(read(tmp_path))
    tags = study.series[0].tags
    assert (tags.slices, tags.image_type[-1], tags.slice_thickness_mm) == (14, "AXIAL", 3)


def test_the_most_usual_header_speaks_for_the_series_whatever_the_files_are_called(
    tmp_path: Path, write_series: WriteSeries
) -> None:
    for order in ("ab", "ba"):
        write_series(tmp_path / order / order[0], slices=3, start=20, SliceThickness=4)
        write_series(tmp_path / order / order[1], slices=11, SliceThickness=7)
    thickness = [sort(read(tmp_path / order))[0][0].series[0].tags.slice_thickness_mm for order in ("ab", "ba")]
    assert thickness == [7, 7]


def test_damaged_values_are_no_tags(tmp_path: Path, write_series: WriteSeries) -> None:
    write_series(tmp_path, ImagePositionPatient=None, ImageOrientationPatient=[1.0, 0.0, 0.0], ImageType=None)
    (study,), _ = sort(read(tmp_path))
    tags = study.series[0].tags
    assert (tags.image_type, tags.image_orientation_patient, tags.slice_positions_mm) == ((), (), None)


def test_two_patients_under_one_study_are_set_aside(tmp_path: Path, write_series: WriteSeries) -> None:
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", PatientID="HNC-9", start=14)
    studies, dropped = sort(read(tmp_path))
    assert studies == []
    assert [row.reason for row in dropped] == ["two patients"]


def test_nothing_that_is_told_holds_an_identifier(tmp_path: Path, write_series: WriteSeries) -> None:
    write_series(tmp_path / "a", Modality="MR")
    write_series(tmp_path / "b", SeriesInstanceUID="1.2.3.1.2")
    (study,), dropped = sort(read(tmp_path))
    told = repr(dropped) + repr((study.study_id, study.patient_id, study.series[0].series_id))
    assert not any(secret in told for secret in ("HNC", "Perez", "ACC-1", "1.2.3.1", "2020"))


def test_days_count_from_the_patients_first_study(tmp_path: Path, write_series: WriteSeries) -> None:
    for place, day in enumerate(("20200131", "20200301", "not a day")):
        uid = f"1.2.3.{place}"
        write_series(
            tmp_path / uid, StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1", StudyDate=day if place < 2 else ""
        )
    studies, _ = sort(read(tmp_path))
    assert {study.date_offset_days for study in studies} == {0, 30, None}


def test_studies_come_in_the_same_order_whatever_the_files_are_called(
    tmp_path: Path, write_series: WriteSeries
) -> None:
    for place in range(3):
        uid = f"1.2.3.{place}"
        write_series(tmp_path / f"{place}", StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1")
    before = [study.study_id for study in sort(read(tmp_path))[0]]
    for place in range(3):
        (tmp_path / f"{place}").rename(tmp_path / f"{9 - place}")
    assert [study.study_id for study in sort(read(tmp_path))[0]] == before


def test_blank_uids_are_made_up_for_by_the_folder(tmp_path: Path, write_series: WriteSeries) -> None:
    write_series(tmp_path / "a", SeriesInstanceUID="", StudyInstanceUID="")
    (study,), _ = sort(read(tmp_path))
    (series,) = study.series
    assert series.series_instance_uid is None
    assert read_volume(series.path, series_instance_uid=None).shape == (12, 12, 14)


def test_blank_uids_in_two_hospitals_are_two_studies(tmp_path: Path, write_series: WriteSeries) -> None:
    for hospital in "ab":
        write_series(tmp_path / hospital / "ct", SeriesInstanceUID="", StudyInstanceUID="")
    ids = {sort(read(tmp_path / hospital))[0][0].study_id for hospital in "ab"}
    assert len(ids) == 2


@pytest.mark.parametrize("key", ["1.2.3.1", "ACC-1"])
def test_a_report_is_found_by_uid_or_accession_number(tmp_path: Path, write_series: WriteSeries, key: str) -> None:
    write_series(tmp_path / "cts")
    (tmp_path / "t.csv").write_text(f"study_id,report,sex\n{key},mass in the left lung,M\n")
    (study,), dropped = sort(read(tmp_path / "cts", table=tmp_path / "t.csv"))
    assert (study.report, study.sex, study.age_years) == ("mass in the left lung", "M", 63)
    assert dropped == []


def test_a_report_is_found_by_its_folder_at_any_depth(tmp_path: Path, write_series: WriteSeries) -> None:
    write_series(tmp_path / "cts" / "paciente ñ" / "estudio" / "s1")
    (tmp_path / "t.csv").write_text("path,report\npaciente ñ,mass\nother,lost\n", encoding="utf-8")
    (study,), dropped = sort(read(tmp_path / "cts", table=tmp_path / "t.csv"))
    assert study.report == "mass"
    assert [row.reason for row in dropped] == ["no image"]


def test_a_row_that_names_two_studies_is_used_for_neither(tmp_path: Path, write_series: WriteSeries) -> None:
    for place in range(2):
        uid = f"1.2.3.{place}"
        write_series(tmp_path / "cts" / "p" / uid, StudyInstanceUID=uid, SeriesInstanceUID=f"{uid}.1")
    (tmp_path / "t.csv").write_text("path,report\np,mass\n")
    studies, dropped = sort(read(tmp_path / "cts", table=tmp_path / "t.csv"))
    assert studies == []
    assert [row.reason for row in dropped] == ["ambiguous row", "ambiguous row"]


def test_one_file_is_read_as_that_file_alone(tmp_path: Path, write_series: WriteSeries) -> None:
    first = write_series(tmp_path)[0]
    (study,), dropped = sort(read(first))
    assert study.series[0].tags.slices == 1
    assert dropped == []


def test_the_real_series_are_sorted(real_data: Path) -> None:
    if not (real_data / "dicom").is_dir():
        pytest.skip("only the shipped samples are here, and they are NIfTI")
    studies, dropped = sort(read(real_data / "dicom"))
    assert len(studies) == len([p for p in (real_data / "dicom").iterdir() if p.is_dir()])
    assert dropped == []
