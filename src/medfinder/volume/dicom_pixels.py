"""Pixels of one DICOM image, as stored.

In: a header. Out: stored values (rows, columns). Uncompressed pixels are read straight from their place in the file;
the rest goes through pydicom's decoders. Refused: pixel data that is absent, short or cannot be decoded.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array as decode
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medfinder.errors import MissingExtraError, VolumeError
from medfinder.volume.types import Array

_RAW = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)


@dataclass(frozen=True)
class Pixels:
    """Where the pixels of one image lie and how they are stored.

    Attributes:
        offset: of the first byte of PixelData in the file; None where they must be decoded.
        padding: lowest and highest stored padding value; None if none is declared.
    """

    file: Path
    frame: int
    rows: int
    columns: int
    dtype: np.dtype[Any]
    bits_stored: int
    syntax: UID
    offset: int | None
    padding: tuple[int, int] | None


def pixels_of(header: Any, frame: int) -> Pixels:
    """Note where the pixels of an image lie.

    Raises:
        VolumeError: there are none, or they are not 8- or 16-bit whole numbers.
        MissingExtraError: their compression needs a decoder that is not installed.
    """
    if "PixelData" not in header or not int(header.get("Rows") or 0) or not int(header.get("Columns") or 0):
        raise VolumeError("an image without pixels; leave the series out or send it again", reason="no pixels")
    bits = int(header.get("BitsAllocated") or 0)
    if bits not in (8, 16, 32):
        raise VolumeError(f"{bits} bits a pixel, expected 8, 16 or 32; convert the series", reason="bad type")
    syntax = UID(str(header.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian))
    if syntax.is_compressed:
        _check_decoder(syntax)
    kind = "i" if int(header.get("PixelRepresentation") or 0) else "u"
    return Pixels(
        file=Path(header.filename),
        frame=frame,
        rows=int(header.Rows),
        columns=int(header.Columns),
        dtype=np.dtype(f"<{kind}{bits // 8}"),
        bits_stored=int(header.get("BitsStored") or bits),
        syntax=syntax,
        offset=header.get_item("PixelData", keep_deferred=True).value_tell if syntax in _RAW else None,
        padding=_padding(header),
    )


def _check_decoder(syntax: UID) -> None:
    try:
        is_available = get_decoder(syntax).is_available
    except NotImplementedError as error:
        raise VolumeError(
            f"compression {syntax.name} cannot be read; decompress the series", reason="bad type"
        ) from error
    if not is_available:
        raise MissingExtraError(f"a decoder for {syntax.name}", "dicom")


def _padding(header: Any) -> tuple[int, int] | None:
    value = header.get("PixelPaddingValue")
    if value in (None, ""):
        return None
    limit = header.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit in (None, "") else limit)))
    return low, high


def read_stored(pixels: Pixels) -> Array:
    """Read the stored values (rows, columns) of one image.

    Raises:
        VolumeError: they are short or damaged.
    """
    stored = _read_raw(pixels, pixels.offset) if pixels.offset is not None else _decode(pixels)
    return _without_unused_bits(stored, pixels.bits_stored)


def _read_raw(pixels: Pixels, offset: int) -> Array:
    count = pixels.rows * pixels.columns
    start = offset + pixels.frame * count * pixels.dtype.itemsize
    stored = np.fromfile(pixels.file, pixels.dtype, count, offset=start)
    if len(stored) < count:
        raise VolumeError(f"an image holds {len(stored)} of {count} pixels; send the series again", reason="truncated")
    return stored.reshape(pixels.rows, pixels.columns)


def _decode(pixels: Pixels) -> Array:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Given a path pydicom reads one frame alone, but it cannot inflate there.
            source = pydicom.dcmread(pixels.file) if pixels.syntax.is_deflated else pixels.file
            stored: Array = decode(source, index=pixels.frame, raw=True)
    except (RuntimeError, ValueError, AttributeError, TypeError, EOFError, OSError, NotImplementedError) as error:
        raise VolumeError(
            f"an image cannot be decoded ({pixels.syntax.name}); send it again", reason="damaged"
        ) from error
    if stored.shape != (pixels.rows, pixels.columns):
        raise VolumeError("a decoded image has another size than its header says; send it again", reason="damaged")
    return stored


def _without_unused_bits(stored: Array, bits_stored: int) -> Array:
    """Clear what lies above BitsStored: old scanners keep overlays there (DICOM PS3.5, 8.1.1)."""
    unused = stored.dtype.itemsize * 8 - bits_stored
    return stored if unused <= 0 else (stored << unused) >> unused
