"""Slices of a case as JPEG, and its volume small enough for a browser: made once, kept while there is room.

In: the path of a standardised volume, a plane, a slice number, a window, a size. Out: JPEG or NIfTI bytes, and a tag
that changes when the file does. Refused with ``ConfigError``: planes, windows and numbers that are not there; with
``DatasetError``: a volume that has gone or is damaged.

Slices are shown in radiological convention, as in ``medfinder.app.montage``: the patient's right on the left, front or
head at the top, front to the left in a sagittal slice. They come without marks: the page draws those.
"""

import gzip
import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medfinder.app.montage import WINDOWS as SHARED_WINDOWS
from medfinder.app.montage import apply_window, choose_slices
from medfinder.errors import ConfigError, DatasetError
from medfinder.retrieval.evidence import HeatMap
from medfinder.volume import Volume

WINDOWS: dict[str, tuple[float, float]] = {
    "lung": SHARED_WINDOWS["lung"],
    "mediastinum": SHARED_WINDOWS["mediastinal"],
    "bone": SHARED_WINDOWS["bone"],
    "liver": (60.0, 160.0),
}
"""Centre and width in HU; liver: radiopaedia.org, "Windowing (CT)"."""

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
"""Plane -> axis that its slices are counted along, from 0 at the patient's feet, back or left."""

SIZES = range(32, 1025)
"""Longer side of a picture, pixels."""

THUMBNAIL = 192
PREVIEW_SIDE = 256
"""Voxels along x or y of a preview; 256 x 256 x 140 is ready in a browser without a graphics card in 3 to 12 s."""

# Ours: no difference can be seen at the sizes shown.
_QUALITY = 88

# Odd, so that a cell's middle stays a voxel's middle.
_FINER = 3


class Pictures:
    """Makes pictures and keeps the ones last asked for, up to a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def slice(self, path: Path, view: Path, plane: str, number: int, window: str, size: int) -> tuple[bytes, str]:
        """Draw one slice as JPEG, and tell its tag.

        Args:
            path: of the standardised volume, whose slices are counted.
            view: of what is drawn: the same, or a finer copy.
        """
        _check(plane, window, size)
        tag = tag_of(view, plane, number, window, size)

        def draw() -> bytes:
            volume, shown = open_volume(path), open_volume(view)
            return _draw(shown, plane, _same_place(volume, shown, plane, number), window, size)

        return self._get(tag, draw), tag

    def thumbnail(self, path: Path, view: Path, place: int) -> tuple[bytes, str]:
        """Draw one of three small pictures: an axial, a coronal and a sagittal slice through the middle."""
        if not 0 <= place <= 2:
            raise ConfigError(f"thumbnail {place}; there are 0 (axial), 1 (coronal) and 2 (sagittal)")
        tag = tag_of(view, "thumbnail", place)
        return self._get(tag, lambda: _draw_thumbnail(open_volume(path), open_volume(view), place)), tag

    def preview(self, path: Path) -> tuple[bytes, str]:
        """Give the volume as .nii.gz with at most ``PREVIEW_SIDE`` voxels along x and y, and tell its tag."""
        tag = tag_of(path, "preview")
        return self._get(tag, lambda: _shrink(open_volume(path))), tag

    def _get(self, tag: str, make: Callable[[], bytes]) -> bytes:
        with self._lock:
            if tag in self._kept:
                self._kept.move_to_end(tag)
                return self._kept[tag]
        content = make()
        with self._lock:
            if len(content) <= self._most and tag not in self._kept:
                self._kept[tag] = content
                self._bytes += len(content)
            while self._bytes > self._most:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return content


def write_heat(heat: HeatMap) -> bytes:
    """Write a heat map as .nii.gz of bytes, three to a cell's side: 0 at its median and below, 255 where it is highest.

    Between the middles of cells it runs evenly: cells are coarse, and viewers show their overlays as hard blocks.
    """
    floor = float(np.median(heat.values))
    shares = (heat.values - floor) / max(float(heat.values.max()) - floor, 1e-6)
    fine = ndimage.zoom(shares.clip(0, 1), _FINER, order=1, mode="nearest", grid_mode=True)
    affine = heat.affine.copy()
    affine[:3, :3] /= _FINER
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, (_FINER - 1) / 2)
    return gzip.compress(nib.Nifti1Image(np.rint(255 * fine).astype(np.uint8), affine).to_bytes(), mtime=0)


def tag_of(path: Path, *what: object) -> str:
    """Name a picture by its file, the file's state, and what is shown.

    Raises:
        DatasetError: the file has gone.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DatasetError("the volume of this case has gone from the server's disk; index the case again") from error
    whole = repr((str(path), status.st_mtime_ns, status.st_size, *what))
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def open_volume(path: Path) -> Volume:
    """Map a standardised volume from disk: axes along RAS+, as ``medfinder.volume.write_nifti`` wrote them.

    Raises:
        DatasetError: it has gone or is damaged.
    """
    try:
        image: Any = nib.load(path, mmap="r")
        return Volume(np.asanyarray(image.dataobj), np.asarray(image.affine, np.float64))
    except (OSError, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise DatasetError("the volume of this case is gone or damaged; index the case again") from error


def _check(plane: str, window: str, size: int) -> None:
    if plane not in PLANES:
        raise ConfigError(f"unknown plane {plane[:20]!r}; known: {', '.join(PLANES)}")
    if window not in WINDOWS:
        raise ConfigError(f"unknown window {window[:20]!r}; known: {', '.join(WINDOWS)}")
    if size not in SIZES:
        raise ConfigError(f"size {size}; expected {SIZES.start} to {SIZES.stop - 1} pixels")


def _same_place(volume: Volume, shown: Volume, plane: str, number: int) -> int:
    """Find the slice of a finer copy that is nearest to the middle of a slice of the standardised volume.

    A standardised volume is filled up with air where the CT ended: there the copy's last slice is nearest.
    """
    axis = PLANES[plane]
    if not 0 <= number < volume.shape[axis]:
        raise ConfigError(f"{plane} slice {number}; this case has 0 to {volume.shape[axis] - 1}")
    middle_mm = volume.affine[axis, 3] + number * volume.affine[axis, axis]
    nearest = round(float((middle_mm - shown.affine[axis, 3]) / shown.affine[axis, axis]))
    return min(max(nearest, 0), shown.shape[axis] - 1)


def _draw(volume: Volume, plane: str, number: int, window: str, size: int) -> bytes:
    axis = PLANES[plane]
    others = [other for other in range(3) if other != axis]
    # Columns run along the first of the other axes, rows along the second, both against it.
    rows_first: NDArray[np.generic] = np.take(volume.hu, number, axis=axis)[::-1, ::-1].T
    columns_mm, rows_mm = (volume.shape[one] * volume.spacing_mm[one] for one in others)
    scale = size / max(columns_mm, rows_mm)
    shape = (max(1, round(columns_mm * scale)), max(1, round(rows_mm * scale)))
    hu = Image.fromarray(np.ascontiguousarray(rows_first, dtype=np.float32)).resize(shape, Image.Resampling.BICUBIC)
    jpeg = io.BytesIO()
    Image.fromarray(apply_window(np.asarray(hu), *WINDOWS[window])).save(jpeg, "JPEG", quality=_QUALITY)
    return jpeg.getvalue()


def _draw_thumbnail(volume: Volume, shown: Volume, place: int) -> bytes:
    _, heights, front = choose_slices(volume)
    plane, number = (("axial", heights[1]), ("coronal", front), ("sagittal", volume.shape[0] // 3))[place]
    number = _same_place(volume, shown, plane, number)
    return _draw(shown, plane, number, "lung" if place == 0 else "mediastinum", THUMBNAIL)


def _shrink(volume: Volume) -> bytes:
    """Average blocks of n x n voxels of each axial slice."""
    factor = -(-max(volume.shape[:2]) // PREVIEW_SIDE)
    hu = np.asarray(volume.hu)
    affine = volume.affine.copy()
    if factor > 1:
        x, y, z = (volume.shape[0] // factor, volume.shape[1] // factor, volume.shape[2])
        blocks = hu[: x * factor, : y * factor].reshape(x, factor, y, factor, z)
        hu = blocks.mean(axis=(1, 3), dtype=np.float32)
        affine[:3, 3] += affine[:3, :2].sum(axis=1) * (factor - 1) / 2
        affine[:3, :2] *= factor
    image = nib.Nifti1Image(np.round(hu).astype(np.int16), affine)
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
