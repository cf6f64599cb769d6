"""Write phantoms to a folder: a study at a time, in a process pool, resumable.

In: a number of studies, a seed, a matrix size. Out: ``studies.jsonl`` (one ``Study`` a line, paths relative),
``volumes/``, ``masks/`` (uint32, bit i: finding i), ``provenance.json``, ``README.md``. Same bytes for any number of
workers. A study that is there whole is not made again. Refused: a folder that holds something else, or phantoms of
another seed or size.
"""

import gzip
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt

from medfinder import __version__
from medfinder.errors import ConfigError, MedFinderError
from medfinder.records import Series, Study
from medfinder.sources.phantoms.plan import StudyPlan, VolumePlan, draw_study
from medfinder.sources.phantoms.render import Rendered, render
from medfinder.sources.phantoms.report import write_report
from medfinder.sources.phantoms_folder import KIND
from medfinder.workers import open_pool

Progress = Callable[[int, int], None]

_PROVENANCE = "provenance.json"
_STUDIES = "studies.jsonl"

# Raised when the same seed gives other voxels or reports than before.
GENERATOR = 2

# Stream of the study's seed from which its report is written.
_REPORT = 6

_README = """# Synthetic chest CT studies

SYNTHETIC: computed by medfinder's phantom generator; no patient stands behind any of them. Not for diagnosis.

{studies} studies, seed {seed}, {size} voxels along each axis. `studies.jsonl` holds a study a line, with its findings
(the truth) and its report in Spanish and English; `volumes/` the CTs; `masks/` where each finding shows: bit i of a
voxel stands for the study's finding i.

Made by: `medfinder phantoms OUT --cases {studies} --seed {seed} --size {size}`
"""


def write_phantoms(
    out: Path, *, studies: int, seed: int, size: int = 64, workers: int = 1, progress: Progress | None = None
) -> None:
    """Write the first ``studies`` phantoms of a seed.

    Args:
        progress: told (done, total) studies.

    Raises:
        ConfigError: ``out`` holds something else.
    """
    settings = {"kind": KIND, "generator": GENERATOR, "seed": seed, "size": size}
    _claim(out, settings)
    lines = []
    for line in _write_all([_Job(out, number, seed, size) for number in range(studies)], workers):
        lines.append(line)
        if progress:
            progress(len(lines), studies)
    _write(out / _STUDIES, "".join(lines).encode())
    _write(out / "README.md", _README.format(studies=studies, seed=seed, size=size).encode())
    _write(out / _PROVENANCE, _as_json({**settings, "studies": studies, "version": __version__, "is_synthetic": True}))


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Make the folder ours, or find that it is ours already."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; give a folder")
    if not out.exists() or not any(out.iterdir()):
        for name in ("volumes", "masks"):
            (out / name).mkdir(parents=True, exist_ok=True)
        _write(out / _PROVENANCE, _as_json(settings))
        return
    try:
        found = json.loads((out / _PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise ConfigError(f"{out} holds something else than phantoms; give an empty or new folder")
    for key, value in settings.items():
        if found.get(key) != value:
            raise ConfigError(
                f"{out} holds phantoms with {key} {found.get(key)}, asked was {value}; give an empty or new folder"
            )


class _Job(NamedTuple):
    out: Path
    number: int
    seed: int
    size: int


def _write_study(job: _Job) -> str:
    """Write one study and return its line; what is there already is kept."""
    out, plan = job.out, draw_study(job.number, seed=job.seed, size=job.size)
    for volume in plan.volumes:
        path, masks = _places(plan, volume)
        if not ((out / path).is_file() and (out / masks).is_file()):
            rendered = render(plan, volume)
            _write(out / masks, _mask_file(rendered, volume))
            # The volume comes last: where it stands, its masks do too.
            _write(out / path, _volume_file(rendered, volume))
    return _as_line(plan)


def _places(plan: StudyPlan, volume: VolumePlan) -> tuple[Path, Path]:
    name = f"{plan.study_id}_{volume.series_id}.nii.gz"
    return Path("volumes") / name, Path("masks") / name


def _as_line(plan: StudyPlan) -> str:
    report = write_report(
        findings=plan.findings,
        sex=plan.patient.sex,
        age_years=plan.patient.age_years,
        contrast=plan.contrast,
        rng=np.random.default_rng([plan.seed, _REPORT]),
    )
    study = Study(
        study_id=plan.study_id,
        patient_id=plan.patient.patient_id,
        source="phantoms",
        series=tuple(Series(volume.series_id, _places(plan, volume)[0]) for volume in plan.volumes),
        report=report.spanish,
        report_language="es",
        report_en=report.english,
        findings=plan.findings,
        age_years=plan.patient.age_years,
        sex=plan.patient.sex,
        date_offset_days=plan.date_offset_days,
        is_synthetic=True,
    )
    return json.dumps(asdict(study), ensure_ascii=False, default=str) + "\n"


def _volume_file(rendered: Rendered, plan: VolumePlan) -> bytes:
    """Store HU as a scanner does: moved by the intercept, in the plan's axis order."""
    stored = np.asarray(rendered.volume.hu, np.int16) - np.int16(plan.intercept)
    return _nifti(stored, rendered.volume.affine, plan, intercept=plan.intercept)


def _mask_file(rendered: Rendered, plan: VolumePlan) -> bytes:
    return _nifti(rendered.masks, rendered.volume.affine, plan, intercept=0)


def _nifti(voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64], plan: VolumePlan, *, intercept: int) -> bytes:
    turned, stored_affine = _turn(voxels, affine, plan.orientation)
    # Built without scaling, then the header is told what the stored values mean.
    header: Any = nib.Nifti1Image(turned, stored_affine).header
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["scl_slope"], header["scl_inter"] = 1.0, intercept
    # No time and no name in the gzip header: the same bytes whenever it is written.
    return gzip.compress(header.binaryblock + bytes(4) + turned.tobytes(order="F"), compresslevel=1, mtime=0)


def _turn(
    voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64], orientation: str
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Reverse the axes of a RAS+ volume that ``orientation`` (one of R/L, A/P, S/I) runs the other way."""
    affine = affine.copy()
    for axis, (code, plus) in enumerate(zip(orientation, "RAS", strict=True)):
        if code != plus:
            voxels = np.flip(voxels, axis)
            affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
            affine[:3, axis] *= -1
    return voxels, affine


def _as_json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_all(jobs: Sequence[_Job], workers: int) -> Iterator[str]:
    """Write studies, here or in a pool, and yield their lines in order."""
    if workers == 1:
        yield from map(_write_study, jobs)
        return
    with open_pool(workers) as pool:
        try:
            yield from pool.map(_write_study, jobs, chunksize=4)
        except BrokenProcessPool:
            raise MedFinderError(
                "a worker process was ended, out of memory perhaps; run again with fewer workers: what is whole is kept"
            ) from None
