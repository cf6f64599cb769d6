"""Copies of one DICOM image of which some are damaged: folders that were copied twice, once by half.

In: the headers of a series. Out: the headers without the damaged copies of images that are there intact, and a note.
Refused: nothing. A damaged image without an intact copy stays, so that whoever reads it refuses the series; so does
one whose header says that it is another image in spite of its SOPInstanceUID.
"""

from collections import defaultdict
from typing import Any

from medfinder.errors import VolumeError
from medfinder.records import plural
from medfinder.volume.dicom_pixels import pixels_of, read_stored

# What tells images apart that an exporter gave one SOPInstanceUID.
_PLACE = ("InstanceNumber", "ImagePositionPatient")


def leave_out_damaged(headers: list[Any], notes: list[str]) -> list[Any]:
    """Leave out each damaged image of which an intact copy is there.

    Only the pixels of images that are there more than once are looked at.
    """
    copies: defaultdict[str, list[Any]] = defaultdict(list)
    for header in headers:
        copies[str(header.get("SOPInstanceUID") or "")].append(header)
    copies.pop("", None)
    spare: set[int] = set()
    for group in (group for group in copies.values() if len(group) > 1):
        intact = [header for header in group if _is_intact(header)]
        spare |= {id(header) for header in group if not _is_in(header, intact) and _has_copy(header, intact)}
    if spare:
        notes.append(f"left out: {plural(len(spare), 'damaged file')} of which an intact copy is there")
    return [header for header in headers if id(header) not in spare]


def _is_in(header: Any, group: list[Any]) -> bool:
    return any(header is other for other in group)


def _has_copy(header: Any, intact: list[Any]) -> bool:
    return any(all(header.get(key) in (None, "", other.get(key)) for key in _PLACE) for other in intact)


def _is_intact(header: Any) -> bool:
    try:
        for frame in range(int(header.get("NumberOfFrames") or 1)):
            read_stored(pixels_of(header, frame))
    except VolumeError:
        return False
    return True
