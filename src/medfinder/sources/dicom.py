"""A DICOM folder as it comes from a scanner or PACS: studies, patients and modalities mixed, nested, in any order.

In: a folder (or one file), maybe a report table. Out: one study for each StudyInstanceUID with its CT series and what
their headers say of them; ids are hashes. Which series is worth reading is not judged here: localizers and short series
are series, too. Set aside, series by series: other modalities, secondary captures and other objects that are no CT
image; study by study: two patients under one StudyInstanceUID, two rows about one study, one row about two studies.
"""

import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from medfinder.errors import ConfigError
from medfinder.records import Dropped, Series, SeriesTags, Sex, Study, plural
from medfinder.sources.files import fingerprint, hash_id, is_dicom, relative_name, walk_files
from medfinder.sources.report_table import (
    ReportTable,
    Row,
    read_age,
    read_table,
    refuse_repeats,
    refuse_study,
    with_leftovers,
)

# CT Image, Enhanced CT Image, Legacy Converted Enhanced CT Image Storage (DICOM PS3.4, B.5).
_CT_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.2{tail}" for tail in ("", ".1", ".2"))
_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "ImageType",
    "StudyDate",
    "AccessionNumber",
    "Modality",
    "PatientID",
    "PatientSex",
    "PatientAge",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "NumberOfFrames",
    "Rows",
    "SeriesDescription",
    "SeriesNumber",
    "ConvolutionKernel",
    "SliceThickness",
    "BodyPartExamined",
    "PatientPosition",
    "ContrastBolusAgent",
    "ImageOrientationPatient",
    "ImagePositionPatient",
]


def read(path: Path, *, table: Path | None = None) -> Iterator[Study | Dropped]:
    """Yield the studies of a DICOM folder.

    Raises:
        ConfigError: there is no DICOM file.
        DatasetError: the table cannot be used.
    """
    reports = read_table(table, source="dicom") if table else None
    return with_leftovers(read_studies(path, reports), reports)


def read_studies(path: Path, reports: ReportTable | None) -> Iterator[Study | Dropped]:
    """Yield the studies of a DICOM folder with their rows of a table that may speak of other files, too.

    Raises:
        ConfigError: there is no DICOM file.
    """
    studies = _scan(path)
    if not studies:
        raise ConfigError(f"no DICOM file in {path}; expected files with the letters DICM after 128 bytes")
    return _studies(path, studies, reports)


@dataclass
class _SeriesFacts:
    """What the headers of one series say, gathered file by file.

    Attributes:
        slices, localizers: CT images, apart; readers leave the localizers of a mixed series out.
        tags: what the slices' headers say, and how many of them say it.
        localizer_tags: the same of the localizers.
        positions: where the slices lie along the body axis that they cross.
    """

    uid: str
    modality: str
    places: set[Path] = field(default_factory=set)
    slices: int = 0
    localizers: int = 0
    others: int = 0
    tags: Counter[SeriesTags] = field(default_factory=Counter)
    localizer_tags: Counter[SeriesTags] = field(default_factory=Counter)
    positions: list[float] = field(default_factory=list)

    def add(self, header: Any, place: Path) -> None:
        self.places.add(place)
        if _text(header, "SOPClassUID", _CT_CLASSES[0]) not in _CT_CLASSES or "Rows" not in header:
            self.others += 1
            return
        tags = _read_tags(header)
        if "LOCALIZER" in _words(header, "ImageType"):
            self.localizers += 1
            self.localizer_tags[tags] += 1
            return
        self.tags[tags] += 1
        self.slices += max(1, _number(header, "NumberOfFrames"))
        if (position := _position(header, tags.image_orientation_patient)) is not None:
            self.positions.append(position)

    def find_fault(self) -> tuple[str, str] | None:
        """Tell why this cannot be a CT series: reason and figures; None when it can."""
        if self.modality != "CT":
            return "not CT", f"modality {self.modality or 'missing'}, expected CT"
        if self.slices == 0 and self.localizers == 0:
            return "no CT image", f"{plural(self.others, 'object')} without a CT image (captures, dose reports)"
        return None

    def as_series(self, series_id: str) -> Series:
        """Make the record: tags as most images have them, positions only where every slice tells one."""
        counted = self.tags or self.localizer_tags
        # Equals are told apart by what they say, never by the order of the files.
        usual = min(counted, key=lambda tags: (-counted[tags], repr(tags)))
        is_placed = self.slices > 0 and len(self.positions) == self.slices
        ends = (min(self.positions), max(self.positions)) if is_placed else None
        tags = replace(usual, slices=self.slices or self.localizers, slice_positions_mm=ends)
        return Series(series_id, _common_place(self.places), self.uid or None, tags)


@dataclass
class _StudyFacts:
    """What the headers of one study say."""

    uid: str
    patients: set[str] = field(default_factory=set)
    accession_numbers: set[str] = field(default_factory=set)
    places: set[Path] = field(default_factory=set)
    series: dict[str, _SeriesFacts] = field(default_factory=dict)
    age_years: int | None = None
    sex: Sex | None = None
    day: date | None = None

    @property
    def study_id(self) -> str:
        return hash_id("study", self.uid)

    @property
    def patient_id(self) -> str:
        # Without a PatientID every study is a patient of its own.
        return hash_id("patient", *(self.patients or {self.uid}))

    def add(self, header: Any, place: Path, series_key: str) -> None:
        self.places.add(place)
        self.patients |= {_text(header, "PatientID")} - {""}
        self.accession_numbers |= {_text(header, "AccessionNumber")} - {""}
        self.age_years = read_age(_text(header, "PatientAge")) if self.age_years is None else self.age_years
        self.sex = self.sex or {"F": "F", "M": "M"}.get(_text(header, "PatientSex").upper())  # type: ignore[assignment]
        self.day = self.day or _day(_text(header, "StudyDate"))
        facts = self.series.setdefault(
            series_key, _SeriesFacts(_text(header, "SeriesInstanceUID"), _text(header, "Modality"))
        )
        facts.add(header, place)


def _scan(root: Path) -> dict[str, _StudyFacts]:
    """Read every header under a folder; studies in the order of their hashed ids."""
    studies: dict[str, _StudyFacts] = {}
    folder_names: dict[Path, str] = {}
    for file in walk_files(root):
        header = _read_header(file) if is_dicom(file) else None
        # A DICOMDIR and its like have no StudyInstanceUID, no Modality and no image: nothing to tell.
        if header is None or not ("StudyInstanceUID" in header or "Rows" in header):
            continue
        place = file if file == root else file.parent
        # What lacks a UID belongs with its folder: some exports blank them. The first image's own UID, or else its
        # bytes, keep it apart from a folder of the same name elsewhere.
        name = relative_name(place, root)
        if not _text(header, "StudyInstanceUID") or not _text(header, "SeriesInstanceUID"):
            name = folder_names.setdefault(place, f"{name}\0{_text(header, 'SOPInstanceUID') or fingerprint(file)}")
        study_uid = _text(header, "StudyInstanceUID") or name
        series_key = _text(header, "SeriesInstanceUID") or name
        studies.setdefault(study_uid, _StudyFacts(study_uid)).add(header, place, series_key)
    return dict(sorted(studies.items(), key=lambda item: item[1].study_id))


def _read_header(file: Path) -> Any | None:
    with warnings.catch_warnings():
        # A value that breaks its VR is the sender's fault and does not concern what is read here.
        warnings.simplefilter("ignore")
        try:
            return pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        except (
            InvalidDicomError,
            OSError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            NotImplementedError,
            EOFError,
        ):
            return None


def _studies(root: Path, studies: dict[str, _StudyFacts], reports: ReportTable | None) -> Iterator[Study | Dropped]:
    rows = {uid: _find_row(root, facts, reports) for uid, facts in studies.items()}
    used = Counter(row.number for row in rows.values() if isinstance(row, Row))
    first_days = _first_days(studies.values())
    for uid, facts in studies.items():
        row = rows[uid]
        if isinstance(row, Row) and used[row.number] > 1:
            detail = f"row {row.number} of the table names {used[row.number]} studies; expected one"
            row = refuse_study(facts.study_id, "dicom", "ambiguous row", detail)
        yield from _judge(facts, row, first_days.get(facts.patient_id))
        yield from refuse_repeats(row, facts.study_id, "dicom")


def _find_row(root: Path, facts: _StudyFacts, reports: ReportTable | None) -> Row | Dropped | None:
    if reports is None:
        return None
    common = _common_place(facts.places)
    inside = [folder for folder in (common, *common.parents) if folder.is_relative_to(root) and folder != root]
    names = [relative_name(folder, root) for folder in inside]
    return reports.find(paths=names, ids=[facts.uid, *sorted(facts.accession_numbers)])


def _judge(facts: _StudyFacts, row: Row | Dropped | None, first_day: date | None) -> Iterator[Study | Dropped]:
    if len(facts.patients) > 1:
        detail = f"{len(facts.patients)} PatientIDs under one StudyInstanceUID; expected one"
        yield Dropped(facts.study_id, "", "dicom", "read", "two patients", detail)
        return
    if isinstance(row, Dropped):
        yield refuse_study(facts.study_id, "dicom", row.reason, row.detail)
        return
    series = []
    for key, one in sorted(facts.series.items(), key=lambda item: hash_id("series", item[0])):
        series_id = hash_id("series", key)
        fault = one.find_fault()
        if fault is None:
            series.append(one.as_series(series_id))
        else:
            yield Dropped(facts.study_id, series_id, "dicom", "series", *fault)
    if series:
        yield _study(facts, tuple(series), row, first_day)


def _study(facts: _StudyFacts, series: tuple[Series, ...], row: Row | None, first_day: date | None) -> Study:
    offset = (facts.day - first_day).days if facts.day is not None and first_day is not None else None
    return Study(
        study_id=facts.study_id,
        patient_id=facts.patient_id,
        source="dicom",
        series=series,
        report=(row.report or None) if row else None,
        report_language=row.language if row else None,
        report_en=row.report_en if row else None,
        findings=row.findings if row else (),
        age_years=row.age_years if row and row.age_years is not None else facts.age_years,
        sex=(row.sex if row else None) or facts.sex,
        date_offset_days=offset,
    )


def _first_days(studies: Iterable[_StudyFacts]) -> dict[str, date]:
    days: dict[str, date] = {}
    for facts in studies:
        if facts.day is not None:
            days[facts.patient_id] = min(facts.day, days.get(facts.patient_id, facts.day))
    return days


def _common_place(places: set[Path]) -> Path:
    return Path(os.path.commonpath(sorted(places)))


def _read_tags(header: Any) -> SeriesTags:
    number = _text(header, "SeriesNumber")
    thickness = _numbers(header, "SliceThickness", 1)
    return SeriesTags(
        modality=_text(header, "Modality"),
        image_type=_values(header, "ImageType"),
        series_description=_text(header, "SeriesDescription"),
        series_number=int(number) if number.lstrip("-").isdigit() else None,
        convolution_kernel="\\".join(_values(header, "ConvolutionKernel")),
        slice_thickness_mm=thickness[0] if thickness else None,
        body_part_examined=_text(header, "BodyPartExamined"),
        patient_position=_text(header, "PatientPosition"),
        has_contrast=bool(_text(header, "ContrastBolusAgent")) or None,
        image_orientation_patient=_numbers(header, "ImageOrientationPatient", 6),
    )


def _position(header: Any, orientation: tuple[float, ...]) -> float | None:
    """Tell where a slice lies along the axis of the body that it crosses, RAS+."""
    position = _numbers(header, "ImagePositionPatient", 3)
    if not orientation or not position:
        return None
    (a, b, c), (d, e, f) = orientation[:3], orientation[3:]
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    axis = max(range(3), key=lambda row: abs(normal[row]))
    # DICOM counts to the left and back, we to the right and front; both to the head.
    return position[axis] if axis == 2 else -position[axis]


def _numbers(header: Any, keyword: str, count: int) -> tuple[float, ...]:
    """Read so many finite numbers; none where the header holds something else."""
    try:
        numbers = tuple(float(word) for word in _values(header, keyword))
    except ValueError:
        return ()
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else ()


def _values(header: Any, keyword: str) -> tuple[str, ...]:
    value = header.get(keyword)
    if value in (None, ""):
        return ()
    many = value if isinstance(value, (list, tuple, MultiValue)) else (value,)
    return tuple(str(one).strip() for one in many)


def _text(header: Any, keyword: str, default: str = "") -> str:
    value = header.get(keyword)
    return str(value).strip() if value not in (None, "") else default


def _words(header: Any, keyword: str) -> set[str]:
    return {word.upper() for word in _values(header, keyword)}


def _number(header: Any, keyword: str) -> int:
    text = _text(header, keyword)
    return int(text) if text.isdigit() else 0


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(f"{text[:4]}-{text[4:6]}-{text[6:8]}")
    except ValueError:
        return None
