"""Small CTs and phantoms folders for the tests of curation."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medfinder.curation.quality import QualitySettings
from medfinder.curation.study import CurationSettings
from medfinder.records import Finding, Series, Study
from medfinder.volume import Grid

SPACING_MM = 10.0


def chest(shape: tuple[int, int, int] = (32, 28, 30), *, seed: int = 0) -> np.ndarray:
    """Make a block of soft tissue with two ellipsoids of lung, noise over all of it, in HU."""
    rng = np.random.default_rng(seed)
    x, y, z = (
        np.linspace(0, 1, n)[tuple(slice(None) if i == j else None for j in range(3))] for i, n in enumerate(shape)
    )
    hu = np.where((np.abs(x - 0.5) < 0.4) & (np.abs(y - 0.5) < 0.4) & (z >= 0), 40.0, -1000.0)
    across = ((np.abs(x - 0.5) - 0.2) / 0.17) ** 2 + ((y - 0.5) / 0.3) ** 2
    lung = across + ((z - 0.5) / 0.42) ** 2 < 1
    noisy = np.where(lung, -800.0, hu) + rng.normal(0, 15, shape)
    return np.asarray(noisy.round(), np.int16)


def save(path: Path, hu: np.ndarray, *, spacing_mm: float = SPACING_MM) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(hu, np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])), path)
    return path


@pytest.fixture
def make_chest() -> Callable[..., np.ndarray]:
    return chest


@pytest.fixture
def save_volume() -> Callable[..., Path]:
    return save


@pytest.fixture
def settings() -> CurationSettings:
    """The paper's filters on a tiny grid; small volumes pass."""
    grid = Grid(spacing_mm=(24.0, 24.0, 24.0), shape=(12, 10, 12))
    return CurationSettings(
        grid=grid, quality=QualitySettings(min_dimension=16, min_dimension_synthetic=16), deidentify=False
    )


@pytest.fixture
def make_phantoms() -> Callable[..., Path]:
    """Write a phantoms folder of ``studies`` studies, two of each patient, one with two series."""

    def make(folder: Path, *, studies: int = 8, faults: bool = False) -> Path:
        lines = [_study(folder, number) for number in range(studies)]
        if faults:
            lines[1]["report"] = lines[1]["report_en"] = None
            (folder / lines[2]["series"][0]["path"]).write_bytes(b"PK\x03\x04 not a volume")
            save(folder / lines[3]["series"][0]["path"], chest((32, 28, 15)))
        (folder / "studies.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return folder

    return make


def _study(folder: Path, number: int) -> dict[str, Any]:
    paths = [Path("volumes") / f"s{number}_{one}.nii.gz" for one in range(2 if number == 0 else 1)]
    for one, path in enumerate(paths):
        save(folder / path, chest(seed=100 * number + one))
    name = ("mass", "pleural effusion", "emphysema")[number % 3]
    study = Study(
        study_id=f"phantom-0-s{number:05d}",
        patient_id=f"phantom-0-p{number // 2:05d}",
        source="phantoms",
        series=tuple(Series(str(one), path) for one, path in enumerate(paths)),
        report="tc torax sin contraste . hallazgos descritos .",
        report_language="es",
        report_en=f"Chest CT shows a finding: {name}.",
        findings=(Finding(name, laterality="left"),),
        age_years=50 + number % 30,
        sex="F",
        date_offset_days=0,
        is_synthetic=True,
    )
    plain: dict[str, Any] = json.loads(json.dumps(asdict(study), default=str))
    return plain


@pytest.fixture
def folder_bytes() -> Callable[[Path], dict[str, bytes]]:
    """Read every file of a folder, by its name in it."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (file for file in folder.rglob("*") if file.is_file())
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}

    return read
