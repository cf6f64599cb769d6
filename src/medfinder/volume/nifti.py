"""NIfTI files: read as a stream of slabs, written whole and atomically.

In: .nii or .nii.gz, maybe the rescale of a side file. Out: `Slabs` in HU, rescaled exactly once: by scl_slope and
scl_inter, or by the side file where these tell nothing and the voxels are plainly stored values. Refused, from the
header alone: other dimensions than three, colour, impossible sizes, spacings and affines, files too short for what they
promise; and while reading: truncated or damaged compression.
"""

import gzip
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib

from medfinder.errors import VolumeError
from medfinder.volume.hounsfield import air_for_padding, check_rescale, choose_rescale, hu_dtype, to_hu
from medfinder.volume.types import Affine, Array, Padding, Slabs, Volume, check_affine, check_shape, spacing_of

SLAB_BYTES = 2**22
"""Ours: eight slices of 512 x 512. Fewer cost time in handing them from the reading to the resampling thread, more
leave the processor's cache in between (tried from 2**19 to 2**23)."""

MAX_DEFLATE_RATIO = 1032
"""No deflate stream expands further (zlib technical details, maximum compression factor)."""

_DAMAGED: Any = (EOFError, gzip.BadGzipFile, zlib.error, isal_zlib.IsalError)


def open_nifti(path: Path, *, rescale: tuple[float, float] | None = None) -> Slabs:
    """Open a NIfTI file: the header is read and checked now, the voxels when the slabs are drawn.

    Args:
        rescale: slope and intercept that a side file tells; see `choose_rescale`. The first slabs are then read now.

    Raises:
        VolumeError: what the header says cannot be a CT volume, or the file is damaged.
    """
    packed = path.name.lower().endswith(".gz")
    file = _open(path, packed)
    notes, padding = list[str](), Padding()
    try:
        header = _read_header(file)
        shape = _volume_shape(header)
        stored = _stored_dtype(header)
        affine = _affine(header)
        own = _rescale(header)
        _check_size(path, packed, int(header["vox_offset"]), shape, stored)
        file.seek(int(header["vox_offset"]))
        (slope, intercept), slabs = choose_rescale(_read_slabs(file, shape, stored), own, rescale, notes)
    except BaseException:
        file.close()
        raise
    hu = _rescale_slabs(file, slabs, slope, intercept)
    planes = air_for_padding(hu, notes, padding)
    return Slabs(shape, affine, hu_dtype(stored, slope, intercept), planes, notes, padding)


def _open(path: Path, packed: bool) -> IO[bytes]:
    if not packed:
        return path.open("rb")
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] != b"\x1f\x8b":
        kind = "a zip archive" if start[:2] == b"PK" else "not gzip"
        raise VolumeError(f"the file ends in .gz but is {kind}; unpack or rename it", reason="not gzip")
    opened: IO[bytes] = igzip.open(path, "rb")
    return opened


def _read_header(file: IO[bytes]) -> Any:
    kinds: tuple[Any, ...] = (nib.Nifti1Header, nib.Nifti2Header)
    for kind in kinds:
        file.seek(0)
        block = _read(file, kind.sizeof_hdr)
        if len(block) < kind.sizeof_hdr:
            raise VolumeError(
                f"the file ends after {len(block)} bytes, within its header; copy it again", reason="truncated"
            )
        size = int.from_bytes(block[:4], "little")
        if kind.sizeof_hdr in (size, int.from_bytes(block[:4], "big")):
            header = kind(block, check=False)
            if bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
                raise VolumeError(
                    "the header says that the voxels lie in another file; convert it to one .nii file",
                    reason="not NIfTI",
                )
            return header
    raise VolumeError("the file does not start with a NIfTI header; check what it is", reason="not NIfTI")


def _volume_shape(header: Any) -> tuple[int, int, int]:
    dims = [int(n) for n in header["dim"]]
    if not 1 <= dims[0] <= 7:
        raise VolumeError(f"the header promises {dims[0]} dimensions, expected 3; it is damaged", reason="not 3-D")
    shape = dims[1 : dims[0] + 1]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    check_shape(tuple(shape))
    i, j, k = shape
    return (i, j, k)


def _stored_dtype(header: Any) -> np.dtype[Any]:
    try:
        stored: np.dtype[Any] = header.get_data_dtype()
    except (KeyError, nib.spatialimages.HeaderDataError):
        raise VolumeError(
            f"voxel type code {int(header['datatype'])} is unknown; convert to int16", reason="bad type"
        ) from None
    if stored.fields or stored.kind not in "iuf":
        raise VolumeError(
            f"voxels of type {stored}, expected one number each, as a CT has; colour or complex images hold no HU",
            reason="not greyscale",
        )
    return stored


def _affine(header: Any) -> Affine:
    zooms = [float(z) for z in header["pixdim"][1:4]]
    if not all(np.isfinite(z) and z > 0 for z in zooms):
        raise VolumeError(
            f"spacing {' x '.join(f'{z:g}' for z in zooms)} mm, expected three numbers above 0; repair pixdim",
            reason="bad spacing",
        )
    if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
        raise VolumeError(
            "sform_code and qform_code are both 0: nothing tells left from right; set one of them",
            reason="no orientation",
        )
    with np.errstate(all="ignore"):
        affine = np.asarray(header.get_best_affine(), np.float64)
    check_affine(affine)
    spacing = spacing_of(affine)
    if any(abs(s - z) > 0.02 * z for s, z in zip(spacing, zooms, strict=True)):
        raise VolumeError(
            f"the affine has a spacing of {_mm(spacing)} mm but pixdim says {_mm(zooms)} mm; repair the header",
            reason="inconsistent geometry",
        )
    return affine


def _mm(values: Any) -> str:
    return " x ".join(f"{v:.4g}" for v in values)


def _rescale(header: Any) -> tuple[float, float] | None:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    # NIfTI-1: a slope of 0 means that none is given; NaN is what nibabel writes for the same.
    if slope == 0 or not np.isfinite(slope):
        return None
    intercept = intercept if np.isfinite(intercept) else 0.0
    check_rescale(slope, intercept)
    return slope, intercept


def _check_size(path: Path, packed: bool, offset: int, shape: tuple[int, ...], stored: np.dtype[Any]) -> None:
    promised = offset + int(np.prod(shape, dtype=object)) * stored.itemsize
    held = path.stat().st_size * (MAX_DEFLATE_RATIO if packed else 1)
    if promised > held:
        raise VolumeError(
            f"the header promises {promised} bytes but the file can hold {held} at most; copy it again",
            reason="truncated",
        )


def _rescale_slabs(file: IO[bytes], stored: Iterator[Array], slope: float, intercept: float) -> Iterator[Array]:
    try:
        for slab in stored:
            yield to_hu(slab, slope=slope, intercept=intercept)
    finally:
        # A value that is refused leaves the reading itself suspended.
        file.close()


def _read_slabs(file: IO[bytes], shape: tuple[int, int, int], stored: np.dtype[Any]) -> Iterator[Array]:
    i, j, k = shape
    plane_bytes = i * j * stored.itemsize
    depth = max(1, SLAB_BYTES // plane_bytes)
    with file:
        for start in range(0, k, depth):
            count = min(depth, k - start)
            # read, not readinto: gzip files implement the latter by the former and a copy.
            data = _read(file, count * plane_bytes)
            if len(data) < count * plane_bytes:
                raise VolumeError(
                    f"the voxels end after {start * plane_bytes + len(data)} of {k * plane_bytes} bytes; "
                    "copy the file again",
                    reason="truncated",
                )
            slab = np.frombuffer(data, stored).reshape(count, j, i)
            yield slab.astype(stored.newbyteorder("="), copy=False)
        # Reading past the last voxel makes gzip compare its checksum.
        _read(file, 1)


def _read(file: IO[bytes], size: int) -> bytes:
    try:
        return file.read(size)
    except _DAMAGED as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> VolumeError:
    reason = "truncated" if isinstance(error, EOFError) else "damaged"
    return VolumeError(f"the compressed file is {reason} ({error}); copy it again", reason=reason)


def write_nifti(volume: Volume, path: Path) -> None:
    """Write a volume as .nii or, by its name, .nii.gz; the same volume gives the same bytes.

    The file appears whole or not at all: it is written beside its place and then renamed.

    Raises:
        VolumeError: the name has another ending, or the disk refuses.
    """
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        raise VolumeError(
            f"cannot write {path.suffix or 'a name without ending'}; end it in .nii or .nii.gz", reason="bad name"
        )
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-", delete=False) as file:
            try:
                _write(volume, file, name.endswith(".gz"))
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).chmod(0o644)
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise VolumeError(f"the volume cannot be written: {error.strerror}", reason="not written") from error


def _write(volume: Volume, file: Any, packed: bool) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(volume.hu.dtype)
    header.set_data_shape(volume.shape)
    header.set_sform(volume.affine, code=1)
    # A qform cannot hold shear: of a tilted volume it keeps the nearest rigid place, the sform the exact one.
    header.set_qform(volume.affine, code=1, strip_shears=True)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["magic"], header["vox_offset"] = b"n+1", 352
    start = header.binaryblock + bytes(4)
    if not packed:
        file.write(start)
        _write_voxels(volume, file)
        return
    # zlib and not ISA-L: its bytes do not depend on the processor.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=3, fileobj=file, mtime=0) as stream:
        stream.write(start)
        _write_voxels(volume, stream)


def _write_voxels(volume: Volume, file: Any) -> None:
    little = volume.hu.dtype.newbyteorder("<")
    for z in range(volume.shape[2]):
        file.write(volume.hu[:, :, z].astype(little, order="F", copy=False).tobytes(order="F"))
