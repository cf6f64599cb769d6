"""Fixtures that every room shares."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medfinder.curation.dataset import CASES, DROPPED, KIND, VOLUMES, Dataset, Figures, write_cases, write_dropped
from medfinder.records import Case, Dropped

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SAMPLES = Path(__file__).resolve().parents[1] / "src" / "medfinder" / "samples"


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of the real CT volumes that the project ships."""
    return SAMPLES


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real CT volumes beside the checkout, or of the shipped ones where there is none."""
    return SHARED_DATA if SHARED_DATA.is_dir() else SAMPLES


# What the provenance of a dataset tells of its settings, as far as others read it.
_SETTINGS = {
    "grid": {"spacing_mm": [11.0, 11.0, 11.0], "shape": [32, 28, 32], "window_hu": [-1024.0, 1500.0]},
    "max_missing_share": 0.3,
    "min_dimension": 96,
    "min_dimension_synthetic": 32,
    "require_report": True,
    "min_words": 5,
    "shares": {"train": 0.7, "val": 0.1, "test": 0.2},
    "seed": 0,
}


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    """Write a dataset folder as curation leaves it: these cases, each with a small chest as its volume.

    ``figures`` holds, by case id, what differs from the figures of a clean case.
    """

    def make(
        folder: Path,
        cases: Sequence[Case],
        *,
        dropped: Sequence[Dropped] = (),
        figures: dict[str, dict[str, Any]] | None = None,
        **provenance: object,
    ) -> Dataset:
        (folder / VOLUMES).mkdir(parents=True)
        rows = []
        for number, case in enumerate(cases):
            path = folder / VOLUMES / f"{case.case_id}.nii"
            nib.save(nib.Nifti1Image(_small_chest(number), np.diag([11.0, 11.0, 11.0, 1.0])), path)
            clean = Figures(9, 0.0, 900.0, "lungs", (), hashlib.sha256(path.read_bytes()).hexdigest())
            changed = replace(clean, **(figures or {}).get(case.case_id, {}))
            rows.append((replace(case, volume=f"{VOLUMES}/{path.name}"), changed))
        write_cases(folder / CASES, rows)
        write_dropped(folder / DROPPED, dropped)
        about = {"kind": KIND, "format": 1, "source": "nifti", "settings": _SETTINGS, **provenance}
        (folder / "provenance.json").write_text(json.dumps(about), encoding="utf-8")
        return Dataset.open(folder)

    return make


def _small_chest(number: int) -> np.ndarray:
    hu = np.full((32, 28, 32), -1000, dtype=np.int16)
    hu[3:29, 6:24, 2:30] = 40 + number
    hu[6:14, 9:21, 8:26] = hu[18:26, 9:21, 8:26] = -800
    return hu
