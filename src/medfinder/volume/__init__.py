"""CT volumes: read them in HU and RAS+, put them on one grid, tell a chest from what is not one."""

from medfinder.volume.dicom_headers import DicomSeries, list_dicom_series
from medfinder.volume.nifti import write_nifti
from medfinder.volume.read import open_slabs, read_ahead, read_volume
from medfinder.volume.region import BodyRegion, body_region
from medfinder.volume.standardise import (
    standardise,
    standardise_and_coarsen,
    standardise_file,
    view_of,
    view_on_the_way,
)
from medfinder.volume.types import Grid, Volume

__all__ = [
    "BodyRegion",
    "DicomSeries",
    "Grid",
    "Volume",
    "body_region",
    "list_dicom_series",
    "open_slabs",
    "read_ahead",
    "read_volume",
    "standardise",
    "standardise_and_coarsen",
    "standardise_file",
    "view_of",
    "view_on_the_way",
    "write_nifti",
]
