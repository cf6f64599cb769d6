"""A DICOM folder de-identified, series by series: folder in, folder out.

In: a folder as it comes from a scanner or PACS, a key outside of the output. Out: files
``<patient>/<study>/<series>/NNNNN.dcm`` under pseudonyms, and what was set aside with its reason. A series is there
whole or not at all; run again, the command goes on where it was. Refused: a series with one image that cannot be let
out, since a series with holes is none.
"""

import io
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import get_expected_length

from medfinder.curation.deidentify.dicom import CT_CLASSES, deidentify_image, find_refusal
from medfinder.curation.deidentify.keys import Key, pseudonym
from medfinder.errors import ConfigError, StudyError
from medfinder.records import Dropped
from medfinder.sources.files import hash_id, is_dicom, relative_name, walk_files

Progress = Callable[[int, int], None]

_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "BurnedInAnnotation",
    "Rows",
    "PhotometricInterpretation",
    "ImageType",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "InstanceNumber",
    "PatientID",
    "Modality",
]
_OVERLAY_POSITIONS = [pydicom.tag.Tag(group, 0x0102) for group in range(0x6000, 0x6020, 2)]
_UNFINISHED = ".writing-"
_PSEUDONYM = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Exported:
    """What a de-identification came to; plain values, ready for JSON.

    Attributes:
        series: written now.
        kept: there already from an earlier run.
        skipped: files that are no DICOM.
    """

    patients: int
    series: int
    kept: int
    images: int
    skipped: int
    dropped: tuple[Dropped, ...]


@dataclass
class _Series:
    study_uid: str
    uid: str
    patient: str
    files: list[tuple[int, str, Path]] = field(default_factory=list)
    refusal: tuple[str, str] | None = None
    refused: int = 0
    patients: set[str] = field(default_factory=set)

    def place(self, key: Key) -> Path:
        """Name its folder under the output."""
        patient = pseudonym(key, "patient", hash_id("patient", self.patient))
        study = pseudonym(key, "study", hash_id("study", self.study_uid))
        return Path(patient) / study / pseudonym(key, "series", hash_id("series", self.uid))


def deidentify_folder(
    source: Path, out: Path, key: Key, *, dry_run: bool = False, progress: Progress | None = None
) -> Exported:
    """De-identify every CT series of a folder.

    Args:
        dry_run: judge everything, write nothing.
        progress: told (done, total) series.

    Raises:
        ConfigError: there is no DICOM file, the folders lie within each other, or ``out`` holds something else.
    """
    inside, outside = out.resolve(), source.resolve()
    if inside == outside or inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise ConfigError(f"{out} and {source} lie within each other; give an output folder beside the source")
    _refuse_other_content(out)
    found, skipped, unreadable = _scan(source)
    if not found:
        raise ConfigError(f"no DICOM file in {source}; expected files with the letters DICM after 128 bytes")
    written = kept = images = 0
    dropped: list[Dropped] = []
    if unreadable:
        detail = f"{unreadable} DICOM files whose header is damaged: their series lack them; copy them again"
        dropped.append(Dropped("", "", "dicom", "read", "unreadable", detail))
    for done, series in enumerate(found.values(), 1):
        refusal = _judge(series)
        target = out / series.place(key)
        if refusal is None and target.is_dir():
            kept += 1
        elif refusal is None:
            refusal = None if dry_run else _write_or_refuse(series, target, key)
            written += refusal is None
            images += len(series.files) if refusal is None else 0
        if refusal is not None:
            study, one = target.parts[-2:]
            dropped.append(Dropped(study, one, "dicom", "deidentify", *refusal))
        if progress:
            progress(done, len(found))
    patients = {series.patient for series in found.values()}
    return Exported(len(patients), written, kept, images, skipped, tuple(dropped))


def _refuse_other_content(out: Path) -> None:
    """Refuse a place that holds anything but what this command writes: folders under pseudonyms."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; give a folder")
    others = [one.name for one in out.iterdir() if not _PSEUDONYM.fullmatch(one.name)] if out.is_dir() else []
    if others:
        raise ConfigError(f"{out} is not empty (holds {min(others)!r}); give a new or empty folder")


def deidentify_series(files: list[Path], target: Path, key: Key) -> int:
    """Write the images of one series into a folder, whole or not at all; return how many.

    Raises:
        StudyError: an image cannot be read, or cannot be let out.
    """
    unfinished = target.with_name(_UNFINISHED + target.name)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        for number, file in enumerate(files, 1):
            _write_image(file, unfinished / f"{number:05d}.dcm", key)
        unfinished.replace(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return len(files)


def _write_image(file: Path, target: Path, key: Key) -> None:
    with warnings.catch_warnings():
        # A value that breaks its VR is the sender's fault; what is kept of it is written as it came.
        warnings.simplefilter("ignore")
        try:
            image = pydicom.dcmread(file, force=True)
            _complete(image)
            _refuse_truncated(image)
            # By way of memory: what the disk refuses is told as the system tells it, not as pydicom does.
            clean = io.BytesIO()
            deidentify_image(image, key).save_as(clean, enforce_file_format=True)
        except (
            InvalidDicomError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            NotImplementedError,
            EOFError,
        ) as error:
            raise StudyError(f"unreadable: {type(error).__name__} in one of its images; copy it again") from error
        target.write_bytes(clean.getbuffer())


def _refuse_truncated(image: Any) -> None:
    """Refuse an image whose pixels are not all there.

    Raises:
        StudyError: pixels are missing.
    """
    found = len(image.PixelData) if "PixelData" in image else 0
    is_native = not image.file_meta.TransferSyntaxUID.is_encapsulated
    if not found or (is_native and found < get_expected_length(image)):
        raise StudyError("truncated: pixels are missing in one of its images; copy it again")


def _complete(image: Any) -> None:
    """Give a file without meta information (older than 1998, or written carelessly) its transfer syntax."""
    if "TransferSyntaxUID" not in image.file_meta:
        implicit, little = image.original_encoding
        known = {(True, True): "1.2.840.10008.1.2", (False, True): "1.2.840.10008.1.2.1"}
        image.file_meta.TransferSyntaxUID = pydicom.uid.UID(known[bool(implicit), bool(little)])


def _scan(root: Path) -> tuple[Mapping[tuple[str, str], _Series], int, int]:
    """Gather the files of each series; count what is no image and what is damaged."""
    found: dict[tuple[str, str], _Series] = {}
    skipped = unreadable = 0
    for file in walk_files(root):
        if not is_dicom(file):
            skipped += 1
            continue
        header = _read_header(file)
        if header is None or not ("StudyInstanceUID" in header or "Rows" in header):
            # A DICOMDIR and its like say what they are; a file cut off in its header says that it is an image.
            is_index = header is not None and str(header.get("SOPClassUID", "")) not in CT_CLASSES
            skipped, unreadable = skipped + is_index, unreadable + (not is_index)
            continue
        study, uid = str(header.get("StudyInstanceUID") or ""), str(header.get("SeriesInstanceUID") or "")
        place = "" if study and uid else relative_name(file.parent, root)
        patient = str(header.get("PatientID") or "").strip() or study
        series = found.setdefault((study or place, uid or place), _Series(study or place, uid or place, patient))
        series.patients.add(patient)
        series.files.append((_number(header), str(header.get("SOPInstanceUID", "")), file))
        refusal = ("no UID", "StudyInstanceUID or SeriesInstanceUID is missing") if place else find_refusal(header)
        series.refusal = series.refusal or refusal
        series.refused += refusal is not None
    return dict(sorted(found.items())), skipped, unreadable


def _read_header(file: Path) -> Any | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return pydicom.dcmread(
                file,
                stop_before_pixels=True,
                force=True,
                specific_tags=[*map(pydicom.tag.Tag, _TAGS), *_OVERLAY_POSITIONS],
            )
        except (InvalidDicomError, OSError, ValueError, TypeError, KeyError, AttributeError, EOFError):
            return None


def _number(header: Any) -> int:
    text = str(header.get("InstanceNumber") or "")
    return int(text) if text.lstrip("-").isdigit() else 0


def _judge(series: _Series) -> tuple[str, str] | None:
    if len(series.patients) > 1:
        return "two patients", f"{len(series.patients)} PatientIDs in one series; expected one"
    if series.refusal is not None:
        reason, detail = series.refusal
        return reason, f"{series.refused} of {len(series.files)} objects: {detail}"
    return None


def _write_or_refuse(series: _Series, target: Path, key: Key) -> tuple[str, str] | None:
    try:
        deidentify_series([file for _, _, file in sorted(series.files)], target, key)
    except StudyError as error:
        reason, _, detail = str(error).partition(": ")
        return reason, detail
    return None
