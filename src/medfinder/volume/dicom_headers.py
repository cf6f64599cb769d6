"""DICOM headers of a folder: which series lie there, and which files belong to one of them.

In: a folder, nested to any depth, files in any order and under any name. Out: `DicomSeries` facts, or the headers of
the one CT series that is wanted. Refused: folders without DICOM or without CT, a choice that is not unique, series
that mix patients. Files that are not DICOM images are passed over and counted. No pixel is read here.
"""

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError

from medfinder.errors import VolumeError
from medfinder.records import plural

_TAGS = [
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "AcquisitionNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "NumberOfFrames",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "PixelData",
]
_DEFER_BYTES = 4096
"""Values longer than this stay in the file: of the pixels only their place is noted."""


@dataclass(frozen=True)
class DicomSeries:
    """What the headers tell of one series.

    Attributes:
        series_instance_uid: as in the files; empty where they have none.
        study_id, patient_ids: hashes, safe to print; more than one patient means that the series is not to be trusted.
        modality: e.g. ``"CT"``.
        images: slices or frames that are not localizers.
        localizers: images whose ImageType says LOCALIZER.
        shape: columns and rows of the first image; None if it is no image.
    """

    series_instance_uid: str
    study_id: str
    patient_ids: tuple[str, ...]
    modality: str
    images: int
    localizers: int
    shape: tuple[int, int] | None


@dataclass(frozen=True)
class _Scan:
    series: dict[str, list[Any]]
    files: int
    skipped: int


def list_dicom_series(folder: Path) -> list[DicomSeries]:
    """List every series under a folder, of whatever modality, in the order of their UIDs.

    Raises:
        VolumeError: there is no DICOM file.
    """
    scan = _scan(folder)
    if not scan.series:
        raise _no_dicom(scan)
    return [_describe(uid, headers) for uid, headers in sorted(scan.series.items())]


def find_series(path: Path, series_instance_uid: str | None) -> tuple[list[Any], list[str]]:
    """Return the image headers of one CT series, localizers left out, and notes on what was passed over.

    Args:
        path: a folder or one file.
        series_instance_uid: None picks the only CT series of two or more images.

    Raises:
        VolumeError: no such series, several, another modality, two patients in one.
    """
    scan = _scan(path)
    if not scan.series:
        raise _no_dicom(scan)
    headers = _pick_named(scan, series_instance_uid) if series_instance_uid else _pick_only(scan)
    patients = {_text(h, "PatientID") for h in headers}
    if len(patients) > 1:
        raise VolumeError(
            f"one series holds images of {len(patients)} patients, expected 1; sort the files by patient first",
            reason="mixed patients",
        )
    images = [h for h in headers if not _is_localizer(h)]
    if not images:
        raise VolumeError("the series holds localizers only; pick the series of the slices", reason="localizer")
    notes = [f"passed over: {plural(scan.skipped, 'file')} without a DICOM image"] if scan.skipped else []
    if len(images) < len(headers):
        notes.append(f"left out: {plural(len(headers) - len(images), 'localizer image')}")
    return images, notes


def _pick_named(scan: _Scan, uid: str) -> list[Any]:
    if uid not in scan.series:
        raise VolumeError(f"none of {len(scan.series)} series has the wanted SeriesInstanceUID", reason="absent series")
    headers = scan.series[uid]
    if (modality := _modality(headers)) != "CT":
        raise _not_ct({modality})
    return headers


def _pick_only(scan: _Scan) -> list[Any]:
    of_ct = [headers for headers in scan.series.values() if _modality(headers) == "CT" and _has_image(headers)]
    if not of_ct:
        raise _not_ct({_modality(headers) for headers in scan.series.values()})
    volumes = [headers for headers in of_ct if _count(h for h in headers if not _is_localizer(h)) > 1]
    if len(volumes) > 1:
        patients = {_text(h, "PatientID") for headers in volumes for h in headers}
        if len(patients) > 1:
            raise VolumeError(
                f"the folder holds {len(volumes)} CT series of {len(patients)} patients, expected 1; "
                "give one patient's folder or a SeriesInstanceUID",
                reason="mixed patients",
            )
        raise VolumeError(
            f"the folder holds {len(volumes)} CT series, expected 1; give one series' folder or a SeriesInstanceUID",
            reason="several series",
        )
    return volumes[0] if volumes else max(of_ct, key=_count)


def _has_image(headers: list[Any]) -> bool:
    # Any of them: the first may be a file that was cut short.
    return any("Rows" in header for header in headers)


def _not_ct(modalities: set[str]) -> VolumeError:
    found = ", ".join(sorted(m or "none" for m in modalities))
    return VolumeError(f"modality {found}, expected CT; give a CT series", reason="not CT")


def _no_dicom(scan: _Scan) -> VolumeError:
    if not scan.files:
        return VolumeError("the folder is empty; give one that holds a DICOM series", reason="empty folder")
    return VolumeError(f"no DICOM image among {plural(scan.files, 'file')}; check the folder", reason="no DICOM")


def _scan(path: Path) -> _Scan:
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    series: dict[str, list[Any]] = defaultdict(list)
    for file in files:
        if (header := _read_header(file)) is not None:
            # Exports that blank the UID: what lies in one folder belongs together.
            uid = _text(header, "SeriesInstanceUID") or f"folder {file.parent.relative_to(path.parent)}"
            series[uid].append(header)
    return _Scan(dict(series), len(files), len(files) - sum(len(h) for h in series.values()))


def _read_header(file: Path) -> Any | None:
    """Read the header of a DICOM image; None if the file is something else."""
    with file.open("rb") as opened:
        start = opened.read(132)
    # Some old exports lack the preamble and start with group 0008 straight away (DICOM PS3.10, 7.1 forbids it).
    if start[128:] != b"DICM" and start[:2] != b"\x08\x00":
        return None
    try:
        with warnings.catch_warnings():
            # A value against the rules of its VR is the sender's fault; what we need of it is checked by us.
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(file, force=True, defer_size=_DEFER_BYTES, specific_tags=_TAGS)
            return header if "Rows" in header or _text(header, "Modality") else None
    except (InvalidDicomError, EOFError, ValueError, KeyError, AttributeError, NotImplementedError, TypeError):
        return None


def _describe(uid: str, headers: list[Any]) -> DicomSeries:
    first = headers[0]
    named = _text(first, "SeriesInstanceUID")
    return DicomSeries(
        series_instance_uid=named and uid,
        study_id=hash_uid(_text(first, "StudyInstanceUID")),
        patient_ids=tuple(sorted({hash_uid(_text(h, "PatientID")) for h in headers})),
        modality=_modality(headers),
        images=_count(h for h in headers if not _is_localizer(h)),
        localizers=_count(h for h in headers if _is_localizer(h)),
        shape=(int(first.Columns), int(first.Rows)) if "Rows" in first and "Columns" in first else None,
    )


def hash_uid(identifier: str) -> str:
    """Return a short stable pseudonym of an identifier."""
    return hashlib.sha256(f"medfinder {identifier}".encode()).hexdigest()[:16]


def _modality(headers: list[Any]) -> str:
    return _text(headers[0], "Modality").upper()


def _is_localizer(header: Any) -> bool:
    words = header.get("ImageType") or ()
    return "LOCALIZER" in ([words] if isinstance(words, str) else [str(w).upper() for w in words])


def _count(headers: Iterable[Any]) -> int:
    return sum(int(h.get("NumberOfFrames") or 1) for h in headers)


def _text(header: Any, keyword: str) -> str:
    return str(header.get(keyword) or "").strip()
