"""CT volumes: read them in HU and RAS+, put them on one grid, tell a chest from what is not one."""

from medfinder.volume.dicom_headers import DicomSeries, list_dicom_series
from medfinder.volume.nifti import write_nifti
from medfinder.volume.read import Room, read_volume
from medfinder.volume.region import BodyRegion, body_region
from medfinder.volume.standardise import read_and_standardise, standardise, standardise_file, view_of
from medfinder.volume.types import Grid, Volume

__all__ = [
    "BodyRegion",
    "DicomSeries",
    "Grid",
    "Room",
    "Volume",
    "body_region",
    "list_dicom_series",
    "read_and_standardise",
    "read_volume",
    "standardise",
    "standardise_file",
    "view_of",
    "write_nifti",
]
