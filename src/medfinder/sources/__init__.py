"""Where raw examinations come from: each source turns a folder into ``Study`` records, nothing judged yet.

In: a folder (or one volume file), maybe a table of reports. Out: studies in a fixed order, and ``Dropped`` rows for
what cannot be a study. Refused: a path that does not exist, a folder in which no source recognises anything. To add a
source: write its reader, add one line to ``SOURCES``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from medfinder.errors import ConfigError
from medfinder.records import Dropped, Study, plural
from medfinder.sources import bimcv, bimcv_r, dicom, mixed, nifti, pacs, phantoms_folder, release
from medfinder.sources.files import is_dicom, is_volume_file, walk_files


class Reader(Protocol):
    """Turns one source into studies, lazily and always in the same order."""

    def __call__(self, path: Path, *, table: Path | None = None) -> Iterator[Study | Dropped]:
        """Yield every study of ``path``, and a ``Dropped`` for all that cannot become one.

        Args:
            table: a table of reports, as ``medfinder.sources.report_table`` documents it.
        """
        ...


def find_source(path: Path) -> str:
    """Tell which source a path is, by what lies in it.

    Returns:
        A key of ``SOURCES``.

    Raises:
        ConfigError: nothing is there, or nothing is recognised.
    """
    if pacs.is_pacs(path):
        return "pacs"
    if not path.exists():
        raise ConfigError(f"{path} does not exist; give a folder of CTs or one CT file")
    if (path / phantoms_folder.STUDIES_FILE).is_file():
        return "phantoms"
    if phantoms_folder.is_unfinished(path):
        raise ConfigError(
            f"{path} holds phantoms that were not finished; run the same medfinder phantoms command again"
        )
    if release.is_release(path):
        return "release"
    if bimcv.find_roots(path):
        return "bimcv"
    if bimcv_r.find_tables(path):
        return "bimcv_r"
    volumes = has_dicom = False
    files = 0
    for file in walk_files(path):
        files += 1
        if is_volume_file(file):
            volumes = True
        elif not has_dicom:
            has_dicom = is_dicom(file)
    if volumes and has_dicom:
        return "mixed"
    if volumes or has_dicom:
        return "nifti" if volumes else "dicom"
    if files == 0:
        raise ConfigError(f"{path} is empty; expected DICOM, NIfTI (.nii, .nii.gz), NRRD or MHA files")
    raise ConfigError(
        f"no CT among the {plural(files, 'file')} of {path}; expected DICOM, NIfTI (.nii, .nii.gz), NRRD or MHA files"
    )


def find_reader(kind: str) -> Reader:
    """Look up the reader of one kind of source.

    Raises:
        ConfigError: there is no such kind; the message lists the known ones.
    """
    try:
        return SOURCES[kind]
    except KeyError:
        raise ConfigError(f"unknown --source {kind!r}; known: auto, {', '.join(SOURCES)}") from None


SOURCES: dict[str, Reader] = {
    "phantoms": phantoms_folder.read,
    "release": release.read,
    "bimcv": bimcv.read,
    "bimcv_r": bimcv_r.read,
    "dicom": dicom.read,
    "nifti": nifti.read,
    "mixed": mixed.read,
    "pacs": pacs.read,
}
