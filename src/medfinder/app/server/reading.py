"""What is done to an uploaded file in a process of its own: unpack it, read it, curate it.

In: a .nii, .nii.gz or .zip that somebody sent, limits. Out: one NIfTI file that we wrote ourselves, or a curated
dataset. Refused with ``StudyError``: zips with links, ``..``, passwords, too many members, too many bytes, or that
shrink what they hold too much; whatever reading a volume refuses.

Nothing here runs in the server's own process: see ``medfinder.app.server.worker``.
"""

import csv
import shutil
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from medfinder.app.server.settings import Limits
from medfinder.app.study_links import add_link
from medfinder.curation.curate import CurationSettings, curate
from medfinder.curation.dataset import Dataset
from medfinder.curation.deidentify.keys import Key, pseudonym
from medfinder.curation.quality import QualitySettings
from medfinder.errors import StudyError
from medfinder.records import Dropped
from medfinder.sources.files import hash_id, is_dicom
from medfinder.sources.pacs import is_uid
from medfinder.volume import Grid, list_dicom_series, read_volume, write_nifti

# Ours: as for one's own folders of CTs, a partial chest is still worth finding.
_MIN_DIMENSION = 10
_CHUNK = 2**20
_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Curated:
    """What curation made of an upload.

    Attributes:
        cases: ids of the cases that can be searched for.
        held: how many wait for a person.
        dropped: what was set aside, and why.
    """

    cases: tuple[str, ...]
    held: int
    dropped: tuple[Dropped, ...]


def read_upload(upload: Path, out: Path, limits: Limits) -> tuple[str, ...]:
    """Read an uploaded CT and write it as one plain NIfTI file.

    Returns:
        What the reader had to mend, one sentence each.

    Raises:
        StudyError: it cannot be read or trusted.
    """
    source = _unpack(upload, limits)
    volume = read_volume(source, series_instance_uid=_longest_series(source))
    write_nifti(volume, out)
    return volume.notes


def curate_upload(
    upload: Path, out: Path, grid: Grid, key: Path, report: str, limits: Limits, study_map: Path | None = None
) -> Curated:
    """Curate an uploaded CT with its report into a dataset at ``out``; names and dates in the report are replaced.

    Args:
        study_map: remembers which StudyInstanceUIDs the pseudonyms stand for.

    Raises:
        StudyError: it cannot be read or trusted.
    """
    raw = _unpack(upload, limits)
    source = raw if raw.is_dir() else _alone(raw)
    table = None
    if report:
        table = upload.parent / "report.csv"
        _write_table(table, source, report)
    settings = CurationSettings(
        grid=grid,
        quality=QualitySettings(min_dimension=_MIN_DIMENSION),
        require_report=False,
        deidentify=True,
        view_mm=limits.view_mm,
    )
    if not key.exists():
        Key.make(key)
    curate(source, out, settings, table=table, key=key)
    if study_map is not None:
        for uid in _study_uids(source):
            add_link(study_map, pseudonym(Key.read(key), "study", hash_id("study", uid)), uid)
    shutil.rmtree(source)
    made = Dataset.open(out)
    return Curated(tuple(case.case_id for case in made.cases), len(made.held), made.dropped)


def _study_uids(source: Path) -> set[str]:
    import pydicom

    heads = (
        pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
        for file in source.iterdir()
        if is_dicom(file)
    )
    return {uid for head in heads if is_uid(uid := str(head.get("StudyInstanceUID", "")))}


def _alone(file: Path) -> Path:
    folder = file.parent / "raw"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(file, folder / f"volume{''.join(file.suffixes)}")
    return folder


def _write_table(path: Path, source: Path, report: str) -> None:
    """Write the table of reports that says: this one belongs to all that is here."""
    files = sorted(file for file in source.iterdir() if file.name.endswith(_NIFTI))
    series = () if files else [one for one in list_dicom_series(source) if one.modality == "CT"]
    if len(files) > 1 or len({one.study_id for one in series}) > 1:
        raise StudyError("a report came with more than one study; send one study at a time")
    name = files[0].name if files else "."
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["path", "report"], [name, report]])


def _longest_series(source: Path) -> str | None:
    """Pick the CT series with the most slices, where there are several; reading judges it."""
    if not source.is_dir() or not any(is_dicom(file) for file in source.iterdir()):
        return None
    series = [one for one in list_dicom_series(source) if one.modality == "CT" and one.images]
    if len({patient for one in series for patient in one.patient_ids}) > 1:
        raise StudyError("the zip holds CTs of several patients; send those of one")
    return max(series, key=lambda one: one.images).series_instance_uid if len(series) > 1 else None


def _unpack(upload: Path, limits: Limits) -> Path:
    """Give the folder or file to read: a zip is unpacked beside itself."""
    if upload.suffix != ".zip":
        return upload
    out = upload.parent / "raw"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    try:
        with zipfile.ZipFile(upload) as archive:
            members = _check(archive, upload.stat().st_size, limits)
            left = limits.unpacked_mb * 2**20
            for number, member in enumerate(members):
                left -= _extract(archive, member, out / f"{number:06}{_suffix(member.filename)}", left)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise StudyError(f"the zip cannot be unpacked ({type(error).__name__}); make it anew") from error
    _keep_images(out)
    return out


def _check(archive: zipfile.ZipFile, packed: int, limits: Limits) -> list[zipfile.ZipInfo]:
    """Judge a zip by its directory, before anything is unpacked."""
    members = [member for member in archive.infolist() if not member.is_dir()]
    if not members:
        raise StudyError("the zip is empty; expected DICOM files or one NIfTI file")
    if len(members) > limits.members:
        raise StudyError(f"the zip holds {len(members)} files; at most {limits.members} are unpacked")
    for member in members:
        if member.flag_bits & 0x1:
            raise StudyError("the zip is locked by a password; send it without")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise StudyError("the zip holds links; send the files themselves")
        parts = member.filename.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise StudyError("the zip holds names that lead out of it (.. or an absolute path); make it anew")
    size = sum(member.file_size for member in members)
    if size > limits.unpacked_mb * 2**20:
        raise StudyError(f"the zip unpacks to {size / 2**20:.0f} MB; at most {limits.unpacked_mb} MB are unpacked")
    if size > limits.ratio * packed:
        raise StudyError(f"the zip unpacks to {size / packed:.0f} times its size; at most {limits.ratio} times")
    return members


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, left: int) -> int:
    """Unpack one member under a name of ours; what its directory entry promised is not believed."""
    size = 0
    with archive.open(member) as packed, path.open("xb") as file:
        while chunk := packed.read(_CHUNK):
            size += len(chunk)
            if size > left:
                raise StudyError("the zip unpacks to more than it promised; make it anew")
            file.write(chunk)
    return size


def _suffix(name: str) -> str:
    lower = name.lower()
    return next((suffix for suffix in (".nii.gz", ".nii") if lower.endswith(suffix)), "")


def _keep_images(folder: Path) -> None:
    """Leave only DICOM and NIfTI: headers of other formats may name files elsewhere."""
    for file in folder.iterdir():
        if not file.name.endswith(_NIFTI) and not is_dicom(file):
            file.unlink()
    if not any(folder.iterdir()):
        raise StudyError("the zip holds neither DICOM nor NIfTI files; send the files of one CT")
