"""A folder given to index or info is a dataset or it is raw: a damaged dataset is never taken for raw CTs."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medfinder.app.info import describe_path
from medfinder.app.ingest import open_or_curate
from medfinder.curation.curate import curate
from medfinder.curation.dataset import Dataset
from medfinder.curation.quality import QualitySettings
from medfinder.curation.study import CurationSettings
from medfinder.errors import ConfigError, DatasetError
from medfinder.volume import Grid

GRID = Grid(spacing_mm=(24.0, 24.0, 24.0), shape=(12, 10, 12))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    raw.mkdir()
    hu = np.random.default_rng(0).integers(-1010, -990, (24, 24, 24)).astype(np.int16)
    hu[4:20, 5:19] += 1040
    nib.save(nib.Nifti1Image(hu, np.diag([12.0, 12.0, 12.0, 1.0])), raw / "ct.nii.gz")
    settings = CurationSettings(
        grid=GRID, quality=QualitySettings(min_dimension=10), require_report=False, deidentify=False
    )
    curate(raw, tmp_path / "dataset", settings)
    assert len(Dataset.open(tmp_path / "dataset").cases) == 1
    return tmp_path / "dataset"


def unfinish(dataset: Path) -> None:
    """Leave what a curation that was killed leaves: notes and volumes, and no tables yet."""
    for name in ("cases.parquet", "dropped.parquet", "provenance.json", "README.md"):
        (dataset / name).unlink()
    (dataset / ".work").mkdir()


def test_an_unfinished_dataset_is_not_indexed_as_raw_cts(tmp_path: Path, dataset: Path) -> None:
    unfinish(dataset)
    with pytest.raises(DatasetError, match="not finished; run the same medfinder curate command again"):
        open_or_curate(dataset, beside=tmp_path / "index", grid=GRID)
    assert not (tmp_path / "index.cases").exists()


def test_a_dataset_without_provenance_is_not_indexed_as_raw_cts(tmp_path: Path, dataset: Path) -> None:
    (dataset / "provenance.json").unlink()
    with pytest.raises(DatasetError, match=r"is no dataset: .* expected provenance.json"):
        open_or_curate(dataset, beside=tmp_path / "index", grid=GRID)


def test_a_dataset_is_not_curated_again(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(ConfigError, match="is a dataset already"):
        curate(dataset, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_info_says_that_a_dataset_is_unfinished(dataset: Path) -> None:
    unfinish(dataset)
    with pytest.raises(DatasetError, match="not finished"):
        describe_path(dataset)


def test_info_lists_the_volumes_of_a_folder(tmp_path: Path, samples: Path) -> None:
    (tmp_path / "a").mkdir()
    shutil.copy(samples / "LIDC-IDRI-0314.nii.gz", tmp_path / "a" / "one.nii.gz")
    assert describe_path(tmp_path) == {"kind": "folder of volumes", "files": ["a/one.nii.gz"]}
