"""The side file of a series: what its DICOM headers said, kept as JSON beside the converted volume.

In: the path of a ``.json`` file, DICOM JSON (PS3.18, F: ``{tag: {vr, Value}}``) or keyword and value. Out: a
``SideFile``: tags for series selection, the rescale, and what it says of patient and day. A file that is absent, empty
or no JSON says nothing. Refused: a file that is there and cannot be opened.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from medfinder.errors import StudyError
from medfinder.records import SeriesTags, Sex
from medfinder.sources.bimcv_tables import parse_day, parse_sex
from medfinder.sources.report_table import read_age


@dataclass(frozen=True, slots=True)
class SideFile:
    """What a side file says.

    Attributes:
        rescale: RescaleSlope and RescaleIntercept, when both are told and can be used.
        day: of the study, else of the series.
    """

    tags: SeriesTags = field(default_factory=SeriesTags)
    rescale: tuple[float, float] | None = None
    day: date | None = None
    age_years: int | None = None
    sex: Sex | None = None


def read_side_file(path: Path) -> SideFile:
    """Read a side file; one that is absent or damaged says nothing.

    Raises:
        StudyError: the file is there and cannot be opened.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return SideFile()
    except OSError as error:
        raise StudyError(f"the side file cannot be opened: {error.strerror}; mend its permissions") from error
    values = _parse(raw)
    return SideFile(
        tags=_read_tags(values) if values else SeriesTags(),
        rescale=_rescale(values),
        day=parse_day(values.text("00080020", "StudyDate") or values.text("00080021", "SeriesDate")),
        age_years=read_age(values.text("00101010", "PatientAge")),
        sex=parse_sex(values.text("00100040", "PatientSex")),
    )


class _Values(dict[str, Any]):
    """What stands in a side file, by tag (eight hexadecimal digits) or keyword."""

    def list(self, tag: str, keyword: str) -> list[str]:
        entry = self.get(tag, self.get(keyword.upper()))
        value = entry.get("Value", entry.get("value")) if isinstance(entry, dict) else entry
        values = value if isinstance(value, list) else [value]
        return [str(one).strip() for one in values if isinstance(one, str | int | float) and str(one).strip()]

    def text(self, tag: str, keyword: str) -> str:
        return next(iter(self.list(tag, keyword)), "")

    def number(self, tag: str, keyword: str) -> float | None:
        return next(iter(self.numbers(tag, keyword, 1)), None)

    def numbers(self, tag: str, keyword: str, count: int) -> tuple[float, ...]:
        """Return the first ``count`` values as finite numbers; nothing where there are fewer."""
        try:
            numbers = tuple(float(text) for text in self.list(tag, keyword)[:count])
        except ValueError:
            return ()
        return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else ()

    def count(self, tag: str, keyword: str) -> int | None:
        number = self.number(tag, keyword)
        return int(number) if number is not None else None


def _parse(raw: bytes) -> _Values:
    try:
        found = json.loads(raw.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return _Values()
    if not isinstance(found, Mapping):
        return _Values()
    return _Values({str(key).upper().replace(",", "").strip("() "): value for key, value in found.items()})


def _read_tags(values: _Values) -> SeriesTags:
    agent = values.text("00180010", "ContrastBolusAgent")
    is_told = bool({"00180010", "CONTRASTBOLUSAGENT"} & values.keys())
    counts = (("00201002", "ImagesInAcquisition"), ("00540081", "NumberOfSlices"), ("00280008", "NumberOfFrames"))
    return SeriesTags(
        modality=values.text("00080060", "Modality").upper(),
        image_type=tuple(word.upper() for word in values.list("00080008", "ImageType")),
        series_description=values.text("0008103E", "SeriesDescription"),
        series_number=values.count("00200011", "SeriesNumber"),
        convolution_kernel=values.text("00181210", "ConvolutionKernel"),
        slice_thickness_mm=values.number("00180050", "SliceThickness"),
        body_part_examined=values.text("00180015", "BodyPartExamined"),
        patient_position=values.text("00185100", "PatientPosition"),
        slices=next((count for names in counts if (count := values.count(*names))), None),
        has_contrast=bool(agent) if is_told else None,
        image_orientation_patient=values.numbers("00200037", "ImageOrientationPatient", 6),
    )


def _rescale(values: _Values) -> tuple[float, float] | None:
    slope = values.number("00281053", "RescaleSlope")
    intercept = values.number("00281052", "RescaleIntercept")
    return (slope, intercept) if slope and intercept is not None else None
