"""DICOM and volume files in one folder, as a working disk holds them: first the ones, then the others.

In: a folder with both, maybe one report table about both. Out: the studies that ``dicom`` finds, then those that
``nifti`` finds; each keeps the source that read it. A volume file that was made of a DICOM series at hand is a study of
its own: nothing but the voxels could tell. Refused: a folder that lacks either.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from medfinder.records import Dropped, Study
from medfinder.sources import dicom, nifti
from medfinder.sources.report_table import read_table, with_leftovers


def read(path: Path, *, table: Path | None = None) -> Iterator[Study | Dropped]:
    """Yield the studies of a folder of DICOM and volume files.

    Raises:
        ConfigError: there are no DICOM files, or no volume files.
        DatasetError: the table cannot be used.
    """
    reports = read_table(table, source="mixed") if table else None
    found = chain(dicom.read_studies(path, reports), nifti.read_studies(path, reports))
    return with_leftovers(found, reports)
