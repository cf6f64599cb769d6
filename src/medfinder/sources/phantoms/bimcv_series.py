"""The files of one session: a rendered phantom becomes its series, with their faults, as NIfTI and DICOM JSON.

In: a ``SessionPlan`` and the rendered volume (HU, RAS+). Out: one folder with ``mod-rx`` and the scans table. All
arithmetic on voxels is on whole numbers, so that every machine writes the same bytes. Nothing is refused.
"""

import gzip
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medfinder.sources.phantoms.bimcv_plan import AXIAL, SeriesPlan, SessionPlan, make_study_uid
from medfinder.sources.phantoms.bimcv_tables import write_table
from medfinder.volume.types import Affine, Array, Volume, spacing_of

HU_RANGE = (-1024, 3071)
"""A 12-bit CT (DICOM PS3.3, C.8.2.1)."""

PADDING_STORED = -2000
THICK_MM, MPR_MM, MIP_MM = 5.0, 3.0, 8.0
"""Slab thickness of what is made of thin slices; ours, usual at the workstation."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Voxels and affine as a ``Volume`` has them, but unchecked: faulty headers and single slices are wanted here."""

    hu: Array
    affine: Affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along x, y, z."""
        return spacing_of(self.affine)


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


def write_session(plan: SessionPlan, chest: Volume, tall: Volume, folder: Path) -> None:
    """Write the images, side files and scans table of one session into an empty folder.

    Args:
        tall: the same patient down to the pelvis, of which abdomens are cut.
    """
    images = folder / "mod-rx"
    images.mkdir()
    whole = Stack(chest.hu, chest.affine)
    for series in plan.series:
        source = _cut_abdomen(Stack(tall.hu, tall.affine)) if "abdomen" in series.faults else whole
        _write_series(plan, series, source, images)
    for number, stem in enumerate(plan.xrays):
        (images / f"{stem}.png").write_bytes(encode_png(project_xray(whole)))
        _write_json(describe_xray(plan, stem, number), images / f"{stem}.json")
    rows = [(f"mod-rx/{stem}.nii.gz", "ct", "chest") for stem in (series.stem for series in plan.series)]
    rows += [(f"mod-rx/{stem}.png", stem.rsplit("_", 1)[1], "chest") for stem in plan.xrays]
    write_table(folder / f"{plan.stem}_scans.tsv", ("filename", "modality", "body_part"), rows)


def _write_series(plan: SessionPlan, series: SeriesPlan, whole: Stack, images: Path) -> None:
    rng = np.random.default_rng(series.seed)
    ideal = derive(series, whole)
    faulty = spoil(series, ideal, rng)
    stored, affine = turn_to(series.axes, store(series, faulty.hu), faulty.affine)
    if "missing-side-file" not in series.faults:
        _write_json(describe_series(plan, series, ideal, stored), images / f"{series.stem}.json")
    path = images / f"{series.stem}.nii.gz"
    variant = dict(series.details).get("empty")
    if variant == "no bytes":
        path.write_bytes(b"")
        return
    if variant == "all zero":
        stored = np.zeros_like(stored)
    if series.kind == "dose-report":
        stored = _draw_screen(stored.shape[:2], rng)
    elif "rgb" in series.faults:
        stored = _colour(stored, series.scanner.intercept)
    slope_in_header = 0 if stored.dtype == RGB or "raw-values" in series.faults else 1
    intercept = series.scanner.intercept if slope_in_header else 0
    voxels = None if variant == "no voxels" else stored
    write_stored(path, voxels, stored.shape, stored.dtype, affine, slope=slope_in_header, intercept=intercept)


# ------------------------------------------------------------------------------------------- one volume, many series


def derive(series: SeriesPlan, whole: Stack) -> Stack:
    """Make a series' voxels, faultless, from the rendered volume.

    Returns:
        HU, RAS+ order whatever the series' own plane is.
    """
    stack = Stack(sharpen(whole.hu), whole.affine) if series.kernel == "lung" else whole
    x_mm, y_mm, z_mm = whole.spacing_mm
    if series.kind == "axial-thick":
        return _average_slabs(stack, 2, _slices_per_slab(THICK_MM, z_mm, whole.hu.shape[2]))
    if series.kind == "mip":
        return _maximum_slabs(stack, 2, _slices_per_slab(MIP_MM, z_mm, whole.hu.shape[2]))
    if series.kind == "mpr-coronal":
        return _average_slabs(stack, 1, max(1, round(MPR_MM / y_mm)))
    if series.kind == "mpr-sagittal":
        return _average_slabs(stack, 0, max(1, round(MPR_MM / x_mm)))
    if series.kind == "localizer":
        axis = 0 if series.axes == "ASL" else 1
        return _average_slabs(stack, axis, whole.hu.shape[axis])
    return Stack(stack.hu[:, :, :1], stack.affine) if series.kind == "dose-report" else stack


def _slices_per_slab(wanted_mm: float, spacing_mm: float, count: int) -> int:
    """Count the slices of a slab: two at least, yet leaving ten slabs where there are twenty slices."""
    return max(2, min(round(wanted_mm / spacing_mm), count // 10))


def _average_slabs(stack: Stack, axis: int, thickness: int) -> Stack:
    """Average every ``thickness`` slices across an axis; what is left over at the end is dropped."""
    slabs = _cut_slabs(stack.hu, axis, thickness)
    means = [slab.sum(axis=axis, dtype=np.int32) // thickness for slab in slabs]
    return Stack(np.stack(means, axis).astype(np.int16), _slab_affine(stack.affine, axis, thickness))


def _maximum_slabs(stack: Stack, axis: int, thickness: int) -> Stack:
    """Project the brightest of every ``thickness`` slices across an axis."""
    slabs = _cut_slabs(stack.hu, axis, thickness)
    return Stack(np.stack([slab.max(axis=axis) for slab in slabs], axis), _slab_affine(stack.affine, axis, thickness))


def _cut_slabs(hu: Array, axis: int, thickness: int) -> list[Array]:
    count = hu.shape[axis] // thickness
    return [hu.take(range(n * thickness, (n + 1) * thickness), axis=axis) for n in range(count)]


def _slab_affine(affine: Affine, axis: int, thickness: int) -> Affine:
    slabs = affine.copy()
    slabs[:3, 3] += affine[:3, axis] * (thickness - 1) / 2
    slabs[:3, axis] *= thickness
    return slabs


def sharpen(hu: Array) -> Array:
    """Sharpen within each slice as a lung kernel does: edges overshoot and noise grows.

    Unsharp mask with a 3 x 3 box, on whole numbers. Strength 2 is ours: it about doubles the noise of a soft kernel,
    as a lung kernel does at least.
    """
    out = np.empty(hu.shape, np.int16)
    for z in range(hu.shape[2]):
        edged = np.pad(hu[:, :, z].astype(np.int32), 1, mode="edge")
        rows = edged[:-2] + edged[1:-1] + edged[2:]
        box = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
        middle = edged[1:-1, 1:-1]
        out[:, :, z] = np.clip(middle + 2 * (9 * middle - box) // 9, *HU_RANGE)
    return out


# ------------------------------------------------------------------------------------------------------------- faults


def spoil(series: SeriesPlan, stack: Stack, rng: np.random.Generator) -> Stack:
    """Put the faults of voxels and geometry into a series; those of the file alone come when it is written."""
    hu, affine = stack.hu, stack.affine.copy()
    faults = set(series.faults)
    if "few-slices" in faults:
        count = 3 + int(rng.integers(7))
        first = max(0, (hu.shape[2] - count) // 2)
        hu = hu[:, :, first : first + count]
        affine[:3, 3] += affine[:3, 2] * first
    if "z-gaps" in faults:
        hu = np.delete(hu, _draw_gaps(hu.shape[2], rng), axis=2)
    if "upside-down" in faults:
        hu = hu[:, :, ::-1]
    if "z-spacing-is-field-of-view" in faults:
        is_width = dict(series.details)["z-spacing-is-field-of-view"] == "width of the slice"
        axis = 0 if is_width else 2
        affine[:3, 2] *= stack.spacing_mm[axis] * hu.shape[axis] / stack.spacing_mm[2]
    return Stack(hu, affine)


def _cut_abdomen(tall: Stack) -> Stack:
    """Keep what lies below the lungs: slices with less than a fiftieth of the widest one's lung.

    A voxel counts as lung when its four neighbours in the slice do too: the skin's soft edge has lung's HU.
    """
    air = (tall.hu > -950) & (tall.hu < -600)
    inner = air[1:-1, 1:-1] & air[:-2, 1:-1] & air[2:, 1:-1] & air[1:-1, :-2] & air[1:-1, 2:]
    lung = inner.sum(axis=(0, 1))
    first = int(np.argmax(50 * lung > lung.max()))
    return Stack(tall.hu[:, :, : max(first, 2)], tall.affine)


def _draw_gaps(count: int, rng: np.random.Generator) -> list[int]:
    """Draw runs of slices to lose: one to three, a sixth of the stack at most in all, none at the ends."""
    lost: set[int] = set()
    for _ in range(1 + int(rng.integers(3))):
        first = 2 + int(rng.integers(max(1, count - 6)))
        lost |= set(range(first, min(first + 1 + int(rng.integers(max(1, count // 18))), count - 2)))
    return sorted(lost)


def store(series: SeriesPlan, hu: Array) -> Array:
    """Turn HU into stored values, padding included."""
    stored = (hu.astype(np.int32) - series.scanner.intercept).astype(np.int16)
    if "padding" in series.faults:
        x, y = hu.shape[:2]
        # Doubled coordinates keep the circle on whole numbers.
        across = (2 * np.arange(x) - x + 1)[:, None] ** 2 + (2 * np.arange(y) - y + 1)[None, :] ** 2
        stored[across > min(x, y) ** 2] = PADDING_STORED
    return stored


def _colour(stored: Array, intercept: int) -> Array:
    """Colour a series as a workstation's colour map does."""
    grey = np.clip((stored.astype(np.int32) + intercept + 1024) * 255 // 2047, 0, 255)
    out = np.empty(stored.shape, RGB)
    out["R"], out["G"], out["B"] = grey, grey * grey // 255, 255 - grey
    return out


def _draw_screen(shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Draw a page of a dose report: light bars for its lines of text on black."""
    out = np.zeros((*shape, 1), RGB)
    for line in range(3, shape[1] - 3, 4):
        width = 2 + int(rng.integers(max(1, shape[0] - 6)))
        for channel in RGB.names or ():
            out[channel][2:width, line : line + 2] = 220
    return out


# -------------------------------------------------------------------------------------------------------------- files


def turn_to(axes: str, voxels: Array, affine: Affine) -> tuple[Array, Affine]:
    """Turn a RAS+ array and its affine so that the stored axes point as told, e.g. ``"LAS"``."""
    turn = nib.orientations.axcodes2ornt(axes)
    # From RAS+ to the wanted axes: the inverse of what brings those to RAS+.
    there = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), turn)
    turned = nib.orientations.apply_orientation(voxels, there)
    return turned, affine @ nib.orientations.inv_ornt_aff(there, voxels.shape)


def write_stored(
    path: Path,
    voxels: Array | None,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    affine: Affine,
    *,
    slope: float,
    intercept: float,
) -> None:
    """Write stored values as .nii.gz, with the rescale in the header or not (slope 0: none told, NIfTI-1 scl_slope).

    Args:
        voxels: None leaves the file without any.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(tuple(shape))
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1, strip_shears=True)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = slope, intercept
    header["magic"], header["vox_offset"] = b"n+1", 352
    with path.open("wb") as file, gzip.GzipFile("", "wb", 3, file, mtime=0) as packed:
        packed.write(header.binaryblock + bytes(4))
        for z in range(shape[2] if voxels is not None else 0):
            packed.write(voxels[:, :, z].tobytes(order="F"))  # type: ignore[index]  # range(0) where it is None


def project_xray(whole: Stack) -> Array:
    """Project a volume from the front into a grey image (rows, columns), the patient's right on the left."""
    tissue = np.clip(whole.hu.astype(np.int32) + 1000, 0, 2000).sum(axis=1) // whole.hu.shape[1]
    low, high = int(tissue.min()), int(tissue.max())
    grey = (tissue - low) * 255 // max(1, high - low)
    turned: Array = grey[::-1, ::-1].T.astype(np.uint8)
    return turned


def encode_png(grey: Array) -> bytes:
    """Encode an 8-bit grey image as PNG (ISO/IEC 15948), without a library."""
    rows, columns = grey.shape
    lines = np.zeros((rows, columns + 1), np.uint8)
    lines[:, 1:] = grey
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


# --------------------------------------------------------------------------------------------------------- side files


def _write_json(tags: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(tags, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def describe_series(plan: SessionPlan, series: SeriesPlan, ideal: Stack, stored: Array) -> dict[str, Any]:
    """Describe a series as DICOM JSON (PS3.18, F): {tag: {vr, Value}}."""
    scanner = series.scanner
    across = "RLAPSI"
    order = [across.index(code) // 2 for code in series.axes]
    spacing = [round(ideal.spacing_mm[axis], 6) for axis in order]
    tags = _describe_patient(plan) | {
        "00080008": _tag("CS", *_image_type(series)),
        "00080016": _tag("UI", "1.2.840.10008.5.1.4.1.1.7" if series.is_colour else "1.2.840.10008.5.1.4.1.1.2"),
        "00080060": _tag("CS", "CT"),
        "00080070": _tag("LO", scanner.manufacturer),
        "0008103E": _tag("LO", _series_description(series)),
        "00081090": _tag("LO", scanner.model),
        "00180015": _tag("CS", "CHEST"),
        "00185100": _tag("CS", "FFS" if series.is_feet_first else "HFS"),
        "0020000E": _tag("UI", series.uid),
        "00200011": _tag("IS", series.number),
        "00201002": _tag("IS", ideal.hu.shape[order[2]]),
        "00280002": _tag("US", 3 if series.is_colour else 1),
        "00280004": _tag("CS", "RGB" if series.is_colour else "MONOCHROME2"),
        "00280010": _tag("US", int(stored.shape[1])),
        "00280011": _tag("US", int(stored.shape[0])),
        "00280030": _tag("DS", spacing[1], spacing[0]),
    }
    if series.is_colour:
        return tags
    tags |= {
        "00180050": _tag("DS", spacing[2]),
        "00180060": _tag("DS", 120),
        "00281052": _tag("DS", scanner.intercept),
        "00281053": _tag("DS", 1),
        "00281054": _tag("LO", "HU"),
    }
    if series.kind != "localizer":
        tags["00180088"] = _tag("DS", spacing[2])
        tags["00181210"] = _tag("SH", scanner.lung_kernel if series.kernel == "lung" else scanner.soft_kernel)
    if "padding" in series.faults:
        tags["00280120"] = _tag("SS", PADDING_STORED)
    return tags


def describe_xray(plan: SessionPlan, stem: str, number: int) -> dict[str, Any]:
    """Describe a radiograph as DICOM JSON."""
    kind = stem.rsplit("_", 1)[1].upper()
    return _describe_patient(plan) | {
        "00080008": _tag("CS", "ORIGINAL", "PRIMARY"),
        "00080060": _tag("CS", kind),
        "00180015": _tag("CS", "CHEST"),
        "00185101": _tag("CS", "PA"),
        "00200011": _tag("IS", 100 + number),
        "00280004": _tag("CS", "MONOCHROME2"),
    }


def _describe_patient(plan: SessionPlan) -> dict[str, Any]:
    patient = plan.study.patient
    date = plan.date.strftime("%Y%m%d")
    return {
        "00080020": _tag("DA", date),
        "00080021": _tag("DA", date),
        "00100020": _tag("LO", plan.subject.removeprefix("sub-")),
        "00100040": _tag("CS", patient.sex),
        "00101010": _tag("AS", f"{patient.age_years:03d}Y"),
        "0020000D": _tag("UI", make_study_uid(plan)),
        "00200010": _tag("SH", plan.session.removeprefix("ses-")),
    }


def _tag(vr: str, *values: object) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)}


def _image_type(series: SeriesPlan) -> tuple[str, ...]:
    if series.has_plain_tags:
        return ("DERIVED", "SECONDARY")
    if series.kind in AXIAL:
        return ("ORIGINAL", "PRIMARY", "AXIAL")
    if series.kind == "localizer":
        return ("ORIGINAL", "PRIMARY", "LOCALIZER")
    if series.kind == "dose-report":
        return ("DERIVED", "SECONDARY", "SCREEN SAVE")
    words = series.scanner.mip_words if series.kind == "mip" else series.scanner.mpr_words
    return ("DERIVED", "SECONDARY", *words)


def _series_description(series: SeriesPlan) -> str:
    if series.has_plain_tags:
        return "TORAX"
    words = {
        "axial-thin": "TORAX FINO",
        "axial-thick": "TORAX 5.0",
        "mpr-coronal": "TORAX COR",
        "mpr-sagittal": "TORAX SAG",
        "mip": "TORAX MIP",
        "localizer": "TOPOGRAMA",
        "dose-report": "INFORME DE DOSIS",
    }[series.kind]
    return f"{words} PULMON" if series.kernel == "lung" else words
