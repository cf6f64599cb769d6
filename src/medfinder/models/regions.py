"""Where the findings of phantoms lie, on the token map of the image encoder.

In: a dataset made from a phantoms folder, and that folder with its masks. Out: for each case the (token, label) pairs
where a finding's mask touches a token's box. Refused: a folder without the masks of these cases.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from medfinder.curation.dataset import Dataset
from medfinder.errors import ConfigError
from medfinder.models.labels import labels_of
from medfinder.records import Case, Dropped
from medfinder.sources.phantoms_folder import read


def read_regions(
    dataset: Dataset,
    cases: Sequence[Case],
    phantoms: Path,
    labels: Sequence[str],
    tokens: tuple[int, int, int],
) -> list[np.ndarray]:
    """Find for each case the tokens that each of its labels touches.

    Args:
        phantoms: the folder that the dataset was curated from; bit i of a mask is the study's finding i.
        tokens: boxes of the token map along x, y, z; together they cover the grid.

    Returns:
        One int32 array (pairs, 2) a case: number of the token (x slowest), number of the label.

    Raises:
        ConfigError: a case has no mask in the folder.
    """
    paths = mask_paths(phantoms)
    number = {label: place for place, label in enumerate(labels)}
    return [_pairs(dataset, case, paths.get(case.case_id), number, tokens) for case in cases]


def mask_paths(phantoms: Path) -> dict[str, Path]:
    """Find the mask of each case in a phantoms folder, by case id; the files may be absent."""
    paths = {}
    for study in read(phantoms):
        if isinstance(study, Dropped):
            continue
        for series in study.series:
            # The case id as curation makes it.
            told = f"{study.source}\0{study.study_id}\0{series.series_id}"
            case_id = hashlib.sha256(told.encode()).hexdigest()[:16]
            paths[case_id] = phantoms / "masks" / series.path.name
    return paths


def _pairs(
    dataset: Dataset, case: Case, path: Path | None, number: dict[str, int], tokens: tuple[int, int, int]
) -> np.ndarray:
    if path is None or not path.is_file():
        raise ConfigError(f"no mask of case {case.case_id}; give the phantoms folder that the dataset was curated from")
    stored = nib.nifti1.Nifti1Image.from_filename(path)
    mask = np.asanyarray(stored.dataobj)
    voxels = np.argwhere(mask)
    bits = mask[tuple(voxels.T)].astype(np.uint32)
    grid_affine = nib.nifti1.Nifti1Image.from_filename(dataset.path / case.volume).affine
    onto_grid = np.linalg.inv(grid_affine) @ stored.affine
    place = voxels @ onto_grid[:3, :3].T + onto_grid[:3, 3]
    box = np.asarray(dataset.grid.shape) / tokens
    token = np.floor((place + 0.5) / box).astype(int)
    inside = ((token >= 0) & (token < tokens)).all(1)
    flat = np.ravel_multi_index(tuple(token[inside].T), tokens)
    bits = bits[inside]
    pairs = set()
    for place_of_finding, finding in enumerate(case.findings):
        touched = np.unique(flat[bits >> np.uint32(place_of_finding) & np.uint32(1) == 1])
        for label in labels_of([finding]):
            if label in number:
                pairs |= {(int(t), number[label]) for t in touched}
    return np.array(sorted(pairs), np.int32).reshape(-1, 2)
